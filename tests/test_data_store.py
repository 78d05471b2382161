"""The on-disk store: what comes back, what survives, and what it costs."""

import json
import multiprocessing
import os
import pickle
import random
import resource
import signal
import time

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from tumble import data
from tumble.batch import Properties, collate
from tumble.data.store import state, writer

FORK = multiprocessing.get_context("fork")


def entry(k, file="made.xyz"):
    """Crystals, molecules and lone atoms in turn, with labels that some of them lack."""
    kind = k % 3
    atoms = [bulk("NaCl", "rocksalt", a=5.6 + 0.001 * k, cubic=True), molecule("H2O"), Atoms("He")][kind]
    atoms.rattle(0.05, seed=k)
    random_numbers = np.random.default_rng(k)
    if kind == 0:
        atoms.info |= {"config_type": f"crystal {k % 2}", "config_weight": 0.5}
    if kind == 1:
        atoms.info |= {"charge": -1, "spin": 2}
    stress = random_numbers.normal(size=(3, 3))
    labels = Properties(
        torch.tensor(-1e4 - k / 7, dtype=torch.float64) if k % 5 else None,
        torch.from_numpy(random_numbers.normal(size=(len(atoms), 3))) if k % 4 else None,
        torch.from_numpy(stress + stress.T) if kind == 0 else None,
    )
    return f"{file}:{k}", atoms, labels


def entries(n, start=0):
    return [entry(k) for k in range(start, n)]


def dataset_of(found):
    sources, atoms, labels = zip(*found, strict=True)
    return data.Dataset(list(atoms), list(labels), list(sources))


@pytest.fixture
def store(tmp_path):
    made = data.Store.create(tmp_path / "set.store")
    made.append(entries(30))
    return made


def test_what_comes_back_is_what_was_stored(store):
    dataset = data.Store.open(store.path).dataset()
    assert len(dataset) == 30
    for k, (source, atoms, labels) in enumerate(entries(30)):
        back, known = dataset.atoms[k], dataset.labels[k]
        assert dataset.sources[k] == source
        assert np.array_equal(back.positions, atoms.positions)
        assert np.array_equal(back.cell.array, atoms.cell.array)
        assert np.array_equal(back.pbc, atoms.pbc)
        assert np.array_equal(back.numbers, atoms.numbers)
        ours, theirs = (collate([one], 3.0) for one in (back, atoms))
        assert ours.charge.tolist() == theirs.charge.tolist()
        assert ours.multiplicity.tolist() == theirs.multiplicity.tolist()
        for value, expected in zip(known, labels, strict=True):
            assert (value is None) == (expected is None)
            if value is not None:
                assert value.dtype == torch.float64
                assert value.shape == expected.shape
                torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-7)
        assert known.energy is None or float(known.energy) == float(labels.energy)


def test_a_charge_that_is_no_whole_number_stays_unclear(tmp_path):
    made = data.Store.create(tmp_path / "s")
    made.append([("a.xyz:0", Atoms("H", info={"charge": 0.5, "spin_multiplicity": "high"}), Properties())])
    expected = collate([Atoms("H", info={"charge": 0.5, "spin_multiplicity": "high"})], 3.0)
    batch = collate([made.dataset().atoms[0]], 3.0)
    assert (batch.charge, batch.multiplicity) == (expected.charge, expected.multiplicity)


def test_a_store_gives_the_answers_of_the_lists_it_was_made_from(store):
    kept, lists = store.dataset(), dataset_of(entries(30))
    for name in ("sizes", "weights", "known", "can_have_stress"):
        assert np.array_equal(getattr(kept, name), getattr(lists, name)), name
    assert np.array_equal(kept.energies, lists.energies, equal_nan=True)
    assert list(kept.groups) == list(lists.groups)
    assert kept.elements == lists.elements == (1, 2, 8, 11, 17)
    assert np.array_equal(kept.pair_counts(4.0), lists.pair_counts(4.0))
    torch.testing.assert_close(data.offsets(kept, kept.elements), data.offsets(lists, lists.elements))
    assert [part.sources for part in data.split(lists, 0.3, seed=2)] == [
        list(part.sources) for part in data.split(kept, 0.3, seed=2)
    ]
    ours, theirs = data.coverage(kept), data.coverage(lists)
    assert (ours.title, ours.columns, ours.note) == (theirs.title, theirs.columns, theirs.note)
    for one, other in zip(ours.rows[0], theirs.rows[0], strict=True):
        assert one == (pytest.approx(other, rel=1e-6) if isinstance(other, float) else other)


