"""Conversion to a store: every source, its units and signs, what is resumed, and what is passed over."""

import gzip
import io
import json
import sys
import zlib

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from tumble import data
from tumble.cli import main
from tumble.data import extxyz, records
from tumble.data.store import writer

STRESS = np.array([[0.01, 0.002, 0.003], [0.002, 0.02, 0.004], [0.003, 0.004, -0.03]])
VOIGT = STRESS[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
KBAR_OF_VASP = -1602.1766208
"""One eV/Å³ with the sign of ASE in kbar with that of VASP."""


def crystals(n=4, **info):
    frames = []
    for k in range(n):
        one = bulk("NaCl", "rocksalt", a=5.6)
        one.rattle(0.05, seed=k)
        forces = np.random.default_rng(k).normal(size=(2, 3))
        one.calc = SinglePointCalculator(one, energy=-6.0 - k, forces=forces, stress=VOIGT * (k + 1))
        one.info |= info
        frames.append(one)
    return frames


def is_as_expected(dataset, frames):
    assert len(dataset) == len(frames)
    for k, frame in enumerate(frames):
        np.testing.assert_allclose(dataset.atoms[k].positions, frame.positions, atol=1e-7)
        np.testing.assert_allclose(dataset.atoms[k].cell.array, frame.cell.array, atol=1e-12)
        assert dataset.atoms[k].pbc.all()
        label = dataset.labels[k]
        assert float(label.energy) == pytest.approx(frame.calc.results["energy"])
        np.testing.assert_allclose(label.forces, frame.calc.results["forces"], atol=1e-6)
        np.testing.assert_allclose(label.stress, STRESS * (k + 1), atol=1e-8)
    return True


def pymatgen(atoms):
    """A structure as pymatgen writes it."""
    sites = [
        {"species": [{"element": symbol, "occu": 1}], "abc": scaled.tolist(), "xyz": position.tolist(), "label": symbol}
        for symbol, scaled, position in zip(
            atoms.symbols, atoms.get_scaled_positions(wrap=False), atoms.positions, strict=True
        )
    ]
    lattice = {"matrix": atoms.cell.array.tolist(), "pbc": [True, True, True], "volume": atoms.get_volume()}
    return {"@module": "pymatgen.core.structure", "charge": 0, "lattice": lattice, "sites": sites}


def mptrj(frames):
    """MPtrj as published: object of objects of records, stresses in kbar with the sign of VASP."""
    found = {}
    for k, frame in enumerate(frames):
        energy = frame.calc.results["energy"]
        found.setdefault(f"mp-{k // 2}", {})[f"mp-{k // 2}-0-{k}"] = {
            "structure": pymatgen(frame),
            "uncorrected_total_energy": energy,
            "corrected_total_energy": energy - 1.0,
            "energy_per_atom": (energy - 1.0) / 2,
            "force": frame.calc.results["forces"].tolist(),
            "stress": (STRESS * (k + 1) * KBAR_OF_VASP).tolist(),
            "magmom": None,
            "mp_id": f"mp-{k // 2}",
        }
    return found


def matpes(frames):
    """MatPES as published: a list of records, stresses as six numbers."""
    return [
        {
            "matpes_id": f"matpes-{k}",
            "nsites": 2,
            "structure": pymatgen(frame),
            "energy": frame.calc.results["energy"],
            "forces": frame.calc.results["forces"].tolist(),
            "stress": (VOIGT * (k + 1) * KBAR_OF_VASP).tolist(),
            "provenance": {"original_mp_id": "mp-1"},
        }
        for k, frame in enumerate(frames)
    ]


def write_aselmdb(path, rows, deleted=()):
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), subdir=False, map_size=1 << 22) as environment, environment.begin(write=True) as writing:

        def put(key, value):
            writing.put(key.encode(), zlib.compress(json.dumps(value).encode()))

        put("nextid", len(rows) + 1)
        put("deleted_ids", list(deleted))
        put("metadata", {"format_version": 1})
        for one, row in enumerate(rows, start=1):
            if one not in deleted and row is not None:
                put(str(one), row)


