import time

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule, nanotube

from analytic import PairFunction
from test_crystal_space import DIAMOND, displaced, perovskite, quartz, triclinic, turned
from tumble import predict
from tumble.crystal import Aligned, PointGroup, cosets, distinct_orientations, parse_rule, space_group
from tumble.crystal.frames import right_stabilizer
from tumble.models.pair import LennardJones
from tumble.potential import Gradient
from tumble.rotations import Rotations

STRUCTURES = {
    "triclinic crystal": triclinic(),
    "slab": fcc111("Cu", (2, 1, 3)),
    "benzene": molecule("C6H6"),
    "diamond supercell": DIAMOND * (2, 1, 1),
    "quartz": quartz(),
    "polar molecule": molecule("NH3"),
    "linear molecule": turned(molecule("HCN"), 7),
    "atom": Atoms("Ar"),
    "tube": nanotube(3, 1),
    "displaced": displaced(DIAMOND, 0, (0.02, 0, 0)),
}
KINDS = ("forces", "stress", "force_constants", "third_order")


def steps_between(atoms: Atoms) -> np.ndarray:
    """(N, N, 3) a smooth vector from each atom to each, with everything that the structure has of symmetry."""
    steps = atoms.positions[None] - atoms.positions[:, None]
    cell, pbc = atoms.cell.array, atoms.pbc
    grid = np.stack(np.meshgrid(*(np.arange(-3, 4) if p else [0] for p in pbc), indexing="ij"), -1).reshape(-1, 3)
    images = steps[..., None, :] + grid @ cell
    weights = np.exp(-np.square(images).sum(-1) / 2) * np.outer(atoms.numbers, atoms.numbers**2)[..., None] / 1e3
    return np.einsum("ijs,ijsk->ijk", weights, images)


def invariant(atoms: Atoms) -> dict[str, np.ndarray]:
    """Fields that follow the structure exactly as forces, stress and force constants do."""
    v = steps_between(atoms)
    f = v.sum(1)
    return {
        "forces": f,
        "stress": np.einsum("ia,ib->ab", f, f) + len(atoms) * np.eye(3),
        "force_constants": np.einsum("ija,ijb->ijab", v, v) + np.einsum("ia,jb->ijab", f, f),
        "third_order": np.einsum("ija,jkb,kic->ijkabc", v, v, v) + np.einsum("ija,kb,kc->ijkabc", v, f, f),
    }


def shape_of(kind: str, n: int) -> tuple[int, ...]:
    shapes = {"forces": (n, 3), "stress": (3, 3), "force_constants": (n, n, 3, 3), "third_order": (*[n] * 3, 3, 3, 3)}
    return shapes[kind]


def random_field(kind: str, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape_of(kind, n))


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n in STRUCTURES for k in KINDS if (n, k) != ("tube", KINDS[-1])])
def test_a_projector_leaves_alone_what_has_the_symmetry_and_removes_the_rest_for_good(name, kind):
    atoms = STRUCTURES[name]
    project = getattr(space_group(atoms), f"project_{kind}")
    field = invariant(atoms)[kind]
    kept, removed = project(field)
    assert np.abs(removed).max() < 1e-7 * max(1.0, np.abs(field).max())
    noise = random_field(kind, len(atoms))
    projected, removed = project(noise)
    np.testing.assert_allclose(projected + removed, noise, atol=1e-15)
    np.testing.assert_allclose(project(projected)[0], projected, atol=1e-12)
    # A projection along what is allowed: what was removed is orthogonal to what is left.
    assert abs(np.sum(projected * removed)) < 1e-10 * np.sum(noise**2)
    assert abs(np.sum(kept * removed)) < 1e-6 * np.sqrt(np.sum(noise**2) * np.sum(field**2) + 1e-300)


@pytest.mark.parametrize("name", ["slab", "benzene", "diamond supercell", "displaced"])
def test_a_projector_commutes_with_relabelling(name):
    atoms = STRUCTURES[name]
    order = np.random.default_rng(1).permutation(len(atoms))
    one, other = space_group(atoms), space_group(atoms[order])
    forces, constants = random_field("forces", len(atoms)), random_field("force_constants", len(atoms))
    np.testing.assert_allclose(other.project_forces(forces[order])[0], one.project_forces(forces)[0][order], atol=1e-12)
    np.testing.assert_allclose(
        other.project_force_constants(constants[np.ix_(order, order)])[0],
        one.project_force_constants(constants)[0][np.ix_(order, order)],
        atol=1e-12,
    )