def test_a_choice_of_a_choice_and_a_slice_read_nothing_and_find_the_same(store, monkeypatch):
    monkeypatch.setattr(data.Store, "atoms", lambda store, index: pytest.fail("it was read"))
    some = store.dataset().select([20, 3, 4, 11]).select([2, 0])
    assert list(some.sources) == ["made.xyz:4", "made.xyz:20"]
    assert some.sizes.tolist() == [3, 1 if 20 % 3 == 2 else 8]
    assert list(store.dataset().sources[5:7]) == ["made.xyz:5", "made.xyz:6"]
    assert store.dataset().sources[-1] == "made.xyz:29"
    assert some.atoms.places is some.labels.places


def test_a_store_beside_files_is_one_dataset(store, tmp_path):
    lists = dataset_of(entries(36, start=30))
    both = data.joined([store.dataset(), lists])
    assert len(both) == 36
    assert list(both.sources) == [f"made.xyz:{k}" for k in range(36)]
    assert both.sizes.tolist() == dataset_of(entries(36)).sizes.tolist()
    assert list(both.groups) == list(dataset_of(entries(36)).groups)
    assert np.array_equal(both.pair_counts(3.0), dataset_of(entries(36)).pair_counts(3.0))
    assert both.elements == (1, 2, 8, 11, 17)
    assert data.coverage(both).rows[0][1] == 36
    assert str(both.select([35]).atoms[0].symbols) == "He"


def test_the_digest_knows_the_content_and_not_how_it_came(store, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "STRUCTURES_PER_CHUNK", 7)
    parts = data.Store.create(tmp_path / "parts")
    parts.append(entries(11))
    parts.append(entries(30, start=11))
    assert parts.digest == store.digest
    parts.check()
    elsewhere = data.Store.create(tmp_path / "elsewhere")
    elsewhere.append([entry(k, "other.xyz") for k in range(30)])
    assert elsewhere.digest == store.digest
    fewer = data.Store.create(tmp_path / "fewer")
    fewer.append(entries(29))
    assert fewer.digest != store.digest


def test_a_changed_byte_is_found(store):
    path = store.path / "forces.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"the content of .* has the digest .* was written \(30 structures\)"):
        data.Store.open(store.path).check()