def row_of(atoms, **data_of_row):
    results = {name: np.asarray(value).tolist() for name, value in atoms.calc.results.items()}
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": {"__ndarray__": [[len(atoms), 3], "float64", atoms.positions.ravel().tolist()]},
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
        "ctime": 1.0,
        "unique_id": "0",
        "calculator": "unknown",
        "key_value_pairs": {},
        "data": data_of_row,
        **results,
    }


def sources(folder, form):
    """A file of four crystals in this form."""
    frames, path = crystals(), folder / f"set.{form}"
    if form == "db":
        with ase.db.connect(path) as rows:
            for one in frames:
                rows.write(one)
    elif form == "aselmdb":
        write_aselmdb(path, [row_of(one) for one in frames])
    elif form in ("json", "jsonl"):
        text = json.dumps(mptrj(frames)) if form == "json" else "\n".join(map(json.dumps, matpes(frames)))
        path.write_text(text)
    elif form == "json.gz":
        path.write_bytes(gzip.compress(json.dumps(matpes(frames), indent=1).encode()))
    elif form == "extxyz.gz":
        ase.io.write(folder / "plain.extxyz", frames)
        path.write_bytes(gzip.compress((folder / "plain.extxyz").read_bytes()))
    else:
        ase.io.write(path, frames)
    return path


FORMS = ("extxyz", "extxyz.gz", "traj", "db", "aselmdb", "json", "jsonl", "json.gz")


@pytest.mark.parametrize("form", FORMS)
def test_every_source_comes_out_in_our_units_and_signs(tmp_path, form):
    path = sources(tmp_path, form)
    done = data.convert(path, tmp_path / "set.store")
    assert (done.added, done.skipped) == (4, 0)
    dataset = done.store.dataset()
    assert is_as_expected(dataset, crystals())
    assert list(dataset.sources) == [f"{path}:{k}" for k in range(4)]
    assert is_as_expected(data.read(path), crystals())


@pytest.mark.parametrize("form", FORMS)
def test_a_conversion_goes_on_where_it_was_stopped(tmp_path, form, monkeypatch):
    path = sources(tmp_path, form)
    monkeypatch.setattr(writer, "STRUCTURES_PER_CHUNK", 1)
    entries = data.Store.append

    def stopped(store, found):
        entries(store, (one for _, one in zip(range(3), found, strict=False)))

    with monkeypatch.context() as patch:
        patch.setattr(data.Store, "append", stopped)
        assert data.convert(path, tmp_path / "set.store", append=True).added == 3
    again = data.convert(path, tmp_path / "set.store", append=True)
    assert again.added == 1
    assert data.convert(path, tmp_path / "set.store", append=True).added == 0
    assert again.store.digest == data.convert(path, tmp_path / "whole.store").store.digest
    assert is_as_expected(again.store.dataset(), crystals())


def test_frames_that_are_in_the_store_are_not_parsed_again(tmp_path, monkeypatch):
    path = sources(tmp_path, "extxyz")
    data.convert(path, tmp_path / "set.store")
    ase.io.write(path, crystals(6))
    parsed, read = [], extxyz.read_xyz
    monkeypatch.setattr(extxyz, "read_xyz", lambda *args, **rest: parsed.append(1) or read(*args, **rest))
    assert data.convert(path, tmp_path / "set.store", append=True).added == 2
    assert len(parsed) == 2


