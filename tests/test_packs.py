"""Packs are as full as they may be, made ahead in a thread that never outlives its use, and cut where memory ends."""

import threading
import time

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones as AseLennardJones
from hypothesis import given, settings
from hypothesis import strategies as st

from analytic import lopsided
from tumble.batch import Properties, collate, concatenate
from tumble.bridges.ase import Foreign
from tumble.packs import PAIRS_OF_AN_ATOM, ahead, answered, halves, is_out_of_memory, packed, part, usual_limit, weight
from tumble.potential import Sum
from tumble.symmetry import symmetrize
from tumble.testing import structures

CUTOFF = 4.0


def chains(lengths):
    return [Atoms(f"He{n}", [[0, 0, 2.5 * i] for i in range(n)]) for n in lengths]


def in_packs(frames, limit, **options):
    return list(packed(frames, CUTOFF, dtype=torch.float64, limit=limit, **options))


def running():
    return [one for one in threading.enumerate() if one.name == "tumble-ahead"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 400))
def test_packs_cover_everything_once_and_are_as_full_as_they_may_be(lengths, limit):
    frames = chains(lengths)
    packs = in_packs(frames, limit)
    assert [one for pack in packs for one in pack.atoms] == frames
    assert [name for pack in packs for name in pack.names] == [f"structure {i}" for i in range(len(frames))]
    for pack, following in zip(packs, [*packs[1:], None], strict=True):
        assert weight(pack.batch) <= limit or len(pack.atoms) == 1
        if following is not None:
            assert weight(pack.batch) + weight(collate(following.atoms[:1], CUTOFF)) > limit


def test_a_pack_is_the_batch_that_collate_makes():
    frames = structures((18,))
    frames[0].info.update(charge=1, spin_multiplicity=2)
    packs = in_packs(frames, 150)
    assert len(packs) > 2
    for pack in packs:
        for one, other in zip(pack.batch, collate(pack.atoms, CUTOFF), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def test_an_atom_without_neighbours_weighs_something():
    batch = collate([Atoms("He")] * 3, CUTOFF)
    assert weight(batch) == 3 * PAIRS_OF_AN_ATOM
    assert len(in_packs([Atoms("He")] * 10, 5 * PAIRS_OF_AN_ATOM)) == 2


def test_a_limit_below_one_pair_is_refused():
    with pytest.raises(ValueError, match=r"0 pairs in a batch were asked for; at least 1 was expected"):
        in_packs(chains([2]), 0)


def test_the_usual_limit_depends_on_the_device_and_on_who_is_asked(monkeypatch):
    here, engine = lopsided(), Foreign(AseLennardJones())
    on_cpu = usual_limit(here)
    monkeypatch.setattr(type(here), "device", torch.device("cuda"))
    assert 1000 < on_cpu < usual_limit(here)
    # An engine that takes one structure after the other gains nothing by being asked in packs, nor does its average.
    assert usual_limit(engine) == usual_limit(symmetrize(engine, "T")) == usual_limit(Sum(engine, engine)) == 1


def test_no_structure_makes_no_pack():
    assert in_packs([], 10) == []


def test_packs_before_a_failure_are_given_first():
    def broken():
        yield from chains([3, 4])
        raise OSError("the disk is gone")

    packs = packed(broken(), CUTOFF, dtype=torch.float64, limit=10_000)
    assert next(packs).names == ["structure 0", "structure 1"]
    with pytest.raises(OSError, match="the disk is gone"):
        next(packs)


# ---------------------------------------------------------------------------------------------------------------- ahead


def count(n, seen=None, fail_at=None):
    for i in range(n):
        if i == fail_at:
            raise ValueError(f"item {i} is broken")
        if seen is not None:
            seen.append(threading.current_thread().name)
        yield i


def test_items_come_in_order_from_another_thread():
    seen = []
    assert list(ahead(count(50, seen))) == list(range(50))
    assert set(seen) == {"tumble-ahead"}
    assert running() == []


def test_an_error_of_the_thread_is_raised_after_the_items_before_it():
    got = []
    with pytest.raises(ValueError, match="item 3 is broken"):
        got.extend(ahead(count(9, fail_at=3)))
    assert got == [0, 1, 2]
    assert running() == []


@pytest.mark.parametrize("how", ["close", "error", "forget"])
def test_the_thread_ends_when_the_caller_stops(how):
    seen, items = [], []
    source = count(10**9, seen)
    items = ahead(source, depth=3)
    if how == "close":
        next(items)
        items.close()
    elif how == "error":
        with pytest.raises(ZeroDivisionError):
            sum(1 / one for one in items)
        del items
    else:
        next(items)
        del items
    assert running() == []
    assert len(seen) <= 3
    assert source.gi_frame is None  # what it had opened is closed


def test_no_more_than_a_few_items_are_made_ahead():
    seen = []
    items = ahead(count(100, seen), depth=2)
    next(items)
    time.sleep(0.1)
    assert len(seen) == 2
    next(items)
    items.close()


def test_the_thread_works_while_the_caller_does():
    def slow(n):
        for i in range(n):
            time.sleep(0.05)
            yield i

    start = time.monotonic()
    for _ in ahead(slow(8)):
        time.sleep(0.05)
    assert time.monotonic() - start < 0.75  # 0.8 one after the other, 0.45 side by side


# ------------------------------------------------------------------------------------------------------------ splitting


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.data())
def test_the_parts_of_a_batch_are_the_batches_of_its_structures(lengths, data):
    frames = chains(lengths)
    batch = collate(frames, CUTOFF)
    start = data.draw(st.integers(0, len(frames) - 1))
    stop = data.draw(st.integers(start + 1, len(frames)))
    for one, other in zip(part(batch, slice(start, stop)), collate(frames[start:stop], CUTOFF), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("lengths", [(1, 1), (30, 1, 1), (1, 1, 30), (5, 5, 5, 5), (1,) * 7])
def test_halves_are_whole_and_about_equal(lengths):
    (pack,) = in_packs(chains(lengths), 10**6)
    one, two = halves(pack)
    assert one.atoms + two.atoms == pack.atoms
    assert one.names + two.names == pack.names
    for field, whole in zip(concatenate([one.batch, two.batch]), pack.batch, strict=True):
        assert torch.equal(field, whole)
    heaviest = max(weight(collate([atoms], CUTOFF)) for atoms in pack.atoms)
    assert abs(weight(one.batch) - weight(two.batch)) <= heaviest


def test_a_crystal_is_cut_apart_with_its_periodic_images():
    frames = [bulk("Cu"), bulk("NaCl", "rocksalt", 5.6), molecule("H2O")]
    batch = collate(frames, CUTOFF)
    joined = concatenate([part(batch, slice(k, k + 1)) for k in range(3)])
    assert all(torch.equal(one, other) for one, other in zip(joined, batch, strict=True))


def test_what_out_of_memory_looks_like():
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("sizes do not match"))


def test_memory_that_runs_out_later_is_noticed_again():
    room, told, asked = [10**9], [], []

    def ask(batch):
        asked.append(weight(batch))
        if weight(batch) > room[0]:
            raise MemoryError
        room[0] = 200 if len(asked) < 4 else 60
        return Properties(torch.zeros(batch.n_structures))

    frames = chains([3] * 60)
    packs = packed(frames, CUTOFF, dtype=torch.float64, limit=300)
    done = [one for atoms, _ in answered(ask, packs, torch.device("cpu"), told.append) for one in atoms]
    assert done == frames
    assert [message.split(",")[0] for message in told] == [
        f"out of memory with {n} pairs in a batch" for n in (300, 150, 60) if n > 60
    ]
