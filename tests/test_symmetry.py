import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from analytic import Foreigner, Handed, Recorder, dimer, lopsided, quartic, skewed_dimer
from tumble.batch import collate
from tumble.bridges.ase import Foreign
from tumble.crystal import distinct_orientations, point_operations
from tumble.models.pair import LennardJones
from tumble.orbit import Orbit, mean_over
from tumble.packs import predict
from tumble.potential import Direct, Gradient, Potential, collate_for
from tumble.rotations import Rotations
from tumble.symmetry import Symmetrized, symmetrize


def turned(atoms: Atoms, turn: torch.Tensor) -> Atoms:
    result = atoms.copy()
    result.set_cell(atoms.cell.array @ turn.numpy().T)
    result.positions = atoms.positions @ turn.numpy().T
    return result


def rattled() -> Atoms:
    atoms = bulk("GaAs", "zincblende", a=4.2)
    atoms.rattle(0.1, seed=1)
    return atoms


def test_a_symmetrized_potential_is_the_mean_of_the_orbit():
    potential = lopsided()
    symmetric = symmetrize(potential, "so3:7")
    batch = collate_for(symmetric, [molecule("H2O"), rattled()])
    mean = Orbit.of(potential, batch, Rotations.parse("so3:7")).mean()
    for field, reference in zip(symmetric(batch), mean, strict=True):
        torch.testing.assert_close(field, reference, atol=1e-13, rtol=1e-12)


def test_it_is_a_potential_like_the_one_inside():
    inner = lopsided()
    symmetric = symmetrize(inner)
    assert isinstance(symmetric, Potential)
    assert (symmetric.cutoff, symmetric.species) == (inner.cutoff, inner.species)
    assert symmetric.is_conservative
    assert (symmetric.dtype, symmetric.device) == (torch.float64, torch.device("cpu"))
    assert symmetric.rotations.name == "Ih"
    assert symmetric.inner is inner
    assert not symmetric.training
    lennard_jones = Gradient(LennardJones({"Ar-Ar": 1.0}, 3.0))
    assert symmetrize(lennard_jones, "T").species == (18,)


def test_what_is_not_conservative_stays_so():
    class NotConservative(Potential):
        cutoff, species, is_conservative = 0.0, None, False

        def forward(self, batch):
            return Foreigner()(batch)

    assert not symmetrize(NotConservative(), "T").is_conservative
    assert Direct.is_conservative is False


def test_a_rule_can_be_given_as_an_object():
    rotations = Rotations.parse("T@generic")
    assert symmetrize(skewed_dimer(), rotations).rotations is rotations


def test_the_channels_of_the_rule_are_gone_and_those_above_remain():
    atoms = dimer()
    rest = Rotations.parse("o3:8@generic")

    def spread(potential: Potential) -> float:
        return float(Orbit.of(potential, collate_for(potential, [atoms]), rest).spread().energy)

    assert spread(skewed_dimer()) > 0.05
    assert spread(symmetrize(skewed_dimer(), "T")) < 1e-14
    assert spread(quartic()) > 0.01
    # Of ℓ = 4 the tetrahedral and octahedral rules keep the one cubic invariant of nine; the icosahedral keeps none.
    assert spread(symmetrize(quartic(), "T")) == pytest.approx(spread(quartic()), rel=1e-9)
    assert spread(symmetrize(quartic(), "O@generic")) < 0.1 * spread(quartic())
    assert spread(symmetrize(quartic(), "I")) < 1e-14


def test_forces_and_stress_of_a_symmetrized_potential_turn_with_the_structure():
    symmetric = symmetrize(lopsided(), "o3:7")
    atoms = rattled()
    answer = predict(symmetric, atoms)[0]
    for turn in Rotations.random(3, seed=8).matrices * torch.tensor([1, -1, 1])[:, None, None]:
        other = predict(symmetric, turned(atoms, turn))[0]
        torch.testing.assert_close(other.energy, answer.energy, atol=1e-12, rtol=0)
        torch.testing.assert_close(other.forces, answer.forces @ turn.T, atol=1e-12, rtol=0)
        torch.testing.assert_close(other.stress, turn @ answer.stress @ turn.T, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("spec", "cell"), [("Oh", "aligned"), ("crystal", "turned")])
