"""Forces and stress that obey the space group, and what was removed for it."""

import copy
import lzma
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule
from ase.units import GPa

from analytic import Foreigner, Handed, lopsided
from tumble.batch import Batch, Properties
from tumble.crystal import point_operations
from tumble.models.pair import LennardJones
from tumble.models.pet import PET, PETSettings
from tumble.packs import predict
from tumble.potential import Gradient, Potential, Sum, collate_for
from tumble.rotations import Rotations
from tumble.symmetry import Projected, Symmetrized, symmetrize

FRAMES = Path(__file__).resolve().parents[2] / "shared" / "data" / "polymlp_SrTiO3" / "test.extxyz.xz"


def perovskite() -> Atoms:
    """Cubic SrTiO3, 2 x 2 x 2 cells, 40 atoms."""
    sites = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    return Atoms("SrTiO3", scaled_positions=sites, cell=[3.905] * 3, pbc=True).repeat(2)


def turned(atoms: Atoms, seed: int = 4) -> Atoms:
    turn = Rotations.random(1, seed=seed).matrices[0].numpy()
    result = atoms.copy()
    result.set_cell(atoms.cell.array @ turn.T)
    result.positions = atoms.positions @ turn.T
    return result


def untrained(dtype: torch.dtype = torch.float64) -> Gradient:
    torch.manual_seed(0)
    small = {"cutoff": 3.5, "d_pet": 8, "d_head": 8, "d_node": 8, "d_feedforward": 8, "num_heads": 2}
    return Gradient(PET([8, 22, 38], PETSettings(**small)).to(dtype))


STRUCTURES = {
    "diamond": bulk("Si", cubic=True),
    "turned zincblende": turned(bulk("GaAs", "zincblende", a=4.2)),
    "hexagonal": bulk("Mg"),
    "slab": fcc111("Al", (2, 2, 3), vacuum=4.0),
    "sheet": graphene(size=(2, 2, 1), vacuum=3.0),
    "molecule": turned(molecule("CH4")),
    "ring": molecule("C6H6"),
    "linear": turned(molecule("CO2")),
    "atom": Atoms("Ar", [(0.3, 0.2, 0.1)]),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_is_projected_obeys_the_group_and_what_is_removed_is_the_rest(name):
    atoms = STRUCTURES[name]
    potential = Projected(lopsided(4.0))
    batch = collate_for(potential, [atoms])
    raw = lopsided(4.0)(batch)
    kept, removed = potential.both(batch)
    assert torch.equal(kept.energy, raw.energy)
    assert float(removed.energy.abs().max()) == 0
    torch.testing.assert_close(kept.forces + removed.forces, raw.forces, atol=1e-13, rtol=0)
    torch.testing.assert_close(kept.stress + removed.stress, raw.stress, atol=1e-13, rtol=0)
    for field, again in zip(kept, Projected(Given(kept))(batch), strict=True):
        torch.testing.assert_close(field, again, atol=1e-13, rtol=0)


@pytest.mark.parametrize("name", sorted(STRUCTURES.keys() - {"linear", "atom"}))
def test_of_a_mean_over_the_point_group_nothing_is_left_to_remove(name):
    potential = Projected(symmetrize(lopsided(4.0), "crystal"))
    batch = collate_for(potential, [STRUCTURES[name]])
    for field in potential.removed(batch)[1:]:
        assert float(field.abs().max()) < 1e-10


class Given(Potential):
    """Answers what it was given."""

    cutoff, species, is_conservative = 0.0, None, True

    def __init__(self, answer: Properties) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, batch: Batch) -> Properties:
        return self.answer


def test_forbidden_forces_of_a_cubic_crystal_vanish_and_its_stress_is_isotropic():
    for atoms in (perovskite(), turned(perovskite())):
        raw, projected = (predict(p, atoms)[0] for p in (untrained(), Projected(untrained())))
        assert float(raw.forces.abs().max()) > 1e-4
        assert float(projected.forces.abs().max()) < 1e-10
        mean = raw.stress.trace() / 3 * torch.eye(3, dtype=torch.float64)
        assert float((raw.stress - mean).abs().max()) > 1e-6
        torch.testing.assert_close(projected.stress, mean, atol=1e-13, rtol=0)


def test_the_precision_of_the_batch_is_kept():
    potential = Projected(untrained(torch.float32))
    answer = predict(potential, perovskite())[0]
    assert answer.forces.dtype == answer.stress.dtype == torch.float32
    assert float(answer.forces.abs().max()) < 1e-10


def test_what_has_no_symmetry_is_left_alone():
    atoms = perovskite()
    atoms.rattle(0.05, seed=2)
    raw, [projected] = predict(untrained(), atoms)[0], predict(Projected(untrained()), atoms)
    assert torch.equal(raw.forces, projected.forces)
    assert torch.equal(raw.stress, projected.stress)


def test_each_structure_of_a_batch_has_its_own_group():
    atoms = [molecule("CH4"), bulk("GaAs", "zincblende", a=4.2), molecule("H2O"), Atoms("Ar")]
    potential = Projected(lopsided())
    kept, removed = potential.both(collate_for(potential, atoms))
    alone = [potential.both(collate_for(potential, [one])) for one in atoms]
    torch.testing.assert_close(kept.forces, torch.cat([one.forces for one, _ in alone]))
    torch.testing.assert_close(removed.stress, torch.cat([one.stress for _, one in alone]))
    assert float(removed.forces[:5].abs().max()) > 1e-2


