"""tumble md: what it writes, what it refuses, and with which code it ends."""

import json
import os
import signal

import ase.io
import pytest
from ase.build import bulk

import tumble
from tumble.cli import BAD_INPUT, DONE, INTERRUPTED, NOT_CONVERGED, NOT_TRUSTED, main
from tumble.models.pair import LennardJones

QUICK = ("--time-ps", "0.1", "--timestep-fs", "2", "--temperature-K", "40", "--control", "no")


@pytest.fixture(scope="module")
def argon(tmp_path_factory):
    """A folder with a potential and crystals of it."""
    folder = tmp_path_factory.mktemp("argon")
    tumble.save(tumble.Gradient(LennardJones(0.0104, 3.4, cutoff=6.5)), folder / "argon.safetensors")
    crystal = bulk("Ar", a=5.3, cubic=True)
    ase.io.write(folder / "argon.xyz", crystal)
    ase.io.write(folder / "two.xyz", [crystal, crystal])
    return folder


def run(folder, *words, structure="argon.xyz"):
    kept = [one for flag in zip(QUICK[::2], QUICK[1::2], strict=True) if flag[0] not in words for one in flag]
    return main(["md", str(folder / "argon.safetensors"), str(folder / structure), *kept, *words])


def test_a_run_is_written_shown_and_gone_on_with(argon, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(argon, "-o", str(out)) == DONE
    said = capsys.readouterr().out
    assert "Conserved" in said
    assert f"wrote {out}" in said
    names = {path.name for path in out.iterdir()}
    assert {"series.csv", "trajectory.extxyz", "restart.npz", "result.json", "card.html", "trust.json"} <= names
    assert json.loads((out / "result.json").read_text())["job"] == "md"
    lines = (out / "series.csv").read_bytes()
    assert run(argon, "-o", str(out)) == BAD_INPUT
    assert "exists already" in capsys.readouterr().err
    assert (out / "series.csv").read_bytes() == lines
    assert run(argon, "-o", str(out), "--resume", "--time-ps", "0.16") == DONE
    assert (out / "series.csv").read_bytes().startswith(lines)
    assert "0.16 ps of Ar4" in json.loads((out / "result.json").read_text())["title"]
    assert run(argon, "-o", str(out), "--resume", "--temperature-K", "50") == BAD_INPUT
    assert "has temperature_K = 40.0, and 50.0 was asked for" in capsys.readouterr().err
    assert run(argon, "-o", str(out), "--overwrite") == DONE
    assert (out / "series.csv").read_bytes() == lines


def test_codes_say_how_it_ended(argon, tmp_path, capsys, monkeypatch):
    assert run(argon, "-o", str(tmp_path / "hot"), "--max-temperature-K", "1") == NOT_CONVERGED
    assert "runaway" in capsys.readouterr().out
    assert (tmp_path / "hot" / "stopped.extxyz").is_file()
    assert run(argon, "--require", "conserved=yes", "--time-ps", "0.01") == NOT_TRUSTED
    assert run(argon, structure="two.xyz") == BAD_INPUT
    assert "the engine ase moves one" in capsys.readouterr().err
    told = []

    def alarm(self, *words):
        if not told:
            told.append(os.kill(os.getpid(), signal.SIGTERM))
        return ""

    monkeypatch.setattr("tumble.jobs.md.watch.Watch.alarm", alarm)
    assert run(argon, "-o", str(tmp_path / "stopped")) == INTERRUPTED
    assert run(argon, "-o", str(tmp_path / "stopped"), "--resume") == DONE


def test_concerns_are_said_before_anything_is_computed(argon, capsys):
    assert run(argon, "--timestep-fs", "30", "--max-temperature-K", "1") == NOT_CONVERGED
    assert "a time step of 30 fs is long for Ar" in capsys.readouterr().err
