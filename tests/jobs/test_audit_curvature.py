import math
from typing import final

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene, make_supercell, molecule
from ase.calculators.emt import EMT
from ase.phonons import Phonons
from ase.units import _e, _hplanck
from torch import Tensor

from analytic import Handed, PairFunction, Recorder, dimer
from tumble.batch import Batch, Properties
from tumble.bridges.ase import Foreign
from tumble.crystal import space_group
from tumble.crystal.ideal import translations
from tumble.jacobian.vibrations import modes
from tumble.jobs.audit.measures.curvature import (
    COARSE,
    FINE,
    Curvature,
    FrequencyError,
    curvature,
    force_constants,
    frequency_error,
    frequency_spread,
    n_calls_needed,
    usual_step,
)
from tumble.models.pair import LennardJones
from tumble.potential import Gradient, Potential
from tumble.rotations import Rotations
from tumble.units import THZ

A = 3.0
"""Å, lattice constant of the simple cubic crystals."""


def springs(epsilon: float = 0.0, k: float = 2.0, second: float = 0.7) -> Gradient:
    """Springs to first and second neighbours of a simple cubic crystal, and ε x² for the first."""

    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        r = v.norm(dim=1)
        near = k / 2 * (r - A) ** 2 + epsilon * v[:, 0] ** 2
        return torch.where(r < 1.2 * A, near, second / 2 * (r - math.sqrt(2) * A) ** 2)

    return Gradient(PairFunction(energy, cutoff=1.6 * A))


def simple_cubic(n: int = 2) -> Atoms:
    return bulk("Po", "sc", a=A) * (n, n, n)


def found_for(potential: Potential, atoms: Atoms, step: float | None = None) -> tuple[Curvature, FrequencyError]:
    found = curvature(potential, atoms, space_group(atoms), step=step)
    assert found is not None
    error = frequency_error(found, atoms)
    assert error is not None
    return found, error


def test_force_constants_of_springs_are_their_closed_form():
    atoms = simple_cubic(3)
    found = force_constants(springs(0.01), atoms, space_group(atoms), step=FINE)
    right = int(np.argmin(np.linalg.norm(atoms.positions - [A, 0, 0], axis=1)))
    above = int(np.argmin(np.linalg.norm(atoms.positions - [0, 0, A], axis=1)))
    assert found[0, right] == pytest.approx(np.diag([-2.0 - 0.02, 0, 0]), abs=1e-5)
    assert found[0, above] == pytest.approx(np.diag([-0.02, 0, -2.0]), abs=1e-5)
    assert found[5] == pytest.approx(found[0, np.argsort(translations(atoms, space_group(atoms))[5])], abs=1e-5)


def test_one_atom_of_each_class_is_displaced_and_the_others_follow_by_translation():
    atoms = make_supercell(bulk("NaCl", "rocksalt", a=2 * A), [[1, 1, 0], [0, 1, 0], [0, 0, 2]])
    atoms.rattle(0.05, seed=1)
    atoms = atoms * (1, 2, 1)
    group = space_group(atoms)
    watched = Recorder(springs(0.1))
    found = force_constants(watched, atoms, group)
    assert sum(n_structures for n_structures, _, _ in watched.calls) == n_calls_needed(group) == 6 * len(atoms) // 2
    every = force_constants(springs(0.1), atoms, WithoutTranslations(atoms))
    assert found == pytest.approx(every, abs=1e-10)


class WithoutTranslations:
    def __init__(self, atoms: Atoms) -> None:
        self.classes = np.arange(len(atoms))


