"""Steps of a dataset: their order, how they are dealt out, what they hold, and who makes them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import dataloader

from tumble import data
from tumble.batch import Batch, Properties, collate
from tumble.data import order
from tumble.data.maker import Entry, Maker
from tumble.data.order import deal, in_steps, n_steps, ordered
from tumble.data.views import View
from tumble.data.workers import Parcel

CPU = torch.device("cpu")


def dataset_of(atoms, labels=None):
    known = [Properties() for _ in atoms] if labels is None else labels
    return data.Dataset(list(atoms), known, [f"made:{k}" for k in range(len(atoms))])


def mixed(n=10):
    """Crystals with a stress and without forces, and molecules with forces."""
    random, atoms, labels = np.random.default_rng(0), [], []
    for k in range(n):
        is_crystal = k % 3 == 0
        one = bulk("NaCl", "rocksalt", a=5.6, cubic=True) if is_crystal else molecule(("H2O", "CH4")[k % 2])
        one.rattle(0.05, seed=k)
        one.info |= {"config_weight": 1 + k / 8, "config_type": "solid" if is_crystal else "gas"}
        atoms.append(one)
        labels.append(
            Properties(
                torch.tensor(-20.0 - k, dtype=torch.float64) if k % 5 else None,
                None if is_crystal else torch.from_numpy(random.normal(size=(len(one), 3))),
                torch.from_numpy(random.normal(size=(3, 3))) if is_crystal else None,
            )
        )
    return dataset_of(atoms, labels)


def atoms_of(sizes):
    """Chains of so many atoms each, 1.5 Å apart: n has 2 (n - 1) pairs within 2 Å."""
    return [Atoms(f"H{n}", np.arange(n)[:, None] * [1.5, 0.0, 0.0]) for n in sizes]


def same(some, others):
    """Whether tensors, or what is in place of one, are equal; NaN equals NaN."""
    return all(
        one is other or (one.dtype == other.dtype and torch.equal(one.nan_to_num(9), other.nan_to_num(9)))
        for one, other in zip(some, others, strict=True)
    )


def same_steps(some, others):
    some, others = list(some), list(others)
    return len(some) == len(others) and all(
        (a.members, a.dataset, len(a.parts)) == (b.members, b.dataset, len(b.parts))
        and all(
            x[3:] == y[3:] and same((*x.batch, *x.labels, x.weights), (*y.batch, *y.labels, y.weights))
            for x, y in zip(a.parts, b.parts, strict=True)
        )
        for a, b in zip(some, others, strict=True)
    )


# --------------------------------------------------------------------------------------------------------------- order


def test_the_loader_gives_the_batches_that_collate_would():
    dataset = mixed()
    loader = data.Loader(dataset, 3.5, atoms_per_batch=12, dtype=torch.float32, seed=1)
    assert len(loader) == len(loader.step_members(0))
    for members, step in zip(loader.step_members(2), loader.epoch(2), strict=True):
        (part,) = step.parts
        assert step.members == part.members == members
        assert (step.dataset, part.places) == (0, list(range(len(members))))
        batch, labels = part.batch, part.labels
        assert same(batch, collate([dataset.atoms[i] for i in members], 3.5, dtype=torch.float32))
        assert labels.energy.dtype == torch.float64
        assert labels.forces.dtype == labels.stress.dtype == part.weights.dtype == torch.float32
        assert labels.stress.shape == (len(members), 3, 3)
        for row, i in enumerate(members):
            known, n = dataset.labels[i], len(dataset.atoms[i])
            energy, forces, stress = labels.energy[row], labels.forces[batch.structure == row], labels.stress[row]
            assert bool(energy.isnan()) if known.energy is None else energy == known.energy
            assert forces.shape == (n, 3)
            assert bool(forces.isnan().all()) if known.forces is None else torch.equal(forces, known.forces.float())
            assert bool(stress.isnan().all()) if known.stress is None else torch.equal(stress, known.stress.float())


def test_every_epoch_sees_every_structure_once_in_another_order():
    dataset = mixed()
    loader = data.Loader(dataset, 3.5, atoms_per_batch=12)
    epochs = [[i for members in loader.step_members(n) for i in members] for n in range(4)]
    assert all(sorted(epoch) == list(range(len(dataset))) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    calm = data.Loader(dataset, 3.5, atoms_per_batch=12, shuffle=False)
    assert [i for members in calm.step_members(7) for i in members] == list(range(len(dataset)))


def test_an_epoch_resumes_at_a_step_exactly():
    def loader():
        return data.Loader(mixed(), 3.5, atoms_per_batch=12, seed=5)

    whole = list(loader().epoch(3))
    assert same_steps(whole[2:], loader().epoch(3, start=2))
    assert list(loader().epoch(3, start=len(whole))) == []


def test_a_dataset_without_any_stress_has_none_in_its_batches():
    (step,) = data.Loader(dataset_of([molecule("H2O")] * 3), 3.0).epoch(0)
    labels = step.parts[0].labels
    assert labels.stress is None
    assert bool(labels.energy.isnan().all() and labels.forces.isnan().all())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(1, 500), st.integers(0, 99), st.integers(1, 50)
)
def test_steps_are_cut_out_of_a_permutation_where_its_running_sum_says(sizes, limit, seed, block):
    """The definition, written out: what a recipe's seed means must not change."""
    costs = np.array(sizes)
    permutation = np.random.default_rng([seed, 3]).permutation(len(costs))
    n = -(-len(costs) // max(1, int(limit / costs.mean())))
    total = np.cumsum(costs[permutation])
    cuts = np.searchsorted(total, total[-1] * np.arange(1, n) / n + 1e-9 * total[-1], side="right")
    for k in range(n - 1):
        cuts[k] = min(max(cuts[k], cuts[k - 1] + 1 if k else 1), len(costs) - (n - 1 - k))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "BLOCK", block)
        assert n_steps(costs, limit) == n
        steps = in_steps(ordered(len(costs), [seed, 3]), costs, n)
    assert list(steps) == [part.tolist() for part in np.split(permutation, cuts)]
    assert [steps[k] for k in range(-len(steps), 0)] == list(steps)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=40), st.integers(1, 500))
