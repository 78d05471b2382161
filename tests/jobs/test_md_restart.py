"""A simulation that is killed, interrupted, or runs out of disk goes on to the same bits."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule

import tumble
from analytic import lopsided
from tumble.jobs.md import MDSettings, md
from tumble.jobs.md.desk import RESTART, clear
from tumble.models.pair import LennardJones
from tumble.potential import Gradient

SHORT = {"time_ps": 0.2, "timestep_fs": 2.0, "temperature_K": 40.0, "log_fs": 4, "frame_fs": 8, "control": "no"}
QUICK = {"time_ps": 0.03, "timestep_fs": 0.5, "log_fs": 1, "frame_fs": 2, "control": "no"}

KILLED = """
import json, os, signal, sys
from pathlib import Path
import tumble
from tumble.jobs.md.desk import Desk
sys.path.insert(0, sys.argv[1])
from jobs.test_md_restart import subject_of
from tumble.jobs.md import MDSettings, md

write, seen = Desk.write_line, []

def write_and_die(self, *words):
    write(self, *words)
    seen.append(words)
    if len(seen) == 23:
        os.kill(os.getpid(), signal.SIGKILL)

Desk.write_line = write_and_die
potential, atoms = subject_of(sys.argv[2])
md(potential, atoms, MDSettings(**json.loads(sys.argv[3])), folder=Path(sys.argv[4]))
"""


def argon() -> Gradient:
    return Gradient(LennardJones(0.0104, 3.4, cutoff=6.5))


def crystal():
    return bulk("Ar", a=5.3, cubic=True) * (1, 1, 2)


def subject_of(name):
    return (tumble.load("water"), molecule("H2O")) if name == "water" else (argon(), crystal())


def kept(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("series.csv", "trajectory.extxyz")]


@pytest.mark.parametrize(("name", "settings"), [("argon", SHORT), ("water", QUICK)])
def test_kill_9_and_resume_give_the_bits_of_an_uninterrupted_run(name, settings, tmp_path):
    settings = settings | {"restart_s": 0.05}
    tests = str(Path(__file__).parents[1])
    words = (tests, name, json.dumps(settings), str(tmp_path / "cut"))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len((tmp_path / "cut" / "series.csv").read_text().splitlines()) == 24
    potential, atoms = subject_of(name)
    chosen = MDSettings(**settings)
    md(potential, atoms, chosen, folder=tmp_path / "cut", resume=True)
    md(potential, atoms, chosen, folder=tmp_path / "whole")
    assert kept(tmp_path / "cut") == kept(tmp_path / "whole")


VARIANTS = {
    "nve": {"ensemble": "nve"},
    "svr, h5md": {"trajectory": "h5md"},
    "langevin": {"thermostat": "langevin"},
    "nhc": {"thermostat": "nhc"},
    "npt": {"ensemble": "npt", "timestep_fs": 1.0, "time_ps": 0.1},
    "mts": {"mts": "4", "average": "T", "min_distance": 0.0},
    "turns": {"turns": "random", "min_distance": 0.0},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_a_run_cut_into_pieces_is_the_whole_run(changes, tmp_path):
    if changes.get("trajectory") == "h5md":
        pytest.importorskip("h5py")
    potential = lopsided(cutoff=4.0) if "min_distance" in changes else argon()
    settings = MDSettings(**SHORT | changes)
    whole = md(potential, crystal(), settings, folder=tmp_path / "whole")
    cut = settings.model_copy(update={"max_minutes": 1e-9, "time_ps": settings.time_ps / 2})
    first = md(potential, crystal(), cut, folder=tmp_path / "cut")
    assert first.finding.run.ended == "out of time"
    assert first.is_converged
    for one in (cut, cut, cut.model_copy(update={"max_minutes": None}), settings):
        result = md(potential, crystal(), one, folder=tmp_path / "cut", resume=True)
    assert result.arrays["time_ps"][-1] == pytest.approx(settings.time_ps)
    for name, values in whole.arrays.items():
        assert np.array_equal(values, result.arrays[name], equal_nan=True), name
    assert (tmp_path / "whole" / "series.csv").read_bytes() == (tmp_path / "cut" / "series.csv").read_bytes()
    assert np.array_equal(whole.atoms[0].get_momenta(), result.atoms[0].get_momenta())
    if changes.get("trajectory") == "h5md":
        assert frames_of(tmp_path / "whole") == frames_of(tmp_path / "cut")
    else:
        assert kept(tmp_path / "whole") == kept(tmp_path / "cut")


def frames_of(folder: Path) -> dict[str, bytes]:
    """Everything in an H5MD file, by name."""
    import h5py

    found: dict[str, bytes] = {}
    with h5py.File(folder / "trajectory.h5md") as file:
        file.visititems(lambda name, one: found.update({name: one[()].tobytes()} if hasattr(one, "shape") else {}))
    return found


@pytest.mark.parametrize("kind", ["extxyz", "h5md"])
def test_a_full_disk_damages_nothing_and_the_run_goes_on(kind, tmp_path, monkeypatch):
    if kind == "h5md":
        pytest.importorskip("h5py")
        monkeypatch.setattr("tumble.jobs.md.h5md.CHUNK_BYTES", 512)  # so that it grows in many small pieces
    settings = MDSettings(**SHORT | {"trajectory": kind, "restart_s": 0.05, "frame_fs": 2.0})
    whole = md(argon(), crystal(), settings, folder=tmp_path / "whole")
    size = max(path.stat().st_size for path in (tmp_path / "whole").iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, limits[1]))
    try:
        with pytest.raises(
            RuntimeError, match=r"could not be written \(File too large\). What was written before, up to"
        ):
            md(argon(), crystal(), settings, folder=tmp_path / "cut")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    lines = (tmp_path / "cut" / "series.csv").read_text().splitlines()
    assert (tmp_path / "whole" / "series.csv").read_text().splitlines()[: len(lines)] == lines
    if kind == "extxyz":
        assert ase.io.read(tmp_path / "cut" / "trajectory.extxyz", ":")  # no piece of a frame at its end
    else:
        assert frames_of(tmp_path / "cut")["particles/trajectory/position/value"]
    assert not list((tmp_path / "cut").glob("*.partial"))
    result = md(argon(), crystal(), settings, folder=tmp_path / "cut", resume=True)
    assert np.array_equal(result.arrays["potential_eV"], whole.arrays["potential_eV"])
    if kind == "extxyz":
        assert kept(tmp_path / "cut") == kept(tmp_path / "whole")
    else:
        assert frames_of(tmp_path / "cut") == frames_of(tmp_path / "whole")


def test_a_run_goes_on_as_it_began_or_says_what_differs(tmp_path):
    settings = MDSettings(**SHORT)
    md(argon(), crystal(), settings, folder=tmp_path)
    asked = [
        ({"temperature_K": 50.0}, "has temperature_K = 40.0, and 50.0 was asked for"),
        ({"trajectory": "none"}, "has trajectory = 'extxyz', and 'none' was asked for"),
        ({"time_ps": 0.1}, "has lasted 0.2 ps already, and 0.1 ps in all were asked for"),
    ]
    for changes, said in asked:
        with pytest.raises(ValueError, match=said):
            md(argon(), crystal(), settings.model_copy(update=changes), folder=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"is of Ar8, and Ar4 was given. Give the structure that it was started with"):
        md(argon(), bulk("Ar", a=5.3, cubic=True), settings, folder=tmp_path, resume=True)
    stronger = Gradient(LennardJones(0.02, 3.4, cutoff=6.5))
    with pytest.raises(ValueError, match=r"was made with the potential LennardJones .* was given. Give the same one"):
        md(stronger, crystal(), settings, folder=tmp_path, resume=True)
    again = md(argon(), crystal(), settings, folder=tmp_path, resume=True)
    assert again.finding.time_ps == pytest.approx(0.2)
    longer = md(argon(), crystal(), settings.model_copy(update={"time_ps": 0.24}), folder=tmp_path, resume=True)
    assert longer.finding.time_ps == pytest.approx(0.24)


def test_a_folder_with_a_run_is_not_taken_for_another(tmp_path):
    md(argon(), crystal(), MDSettings(**SHORT), folder=tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds a run already \(series.csv, restart.npz, trajectory.extxyz\)"):
        md(argon(), crystal(), MDSettings(**SHORT), folder=tmp_path)
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_files_that_were_changed_are_not_gone_on_with(tmp_path):
    md(argon(), crystal(), MDSettings(**SHORT), folder=tmp_path)
    series = tmp_path / "series.csv"
    content = series.read_bytes()
    series.write_bytes(content[:-10])
    with pytest.raises(ValueError, match=r"had been written at the last restart: it was changed since"):
        md(argon(), crystal(), MDSettings(**SHORT), folder=tmp_path, resume=True)
    series.write_bytes(content)
    (tmp_path / RESTART).write_bytes((tmp_path / RESTART).read_bytes()[:100])
    with pytest.raises(ValueError, match=r"it was changed since it was written. Start again in another folder"):
        md(argon(), crystal(), MDSettings(**SHORT), folder=tmp_path, resume=True)
