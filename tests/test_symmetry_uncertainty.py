"""The uncertainty of a mean over rotations."""

from typing import Any

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import Tensor

from tumble.batch import Batch, Properties, turn, turn_back
from tumble.models.pair import LennardJones
from tumble.models.pet import LLPR, PET
from tumble.potential import Gradient, collate_for
from tumble.rotations import Rotations
from tumble.symmetry import Symmetrized, symmetrize

SHAPE: dict[str, Any] = {"cutoff": 3.0, "d_pet": 8, "d_node": 8, "d_head": 4, "d_feedforward": 8, "num_heads": 2}


def unsure(n_members: int = 3) -> LLPR:
    """Fitted on shaken structures, with numbers of order one."""
    torch.manual_seed(0)
    potential = LLPR(PET([1, 6, 8], SHAPE).double())
    known = []
    for seed in range(12):
        for atoms in (molecule("H2O"), bulk("C", "diamond", 3.57, cubic=True)):
            atoms.rattle(0.1, seed=seed)
            known.append(atoms)
    potential.fit([collate_for(potential, known)])
    if n_members:
        potential.draw(n_members)
        potential.calibrate_forces(torch.ones(3), torch.full((3,), 2.0))
    return potential


def structures() -> list[Atoms]:
    crystal = bulk("C", "diamond", 3.57, cubic=True)
    shaken = molecule("CH3OH")
    shaken.rattle(0.05, seed=3)
    return [crystal, shaken, molecule("H2O")]


def turned_features(potential: LLPR, batch: Batch, rule: Rotations) -> Tensor:
    """The features of each structure, averaged over the rule one turn after the other, (S, F)."""
    total = torch.zeros(batch.n_structures, potential.model.n_last_features, dtype=torch.float64)
    for weight, matrix in zip(rule.weights, rule.matrices, strict=True):
        features = potential.model.last_layer_features(turn(batch, matrix))
        total.index_add_(0, batch.structure, weight * features)
    return total


@pytest.mark.parametrize("prune", [True, False])
def test_the_uncertainty_of_a_mean_is_that_of_the_mean_of_the_features(prune: bool) -> None:
    potential, rule = unsure(), Rotations.parse("O@generic")
    batch = collate_for(potential, structures())
    features = turned_features(potential, batch, rule)
    inverse = torch.cholesky_inverse(potential.cholesky)
    expected = potential.multiplier * torch.einsum("sf,fg,sg->s", features, inverse, features).sqrt()
    averaged = Symmetrized(potential, rule, prune=prune)
    assert torch.allclose(averaged.uncertainties(batch).energy, expected, rtol=1e-8)
    assert torch.allclose(averaged.uncertainties(batch, forces=True).energy, expected, rtol=1e-8)


def test_it_is_not_the_mean_of_uncertainties_and_never_more() -> None:
    potential, rule = unsure(), Rotations.parse("O@generic")
    batch = collate_for(potential, structures()[1:])
    every = torch.stack([potential.uncertainty(turn(batch, matrix)) for matrix in rule.matrices])
    own = Symmetrized(potential, rule).uncertainties(batch).energy
    assert (own < rule.weights @ every).all()


@pytest.mark.parametrize(("prune", "chunk"), [(True, None), (True, 5), (False, 7)])
def test_forces_of_each_member_are_averaged_turned_back(prune: bool, chunk: int | None) -> None:
    potential, rule = unsure(), Rotations.parse("Th")
    batch = collate_for(potential, structures())
    forces, stress = 0.0, 0.0
    for weight, matrix in zip(rule.weights, rule.matrices, strict=True):
        answers = potential.ensemble_answers(turn(batch, matrix))
        back = [turn_back(Properties(*one), matrix, batch.structure) for one in zip(*answers, strict=True)]
        forces = forces + weight * torch.stack([one.forces for one in back])
        stress = stress + weight * torch.stack([one.stress for one in back])
    found = Symmetrized(potential, rule, chunk=chunk, prune=prune).uncertainties(batch, forces=True)
    scale = potential.forces_multiplier
    assert float(scale) == pytest.approx((torch.pi / 2) ** 0.5 / 2)
    assert torch.allclose(found.forces, scale * forces.std(0), atol=1e-10)
    assert torch.allclose(found.stress, scale * stress.std(0), atol=1e-12)


def test_a_rule_that_follows_the_structure_gives_each_its_own_mean() -> None:
    potential = unsure()
    averaged = symmetrize(potential, "crystal")
    batch = collate_for(potential, structures())
    together = averaged.uncertainties(batch, forces=True)
    for s, atoms in enumerate(structures()):
        alone = averaged.uncertainties(collate_for(potential, [atoms]), forces=True)
        assert torch.allclose(together.energy[s], alone.energy[0], rtol=1e-8)
        assert torch.allclose(together.forces[batch.structure == s], alone.forces, atol=1e-10)


def test_an_average_knows_what_the_potential_within_knows() -> None:
    plain, llpr = Symmetrized(Gradient(LennardJones()), Rotations.parse("T")), unsure(0)
    averaged = Symmetrized(llpr, Rotations.parse("T"))
    batch = collate_for(llpr, [molecule("H2O")])
    assert (plain.has_uncertainty, plain.has_forces_uncertainty) == (False, False)
    assert (averaged.has_uncertainty, averaged.has_forces_uncertainty) == (True, False)
    assert Symmetrized(unsure(), Rotations.parse("T")).has_forces_uncertainty
    with pytest.raises(ValueError, match=r"a Gradient does not know how uncertain its answers are; an LLPR or"):
        plain.uncertainties(collate_for(plain, [molecule("H2O")]))
    with pytest.raises(ValueError, match=r"this LLPR has 0 ensemble members; at least 2 were expected"):
        averaged.uncertainties(batch, forces=True)
