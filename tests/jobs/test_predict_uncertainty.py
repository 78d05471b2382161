"""Uncertainties on their way to the user: in files of answers, in ASE, and by the verb that makes them."""

import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT

import tumble
from tumble import checkpoint
from tumble.bridges.ase import Calculator, Foreign
from tumble.cli import main
from tumble.jobs.predict import COLUMNS, DOUBTS, predict_files
from tumble.models.pair import LennardJones, Morse
from tumble.models.pet import LLPR, PET
from tumble.packs import predict
from tumble.potential import Gradient, collate_for
from tumble.results import load_result
from tumble.rotations import Rotations
from tumble.symmetry import Symmetrized

SHAPE: dict[str, Any] = {"cutoff": 3.0, "d_pet": 8, "d_node": 8, "d_head": 4, "d_feedforward": 8, "num_heads": 2}


def shaken(n: int, seed: int) -> list[Atoms]:
    random, found = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = molecule("H2O")
        atoms.positions += random.normal(scale=0.1, size=(3, 3))
        found.append(atoms)
    return found


def pet() -> PET:
    torch.manual_seed(0)
    return PET([1, 8], SHAPE).double()


def unsure(n_members: int = 3) -> LLPR:
    potential = LLPR(pet())
    potential.fit([collate_for(potential, shaken(20, 0))])
    potential.draw(n_members)
    return potential


# ---------------------------------------------------------------------------------------------------- files of answers


@pytest.fixture
def files(tmp_path: Path) -> Path:
    ase.io.write(tmp_path / "in.extxyz", [*shaken(12, 1), molecule("H2O")])
    return tmp_path


@pytest.mark.parametrize("limit", [None, 30])
def test_a_file_of_answers_holds_what_they_may_be_off_by(files: Path, limit: int | None) -> None:
    potential = unsure()
    table = predict_files(potential, [files / "in.extxyz"], files / "out.extxyz", pairs_per_batch=limit)
    answers = ase.io.read(files / "out.extxyz", ":")
    known = potential.uncertainties(collate_for(potential, answers), forces=True)
    assert np.allclose([one.info["energy_uncertainty"] for one in answers], known.energy)
    assert np.allclose(np.concatenate([one.arrays["forces_uncertainty"] for one in answers]), known.forces, atol=1e-7)
    assert table.columns == COLUMNS + DOUBTS
    assert table.rows[0][-2] == pytest.approx(float(known.energy[0]) / 3)
    assert table.rows[0][-1] == pytest.approx(float(known.forces[:3].square().mean().sqrt()))
    assert "the least certain of all, ± " in table.note
    plain = predict(Gradient(potential.model), answers)
    assert np.allclose([one.get_potential_energy() for one in answers], [float(one.energy) for one in plain])


def test_an_average_and_an_ensemble_without_members_say_what_they_know(files: Path) -> None:
    averaged = Symmetrized(unsure(0), Rotations.parse("T"))
    table = predict_files(averaged, [files / "in.extxyz"], files / "out.extxyz")
    answers = ase.io.read(files / "out.extxyz", ":")
    known = averaged.uncertainties(collate_for(averaged, answers)).energy
    assert np.allclose([one.info["energy_uncertainty"] for one in answers], known)
    assert "forces_uncertainty" not in answers[0].arrays
    assert table.rows[0][-1] is None


def test_uncertainties_are_left_out_where_they_are_not_wanted_or_known_and_old_ones_are_removed(files: Path) -> None:
    potential = unsure()
    predict_files(potential, [files / "in.extxyz"], files / "out.extxyz")
    for one, wanted in ((potential, False), (Gradient(potential.model), True), (LLPR(pet()), True)):
        table = predict_files(one, [files / "out.extxyz"], files / "plain.extxyz", uncertainty=wanted)
        again = ase.io.read(files / "plain.extxyz", ":")
        assert not any("energy_uncertainty" in atoms.info for atoms in again)
        assert not any("forces_uncertainty" in atoms.arrays for atoms in again)
        assert table.columns == COLUMNS


