"""Pairs within a cutoff: against brute force and ASE, with their reverse, and through time."""

from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from tumble import native, neighbors
from tumble.neighbors import Pairs, Verlet, search, vectors
from tumble.testing import structures

SHEARED = np.array([[3.1, 0.0, 0.0], [1.4, 2.9, 0.0], [-0.9, 1.1, 3.3]])


def cloud(n, pbc, cell=SHEARED, seed=0):
    """Atoms anywhere, some of them outside the cell."""
    positions = np.random.default_rng(seed).uniform(-0.5, 1.5, (n, 3)) @ cell
    return Atoms(f"He{n}", positions, cell=cell, pbc=pbc)


def find(atoms, cutoff, how=search):
    return how(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)


def same(one: Pairs, other: Pairs):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def as_set(pairs):
    rows = np.column_stack([pairs.center, pairs.neighbor, pairs.shift]).tolist()
    assert len({tuple(row) for row in rows}) == len(rows)
    return {tuple(row) for row in rows}


def brute_force(atoms, cutoff, reach=6):
    """Every pair of atoms and every image within reach, one by one."""
    ranges = [range(-reach, reach + 1) if periodic else (0,) for periodic in atoms.pbc]
    found = set()
    for i, j in product(range(len(atoms)), repeat=2):
        for shift in product(*ranges):
            v = atoms.positions[j] - atoms.positions[i] + np.array(shift) @ atoms.cell.array
            if 0 < v @ v <= cutoff**2:
                found.add((i, j, *shift))
    return found


@pytest.mark.parametrize("pbc", list(product([False, True], repeat=3)))
def test_pairs_are_those_of_brute_force_for_every_periodicity(pbc):
    atoms = cloud(3, pbc)
    assert as_set(find(atoms, 3.7)) == brute_force(atoms, 3.7)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.floats(0.5, 5.5),
    st.integers(0, 10**6),
)
def test_pairs_are_those_of_ase_for_any_cell(n, pbc, cutoff, seed):
    random = np.random.default_rng(seed)
    cell = np.diag(random.uniform(1.5, 5.0, 3)) @ (np.eye(3) + random.uniform(-0.6, 0.6, (3, 3)) * (1 - np.eye(3)))
    if abs(np.linalg.det(cell)) < 1:
        cell = SHEARED
    atoms = cloud(n, pbc, cell, seed)
    i, j, shift = neighbor_list("ijS", atoms, cutoff)
    assert as_set(find(atoms, cutoff)) == {tuple(row) for row in np.column_stack([i, j, shift]).tolist()}


def test_a_cell_smaller_than_the_cutoff_has_its_own_images_as_neighbours():
    atoms = Atoms("Po", cell=np.eye(3), pbc=True)
    pairs = find(atoms, 2.01)
    within = [s for s in product(range(-2, 3), repeat=3) if 0 < sum(x * x for x in s) <= 4]
    assert len(pairs.center) == len(within) == 32
    assert not pairs.center.any()
    assert not pairs.neighbor.any()


@pytest.mark.parametrize("pbc", [True, (True, False, True), False])
def test_the_reverse_of_the_reverse_is_the_pair_itself(pbc):
    pairs = find(cloud(5, pbc), 4.0)
    back = pairs.reverse
    assert len(back) > 0
    np.testing.assert_array_equal(back[back], np.arange(len(back)))
    np.testing.assert_array_equal(pairs.center[back], pairs.neighbor)
    np.testing.assert_array_equal(pairs.shift[back], -pairs.shift)


def test_pairs_are_sorted_by_center_and_their_vectors_point_to_the_neighbor():
    atoms = cloud(5, True)
    pairs = find(atoms, 4.0)
    assert (np.diff(pairs.center) >= 0).all()
    v = vectors(pairs, atoms.positions, atoms.cell.array)
    p = 7
    expected = atoms.positions[pairs.neighbor[p]] + pairs.shift[p] @ atoms.cell.array - atoms.positions[pairs.center[p]]
    np.testing.assert_allclose(v[p], expected)
    np.testing.assert_array_equal(v[pairs.reverse], -v)
    assert (np.linalg.norm(v, axis=1) <= 4.0).all()


@pytest.mark.parametrize("cutoff", [0.0, -1.0])
def test_without_a_cutoff_there_are_no_pairs(cutoff):
    assert len(find(cloud(4, True), cutoff).center) == 0