def test_steps_are_never_empty_and_about_as_full_as_asked(sizes, limit):
    costs = np.array(sizes)
    n = n_steps(costs, limit)
    steps = in_steps(ordered(len(costs), [0]), costs, n)
    assert len(steps) == n
    assert sorted(i for members in steps for i in members) == list(range(len(costs)))
    counted = np.maximum(costs, 1)
    loads = [counted[members].sum() for members in steps]
    assert min(loads) > 0
    if len(set(sizes)) == 1:
        assert max(loads) <= max(limit, counted[0])
    if n < len(costs):
        assert max(loads) <= counted.sum() / n + counted.max()


def test_a_step_that_is_not_there_is_an_index_error():
    steps = in_steps(ordered(5, None), np.ones(5, dtype=np.int64), 2)
    with pytest.raises(IndexError):
        steps[2]


def test_an_order_costs_four_bytes_for_a_structure_and_eight_for_a_step():
    n = 300_000
    steps = in_steps(ordered(n, [1, 2]), np.full(n, 20), 1000)
    assert steps.order.nbytes + steps.cuts.nbytes == 4 * n + 8 * 999


def test_steps_of_pairs_hold_as_many_pairs_as_asked():
    dataset = dataset_of(atoms_of([2, 2, 2, 2, 11, 11]))  # 2 or 20 pairs
    loader = data.Loader(dataset, 2.0, pairs_per_batch=16, seed=2)
    assert len(loader) == 3
    for step in loader.epoch(0):
        assert step.parts[0].batch.n_pairs <= 16 + 20
    calm = data.Loader(dataset, 2.0, pairs_per_batch=16, shuffle=False)
    assert list(calm.step_members(0)) == [[0, 1, 2, 3], [4], [5]]
    by_atoms = data.Loader(dataset, 2.0, atoms_per_batch=10, shuffle=False)
    assert list(by_atoms.step_members(0)) == [[0, 1, 2, 3], [4], [5]]


