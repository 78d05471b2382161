import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule, mx2, nanotube
from ase.spacegroup import crystal
from hypothesis import given, settings
from hypothesis import strategies as st

from tumble.crystal import SpaceGroup, find_operations, point_operations, space_group
from tumble.rotations import Rotations, find

DIAMOND = bulk("Si", cubic=True)


def perovskite() -> Atoms:
    places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    return Atoms("SrTiO3", scaled_positions=places, cell=[3.9] * 3, pbc=True)


def rutile() -> Atoms:
    return crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.59, 4.59, 2.96, 90, 90, 90])


def quartz() -> Atoms:
    places = [(0.47, 0, 0), (0.413, 0.266, 0.119)]
    return crystal(["Si", "O"], places, spacegroup=152, cellpar=[4.91, 4.91, 5.4, 90, 90, 120])


def triclinic() -> Atoms:
    return Atoms("HF", [(0, 0, 0), (1.3, 1.1, 0.7)], cell=[[3, 0, 0], [0.5, 3.3, 0], [0.3, 0.7, 4]], pbc=True)


def skewed(atoms: Atoms) -> Atoms:
    """The same crystal in a cell of the same lattice that is anything but reduced."""
    atoms = atoms.copy()
    atoms.set_cell(np.array([[1, 2, -1], [0, 1, 3], [0, 0, 1]]) @ atoms.cell.array)
    atoms.wrap()
    return atoms


def turned(atoms: Atoms, seed: int) -> Atoms:
    """Turned, moved, with the atoms in another order and in other cells."""
    generator = np.random.default_rng(seed)
    turn = Rotations.random(1, seed).matrices[0].numpy()
    other = atoms[generator.permutation(len(atoms))]
    copies = generator.integers(-2, 3, size=(len(atoms), 3)) * atoms.pbc
    other.positions = (other.positions + copies @ atoms.cell.array) @ turn.T + generator.normal(size=3)
    other.set_cell(atoms.cell.array @ turn.T)
    return other


def displaced(atoms: Atoms, atom: int, by: tuple[float, float, float]) -> Atoms:
    atoms = atoms.copy()
    atoms.positions[atom] += by
    return atoms


def residuals(atoms: Atoms, group: SpaceGroup) -> np.ndarray:
    """(H,) Å: how far x hᵀ + t is from the image, up to the lattice of the structure."""
    landed = atoms.positions @ group.turns.transpose(0, 2, 1) + group.shifts[:, None]
    steps = (atoms.positions[group.images] - landed).reshape(-1, 3)
    rows = atoms.cell.array[atoms.pbc]
    if len(rows):
        whole = np.round(steps @ np.linalg.pinv(rows))
        steps = steps - whole @ rows
    return np.linalg.norm(steps, axis=1).reshape(len(group.turns), -1).max(axis=1)


CRYSTALS = {
    "fcc": bulk("Cu"),
    "fcc, cubic cell": bulk("Cu", cubic=True),
    "bcc": bulk("Fe"),
    "bcc, cubic cell": bulk("Fe", cubic=True),
    "simple cubic": bulk("Po", "sc", a=3.3),
    "diamond": bulk("Si"),
    "diamond, cubic cell": DIAMOND,
    "diamond, 3 x 1 x 1": DIAMOND * (3, 1, 1),
    "diamond, 2 x 2 x 2": DIAMOND * (2, 2, 2),
    "hcp": bulk("Mg"),
    "hcp, 2 x 3 x 1": bulk("Mg") * (2, 3, 1),
    "rocksalt": bulk("NaCl", "rocksalt", a=5.6),
    "zincblende": bulk("GaAs", "zincblende", a=5.65),
    "wurtzite": bulk("ZnO", "wurtzite", a=3.25, c=5.2),
    "wurtzite, 2 x 2 x 2": bulk("ZnO", "wurtzite", a=3.25, c=5.2) * 2,
    "perovskite": perovskite(),
    "perovskite, 2 x 2 x 2": perovskite() * 2,
    "rutile": rutile(),
    "rutile, 1 x 2 x 2": rutile() * (1, 2, 2),
    "quartz": quartz(),
    "triclinic": triclinic(),
    "triclinic, 2 x 2 x 1": triclinic() * (2, 2, 1),
    "diamond, one displaced along x": displaced(DIAMOND * 2, 5, (0.01, 0, 0)),
    "perovskite, one displaced along x + y": displaced(perovskite() * 2, 7, (0.02, 0.02, 0)),
}


def by_spglib(atoms: Atoms) -> tuple[int, int]:
    """Point operations of the crystal, pure translations in the cell."""
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    found = spglib.get_symmetry_dataset(cell, symprec=1e-3)
    primitive = spglib.find_primitive(cell, symprec=1e-3)
    turns = spglib.get_symmetry_dataset(primitive, symprec=1e-3).rotations
    return len(turns), len(atoms) // len(set(found.mapping_to_primitive))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", CRYSTALS)
