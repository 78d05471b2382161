"""The comparison with DFT: errors, degeneracies and elastic constants in closed form, the command, the data."""

import importlib.util
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from statics import compare, constants, crystals, tables
from statics.answers import REFERENCE, digest, forces_of
from statics.compare import Conductivity, Elastic
from statics.constants import Bands, Kept, MissingError
from statics.facts import Found, Row
from statics.picture import draw

from analytic import skewed_dimer
from tumble.units import EV_PER_A3_TO_GPa

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


def test_the_rms_of_a_shift_is_the_shift_whatever_the_order_of_bands():
    theirs = np.array([[1.0, 2.0, 5.0], [2.0, 2.0, 7.0]])
    assert compare.rms(theirs[:, ::-1] + 0.25, theirs) == pytest.approx(0.25)
    assert compare.worst(theirs - np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.0]]), theirs) == pytest.approx(0.5)


def test_only_bands_that_should_coincide_are_split():
    theirs = np.array([[0.0, 0.0, 0.0, 4.0, 4.0, 6.0]])
    # Two of three at zero and the two at 4 are levels; those at zero do not count.
    ours = np.array([[-0.3, 0.1, 0.2, 4.0, 4.02, 6.0]])
    assert compare.splitting(ours, theirs) == pytest.approx(0.02)
    # The doublet and the singlet have changed places: nothing is split.
    assert compare.splitting(np.array([[0.0, 0.0, 0.0, 3.9, 6.0, 6.0]]), theirs) == 0.0
    assert compare.splitting(ours, np.array([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]])) == 0.0


def test_errors_of_conductivity_are_symmetric_and_see_what_the_sum_hides():
    ours, theirs = Conductivity(3.0, np.array([[1.0, 2.0]])), Conductivity(3.0, np.array([[2.0, 1.0]]))
    assert compare.srd(ours.kappa, theirs.kappa) == 0.0
    assert compare.srme(ours, theirs) == pytest.approx(2 * 2 / 6)
    assert compare.srd(1.0, 3.0) == -compare.srd(3.0, 1.0) == -1.0
    assert compare.srme(ours, ours) == 0.0


def test_elastic_constants_follow_from_the_speeds_of_a_known_crystal():
    # v = sqrt(c / ρ) of 160, 60 and 80 GPa at 2330 kg/m³; 1 THz Å is 100 m/s.
    density = 2330 / 1660.53907
    along_100 = np.sqrt(np.array([80, 80, 160]) * 1e9 / 2330) / 100
    along_110 = np.array([0.0, 0.0, np.sqrt((160 + 60 + 2 * 80) / 2 * 1e9 / 2330) / 100])
    found = compare.elastic(density, along_100, along_110)
    assert found == pytest.approx((160, 60, 80), rel=1e-6)
    assert found.bulk == pytest.approx(280 / 3, rel=1e-6)


def test_springs_between_neighbours_have_their_frequencies_and_elasticity():
    phono3py = pytest.importorskip("phono3py")
    pytest.importorskip("seekpath")
    from phonopy.structure.atoms import PhonopyAtoms

    crystal = bulk("Ar", "fcc", a=5.3, cubic=True)
    cell = PhonopyAtoms(symbols=["Ar"] * 4, scaled_positions=crystal.get_scaled_positions(), cell=crystal.cell.array)
    engine = phono3py.Phono3py(cell, supercell_matrix=[2] * 3, phonon_supercell_matrix=[3] * 3, primitive_matrix="F")

    def springs(structures):
        """Forces of springs of 1 eV/Å² to the 12 neighbours, to first order in what they are moved by."""
        found = []
        for atoms in structures:
            ideal = np.round(atoms.positions / 2.65) * 2.65
            moved, forces = atoms.positions - ideal, np.zeros((len(atoms), 3))
            apart = ideal[None] - ideal[:, None]
            apart -= np.round(apart / atoms.cell[0, 0]) * atoms.cell[0, 0]
            for i, j in np.argwhere(np.isclose(np.linalg.norm(apart, axis=-1), 5.3 / math.sqrt(2))):
                way = apart[i, j] / np.linalg.norm(apart[i, j])
                forces[i] += way * (way @ (moved[j] - moved[i]))
            found.append(forces)
        return np.array(found)

    second = constants.second(engine, crystals.SMALL, springs, both=False)
    assert np.abs(constants.second_projected(engine, crystals.SMALL, second) - second).max() < 1e-8
    found = constants.bands(engine, crystals.SMALL, second)
    assert [name for _, name in found.ticks] == ["Γ", "X", "U|K", "Γ", "L", "W", "X"]
    # At X, ω² = 8 k/m lengthwise and 4 k/m across.
    at_x = found.frequencies[constants.POINTS - 1]
    unit = 15.633302 / math.sqrt(engine.primitive.masses[0])
    assert at_x == pytest.approx([unit * math.sqrt(4), unit * math.sqrt(4), unit * math.sqrt(8)], rel=1e-6)
    # C11 = 2 C44 = 2 C12 = 2 k/a of nearest neighbours in fcc.
    stiff = EV_PER_A3_TO_GPa / 5.3
    assert constants.elasticity(engine, crystals.SMALL, second) == pytest.approx((2 * stiff, stiff, stiff), rel=2e-3)