def test_virials_charges_groups_and_weights_come_along(tmp_path):
    one = crystals(1, config_type="bulk", config_weight=2.5)[0]
    one.info["REF_virial"] = -STRESS * one.get_volume()
    del one.calc.results["stress"]
    two = molecule("OH")
    two.info |= {"charge": -1, "spin": 1, "weight": 0.25, "REF_energy": -9.0, "dft_forces": "none"}
    two.arrays["REF_forces"] = np.ones((2, 3))
    ase.io.write(tmp_path / "two.extxyz", [one, two])
    dataset = data.convert(tmp_path / "two.extxyz", tmp_path / "set.store").store.dataset()
    np.testing.assert_allclose(dataset.labels[0].stress, STRESS, atol=1e-8)
    assert dataset.labels[1].stress is None
    assert list(dataset.groups) == ["bulk", ""]
    assert dataset.weights.tolist() == [2.5, 0.25]
    assert dataset.atoms[1].info == {"charge": -1, "config_weight": 0.25}
    assert dataset.known.tolist() == [7, 3]


def test_labels_that_are_missing_are_masked(tmp_path):
    frames = crystals(3)
    del frames[1].calc.results["forces"]
    ase.io.write(tmp_path / "some.extxyz", frames)
    with pytest.raises(ValueError, match=r"some\.extxyz:1 lacks forces"):
        data.convert(tmp_path / "some.extxyz", tmp_path / "strict.store")
    masked = data.StoreSettings(missing="mask")
    dataset = data.convert(tmp_path / "some.extxyz", tmp_path / "set.store", masked).store.dataset()
    assert [label.forces is None for label in dataset.labels] == [False, True, False]
    with pytest.raises(ValueError, match=r"none of 3 structures has an energy .looked for typo"):
        data.convert(
            tmp_path / "some.extxyz", tmp_path / "typo.store", data.StoreSettings(missing="mask", energy_key="typo")
        )


def test_the_other_energy_of_mptrj_is_asked_for_by_name(tmp_path):
    path = sources(tmp_path, "json")
    chosen = data.StoreSettings(energy_key="corrected_total_energy")
    assert data.convert(path, tmp_path / "set.store", chosen).store.dataset().energies.tolist() == [-7, -8, -9, -10]


def test_a_collection_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "CHUNK", 7)
    for found in (mptrj(crystals()), matpes(crystals())):
        text = io.StringIO(json.dumps(found, indent=2))
        frames = records.frames(text)
        first, parse = next(frames)
        assert (first, str(parse().symbols)) == (0, "NaCl")
        assert text.tell() < len(text.getvalue()) / 2
        assert [frame for frame, _ in frames] == [1, 2, 3]
    assert list(records.frames(io.StringIO("[]"))) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"structure": {}} {"a": 1}]', r"',' was expected in the JSON, and there is '\{'"),
        ('[{"structure": {}}', r"',' was expected in the JSON, and there is 'the end of the file'"),
        ('[{"structure": {}}] 5', r"there is something behind the end of the JSON"),
        ('[{"structure": {', r"Expecting property name"),
    ],
)
def test_a_collection_that_is_no_json_says_so(text, message):
    with pytest.raises(ValueError, match=message):
        list(records.frames(io.StringIO(text)))


