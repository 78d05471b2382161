import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

from analytic import PairFunction
from tumble.jobs.phonons import PhononsSettings, phonons
from tumble.jobs.phonons.crystal import Crystal
from tumble.jobs.phonons.triage import Descent, Suspect, descent_of, found_in, ruled
from tumble.jobs.phonons.waves import matrices, wave
from tumble.packs import predict
from tumble.potential import Gradient
from tumble.results import Curve
from tumble.units import THZ

pytestmark = pytest.mark.engine
pytest.importorskip("phonopy")
pytest.importorskip("seekpath")

A = 3.0
"""Å, distance of nearest neighbours."""

FALLING = Descent(np.array([0.1, -0.1, 0.2, -0.2]), np.array([-1.0, -1.0, 3.0, 3.0]), 0.01)
RISING = Descent(np.array([0.1, -0.1]), np.array([1.0, 1.0]), 0.01)


def suspect(**known) -> Suspect:
    usual = {
        "q": np.zeros(3),
        "band": 0,
        "frequency": -2.0,
        "error": 0.1,
        "noise": 1e-6,
        "others": {"raw": -2.0, "±": -2.0, "averaged": -1.9, "half the displacement": -2.0},
        "descent": FALLING,
    }
    return Suspect(**usual | known)


@pytest.mark.parametrize(
    ("known", "kind", "reason"),
    [
        ({}, "physical", "along the mode the energy falls by 1 meV in the supercell, lowest at 0.100 Å"),
        ({"error": None}, "physical", "the energy falls"),
        ({"noise": 1.5}, "noise", "is within the rounding of forces"),
        ({"error": 5.0}, "noise", "is within what forbidden force constants change it by, 5"),
        ({"descent": None}, "unconverged", "no wave vector that fits into the supercell is imaginary"),
        ({"others": {"averaged": 1.5}}, "noise", "the mode is real when the potential is averaged"),
        ({"others": {"half the displacement": 0.5}}, "unconverged", "with half the displacement it is real, 0.5"),
        ({"others": {"twice the displacement": 0.5}}, "unconverged", "with twice the displacement it is real"),
        ({"descent": RISING}, "noise", "the energy does not fall, up to 0.4 Å, by more than its noise of 0.01"),
    ],
)
def test_what_an_imaginary_mode_is_follows_from_what_makes_it_real(known, kind, reason):
    ruling = ruled(suspect(**known), 0.05)
    assert ruling.kind == kind
    assert reason in ruling.reason
    assert ruling.remedy


def test_imaginary_modes_are_found_the_worst_first_and_those_alike_once():
    frequencies = np.array([[-1.0, -0.01, 2.0], [-1.0 - 1e-5, 1.0, 2.0], [-3.0, -2.0, 2.0]])
    assert found_in(frequencies, 0.05) == [(2, 0), (2, 1), (1, 0)]
    assert found_in(frequencies, 5.0) == []


def test_energies_along_a_direction_are_those_of_the_displaced_structures():
    potential = Gradient(PairFunction(lambda v, i, j: (v.norm(dim=1) - A) ** 2, cutoff=2 * A))
    found = descent_of(potential, Atoms("O2", [[0, 0, 0], [A, 0, 0]]), np.array([[0, 0, 0], [1.0, 0, 0]]))
    assert found.energies_meV == pytest.approx(1000 * found.amplitudes_A**2)
    assert not found.falls


def wells(depth: float) -> Gradient:
    """Springs between nearest neighbours of a simple cubic crystal, and second ones that push apart."""

    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        r = v.norm(dim=1)
        second = -depth * (r - math.sqrt(2) * A) ** 2 + 2 * (r - math.sqrt(2) * A) ** 4
        return torch.where(r < 1.2 * A, (r - A) ** 2, second)

    return Gradient(PairFunction(energy, cutoff=1.6 * A))


def test_a_crystal_that_is_not_stable_is_told_so_with_the_energy_along_its_mode():
    settings = PhononsSettings(supercell=(2, 2, 2), force=True, average="none", points=16, mesh_A=9.0)
    result = phonons(wells(0.2), bulk("Po", "sc", a=A), settings)
    stability = {verdict.key: verdict for verdict in result.verdicts()}["stability"]
    assert stability.answer == "no"
    assert "physical: along the mode the energy falls by" in stability.reason
    first = result.scanned.rulings[0].suspect
    assert set(first.others) >= {"raw", "±", "half the displacement", "twice the displacement"}
    # To second order the energy is -½ m ω² of everything that moves.
    assert isinstance(result.found, Crystal)
    assert first.descent is not None
    cells = result.found.cells
    matrix = matrices(cells, result.found.constants["projected"], first.q[None])[0]
    moved = wave(cells, first.q, np.linalg.eigh(matrix)[1][:, first.band])
    stiffness = cells.atoms.get_masses()[0] * np.square(moved).sum() * (first.frequency / THZ) ** 2
    expected = -500 * stiffness * first.descent.amplitudes_A[0] ** 2
    assert first.descent.energies_meV[0] == pytest.approx(expected, rel=0.01)
    titles = [fact.title for fact in result.facts()]
    assert "Imaginary modes" in titles
    curve = next(fact for fact in result.facts() if fact.title == "Energy along imaginary modes")
    assert isinstance(curve, Curve)
    assert stability.value == pytest.approx(-first.frequency, rel=0.5)


def test_a_molecule_on_a_saddle_is_told_so():
    # Three atoms in a row whose ends push each other apart: they bend.
    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        r = v.norm(dim=1)
        return torch.where(r < 1.5 * A, 5 * (r - A) ** 2, 0.3 * (r - 2 * A) + 2 * (r - 2 * A) ** 2)

    atoms = Atoms("O3", [[-A, 0, 0], [0, 0, 0], [A, 0, 0]])
    atoms.positions[:, 0] *= 1 - 0.0287
    potential = Gradient(PairFunction(energy, cutoff=3 * A))
    for _ in range(60):
        atoms.positions += 0.02 * predict(potential, atoms)[0].forces.numpy()
    result = phonons(potential, atoms, PhononsSettings(average="none"))
    stability = {verdict.key: verdict for verdict in result.verdicts()}["stability"]
    assert stability.answer == "no"
    assert result.scanned.rulings[0].kind == "physical"


def test_an_imaginary_frequency_between_the_wave_vectors_of_the_supercell_asks_for_a_larger_one():
    # ω² goes as k (1 - cos q) + k' (1 - cos 2q): positive at π/2 and π, negative at π/4, which does not fit into four.
    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        r = v.norm(dim=1)
        second = torch.where(r > 1.9 * A, -0.4 * (r - 2 * A) ** 2, torch.zeros_like(r))
        return torch.where(r < 1.2 * A, (r - A) ** 2, second)

    potential = Gradient(PairFunction(energy, cutoff=2.1 * A))
    settings = PhononsSettings(supercell=(4, 4, 4), force=True, average="none", points=30, mesh_A=8.5)
    result = phonons(potential, bulk("Po", "sc", a=A), settings)
    (ruling,) = result.scanned.rulings
    assert ruling.kind == "unconverged"
    assert ruling.suspect.descent is None
    stability = {verdict.key: verdict for verdict in result.verdicts()}["stability"]
    assert stability.answer == "unknown"
    assert stability.remedy == "use a larger supercell"
