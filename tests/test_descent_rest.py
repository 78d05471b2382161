import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from tumble.batch import Batch, Properties
from tumble.crystal import space_group
from tumble.descent import Rest, check_rest, rest_of
from tumble.models.pair import LennardJones, Morse
from tumble.packs import predict
from tumble.potential import Gradient, Potential
from tumble.units import EV_PER_A3_TO_GPa


def test_the_largest_force_is_that_of_the_atom_that_is_pulled_hardest():
    pair = Gradient(Morse(1.0, 1.5, 3.0, cutoff=4.0, onset=3.9))
    # All pull at each other: a right angle, whose outer atoms feel the corner and, along the diagonal, each other.
    atoms = Atoms("Ar3", [[1.7, 0, 0], [0, 0, 0], [0, 1.7, 0]])
    near, far = (2 * 3.0 / 1.5 * x * (1 - x) for x in np.exp(3.0 * (1 - np.array([1.7, 1.7 * 2**0.5]) / 1.5)))
    found = rest_of(pair, atoms)
    corner, outer = 2**0.5 * near, np.hypot(near + far / 2**0.5, far / 2**0.5)
    assert outer > corner
    assert (found.atom, found.stress_GPa) == (0, None)
    assert found.force == pytest.approx(outer, rel=1e-12)


def test_the_stress_is_that_of_the_slope_of_the_energy():
    pair, atoms, step = Gradient(LennardJones(0.0104, 3.4, cutoff=6.5)), bulk("Ar", "fcc", a=5.0), 1e-4
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.set_cell(atoms.cell.array * (1 + sign * step), scale_atoms=True)
        energies.append(float(predict(pair, moved)[0].energy))
    slope = (energies[0] - energies[1]) / (2 * step) / (3 * atoms.cell.volume)
    found = rest_of(pair, atoms)
    assert found.stress_GPa == pytest.approx(EV_PER_A3_TO_GPa * abs(slope), rel=1e-5)
    assert found.force < 1e-12


def test_a_potential_without_forces_cannot_say():
    class Silent(Potential):
        cutoff, species, is_conservative = 0.0, None, True

        def forward(self, batch: Batch) -> Properties:
            return Properties(torch.zeros(batch.n_structures, dtype=torch.float64))

    with pytest.raises(ValueError, match="a Silent gives no forces"):
        rest_of(Silent(), bulk("Ar"))


def test_forces_that_the_group_forbids_are_told_apart_and_are_no_unrest():
    """Rock salt whose atoms a field pulls along z: symmetry allows no force at all."""

    class Pulling(Potential):
        cutoff, species, is_conservative = 0.0, None, True

        def forward(self, batch: Batch) -> Properties:
            forces = torch.zeros_like(batch.positions)
            forces[0, 2] = 0.5
            return Properties(torch.zeros(batch.n_structures, dtype=torch.float64), forces)

    salt = bulk("NaCl", "rocksalt", a=5.6)
    assert rest_of(Pulling(), salt) == Rest(0.5, 0, None, 0.0)
    found = rest_of(Pulling(), salt, space_group(salt))
    assert found.force < 1e-12
    assert found.forbidden == pytest.approx(0.5)


def test_a_structure_that_is_not_at_rest_is_refused_with_the_command_that_helps():
    rest = Rest(0.0123, 7, None)
    check_rest(rest, 0.0123, verb="phonons")
    with pytest.raises(
        ValueError, match=r"force on atom 7 is 12.3 meV/Å, and phonons expects at most 1\. Run `tumble re"
    ):
        check_rest(rest, 1e-3, verb="phonons")
    with pytest.raises(ValueError, match=r"tumble relax 'my model.pt' si.xyz -o relaxed.*--fmax 0.012"):
        check_rest(rest, 1e-3, verb="phonons", name="my model.pt", file="si.xyz")