def test_structures_without_any_pair_fill_steps_of_pairs_all_the_same():
    loader = data.Loader(dataset_of([Atoms("H")] * 10), 2.0, pairs_per_batch=5, world=2)
    steps = list(loader.epoch(0))
    assert [len(step.members) for step in steps] == [5, 5]
    assert [len(step.parts[0].places) for step in steps] == [3, 3]


# ------------------------------------------------------------------------------------------------------------- dealing


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(1, 7))
def test_dealing_is_a_balanced_partition(costs, n):
    parts = deal(costs, n)
    assert len(parts) == n
    assert sorted(place for part in parts for place in part) == list(range(len(costs)))
    assert all(part == sorted(part) for part in parts)
    loads = [sum(costs[place] for place in part) for part in parts]
    assert max(loads) - min(loads) <= max(costs, default=0)
    assert deal(costs, n) == parts


def test_the_longest_are_dealt_first():
    assert deal([1, 1, 1, 1, 4], 2) == [[4], [0, 1, 2, 3]]
    assert deal([3, 3, 2, 2, 2], 2) == [[0, 2, 4], [1, 3]]
    assert deal([5, 5], 3) == [[0], [1], []]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=25),
    st.integers(1, 30),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_the_parts_of_all_processes_together_are_the_step(sizes, limit, world, parts, epoch):
    dataset = dataset_of(atoms_of(sizes))

    def loader(**choices):
        return data.Loader(dataset, 2.0, atoms_per_batch=limit, seed=4, **choices)

    alone = loader()
    shares = [list(loader(world=world, parts=parts, rank=rank).epoch(epoch)) for rank in range(world)]
    pairs = [2 * (n - 1) for n in sizes]
    for (whole,), *steps in zip(((one,) for one in alone.epoch(epoch)), *shares, strict=True):
        assert all(step.members == whole.members and len(step.parts) <= parts for step in steps)
        found = [part for step in steps for part in step.parts]
        assert sorted(place for part in found for place in part.places) == list(range(len(whole.members)))
        for part in found:
            assert part.places == sorted(part.places)
            assert part.members == [whole.members[place] for place in part.places]
            assert same(part.batch, collate([dataset.atoms[i] for i in part.members], 2.0))
        loads = [sum(pairs[i] + (pairs[i] == 0) for part in step.parts for i in part.members) for step in steps]
        assert max(loads) - min(loads) <= max(max(pairs[i] for i in whole.members), 1)


def test_processes_and_parts_deal_in_the_same_way():
    dataset = mixed(20)
    by_process = [next(data.Loader(dataset, 3.0, world=3, rank=rank).epoch(0)).parts[0] for rank in range(3)]
    by_part = next(data.Loader(dataset, 3.0, parts=3).epoch(0)).parts
    assert [part.members for part in by_process] == [part.members for part in by_part]


def test_a_step_of_few_structures_has_few_parts():
    dataset = dataset_of(atoms_of([3, 3]))
    shares = [next(data.Loader(dataset, 2.0, world=3, parts=2, rank=rank).epoch(0)) for rank in range(3)]
    assert [len(step.parts) for step in shares] == [1, 1, 0]
    assert all(len(step.members) == 2 for step in shares)


def test_pairs_are_counted_only_where_they_are_needed(monkeypatch):
    monkeypatch.setattr(data.Dataset, "pair_counts", lambda self, cutoff: pytest.fail("counted"))
    next(data.Loader(mixed(), 3.0).epoch(0))


# ------------------------------------------------------------------------------------------------------------ contents


@pytest.mark.parametrize("parts", [1, 2])
def test_weights_are_those_of_structure_and_group_together(parts):
    dataset = mixed()
    loader = data.Loader(dataset, 3.0, parts=parts, config_weights={"gas": 0.5, "unheard of": 7.0})
    for step in loader.epoch(1):
        for part in step.parts:
            expected = [(1 + k / 8) * (1.0 if k % 3 == 0 else 0.5) for k in part.members]
            assert part.weights.tolist() == expected
            assert np.all(
                part.weights.numpy() == dataset.weights[part.members] * [1 - 0.5 * (k % 3 > 0) for k in part.members]
            )