def test_an_isolated_atom_and_no_atom_have_no_pairs():
    for atoms in (Atoms("He"), Atoms()):
        pairs = find(atoms, 5.0)
        assert [len(column) for column in pairs] == [0, 0, 0, 0]
        assert pairs.shift.shape == (0, 3)


def test_a_wire_without_other_cell_vectors_repeats_along_itself():
    atoms = Atoms("He", cell=[0, 0, 1.5], pbc=(False, False, True))
    assert sorted(find(atoms, 3.1).shift[:, 2].tolist()) == [-2, -1, 1, 2]


@pytest.mark.parametrize("shell", [1, 2, 3])
def test_a_shell_on_the_cutoff_is_found_whole_in_every_turned_box(shell):
    random = np.random.default_rng(0)
    crystal = bulk("Po", "sc", a=1.1).repeat(2)
    distance = 1.1 * np.sqrt(shell)
    whole = len(crystal) * [6, 18, 26][shell - 1]
    for _ in range(50):
        q, _ = np.linalg.qr(random.normal(size=(3, 3)))
        turned = crystal.copy()
        turned.set_cell(crystal.cell.array @ q, scale_atoms=False)
        turned.positions = crystal.positions @ q + random.normal(size=3)
        pairs = find(turned, distance)
        assert len(pairs.center) == whole
        assert same(pairs, find(turned, distance, Verlet(0.3)))
        v = vectors(pairs, turned.positions, turned.cell.array)
        np.testing.assert_array_equal(v[pairs.reverse], -v)  # to the last bit: masks by distance must keep both


def test_a_pair_without_its_reverse_is_an_error_not_an_answer(monkeypatch):
    class Lame:
        def __init__(self, **_):
            pass

        def compute(self, **_):
            return np.array([[0, 1]]), np.zeros((1, 3), dtype=int)

    monkeypatch.setattr(neighbors.vesin, "NeighborList", Lame)
    with pytest.raises(RuntimeError, match=r"returned 1 pairs of which some have no reverse.*Change the cutoff"):
        find(Atoms("He2", [[0, 0, 0], [0, 0, 1]]), 2.0)


@pytest.mark.parametrize("cutoff", [0.0, 3.0, 6.0])
def test_structures_settled_together_are_those_searched_alone(cutoff):
    frames = [*structures((18,)), cloud(5, True), cloud(1, (True, False, True)), cloud(7, False, seed=3)]
    found = [neighbors.candidates(one.positions, one.cell.array, one.pbc, cutoff) for one in frames]
    cells = [one.cell.array for one in frames]
    together, apart = neighbors.settle(found, [one.positions for one in frames], cells, cutoff)
    atom = pair = 0
    for one in frames:
        alone = find(one, cutoff)
        these = slice(pair, pair + len(alone.center))
        part = Pairs(
            together.center[these] - atom,
            together.neighbor[these] - atom,
            together.shift[these],
            together.reverse[these] - pair,
        )
        assert same(part, alone)
        np.testing.assert_array_equal(apart[these], vectors(alone, one.positions, one.cell.array))
        atom, pair = atom + len(one), these.stop
    assert pair == len(together.center)


def test_atoms_millions_of_cells_apart_still_sort():
    near, far = cloud(4, True), cloud(4, True)
    far.positions[2] += 3_000_000 * SHEARED[0]
    far.positions[3] -= 2_000_000 * SHEARED[1] + 4_000_000 * SHEARED[2]
    pairs = find(far, 3.5)
    assert (len(far) ** 2) * (2 * int(abs(pairs.shift).max()) + 1) ** 3 > 2**63
    assert len(pairs.center) == len(find(near, 3.5).center)
    np.testing.assert_array_equal(pairs.reverse[pairs.reverse], np.arange(len(pairs.center)))
    np.testing.assert_array_equal(pairs.shift[pairs.reverse], -pairs.shift)
    keys = np.column_stack([pairs.center, pairs.neighbor, pairs.shift])
    assert keys.tolist() == sorted(keys.tolist())


