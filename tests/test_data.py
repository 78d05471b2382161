"""Reading, covering, splitting, fitting and loading labelled structures."""

import bz2
import gzip
import lzma
import sys

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from tumble import data
from tumble.batch import Properties

STRESS = np.array([[0.01, 0.002, 0.003], [0.002, 0.02, 0.004], [0.003, 0.004, -0.03]])
VOIGT = np.array([0.01, 0.02, -0.03, 0.004, 0.003, 0.002])


def labelled(atoms, energy=-1.5, seed=0, **results):
    forces = np.random.default_rng(seed).normal(size=(len(atoms), 3))
    atoms.calc = SinglePointCalculator(atoms, **({"energy": energy, "forces": forces} | results))
    return atoms


def crystals(n=4):
    frames = []
    for k in range(n):
        one = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
        one.rattle(0.05, seed=k)
        frames.append(labelled(one, energy=-20.0 - k, seed=k, stress=VOIGT * (k + 1)))
    return frames


def water(n=3):
    frames = []
    for k in range(n):
        one = molecule("H2O")
        one.rattle(0.02, seed=k)
        frames.append(labelled(one, energy=-30.0 + 0.1 * k, seed=k))
    return frames


def plain(atoms, **info):
    """Atoms without a calculator, with what info and arrays are given."""
    one = atoms.copy()
    for key, value in info.items():
        (one.arrays if np.shape(value)[:1] == (len(one),) and np.ndim(value) == 2 else one.info)[key] = value
    return one


def same_labels(a, b):
    return all(
        (x is None and y is None) or torch.allclose(x, y, rtol=0, atol=1e-7)
        for one, other in zip(a, b, strict=True)
        for x, y in zip(one, other, strict=True)
    )


@pytest.fixture
def crystal_file(tmp_path):
    path = tmp_path / "crystals.extxyz"
    ase.io.write(path, crystals())
    return path


def test_labels_come_back_as_they_were_written(crystal_file):
    dataset = data.read(crystal_file)
    assert len(dataset) == 4
    for k, (one, frame) in enumerate(zip(dataset.labels, crystals(), strict=True)):
        assert one.energy.shape == ()
        assert one.energy.dtype == one.forces.dtype == one.stress.dtype == torch.float64
        assert float(one.energy) == -20.0 - k
        np.testing.assert_allclose(one.forces, frame.calc.results["forces"], atol=1e-7)
        np.testing.assert_allclose(one.stress, STRESS * (k + 1), atol=1e-12)
    assert dataset.sources[2] == f"{crystal_file}:2"
    assert all(one.calc is None for one in dataset.atoms)


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_compressed_files_read_as_their_content(crystal_file, suffix, pack):
    packed = crystal_file.with_name(f"packed.extxyz.{suffix}")
    packed.write_bytes(pack(crystal_file.read_bytes()))
    dataset = data.read(packed)
    assert same_labels(dataset.labels, data.read(crystal_file).labels)
    assert dataset.sources[0] == f"{packed}:0"


def test_zstandard_files_read_as_their_content(crystal_file):
    zstandard = pytest.importorskip("zstandard")
    packed = crystal_file.with_name("packed.extxyz.zst")
    packed.write_bytes(zstandard.compress(crystal_file.read_bytes()))
    assert same_labels(data.read(packed).labels, data.read(crystal_file).labels)


def test_a_zst_file_without_its_module_says_what_to_install(crystal_file, monkeypatch):
    packed = crystal_file.with_name("packed.extxyz.zst")
    packed.write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ImportError, match=r"pip install 'tumble\[zstd\]'"):
        data.read(packed)


def test_a_database_and_a_trajectory_read_like_an_extxyz(tmp_path, crystal_file):
    with ase.db.connect(tmp_path / "crystals.db") as rows:
        for one in crystals():
            rows.write(one)
    ase.io.write(tmp_path / "crystals.traj", crystals())
    expected = data.read(crystal_file).labels
    assert same_labels(data.read(tmp_path / "crystals.db").labels, expected)
    assert same_labels(data.read(tmp_path / "crystals.traj").labels, expected)


def test_labels_in_the_data_of_a_database_row_are_found(tmp_path):
    one = bulk("Cu")
    with ase.db.connect(tmp_path / "rows.db") as rows:
        rows.write(one, key_value_pairs={"REF_energy": -3.5}, data={"REF_forces": np.zeros((1, 3))})
    (label,) = data.read(tmp_path / "rows.db").labels
    assert float(label.energy) == -3.5
    assert label.forces.shape == (1, 3)