def test_crystals_have_the_operations_and_translations_that_spglib_finds(name):
    atoms = CRYSTALS[name]
    expected = by_spglib(atoms)
    for seed, other in enumerate([atoms, turned(atoms, 1), turned(skewed(atoms), 2)]):
        group = space_group(other)
        assert (group.n_operations, group.n_translations) == expected, seed
        assert len(np.unique(group.classes)) * group.n_translations == len(atoms)
        assert residuals(other, group)[group.is_of_supercell].max() < 1e-7
        assert group.deviation < 1e-7


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["diamond, 3 x 1 x 1", "hcp, 2 x 3 x 1", "perovskite, 2 x 2 x 2", "rutile, 1 x 2 x 2"])
def test_the_operations_that_keep_the_supercell_are_those_that_spglib_finds_of_it(name):
    atoms = CRYSTALS[name]
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    expected = len(np.unique(spglib.get_symmetry(cell, symprec=1e-3)["rotations"], axis=0))
    assert np.count_nonzero(space_group(atoms).is_of_supercell) == expected


OTHERS = {
    # name: structure, tolerance, operations, translations, axes
    "water": (molecule("H2O"), 1e-3, 4, 1, 0),
    "ammonia": (molecule("NH3"), 1e-3, 6, 1, 0),
    "methane": (molecule("CH4"), 1e-3, 24, 1, 0),
    "benzene": (molecule("C6H6"), 1e-3, 24, 1, 0),
    "ethane, staggered": (molecule("C2H6"), 1e-3, 12, 1, 0),
    "fullerene": (molecule("C60"), 1e-2, 120, 1, 0),
    "sulphur hexafluoride": (
        Atoms("SF6", [(0, 0, 0), *(1.5 * s * np.eye(3)[i] for i in range(3) for s in (1, -1))]),
        1e-3,
        48,
        1,
        0,
    ),
    "carbon dioxide": (molecule("CO2"), 1e-3, 4, 1, 1),
    "nitrogen": (molecule("N2"), 1e-3, 4, 1, 1),
    "hydrogen cyanide": (molecule("HCN"), 1e-3, 2, 1, 1),
    "helium": (Atoms("He", [(1.0, 2.0, 3.0)]), 1e-3, 2, 1, 3),
    "graphene": (graphene(vacuum=6.0), 1e-3, 24, 1, 0),
    "graphene, 3 x 2": (graphene(size=(3, 2, 1)), 1e-3, 24, 6, 0),
    "molybdenum disulphide": (mx2("MoS2", size=(2, 2, 1)), 1e-3, 12, 4, 0),
    "copper slab of three layers": (fcc111("Cu", (2, 2, 3)), 1e-3, 12, 4, 0),
    "zigzag tube": (nanotube(6, 0), 1e-3, 48, 1, 0),
    "armchair tube, two periods": (nanotube(5, 5, length=2), 1e-3, 40, 2, 0),
    "chiral tube": (nanotube(4, 2), 1e-3, 56, 1, 0),
    "zigzag chain": (Atoms("C2", [(0, 0.4, 0), (0, -0.4, 1.2)], cell=[0, 0, 2.4], pbc=[0, 0, 1]), 1e-3, 8, 1, 0),
    "straight chain": (Atoms("H3", [(0, 0, z) for z in range(3)], cell=[0, 0, 3], pbc=[0, 0, 1]), 1e-3, 4, 3, 1),
}


@pytest.mark.parametrize("name", OTHERS)
def test_molecules_layers_and_wires_have_their_known_groups(name):
    atoms, tolerance, n_operations, n_translations, n_axes = OTHERS[name]
    for other in (atoms, turned(atoms, 3)):
        group = space_group(other, tolerance)
        assert (group.n_operations, group.n_translations, len(group.axes)) == (n_operations, n_translations, n_axes)
        assert residuals(other, group)[group.is_of_supercell].max() <= tolerance
        assert group.deviation <= tolerance


@pytest.mark.parametrize("name", ["diamond, 3 x 1 x 1", "rutile, 1 x 2 x 2", "quartz"])
def test_the_operations_are_a_group_of_turns_and_of_images_up_to_translations(name):
    check_group(space_group(turned(CRYSTALS[name], 4)))


@pytest.mark.parametrize("name", ["benzene", "fullerene", "chiral tube", "molybdenum disulphide", "zigzag chain"])
def test_so_are_those_of_what_does_not_repeat_in_space(name):
    check_group(space_group(turned(OTHERS[name][0], 4), OTHERS[name][1]))