@pytest.mark.parametrize(
    "atoms",
    [
        bulk("Ar", "fcc", a=5.2, cubic=True),
        make_supercell(bulk("Ar", "hcp", a=3.7), [[1, 1, 0], [-1, 2, 0], [0, 0, 1]]),
        Atoms("Ar4", 2.7 / 2 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])),
    ],
    ids=["fcc", "turned hcp supercell", "tetrahedron"],
)
def test_an_invariant_potential_has_no_frequency_error(atoms):
    potential = Gradient(LennardJones(sigma=3.4, epsilon=0.01, cutoff=7.0))
    found, error = found_for(potential, atoms)
    assert found.forbidden < 1e-5
    assert found.asymmetry < 1e-5
    assert found.sum_violation < 1e-9
    assert error.worst_THz < 1e-5
    assert error.splitting_THz < 1e-5
    assert error.lowest_THz > 0.1


def test_the_forbidden_part_of_an_anisotropic_spring_is_its_closed_form():
    epsilon, atoms = 1e-3, simple_cubic(3)
    found, _ = found_for(springs(epsilon), atoms)
    expected = np.zeros((27, 27, 3, 3))
    forbidden = -2 * epsilon * (np.diag([1.0, 0, 0]) - np.eye(3) / 3)
    for i in range(27):
        apart = atoms.get_distances(i, range(27), mic=True, vector=True)
        near = np.abs(np.linalg.norm(apart, axis=1) - A) < 0.1
        expected[i, near], expected[i, i] = forbidden, -6 * forbidden
    symmetric = (found.raw + found.raw.transpose(1, 0, 3, 2)) / 2
    assert symmetric - found.allowed == pytest.approx(expected, abs=1e-7)
    assert found.forbidden == pytest.approx(np.linalg.norm(expected) / np.linalg.norm(found.raw), rel=1e-4)
    assert found.asymmetry < 1e-8


@pytest.mark.parametrize(("epsilon", "second"), [(1e-5, 0.7), (1e-4, 0.7), (1e-5, 1.0)])
def test_first_order_changes_are_those_of_an_exact_diagonalisation(epsilon, second):
    # With 1.0 some modes are degenerate by accident, and only nearly so under ε.
    atoms = simple_cubic(3)
    found, error = found_for(springs(epsilon, second=second), atoms)
    exact = modes((found.raw + found.raw.transpose(1, 0, 3, 2)) / 2, atoms).frequencies_THz
    changed = np.sort(error.frequencies_THz + error.first_order_THz)
    assert error.n_modes == 3 * 27 - 3
    # The second order is smaller by the change itself over the distance to the next set of modes.
    assert changed == pytest.approx(exact, abs=20 * error.worst_THz**2)
    assert error.worst_THz > 1e-5


def test_a_degenerate_optical_mode_splits_by_its_closed_form():
    epsilon, k, atoms = 1e-3, 2.0, bulk("NaCl", "rocksalt", a=2 * A)

    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        return k / 2 * (v.norm(dim=1) - A) ** 2 + epsilon * v[:, 0] ** 2

    _, error = found_for(Gradient(PairFunction(energy, cutoff=1.2 * A)), atoms)
    reduced = 1 / np.sum(1 / atoms.get_masses())
    stiffness = 2 * k + 6 * 2 * epsilon / 3
    middle = THZ * math.sqrt(stiffness / reduced)
    assert error.frequencies_THz == pytest.approx(np.full(3, middle), rel=1e-6)
    forbidden = THZ**2 * 12 * epsilon / reduced / (2 * middle) * np.array([-1 / 3, -1 / 3, 2 / 3])
    assert error.first_order_THz == pytest.approx(forbidden, rel=1e-4)
    assert error.shifts_THz == pytest.approx(forbidden, rel=1e-3)
    assert error.splitting_THz == pytest.approx(forbidden[2] - forbidden[0], rel=1e-4)
    assert error.rms_THz == pytest.approx(math.sqrt(2 / 9) * error.splitting_THz, rel=1e-3)
    assert error.worst_THz == pytest.approx(abs(forbidden[2]), rel=1e-4)
    assert error.worst_at_THz == pytest.approx(middle, rel=1e-6)


