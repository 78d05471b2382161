import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor

from analytic import PairFunction
from tumble.crystal import space_group
from tumble.jacobian.shifts import degenerate, shifts_of
from tumble.jobs.phonons import PhononsResult, PhononsSettings, phonons
from tumble.jobs.phonons.molecule import PER_CM, Molecule
from tumble.models.pair import Morse
from tumble.potential import Gradient
from tumble.results import Table
from tumble.units import THZ

A = 1.5
"""Å, distance of nearest neighbours."""

FINE = PhononsSettings(displacement_A=1e-3, average="none")


def springs(k: float = 20.0, epsilon: float = 0.0, quartic: float = 0.0) -> Gradient:
    """Springs that are relaxed at A, with stiffness and force that depend on directions."""

    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        r = v.norm(dim=1)
        around = epsilon * (v[:, 0] ** 2 - v[:, 1] ** 2) / r**2 + quartic * (v**4).sum(1) / r**4
        return (k / 2 + around) * (r - A) ** 2

    return Gradient(PairFunction(energy, cutoff=1.3 * A))


def triangle() -> Atoms:
    return Atoms("O3", A * np.array([[0, 0, 0], [1, 0, 0], [0.5, math.sqrt(3) / 2, 0]]))


def found(result: PhononsResult) -> Molecule:
    assert isinstance(result.found, Molecule)
    return result.found


def test_a_dimer_has_one_mode_of_its_spring_and_five_motions_as_a_whole():
    depth, r0, rho0 = 4.5, 1.1, 3.0
    potential = Gradient(Morse(depth, r0, rho0, cutoff=6.0))
    result = phonons(potential, Atoms("NO", [[0, 0, 0], r0 * np.array([0.36, 0.48, 0.8])]), FINE)
    one = found(result)
    reduced = 1 / np.sum(1 / one.atoms.get_masses())
    expected = THZ * math.sqrt(2 * depth * (rho0 / r0) ** 2 / reduced)
    for key in ("±", "projected"):
        assert one.frequencies_THz[key] == pytest.approx([expected], rel=1e-5)
        # What is left of rotations is the curvature of the arc that a finite displacement leaves.
        assert one.rigid_THz[key] == pytest.approx(np.zeros(5), abs=0.1)
    assert one.zero_point_meV["projected"] == pytest.approx(expected * 4.135667696 / 2, rel=1e-5)
    assert one.n_operations is None


@pytest.mark.parametrize(("name", "n_modes", "n_rigid"), [("CO2", 4, 5), ("H2O", 3, 6), ("CH4", 9, 6)])
def test_vibrations_are_three_for_each_atom_but_for_translations_and_rotations(name, n_modes, n_rigid):
    atoms = molecule(name)
    one = found(phonons(Gradient(Network(atoms)), atoms, FINE))
    assert len(one.frequencies_THz["projected"]) == n_modes
    assert one.rigid_THz["±"] == pytest.approx(np.zeros(n_rigid), abs=0.05)
    assert (one.frequencies_THz["projected"] > -1e-3).all()


class Network(torch.nn.Module):
    """A spring between every two atoms of one molecule, relaxed where they are."""

    def __init__(self, atoms: Atoms) -> None:
        super().__init__()
        self.cutoff, self.species = 10.0, None
        self.has_direct_forces = self.has_direct_heads = self.sees_positions = False
        self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        self.lengths = torch.as_tensor(atoms.get_all_distances())

    def slopes(self, batch):
        return None

    def forward(self, batch):
        from tumble.potential import Outputs

        n = len(self.lengths)
        rest = self.lengths[batch.center % n, batch.neighbor % n]
        energies = 5 * (batch.vectors.norm(dim=1) - rest) ** 2
        total = torch.zeros(batch.n_atoms, dtype=energies.dtype).index_add(0, batch.center, energies / 2)
        return Outputs(self.weight * total)


def test_a_triangle_has_its_closed_form_and_its_pair_splits_until_it_is_projected():
    k, epsilon = 20.0, 1e-2
    one = found(phonons(springs(k, epsilon), triangle(), FINE))
    mass = triangle().get_masses()[0]
    middle = THZ * np.sqrt(k / mass * np.array([1.5, 1.5, 3.0]))
    assert one.frequencies_THz["projected"] == pytest.approx(middle, rel=1e-4)
    half = THZ**2 * 1.5 * epsilon / mass / (2 * middle[0])
    assert one.splittings_THz["±"] == pytest.approx(2 * half, rel=1e-2)
    assert one.splittings_THz["projected"] < 1e-8
    assert one.errors_THz[:2] == pytest.approx([half, half], rel=1e-2)
    assert one.sizes.forbidden == pytest.approx(one.sizes.by_group, rel=1e-3)