def test_the_loader_searches_each_structure_once_unless_it_would_hold_too_much(monkeypatch):
    calls, dataset = [], mixed()
    monkeypatch.setattr("tumble.data.maker.collate", lambda atoms, *a, **k: calls.append(1) or collate(atoms, *a, **k))
    loader = data.Loader(dataset, 3.5)
    for epoch in range(3):
        list(loader.epoch(epoch))
    assert len(calls) == len(dataset)
    monkeypatch.setattr("tumble.data.maker.MAXIMUM_CACHED_PAIRS", 0)
    forgetful = data.Loader(dataset, 3.5)
    for epoch in range(2):
        list(forgetful.epoch(epoch))
    assert len(calls) == 3 * len(dataset)


def test_structures_made_together_are_those_made_one_by_one():
    maker = Maker(mixed(), 3.5, torch.float32, CPU, {"gas": 3.0})
    one, other = maker.kept([4, 0, 7]), maker.made([4, 0, 7])
    assert same((*one.batch, *one.labels, one.weights), (*other.batch, *other.labels, other.weights))


def broken():
    return dataset_of([bulk("Cu"), Atoms("H2", [[0, 0, 0], [0, 0, 0.01]]), bulk("Ag")])


def test_the_loader_names_the_source_of_a_bad_structure():
    message = r"made:1: atoms 0 and 1 of structure 0 are 0.0100 Å apart"
    with pytest.raises(ValueError, match=message):
        list(data.Loader(broken(), 3.0).epoch(0))
    with pytest.raises(ValueError, match=message):
        Maker(broken(), 3.0, torch.float64, CPU, {}).made([0, 1, 2])
    heavy = dataset_of([Atoms("H", info={"config_weight": "much"})])
    with pytest.raises(ValueError, match=r"made:0: the weight of a structure is 'much'"):
        list(data.Loader(heavy, 3.0).epoch(0))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"atoms_per_batch": 0}, r"atoms_per_batch is 0; at least 1 was expected"),
        ({"pairs_per_batch": 0}, r"pairs_per_batch is 0; at least 1"),
        ({"parts": 0}, r"parts is 0; at least 1"),
        ({"world": 0}, r"world is 0; at least 1"),
        ({"workers": -1}, r"workers is -1; at least 0"),
        ({"rank": 2, "world": 2}, r"rank is 2 in a world of 2; 0 to 1 was expected"),
    ],
)
def test_the_loader_refuses_what_makes_no_sense(choices, message):
    with pytest.raises(ValueError, match=message):
        data.Loader(dataset_of([bulk("Cu")]), 3.0, **choices)


def test_the_loader_refuses_nothing_to_load():
    with pytest.raises(ValueError, match=r"the dataset has 0 structures, at least 1"):
        data.Loader(dataset_of([]), 3.0)


# ------------------------------------------------------------------------------------------------------------- workers


def test_a_parcel_gives_back_what_was_put_in():
    maker = Maker(mixed(), 3.5, torch.float32, CPU, {})
    bare = Maker(dataset_of([Atoms("H")]), 3.5, torch.float64, CPU, {})
    entries = [maker.made([3, 1]), bare.made([0]), maker.made([5])]
    assert entries[1].labels.stress is None
    assert entries[1].batch.n_pairs == 0
    for one, other in zip(entries, Parcel(entries).entries(CPU), strict=True):
        assert isinstance(other, Entry)
        assert isinstance(other.batch, Batch)
        assert same((*one.batch, *one.labels, one.weights), (*other.batch, *other.labels, other.weights))
        assert all(tensor.is_contiguous() for tensor in other.batch)
    assert Parcel([]).entries(CPU) == []