def test_a_triangle_splits_where_its_modes_are_degenerate_and_only_there():
    epsilon, k = 1e-4, 2.0
    atoms = Atoms("O3", A * np.array([[0, 0, 0], [1, 0, 0], [0.5, math.sqrt(3) / 2, 0]]))

    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        r = v.norm(dim=1)
        return (k / 2 + epsilon * (v[:, 0] ** 2 - v[:, 1] ** 2) / r**2) * (r - A) ** 2

    _, error = found_for(Gradient(PairFunction(energy, cutoff=1.2 * A)), atoms)
    mass = atoms.get_masses()[0]
    # Breathing 3 k / m, and a degenerate pair at 3 k / 2 m; translations and turns are left out.
    middle = THZ * np.sqrt(k / mass * np.array([1.5, 1.5, 3.0]))
    assert error.frequencies_THz == pytest.approx(middle, rel=1e-5)
    # The springs differ by 2 ε (1, -1/2, -1/2); the pair stretches them as (2, -1, -1) / √6 and (0, 1, -1) / √2.
    expected = THZ**2 * 1.5 * epsilon / mass / (2 * middle) * np.array([-1, 1, 0])
    assert error.first_order_THz == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert error.splitting_THz == pytest.approx(2 * expected[1], rel=1e-3)


def test_modes_that_are_not_degenerate_change_as_they_mix():
    # A bent molecule of two springs: forbidden force constants couple the symmetric to the antisymmetric stretch.
    atoms = Atoms("H2O", A * np.array([[1, 0.0, 0], [0, 1, 0], [0, 0, 0]]))
    epsilon, k, angle = 1e-2, 2.0, 0.3

    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        r = v.norm(dim=1)
        near = k / 2 * (r - A) ** 2 + epsilon * (v[:, 0] ** 2 - v[:, 1] ** 2)
        return torch.where(r < 1.2 * A, near, angle / 2 * (r - math.sqrt(2) * A) ** 2)

    found, error = found_for(Gradient(PairFunction(energy, cutoff=1.6 * A)), atoms)
    exact = modes((found.raw + found.raw.transpose(1, 0, 3, 2)) / 2, atoms).frequencies_THz
    assert np.abs(error.first_order_THz).max() < 1e-3 * error.worst_THz
    assert error.frequencies_THz + error.shifts_THz == pytest.approx(exact, abs=1e-2 * error.worst_THz)
    assert error.worst_THz > 1e-3


@pytest.mark.parametrize("atoms", [dimer(r=A), Atoms("HF", [[0, 0, 0], [0, 0, A]])], ids=["tilted", "upright"])
def test_the_spread_of_a_frequency_over_orientations_is_its_closed_form(atoms):
    epsilon, k, rule = 1e-4, 2.0, Rotations.parse("I@generic")
    watched = Recorder(springs(epsilon, k))
    found = frequency_spread(watched, atoms, space_group(atoms), rule)
    assert sum(n_structures for n_structures, _, _ in watched.calls) == 60 * n_calls_needed(space_group(atoms))
    # Along the bond the spring is k + 2 ε x̂², of mean 1/3 and variance 4/45.
    reduced = 1 / np.sum(1 / atoms.get_masses())
    assert found.frequencies_THz == pytest.approx([THZ * math.sqrt((k + 2 * epsilon / 3) / reduced)], rel=1e-6)
    assert found.spreads_THz == pytest.approx(found.frequencies_THz * epsilon / k * math.sqrt(4 / 45), rel=1e-2)
    assert found.rms_THz == found.worst_THz == found.spreads_THz[0]
    assert found.worst_at_THz == found.frequencies_THz[0]