def test_a_record_must_be_an_ordered_structure(tmp_path):
    found = matpes(crystals(2))
    found[1]["structure"]["sites"][1]["species"] = [{"element": "Na", "occu": 0.5}, {"element": "Cl", "occu": 0.5}]
    (tmp_path / "a.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"a\.json:1': site 1 is not occupied by one element alone"):
        data.read(tmp_path / "a.json")
    ((_, parse),) = records.frames(io.StringIO("[5]"))
    with pytest.raises(ValueError, match="it is no record with a structure"):
        parse()


def test_deuterium_and_charges_of_pymatgen_are_understood():
    (record,) = matpes(crystals(1))
    record["structure"]["sites"][0]["species"] = [{"element": "D", "occu": 1}]
    del record["structure"]["sites"][0]["xyz"]
    record["structure"]["charge"] = 1
    ((_, parse),) = records.frames(io.StringIO(json.dumps([record])))
    assert str(parse().symbols) == "HCl"
    assert parse().info["charge"] == 1
    np.testing.assert_allclose(parse().positions, crystals(1)[0].positions, atol=1e-12)


def test_rows_of_an_aselmdb_that_were_deleted_are_not_frames(tmp_path):
    rows = [row_of(one, charge=k, spin=2) for k, one in enumerate(crystals())]
    write_aselmdb(tmp_path / "set.aselmdb", rows, deleted=[2])
    dataset = data.read(tmp_path / "set.aselmdb")
    assert [float(label.energy) for label in dataset.labels] == [-6.0, -8.0, -9.0]
    assert [one.info["charge"] for one in dataset.atoms] == [0, 2, 3]
    assert [one.info["spin"] for one in dataset.atoms] == [2, 2, 2]
    write_aselmdb(tmp_path / "gap.aselmdb", [rows[0], None])
    with pytest.raises(ValueError, match=r"gap\.aselmdb:1': it has no row 2, and does not say that it was deleted"):
        data.read(tmp_path / "gap.aselmdb")


def test_an_aselmdb_without_its_module_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "set.aselmdb").write_bytes(b"anything")
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ImportError, match=r"pip install 'tumble\[lmdb\]'"):
        data.read(tmp_path / "set.aselmdb")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], r"frame 2 begins at line 9 and is not complete"),
        (lambda lines: [*lines[:8], "two\n", *lines[9:]], r"line 9 should be a number of atoms, and is 'two'"),
        (lambda lines: [*lines[:8], "\n", *lines[8:]], r"its first 2 structures end at line 8: a blank or foreign"),
    ],
)
def test_an_extxyz_that_cannot_be_cut_apart_says_where(tmp_path, change, message):
    ase.io.write(tmp_path / "set.extxyz", crystals(3))
    lines = (tmp_path / "set.extxyz").read_text().splitlines(keepends=True)
    with pytest.raises(ValueError, match=message):
        list(extxyz.frames(io.StringIO("".join(change(lines)))))


def test_lattice_vectors_may_follow_the_atoms():
    text = "1\nmade by hand\nH 0 0 0\nVEC1 3 0 0\nVEC2 0 4 0\nVEC3 0 0 5\n" * 2
    (_, first), (_, second) = extxyz.frames(io.StringIO(text))
    assert first().cell.lengths().tolist() == second().cell.lengths().tolist() == [3, 4, 5]


def test_bad_frames_stop_a_conversion_or_are_listed(tmp_path):
    frames = crystals(4)
    frames[1].calc.results["energy"] = np.nan
    ase.io.write(tmp_path / "a.traj", frames)
    ase.io.write(tmp_path / "b.extxyz", crystals(3))
    lines = (tmp_path / "b.extxyz").read_text().splitlines(keepends=True)
    lines[6] = "Cl here and there\n"
    (tmp_path / "b.extxyz").write_text("".join([*lines[:8], "end\n"]))
    files, path = [tmp_path / "a.traj", tmp_path / "b.extxyz"], tmp_path / "set.store"
    with pytest.raises(ValueError, match=r"a\.traj:1: energy 'energy' has 1 NaN"):
        data.convert(files, path)
    assert len(data.Store.open(path)) == 1
    done = data.convert(files, path, data.StoreSettings(skip_bad=True), append=True)
    assert (done.added, done.skipped) == (3, 3)
    assert [source.rpartition("/")[2] for source in done.store.dataset().sources] == [
        "a.traj:0",
        "a.traj:2",
        "a.traj:3",
        "b.extxyz:0",
    ]
    listed = (path / "skipped.txt").read_text().splitlines()
    assert [line.split("\t")[0].rpartition("/")[2] for line in listed] == [
        "a.traj:1",
        "b.extxyz:1",
        "b.extxyz behind frame 1",
    ]
    assert "ValueError" in listed[1] or "could not convert" in listed[1]
    assert "line 9 should be a number of atoms, and is 'end'" in listed[2]
    data.convert(files, path, data.StoreSettings(skip_bad=True), append=True)
    assert (path / "skipped.txt").read_text().splitlines() == listed