def test_keep_renumbers_the_reverse():
    pairs = find(cloud(5, True), 4.0)
    atoms = cloud(5, True)
    near = np.linalg.norm(vectors(pairs, atoms.positions, atoms.cell.array), axis=1) < 3.0
    kept = neighbors.keep(pairs, near)
    assert 0 < len(kept.center) < len(pairs.center)
    assert as_set(kept) == as_set(find(atoms, 3.0))
    np.testing.assert_array_equal(kept.center[kept.reverse], kept.neighbor)
    np.testing.assert_array_equal(kept.shift[kept.reverse], -kept.shift)


@pytest.mark.parametrize("atoms", structures((18,)), ids=lambda atoms: atoms.info["name"])
def test_a_verlet_list_is_exact_on_a_random_walk(atoms):
    random = np.random.default_rng(1)
    verlet = Verlet(skin=0.8)
    for _ in range(60):
        atoms.positions += random.normal(0, 0.03, atoms.positions.shape)
        assert same(find(atoms, 4.0, verlet), find(atoms, 4.0))
    assert 1 <= verlet.n_searches < 40


@pytest.mark.parametrize("pbc", [True, (True, True, False), (False, True, False)])
def test_a_verlet_list_is_exact_while_the_cell_changes(pbc):
    random = np.random.default_rng(2)
    atoms = cloud(4, pbc)
    atoms.set_cell(atoms.cell.array * np.array(atoms.pbc)[:, None] if sum(atoms.pbc) == 1 else atoms.cell.array)
    verlet = Verlet(skin=1.0)
    for _ in range(80):
        deform = np.eye(3) + random.normal(0, 0.01, (3, 3))
        atoms.set_cell(atoms.cell.array @ deform, scale_atoms=False)
        atoms.positions = atoms.positions @ deform + random.normal(0, 0.02, atoms.positions.shape)
        assert same(find(atoms, 4.0, verlet), find(atoms, 4.0))
    assert 1 < verlet.n_searches < 60


def test_a_verlet_list_searches_again_when_the_question_is_another():
    atoms = bulk("Cu", cubic=True)
    verlet = Verlet()
    for count, change in enumerate(
        [
            lambda: None,
            lambda: atoms.positions.__setitem__((0, 0), 2.0),
            lambda: atoms.set_pbc((True, True, False)),
            lambda: atoms.__delitem__(0),
            lambda: atoms.set_cell(atoms.cell.array * 1.8),
        ],
        start=1,
    ):
        change()
        assert same(find(atoms, 3.0, verlet), find(atoms, 3.0))
        assert verlet.n_searches == count
    find(atoms, 3.5, verlet)
    find(atoms, 3.5, verlet)
    assert verlet.n_searches == 6


def test_a_verlet_list_does_not_search_for_small_moves():
    atoms = bulk("Cu", cubic=True)
    verlet = Verlet(skin=1.0)
    for _ in range(4):
        find(atoms, 3.0, verlet)
        atoms.positions += 0.07
    assert verlet.n_searches == 1


def test_a_verlet_list_does_not_look_at_arrays_that_change_behind_its_back():
    atoms = bulk("Cu", cubic=True)
    verlet, cell, pbc = Verlet(skin=0.5), atoms.cell.array, atoms.pbc
    find(atoms, 3.0, verlet)
    atoms.positions[0] += 1.0
    cell[0, 0] += 0.0
    pbc[2] = False
    assert same(find(atoms, 3.0, verlet), find(atoms, 3.0))


@pytest.mark.skipif(bool(native.reason(neighbors.SOURCE)), reason="no C++ compiler")
@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_compiled_and_numpy_filters_give_the_same_bits(pbc, monkeypatch):
    atoms = cloud(20, pbc)
    positions, cell, periodic = atoms.positions, atoms.cell.array, atoms.pbc
    lists = Verlet(skin=0.8), Verlet(skin=0.8)
    for step in range(3):
        moved = positions + 0.05 * step
        fast = lists[0].found(moved, cell, periodic, 3.0)
        with monkeypatch.context() as patch:
            patch.setenv(native.OFF, "1")
            slow = lists[1].found(moved, cell, periodic, 3.0)
        assert all(np.array_equal(a, b) for a, b in zip((*fast[0], fast[1]), (*slow[0], slow[1]), strict=True))
        assert len(fast[1]) > 0


def test_a_negative_skin_is_refused():
    with pytest.raises(ValueError, match=r"skin of a Verlet list is -1 Å; it must be >= 0"):
        Verlet(-1)