def test_patterns_and_lists_read_files_in_order(tmp_path):
    for name, frames in (("b.xyz", crystals(1)), ("a.xyz", water(2))):
        ase.io.write(tmp_path / name, frames, format="extxyz")
    names = [source.rsplit("/")[-1] for source in data.read(f"{tmp_path}/*.xyz").sources]
    assert names == ["a.xyz:0", "a.xyz:1", "b.xyz:0"]
    names = [source.rsplit("/")[-1] for source in data.read([tmp_path / "b.xyz", str(tmp_path / "a.xyz")]).sources]
    assert names == ["b.xyz:0", "a.xyz:0", "a.xyz:1"]


@pytest.mark.parametrize("prefix", ["", "REF_"])
def test_labels_are_found_in_info_and_arrays(tmp_path, prefix):
    one = plain(bulk("NaCl", "rocksalt", a=5.6), **{f"{prefix}energy": -2.0, f"{prefix}forces": np.ones((2, 3))})
    one.info[f"{prefix}stress"] = STRESS
    ase.io.write(tmp_path / "one.extxyz", one)
    (label,) = data.read(tmp_path / "one.extxyz").labels
    assert float(label.energy) == -2.0
    assert torch.equal(label.forces, torch.ones(2, 3, dtype=torch.float64))
    np.testing.assert_allclose(label.stress, STRESS)


@pytest.mark.parametrize("shape", [(3, 3), (9,), (6,)])
def test_a_virial_becomes_a_stress_with_the_other_sign(tmp_path, shape):
    one = bulk("NaCl", "rocksalt", a=5.6)
    virial = -STRESS * one.get_volume()
    six = virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    one.info["REF_virial"] = six if shape == (6,) else virial.reshape(shape)
    ase.io.write(tmp_path / "one.extxyz", plain(one, energy=1.0, forces=np.zeros((2, 3))))
    (label,) = data.read(tmp_path / "one.extxyz").labels
    np.testing.assert_allclose(label.stress, STRESS, atol=1e-9)


def test_keys_that_the_user_names_are_used(tmp_path):
    one = plain(bulk("Cu"), dft_energy=-7.0, dft_force=np.full((1, 3), 2.0), my_virials=np.eye(3))
    ase.io.write(tmp_path / "one.extxyz", one)
    (label,) = data.read(
        tmp_path / "one.extxyz", energy_key="dft_energy", forces_key="dft_force", stress_key="my_virials"
    ).labels
    assert float(label.energy) == -7.0
    assert float(label.forces[0, 0]) == 2.0
    np.testing.assert_allclose(label.stress, -np.eye(3) / one.get_volume())


def test_a_plain_and_a_reference_label_that_differ_must_be_chosen_from(tmp_path):
    one = labelled(bulk("Cu"), energy=-3.0)
    one.info["REF_energy"] = -4.0
    ase.io.write(tmp_path / "two.extxyz", one)
    with pytest.raises(ValueError, match=r"both as 'energy' and as 'REF_energy', and they differ by 1\..*energy_key"):
        data.read(tmp_path / "two.extxyz")
    assert float(data.read(tmp_path / "two.extxyz", energy_key="REF_energy").labels[0].energy) == -4.0


def test_constraints_do_not_remove_forces(tmp_path):
    from ase.constraints import FixAtoms

    one = labelled(bulk("NaCl", "rocksalt", a=5.6))
    one.set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "fixed.traj", one)
    assert bool(data.read(tmp_path / "fixed.traj").labels[0].forces[0].all())


def test_a_missing_label_is_named_with_its_file_and_frame(tmp_path):
    frames = crystals(3)
    frames[1] = plain(frames[1], dft_forces=np.zeros((8, 3)), energy=1.0)
    ase.io.write(tmp_path / "some.extxyz", frames)
    with pytest.raises(ValueError, match=r"some\.extxyz:1 lacks forces.*it has: dft_forces, energy.*missing='mask'"):
        data.read(tmp_path / "some.extxyz")
    masked = data.read(tmp_path / "some.extxyz", missing="mask")
    assert [one.forces is None for one in masked.labels] == [False, True, False]


