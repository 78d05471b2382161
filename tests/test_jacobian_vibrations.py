import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from tumble.jacobian.vibrations import modes, rigid, rigid_THz
from tumble.units import THZ


@pytest.mark.parametrize(
    ("atoms", "n_motions"),
    [(molecule("CO2"), 5), (molecule("H2O"), 6), (bulk("Si"), 3), (Atoms("O"), 3)],
    ids=["linear", "bent", "crystal", "atom"],
)
def test_motions_as_a_whole_are_orthonormal_and_as_many_as_there_are(atoms, n_motions):
    found = rigid(atoms)
    assert found.shape == (3 * len(atoms), n_motions)
    assert found.T @ found == pytest.approx(np.eye(n_motions), abs=1e-12)


def test_springs_to_the_lab_are_what_is_left_of_motions_as_a_whole():
    atoms, k = molecule("H2O"), 0.3
    masses = atoms.get_masses()
    # Tethers in proportion to the masses push back all motions alike.
    constants = np.einsum("i,ij,ab->ijab", k * masses / masses.sum(), np.eye(3), np.eye(3))
    assert rigid_THz(constants, atoms) == pytest.approx(np.full(6, THZ * math.sqrt(k / masses.sum())))
    assert len(modes(constants, atoms).frequencies_THz) == 3


def test_nothing_is_left_of_motions_as_a_whole_where_nothing_pushes_back():
    atoms, k = Atoms("NO", [[0, 0, 0], [0, 0, 1.2]]), 2.0
    stretch = np.zeros((3, 3))
    stretch[2, 2] = k
    constants = np.stack([np.stack([stretch, -stretch]), np.stack([-stretch, stretch])])
    assert rigid_THz(constants, atoms) == pytest.approx(np.zeros(5), abs=1e-6)
    reduced = 1 / np.sum(1 / atoms.get_masses())
    assert modes(constants, atoms).frequencies_THz == pytest.approx([THZ * math.sqrt(k / reduced)])
