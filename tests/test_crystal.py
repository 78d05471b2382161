import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule, nanotube
from hypothesis import given, settings
from hypothesis import strategies as st

from tumble.crystal import (
    PointGroup,
    check_resolution,
    distinct_orientations,
    point_operations,
    resolution,
)
from tumble.rotations import Rotations, find

SIMPLE = Atoms("SF6", [(0, 0, 0), *(1.5 * s * np.eye(3)[i] for i in range(3) for s in (1, -1))])


def zincblende() -> Atoms:
    return bulk("GaAs", "zincblende", a=5.65)


def wire(symbols: str, heights: list[float], period: float = 3.0) -> Atoms:
    return Atoms(symbols, [(0, 0, z) for z in heights], cell=[0, 0, period], pbc=[False, False, True])


STRUCTURES = {
    # name: structure, operations, axes, lowest channel
    "diamond": (bulk("Si"), 48, 0, 4),
    "diamond, cubic cell": (bulk("Si", cubic=True), 48, 0, 4),
    "diamond, long supercell": (bulk("Si", cubic=True) * (3, 1, 1), 48, 0, 4),
    "fcc": (bulk("Cu"), 48, 0, 4),
    "zincblende": (zincblende(), 24, 0, 3),
    "hcp": (bulk("Mg"), 24, 0, 2),
    "slab": (fcc111("Cu", (2, 2, 3)), 12, 0, 2),
    "slab of two layers in a skewed vacuum": (fcc111("Cu", (1, 1, 2), vacuum=4.0), 12, 0, 2),
    "monolayer": (fcc111("Cu", (1, 1, 1)), 24, 0, 2),
    "graphene supercell": (graphene(size=(3, 2, 1)), 24, 0, 2),
    "water": (molecule("H2O"), 4, 0, 1),
    "ammonia": (molecule("NH3"), 6, 0, 1),
    "methane": (molecule("CH4"), 24, 0, 3),
    "benzene": (molecule("C6H6"), 24, 0, 2),
    "ethane": (molecule("C2H6"), 12, 0, 2),
    "ethanol": (molecule("CH3CH2OH"), 2, 0, 1),
    "octahedron": (SIMPLE, 48, 0, 4),
    "CO2": (molecule("CO2"), 4, 1, 2),
    "HCN": (molecule("HCN"), 2, 1, 1),
    "H2": (molecule("H2"), 4, 1, 2),
    "atom": (Atoms("Ar"), 2, 3, None),
    "chain": (wire("H", [0.0]), 4, 1, 2),
    "alternating chain": (wire("HF", [0.0, 1.5]), 4, 1, 2),
    "polar chain": (wire("HF", [0.0, 1.2]), 2, 1, 1),
    "polar chain of three": (wire("HFO", [0.0, 1.0, 1.7]), 2, 1, 1),
    "zigzag tube": (nanotube(6, 0), 48, 0, 2),
    "armchair tube, two periods": (nanotube(5, 5, length=2), 40, 0, 2),
    "chiral tube": (nanotube(4, 2), 56, 0, 2),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_point_group_is_the_known_one(name):
    atoms, n_operations, n_axes, lowest = STRUCTURES[name]
    group = point_operations(atoms)
    assert (len(group.matrices), len(group.axes), group.lowest_channel()) == (n_operations, n_axes, lowest)
    assert group.is_finite == (n_axes == 0)
    if group.is_finite:
        rule = group.rule()
        assert rule.is_group
        torch.testing.assert_close(rule.residuals(6), group.channels(6).double(), atol=1e-6, rtol=0)
        assert rule.degree == lowest - 1


def test_a_rule_of_infinitely_many_operations_is_refused():
    for atoms in (molecule("CO2"), Atoms("Ar")):
        with pytest.raises(ValueError, match="infinitely many point operations; a rule needs finitely many"):
            point_operations(atoms).rule()


@pytest.mark.parametrize("name", ["diamond", "zincblende", "hcp", "slab", "benzene", "methane", "CO2", "chiral tube"])
def test_a_turned_structure_has_the_turned_operations(name):
    atoms = STRUCTURES[name][0].copy()
    before = point_operations(atoms)
    turn = Rotations.random(1, seed=5).matrices[0]
    atoms.set_cell(atoms.cell.array @ turn.numpy().T)
    atoms.positions = atoms.positions @ turn.numpy().T
    after = point_operations(atoms)
    assert len(after.matrices) == len(before.matrices)
    assert bool(after.contains(turn @ before.matrices @ turn.T).all())


@pytest.mark.parametrize("name", ["water", "methane", "benzene", "ethane", "octahedron"])
def test_operations_of_a_molecule_map_it_onto_itself(name):
    atoms = STRUCTURES[name][0]
    x = torch.as_tensor(atoms.positions - atoms.positions.mean(0))
    for matrix in point_operations(atoms).matrices:
        distance, image = torch.cdist(x @ matrix.T, x).min(1)
        assert float(distance.max()) < 1e-3
        assert (atoms.numbers[image.numpy()] == atoms.numbers).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["T", "O", "I", "Th", "Oh", "i"]))