@pytest.fixture
def loaders():
    """Loaders that differ in nothing but who makes the steps: nobody else, and two workers."""
    pair = [
        data.Loader(mixed(), 3.5, atoms_per_batch=12, parts=2, world=2, rank=1, dtype=torch.float32, workers=workers)
        for workers in (0, 2)
    ]
    yield pair
    pair[1].close()


def test_workers_make_what_is_made_without_them(loaders):
    alone, helped = loaders
    before = torch.random.get_rng_state()
    for epoch in (0, 1):
        assert same_steps(alone.epoch(epoch), helped.epoch(epoch))
    workers = {one.pid for one in multiprocessing.active_children()}
    assert len(workers) == 2
    assert same_steps(alone.epoch(5, start=2), helped.epoch(5, start=2))
    # Two readers at different places slow each other down, and get what they asked for.
    for steps in zip(*(loader.epoch(epoch) for epoch in (2, 3) for loader in loaders), strict=True):
        assert same_steps(steps[::2], steps[1::2])
    next(helped.epoch(6))  # left, with steps under way
    assert same_steps(alone.epoch(0), helped.epoch(0))
    assert {one.pid for one in multiprocessing.active_children()} == workers
    assert torch.equal(torch.random.get_rng_state(), before)
    assert helped.waited_s > 0 < alone.waited_s


def test_closing_ends_the_workers_and_they_come_back_when_needed():
    with data.Loader(mixed(), 3.5, workers=1) as loader:
        first = next(loader.epoch(0))
        (worker,) = multiprocessing.active_children()
        loader.close()
        loader.close()
        assert multiprocessing.active_children() == []
        assert not is_running(worker.pid)
        assert same_steps([first], [next(loader.epoch(0))])
    assert multiprocessing.active_children() == []


def test_the_source_of_a_bad_structure_is_named_by_workers_too():
    dataset = broken()
    with data.Loader(dataset, 3.0, atoms_per_batch=1, shuffle=False, workers=1) as loader:
        steps = loader.epoch(0)
        assert next(steps).members == [0]
        with pytest.raises(ValueError, match=r"^made:1: atoms 0 and 1 of structure 0 are 0.0100 Å apart"):
            next(steps)
        assert [step.members for step in loader.epoch(0, start=2)] == [[2]]


def test_a_worker_that_dies_is_reported_and_another_takes_its_place(monkeypatch):
    # How often torch looks after its workers is an argument's default, 5 s.
    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))
    with data.Loader(mixed(60), 3.5, atoms_per_batch=1, workers=1) as loader:
        steps = loader.epoch(0)
        next(steps)
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"a process that prepares data has died .* Continue with fewer workers"):
            list(steps)
        assert len(list(loader.epoch(0, start=50))) == len(loader) - 50


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


SCRIPT = """
import multiprocessing, os, signal
from ase import Atoms
from tumble import data
from tumble.batch import Properties
open("runs", "a").write("once ")
loader = data.Loader(data.Dataset([Atoms("H")] * 99, [Properties()] * 99, ["made:0"] * 99), 3.0, workers=1)
next(loader.epoch(0))
print(*(one.pid for one in multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_do_not_run_the_script_that_started_them_and_do_not_outlive_it(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "runs").read_text() == "once "
    (worker,) = map(int, done.stdout.split())
    until = time.monotonic() + 20
    while is_running(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(worker)


def test_workers_are_sent_what_a_choice_was_made_from_and_not_the_choice():
    whole, places = mixed(), np.array([8, 3, 5, 0, 1])
    chosen = data.Dataset(*(View(part, places) for part in (whole.atoms, whole.labels, whole.sources)))
    sent, where = Maker(chosen, 3.5, torch.float64, CPU, {}).apart()
    assert where is places
    assert sent.dataset.sources == whole.sources
    alone = data.Loader(chosen, 3.5, atoms_per_batch=9, seed=3)
    with data.Loader(chosen, 3.5, atoms_per_batch=9, seed=3, workers=1) as helped:
        assert same_steps(alone.epoch(0), helped.epoch(0))
