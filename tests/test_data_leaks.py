"""Duplicates: what counts as the same structure, what is near it, and what is neither."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell, molecule

from tumble import data
from tumble.batch import Properties
from tumble.data import fingerprints
from tumble.rotations import Rotations


def dataset_of(atoms, name="made"):
    return data.Dataset(list(atoms), [Properties()] * len(atoms), [f"{name}:{k}" for k in range(len(atoms))])


def crystal(seed, amplitude=0.1):
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.rattle(amplitude, seed=seed)
    return atoms


def turned(atoms, seed=0):
    """The structure in another frame, its atoms in another order and shifted, some by a lattice vector."""
    random = np.random.default_rng(seed)
    matrix = Rotations.random(1, seed=seed).matrices[0].numpy()
    order = random.permutation(len(atoms))
    shifts = random.integers(-1, 2, size=(len(atoms), 3)) * atoms.pbc
    positions = atoms.positions + shifts @ atoms.cell.array + random.normal(size=3)
    return Atoms(atoms.numbers[order], positions[order] @ matrix.T, cell=atoms.cell.array @ matrix.T, pbc=atoms.pbc)


def test_translated_and_wrapped_copies_are_exact_duplicates():
    frames = [crystal(k) for k in range(6)]
    copy = frames[2].copy()
    copy.positions += [3.0, -2.0, 0.1]
    copy.wrap()
    table = data.leaks(dataset_of(frames, "train"), dataset_of([crystal(9), copy], "valid"))
    assert table.rows == (("valid:1", "train:2", "exact", 0.0),)
    assert table.note == "1 of 2 structures of the validation set are among 6 of the training set."


@pytest.mark.parametrize("make", [crystal, lambda seed: rattled(molecule("C6H6"), seed)], ids=["crystal", "molecule"])
def test_turned_mirrored_and_permuted_copies_are_near_duplicates(make):
    frames = [make(k) for k in range(20)]
    copies = [turned(frames[k], seed=k) for k in (3, 7, 11, 19)]
    table = data.leaks(dataset_of(frames, "train"), dataset_of([make(50), *copies], "valid"))
    assert [row[:3] for row in table.rows] == [
        (f"valid:{n}", f"train:{k}", "near") for n, k in enumerate((3, 7, 11, 19), start=1)
    ]
    assert max(row[3] for row in table.rows) < 1e-9
    assert data.leaks(dataset_of(frames), dataset_of(copies), within=0.0).rows == ()


def rattled(atoms, seed, amplitude=0.1):
    copy = atoms.copy()
    copy.rattle(amplitude, seed=seed)
    return copy


def test_another_cell_of_the_same_lattice_is_a_near_duplicate_and_a_supercell_is_not():
    atoms = crystal(0)
    sheared = make_supercell(atoms, [[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    table = data.duplicates(dataset_of([atoms, sheared, atoms * (2, 1, 1)]))
    assert [row[:3] for row in table.rows] == [("made:1", "made:0", "near")]


@pytest.mark.parametrize(("amplitude", "is_found"), [(1e-5, True), (0.03, False)])
def test_small_displacements_are_near_and_larger_ones_are_not(amplitude, is_found):
    frames = [crystal(k) for k in range(10)]
    moved = [turned(rattled(one, 77, amplitude), seed=k) for k, one in enumerate(frames)]
    table = data.leaks(dataset_of(frames), dataset_of(moved, "moved"))
    assert len(table.rows) == (10 if is_found else 0)


def test_how_far_apart_near_duplicates_may_be_is_a_choice():
    frames = [crystal(k) for k in range(10)]
    moved = [rattled(one, 77, 0.003) for one in frames]
    assert len(data.leaks(dataset_of(frames), dataset_of(moved)).rows) < 3
    table = data.leaks(dataset_of(frames), dataset_of(moved), within=0.05)
    assert len(table.rows) == 10
    assert 1e-4 < min(row[3] for row in table.rows) <= max(row[3] for row in table.rows) <= 0.05


def test_other_elements_charges_or_cells_are_other_structures():
    atoms = molecule("OH")
    charged, swapped = atoms.copy(), Atoms("SH", atoms.positions)
    charged.info["charge"] = -1
    assert data.duplicates(dataset_of([atoms, charged, swapped])).rows == ()
    assert fingerprints.difference(atoms, swapped) == float("inf")
    assert fingerprints.difference(bulk("Cu", a=3.6), bulk("Cu", a=4.6)) == float("inf")


def test_lone_atoms_and_copies_of_copies_point_to_the_first():
    table = data.duplicates(dataset_of([Atoms("He"), Atoms("Ne"), Atoms("He", [[1, 2, 3]]), Atoms("He")]))
    assert table.rows == (("made:2", "made:0", "exact", 0.0), ("made:3", "made:0", "exact", 0.0))
    assert table.note == "2 of 4 structures are also somewhere before."


def test_a_set_without_duplicates_has_none():
    assert data.duplicates(dataset_of([crystal(k) for k in range(30)])).rows == ()
    assert data.leaks(dataset_of([]), dataset_of([crystal(0)])).rows == ()


def test_prints_that_agree_by_accident_are_compared_in_full(monkeypatch):
    monkeypatch.setattr(fingerprints, "exact", lambda atoms: 5)
    assert data.duplicates(dataset_of([crystal(0), crystal(1)])).rows == ()


def test_of_a_store_only_what_looks_alike_is_read(tmp_path, monkeypatch):
    frames = [crystal(k) for k in range(20)]
    store = data.Store.create(tmp_path / "set.store")
    store.append((f"train:{k}", one, Properties()) for k, one in enumerate(frames))
    valid = dataset_of([crystal(90), turned(frames[4]), frames[6].copy()], "valid")
    expected = data.leaks(dataset_of(frames, "train"), valid)
    read, real = [], data.Store.atoms
    monkeypatch.setattr(data.Store, "atoms", lambda one, index: read.append(index) or real(one, index))
    assert data.leaks(store.dataset(), valid).rows == expected.rows
    assert [row[1] for row in expected.rows] == ["train:4", "train:6"]
    assert {4, 6} <= set(read)
    assert len(read) < 10


def test_a_near_duplicate_stays_on_one_side_of_the_cutoff_of_its_distances():
    pair = Atoms("H2", [[0, 0, 0], [0, 0, 3.9999]])
    wider = Atoms("H2", [[0, 0, 0], [0, 0, 4.0001]])
    assert fingerprints.difference(pair, wider) == 0.0
    assert fingerprints.difference(Atoms("H2", [[0, 0, 0], [0, 0, 3.0]]), wider) == float("inf")


def test_a_split_keeps_near_duplicates_on_one_side():
    frames = [crystal(k) for k in range(20)]
    dataset = dataset_of([one for k, atoms in enumerate(frames) for one in (atoms, turned(atoms, seed=k))])
    for seed in range(5):
        rest, held = data.split(dataset, 0.25, seed=seed)
        assert (len(rest), len(held)) == (30, 10)
        assert data.leaks(rest, held).rows == ()


def test_a_split_keeps_many_copies_of_one_structure_on_one_side():
    """More than are compared with each other in full."""
    dataset = dataset_of([turned(crystal(k), seed=20 * k + n) for k in range(6) for n in range(15)])
    for seed in range(4):
        rest, held = data.split(dataset, 0.3, seed=seed)
        assert data.leaks(rest, held).rows == ()
        assert len(held) in (15, 30)


def test_what_was_found_of_a_set_is_known_of_its_parts(monkeypatch):
    dataset = dataset_of([crystal(k) for k in range(6)])
    data.duplicates(dataset)
    for name in ("exact", "formula", "shape"):
        monkeypatch.setattr(fingerprints, name, lambda atoms: pytest.fail("it was computed again"))
    assert data.leaks(dataset.select([0, 1, 2]), dataset.select([2, 3])).rows == (("made:2", "made:2", "exact", 0.0),)
