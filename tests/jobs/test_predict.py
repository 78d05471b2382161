"""Predictions for files: streamed, complete after whatever happens, and continued to the same bytes."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

import tumble
from tumble import data
from tumble.jobs import predict as job
from tumble.jobs.predict import complete_frames, digest, labelled, mark_of, predict_files
from tumble.models.pair import LennardJones
from tumble.packs import predict
from tumble.potential import Direct, Gradient, Potential
from tumble.testing import structures


def argon(epsilon=0.01):
    return Gradient(LennardJones(epsilon, 3.4))


def crystals(n):
    frames = [bulk("Ar", cubic=True) for _ in range(n)]
    for seed, one in enumerate(frames):
        one.rattle(0.1, seed=seed)
    return frames


@pytest.fixture
def folder(tmp_path):
    """A folder of 7 structures in 4 files, and things that are no structures."""
    path = tmp_path / "crystals"
    path.mkdir()
    frames = crystals(7)
    ase.io.write(path / "b.extxyz", frames[1:4])
    ase.io.write(path / "a.cif", frames[0])
    ase.io.write(path / "c.xyz", frames[4:6], format="extxyz")
    ase.io.write(path / "POSCAR.6", frames[6], format="vasp")
    for name in ("README.md", ".hidden.xyz", "log.txt"):
        (path / name).write_text("no structure")
    (path / "d.extxyz").mkdir()
    return path


def test_answers_are_those_of_predict_and_carry_where_they_belong(folder, tmp_path):
    table = predict_files(argon(), [folder], tmp_path / "new" / "out.extxyz")
    written = ase.io.read(tmp_path / "new" / "out.extxyz", ":")
    read = list(data.frames(folder))
    for one, (_, atoms), answer in zip(written, read, predict(argon(), [one for _, one in read]), strict=True):
        assert one.get_potential_energy() == float(answer.energy)
        np.testing.assert_allclose(one.get_forces(), answer.forces, atol=1e-8)
        np.testing.assert_allclose(one.get_stress(voigt=False), answer.stress, rtol=1e-12)
        assert one.info["tumble"] == mark_of(digest(argon()), atoms)
    assert [row[0] for row in table.rows] == [
        *("POSCAR.6:0", "a.cif:0", "b.extxyz:0", "b.extxyz:1", "b.extxyz:2", "c.xyz:0", "c.xyz:1"),
    ]
    assert "7 structures with 28 atoms" in table.note


def test_a_long_input_makes_a_short_table(tmp_path):
    frames = crystals(25)
    frames[17].rattle(0.3, seed=0)
    ase.io.write(tmp_path / "in.xyz", frames, format="extxyz")
    table = predict_files(argon(), [tmp_path / "in.xyz"])
    assert len(table.rows) == 10
    assert "the first 10 are shown" in table.note
    assert "is in in.xyz:17" in table.note


def test_what_a_file_says_besides_is_kept_and_old_labels_are_not(tmp_path):
    one = labelled(bulk("Ar"), predict(argon(1.0), bulk("Ar"))[0])
    one.info.update(name="solid argon", REF_energy=-1.5)
    one.arrays["site"] = np.array([7])
    ase.io.write(tmp_path / "in.extxyz", one)
    predict_files(argon(), [tmp_path / "in.extxyz"], tmp_path / "out.extxyz")
    (again,) = ase.io.read(tmp_path / "out.extxyz", ":")
    assert (again.info["name"], again.info["REF_energy"], int(again.arrays["site"][0])) == ("solid argon", -1.5, 7)
    assert again.get_potential_energy() == float(predict(argon(), bulk("Ar"))[0].energy)


def test_a_line_break_in_a_name_does_not_break_the_file(tmp_path):
    with ase.db.connect(tmp_path / "in.db") as rows:
        rows.write(bulk("Ar"), key_value_pairs={"note": "two\nlines"})
    predict_files(argon(), [tmp_path / "in.db"], tmp_path / "out.extxyz")
    atoms = bulk("Ar")
    atoms.info["note"] = "two\nlines"
    ase.io.write(tmp_path / "one.extxyz", labelled(atoms, predict(argon(), atoms)[0]))
    assert len(ase.io.read(tmp_path / "one.extxyz", ":")) == len(ase.io.read(tmp_path / "out.extxyz", ":")) == 1


def test_a_molecule_has_no_stress_and_a_potential_without_one_writes_none(tmp_path):
    ase.io.write(tmp_path / "in.xyz", [Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]])], format="extxyz")
    table = predict_files(argon(), [tmp_path / "in.xyz"], tmp_path / "out.xyz")
    assert table.rows[0][-1] is None
    (one,) = ase.io.read(tmp_path / "out.xyz", ":")
    assert "stress" not in one.calc.results


# --------------------------------------------------------------------------------------------------------------- resume


@pytest.fixture
def whole(folder, tmp_path):
    """The output of a run that was not interrupted."""
    predict_files(argon(), [folder], tmp_path / "whole.extxyz", pairs_per_batch=1)
    return (tmp_path / "whole.extxyz").read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.003, 0.1, 0.35, 0.5, 0.72, 0.9999, 1.0])
def test_a_file_cut_anywhere_is_continued_to_the_same_bytes(folder, tmp_path, whole, share):
    out = tmp_path / "out.extxyz"
    out.write_bytes(whole[: round(share * len(whole))])
    kept = len(list(complete_frames(out)))
    table = predict_files(argon(), [folder], out, resume=True, pairs_per_batch=1)
    assert out.read_bytes() == whole
    assert len(table.rows) == 7 - kept
    assert (f"{kept} more were in" in table.note) == bool(kept)


def test_resuming_what_is_not_there_begins(folder, tmp_path, whole):
    predict_files(argon(), [folder], tmp_path / "out.extxyz", resume=True, pairs_per_batch=1)
    assert (tmp_path / "out.extxyz").read_bytes() == whole


def test_what_is_kept_is_not_computed_again(folder, tmp_path, whole):
    lines = whole.decode().splitlines(keepends=True)
    out = tmp_path / "out.extxyz"
    out.write_text("".join(lines[: 6 * 3]))
    told = []
    predict_files(argon(), [folder], out, resume=True, tell=told.append)
    assert told[-1].done == 4


@pytest.mark.parametrize("change", ["weights", "precision", "head", "order", "positions", "charge", "mark"])
def test_answers_to_another_question_are_not_continued(folder, tmp_path, whole, change):
    out, potential, files = tmp_path / "out.extxyz", argon(), [folder]
    out.write_bytes(whole)
    if change == "weights":
        potential = argon(0.02)
    elif change == "precision":
        potential = argon().float()
    elif change == "head":
        potential = tumble.symmetrize(argon(), "T")
    elif change == "order":
        files = [folder / name for name in ("b.extxyz", "a.cif", "c.xyz", "POSCAR.6")]
    elif change == "mark":
        out.write_bytes(whole.replace(b" tumble=", b" trouble="))
    else:
        frames = [one for _, one in data.frames(folder)]
        if change == "charge":
            frames[2].info["charge"] = 1
        else:
            frames[2].positions[0, 0] += 1e-3
        (tmp_path / "moved").mkdir()
        for k, one in enumerate(frames):
            ase.io.write(tmp_path / "moved" / f"{k}.traj", one)
        files = [tmp_path / "moved"]
    before = out.read_bytes()
    frame = 2 if change in ("positions", "charge") else 0
    with pytest.raises(
        ValueError, match=rf"frame {frame} of .* has the mark .* but id_\w+ was expected for .*Give the"
    ):
        predict_files(potential, files, out, resume=True)
    assert out.read_bytes() == before


def test_more_answers_than_structures_are_refused(folder, tmp_path, whole):
    (tmp_path / "out.extxyz").write_bytes(whole)
    with pytest.raises(ValueError, match=r"has 7 frames, but there are only 2 structures"):
        predict_files(argon(), [folder / "POSCAR.6", folder / "a.cif"], tmp_path / "out.extxyz", resume=True)
    assert (tmp_path / "out.extxyz").read_bytes() == whole


def test_a_file_that_is_no_list_of_frames_is_refused(folder, tmp_path):
    (tmp_path / "out.extxyz").write_text("precious notes\n")
    with pytest.raises(ValueError, match=r"has b'precious notes.*' after 0 frames, where the number of atoms"):
        predict_files(argon(), [folder], tmp_path / "out.extxyz", resume=True)
    assert (tmp_path / "out.extxyz").read_text() == "precious notes\n"


def test_the_digest_is_that_of_the_potential_and_not_of_its_file(tmp_path):
    from tumble import checkpoint

    checkpoint.save(argon(), tmp_path / "one.safetensors")
    assert digest(checkpoint.load(tmp_path / "one.safetensors")) == digest(argon())
    others = [
        argon(0.02),
        argon().float(),
        Gradient(LennardJones(0.01, 3.4, cutoff=9.0)),
        tumble.symmetrize(argon(), "T"),
    ]
    others += [tumble.symmetrize(argon(), "O"), tumble.load("ase:ase.calculators.emt:EMT"), tumble.load("water")]
    others += [tumble.load("ase:ase.calculators.lj:LennardJones")]
    if tumble.load("water").model.has_direct_forces:
        others.append(Direct(tumble.load("water").model))
    digests = [digest(one) for one in (argon(), *others)]
    assert len(set(digests)) == len(digests)


# --------------------------------------------------------------------------------------------------------- what happens


def test_a_bad_structure_leaves_all_before_it_in_the_file(tmp_path):
    frames = crystals(6)
    frames[4].positions[1] = frames[4].positions[0] + [0, 0, 0.01]
    ase.io.write(tmp_path / "in.extxyz", frames)
    out = tmp_path / "out.extxyz"
    with pytest.raises(ValueError, match=r"atoms . and . of .*in\.extxyz:4 are 0\.0\d+ Å apart"):
        predict_files(argon(), [tmp_path / "in.extxyz"], out)
    assert len(ase.io.read(out, ":")) == 4
    ase.io.write(tmp_path / "in.extxyz", [*frames[:4], frames[5]])
    predict_files(argon(), [tmp_path / "in.extxyz"], out, resume=True)
    assert len(ase.io.read(out, ":")) == 5


def test_a_file_that_is_broken_is_named_in_its_turn(folder, tmp_path):
    (folder / "z.extxyz").write_text("3\n\nAr 0 0 0\n")
    with pytest.raises(ValueError, match=r"z\.extxyz"):
        predict_files(argon(), [folder], tmp_path / "out.extxyz")
    assert len(ase.io.read(tmp_path / "out.extxyz", ":")) == 7


def test_an_output_is_replaced_only_once_there_is_an_answer(folder, tmp_path, whole):
    out = tmp_path / "out.extxyz"
    out.write_text("precious")
    with pytest.raises(ValueError, match="unknown to this model"):
        predict_files(tumble.load("water"), [folder], out)
    assert out.read_text() == "precious"
    predict_files(argon(), [folder], out, pairs_per_batch=1)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("name", ["b.extxyz", "answers.extxyz"])
def test_an_output_among_the_inputs_is_refused(folder, name):
    with pytest.raises(ValueError, match=r"is one of the 4 files to read, or lies in a folder that is read"):
        predict_files(argon(), [folder], folder / name)
    predict_files(argon(), [folder / "a.cif"], folder / "answers.extxyz")


def test_a_full_disk_leaves_whole_frames(folder, tmp_path, monkeypatch):
    out, room = tmp_path / "out.extxyz", [2.5]

    class Disk:
        """A file that takes two frames and a half."""

        def __init__(self, *args, **options):
            self.file = real(*args, **options)

        def write(self, frame):
            part = frame[: round(len(frame) * min(room[0], 1))]
            room[0] -= 1
            return self.file.write(part)

        def __getattr__(self, name):
            return getattr(self.file, name)

    real = open
    monkeypatch.setattr(job, "open", Disk, raising=False)
    with pytest.raises(RuntimeError, match=r"\d+ of the \d+ bytes of a frame fitted into .*--resume"):
        predict_files(argon(), [folder], out)
    assert len(list(complete_frames(out))) == len(ase.io.read(out, ":")) == 2
    monkeypatch.undo()
    predict_files(argon(), [folder], out, resume=True)
    assert len(ase.io.read(out, ":")) == 7


def test_a_run_that_is_killed_leaves_what_it_wrote(tmp_path):
    ase.io.write(tmp_path / "in.extxyz", crystals(3000))
    out = tmp_path / "out.extxyz"
    code = f"""