@pytest.mark.parametrize("name", ["quartz", "benzene", "tube", "linear molecule"])
def test_a_projector_turns_with_the_structure(name):
    atoms = STRUCTURES[name]
    turn = Rotations.random(1, seed=2).matrices[0].numpy()
    other = atoms.copy()
    other.set_cell(atoms.cell.array @ turn.T)
    other.positions = atoms.positions @ turn.T
    forces, stress = random_field("forces", len(atoms)), random_field("stress", len(atoms))
    one, two = space_group(atoms), space_group(other)
    np.testing.assert_allclose(
        two.project_forces(forces @ turn.T)[0], one.project_forces(forces)[0] @ turn.T, atol=1e-6
    )
    expected = turn @ one.project_stress(stress)[0] @ turn.T
    np.testing.assert_allclose(two.project_stress(turn @ stress @ turn.T)[0], expected, atol=1e-6)


def test_forces_and_stress_that_symmetry_forbids_are_gone_to_rounding():
    for atoms in (DIAMOND * 2, bulk("Cu") * 3, perovskite() * 2):
        group = space_group(turned(atoms, 5))
        forces, removed = group.project_forces(random_field("forces", len(atoms)))
        assert np.abs(forces).max() < 1e-12
        assert np.abs(removed).max() > 1
        stress, _ = group.project_stress(random_field("stress", len(atoms)))
        np.testing.assert_allclose(stress, np.trace(stress) / 3 * np.eye(3), atol=1e-12)


def test_a_turn_that_the_supercell_does_not_keep_counts_for_forces_and_stress():
    atoms = DIAMOND * (3, 1, 1)
    group = space_group(atoms)
    assert np.count_nonzero(group.is_of_supercell) == 16
    assert np.abs(group.project_forces(random_field("forces", len(atoms)))[0]).max() < 1e-12
    stress = group.project_stress(np.diag([1.0, 2.0, 3.0]))[0]
    np.testing.assert_allclose(stress, 2 * np.eye(3), atol=1e-12)


def test_the_infinite_turns_of_a_linear_molecule_and_an_atom_are_averaged_exactly():
    along, atom = space_group(Atoms("HF", [(0, 0, 0), (0, 0, 1)])), space_group(Atoms("Ar"))
    forces = random_field("forces", 2)
    np.testing.assert_allclose(along.project_forces(forces)[0], forces * [0, 0, 1], atol=1e-15)
    stress = random_field("stress", 1)
    across = (stress[0, 0] + stress[1, 1]) / 2
    np.testing.assert_allclose(along.project_stress(stress)[0], np.diag([across, across, stress[2, 2]]), atol=1e-14)
    np.testing.assert_allclose(atom.project_stress(stress)[0], np.trace(stress) / 3 * np.eye(3), atol=1e-14)
    assert np.abs(atom.project_forces(forces[:1])[0]).max() < 1e-15
    assert np.abs(atom.project_third_order(random_field("third_order", 1))[0]).max() < 1e-14
    third = random_field("third_order", 2)
    turned_back, _ = along.project_third_order(third)
    for angle in (0.3, 1.7):
        c, s = np.cos(angle), np.sin(angle)
        h = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        np.testing.assert_allclose(np.einsum("ijkabc,ad,be,cf->ijkdef", turned_back, h, h, h), turned_back, atol=1e-14)


def test_force_constants_of_a_supercell_are_those_of_the_crystal():
    atoms = DIAMOND * (2, 1, 1)
    group = space_group(atoms)
    projected, _ = group.project_force_constants(random_field("force_constants", len(atoms)))
    primitive = bulk("Si").cell.array
    for vector in primitive:
        apart = atoms.positions + vector
        steps = (apart[:, None] - atoms.positions) @ np.linalg.inv(atoms.cell.array)
        images = np.abs(steps - np.round(steps)).sum(-1).argmin(1)
        np.testing.assert_allclose(projected[np.ix_(images, images)], projected, atol=1e-13)