def test_frames_come_one_by_one_without_their_labels(tmp_path, crystal_file):
    ase.io.write(tmp_path / "more.xyz", water(2), format="extxyz")
    found = list(data.frames([crystal_file, tmp_path / "more.xyz"]))
    assert [source for source, _ in found] == data.read([crystal_file, tmp_path / "more.xyz"], require=()).sources
    assert all(one.calc is None for _, one in found)
    np.testing.assert_allclose(found[2][1].positions, crystals()[2].positions, atol=1e-7)


def test_frames_before_a_broken_one_are_given(crystal_file):
    lines = crystal_file.read_text().splitlines(keepends=True)
    crystal_file.write_text("".join([*lines[:20], *lines[20:25], "\n", *lines[26:]]))
    found = data.frames(crystal_file)
    assert next(found)[0].endswith("crystals.extxyz:0")
    assert next(found)[0].endswith("crystals.extxyz:1")
    with pytest.raises(ValueError, match=r"cannot read .*crystals\.extxyz"):
        next(found)


def test_frames_are_read_as_they_are_asked_for(crystal_file, monkeypatch):
    import ase.io.extxyz as engine

    parsed, parse = [], engine._read_xyz_frame
    monkeypatch.setattr(engine, "_read_xyz_frame", lambda *args: parsed.append(1) or parse(*args))
    found = data.frames(crystal_file)
    next(found)
    assert len(parsed) == 1


def test_a_folder_stands_for_the_structure_files_in_it(tmp_path):
    for name, form in (("b.extxyz", "extxyz"), ("c.cif", "cif"), ("POSCAR_a", "vasp"), ("d.xyz", "extxyz")):
        ase.io.write(tmp_path / name, crystals(1)[0], format=form)
    (tmp_path / "d.xyz.gz").write_bytes(gzip.compress((tmp_path / "d.xyz").read_bytes()))
    (tmp_path / "deeper.xyz").mkdir()
    for name in ("README.md", ".b.xyz", "notes.gz"):
        (tmp_path / name).write_text("nothing")
    names = [source.rsplit("/")[-1] for source, _ in data.frames(tmp_path)]
    assert names == ["POSCAR_a:0", "b.extxyz:0", "c.cif:0", "d.xyz:0", "d.xyz.gz:0"]
    with pytest.raises(
        ValueError, match=r"the folder .* has no structure files: none of the names in it ends in \.xyz"
    ):
        list(data.frames(tmp_path / "deeper.xyz"))


def test_a_label_that_no_structure_has_is_an_error_even_when_masked(crystal_file):
    with pytest.raises(ValueError, match=r"none of 4 structures has forces .looked for typo"):
        data.read(crystal_file, forces_key="typo", missing="mask")
    with pytest.raises(ValueError, match=r"lacks a stress"):
        data.read(crystal_file, stress_key="typo")


def test_a_molecule_is_asked_for_no_stress_and_a_stated_one_is_not_used(tmp_path):
    frames = [*crystals(1), labelled(molecule("H2O"), stress=np.zeros(6))]
    ase.io.write(tmp_path / "both.extxyz", frames)
    labels = data.read(tmp_path / "both.extxyz", require=("energy", "forces", "stress")).labels
    assert labels[0].stress is not None
    assert labels[1].stress is None


def test_structures_without_labels_can_be_read(tmp_path):
    ase.io.write(tmp_path / "bare.xyz", [molecule("H2O"), molecule("CH4")], format="xyz")
    dataset = data.read(tmp_path / "bare.xyz", require=())
    assert [str(one.symbols) for one in dataset.atoms] == ["OH2", "CH4"]
    assert dataset.labels == [Properties(), Properties()]


def write_text(folder, text, name="bad.extxyz"):
    path = folder / name
    path.write_text(text)
    return path


def test_files_that_cannot_be_read_say_so(tmp_path, crystal_file):
    good = crystal_file.read_text()
    with pytest.raises(ValueError, match=r"bad\.extxyz' is empty"):
        data.read(write_text(tmp_path, " \n"))
    with pytest.raises(ValueError, match=r"cannot read .*truncated"):
        data.read(write_text(tmp_path, good[: len(good) - 200]))
    with pytest.raises(ValueError, match=r"cannot read .*not in a format"):
        data.read(write_text(tmp_path, "hello, this is\nno structure at all\n"))
    with pytest.raises(ValueError, match=r"cannot read .*not in a format"):
        data.read(write_text(tmp_path, "no format", name="notes.foreign"))
    with pytest.raises(ValueError, match=r"its first 4 structures end at line 40: a blank or foreign line"):
        data.read(write_text(tmp_path, good + "\n" + good))
    (tmp_path / "cut.xyz.xz").write_bytes(lzma.compress(good.encode())[:-30])
    with pytest.raises(ValueError, match=r"cannot decompress"):
        data.read(tmp_path / "cut.xyz.xz")


