"""Numbers that can be worked out on paper."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from analytic import dimer, lopsided, polar, quartic, skewed_dimer
from tumble.crystal import check_resolution, point_operations
from tumble.models.pair import LennardJones
from tumble.orbit import Orbit, mean_over
from tumble.packs import predict
from tumble.potential import Gradient, Potential, collate_for
from tumble.rotations import GENERIC, Rotations
from tumble.symmetry import symmetrize

EPSILON, R = 0.3, 1.2


def orbit(potential: Potential, atoms: Atoms, spec: str) -> Orbit:
    return Orbit.of(potential, collate_for(potential, [atoms]), Rotations.parse(spec))


def test_the_mean_of_the_skewed_dimer_is_shifted_by_a_third():
    for spec in ("T", "O", "I", "Th", "Oh", "Ih", "so3:7", "euler:2", "euler:3i"):
        mean = orbit(skewed_dimer(EPSILON), dimer(r=R), spec).mean()
        assert float(mean.energy) == pytest.approx((R - 1) ** 2 + EPSILON / 3, rel=1e-13)


def test_the_variance_of_the_skewed_dimer_is_four_fortyfifths_and_all_of_it_quadrupolar():
    found = orbit(skewed_dimer(EPSILON), dimer(r=R), "o3:8@generic")
    variance = 4 * EPSILON**2 / 45
    assert float(found.spread().energy) == pytest.approx(variance**0.5, rel=1e-12)
    expected = torch.zeros(2, 5, 1, dtype=torch.float64)
    expected[0, 0] = ((R - 1) ** 2 + EPSILON / 3) ** 2
    expected[0, 2] = variance
    torch.testing.assert_close(found.spectrum(4).energy, expected, atol=1e-15, rtol=1e-12)


def test_the_skewed_dimer_has_no_parity_odd_part():
    assert float(orbit(skewed_dimer(EPSILON), dimer(r=R), "o3:8").parity().energy) == 0


def test_the_mean_force_of_the_skewed_dimer_is_the_force_of_its_mean():
    atoms = dimer(r=R)
    forces = predict(symmetrize(skewed_dimer(EPSILON), "T"), atoms)[0].forces
    along = torch.as_tensor((atoms.positions[1] - atoms.positions[0]) / R)
    torch.testing.assert_close(forces, torch.stack([along, -along]) * 2 * (R - 1), atol=1e-13, rtol=0)


def test_the_torque_of_the_skewed_dimer_is_in_the_spread_of_its_forces():
    # F = -2(r-1) r̂ - (2ε/r) c (ẑ - c r̂) on an atom, c = r̂·ẑ: the second part has the mean square (4ε²/r²)<c² - c⁴>.
    spread = orbit(skewed_dimer(EPSILON), dimer(r=R), "o3:8").spread()
    expected = (4 * EPSILON**2 / R**2 * (1 / 3 - 1 / 5)) ** 0.5
    torch.testing.assert_close(spread.forces, torch.full((2,), expected, dtype=torch.float64), atol=1e-13, rtol=0)


def test_the_polar_dimer_is_dipolar_and_odd():
    found = orbit(polar(EPSILON), dimer("HF"), "o3:6")
    expected = torch.zeros(2, 4, 1, dtype=torch.float64)
    expected[0, 1] = EPSILON**2 / 3
    torch.testing.assert_close(found.spectrum().energy, expected, atol=1e-15, rtol=0)
    assert float(found.parity().energy) == pytest.approx(EPSILON / 3**0.5)
    assert float(orbit(polar(EPSILON), dimer("HF"), "i").mean().energy) == pytest.approx(0, abs=1e-16)


def test_the_quartic_pair_potential_is_hexadecapolar_with_a_mean_of_three_fifths():
    found = orbit(quartic(EPSILON), dimer(), "o3:12@generic")
    # <(x⁴+y⁴+z⁴)²> = 3 · 1/9 + 6 · 1/105 · 3 = 41/105 on the unit sphere, less (3/5)²: 16/525.
    variance = 16 / 525 * EPSILON**2
    expected = torch.zeros(2, 7, 1, dtype=torch.float64)
    expected[0, 0] = (3 / 5 * EPSILON) ** 2
    expected[0, 4] = variance
    torch.testing.assert_close(found.spectrum().energy, expected, atol=1e-15, rtol=1e-12)
    assert float(found.spread().energy) ** 2 == pytest.approx(variance, rel=1e-12)


@pytest.mark.parametrize("cell", [bulk("Po", "sc", a=2.5), bulk("Cu", "fcc", a=3.6), bulk("Fe", "bcc", a=2.9)])
def test_an_aligned_octahedral_rule_is_blind_to_a_cubic_crystal_and_a_generic_one_is_not(cell):
    potential = quartic(EPSILON, cutoff=2.7)  # the first shell: 6, 12 or 8 neighbours
    true = float(orbit(potential, cell, "o3:8@generic").spread().energy)
    for spec in ("O", "Oh", "so3:3", "o3:3"):
        assert float(orbit(potential, cell, spec).spread().energy) < 1e-14
        assert float(orbit(potential, cell, f"{spec}@generic").spread().energy) > 0.3 * true
        with pytest.raises(ValueError, match="sees only 1 distinct"):
            check_resolution(Rotations.parse(spec), point_operations(cell))
        check_resolution(Rotations.parse(f"{spec}@generic"), point_operations(cell))
    n_pairs = {"Po": 3, "Cu": 6, "Fe": 4}[cell.get_chemical_symbols()[0]]
    aligned = {"Po": 1.0, "Cu": 1 / 2, "Fe": 1 / 3}[cell.get_chemical_symbols()[0]]
    # Structure and potential both are cubic: the energy is n ε [3/5 + (aligned - 3/5) D(Q)], with D the matrix element
    # of the one cubic invariant of ℓ = 4, which is 1 in the aligned frame and has a mean square of 1/(2ℓ+1).
    assert float(predict(potential, cell)[0].energy) == pytest.approx(n_pairs * aligned * EPSILON, rel=1e-12)
    assert float(orbit(potential, cell, "I").mean().energy) == pytest.approx(n_pairs * EPSILON * 3 / 5, rel=1e-12)
    assert true == pytest.approx(abs(aligned - 3 / 5) * n_pairs * EPSILON / 3, rel=1e-12)


def test_the_blind_spot_has_two_sides_and_each_needs_its_own_turn():
    octahedral = Rotations.parse("O")
    left = Rotations(GENERIC.T @ octahedral.matrices, octahedral.weights, 3, "left")
    right = octahedral.offset(GENERIC)

    def spread(potential: Potential, atoms: Atoms, rotations: Rotations) -> float:
        return float(Orbit.of(potential, collate_for(potential, [atoms]), rotations).spread().energy)

    # A cubic crystal and a potential without symmetry: a turn of the lab alone does not help.
    crystal, asymmetric = bulk("Cu", a=3.6), lopsided(cutoff=2.7)
    assert spread(asymmetric, crystal, octahedral) < 1e-14
    assert spread(asymmetric, crystal, left) < 1e-14
    assert spread(asymmetric, crystal, right) > 1e-4
    # A potential with cubic axes of its own and a dimer of no cubic symmetry: a turn of the structure alone does not.
    cubic = quartic(EPSILON)
    assert spread(cubic, dimer(), octahedral) < 1e-14
    assert spread(cubic, dimer(), right) < 1e-14
    assert spread(cubic, dimer(), left) > 1e-3
    # A measuring rule makes both.
    assert spread(asymmetric, crystal, octahedral.generic()) > 1e-4
    assert spread(cubic, dimer(), octahedral.generic()) > 1e-3
    assert spread(cubic, crystal, octahedral.generic()) > 1e-3


def test_lennard_jones_has_no_spread_above_the_rounding():
    potential = Gradient(LennardJones(0.01, 2.2, cutoff=5.0))
    for atoms in (molecule("CH3CH2OH"), bulk("Cu", a=3.6, cubic=True), Atoms("Ar")):
        atoms.rattle(0.05, seed=2)
        found = orbit(potential, atoms, "Ih@generic")
        scale = max(1.0, *(float(field.abs().max()) for field in found.mean()))
        for field in (*found.spread(), *found.parity()):
            assert float(field.max()) < 1e-13 * scale


def test_an_isolated_atom_has_no_forces_no_stress_and_no_spread():
    mean = mean_over(quartic(), collate_for(quartic(), [Atoms("Ar")]), Rotations.parse("Oh"))
    assert [float(field.abs().max()) for field in mean] == [0, 0, 0]
    assert np.isfinite(float(orbit(quartic(), Atoms("Ar"), "Oh").spread().forces))