def test_the_answers_of_an_equivariant_potential_have_nothing_to_remove():
    argon = Gradient(LennardJones(epsilon=0.01, sigma=3.0, cutoff=5.0)).double()
    for atoms in (quartz(), fcc111("Ar", (2, 2, 3), a=5.2), molecule("CH4"), displaced(DIAMOND, 1, (0.05, 0.05, 0))):
        atoms = atoms.copy()
        atoms.numbers[:] = 18
        atoms.set_cell(1.4 * atoms.cell.array)
        atoms.positions *= 1.4
        answer = predict(argon, [atoms])[0]
        group = space_group(atoms)
        assert group.n_operations > 1
        forces = answer.forces.numpy()
        assert np.abs(group.project_forces(forces)[1]).max() < 1e-6 * max(1e-3, np.abs(forces).max())
        if atoms.pbc.all():
            stress = answer.stress.numpy()
            assert np.abs(group.project_stress(stress)[1]).max() < 1e-7 * np.abs(stress).max()


def test_fields_of_another_structure_are_refused():
    group = space_group(DIAMOND)
    with pytest.raises(ValueError, match=r"forces to be projected have the shape \(7, 3\); \(8, 3\) was expected"):
        group.project_forces(np.zeros((7, 3)))
    with pytest.raises(ValueError, match=r"constants to be projected have the shape \(8, 3\); \(8, 8, 3, 3\) was"):
        group.project_force_constants(np.zeros((8, 3)))


# ----------------------------------------------------------------------------------------------------- rules and cosets


@pytest.mark.parametrize(
    ("spec", "name", "n_calls"),
    [
        ("I", "diamond", 5),
        ("O", "diamond", 1),
        ("T", "diamond", 1),
        ("Ih", "diamond", 5),
        ("I", "hcp", 10),
        ("O", "hcp", 4),
        ("I", "ammonia", 20),
        ("I", "water", 30),
        ("O", "fullerene", 2),
        ("I", "fullerene", 1),
        ("I", "triclinic", 60),
        ("so3:7", "diamond", 18),
    ],
)
def test_a_rule_in_the_frame_of_the_structure_leaves_the_fewest_orientations(spec, name, n_calls):
    atoms = {
        "diamond": DIAMOND,
        "hcp": bulk("Mg"),
        "ammonia": molecule("NH3"),
        "water": molecule("H2O"),
        "fullerene": molecule("C60"),
        "triclinic": triclinic(),
    }[name]
    for seed in range(2):
        group = space_group(turned(atoms, seed), 1e-2)
        rule = parse_rule(f"{spec}@crystal").of(group.point)
        assert len(rule) == len(Rotations.parse(spec))
        assert len(cosets(rule, group)[0]) == n_calls == distinct_orientations(rule, group.point)
        torch.testing.assert_close(rule.residuals(9), Rotations.parse(spec).residuals(9), atol=1e-10, rtol=0)


def steep(v: torch.Tensor, _i: torch.Tensor, _j: torch.Tensor) -> torch.Tensor:
    """An energy with something of every ℓ."""
    return (9 - v.square().sum(1)) ** 3 * torch.exp(v @ torch.tensor([0.4, -0.6, 1.3], dtype=v.dtype)) / 100


@pytest.mark.parametrize("spec", ["I@crystal", "O@crystal", "crystal", "I"])
@pytest.mark.parametrize("name", ["copper", "hcp", "benzene"])
def test_the_mean_in_the_frame_of_the_crystal_does_not_depend_on_how_the_file_is_turned(spec, name):
    atoms = {"copper": bulk("Cu"), "hcp": bulk("Mg", a=2.6, c=4.2), "benzene": molecule("C6H6")}[name]
    potential = Gradient(PairFunction(steep, cutoff=3.0))
    means = []
    for seed in (1, 2, 3):
        other = turned(atoms, seed)
        parsed = parse_rule(spec)
        rule = parsed.of(space_group(other).point) if isinstance(parsed, Aligned) else parsed
        copies = []
        for matrix in rule.matrices.numpy():
            copies.append(other.copy())
            copies[-1].set_cell(other.cell.array @ matrix.T)
            copies[-1].positions = other.positions @ matrix.T
        energies = torch.stack([answer.energy for answer in predict(potential, copies)])
        means.append(float(energies @ rule.weights))
    # In the lab frame a rule averages other orientations of every file; its own group alone averages nothing at all.
    assert (np.ptp(means) < 1e-5) == ("@crystal" in spec)


