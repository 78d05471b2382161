import math
import warnings
from typing import final

import numpy as np
import pytest
import spglib
import torch
from ase import Atoms
from ase.build import bulk, graphene
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from torch import Tensor

import tumble
from analytic import Handed, PairFunction, Recorder, lopsided
from tumble.batch import Batch, Properties
from tumble.crystal import space_group
from tumble.jobs.audit.measures.curvature import curvature
from tumble.jobs.audit.measures.rest import Rest, Shift, forbidden_at_rest
from tumble.models.pair import LennardJones
from tumble.potential import Gradient, Potential
from tumble.units import EV_PER_A3_TO_GPa

A, K, K2 = 3.0, 2.0, 1.0
"""Å, distance of first neighbours; eV/Å², springs to first and second ones."""


def springs(far: float = math.sqrt(2), *, even: float = 0.0, odd: float = 0.0, mixed: float = 0.0) -> Gradient:
    """Springs to first neighbours and second ones, `far` times farther; and for the first what breaks the symmetry.

    even: of x²; odd: of x, from the lighter to the heavier atom; mixed: of (x + y)² z / A from the one to the other.
    """

    def energy(v: Tensor, i: Tensor, j: Tensor) -> Tensor:
        r, sign = v.norm(dim=1), torch.sign(j - i)
        x, y, z = v.unbind(1)
        near = K / 2 * (r - A) ** 2 + even * x**2 + sign * (odd * x + mixed * (x + y) ** 2 * z / A)
        return torch.where(r < (1 + far) / 2 * A, near, K2 / 2 * (r - far * A) ** 2)

    return Gradient(PairFunction(energy, cutoff=1.1 * far * A))


def zincblende() -> Atoms:
    return bulk("GaAs", "zincblende", a=4 / math.sqrt(3) * A)


def rest_of(potential: Potential, atoms: Atoms, *, with_cell: bool = True) -> tuple[Rest, Shift]:
    group = space_group(atoms)
    found = forbidden_at_rest(potential, atoms, group, curvature(potential, atoms, group), with_cell=with_cell)
    assert found is not None
    assert found.shift is not None
    return found, found.shift


def relaxed(potential: Potential, atoms: Atoms, *, with_cell: bool) -> Atoms:
    moved = atoms.copy()
    moved.calc = tumble.Calculator(potential)
    target = FrechetCellFilter(moved) if with_cell else moved
    assert FIRE(target, logfile=None).run(fmax=1e-8, steps=3000)
    return moved


def test_the_sublattices_of_rock_salt_move_apart_by_force_over_spring():
    odd, atoms = 1e-3, bulk("NaCl", "rocksalt", a=2 * A)
    found, shift = rest_of(springs(odd=odd), atoms, with_cell=False)
    # Of six neighbours each pulls with ε along x; two springs hold.
    apart, masses = 6 * odd / (2 * K), atoms.get_masses()
    assert found.force_meV_per_A == pytest.approx(6 * odd * 1000 / math.sqrt(3), rel=1e-9)
    assert found.worst_meV_per_A == pytest.approx(6 * odd * 1000, rel=1e-9)
    assert found.allowed_meV_per_A < 1e-9
    assert shift.displacements[0] - shift.displacements[1] == pytest.approx([apart, 0, 0], rel=1e-5, abs=1e-12)
    assert shift.displacement_A == pytest.approx(apart * masses[1] / masses.sum(), rel=1e-5)
    # Inverted at the one, the other is off by twice as much.
    assert shift.symprec_A == pytest.approx(2 * apart, rel=1e-5)
    assert (shift.strain, shift.lattice_A, shift.n_left_out, shift.share_left_out) == (None, None, 0, 0.0)
    assert np.all(shift.strains == 0)
    assert found.n_calls == 1


def test_a_cubic_crystal_is_stretched_by_stress_over_elastic_constant():
    even, atoms = 1e-4, bulk("Po", "sc", a=A)
    found, shift = rest_of(springs(even=even), atoms)
    strain = 4 * even / (3 * (K + K2))
    assert found.stress_GPa == pytest.approx(EV_PER_A3_TO_GPa * 2 * even / A * math.sqrt(6 / 9) / 3, rel=1e-6)
    assert found.allowed_GPa == pytest.approx(EV_PER_A3_TO_GPa * 2 * even / (3 * A), rel=1e-6)
    assert shift.strains == pytest.approx(strain * np.diag([-1, 0.5, 0.5]), rel=1e-3, abs=1e-12)
    assert shift.strain == pytest.approx(strain, rel=1e-3)
    assert shift.lattice_A == pytest.approx(A * strain, rel=1e-3)
    assert shift.symprec_A == pytest.approx(1.5 * A * strain, rel=1e-3)
    assert shift.displacement_A == 0.0
    assert shift.lowest_THz is None
    assert found.n_calls == 13