def test_what_was_computed_is_kept_and_a_closed_store_computes_nothing(tmp_path):
    asked = []

    def compute():
        asked.append(1)
        return [np.arange(3.0), np.eye(2)]

    for _ in range(2):
        first, second = Kept(tmp_path)("a", compute)
        assert (first == [0, 1, 2]).all()
        assert second.shape == (2, 2)
    assert len(asked) == 1
    with pytest.raises(MissingError, match=r"b\.npz is not there; run without --report"):
        Kept(tmp_path, is_closed=True)("b", compute)


def test_forces_are_asked_once_for_the_same_structures(tmp_path):
    potential, told = skewed_dimer(0.3), []
    atoms = Atoms("HO", [[0, 0, 0], [0.6, 0, 0.9]])
    forces = forces_of(potential, Kept(tmp_path), "a", told.append)
    assert forces([atoms]) == pytest.approx(forces([atoms]))
    assert told == ["1 supercells of 2 atoms"]
    forces([Atoms("HO", [[0, 0, 0], [0.6, 0, 0.8]])])
    assert len(told) == 2


def test_weights_tell_potentials_apart():
    assert digest(skewed_dimer(0.3)) == digest(skewed_dimer(0.3))
    other = skewed_dimer(0.3)
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    assert digest(other) != digest(skewed_dimer(0.3))


class Cell(NamedTuple):
    """What is known of a cell of phonopy."""

    numbers: np.ndarray
    scaled_positions: np.ndarray
    cell: np.ndarray


def test_atoms_that_are_not_where_the_cell_says_are_refused():
    atoms = bulk("Si", a=5.4, cubic=True)
    cell = Cell(atoms.numbers, atoms.get_scaled_positions(), atoms.cell.array)
    atoms.positions[3, 1] += 0.05
    moved = crystals.displaced([atoms], [cell])
    assert moved[0, 3] == pytest.approx([0, 0.05, 0])
    with pytest.raises(ValueError, match=r"an atom is 0\.05 Å from where it was expected, allowed 0\.01 Å"):
        crystals.displaced([atoms], [cell], 0.01)
    with pytest.raises(ValueError, match="1 structures for 2 cells, or of other atoms"):
        crystals.displaced([atoms], [cell, cell])


def found() -> Found:
    """A crystal with numbers that meet their bars, and some that do not."""
    row = Row(REFERENCE, 0.0, 0.0, 15.27, 0.0, 0.0, Elastic(160, 60, 80), 109.0, 0.0, 0.0)
    raw = row._replace(name="raw", rms=0.2, worst=0.4, splitting=0.1, lowest=-0.5, srd=-0.3, srme=0.4, kappa=80.0)
    projected = row._replace(name="projected", rms=0.02, worst=0.1, splitting=1e-12, srd=-0.03, srme=0.1)
    bands = Bands(np.ones((11, 6)), np.ones((2, 6)), np.linspace(0, 1, 11), ((0.0, "Γ"), (1.0, "X")))
    rows = (row, raw, projected)
    return Found(
        "silicon",
        "0a1b",
        "Si",
        "there",
        5.43,
        {64: 109.0011},
        {64: rows},
        {64: {one.name: bands for one in rows}},
        None,
    )


def test_the_page_is_bold_where_a_bar_is_missed():
    lines = tables.page([found()], "Statics").splitlines()
    [raw] = [line for line in lines if line.startswith("| raw |")]
    assert raw == "| raw | **0.200** | 0.400 | 15.27 | 1e-01 | **-0.500** | 80.0 | **-30.0 %** | 0.400 |"
    [projected] = [line for line in lines if line.startswith("| projected |")]
    assert "**" not in projected
    assert "DFT's κ with 64 atoms: 109.00 W/(m K) here; published 109.0011 (there)." in lines


def test_the_figure_is_drawn_for_one_crystal_and_for_three(tmp_path):
    for n in (1, 3):
        draw([found()] * n, tmp_path / "statics.svg")
        text = (tmp_path / "statics.svg").read_text()
        assert text.count("DFT (lines), projected (dots)") == n


def test_the_command_explains_itself_and_refuses_what_is_not_there(tmp_path, capsys):
    path = ROOT / "benchmarks" / "statics.py"
    spec = importlib.util.spec_from_file_location("command", path)
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    place = ["--data", str(tmp_path), "-o", str(tmp_path)]
    for words, code in ((["--help"], 0), (["quartz", *place], 2), (["silicon", *place], 2)):
        with pytest.raises(SystemExit) as ended:
            command.arguments(words)
        assert ended.value.code == code
    said = capsys.readouterr()
    assert "projected  ± with the crystal's symmetry" in said.out
    assert "'quartz' names no crystal; known are silicon, MgO, NaCl" in said.err
    assert "phonopy_sets is missing" in said.err


def test_dft_of_salt_has_the_published_data():
    pytest.importorskip("phono3py")
    if not (SHARED / "phonopy_sets").is_dir():
        pytest.skip("the DFT data are not here")
    engine = crystals.CRYSTALS["NaCl"].read(SHARED)
    assert engine.dataset["forces"].shape == (100, 64, 3)
    assert engine.phonon_dataset["forces"].shape == (2, 512, 3)
    assert np.linalg.norm(engine.dataset["displacements"], axis=-1) == pytest.approx(np.full((100, 64), 0.03), abs=1e-6)
