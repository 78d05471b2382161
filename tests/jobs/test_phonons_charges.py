import json
import math
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from analytic import PairFunction
from tumble.jobs.phonons import PhononsSettings, phonons
from tumble.jobs.phonons.crystal import Crystal
from tumble.models.pair import COULOMB
from tumble.potential import Gradient
from tumble.units import THZ

pytestmark = pytest.mark.engine
pytest.importorskip("phonopy")

A = 3.0
"""Å, distance of nearest neighbours."""

EYE = np.eye(3).tolist()
BORN = [(1.1 * np.eye(3)).tolist(), (-1.1 * np.eye(3)).tolist()]


def rocksalt() -> Atoms:
    return bulk("NaCl", "rocksalt", a=2 * A)


def springs() -> Gradient:
    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        return (v.norm(dim=1) - A) ** 2

    return Gradient(PairFunction(energy, cutoff=1.2 * A))


def settings(path: Path) -> PhononsSettings:
    return PhononsSettings(
        nac=str(path), supercell=(2, 2, 2), average="none", points=24, mesh_A=8.0, force=True, displacement_A=1e-3
    )


def written(folder: Path, born=BORN) -> Path:
    path = folder / "charges.json"
    path.write_text(json.dumps({"born": born, "dielectric": (2.4 * np.eye(3)).tolist()}))
    return path


def test_charges_lift_the_longitudinal_mode_by_its_closed_form(tmp_path):
    result = phonons(springs(), rocksalt(), settings(written(tmp_path)))
    assert isinstance(result.found, Crystal)
    reduced = 1 / np.sum(1 / rocksalt().get_masses())
    transverse = 4.0 / reduced
    longitudinal = transverse + 4 * math.pi * COULOMB * 1.1**2 / (2.4 * rocksalt().get_volume() * reduced)
    at_gamma = result.found.bands.frequencies_THz["projected"][0]
    assert at_gamma[3:5] == pytest.approx(THZ * math.sqrt(transverse), rel=1e-4)
    assert at_gamma[5] == pytest.approx(THZ * math.sqrt(longitudinal), rel=1e-4)
    assert result.found.charges is not None
    assert result.found.charges.removed < 1e-12


def test_phonopy_opens_the_file_with_the_charges(tmp_path):
    import phonopy

    result = phonons(springs(), rocksalt(), settings(written(tmp_path)))
    assert isinstance(result.found, Crystal)
    path = tmp_path / "phonopy_params.yaml"
    path.write_bytes(result.files()["phonopy_params.yaml"])
    theirs = phonopy.load(path, log_level=0)
    assert theirs.nac_params is not None
    theirs.run_qpoints(result.found.mesh.q[1:])
    ours = result.found.modes.frequencies_THz["projected"][1:]
    assert ours == pytest.approx(theirs.qpoints.frequencies, abs=1e-4)


def test_a_file_of_phonopy_says_the_same(tmp_path):
    path = tmp_path / "BORN"
    path.write_text("14.400\n2.4 0 0 0 2.4 0 0 0 2.4\n1.1 0 0 0 1.1 0 0 0 1.1\n-1.1 0 0 0 -1.1 0 0 0 -1.1\n")
    ours, theirs = (phonons(springs(), rocksalt(), settings(one)) for one in (written(tmp_path), path))
    assert isinstance(ours.found, Crystal)
    assert isinstance(theirs.found, Crystal)
    assert theirs.found.bands.frequencies_THz["projected"] == pytest.approx(
        ours.found.bands.frequencies_THz["projected"], rel=1e-4, abs=1e-4
    )


def test_charges_that_break_symmetry_and_the_sum_rule_are_corrected_and_reported(tmp_path):
    born = np.array(BORN)
    born[0] += [[0.1, 0, 0], [0, 0, 0], [0, 0, 0]]
    result = phonons(springs(), rocksalt(), settings(written(tmp_path, born.tolist())))
    assert isinstance(result.found, Crystal)
    charges = result.found.charges
    assert charges is not None
    assert charges.sum_violation == pytest.approx(0.1)
    assert charges.removed == pytest.approx(0.1 - 0.1 / 3 + 0.1 / 6)
    assert charges.engine["born"][0] == pytest.approx((1.1 + 0.1 / 6) * np.eye(3), abs=1e-9)
    table = next(fact for fact in result.facts() if fact.title == "Born charges")
    assert table.rows[0][1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"born": BORN[:1], "dielectric": EYE}, r"has Born charges of shape \(1, 3, 3\) and a dielectric constant of"),
        ({"born": BORN, "dielectric": [2.0]}, r"a dielectric constant of shape \(1,\); \(2, 3, 3\) for the atoms"),
        ({"born": BORN, "dielectric": (-2 * np.eye(3)).tolist()}, r"has the eigenvalue -2; at least 1 was expected"),
        ({"born": BORN, "dielectric": (math.inf * np.ones((3, 3))).tolist()}, "not finite: those of a metal"),
        ({"born": np.zeros((2, 3, 3)).tolist(), "dielectric": EYE}, "a metal or an element has none"),
        ({"born": BORN}, r"cannot be read as Born charges \('dielectric'\)"),
        ([1, 2], r"cannot be read as Born charges \(list indices must be integers"),
    ],
)
def test_charges_that_make_no_sense_are_refused(tmp_path, text, message):
    path = tmp_path / "charges.json"
    path.write_text(json.dumps(text).replace("Infinity", ".inf"))
    with pytest.raises(ValueError, match=message):
        phonons(springs(), rocksalt(), settings(path))


def test_files_that_are_missing_or_not_of_phonopy_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*nowhere of Born charges"):
        phonons(springs(), rocksalt(), settings(tmp_path / "nowhere"))
    path = tmp_path / "BORN"
    path.write_text("14.4\n2.4 0 0\n")
    with pytest.raises(ValueError, match=r"cannot be read as a BORN file of phonopy \(BORN file format of line 2"):
        phonons(springs(), rocksalt(), settings(path))
    path.write_text("14.4\n2.4 0 0 0 2.4 0 0 0 2.4\n1.1 0 0 0 1.1 0 0 0 1.1\n")
    with pytest.raises(ValueError, match="symmetry-independent of the 2 atoms of the primitive cell"):
        phonons(springs(), rocksalt(), settings(path))
