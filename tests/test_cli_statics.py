"""The commands of the static jobs: what they write, what they refuse, and with which code they end."""

import json

import ase.io
import pytest
from ase.build import bulk

import tumble
from tumble.cli import BAD_INPUT, DONE, NOT_CONVERGED, NOT_TRUSTED, main
from tumble.models.pair import LennardJones

A0_A = 5.2395
"""Lattice constant near which argon is at rest here."""


@pytest.fixture(scope="module")
def argon(tmp_path_factory):
    """A folder with a potential and crystals of it."""
    folder = tmp_path_factory.mktemp("argon")
    tumble.save(tumble.Gradient(LennardJones(0.0104, 3.4, cutoff=8.0)), folder / "argon.safetensors")
    rattled = bulk("Ar", a=A0_A, cubic=True)
    rattled.rattle(0.05, seed=0)
    ase.io.write(folder / "rattled.xyz", rattled)
    ase.io.write(folder / "two.xyz", [rattled, rattled])
    return folder


def run(folder, *words):
    return main([str(folder / word) if (folder / word).exists() else word for word in words])


@pytest.fixture(scope="module")
def relaxed(argon):
    assert (
        run(argon, "relax", "argon.safetensors", "rattled.xyz", "-o", str(argon / "relaxed"), "--turns", "none") == DONE
    )
    return argon / "relaxed" / "atoms.extxyz"


def test_what_relax_writes_is_what_the_other_jobs_take(argon, relaxed, tmp_path, capsys):
    model = str(argon / "argon.safetensors")
    quick = {"elastic": ["--volumes", "0"], "phonons": ["--width-A", "16", "--mesh-A", "20"]}
    for verb, flags in quick.items():
        out = tmp_path / verb
        assert main([verb, model, str(relaxed), "-o", str(out), "--average", "none", *flags]) == DONE
        assert json.loads((out / "result.json").read_text())["job"] == verb
        assert "<h1" in (out / "card.html").read_text()
        assert f"wrote {out}" in capsys.readouterr().out
    assert (tmp_path / "phonons" / "phonopy_params.yaml").is_file()


def test_a_relaxation_that_does_not_arrive_exits_with_5(argon, capsys):
    assert (
        run(argon, "relax", "argon.safetensors", "rattled.xyz", "--steps", "2", "--symmetry", "free") == NOT_CONVERGED
    )
    assert "relax" in capsys.readouterr().out


def test_an_unrelaxed_crystal_is_refused_with_the_command_to_run_first(argon, capsys):
    for verb in ("elastic", "phonons", "conductivity"):
        assert run(argon, verb, "argon.safetensors", "rattled.xyz") == BAD_INPUT
        said = capsys.readouterr().err
        assert "tumble relax" in said
        assert "meV/Å" in said


def test_one_structure_is_asked_for_and_screen_proposed_for_more(argon, capsys):
    assert run(argon, "phonons", "argon.safetensors", "two.xyz") == BAD_INPUT
    assert "holds 2 structures; phonons takes one" in capsys.readouterr().err


def test_a_requirement_that_is_not_met_exits_with_6(tmp_path, capsys):
    ase.io.write(tmp_path / "silicon.xyz", bulk("Si", a=5.4335), format="extxyz")
    words = ["elastic", "silicon", str(tmp_path / "silicon.xyz"), "--average", "none", "--volumes", "0"]
    assert main([*words, "--elastic-share", "1e-6", "--require", "elastic=yes"]) == NOT_TRUSTED
    assert "elastic" in capsys.readouterr().err