def test_a_near_symmetric_structure_is_projected_within_the_tolerance_only():
    atoms = perovskite()
    atoms.rattle(1e-4, seed=3)
    raw = predict(untrained(), atoms)[0]
    assert torch.equal(predict(Projected(untrained(), 1e-6), atoms)[0].forces, raw.forces)
    assert float(predict(Projected(untrained(), 1e-2), atoms)[0].forces.abs().max()) < 1e-9


def test_projected_forces_are_the_gradient_of_the_energy_averaged_over_the_point_group():
    atoms = turned(molecule("CH4"))
    averaged = symmetrize(lopsided(), point_operations(atoms).rule())
    projected = predict(Projected(lopsided()), atoms)[0].forces
    torch.testing.assert_close(projected, predict(averaged, atoms)[0].forces, atol=1e-12, rtol=0)
    step = 1e-4
    for atom, axis in [(0, 0), (1, 1), (4, 2)]:
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            ends.append(float(predict(averaged, moved)[0].energy))
        assert -(ends[0] - ends[1]) / (2 * step) == pytest.approx(float(projected[atom, axis]), abs=1e-6)


def test_it_is_a_potential_like_the_one_inside():
    inner = untrained(torch.float32)
    potential = Projected(inner)
    assert potential.inner is inner
    assert (potential.cutoff, potential.species) == (inner.cutoff, inner.species)
    assert (potential.dtype, potential.device) == (torch.float32, torch.device("cpu"))
    assert potential.is_conservative
    assert not Projected(NotConservative()).is_conservative
    assert not potential.training
    assert repr(potential).startswith("Projected(\n  on the space group of the structure, within 0.001 Å\n")
    batch = collate_for(potential, [perovskite()])
    assert torch.equal(copy.deepcopy(potential)(batch).forces, potential(batch).forces)


class NotConservative(Potential):
    cutoff, species, is_conservative = 0.0, None, False

    def forward(self, batch: Batch) -> Properties:
        return Foreigner()(batch)


def test_what_the_inner_potential_does_not_know_stays_unknown():
    atoms = Atoms("CHFO", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
    batch = collate_for(Handed(), [atoms])
    assert Projected(Handed()).both(batch)[1][1:] == (None, None)
    answer = Projected(Foreigner())(collate_for(Foreigner(), [molecule("CH4")]))
    assert answer.stress is None
    assert float(answer.forces.norm()) > 1e-2


def test_a_tolerance_must_be_positive():
    with pytest.raises(ValueError, match=r"the tolerance of a projection is 0 Å; it must be > 0"):
        Projected(lopsided(), 0)


def test_in_training_projected_answers_can_be_differentiated():
    potential = Projected(lopsided())
    batch = collate_for(potential, [bulk("GaAs", "zincblende", a=4.2), molecule("H2O")])
    potential.train()
    answer = potential(batch)
    (slope,) = torch.autograd.grad(
        answer.forces.square().sum() + answer.stress.square().sum(), potential.inner.model.scale
    )
    # All answers are proportional to the one weight, which is 1.
    expected = 2 * (answer.forces.square().sum() + answer.stress.square().sum())
    torch.testing.assert_close(slope, expected.detach())
    removed = potential.removed(batch)
    assert removed.forces.requires_grad
    potential.eval()
    assert not potential(batch).forces.requires_grad


def test_wrappers_may_be_put_around_each_other():
    atoms = bulk("GaAs", "zincblende", a=4.2)
    inner = lopsided()
    both = symmetrize(inner, "O", project="crystal")
    assert isinstance(both, Projected)
    assert isinstance(both.inner, Symmetrized)
    only = symmetrize(inner, "none", project="crystal")
    assert isinstance(only, Projected)
    assert only.inner is inner
    for potential in (both, only, Symmetrized(Projected(inner), Rotations.parse("O"))):
        answer = predict(potential, atoms)[0]
        assert float(answer.forces.abs().max()) < 1e-12
        torch.testing.assert_close(
            answer.stress, answer.stress.trace() / 3 * torch.eye(3, dtype=torch.float64), atol=1e-13, rtol=0
        )
    torch.testing.assert_close(predict(both, atoms)[0].energy, predict(symmetrize(inner, "O"), atoms)[0].energy)
    springs = Gradient(LennardJones(0.1, 2.0, cutoff=4.0))
    total, parts = (predict(p, atoms)[0] for p in (Sum(only, springs), Projected(Sum(inner, springs))))
    torch.testing.assert_close(total.stress, parts.stress, atol=1e-13, rtol=0)


def test_the_removed_part_is_the_error_of_the_symmetric_quantity():
    """A wrong force of known size on a cubic crystal is found again, whole."""
    atoms = perovskite()
    noise = torch.as_tensor(np.random.default_rng(0).normal(size=(40, 3)))
    answer = Properties(torch.zeros(1, dtype=torch.float64), noise, torch.eye(3, dtype=torch.float64)[None] * GPa)
    kept, removed = Projected(Given(answer)).both(collate_for(Given(answer), [atoms]))
    torch.testing.assert_close(removed.forces, noise, atol=1e-12, rtol=0)
    assert float(removed.stress.abs().max()) < 1e-15
    assert float(kept.forces.abs().max()) < 1e-12


@pytest.mark.skipif(not FRAMES.is_file(), reason=f"{FRAMES.name} of SrTiO3 is not there")
def test_frames_from_dynamics_are_left_alone():
    with lzma.open(FRAMES, "rt") as file:
        frames = ase.io.read(file, ":3", format="extxyz")
    for one, other in zip(predict(untrained(), frames), predict(Projected(untrained()), frames), strict=True):
        torch.testing.assert_close(one.forces, other.forces)