@pytest.mark.parametrize("with_cell", [False, True])
def test_a_relaxation_goes_where_it_is_said_to_go(with_cell):
    atoms = zincblende()
    potential = springs(math.sqrt(8 / 3), even=2e-5, odd=3e-5, mixed=5e-5)
    _, shift = rest_of(potential, atoms, with_cell=with_cell)
    after = relaxed(potential, atoms, with_cell=with_cell)
    deformed = np.linalg.solve(atoms.cell.array, after.cell.array) - np.eye(3)
    _, forbidden = space_group(atoms).project_stress((deformed + deformed.T) / 2)
    inner = (after.get_scaled_positions(wrap=False) - atoms.get_scaled_positions(wrap=False)) @ atoms.cell.array
    assert np.abs(shift.strains).max() > (1e-6 if with_cell else -1)
    assert np.abs(shift.displacements).max() > 1e-6
    assert shift.strains == pytest.approx(forbidden, abs=3e-3 * np.abs(forbidden).max() + 1e-12)
    expected = inner[1] - inner[0]
    found = shift.displacements[1] - shift.displacements[0]
    assert found == pytest.approx(expected, abs=3e-3 * np.abs(expected).max())


def test_a_triangle_relaxes_to_the_sides_that_are_said():
    even = 1e-4
    atoms = Atoms("O3", A * np.array([[0, 0, 0], [1, 0, 0], [0.5, math.sqrt(3) / 2, 0]]))
    _, shift = rest_of(springs(even=even), atoms)
    after = relaxed(springs(even=even), atoms, with_cell=False)
    change = after.get_all_distances() - atoms.get_all_distances()
    said = atoms.copy()
    said.positions += shift.displacements
    said_change = said.get_all_distances() - atoms.get_all_distances()
    # All sides shrink alike by what is allowed; only their differences are forbidden.
    sides = np.triu_indices(3, 1)
    assert change[sides] - change[sides].mean() == pytest.approx(said_change[sides], rel=1e-2, abs=1e-8)
    assert np.ptp(change[sides]) > 1e-5
    assert shift.strain is None


@pytest.mark.parametrize(("odd", "even"), [(1e-3, 0.0), (0.0, 1e-3), (1e-3, 1e-3)])
def test_spglib_loses_the_symmetry_of_the_moved_crystal_near_the_symprec_that_is_said(odd, even):
    atoms = bulk("NaCl", "rocksalt", a=2 * A)
    _, shift = rest_of(springs(odd=odd, even=even), atoms)
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ (np.eye(3) + shift.strains))
    moved.positions = (atoms.positions + shift.displacements) @ (np.eye(3) + shift.strains)

    def number(symprec: float) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # some versions announce changes with every call
            found = spglib.get_symmetry_dataset(
                (moved.cell.array, moved.get_scaled_positions(), moved.numbers), symprec
            )
        return found.number

    assert number(0.7 * shift.symprec_A) < number(2.2 * shift.symprec_A) == 225


@pytest.mark.parametrize(
    ("atoms", "n_calls"),
    [(bulk("Ar", "hcp", a=3.7), 13), (graphene("Ar2", a=6.0, vacuum=6.0), 7), (Atoms("Ar3", np.eye(3) * 2.7), 1)],
    ids=["crystal", "sheet", "molecule"],
)
def test_an_invariant_potential_has_nothing_that_is_forbidden(atoms, n_calls):
    watched = Recorder(Gradient(LennardJones(sigma=3.4, epsilon=0.01, cutoff=7.0)))
    group = space_group(atoms)
    constants = curvature(watched, atoms, group)
    before = sum(n_structures for n_structures, _, _ in watched.calls)
    found = forbidden_at_rest(watched, atoms, group, constants)
    assert sum(n_structures for n_structures, _, _ in watched.calls) - before == found.n_calls == n_calls
    assert found.worst_meV_per_A < 1e-9
    assert found.shift.symprec_A < 1e-9
    assert (found.stress_GPa is None) == (found.allowed_GPa is None) == (not atoms.pbc.any())


def test_allowed_forces_and_stress_say_how_far_from_rest_a_structure_is():
    atoms = bulk("Ar", "hcp", a=3.6, c=6.5)
    atoms.positions[1, 2] += 1e-4
    potential = Gradient(LennardJones(sigma=3.4, epsilon=0.01, cutoff=7.0))
    found = forbidden_at_rest(potential, atoms, space_group(atoms, tolerance=1e-6))
    atoms.calc = tumble.Calculator(potential)
    assert found.allowed_meV_per_A == pytest.approx(1000 * np.linalg.norm(atoms.get_forces(), axis=1).max(), rel=1e-6)
    assert found.allowed_GPa == pytest.approx(EV_PER_A3_TO_GPa * np.abs(atoms.get_stress(voigt=False)).max(), rel=1e-6)
    assert found.shift is None
    assert found.elasticity is not None
    assert forbidden_at_rest(potential, atoms, space_group(atoms), with_cell=False).elasticity is None