def test_a_rule_that_contains_the_point_group_makes_the_mean_exactly_invariant(spec, cell):
    atoms = bulk("GaAs", "zincblende", a=4.2)
    if cell == "turned":
        atoms = turned(atoms, Rotations.random(1, seed=3).matrices[0])
        rotations = point_operations(atoms).rule()
    else:
        rotations = Rotations.parse(spec)
    raw = predict(lopsided(), atoms)[0]
    mean = predict(symmetrize(lopsided(), rotations), atoms)[0]
    assert float(raw.forces.abs().max()) > 1e-2
    assert float(mean.forces.abs().max()) < 1e-13
    isotropic = torch.eye(3, dtype=torch.float64) * mean.stress.trace() / 3
    assert float((raw.stress - isotropic).abs().max()) > 1e-4
    torch.testing.assert_close(mean.stress, isotropic, atol=1e-14, rtol=0)


def test_forces_are_the_gradient_of_the_energy():
    symmetric = symmetrize(lopsided(), "Th")
    atoms = molecule("CH3CH2OH")
    forces = predict(symmetric, atoms)[0].forces
    step = 1e-4
    for atom, axis in [(0, 0), (2, 1), (5, 2), (8, 0)]:
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            ends.append(float(predict(symmetric, moved)[0].energy))
        assert -(ends[0] - ends[1]) / (2 * step) == pytest.approx(float(forces[atom, axis]), abs=5e-7)


def test_symmetrizing_twice_is_averaging_over_both_rules():
    batch = collate_for(lopsided(), [rattled()])
    twice = symmetrize(symmetrize(lopsided(), "T"), "i")(batch)
    once = symmetrize(lopsided(), "Th")(batch)
    for field, reference in zip(twice, once, strict=True):
        torch.testing.assert_close(field, reference)


def test_the_chunk_is_passed_on():
    inner = Recorder(lopsided())
    Symmetrized(inner, Rotations.parse("O"), chunk=10)(collate_for(inner, [rattled()]))
    assert [n for n, _, _ in inner.calls] == [10, 10, 4]


def test_answers_have_the_precision_of_the_batch():
    inner = lopsided().float()
    symmetric = symmetrize(inner, "T")
    answer = symmetric(collate([rattled()], inner.cutoff, dtype=torch.float32))
    assert symmetric.dtype == torch.float32
    assert (answer.energy.dtype, answer.forces.dtype, answer.stress.dtype) == (
        torch.float64,
        torch.float32,
        torch.float32,
    )
    reference = symmetrize(lopsided(), "T")(collate_for(lopsided(), [rattled()]))
    torch.testing.assert_close(answer.forces.double(), reference.forces, atol=1e-6, rtol=1e-5)


def test_what_the_inner_potential_does_not_know_stays_unknown():
    answer = predict(symmetrize(Handed(), "i"), Atoms("CHFO", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]))[0]
    assert (answer.forces, answer.stress) == (None, None)
    assert float(answer.energy) == 0


def test_answers_carry_no_graph_unless_in_training():
    symmetric = symmetrize(lopsided(), "T")
    batch = collate_for(symmetric, [rattled()])
    assert not any(field.requires_grad for field in symmetric(batch))
    symmetric.train()
    assert symmetric.inner.training
    assert all(field.requires_grad for field in symmetric(batch))
    with torch.no_grad():
        assert not any(field.requires_grad for field in symmetric(batch))


def test_in_training_energy_forces_and_stress_can_be_differentiated_with_respect_to_the_weights():
    inner = lopsided()
    symmetric = symmetrize(inner, "T")
    batch = collate_for(symmetric, [molecule("H2O"), rattled()])
    symmetric.train()
    answer = symmetric(batch)
    (slope,) = torch.autograd.grad(
        answer.energy.sum() + answer.forces.square().sum() + answer.stress.square().sum(), inner.model.scale
    )
    # All answers are proportional to the one weight, which is 1.
    with torch.no_grad():
        expected = answer.energy.sum() + 2 * answer.forces.square().sum() + 2 * answer.stress.square().sum()
    torch.testing.assert_close(slope, expected)


def test_the_weights_of_a_symmetrized_potential_are_those_inside():
    symmetric = symmetrize(lopsided(), "T")
    assert list(symmetric.state_dict()) == ["inner.model.scale"]


def test_a_copy_answers_the_same():
    symmetric = symmetrize(lopsided(), "T@generic")
    batch = collate_for(symmetric, [rattled()])
    for field, reference in zip(copy.deepcopy(symmetric)(batch), symmetric(batch), strict=True):
        assert torch.equal(field, reference)