def test_answers_with_uncertainties_are_continued_with_uncertainties_only(files: Path) -> None:
    potential, out = unsure(), files / "out.extxyz"
    predict_files(potential, [files / "in.extxyz"], out)
    whole = out.read_bytes()
    (files / "whole.extxyz").write_bytes(whole)
    out.write_bytes(whole[: len(whole) * 2 // 3])
    predict_files(potential, [files / "in.extxyz"], out, resume=True, pairs_per_batch=10)
    ours, theirs = ([a.info["energy_uncertainty"] for a in ase.io.read(f, ":")] for f in (out, files / "whole.extxyz"))
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert len(ours) == 13
    with pytest.raises(ValueError, match=r"frame 0 of .* has the mark id_"):
        predict_files(potential, [files / "in.extxyz"], out, resume=True, uncertainty=False)


# ----------------------------------------------------------------------------------------------------------------- ASE


def test_the_calculator_answers_about_uncertainties_when_asked() -> None:
    potential, atoms = unsure(), shaken(1, 4)[0]
    atoms.calc = Calculator(potential)
    energy = atoms.get_potential_energy()
    assert "energy_uncertainty" not in atoms.calc.results
    known = potential.uncertainties(collate_for(potential, [atoms]), forces=True)
    assert atoms.calc.get_property("energy_uncertainty", atoms) == pytest.approx(float(known.energy))
    assert np.allclose(atoms.calc.get_property("forces_uncertainty", atoms), known.forces)
    assert atoms.get_potential_energy() == energy
    atoms.positions[0, 0] += 0.05
    assert atoms.calc.get_property("energy_uncertainty", atoms) != pytest.approx(float(known.energy), rel=1e-6)
    assert atoms.get_potential_energy() != energy


def test_what_is_known_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    potential, atoms, asked = unsure(), shaken(1, 4)[0], []
    atoms.calc = Calculator(potential)
    atoms.get_forces()
    monkeypatch.setattr(LLPR, "forward", lambda self, batch: asked.append(batch))
    atoms.calc.get_property("energy_uncertainty", atoms)
    assert asked == []


def test_only_what_a_potential_knows_is_implemented() -> None:
    names = [
        set(Calculator(one).implemented_properties) - set(Calculator.implemented_properties)
        for one in (Gradient(LennardJones()), unsure(0), Symmetrized(unsure(), Rotations.parse("T")))
    ]
    energies, one, both = {"energies"}, {"energy_uncertainty"}, {"energy_uncertainty", "forces_uncertainty"}
    assert names == [energies, energies | one, energies | both]
    assert set(Calculator(Foreign(EMT())).implemented_properties) == set(Calculator.implemented_properties)
    atoms = molecule("H2O")
    atoms.calc = Calculator(Gradient(Morse(1.0, 1.5, 3.0, cutoff=3.0)))
    with pytest.raises(NotImplementedError, match="energy_uncertainty"):
        atoms.calc.get_property("energy_uncertainty", atoms)


def test_a_calculator_warns_once_when_it_leaves_what_it_knows() -> None:
    potential, atoms = unsure(), molecule("H2O")
    usual = float(potential.uncertainty(collate_for(potential, [atoms]))) / 3
    atoms.calc = Calculator(potential, warn_above=3 * usual)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_potential_energy()
    near = atoms.positions.copy()
    atoms.positions *= 1.6
    with pytest.warns(UserWarning, match=r"the energy of this structure is uncertain by .* eV per atom, and"):
        atoms.get_potential_energy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.positions[0] += 0.01
        atoms.get_potential_energy()
        atoms.positions = near
        atoms.get_potential_energy()
    with pytest.raises(ValueError, match=r"warn_above is 0\.1 eV, but a Gradient does not know how uncertain it is"):
        Calculator(Gradient(LennardJones()), warn_above=0.1)


# --------------------------------------------------------------------------------------------------------- in the shell


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PET, what it was trained on and what it was not, with labels."""
    monkeypatch.chdir(tmp_path)
    checkpoint.save(Gradient(pet()), "model.safetensors", {"licence": "mine"})
    for name, seed in (("train", 0), ("valid", 1)):
        frames = shaken(15, seed)
        for atoms, label in zip(frames, predict(Gradient(Morse(1.0, 1.5, 3.0, cutoff=3.0)), frames), strict=True):
            atoms.info["REF_energy"], atoms.arrays["REF_forces"] = float(label.energy), label.forces.numpy()
        ase.io.write(f"{name}.extxyz", frames)
    return tmp_path


WORDS = ["uncertainty", "model.safetensors", "--train", "train.extxyz", "--valid", "valid.extxyz", "-o"]


@pytest.mark.parametrize("kind", ["llpr", "ensemble"])
def test_a_finished_potential_learns_its_uncertainty(desk: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "sure.safetensors", "--kind", kind, "--members", "4"]) == 0
    assert "How sure: uncertainties against errors" in capsys.readouterr().out
    potential = tumble.load("sure.safetensors")
    assert potential.has_forces_uncertainty
    assert bool(potential.are_trained) == (kind == "ensemble")
    assert checkpoint.describe("sure.safetensors")["card"]["licence"] == "mine"
    result = load_result(desk / "sure")
    assert result.job == "uncertainty"
    assert result.arrays["uncertainty_energy_sigma"].shape == (15,)
    assert "Reliability: forces" in (desk / "sure" / "card.html").read_text()
    # The verdict of the file: what it says now is what was written down.
    atoms = ase.io.read("valid.extxyz", ":")
    now = potential.uncertainty(collate_for(potential, atoms)) / 3
    assert np.allclose(now, result.arrays["uncertainty_energy_sigma"])
    forces = potential.uncertainties(collate_for(potential, atoms), forces=True).forces
    assert np.allclose(forces.flatten(), result.arrays["uncertainty_forces_sigma"])


def test_a_calibration_on_what_was_trained_on_is_refused(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS[:-3], "--valid", "valid.extxyz", "train.extxyz", "-o", "sure.safetensors"]) == 2
    assert "15 of 30 structures to calibrate by were trained on, the first is" in capsys.readouterr().err
    assert not (desk / "sure.safetensors").exists()
    assert main([*WORDS, "sure.pt"]) == 2
    assert "a potential is saved as a .safetensors file; 'sure.pt' was given" in capsys.readouterr().err


def test_only_a_single_pet_learns_its_uncertainty(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(Gradient(LennardJones()), "model.safetensors")
    assert main([*WORDS, "sure.safetensors"]) == 2
    assert "model.safetensors is not a single PET, whose last layer tells uncertainties" in capsys.readouterr().err