def test_elastic_constants_of_springs_and_their_forbidden_share_are_their_closed_form():
    even, atoms = 1e-3, bulk("Po", "sc", a=A)
    found = forbidden_at_rest(springs(even=even), atoms, space_group(atoms)).elasticity
    C11, C12 = (K + 2 * K2) / A, K2 / A  # and C44 = C12, which counts twice in an orthonormal basis
    expected = np.diag([C11, 2 * C12, 2 * C12, C11, 2 * C12, C11])
    expected[[0, 0, 3, 3, 5, 5], [3, 5, 0, 5, 0, 3]] = C12
    assert found.constants_GPa / EV_PER_A3_TO_GPa == pytest.approx(expected, abs=2.1 * even / A)
    assert np.einsum("kab,lab->kl", found.basis, found.basis) == pytest.approx(np.eye(6), abs=1e-12)
    # ε x² gives 2 ε / A to xx,xx, xy,xy and xz,xz, and -ε / A to xx,yy and xx,zz.
    assert found.forbidden == pytest.approx(math.sqrt(20 / 3) * even / A / np.linalg.norm(expected), rel=1e-3)
    assert 0 < found.noise < 1e-9


@final
class Single(Potential):
    """Another engine that computes in float32, and does not say so."""

    species, is_conservative = None, True

    def __init__(self, inner: Potential) -> None:
        super().__init__()
        self.hidden = [inner.float()]
        self.cutoff = inner.cutoff

    def forward(self, batch: Batch) -> Properties:
        floats = ("positions", "cell", "shift", "vectors")
        answer = self.hidden[0](batch._replace(**{name: getattr(batch, name).float() for name in floats}))
        return Properties(*(field.double() for field in answer))


@pytest.mark.parametrize("atoms", [bulk("Ar", "hcp", a=3.7), bulk("Ar", "fcc", a=5.2, cubic=True)], ids=["hcp", "fcc"])
def test_what_rounding_alone_does_is_below_what_is_said_of_it(atoms):
    atoms.rotate(20.0, (1, 2, 3), rotate_cell=True)
    found, shift = rest_of(Single(Gradient(LennardJones(sigma=3.4, epsilon=0.01, cutoff=7.0))), atoms)
    assert 0 < shift.displacement_A < shift.noise_A < 1e-5
    assert 0 < shift.lattice_A < shift.noise_A
    assert 0 < found.elasticity.noise < 1e-3


def test_modes_without_a_way_back_are_left_out_and_their_share_is_said():
    atoms = bulk("NaCl", "rocksalt", a=2 * A)
    potential, group = springs(odd=1e-3), space_group(atoms)
    constants = curvature(potential, atoms, group)
    upside_down = constants._replace(allowed=-constants.allowed)
    shift = forbidden_at_rest(potential, atoms, group, upside_down, with_cell=False).shift
    assert (shift.displacement_A, shift.n_left_out) == (0.0, 3)
    assert shift.share_left_out == pytest.approx(1.0)
    assert shift.lowest_THz < 0


def test_a_cell_without_stiffness_is_left_out_and_its_share_is_said():
    # With springs to first neighbours only, simple cubic does not resist shear.
    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        return K / 2 * (v.norm(dim=1) - A) ** 2 + 1e-4 * v[:, 0] ** 2 + 1e-4 * v[:, 0] * v[:, 1]

    _, shift = rest_of(Gradient(PairFunction(energy, cutoff=1.2 * A)), bulk("Po", "sc", a=A))
    assert shift.n_left_out == 3
    assert shift.strain == pytest.approx(4e-4 / (3 * K), rel=2e-2)
    # Of |δS|² the stretch has 4 · 2/3, the shear 2, in units of (ε / A)².
    assert shift.share_left_out == pytest.approx(3 / 7, rel=1e-3)


def test_forbidden_forces_of_float32_are_those_of_float64_and_without_forces_there_are_none():
    atoms = zincblende()
    exact, single = lopsided(cutoff=3.5), lopsided(cutoff=3.5).float()
    group = space_group(atoms)
    expected = forbidden_at_rest(exact, atoms, group)
    assert expected.worst_meV_per_A > 1
    assert forbidden_at_rest(single, atoms, group).worst_meV_per_A == pytest.approx(expected.worst_meV_per_A, rel=1e-9)
    assert forbidden_at_rest(Handed(), Atoms("HFCN", np.eye(4)[:, :3] * 2), space_group(Atoms("H"))) is None
