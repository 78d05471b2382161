import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, make_supercell, molecule

from tumble.crystal import space_group
from tumble.crystal.ideal import ideal, translations
from tumble.jobs.audit.measures.curvature import curvature
from tumble.jobs.audit.measures.rest import forbidden_at_rest
from tumble.models.pair import LennardJones
from tumble.potential import Gradient

STRUCTURES = {
    "diamond": bulk("C", "diamond", a=3.6),
    "long supercell": make_supercell(bulk("C", "diamond", a=3.6), [[2, 1, 0], [0, 1, 0], [0, 0, 2]]),
    "hcp": bulk("Ar", "hcp", a=3.7),
    "sheet": graphene(vacuum=5.0),
    "wire": Atoms("C2", [[0, 0, 0], [0, 0.8, 1.2]], cell=[0, 0, 2.4], pbc=[False, False, True]),
    "benzene": molecule("C6H6"),
}


@pytest.mark.parametrize("atoms", STRUCTURES.values(), ids=STRUCTURES)
def test_a_structure_that_is_slightly_off_gets_its_symmetry_exactly(atoms):
    random = np.random.default_rng(0)
    off = atoms.copy()
    bend = np.eye(3) + 1e-4 * random.uniform(-1, 1, (3, 3))
    off.set_cell(off.cell.array @ bend)
    off.positions = off.positions @ bend + 2e-4 * random.uniform(-1, 1, (len(off), 3))
    group = space_group(off, tolerance=1e-2)
    found = ideal(off, group)
    exact = space_group(found, tolerance=1e-7)
    kept = np.count_nonzero(group.is_of_supercell)
    assert kept > 1
    assert (np.count_nonzero(exact.is_of_supercell), exact.n_translations) == (kept, group.n_translations)
    assert np.abs(found.positions - off.positions).max() < 3e-3
    assert found.cell.array == pytest.approx(off.cell.array, abs=3e-3)
    assert (found.pbc == off.pbc).all()
    again = ideal(found, group)
    assert again.positions == pytest.approx(found.positions, abs=1e-8)


def test_a_structure_without_symmetry_stays_what_it_is():
    atoms = Atoms("HFCN", [[0, 0, 0], [1, 0, 0], [0, 1.1, 0], [0.1, 0.2, 1.2]])
    assert ideal(atoms, space_group(atoms)).positions == pytest.approx(atoms.positions, abs=1e-14)


def test_translations_are_permutations_and_the_identity_is_first():
    atoms = STRUCTURES["long supercell"]
    found = translations(atoms, space_group(atoms))
    assert len(found) == 4
    assert found[0].tolist() == list(range(len(atoms)))
    assert all(sorted(row) == list(range(len(atoms))) for row in found.tolist())
    places = atoms.get_scaled_positions(wrap=False)
    steps = places[found] - places
    steps -= steps[:, :1]
    assert np.round(steps) == pytest.approx(steps, abs=1e-9)


def test_what_a_structure_is_off_by_is_not_taken_for_an_error_of_the_potential():
    potential = Gradient(LennardJones(sigma=3.4, epsilon=0.01, cutoff=7.0))
    atoms = bulk("Ar", "fcc", a=5.2, cubic=True)
    atoms.rattle(3e-4, seed=0)
    group = space_group(atoms, tolerance=5e-3)
    assert group.n_operations == 48
    found = curvature(potential, atoms, group)
    rest = forbidden_at_rest(potential, atoms, group, found)
    assert found.forbidden < 1e-6
    assert rest.worst_meV_per_A < 1e-8
    assert rest.shift.symprec_A < 1e-8