def test_a_truncated_or_missing_file_is_named(store):
    with (store.path / "positions.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match=r"positions\.bin' has 100 bytes, and 30 structures need .* it is truncated"):
        data.Store.open(store.path)
    (store.path / "positions.bin").unlink()
    with pytest.raises(ValueError, match=r"positions\.bin' has 0 bytes"):
        store.check()


def test_folders_that_are_no_store_say_so(store, tmp_path):
    with pytest.raises(ValueError, match=r"is no store: it has no store\.json"):
        data.Store.open(tmp_path)
    with pytest.raises(ValueError, match=r"cannot make a store of .*: it is a store already: open it, or append to it"):
        data.Store.create(store.path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").touch()
    with pytest.raises(ValueError, match=r"exists and is not empty"):
        data.Store.create(tmp_path / "full")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot make the folder .* Name another"):
        data.Store.create(tmp_path / "file" / "set")
    written = json.loads((store.path / "store.json").read_text())
    (store.path / "store.json").write_text(json.dumps(written | {"version": 2}))
    with pytest.raises(ValueError, match=r"has version 2 of the format, this version of tumble reads up to 1"):
        data.Store.open(store.path)
    (store.path / "store.json").write_text(json.dumps({"format": "shop"}))
    with pytest.raises(ValueError, match=r"is no store: its store\.json is that of something else"):
        data.Store.open(store.path)
    (store.path / "store.json").write_text("{")
    with pytest.raises(ValueError, match=r"is no JSON"):
        data.Store.open(store.path)


def test_a_source_must_name_a_frame(tmp_path):
    made = data.Store.create(tmp_path / "s")
    with pytest.raises(ValueError, match=r"'somewhere' does not say where a structure is from"):
        made.append([("somewhere", Atoms("H"), Properties())])


def test_one_process_writes_at_a_time_and_readers_see_what_is_committed(store):
    other = data.Store.open(store.path)

    def slowly():
        yield entry(30)
        with pytest.raises(RuntimeError, match=r"another process is writing into"):
            data.Store.open(store.path).append([entry(99)])
        assert len(data.Store.open(store.path)) == 30
        yield entry(31)

    store.append(slowly())
    assert len(store) == 32
    assert len(other) == 30
    assert other.dataset().sizes.shape == (30,)
    other.check()
    store.check()


def test_what_came_before_an_error_is_kept(store):
    def broken():
        yield from entries(33, start=30)
        raise ValueError("the source is broken")

    with pytest.raises(ValueError, match="the source is broken"):
        store.append(broken())
    assert len(store) == 33
    store.check()


def test_bytes_that_a_killed_writer_left_are_cut_off(store):
    expected = store.path.joinpath("positions.bin").stat().st_size
    for name in ("positions.bin", "end.bin", "files.txt"):
        with (store.path / name).open("ab") as file:
            file.write(b"rubbish")
    reopened = data.Store.open(store.path)
    reopened.check()
    reopened.append([])
    assert store.path.joinpath("positions.bin").stat().st_size == expected
    reopened.append(entries(40, start=30))
    reopened.check()
    assert list(reopened.dataset().sources) == [f"made.xyz:{k}" for k in range(40)]


def _write_forever(path):
    writer.SECONDS_PER_COMMIT = 0.005
    made = data.Store.open(path)
    made.append(entry(k) for k in range(len(made), 100_000))


def test_a_store_survives_that_its_writer_is_killed_at_any_moment(tmp_path):
    made = data.Store.create(tmp_path / "set.store")
    seen = [0]
    random_times = random.Random(0)
    for _ in range(8):
        child = FORK.Process(target=_write_forever, args=(made.path,))
        child.start()
        while data.Store.open(made.path).state.structures <= seen[-1] and child.is_alive():
            time.sleep(0.001)
        time.sleep(random_times.uniform(0, 0.05))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        found = data.Store.open(made.path)
        found.check()
        seen.append(len(found))
    assert seen == sorted(set(seen))
    assert list(found.dataset().sources) == [f"made.xyz:{k}" for k in range(seen[-1])]
    whole = data.Store.create(tmp_path / "whole")
    whole.append(entries(seen[-1]))
    assert whole.digest == found.digest


def test_a_full_disk_leaves_what_was_committed(store):
    before, size = store.digest, (store.path / "positions.bin").stat().st_size
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, usual[1]))
    try:
        with pytest.raises(RuntimeError, match=r"cannot write into .*too large\. The 30 structures before are safe"):
            store.append(entries(200, start=30))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert (len(store), store.digest) == (30, before)
    store.check()
    store.append(entries(33, start=30))
    store.check()


def test_a_folder_that_cannot_be_written_says_so_and_can_be_read(store, monkeypatch):
    from pathlib import Path

    usual = Path.open

    def refuse(path, mode="r", *args, **kwargs):
        if mode != "r" and mode != "rb":
            raise PermissionError(13, "Permission denied", str(path))
        return usual(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ValueError, match=r"cannot write into .*: Permission denied\. Name a folder that is yours"):
        store.append(entries(31, start=30))
    fresh = data.Store.open(store.path)
    fresh.check()
    assert np.array_equal(fresh.dataset().pair_counts(3.0), dataset_of(entries(30)).pair_counts(3.0))
    assert not (store.path / "pairs-3.0.bin").exists()