def test_frequencies_of_an_invariant_potential_do_not_scatter():
    potential, rule = Gradient(LennardJones(sigma=3.4, epsilon=0.01, cutoff=7.0)), Rotations.parse("T@generic")
    atoms = bulk("Ar", "fcc", a=5.2, cubic=True)
    assert frequency_spread(potential, atoms, space_group(atoms), rule).worst_THz < 1e-5
    rounded = frequency_spread(Rounded(potential, 1e-5), atoms, space_group(atoms), rule)
    assert rounded.floor_THz < rounded.rms_THz < 1e-2
    single, four = bulk("Ar", "fcc", a=5.2), Atoms("HFCN", [[0, 0, 0], [1, 0, 0], [0, 1.1, 0], [0, 0, 1.2]])
    assert frequency_spread(potential, single, space_group(single), rule) is None
    assert frequency_spread(Handed(), four, space_group(four), rule) is None


def test_a_straight_molecule_has_one_more_vibration_than_a_bent_one():
    straight = Atoms("CO2", [[0, 0, 0], [0.7, 0.7, 0.7], [-0.7, -0.7, -0.7]])
    assert len(modes(np.zeros((3, 3, 3, 3)), straight).frequencies_THz) == 4
    assert len(modes(np.zeros((3, 3, 3, 3)), molecule("H2O")).frequencies_THz) == 3
    chain = Atoms("C2", [[0, 0, 0], [0, 1.2, 0.5]], cell=[0, 0, 1.3], pbc=[False, False, True])
    assert len(modes(np.zeros((2, 2, 3, 3)), chain).frequencies_THz) == 2
    sheet = graphene(vacuum=5.0)
    assert len(modes(np.zeros((2, 2, 3, 3)), sheet).frequencies_THz) == 3


@final
class Curl(Potential):
    """Direct forces F_i = Σ_j (k r - κ ẑ × r) of the vector r to each neighbour j: the second part has no energy."""

    cutoff, species, is_conservative = 1.2 * A, None, False

    def __init__(self, k: float, kappa: float) -> None:
        super().__init__()
        self.matrix = torch.tensor([[k, kappa, 0], [-kappa, k, 0], [0, 0, k]], dtype=torch.float64)

    def forward(self, batch: Batch) -> Properties:
        forces = torch.zeros_like(batch.positions).index_add(0, batch.center, batch.vectors @ self.matrix.T)
        return Properties(torch.zeros(batch.n_structures, dtype=torch.float64), forces)


def test_the_asymmetry_of_a_curl_is_its_closed_form():
    k, kappa, atoms = 2.0, 0.5, simple_cubic(3)
    found = curvature(Curl(k, kappa), atoms, space_group(atoms))
    assert found.asymmetry == pytest.approx(math.sqrt(2 * kappa**2 / (3 * k**2 + 2 * kappa**2)), rel=1e-9)
    # A curl does not change a frequency in first order.
    assert frequency_error(found, atoms).worst_THz < 1e-6


@final
class Anchored(Potential):
    """Every atom on a spring to where it stands on a cubic lattice: space is not the same everywhere."""

    cutoff, species, is_conservative = 0.0, None, True

    def forward(self, batch: Batch) -> Properties:
        apart = batch.positions - A * torch.round(batch.positions / A)
        energy = torch.zeros(batch.n_structures, dtype=torch.float64)
        return Properties(energy.index_add(0, batch.structure, apart.square().sum(1) / 2), -apart)


def test_a_force_from_moving_everything_is_a_violation_of_the_sum_rule():
    atoms = simple_cubic(2)
    assert curvature(Anchored(), atoms, space_group(atoms)).sum_violation == pytest.approx(1.0, rel=1e-9)


@final
class Rounded(Potential):
    """The forces of another potential in whole multiples of a unit."""

    def __init__(self, inner: Potential, unit: float) -> None:
        super().__init__()
        self.inner, self.unit = [inner], unit
        self.cutoff, self.species, self.is_conservative = inner.cutoff, inner.species, True

    def forward(self, batch: Batch) -> Properties:
        answer = self.inner[0](batch)
        return answer._replace(forces=self.unit * torch.round(answer.forces / self.unit))