def test_atoms_copied_by_a_group_have_that_group(seed, spec):
    rotations = Rotations.parse(spec)
    seeds = torch.as_tensor(np.random.default_rng(seed).normal(size=(3, 3)) * [[2.0], [3.0], [4.0]])
    frame = Rotations.random(1, seed).matrices[0]
    positions = (rotations.matrices[:, None] @ seeds[None, :, :, None])[..., 0].reshape(-1, 3) @ frame.T
    group = point_operations(Atoms(["C", "O", "N"] * len(rotations), positions.numpy()), symprec=1e-6)
    assert len(group.matrices) == len(rotations)
    torch.testing.assert_close(
        group.matrices[find(frame @ rotations.matrices @ frame.T, group.matrices)],
        frame @ rotations.matrices @ frame.T,
        atol=1e-9,
        rtol=0,
    )


def test_a_near_symmetric_crystal_has_exactly_orthogonal_operations_within_the_tolerance_only():
    atoms = bulk("Si", cubic=True)
    atoms.set_cell(
        atoms.cell.array @ (np.eye(3) + 1e-4 * np.array([[1, 2, 0], [0, -1, 3], [1, 0, 0]])), scale_atoms=True
    )
    atoms.rattle(1e-4, seed=1)
    loose = point_operations(atoms, symprec=1e-2)
    assert len(loose.matrices) == 48
    torch.testing.assert_close(
        loose.matrices @ loose.matrices.mT, torch.eye(3, dtype=torch.float64).expand(48, 3, 3), atol=1e-14, rtol=0
    )
    assert loose.rule().is_group
    assert len(point_operations(atoms, symprec=1e-6).matrices) == 1


def test_a_rattled_molecule_has_a_group_at_every_tolerance():
    atoms = molecule("CH4")
    atoms.rattle(0.01, seed=3)
    orders = []
    for symprec in np.geomspace(1e-4, 0.1, 25):
        group = point_operations(atoms, symprec=symprec)
        orders.append(len(group.matrices))
        products = (group.matrices[:, None] @ group.matrices[None]).reshape(-1, 3, 3)
        assert bool((find(products, group.matrices, 0.05) >= 0).all())
    assert orders[0] == 1
    assert orders[-1] == 24


def test_the_fullerene_of_ase_is_icosahedral_to_a_hundredth_of_an_angstrom():
    assert len(point_operations(molecule("C60"), symprec=1e-2).matrices) == 120


@pytest.mark.parametrize(
    ("spec", "allowed"), [("O", [4, 6, 8, 9, 10, 12]), ("T", [3, 4, 6, 7, 8, 9, 10, 11, 12]), ("I", [6, 10, 12])]
)
def test_a_proper_group_allows_the_channels_of_its_invariants_in_both_parities(spec, allowed):
    group = PointGroup(Rotations.group(spec).matrices, torch.zeros(0, 3))
    channels = group.channels(12)
    assert torch.equal(channels[0], channels[1])
    assert [ell for ell in range(1, 13) if channels[0, ell]] == allowed


def test_a_centrosymmetric_cubic_crystal_allows_even_proper_channels_and_odd_pseudo_ones():
    proper, pseudo = point_operations(bulk("Cu")).channels(12)
    assert [ell for ell in range(13) if proper[ell]] == [0, 4, 6, 8, 10, 12]
    assert [ell for ell in range(13) if pseudo[ell]] == [9]


def test_linear_and_single_atoms_allow_what_a_vector_can_make():
    assert point_operations(molecule("HCN")).channels(6).tolist() == [[1] * 7, [0] * 7]
    assert point_operations(molecule("CO2")).channels(6).tolist() == [[1, 0, 1, 0, 1, 0, 1], [0] * 7]
    assert point_operations(Atoms("Ar")).channels(6).tolist() == [[1, 0, 0, 0, 0, 0, 0], [0] * 7]


def test_orientations_that_symmetry_does_not_tell_apart_are_counted_once():
    cubic, polar, water = (point_operations(a) for a in (bulk("Cu"), zincblende(), molecule("H2O")))
    assert distinct_orientations(Rotations.parse("O"), cubic) == 1
    assert distinct_orientations(Rotations.parse("Oh"), polar) == 2
    assert distinct_orientations(Rotations.parse("I"), cubic) == 5
    assert distinct_orientations(Rotations.parse("Ih@generic"), cubic) == 60
    assert distinct_orientations(Rotations.parse("O"), water) == 12
    assert distinct_orientations(Rotations.parse("Oh@generic"), water) == 48