def test_pairs_are_counted_once_and_for_new_structures_only(store, monkeypatch):
    expected = dataset_of(entries(33)).pair_counts(3.0)
    assert np.array_equal(store.dataset().pair_counts(3.0), expected[:30])
    calls = []
    real = data.Store.atoms
    monkeypatch.setattr(data.Store, "atoms", lambda one, index: calls.append(index) or real(one, index))
    again = data.Store.open(store.path)
    assert np.array_equal(again.dataset().pair_counts(3.0), expected[:30])
    assert np.array_equal(again.dataset().select([7, 2]).pair_counts(3.0), expected[[7, 2]])
    assert calls == []
    again.append(entries(33, start=30))
    with (store.path / "pairs-3.0.bin").open("ab") as file:
        file.write(b"x")  # of a number that a killed process did not finish
    assert np.array_equal(again.dataset().pair_counts(3.0), expected)
    assert calls == [30, 31, 32]


def test_pairs_of_a_small_choice_are_counted_without_the_rest(store, monkeypatch):
    calls = []
    real = data.Store.atoms
    monkeypatch.setattr(data.Store, "atoms", lambda one, index: calls.append(index) or real(one, index))
    some = store.dataset().select([7, 2])
    assert np.array_equal(some.pair_counts(3.0), dataset_of(entries(30)).pair_counts(3.0)[[7, 2]])
    assert np.array_equal(some.select([1]).pair_counts(3.0), some.pair_counts(3.0)[[1]])
    assert calls == [7, 2]


def _sum_of(dataset):
    return sum(float(one.positions.sum()) for one in dataset.atoms)


def test_a_dataset_of_a_store_goes_to_other_processes_as_its_path(store):
    part = store.dataset().select(np.arange(20))
    part.atoms[0]
    assert len(pickle.dumps(part)) < 3000
    with FORK.Pool(2) as pool:
        assert pool.map(_sum_of, [part, part]) == [_sum_of(part)] * 2


def test_an_empty_store_is_a_dataset_without_structures(tmp_path):
    made = data.Store.create(tmp_path / "s")
    assert len(data.Store.open(made.path).dataset()) == 0
    assert made.dataset().sizes.tolist() == []
    made.check()
    with pytest.raises(ValueError, match=r"s' is empty; at least one structure"):
        data.read(made.path)


def test_what_is_committed_is_a_state_with_the_lengths_of_its_files(store):
    assert state.read_state(store.path) == store.state
    lengths = store.state.lengths()
    assert lengths["positions.bin"] == 24 * store.n_atoms
    assert store.n_bytes == sum(lengths.values()) == sum((store.path / name).stat().st_size for name in lengths)


def test_a_store_is_read_where_files_are(store, tmp_path):
    dataset = data.read(store.path, missing="mask")
    assert list(dataset.sources) == [f"made.xyz:{k}" for k in range(30)]
    assert data.expand(tmp_path / "*.store", folders=False) == [store.path]
    assert [source.rpartition(":")[0] for source, _ in data.frames(store.path)] == [str(store.path)] * 30
    with pytest.raises(ValueError, match=r"6 of 30 structures of a store lack an energy, the first is made\.xyz:0"):
        data.read(store.path)
    with pytest.raises(ValueError, match=r"energy_key is given, but a store holds labels without the names"):
        data.read(store.path, energy_key="dft", missing="mask")


def test_a_weight_must_be_a_number(tmp_path):
    lists = data.Dataset([Atoms("H", info={"config_weight": -1.0})], [Properties()], ["a.xyz:0"])
    with pytest.raises(ValueError, match=r"the weight of a structure is -1\.0; a finite number >= 0"):
        _ = lists.weights
