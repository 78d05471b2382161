"""Files of a simulation: H5MD that others read, and changes that reach the disk all or not at all."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.units import fs

from tumble.jobs.md import aside, disk
from tumble.jobs.md.aside import PAGE, Aside, recover
from tumble.jobs.md.desk import Desk, columns, read_series
from tumble.jobs.md.frames import frames_at
from tumble.jobs.md.motion import Instant
from tumble.jobs.md.settings import MDSettings
from tumble.trajectories import read


class Killed(BaseException):
    """Stands for a kill: no handler of errors sees it."""


def instant(step: int) -> Instant:
    return Instant(
        step, step * 0.001, -1.5, 0.5, 0.25, -1.25, 300.0, {"Si": 301.0}, np.zeros(3), np.ones(3), 160.0, None
    )


def silicon() -> Atoms:
    atoms = bulk("Si")
    atoms.set_velocities([[0.01 / fs, 0, 0], [0, -0.01 / fs, 0]])
    return atoms


def test_h5md_is_read_by_mdanalysis_and_by_tumble(tmp_path):
    pytest.importorskip("h5py")
    reader = pytest.importorskip("MDAnalysis.coordinates.H5MD").H5MDReader
    atoms, written = silicon(), []
    frames = frames_at(tmp_path, "h5md", [atoms])
    for step in range(0, 50, 10):
        atoms.positions[0, 0] = step
        written.append(atoms.copy())
        frames.write(atoms, instant(step), 0)
    assert frames.settle() == [5]
    frames.close()
    found = reader(str(tmp_path / "trajectory.h5md"))
    try:
        assert found.n_frames == 5
        assert found[3].time == pytest.approx(0.03)
        assert found[3].data["step"] == 30
        assert found[3].data["conserved_energy"] == -1.25
        assert found[3].positions == pytest.approx(written[3].positions, abs=1e-5)
        assert found[3].velocities[0, 0] == pytest.approx(10.0, rel=1e-6)  # Å/ps
        assert found[3].dimensions == pytest.approx(written[3].cell.cellpar(), rel=1e-5)
    finally:
        found.close()
    ours = read(tmp_path / "trajectory.h5md")
    assert ours.times_ps == pytest.approx([0, 0.01, 0.02, 0.03, 0.04])
    assert ours.velocities[2] == pytest.approx(written[2].get_velocities() * fs, rel=1e-6)
    assert ours.numbers.tolist() == [14, 14]


def test_several_structures_have_a_group_each(tmp_path):
    pytest.importorskip("h5py")
    structures = [molecule("H2O"), silicon()]
    frames = frames_at(tmp_path, "h5md", structures)
    for step in (0, 1):
        for k, atoms in enumerate(structures):
            frames.write(atoms, instant(step), k)
    assert frames.settle() == [2, 2]
    assert len(read(tmp_path / "trajectory.h5md", structure=1).numbers) == 2
    assert read(tmp_path / "trajectory.h5md", structure=0).pbc.tolist() == [False] * 3
    text = frames_at(tmp_path, "extxyz", structures)
    for k, atoms in enumerate(structures):
        text.write(atoms, instant(0), k)
    text.close()
    assert len(read(tmp_path / "trajectory.extxyz", structure=0).numbers) == 3


def test_frames_behind_a_mark_are_cut_off_and_missing_ones_are_noticed(tmp_path):
    pytest.importorskip("h5py")
    frames = frames_at(tmp_path, "h5md", [silicon()])
    for step in range(6):
        frames.write(silicon(), instant(step), 0)
    frames.settle()
    frames = frames_at(tmp_path, "h5md", [silicon()], [4])
    frames.write(silicon(), instant(40), 0)
    assert frames.settle() == [5]
    assert read(tmp_path / "trajectory.h5md", stride=4).times_ps == pytest.approx([0, 0.04])
    with pytest.raises(ValueError, match=r"has 5 frames, and 9 had been written at the last restart"):
        frames_at(tmp_path, "h5md", [silicon()], [9])


def test_h5md_without_h5py_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r"a trajectory in H5MD needs h5py.*tumble\[analysis\]"):
        frames_at(tmp_path, "h5md", [silicon()])


def changed(path: Path) -> bytes:
    """A file of three pages and some, in which old bytes are replaced and new ones follow; returns the new content."""
    with Aside(path) as file:
        assert file.read() == b"a" * (3 * PAGE + 10)
        file.seek(PAGE - 2)
        file.write(b"bbbb")
        file.seek(0, os.SEEK_END)
        file.write(b"c" * (2 * PAGE))
        file.seek(0)
        content = file.read()
        file.commit()
    return content


def test_changes_reach_the_disk_when_they_are_committed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a" * (3 * PAGE + 10))
    content = changed(path)
    assert path.read_bytes() == content
    assert content[PAGE - 3 : PAGE + 3] == b"abbbba"
    assert len(content) == 5 * PAGE + 10
    with Aside(path) as file:
        file.truncate(5)
        assert file.tell() == 0
        file.commit()
    assert path.read_bytes() == b"aaaaa"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [Killed, OSError(errno.ENOSPC, "No space left on device")], ids=["kill", "full disk"])
def test_a_change_that_is_cut_off_anywhere_is_made_or_not_made(tmp_path, monkeypatch, error):
    write, sync = os.write, os.fsync
    outcomes = []
    for place in range(12):
        calls = iter(range(1000))

        def fail(do, calls=calls, place=place):
            def call(*words):
                if next(calls) == place:
                    raise error
                return do(*words)

            return call

        path = tmp_path / f"file{place}"
        path.write_bytes(b"a" * (3 * PAGE + 10))
        monkeypatch.setattr(os, "write", fail(write))
        monkeypatch.setattr(os, "fsync", fail(sync))
        try:
            changed(path)
            outcomes.append("done")
        except (Killed, OSError):
            outcomes.append("cut off")
        monkeypatch.setattr(os, "write", write)
        monkeypatch.setattr(os, "fsync", sync)
        if error is not Killed and not path.with_name(path.name + aside.REDO).exists():
            assert len(path.read_bytes()) == (3 * PAGE + 10 if outcomes[-1] == "cut off" else 5 * PAGE + 10)
        recover(path)
        content = path.read_bytes()
        old, new = b"a" * (3 * PAGE + 10), b"abbbba"
        assert content.startswith(old) or (content[PAGE - 3 : PAGE + 3] == new and len(content) == 5 * PAGE + 10)
        assert not path.with_name(path.name + aside.REDO).exists()
    assert outcomes[0] == "cut off"
    assert outcomes[-1] == "done"


def test_a_line_that_the_disk_refuses_leaves_no_piece(tmp_path, monkeypatch):
    desk = Desk(tmp_path / "run", [silicon()], MDSettings(), {"name": "nothing", "made_of": "nothing"})
    desk.write_line(instant(0))
    desk.checkpoint({"step": np.array(0)})
    desk.write_line(instant(1))
    before = desk.series_path.read_bytes()
    write = os.write

    def half(handle, content):
        if len(content) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, content[:17])

    monkeypatch.setattr(os, "write", half)
    said = r"series.csv could not be written \(No space left on device\).*up to 0.001 ps, is not damaged"
    with pytest.raises(RuntimeError, match=said):
        desk.write_line(instant(2))
    monkeypatch.setattr(os, "write", write)
    assert desk.series_path.read_bytes() == before
    desk.close()


def test_a_disk_that_is_full_from_the_start_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*words):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "write_all", refuse)
    with pytest.raises(RuntimeError, match=r"No space left on device\); nothing was begun. Make room"):
        Desk(tmp_path / "run", [silicon()], MDSettings(), {"name": "nothing", "made_of": "nothing"})
    assert not (tmp_path / "run").exists()


def test_a_restart_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    desk = Desk(tmp_path / "run", [silicon()], MDSettings(), {"name": "nothing", "made_of": "nothing"})
    desk.checkpoint({"step": np.array(0)})
    before = (tmp_path / "run" / "restart.npz").read_bytes()

    def refuse(*words):
        raise OSError(errno.EDQUOT, "Quota exceeded")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(RuntimeError, match=r"restart.npz could not be written \(Quota exceeded\)"):
        desk.checkpoint({"step": np.array(7)})
    desk.close()
    assert (tmp_path / "run" / "restart.npz").read_bytes() == before
    assert not list((tmp_path / "run").glob("*.partial"))


def test_a_series_has_the_columns_of_its_elements_and_empty_cells(tmp_path):
    structures = [molecule("H2O")]
    assert columns(structures)[6:10] == ["temperature_K", "T_H_K", "T_O_K", "px"]
    with Desk(tmp_path / "run", structures, MDSettings(), {"name": "nothing", "made_of": "nothing"}) as desk:
        desk.write_line(instant(3)._replace(temperatures_K={"O": 77.0}, heat_eV=None), 0.125)
        desk.checkpoint({})
    series = read_series(tmp_path / "run" / "series.csv")
    assert list(series) == columns(structures)
    assert series["T_O_K"] == [77.0]
    assert np.isnan([series["T_H_K"][0], series["heat_eV"][0], series["pressure_GPa"][0]]).all()
    assert series["uncertainty_eV_per_atom"] == [0.125]