def test_turns_about_a_linear_molecule_are_one_orientation():
    about_z = Rotations.parse("so3:6").matrices[:7]  # the first point of the rule is on an axis
    spins = Rotations(about_z[0].T @ about_z, torch.full((7,), 1 / 7, dtype=torch.float64), 0, "spins")
    along_z = Atoms("HF", [(0, 0, 0), (0, 0, 1)])
    assert distinct_orientations(spins, point_operations(along_z)) == 1
    assert distinct_orientations(spins, point_operations(Atoms("HF", [(0, 0, 0), (0, 1, 0)]))) == 7
    assert distinct_orientations(Rotations.parse("Oh"), point_operations(along_z)) == 6
    assert distinct_orientations(Rotations.parse("Oh"), point_operations(Atoms("HH", along_z.positions))) == 3
    assert distinct_orientations(Rotations.parse("Oh"), point_operations(Atoms("Ar"))) == 1


def test_an_aligned_rule_captures_nothing_of_a_crystal_with_its_own_group():
    for spec, atoms, lowest in [
        ("O", bulk("Cu"), 4),
        ("Oh", bulk("Si"), 4),
        ("T", zincblende(), 3),
        ("T", bulk("Cu"), 4),
    ]:
        seen = resolution(Rotations.parse(spec), point_operations(atoms))
        assert (seen.n_distinct, seen.lowest) == (1, lowest)
        assert seen.captured == pytest.approx(0, abs=1e-12)


def test_the_generic_frame_opens_the_eye_of_every_group_rule():
    for spec, atoms in [("O", bulk("Cu")), ("Oh", bulk("Si")), ("T", zincblende()), ("T", bulk("Cu"))]:
        seen = check_resolution(Rotations.parse(spec).generic(), point_operations(atoms))
        assert seen.n_distinct == len(Rotations.parse(spec)) // (2 if spec == "Oh" else 1)
        assert seen.captured > 0.92


def test_a_rule_of_enough_degree_captures_everything():
    assert resolution(Rotations.parse("Ih"), point_operations(bulk("Cu"))).captured == 1.0
    assert resolution(Rotations.parse("T"), point_operations(molecule("H2O"))).captured == 1.0


def test_random_rotations_capture_all_but_one_part_in_n():
    group = point_operations(molecule("CH4"))
    captured = [resolution(Rotations.random(20, seed), group).captured for seed in range(40)]
    assert np.mean(captured) == pytest.approx(1 - 1 / 20, abs=0.01)


def test_what_is_captured_is_the_expected_variance_of_a_random_function_of_the_channel():
    rotations, group = Rotations.random(6, seed=2), point_operations(bulk("Cu"))
    generator = torch.Generator().manual_seed(0)
    # Functions of the channel: u(Q) = Σ_k a_k (quartic of Q's columns along a random direction), averaged over P.
    directions = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator, dtype=torch.float64), dim=1)
    amplitudes = torch.randn(400, 4000, generator=generator, dtype=torch.float64)

    def values(matrices: torch.Tensor) -> torch.Tensor:
        kernel = (directions @ matrices).pow(4).sum(-1) - 3 / 5
        return amplitudes @ kernel.T

    seen = values(rotations.matrices)
    true = values(Rotations.parse("o3:8").matrices).square() @ Rotations.parse("o3:8").weights
    ratio = (seen.var(dim=1, correction=0)).mean() / true.mean()
    assert float(ratio) == pytest.approx(resolution(rotations, group).captured, abs=0.03)


def test_a_measuring_rule_in_the_blind_spot_is_refused_with_the_remedy():
    group = point_operations(bulk("Cu"))
    with pytest.raises(
        ValueError, match=r"Oh \(48 rotations\) sees only 1 distinct .* captures 0 %.* l = 4; .*Oh@generic"
    ):
        check_resolution(Rotations.parse("Oh"), group)
    with pytest.raises(ValueError, match=r"at least 50 % is needed.*o3:4@generic"):
        check_resolution(Rotations.parse("i@generic"), group)
    assert check_resolution(Rotations.parse("none"), point_operations(Atoms("Ar"))).lowest is None


def test_a_tolerance_must_be_positive():
    with pytest.raises(ValueError, match=r"\(symprec\) is 0 Å; at least 1e-09 was expected"):
        point_operations(bulk("Cu"), symprec=0)


def test_atoms_in_one_place_have_no_point_group():
    atoms = Atoms("CuCu", [(0, 0, 0), (0, 0, 1e-5)], cell=[3, 3, 3], pbc=True)
    with pytest.raises(ValueError, match=r"atoms 0 and 1 are 1e-05 Å apart, within the tolerance of 0.001 Å"):
        point_operations(atoms)