def check_group(group: SpaceGroup) -> None:
    turns = group.point.matrices
    assert np.array_equal(group.turns[0], np.eye(3))
    assert np.abs(group.turns @ group.turns.transpose(0, 2, 1) - np.eye(3)).max() < 1e-14
    assert (np.sort(group.images, axis=1) == np.arange(group.n_atoms)).all()
    of = group.classes[group.images]
    for k in range(len(turns)):
        products = find(turns @ turns[k], turns, 1e-13)
        assert bool((products >= 0).all())
        assert np.array_equal(of[products.numpy()], of[:, group.images[k]])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([*CRYSTALS]))
def test_the_group_does_not_depend_on_how_the_structure_is_written(seed, name):
    atoms = CRYSTALS[name]
    one, other = space_group(atoms), space_group(turned(atoms, seed))
    turn = Rotations.random(1, seed).matrices[0]
    assert bool(other.point.contains(turn @ one.point.matrices @ turn.T).all())
    assert (one.n_operations, one.n_translations) == (other.n_operations, other.n_translations)
    assert len(one.representatives()) == len(other.representatives())


def test_operations_come_in_an_order_that_does_not_depend_on_the_file():
    for atoms in (bulk("Mg") * (2, 2, 1), graphene(vacuum=5.0), molecule("C6H6")):
        kinds = [_what_they_do(space_group(other)) for other in (atoms, turned(atoms, 1), turned(atoms, 2))]
        np.testing.assert_allclose(kinds[1], kinds[0], atol=1e-6)
        np.testing.assert_allclose(kinds[2], kinds[0], atol=1e-6)


def _what_they_do(group: SpaceGroup) -> np.ndarray:
    fixed = (group.classes[group.images] == group.classes).sum(axis=1)
    return np.column_stack([np.linalg.det(group.turns), np.trace(group.turns, axis1=1, axis2=2), fixed])


def test_a_random_arrangement_has_no_symmetry():
    for atoms in (DIAMOND * 2, graphene(size=(3, 3, 1)), molecule("C60"), nanotube(4, 4)):
        atoms = atoms.copy()
        atoms.rattle(0.05, seed=1)
        group = space_group(atoms)
        assert group.is_trivial
        assert group.deviation < 1e-14
        assert np.array_equal(group.images, np.arange(len(atoms))[None])


