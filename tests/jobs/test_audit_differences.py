import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell

from analytic import dimer, quartic, skewed_dimer
from tumble.jobs.audit.measures.differences import energy_differences, largest
from tumble.models.pair import LennardJones
from tumble.orbit import Orbit
from tumble.potential import Gradient, Potential, collate_for
from tumble.rotations import Rotations

EPSILON = 0.3
SIGMA_meV_PER_ATOM = 1000 * math.sqrt(4 * EPSILON**2 / 45) / 2
"""Of the skewed dimer, E = (r - 1)² + ε (r̂·ẑ)², per atom."""


def orbit_of(potential: Potential, atoms: Atoms, spec: str = "o3:8@generic") -> Orbit:
    return Orbit.of(potential, collate_for(potential, [atoms]), Rotations.parse(spec))


def along(direction: list[float], r: float) -> Atoms:
    return Atoms("HF", [[0, 0, 0], r * np.array(direction) / np.linalg.norm(direction)])


def test_parallel_dimers_cancel_in_a_common_frame_and_add_up_in_random_ones():
    structures = [dimer(r=1.2), dimer(r=1.5)]
    (found,) = energy_differences([orbit_of(skewed_dimer(EPSILON), one) for one in structures], structures)
    assert found.mean_meV_per_atom == pytest.approx(1000 * (0.2**2 - 0.5**2) / 2, rel=1e-10)
    assert found.common_meV_per_atom < 1e-10
    assert found.random_meV_per_atom == pytest.approx(math.sqrt(2) * SIGMA_meV_PER_ATOM, rel=1e-10)


@pytest.mark.parametrize("degrees", [30.0, 54.735610317245346, 90.0])
def test_dimers_at_an_angle_cancel_by_the_legendre_polynomial_of_the_angle(degrees):
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    structures = [along([0, 0, 1], 1.2), along([sine, 0, cosine], 1.2)]
    (found,) = energy_differences([orbit_of(skewed_dimer(EPSILON), one) for one in structures], structures)
    expected = math.sqrt(2 * (1 - (3 * cosine**2 - 1) / 2)) * SIGMA_meV_PER_ATOM
    assert found.common_meV_per_atom == pytest.approx(expected, rel=1e-10)


def test_a_supercell_differs_from_its_cell_only_in_random_frames():
    cell = bulk("Ar", "fcc", a=3.4, cubic=True)
    structures = [cell, make_supercell(cell, np.diag([2, 1, 1]))]
    (found,) = energy_differences([orbit_of(quartic(), one, "Oh@generic") for one in structures], structures)
    assert abs(found.mean_meV_per_atom) < 1e-9
    assert found.common_meV_per_atom < 1e-9
    assert found.random_meV_per_atom > 0.1


def test_an_invariant_potential_has_no_spread_in_any_frame():
    structures = [bulk("Ar", lattice, a=5.3) for lattice in ("fcc", "bcc", "sc")]
    potential = Gradient(LennardJones(sigma=3.4, epsilon=0.01, cutoff=6.0))
    found = energy_differences([orbit_of(potential, one, "Ih@generic") for one in structures], structures)
    assert [(one.first, one.second) for one in found] == [(0, 1), (0, 2), (1, 2)]
    assert max(one.random_meV_per_atom for one in found) < 1e-10


def test_only_structures_of_one_composition_ratio_are_compared_and_the_largest_is_named():
    structures = [dimer("HF"), dimer("CO"), dimer("HF") + dimer("FH", 1.3), dimer("HF", 1.4)]
    structures[2].positions[2:] += [9.0, 0.0, 0.0]
    found = energy_differences([orbit_of(skewed_dimer(EPSILON), one) for one in structures], structures)
    assert [(one.first, one.second) for one in found] == [(0, 2), (0, 3), (2, 3)]
    assert largest(found) in found
    assert all(one.random_meV_per_atom <= largest(found).random_meV_per_atom for one in found)
    assert largest([]) is None


def test_orbits_over_different_rules_or_of_other_structures_are_refused():
    potential, structures = skewed_dimer(), [dimer(), dimer(r=1.4)]
    orbits = [orbit_of(potential, one, spec) for one, spec in zip(structures, ("Oh", "Ih"), strict=True)]
    with pytest.raises(ValueError, match=r"orbit 1 is over Ih, orbit 0 over Oh; .* needs both .* same orientations"):
        energy_differences(orbits, structures)
    with pytest.raises(ValueError, match="2 orbits were given for 1 structures; one each was expected"):
        energy_differences(orbits, structures[:1])