def test_a_conversion_without_a_good_frame_says_where_to_look(tmp_path):
    ase.io.write(tmp_path / "bare.extxyz", [molecule("H2O")])
    with pytest.raises(ValueError, match=r"none of the frames can be used; .*skipped\.txt says why"):
        data.convert(tmp_path / "bare.extxyz", tmp_path / "set.store", data.StoreSettings(skip_bad=True))


def test_weights_that_make_no_sense_name_their_frame(tmp_path):
    frames = crystals(2)
    frames[1].info["config_weight"] = "heavy"
    ase.io.write(tmp_path / "a.extxyz", frames)
    with pytest.raises(ValueError, match=r"a\.extxyz:1: the weight of a structure is 'heavy'"):
        data.read(tmp_path / "a.extxyz")


def test_a_store_is_a_source_too(tmp_path):
    one = data.convert(sources(tmp_path, "traj"), tmp_path / "one.store").store
    two = data.convert([one.path], tmp_path / "two.store").store
    assert two.digest == one.digest
    assert data.convert([one.path], two.path, append=True).added == 0
    assert list(two.dataset().sources) == [f"{one.path}:{k}" for k in range(4)]


def test_a_conversion_says_how_far_it_is_and_counts_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["tumble.data.convert"], "SECONDS_PER_WORD", 0.0)
    told = []
    path = sources(tmp_path, "traj")
    done = data.convert(path, tmp_path / "set.store", data.StoreSettings(cutoff=3.0), tell=told.append)
    assert [one.done for one in told] == [1, 2, 3, 4, 4]
    assert told[0].message.endswith("set.traj")
    expected = data.read(path).pair_counts(3.0)
    assert np.array_equal(done.store.known_pair_counts(3.0), expected)


def test_the_command_stores_appends_checks_and_tells(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ase.io.write("a.extxyz", crystals(3))
    ase.io.write("b.extxyz", crystals(2))
    assert main(["store", "a.extxyz", "-o", "set.store", "--cutoff", "3.5"]) == 0
    assert "3 structures added" in capsys.readouterr().out
    assert main(["store", "a.extxyz", "b.extxyz", "-o", "set.store"]) == 2
    assert "is a store already" in capsys.readouterr().err
    assert main(["store", "a.extxyz", "b.extxyz", "-o", "set.store", "--append", "--check"]) == 0
    said = capsys.readouterr().out
    assert "2 structures added" in said
    assert "5 structures, 10 atoms" in said
    assert "(checked)" in said
    assert main(["store", "set.store"]) == 0
    assert "(not checked)" in capsys.readouterr().out
    assert main(["store", "a.extxyz"]) == 2
    assert "1 files and no store to write them to" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"and no store to write them to\. Add -o FOLDER"):
        main(["store", "a.extxyz", "--debug"])
    (tmp_path / "bad.extxyz").write_text("1\nenergy=nan\nH 0 0 0\n")
    words = ["store", "bad.extxyz", "-o", "set.store", "--append", "--skip-bad", "--require", "energy"]
    assert main(words) == 0
    assert "1 frames could not be used; set.store/skipped.txt lists them" in capsys.readouterr().out


def test_structures_of_a_converted_store_are_those_of_the_file(tmp_path):
    path = sources(tmp_path, "extxyz")
    kept = data.convert(path, tmp_path / "set.store").store.dataset()
    for one, other in zip(kept.atoms, data.read(path).atoms, strict=True):
        assert isinstance(one, Atoms)
        assert np.array_equal(one.positions, other.positions)
    labels = zip(kept.labels, data.read(path).labels, strict=True)
    assert all(torch.equal(one.energy, other.energy) for one, other in labels)