def test_a_symmetrized_potential_says_how():
    text = repr(symmetrize(skewed_dimer(), "Oh"))
    assert text.startswith(
        "Symmetrized(\n  Oh: 48 rotations, exact to degree 3, no parity-odd part\n  (inner): Gradient("
    )
    assert "T: 12 rotations, exact to degree 2\n" in repr(symmetrize(skewed_dimer(), "T"))


def test_symmetrizing_does_not_change_an_invariant_potential():
    potential = Gradient(LennardJones(0.01, 1.5, cutoff=4.0))
    batch = collate_for(potential, [molecule("H2O"), rattled()])
    for field, reference in zip(symmetrize(potential)(batch), potential(batch), strict=True):
        torch.testing.assert_close(field, reference, atol=1e-12, rtol=1e-12)
    for field, reference in zip(mean_over(potential, batch, Rotations.parse("I")), potential(batch), strict=True):
        torch.testing.assert_close(field, reference, atol=1e-12, rtol=1e-12)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match='Did you mean "Ih"'):
        symmetrize(skewed_dimer(), "Ihh")
    with pytest.raises(
        ValueError, match=r"project is 'cristal'; None or 'crystal' was expected\. Did you mean 'crystal'"
    ):
        symmetrize(skewed_dimer(), "T", project="cristal")
    with pytest.raises(ValueError, match=r"project is 'x'; .* Leave it out to average only"):
        symmetrize(skewed_dimer(), "T", project="x")


# -------------------------------------------------------------------------------------------------------------- pruning


def quartz() -> Atoms:
    """α-quartz, space group P3_2 21: screw axes, no inversion, trigonal."""
    si, (x, y, z) = 0.4697, (0.4135, 0.2669, 0.7858)
    silicon = [(si, 0, 2 / 3), (0, si, 1 / 3), (-si, -si, 0)]
    oxygen = [(x, y, z), (-y, x - y, z + 2 / 3), (y - x, -x, z + 1 / 3)]
    oxygen += [(y, x, -z), (x - y, -y, -z + 1 / 3), (-x, y - x, -z + 2 / 3)]
    positions = [*silicon, *oxygen]
    return Atoms("Si3O6", scaled_positions=positions, cell=[4.9137, 4.9137, 5.4047, 90, 90, 120], pbc=True)


def displaced() -> Atoms:
    """A cell as phonons want it: zincblende with one atom moved along x."""
    atoms = bulk("GaAs", "zincblende", a=4.2, cubic=True)
    atoms.positions[0, 0] += 0.02
    return atoms