def test_an_empty_database_holds_no_structure(tmp_path):
    with ase.db.connect(tmp_path / "none.db") as rows:
        rows.delete([rows.write(bulk("Cu"))])
    with pytest.raises(ValueError, match=r"holds no structure"):
        data.read(tmp_path / "none.db")


def test_paths_that_lead_nowhere_say_so(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file"):
        data.read(tmp_path / "missing.xyz")
    with pytest.raises(ValueError, match=r"is a folder"):
        data.read(tmp_path)
    with pytest.raises(ValueError, match=r"0 files were given"):
        data.read([])


def test_choices_that_do_not_exist_say_so(crystal_file):
    with pytest.raises(ValueError, match=r"missing='skip' is not a choice"):
        data.read(crystal_file, missing="skip")
    with pytest.raises(ValueError, match=r"cannot require \['charges'\]"):
        data.read(crystal_file, require=("charges",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.positions.__setitem__((0, 0), np.nan), "bad.traj:1 has 1 NaN or infinite numbers in its pos"),
        (lambda one: one.cell.__setitem__((0, 0), np.inf), "bad.traj:1 has 1 NaN or infinite numbers in its cell"),
        (lambda one: one.calc.results.update(energy=np.nan), "bad.traj:1: energy 'energy' has 1 NaN"),
        (lambda one: one.calc.results["forces"].__setitem__((2, 1), np.inf), "forces 'forces' has 1 NaN or infinite"),
        (
            lambda one: one.info.update(REF_forces="none"),
            r"'REF_forces' is \(\) str, expected numbers of shape \(8, 3\)",
        ),
        (lambda one: one.info.update(REF_forces=np.zeros((3, 8))), r"is \(3, 8\) ndarray, expected numbers"),
        (lambda one: one.info.update(REF_stress=np.zeros(4)), r"'REF_stress' is \(4,\) ndarray"),
        (lambda one: one.info.update(REF_stress=np.triu(np.ones((3, 3)))), "'REF_stress' is not symmetric, by 0.5"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(tmp_path, change, message):
    frames = crystals(2)
    change(frames[1])
    ase.io.write(tmp_path / "bad.traj", frames)
    with pytest.raises(ValueError, match=message):
        data.read(tmp_path / "bad.traj")


def test_a_structure_without_atoms_is_refused(tmp_path):
    ase.io.write(tmp_path / "none.traj", [*crystals(1), Atoms()])
    with pytest.raises(ValueError, match=r"none.traj:1 has no atoms"):
        data.read(tmp_path / "none.traj")


def test_coverage_counts_what_there_is(tmp_path):
    frames = crystals(3)
    twin = frames[0].copy()
    twin.positions += [11.2, 0.3, -0.2]
    labelled(twin, energy=0.0)
    ase.io.write(tmp_path / "a.extxyz", [*frames, twin])
    ase.io.write(tmp_path / "b.extxyz", [plain(water(1)[0], energy=1.0)])
    dataset = data.read([tmp_path / "a.extxyz", tmp_path / "b.extxyz"], missing="mask")
    table = data.coverage(dataset)
    first, second = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (first["structures"], first["atoms"], first["elements"], first["duplicates"]) == (4, 32, "Cl Na", 1)
    assert (first["energy"], first["forces"], first["stress"]) == ("4/4", "4/4", "3/4")
    forces = torch.cat([one.forces for one in dataset.labels[:4]])
    assert first["force rms (eV/Å)"] == pytest.approx(float(forces.square().mean().sqrt()))
    assert first["force max (eV/Å)"] == pytest.approx(float(forces.norm(dim=1).max()))
    assert first["volume per atom (Å³)"] == "21.95 to 21.95"
    distances = dataset.atoms[4].get_all_distances()
    assert second["smallest distance (Å)"] == pytest.approx(distances[distances > 0].min())
    assert (second["forces"], second["force rms (eV/Å)"], second["volume per atom (Å³)"]) == ("0/1", None, None)


def test_of_a_large_file_some_structures_are_looked_at_and_all_are_counted(monkeypatch):
    monkeypatch.setattr(sys.modules["tumble.data.coverage"], "LOOKED_AT", 3)
    dataset = dataset_of([bulk("Cu", a=3.5 + 0.1 * k) for k in range(7)] + [bulk("Cu", a=3.5)])
    table = data.coverage(dataset)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["structures"], row["atoms"], row["duplicates"]) == (8, 8, 1)
    assert row["smallest distance (Å)"] == pytest.approx(3.5 / 2**0.5)
    assert table.note == ("Elements, forces, distances and volumes are those of 3 structures of a file, evenly spaced.")
    assert data.coverage(dataset.select([0, 1, 2])).note == ""


def test_the_smallest_distance_sees_periodic_images_and_lone_atoms():
    lone = data.Dataset([Atoms("He")], [Properties()], ["lone:0"])
    wire = data.Dataset([Atoms("He", cell=[0, 3.3, 0], pbc=(0, 1, 0))], [Properties()], ["wire:0"])
    column = data.coverage(lone).columns.index("smallest distance (Å)")
    assert data.coverage(lone).rows[0][column] == float("inf")
    assert data.coverage(wire).rows[0][column] == pytest.approx(3.3)


def dataset_of(atoms, energies=None):
    values = [None] * len(atoms) if energies is None else energies
    labels = [Properties(None if e is None else torch.tensor(e, dtype=torch.float64)) for e in values]
    return data.Dataset(list(atoms), labels, [f"made:{k}" for k in range(len(atoms))])


def test_split_is_a_partition_that_the_seed_fixes_and_duplicates_do_not_straddle():
    frames = [bulk("Cu", a=3.5 + 0.01 * (k // 2)) for k in range(40)]
    dataset = dataset_of(frames)
    rest, held = data.split(dataset, 0.25, seed=3)
    assert sorted(rest.sources + held.sources) == sorted(dataset.sources)
    assert len(held) == 10
    sizes = [{round(one.get_volume(), 6) for one in part.atoms} for part in (rest, held)]
    assert not sizes[0] & sizes[1]
    assert data.split(dataset, 0.25, seed=3)[1].sources == held.sources
    assert data.split(dataset, 0.25, seed=4)[1].sources != held.sources


def test_split_leaves_something_on_both_sides():
    dataset = dataset_of([bulk("Cu", a=3.5), bulk("Cu", a=3.6)])
    for fraction in (0.01, 0.99):
        assert [len(part) for part in data.split(dataset, fraction)] == [1, 1]
    with pytest.raises(ValueError, match=r"fraction of 1.5"):
        data.split(dataset, 1.5)
    with pytest.raises(ValueError, match=r"1 distinct structures"):
        data.split(dataset_of([bulk("Cu"), bulk("Cu")]), 0.5)


def test_offsets_recover_energies_that_are_sums_over_atoms():
    true = {1: -3.0, 6: -150.0, 8: -430.0}
    frames = [molecule(name) for name in ("H2O", "CH4", "CO2", "CO", "H2", "CH3OH")]
    energies = [sum(true[z] for z in one.numbers) for one in frames]
    found = data.offsets(dataset_of(frames, energies), (8, 1, 6, 92))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, [-430.0, -3.0, -150.0, 0.0], atol=1e-9)


def test_offsets_of_water_alone_are_the_smallest_that_fit():
    dataset = dataset_of([molecule("H2O")] * 3, [-30.0, -31.0, -29.0])
    found = data.offsets(dataset, (1, 8))
    np.testing.assert_allclose(found, [-12.0, -6.0], atol=1e-9)  # 2 h + o = -30 with h, o as small as can be


def test_offsets_pass_over_structures_without_energy_and_refuse_what_they_cannot_fit():
    frames = [bulk("Cu"), bulk("Ag")]
    assert data.offsets(dataset_of(frames, [-3.0, None]), (29, 47)).tolist() == pytest.approx([-3.0, 0.0])
    with pytest.raises(ValueError, match=r"none of 2 structures has an energy"):
        data.offsets(dataset_of(frames), (29, 47))
    with pytest.raises(ValueError, match=r"the data contains Ag, the species are Cu"):
        data.offsets(dataset_of(frames, [-3.0, -2.0]), (29,))