from tumble.jobs.predict import predict_files
from tumble.models.pair import LennardJones
from tumble.potential import Gradient
predict_files(Gradient(LennardJones(0.01, 3.4)), ["{tmp_path / "in.extxyz"}"], "{out}", pairs_per_batch=100)
"""
    run = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    while not (out.exists() and out.stat().st_size > 20_000) and run.poll() is None:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = list(complete_frames(out))
    assert 0 < len(kept) < 3000
    assert kept[-1].end == out.stat().st_size
    assert len(ase.io.read(out, ":")) == len(kept)


def test_memory_does_not_grow_with_the_number_of_structures(tmp_path):
    """Numbers in tensors that live at a time, for 10 and for 50 packs."""

    class Counting(Potential):
        cutoff, species, is_conservative = 4.0, None, True

        def __init__(self):
            super().__init__()
            self.worst = 0

        def forward(self, batch):
            import gc

            alive = sum(one.numel() for one in gc.get_objects() if type(one) is torch.Tensor)
            self.worst = max(self.worst, alive)
            return tumble.Properties(torch.zeros(batch.n_structures), torch.zeros_like(batch.positions))

    worst = []
    for n in (120, 600):
        ase.io.write(tmp_path / f"{n}.extxyz", crystals(n))
        potential = Counting()
        predict_files(potential, [tmp_path / f"{n}.extxyz"], tmp_path / "out.extxyz", pairs_per_batch=1000)
        worst.append(potential.worst)
    assert (
        worst[1] < 3 * worst[0]
    )  # a thread may be in the middle of another pack; all of them would be 5 times as many


def test_answers_do_not_depend_on_how_they_are_packed(tmp_path):
    frames = [one for one in structures((18,)) if len(one) > 1]
    ase.io.write(tmp_path / "in.traj", frames)
    energies = []
    for pairs in (1, 200, 10**6):
        predict_files(argon(), [tmp_path / "in.traj"], tmp_path / "out.xyz", pairs_per_batch=pairs)
        energies.append([one.get_potential_energy() for one in ase.io.read(tmp_path / "out.xyz", ":")])
    for one, other in itertools.pairwise(energies):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_a_database_is_read_in_one_thread(tmp_path):
    with ase.db.connect(tmp_path / "in.db") as rows:
        for one in crystals(12):
            rows.write(one)
    predict_files(argon(), [tmp_path / "in.db"], tmp_path / "out.xyz", pairs_per_batch=100)
    cut = Path(tmp_path / "out.xyz").read_bytes()
    Path(tmp_path / "out.xyz").write_bytes(cut[: len(cut) // 2])
    predict_files(argon(), [tmp_path / "in.db"], tmp_path / "out.xyz", pairs_per_batch=100, resume=True)
    assert Path(tmp_path / "out.xyz").read_bytes() == cut


def test_a_water_molecule_of_the_packaged_potential(tmp_path):
    ase.io.write(tmp_path / "in.xyz", molecule("H2O"), format="extxyz")
    table = predict_files(tumble.load("water"), [str(tmp_path / "*.xyz")], tmp_path / "out.extxyz")
    assert table.rows[0][1] == "H2O"
    assert -500 < float(str(table.rows[0][2])) < -400