SYMMETRIC = {
    # structure, rule, calls with its own symmetry
    "cubic, centrosymmetric": (bulk("Cu", cubic=True), "Ih", 5),
    "cubic, proper rule": (bulk("Cu"), "I", 5),
    "cubic, polar": (bulk("GaAs", "zincblende", a=4.2), "Ih", 10),
    "the same group": (bulk("Cu"), "Oh", 1),
    "generic frame": (bulk("Cu"), "Oh@generic", 24),
    "hexagonal": (bulk("Mg", a=3.2, c=5.2), "Oh", 6),
    "trigonal": (quartz(), "O", None),
    "molecule": (molecule("CH4"), "Th", 2),
    "displaced": (displaced(), "Oh", 12),
    "supercell": (bulk("Cu", cubic=True) * (2, 1, 1), "I", 5),
    "linear": (Atoms("CO2", [(0, 0, 0), (1.2, 0, 0), (-1.2, 0, 0)]), "Oh", None),
    "product grid": (bulk("Cu"), "o3:6", None),
    "disordered": (rattled(), "T", 12),
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_what_symmetry_makes_equal_is_asked_once_and_the_numbers_stay_the_same(name):
    atoms, spec, expected = SYMMETRIC[name]
    inner = Recorder(lopsided(4.0))
    pruned, full = (Symmetrized(inner, Rotations.parse(spec), prune=prune) for prune in (True, False))
    batch = collate_for(inner, [atoms])
    answer = pruned(batch)
    n_calls = sum(n for n, _, _ in inner.calls)
    assert pruned.calls(batch) == [pruned.n_calls] == [n_calls]
    assert n_calls == expected if expected else n_calls < len(pruned.rotations)
    for field, reference in zip(answer, full(batch), strict=True):
        torch.testing.assert_close(field, reference, atol=1e-12, rtol=1e-11)
    assert full.n_calls == full.calls(batch)[0] == len(full.rotations)


def test_each_structure_of_a_batch_is_pruned_by_its_own_symmetry():
    inner = Recorder(lopsided())
    atoms = [rattled(), bulk("Cu"), molecule("H2O"), molecule("CH4"), Atoms("Ar")]
    symmetric = Symmetrized(inner, Rotations.parse("Th"))
    batch = collate_for(inner, atoms)
    answer = symmetric(batch)
    assert sum(n for n, _, _ in inner.calls) == symmetric.n_calls == sum(symmetric.calls(batch))
    assert symmetric.calls(batch)[:2] == [24, 1]
    alone = [symmetric(collate_for(inner, [one])) for one in atoms]
    for field, parts in zip(answer, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(field, torch.cat(parts), atol=1e-12, rtol=1e-11)


def test_single_precision_does_not_hide_the_symmetry():
    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    inner = lopsided().float()
    pruned, full = (Symmetrized(inner, Rotations.parse("I"), prune=prune) for prune in (True, False))
    batch = collate([atoms], inner.cutoff, dtype=torch.float32)
    assert pruned.calls(batch) == [5]
    torch.testing.assert_close(pruned(batch).energy, full(batch).energy, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(pruned(batch).forces, full(batch).forces, atol=1e-4, rtol=0)


def test_in_training_every_node_is_asked():
    symmetric = Symmetrized(lopsided(), Rotations.parse("O"))
    batch = collate_for(symmetric, [bulk("Cu")])
    assert symmetric.calls(batch) == [1]
    symmetric.train()
    assert symmetric.calls(batch) == [24]
    with torch.no_grad():
        assert symmetric.calls(batch) == [1]


class Counting(Calculator):
    """An anisotropic ASE calculator that counts how often it computes."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012
    count = 0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.count += 1
        answer = predict(lopsided(), self.atoms)[0]
        stress = np.zeros((3, 3)) if answer.stress is None else answer.stress.numpy()
        self.results = {"energy": float(answer.energy), "forces": answer.forces.numpy()}
        self.results["stress"] = full_3x3_to_voigt_6_stress(stress)


def test_an_engine_is_asked_once_for_each_orientation_that_symmetry_tells_apart():
    calculator = Counting()
    symmetric = symmetrize(Foreign(calculator), "Ih")
    atoms = [bulk("Cu", cubic=True), molecule("H2O"), rattled()]
    distinct = [distinct_orientations(symmetric.rotations, point_operations(one)) for one in atoms]
    batch = collate_for(symmetric, atoms)
    answer = symmetric(batch)
    assert calculator.count == symmetric.n_calls == sum(distinct)
    assert distinct[0] == 5
    own = symmetrize(lopsided(), "Ih")(collate_for(lopsided(), atoms))
    torch.testing.assert_close(answer.forces, own.forces, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("spec", "calls"), [("crystal", 1), ("I@crystal", 5), ("O@crystal", 2)])
def test_a_rule_in_the_frame_of_the_crystal_does_not_depend_on_how_the_file_is_turned(spec, calls):
    symmetric = symmetrize(lopsided(), spec)
    raw = lopsided()
    answers = []
    for turn in (torch.eye(3, dtype=torch.float64), *Rotations.random(3, seed=2).matrices):
        atoms = turned(bulk("GaAs", "zincblende", a=4.2), turn)
        batch = collate_for(symmetric, [atoms])
        assert symmetric.calls(batch) == [calls]
        [rule] = symmetric.rules(batch)
        assert distinct_orientations(rule, point_operations(atoms)) == calls
        answer = symmetric(batch)
        assert float(raw(batch).forces.abs().max()) > 1e-3
        assert float(answer.forces.abs().max()) < 1e-10
        answers.append(float(answer.energy))
    if spec != "crystal":
        assert answers == pytest.approx([answers[0]] * 4, abs=1e-10)


def test_structures_of_a_batch_have_rules_of_their_own():
    symmetric = symmetrize(lopsided(), "I@crystal")
    atoms = [bulk("Cu"), molecule("CH4"), rattled()]
    batch = collate_for(symmetric, atoms)
    assert symmetric.calls(batch) == [5, 5, 60]
    answer = symmetric(batch)
    alone = [symmetric(collate_for(symmetric, [one])) for one in atoms]
    for field, parts in zip(answer, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(field, torch.cat(parts), atol=1e-12, rtol=1e-11)
    assert repr(symmetric).startswith("Symmetrized(\n  I@crystal: at most 60 rotations, chosen for each structure\n")