def test_an_average_takes_the_splitting_away_and_leaves_what_is_isotropic():
    turned = triangle()
    turned.rotate(35, (1, 2, 3))
    settings = PhononsSettings(displacement_A=1e-3, average="I", threshold_THz=1e-3)
    result = phonons(springs(quartic=1.0), turned, settings, name="quartic")
    one = found(result)
    assert one.splittings_THz["±"] > 0.1
    assert one.splittings_THz["averaged"] < 1e-3
    mass, mean = triangle().get_masses()[0], 20.0 + 2 * 3 / 5
    assert one.frequencies_THz["averaged"] == pytest.approx(
        THZ * np.sqrt(mean / mass * np.array([1.5, 1.5, 3.0])), rel=1e-3
    )
    verdicts = {verdict.key: verdict for verdict in result.verdicts()}
    assert verdicts["degeneracy"].answer == verdicts["phonons"].answer == "remedy"
    assert verdicts["stability"].answer == "yes"


def test_forces_that_turn_a_molecule_show_in_its_motions_as_a_whole():
    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        return 10.0 * (v.norm(dim=1) - A) ** 2 + 0.01 * v[:, 2] ** 2

    one = found(phonons(Gradient(PairFunction(energy, cutoff=2 * A)), Atoms("O2", [[0, 0, 0], [A, 0, 0]]), FINE))
    mass = one.atoms.get_masses()[0]
    # Turned out of the plane it is pushed back; in the mean over turns about its axis by half of that.
    assert one.rigid_THz["±"].max() == pytest.approx(THZ * math.sqrt(2 * 0.02 / mass), rel=1e-3)
    assert one.rigid_THz["projected"][-2:] == pytest.approx(np.full(2, THZ * math.sqrt(0.02 / mass)), rel=1e-3)
    assert one.frequencies_THz["projected"] == pytest.approx([THZ * math.sqrt(40 / mass)], rel=1e-4)


def test_a_result_lists_the_modes_and_has_no_file_for_phonopy(tmp_path):
    result = phonons(springs(epsilon=1e-2), triangle(), PhononsSettings(scan_A=(0.02,), average="none"), name="springs")
    facts = {fact.title: fact for fact in result.facts()}
    vibrations = facts["Vibrations"]
    assert isinstance(vibrations, Table)
    assert [row[0] for row in vibrations.rows] == [1, 2, 3]
    exact = found(result).frequencies_THz["projected"]
    assert [row[3] for row in vibrations.rows] == pytest.approx((PER_CM * exact).tolist())
    assert len(facts["Other displacements"].rows) == 1
    assert dict(facts["How it was computed"].rows)["operations of the point group"] == 12
    assert result.files() == {}
    assert result.citations == ()
    assert result.arrays["vectors"].shape == (3, 3, 3)
    result.save(tmp_path / "out")


def test_one_atom_is_refused():
    with pytest.raises(ValueError, match=r"a single atom has no vibrations; at least 2 atoms were expected"):
        phonons(springs(), Atoms("O"), FINE)


def test_shifts_of_degenerate_matrices_are_those_of_the_change_among_them():
    random = np.random.default_rng(0)
    turn, _ = np.linalg.qr(random.normal(size=(4, 4)) + 1j * random.normal(size=(4, 4)))
    values = np.array([1.0, 1.0, 2.0, -0.5])
    matrix = turn @ np.diag(values) @ turn.conj().T
    change = random.normal(size=(4, 4)) + 1j * random.normal(size=(4, 4))
    change = 1e-5 * (change + change.conj().T)
    found = shifts_of(matrix[None], change[None])
    assert found.frequencies_THz[0] == pytest.approx(THZ * np.sign(np.sort(values)) * np.sqrt(np.abs(np.sort(values))))
    assert found.first_THz == pytest.approx(found.full_THz, abs=1e-6)
    assert [len(one) for one in degenerate(found.frequencies_THz[0])] == [1, 2, 1]
    assert found.error_THz.max() > 1e-5


def test_a_slow_mode_has_no_first_order():
    found = shifts_of(np.diag([1e-8, 1.0])[None], np.diag([1e-6, 0.0])[None])
    assert found.first_THz[0] == pytest.approx([0, 0])
    assert found.error_THz[0, 0] == pytest.approx(THZ * (math.sqrt(1.01e-6) - 1e-4))


def test_the_symmetric_molecule_is_what_is_displaced():
    atoms = triangle()
    atoms.rattle(1e-5, seed=0)
    assert space_group(found(phonons(springs(), atoms, FINE)).atoms, 1e-8).n_operations == 12