def test_a_near_symmetric_crystal_is_matched_within_the_tolerance_and_says_what_was_needed():
    atoms = perovskite() * 2
    strain = 1e-5 * np.array([[1, 2, 0], [0, -1, 3], [1, 0, 0]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(2e-4, seed=1)
    loose, strict = space_group(atoms, 1e-2), space_group(atoms, 1e-5)
    assert (loose.n_operations, loose.n_translations) == (48, 8)
    assert 2e-4 < loose.deviation < 3e-3
    assert strict.is_trivial
    check_group(loose)


def test_two_tolerances_tell_a_ferroelectric_from_its_parent():
    atoms = displaced(perovskite(), 1, (0, 0, 0.02))
    assert space_group(atoms, 1e-3).n_operations == 8
    assert space_group(atoms, 0.05).n_operations == 48
    assert space_group(atoms, 0.05).deviation == pytest.approx(0.03, abs=0.011)


def test_every_tolerance_gives_a_group():
    for atoms in (bulk("Mg") * (2, 1, 1), molecule("CH4"), rutile()):
        atoms = atoms.copy()
        atoms.rattle(0.005, seed=2)
        orders = []
        for tolerance in np.geomspace(1e-4, 0.2, 16):
            group = space_group(atoms, tolerance)
            orders.append(group.n_operations * group.n_translations)
            check_group(group)
            assert group.deviation <= tolerance
        assert orders[0] == 1
        assert orders[-1] > 10


@pytest.mark.parametrize("name", ["CS2", "NH3", "CO2"])
def test_a_molecule_that_is_hardly_bent_has_a_group_to_rounding(name):
    for seed in range(12):
        atoms = molecule(name)
        atoms.rattle(10 ** (-1.5 - seed / 4), seed=seed)
        for tolerance in (1e-3, 5e-3, 3e-2):
            group = space_group(turned(atoms, seed), tolerance)
            check_group(group)
            assert group.deviation <= tolerance


def test_a_strained_lattice_counts_as_a_deviation():
    atoms = bulk("Po", "sc", a=3.3)
    atoms.set_cell(atoms.cell.array @ np.diag([1, 1, 1 + 2e-3]), scale_atoms=True)
    assert space_group(atoms, 1e-3).n_operations == 16
    loose = space_group(atoms, 1e-2)
    assert loose.n_operations == 48
    assert 2e-3 < loose.deviation <= 7e-3


@pytest.mark.parametrize("displacement", [0.1, 0.01, 0.003, 0.0015])
def test_a_displaced_atom_of_a_large_supercell_leaves_its_stabilizer(displacement):
    atoms = displaced(DIAMOND * 4, 100, (displacement, 0, 0))
    group = space_group(atoms)
    # The site has the group of the tetrahedron, of which a displacement along x leaves 1, C2 and two mirrors.
    assert (group.n_operations, group.n_translations) == (4, 1)
    assert group.deviation < 1e-9
    assert np.abs(group.turns @ [1, 0, 0] - [1, 0, 0]).max() < 1e-12
    assert len(group.site_stabilizer(100)) == 4


def test_a_thousand_disordered_atoms_on_a_lattice_have_no_symmetry():
    atoms = DIAMOND * 5
    atoms.numbers[np.random.default_rng(0).random(len(atoms)) < 0.5] = 32
    assert space_group(atoms).is_trivial


def test_the_stabilizer_of_a_site_is_its_point_group():
    rock_salt, wurtzite = space_group(CRYSTALS["rocksalt"] * 2), space_group(CRYSTALS["wurtzite, 2 x 2 x 2"])
    silicon, benzene = space_group(DIAMOND), space_group(molecule("C6H6"))
    assert [len(rock_salt.site_stabilizer(i)) for i in (0, 1)] == [48, 48]
    assert {len(wurtzite.site_stabilizer(i)) for i in range(32)} == {6}
    assert {len(silicon.site_stabilizer(i)) for i in range(8)} == {24}
    assert {len(benzene.site_stabilizer(i)) for i in range(12)} == {4}
    for group in (rock_salt, wurtzite, silicon, benzene):
        orbits = group.orbits()
        for atom in group.representatives():
            size = np.count_nonzero(orbits == atom) // group.n_translations
            assert size * len(group.site_stabilizer(atom)) == group.n_operations


def test_representatives_are_one_atom_of_each_kind_of_site():
    assert space_group(perovskite() * 2).representatives().tolist() == [0, 1, 2]
    assert len(space_group(molecule("CH3CH2OH")).representatives()) == 7
    assert len(space_group(CRYSTALS["diamond, one displaced along x"]).representatives()) == 26


def test_a_structure_says_what_it_has():
    assert repr(space_group(DIAMOND)).startswith("SpaceGroup(48 point operations, 4 translations, 8 atoms in 1 orbits")
    assert "any turn about 1 axes" in repr(space_group(molecule("CO2")))


def test_the_point_group_is_that_of_the_turns():
    for name in ("rutile", "diamond, 3 x 1 x 1"):
        atoms = CRYSTALS[name]
        assert np.array_equal(point_operations(atoms).matrices.numpy(), space_group(atoms).turns)


def test_arrays_are_as_good_as_atoms():
    atoms = rutile()
    group = find_operations(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, 1e-3)
    assert np.array_equal(group.images, space_group(atoms).images)


def test_a_cell_vector_that_does_not_repeat_carries_no_symmetry():
    flat = graphene(vacuum=5.0)
    counts = set()
    for free in ([0, 0, 0], [0, 0, 9], [1.3, 0.4, 9]):
        flat.cell[2] = free
        counts.add(space_group(flat).n_operations)
    assert counts == {24}


def test_bad_structures_are_refused_with_numbers():
    with pytest.raises(ValueError, match=r"symmetry search \(symprec\) is 0 Å; at least 1e-09 was expected"):
        space_group(DIAMOND, 0)
    with pytest.raises(ValueError, match=r"\(symprec\) is nan Å"):
        space_group(DIAMOND, float("nan"))
    with pytest.raises(ValueError, match=r"a structure of 2 atoms, 1 of them at positions that are not finite"):
        space_group(Atoms("H2", [(0, 0, 0), (0, 0, np.nan)]))
    with pytest.raises(ValueError, match=r"a structure of 0 atoms, 0 of them"):
        space_group(Atoms())
    with pytest.raises(ValueError, match=r"the 3 periodic cell vectors span a volume of 0 Å\^3"):
        space_group(Atoms("H", cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True))
    with pytest.raises(ValueError, match=r"the 1 periodic cell vectors span a volume of 0 Å\^1"):
        space_group(Atoms("H", pbc=[True, False, False]))
    with pytest.raises(ValueError, match=r"atoms 0 and 2 are 0\.0005 Å apart, within the tolerance of 0\.001 Å"):
        space_group(Atoms("CuHCu", [(0, 0, 0), (1, 1, 1), (0, 0, 2.9995)], cell=[3, 3, 3], pbc=True))
    crowded = DIAMOND * 5
    crowded.positions[7] = crowded.positions[900] + (0, 0, 4e-4)
    with pytest.raises(ValueError, match=r"atoms 7 and 900 are 0\.0004 Å apart"):
        space_group(crowded)
