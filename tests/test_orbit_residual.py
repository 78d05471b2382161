import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from analytic import Handed, dimer, lopsided, polar, quartic, skewed_dimer
from tumble.batch import collate
from tumble.orbit import Orbit, mean_over, residual
from tumble.potential import Potential, collate_for
from tumble.rotations import Rotations
from tumble.symmetry import symmetrize

EPSILON = 0.3


def orbit_of(potential: Potential, atoms: Atoms, spec: str = "o3:8@generic") -> Orbit:
    return Orbit.of(potential, collate_for(potential, [atoms]), Rotations.parse(spec))


@pytest.mark.parametrize(("spec", "removes"), [("T", True), ("i", False), ("none", False), ("euler:2", True)])
def test_the_residual_of_a_rule_knows_what_it_removes_from_the_dimer(spec, removes):
    orbit = orbit_of(skewed_dimer(EPSILON), dimer())
    left = residual(orbit, Rotations.parse(spec)).energy
    assert float(left[0]) == pytest.approx(0 if removes else math.sqrt(4 * EPSILON**2 / 45), abs=1e-8)


@pytest.mark.parametrize("rule", ["T", "Th", "O", "Oh", "I", "Ih", "i"])
@pytest.mark.parametrize("potential", [quartic(EPSILON), lopsided()], ids=["aligned", "skewed"])
def test_the_residual_is_the_spread_of_the_symmetrized_potential(potential, rule):
    atoms = molecule("H2O")
    left = residual(orbit_of(potential, atoms, "o3:10@generic"), Rotations.parse(rule))
    shown = orbit_of(symmetrize(potential, rule), atoms, "so3:10@generic").spread()
    if rule in ("Th", "Oh", "Ih", "i"):
        torch.testing.assert_close(left.energy, shown.energy, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(left.forces, shown.forces, rtol=1e-3, atol=1e-5)
    assert float(left.energy[0]) >= 0.99 * float(shown.energy[0]) - 1e-8


def test_the_residual_assumes_the_worst_of_what_is_not_resolved():
    potential, atoms = quartic(EPSILON), dimer()
    left = residual(orbit_of(potential, atoms, "o3:6@generic"), Rotations.parse("I").generic())
    assert float(left.energy[0]) > 0.1 * EPSILON * math.sqrt(4 / 45)  # ℓ = 4 is removed, but this rule cannot know


@pytest.mark.parametrize("spec", ["euler:2", "random:9:4", "T@random:3"])
def test_the_residual_of_a_rule_that_is_no_group_is_the_error_found_over_many_frames(spec):
    potential, atoms, rule = lopsided(), molecule("H2O"), Rotations.parse(spec)
    batch = collate_for(potential, [atoms])
    expected = residual(orbit_of(potential, atoms, "o3:12"), rule).energy
    exact = mean_over(potential, batch, Rotations.parse("o3:7")).energy
    # The error is an average over frames of the structure and of the lab; the potential is turned by turning both.
    squares = []
    for left, right in zip(Rotations.random(60, 1).matrices, Rotations.random(60, 2).matrices, strict=True):
        turned = Rotations(left @ rule.matrices @ right, rule.weights, 0, "turned")
        squares.append(float((mean_over(potential, batch, turned).energy - exact).square()))
    assert np.sqrt(np.mean(squares)) == pytest.approx(float(expected), rel=0.3)


@pytest.mark.parametrize("measuring", ["so3:8@generic", "o3:8@generic", "T@random:40"])
def test_the_residual_of_no_rule_is_the_spread_and_of_a_fine_one_nothing(measuring):
    orbit = orbit_of(polar(EPSILON), dimer(), measuring)
    left = residual(orbit, Rotations.parse("none"))
    torch.testing.assert_close(left.energy, orbit.spread().energy, rtol=1e-9, atol=0)
    assert float(residual(orbit_of(polar(EPSILON), dimer(), "o3:8"), Rotations.parse("T")).energy) < 1e-8


def test_the_residual_knows_how_the_potential_lies_in_the_frame_of_a_group():
    # x⁴ + y⁴ + z⁴ has the axes of O: all of it is left in the lab frame, and little in the generic one.
    orbit = orbit_of(quartic(EPSILON), dimer(), "o3:8@generic")
    spread = float(orbit.spread().energy)
    assert float(residual(orbit, Rotations.parse("O")).energy) == pytest.approx(spread, rel=1e-9)
    assert float(residual(orbit, Rotations.parse("O@generic")).energy) < 0.3 * spread
    assert float(residual(orbit, Rotations.parse("I")).energy) < 1e-8


def test_inversion_leaves_nothing_of_a_pseudoscalar_and_all_of_it_without():
    batch = collate([Atoms("CHFO", [[0, 0, 0], [1.0, 0.2, 0], [0.1, 1.1, 0], [0, 0.3, 0.9]])], 0.0)
    orbit = Orbit.of(Handed(), batch, Rotations.parse("o3:4"))
    assert float(residual(orbit, Rotations.parse("i")).energy) < 1e-7
    assert residual(orbit, Rotations.parse("I")).energy == pytest.approx(orbit.spread().energy, rel=1e-9)
    assert residual(orbit, Rotations.parse("I")).forces is None


def test_a_residual_from_a_rule_that_mixes_parities_is_refused():
    turns = Rotations.random(2, seed=1).matrices
    mixed = Rotations(torch.stack([turns[0], -turns[1]]), torch.tensor([0.5, 0.5]), 0, "mixed")
    orbit = Orbit.of(skewed_dimer(), collate_for(skewed_dimer(), [dimer()]), mixed)
    with pytest.raises(ValueError, match="the rule mixed mixes proper and inverting nodes"):
        residual(orbit, Rotations.parse("T"))