def test_the_floor_is_what_rounded_forces_would_make_of_frequencies():
    unit, atoms = 1e-4, bulk("Ar", "fcc", a=5.2) * (2, 2, 3)
    atoms.rattle(0.1, seed=0)
    atoms = atoms * (1, 1, 2)
    exact, rounded = (Gradient(LennardJones(sigma=3.4, epsilon=0.01, cutoff=5.0)),) * 2
    rounded = Rounded(exact, unit)
    group = space_group(atoms)
    noise = curvature(rounded, atoms, group, step=COARSE)
    truth = curvature(exact, atoms, group, step=COARSE)
    assert usual_step(rounded) == COARSE
    error = frequency_error(noise._replace(allowed=truth.allowed), atoms, rounding=unit / math.sqrt(12), below_THz=0.3)
    assert error.rms_THz == pytest.approx(error.floor_THz, rel=0.5)


def test_a_float32_potential_is_asked_in_float64():
    exact = Gradient(LennardJones(sigma=3.4, epsilon=0.01, cutoff=7.0))
    atoms = bulk("Ar", "fcc", a=5.2, cubic=True)
    single = Gradient(LennardJones(sigma=3.4, epsilon=0.01, cutoff=7.0)).float()
    assert usual_step(single) == FINE
    found, error = found_for(single, atoms)
    assert found.raw == pytest.approx(found_for(exact, atoms)[0].raw, rel=1e-6, abs=1e-9)
    assert error.worst_THz < 1e-5
    assert single.dtype == torch.float32


def test_imaginary_modes_are_counted_and_left_out():
    _, error = found_for(springs(0.0, second=-0.1), simple_cubic(2))
    assert error.n_imaginary > 0
    assert error.lowest_THz < -0.1
    assert error.frequencies_THz.min() > 0.1
    assert error.n_modes + error.n_imaginary <= 21


def test_a_budget_a_potential_without_forces_and_a_single_atom_have_no_frequency_error():
    atoms = simple_cubic(2)
    group = space_group(atoms)
    assert n_calls_needed(group) == 6
    watched = Recorder(springs())
    assert curvature(watched, atoms, group, budget=5) is None
    assert watched.calls == []
    assert curvature(watched, atoms, group, budget=6).n_translations == 8
    assert sum(n_structures for n_structures, _, _ in watched.calls) == 6
    four = Atoms("HFCN", [[0, 0, 0], [1, 0, 0], [0, 1.1, 0], [0, 0, 1.2]])
    assert curvature(Handed(), four, space_group(four)) is None
    assert force_constants(Handed(), four, space_group(four)) is None
    single = bulk("Po", "sc", a=A)
    assert frequency_error(curvature(springs(), single, space_group(single)), single) is None


def test_a_dimer_vibrates_at_the_frequency_of_its_spring():
    atoms = dimer(r=A)
    _, error = found_for(springs(), atoms)
    reduced = 1 / np.sum(1 / atoms.get_masses())
    assert error.frequencies_THz == pytest.approx([THZ * math.sqrt(2.0 / reduced)], rel=1e-5)
    assert error.worst_THz < 1e-6


def test_frequencies_agree_with_those_of_another_engine_where_both_have_a_wave_vector(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # ASE keeps its displacements in the working directory
    phonons = Phonons(bulk("Cu"), EMT(), supercell=(4, 4, 4), delta=0.005)
    phonons.run()
    phonons.read(acoustic=True)
    at_x = np.asarray(phonons.band_structure([[0.5, 0, 0.5]]))[0] / (1e12 * _hplanck / _e)
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)  # X fits into it
    group = space_group(atoms)
    found = frequency_error(curvature(Foreign(EMT()), atoms, group, step=0.005), atoms)
    for frequency in at_x:
        assert np.abs(found.frequencies_THz - frequency).min() < 1e-3
    assert found.frequencies_THz.max() == pytest.approx(at_x.max(), abs=1e-3)