def test_every_node_follows_from_the_one_that_was_asked():
    for atoms, spec in [(DIAMOND, "Oh"), (DIAMOND, "I"), (molecule("C6H6"), "Oh"), (molecule("CO2"), "Oh")]:
        group, rule = space_group(atoms), Rotations.parse(spec)
        chosen, parent, operation = cosets(rule, group)
        follows = rule.matrices[chosen][parent] @ torch.as_tensor(group.turns)[operation]
        torch.testing.assert_close(follows, rule.matrices, atol=1e-6, rtol=0)
        assert len(chosen) == len(torch.unique(parent))
        assert torch.equal(chosen[parent[chosen]], chosen)


def test_without_symmetry_every_node_is_asked():
    rule = Rotations.parse("O")
    chosen, parent, operation = cosets(rule, space_group(triclinic()))
    assert torch.equal(chosen, torch.arange(24))
    assert torch.equal(parent, torch.arange(24))
    assert not operation.any()


def test_cosets_are_those_that_comparing_everything_finds():
    rule = Rotations.parse("o3:7")
    for atoms in (bulk("Cu"), molecule("NH3"), bulk("Mg")):
        group = space_group(atoms)
        assert len(cosets(rule, group)[0]) == distinct_orientations(rule, group.point)
        aligned = parse_rule("o3:7@crystal").of(group.point)
        assert len(cosets(aligned, group)[0]) == distinct_orientations(aligned, group.point)


def test_cosets_of_hundreds_of_nodes_take_little_time():
    group, rule = space_group(bulk("Cu")), Rotations.parse("so3:9@generic")
    times = []
    for _ in range(20):
        start = time.perf_counter()
        cosets(rule, group)
        times.append(time.perf_counter() - start)
    assert min(times) < 5e-3


def test_what_maps_a_group_on_itself_is_the_group_and_of_a_grid_its_spins_and_flips():
    assert len(right_stabilizer(Rotations.parse("I"))) == 60
    assert len(right_stabilizer(Rotations.parse("so3:7"))) == 16
    assert len(right_stabilizer(Rotations.random(5))) == 1


def test_specs_with_a_crystal_in_them_wait_for_a_structure():
    aligned = parse_rule("I@crystal")
    assert isinstance(aligned, Aligned)
    assert (aligned.name, aligned.n_most) == ("I@crystal", 60)
    group = space_group(bulk("Cu")).point
    assert aligned.of(group).name == "I@crystal"
    assert aligned.of(group).degree == 5
    own = parse_rule("crystal")
    assert isinstance(own, Aligned)
    assert own.of(group).is_group
    assert len(own.of(group)) == 48 <= own.n_most
    plain = parse_rule("Oh@generic")
    assert isinstance(plain, Rotations)
    assert plain.name == "Oh@generic"


def test_a_structure_without_axes_keeps_the_rule_in_the_lab():
    lonely = space_group(Atoms("CHFClBr", np.random.default_rng(0).normal(size=(5, 3)))).point
    assert isinstance(lonely, PointGroup)
    assert torch.equal(parse_rule("O@crystal").of(lonely).matrices, Rotations.parse("O").matrices)


def test_a_frame_named_twice_and_an_unknown_rule_are_refused():
    with pytest.raises(ValueError, match=r'"crystal@crystal" names a frame twice'):
        parse_rule("crystal@crystal")
    with pytest.raises(ValueError, match=r"not in the grammar"):
        parse_rule("Q@crystal")
    with pytest.raises(ValueError, match=r"infinitely many point operations"):
        parse_rule("crystal").of(space_group(molecule("CO2")).point)
