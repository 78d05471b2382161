"""Random turns: another orientation at each call."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

import tumble
from analytic import Foreigner, Handed, dimer, lopsided, skewed_dimer
from tumble.models.pair import LennardJones
from tumble.orbit import Orbit
from tumble.potential import Gradient, collate_for
from tumble.rotations import Rotations
from tumble.symmetry.turned import Turned


def answers(turned: Turned, atoms: Atoms, n: int, copies: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Energies (n copies,) and forces (n copies, N, 3) of n calls."""
    batch = collate_for(turned, [atoms] * copies)
    found = [turned(batch) for _ in range(n)]
    forces = torch.cat([one.forces.reshape(copies, -1, 3) for one in found])
    return torch.cat([one.energy for one in found]), forces


def test_the_mean_over_many_calls_is_the_mean_of_the_orbit():
    epsilon, n = 0.3, 4000
    potential = skewed_dimer(epsilon)
    energies, forces = answers(Turned(potential, 1), dimer("HF", 1.2), n // 50, 50)
    assert float(energies.mean()) == pytest.approx(0.04 + epsilon / 3, abs=4 * np.sqrt(4 / 45 / n) * epsilon)
    assert float(energies.var()) == pytest.approx(4 * epsilon**2 / 45, rel=0.1)
    mean = Orbit.of(potential, collate_for(potential, [dimer("HF", 1.2)]), Rotations.parse("o3:6")).mean()
    error = forces.std(0) / np.sqrt(n)
    assert bool(((forces.mean(0) - mean.forces).abs() < 4.5 * error + 1e-12).all())


def test_half_of_the_orientations_are_reflected():
    atoms = Atoms("HHHH", [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    batch = collate_for(Handed(), [atoms])
    turned = Turned(Handed(), 2)
    signs = torch.cat([turned(batch).energy for _ in range(400)]) / 0.3
    torch.testing.assert_close(signs.abs(), torch.ones(400, dtype=torch.float64))
    assert abs(float(signs.mean())) < 0.2


def test_stress_and_forces_come_back_to_the_frame_of_the_question():
    exact = Gradient(LennardJones(0.0104, 3.4, cutoff=6.0))
    atoms = Atoms("Ar3", [[0, 0, 0], [3.5, 0.1, 0], [0.2, 3.9, 1.0]], cell=[[9, 0, 0], [1, 9, 0], [0, 2, 9]], pbc=True)
    batch = collate_for(exact, [atoms])
    plain, turned = exact(batch), Turned(exact, 3)(batch)
    for one, other in zip(plain, turned, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_structures_of_a_batch_are_turned_each_in_its_own_way():
    turned = Turned(lopsided(), 4)
    batch = collate_for(turned, [dimer(), dimer(), dimer()])
    assert len({round(float(one), 9) for one in turned(batch).energy}) == 3


def test_no_two_calls_agree_and_the_same_seed_gives_the_same_calls():
    energies, _ = answers(Turned(lopsided(), 5), dimer(), 20)
    again, _ = answers(Turned(lopsided(), 5), dimer(), 20)
    other, _ = answers(Turned(lopsided(), 6), dimer(), 20)
    assert len(set(energies.tolist())) == 20
    assert torch.equal(energies, again)
    assert not torch.equal(energies, other)


def test_it_goes_on_where_it_was_stopped():
    first = Turned(lopsided(), 7)
    answers(first, dimer(), 5)
    state = first.state()
    expected, _ = answers(first, dimer(), 5)
    second = Turned(lopsided(), 7)
    second.restore(state)
    found, _ = answers(second, dimer(), 5)
    assert torch.equal(found, expected)


def test_it_is_what_the_potential_within_is_but_for_the_gradient():
    water = tumble.load("water")
    turned = Turned(water)
    assert (turned.cutoff, turned.species, turned.dtype) == (water.cutoff, water.species, water.dtype)
    assert turned.device == water.device
    assert water.is_conservative
    assert not turned.is_conservative
    assert turned.is_batched == water.is_batched
    assert turned.has_uncertainty == water.has_uncertainty
    assert turned.has_forces_uncertainty == water.has_forces_uncertainty
    assert "seed 0" in repr(turned)


def test_forces_without_stress_are_turned_too():
    turned = Turned(Foreigner(), 8)
    answer = turned(collate_for(turned, [molecule("H2O")]))
    assert answer.stress is None
    assert float(answer.forces.abs().max()) > 0


def test_an_uncertainty_that_is_not_there_is_missed():
    turned = Turned(lopsided())
    with pytest.raises(ValueError, match="does not know how uncertain its answers are"):
        turned.deviations(collate_for(turned, [dimer()]))
