import math
from typing import final

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE
from scipy.optimize import brentq
from torch import Tensor

import tumble
from analytic import PairFunction, Recorder
from tumble.batch import Batch, Properties
from tumble.bridges.ase import Foreign
from tumble.crystal import group_of, space_group
from tumble.descent import Descent, descend
from tumble.models.pair import LennardJones, Morse
from tumble.potential import Gradient, Potential
from tumble.units import EV_PER_A3_TO_GPa

EPSILON, SIGMA, CUTOFF = 0.0104, 3.4, 6.5


def argon() -> Gradient:
    return Gradient(LennardJones(EPSILON, SIGMA, cutoff=CUTOFF))


def shaken(atoms: Atoms, seed: int = 0, *, by: float = 0.05, strain: float = 0.01) -> Atoms:
    random = np.random.default_rng(seed)
    moved = atoms.copy()
    moved.set_cell(moved.cell.array @ (np.eye(3) + strain * random.uniform(-1, 1, (3, 3))), scale_atoms=True)
    moved.positions += by * random.uniform(-1, 1, moved.positions.shape)
    return moved


def slope(a: float) -> float:
    """dE/da of fcc argon with the lattice constant a, eV/Å per atom: the lattice sum, tapered as the model is."""
    steps = np.array(np.meshgrid(*[np.arange(-8, 9)] * 3)).reshape(3, -1).T
    shells = np.linalg.norm(steps[steps.sum(1) % 2 == 0] / 2, axis=1)
    shells = shells[(shells > 0) & (shells * a < CUTOFF)]
    r, c, o = shells * a, CUTOFF**2, (0.66 * CUTOFF) ** 2
    x = (SIGMA / r) ** 6
    bare, bent = 4 * EPSILON * (x * x - x), 4 * EPSILON * (6 * x - 12 * x * x) / r
    taper = np.where(r**2 < o, 1.0, (c - r**2) ** 2 * (c + 2 * r**2 - 3 * o) / (c - o) ** 3)
    falling = np.where(r**2 < o, 0.0, 12 * r * (c - r**2) * (o - r**2) / (c - o) ** 3)
    return float(np.sum((bent * taper + bare * falling) * shells) / 2)


def test_a_dimer_comes_to_rest_at_the_sixth_root_of_two():
    pair = Gradient(LennardJones(1.0, 1.0, cutoff=10.0, onset=9.0))
    (walk,) = descend(pair, [Atoms("Ar2", [[0, 0, 0], [0.7, 0.8, 0.3]])], Descent(fmax=1e-9))
    assert (walk.is_converged, walk.reason) == (True, "converged")
    assert walk.atoms.get_distance(0, 1) == pytest.approx(2 ** (1 / 6), abs=1e-10)
    assert walk.energies[-1] == pytest.approx(-1.0, abs=1e-12)
    assert walk.stresses is None


@pytest.mark.parametrize("optimizer", ["auto", "fire", "lbfgs", "bfgs"])
def test_every_optimizer_finds_the_lattice_constant_of_the_lattice_sum(optimizer):
    expected = brentq(slope, 4.9, 5.5, xtol=1e-12)
    settings = Descent(cell="all", fmax=1e-7, optimizer=optimizer)
    (walk,) = descend(argon(), [bulk("Ar", "fcc", a=5.4)], settings)
    assert walk.is_converged
    assert walk.atoms.cell.lengths() * math.sqrt(2) == pytest.approx([expected] * 3, abs=2e-6)
    assert walk.atoms.cell.angles() == pytest.approx([60] * 3, abs=1e-4)


def test_a_shaken_crystal_comes_back_to_its_symmetric_minimum():
    expected = brentq(slope, 4.9, 5.5, xtol=1e-12)
    start = shaken(bulk("Ar", "fcc", a=5.2, cubic=True))
    (walk,) = descend(argon(), [start], Descent(cell="all", fmax=1e-7))
    assert group_of(start, 1e-2).number == 1
    assert group_of(walk.atoms, 1e-5).number == 225
    assert walk.atoms.cell.lengths() == pytest.approx([expected] * 3, abs=1e-5)


def test_under_pressure_the_slope_of_the_energy_by_volume_is_minus_the_pressure():
    pressure_GPa = 0.5
    (walk,) = descend(argon(), [bulk("Ar", "fcc", a=5.2)], Descent(cell="all", fmax=1e-7, pressure_GPa=pressure_GPa))
    a = walk.atoms.cell.lengths()[0] * math.sqrt(2)
    # V = a³ / 4 for each atom.
    assert slope(a) / (3 * a**2 / 4) == pytest.approx(-pressure_GPa / EV_PER_A3_TO_GPa, rel=1e-4)
    stress = EV_PER_A3_TO_GPa * walk.atoms.get_stress(voigt=False)
    assert stress == pytest.approx(-pressure_GPa * np.eye(3), abs=1e-4)
    enthalpy = walk.atoms.get_potential_energy() + pressure_GPa / EV_PER_A3_TO_GPa * walk.atoms.cell.volume
    assert walk.energies[-1] == pytest.approx(enthalpy, abs=1e-12)


@pytest.mark.parametrize("kind", ["shape", "volume"])
def test_what_does_not_relax_of_a_cell_stays_as_it_was(kind):
    start = shaken(bulk("Ar", "fcc", a=5.2), strain=0.03)
    (walk,) = descend(argon(), [start], Descent(cell=kind, fmax=1e-6))
    stress = walk.atoms.get_stress(voigt=False)
    mean = np.trace(stress) / 3 * np.eye(3)
    assert walk.is_converged
    if kind == "shape":
        assert walk.atoms.cell.volume == pytest.approx(start.cell.volume, rel=1e-12)
        assert np.abs(stress - mean).max() < 1e-6 < np.abs(mean).max()
    else:
        stretch = walk.atoms.cell.array @ np.linalg.inv(start.cell.array)
        assert stretch == pytest.approx(stretch[0, 0] * np.eye(3), abs=1e-12)
        assert np.abs(mean).max() < 1e-6 < np.abs(stress - mean).max()


def test_the_gradient_of_a_stretched_crystal_is_that_of_its_enthalpy():
    from ase.calculators.singlepoint import SinglePointCalculator

    from tumble.descent.stretch import Stretched

    potential, atoms = argon(), shaken(bulk("Ar", "fcc", a=5.2, cubic=True))
    cell = Stretched(atoms, "all", 0.01)

    def at(places: np.ndarray) -> float:
        cell.set_positions(places)
        answer = tumble.predict(potential, atoms)[0]
        voigt = answer.stress.numpy()[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        known = {"energy": float(answer.energy), "forces": answer.forces.numpy(), "stress": voigt}
        atoms.calc = SinglePointCalculator(atoms, **known)
        return cell.get_potential_energy()

    random = np.random.default_rng(1)
    places = cell.get_positions() + 0.1 * random.normal(size=(len(cell), 3))
    # The stretch is symmetric.
    places[-3:] = (places[-3:] + places[-3:].T) / 2
    at(places)
    found = cell.get_forces()
    assert cell.get_positions() == pytest.approx(places, abs=1e-12)
    for row in range(len(places)):
        for column in range(3):
            step = np.zeros_like(places)
            step[row, column] = 1e-4
            if row >= len(atoms):
                step[-3:] = (step[-3:] + step[-3:].T) / 2
            measured = -(at(places + step) - at(places - step)) / 2e-4
            assert found[row, column] == pytest.approx(measured, abs=1e-7), (row, column)


def test_structures_that_walk_together_walk_as_they_do_alone():
    structures = [shaken(bulk("Ar", "fcc", a=5.2), 1), shaken(bulk("Ar", "hcp", a=3.7), 2), bulk("Ar", "fcc", a=5.5)]
    settings = Descent(cell="all", fmax=1e-5)
    recorder = Recorder(argon())
    together = descend(recorder, structures, settings)
    for structure, walk in zip(structures, together, strict=True):
        (alone,) = descend(argon(), [structure], settings)
        assert walk.n_calls == alone.n_calls == len(walk.energies)
        assert walk.energies == pytest.approx(alone.energies, abs=1e-10)
        assert walk.atoms.positions == pytest.approx(alone.atoms.positions, abs=1e-8)
    # One call for all that are still on their way, and none about those that have arrived.
    assert len(recorder.calls) == max(walk.n_calls for walk in together)
    assert sum(count for count, _, _ in recorder.calls) == sum(walk.n_calls for walk in together)


@pytest.mark.parametrize(("name", "engine"), [("bfgs", BFGS), ("fire", FIRE)])
def test_ase_alone_takes_the_same_steps_where_the_cell_is_fixed(name, engine):
    start = shaken(bulk("Ar", "fcc", a=5.2, cubic=True), strain=0.0)
    (walk,) = descend(argon(), [start], Descent(optimizer=name, fmax=1e-5))
    atoms = start.copy()
    atoms.calc = tumble.Calculator(argon())
    optimizer = engine(atoms, logfile=None, maxstep=0.1)
    assert optimizer.run(fmax=1e-5, steps=500)
    assert optimizer.nsteps == walk.n_calls - 1
    assert walk.atoms.positions == pytest.approx(atoms.positions, abs=1e-9)


def test_ase_alone_finds_the_same_cell_with_its_frechet_filter():
    start = shaken(bulk("Ar", "fcc", a=5.2))
    (walk,) = descend(argon(), [start], Descent(cell="all", fmax=1e-6, pressure_GPa=0.2))
    atoms = start.copy()
    atoms.calc = tumble.Calculator(argon())
    target = FrechetCellFilter(atoms, scalar_pressure=0.2 / EV_PER_A3_TO_GPa)
    assert BFGS(target, logfile=None).run(fmax=1e-6, steps=500)
    assert walk.atoms.cell.cellpar() == pytest.approx(atoms.cell.cellpar(), abs=1e-3)
    assert walk.atoms.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-8)


def test_the_start_is_not_changed_and_constraints_hold():
    start = shaken(bulk("Ar", "fcc", a=5.2, cubic=True))
    start.set_constraint(FixAtoms([0]))
    before = start.positions.copy()
    (walk,) = descend(argon(), [start], Descent(fmax=1e-5))
    assert walk.is_converged
    assert (start.positions == before).all()
    assert (walk.atoms.positions[0] == before[0]).all()
    assert np.linalg.norm(walk.atoms.get_forces(apply_constraint=False)[0]) < 1e-4


def leaning(epsilon: float = 0.05) -> Gradient:
    """Springs of 3 Å whose strength depends on the direction, so that no cubic crystal keeps its shape."""

    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        r = v.norm(dim=1)
        return torch.where(
            r < 3.6, (r - 3) ** 2 + epsilon * v[:, 0] * v[:, 1] / r**2 + epsilon * v[:, 2] / 9 * v[:, 0], 0
        )

    return Gradient(PairFunction(energy, cutoff=3.6))


def test_a_group_is_kept_exactly_by_a_potential_that_breaks_it():
    atoms = bulk("Ar", "fcc", a=4.3)
    free, kept = descend(leaning(), [atoms, atoms], Descent(cell="all", fmax=1e-6), groups=[None, space_group(atoms)])
    assert free.is_converged
    assert kept.is_converged
    assert group_of(free.atoms, 1e-3).number < 100
    assert group_of(kept.atoms, 1e-9).number == 225
    assert kept.atoms.cell.lengths() == pytest.approx([3.0] * 3, abs=1e-5)
    assert free.energies[-1] < kept.energies[-1]
    # What was removed is the shear stress, which nothing else could make zero.
    raw = tumble.predict(leaning(), kept.atoms)[0].stress.numpy()
    assert kept.removed_GPa == pytest.approx(EV_PER_A3_TO_GPa * np.abs(raw - np.trace(raw) / 3 * np.eye(3)).max())
    assert (free.removed_GPa, free.removed_force) == (0.0, 0.0)


def test_of_the_group_of_a_supercell_those_operations_are_kept_that_map_it():
    atoms = bulk("Ar", "fcc", a=4.3, cubic=True).repeat((2, 1, 1))
    group = space_group(atoms)
    assert not group.is_of_supercell.all()
    (walk,) = descend(leaning(), [atoms], Descent(cell="all", fmax=1e-6), groups=[group])
    assert walk.is_converged
    assert group_of(walk.atoms, 1e-8).number in (123, 225)


@final
class Curled(Potential):
    """F = -k x + κ ẑ×x + a constant push: no energy has these forces."""

    cutoff, species, is_conservative = 0.0, None, False

    def __init__(self, push: float = 0.0) -> None:
        super().__init__()
        self.push = push

    def forward(self, batch: Batch) -> Properties:
        x = batch.positions.double()
        x = x - x.mean(dim=0)
        turned = torch.stack([-x[:, 1], x[:, 0], torch.zeros_like(x[:, 0])], 1)
        push = torch.tensor([self.push, 0.0, 0.0], dtype=torch.float64)
        return Properties(x.square().sum().reshape(1), -2 * x + 0.5 * turned + push)


def test_forces_that_are_no_gradient_are_followed_by_fire():
    start = Atoms("H2", [[0, 0, 0], [1, 0, 0]])
    (auto,) = descend(Curled(), [start], Descent())
    (fire,) = descend(Curled(), [start], Descent(optimizer="fire"))
    assert auto.is_converged
    assert (auto.energies == fire.energies).all()


def test_a_net_force_is_named_and_taken_away_only_when_asked():
    start = Atoms("H2", [[0, 0, 0], [1, 0, 0]])
    (kept,) = descend(Curled(0.01), [start], Descent(steps=100))
    (removed,) = descend(Curled(0.01), [start], Descent(steps=200, net_force="remove"))
    assert not kept.is_converged
    assert "moves or turns the whole: net_force=remove" in kept.reason
    assert removed.is_converged
    assert removed.atoms.positions.mean(axis=0) == pytest.approx(start.positions.mean(axis=0), abs=1e-12)


def test_a_molecule_in_an_uneven_space_turns_for_ever_unless_its_torque_is_removed():
    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        r = v.norm(dim=1)
        return (r - 1) ** 2 + 1e-3 * (v[:, 2] / r) ** 2

    start = Atoms("H2", [[0, 0, 0], [0.6, 0, 0.8]])
    potential = Gradient(PairFunction(energy))
    (removed,) = descend(potential, [start], Descent(net_force="remove", fmax=1e-8))
    direction = removed.atoms.positions[1] - removed.atoms.positions[0]
    assert removed.is_converged
    assert removed.n_calls < 30
    assert direction / np.linalg.norm(direction) == pytest.approx([0.6, 0, 0.8], abs=1e-9)
    (kept,) = descend(potential, [start], Descent(fmax=1e-8, steps=20))
    assert not kept.is_converged
    assert "turns the whole" in kept.reason


def test_float32_is_stuck_at_its_noise_floor_and_says_so():
    pair = Gradient(Morse(1.0, 1.5, 3.0, cutoff=4.0)).to(torch.float32)
    (walk,) = descend(pair, [shaken(molecule("CH4"))], Descent(fmax=1e-13, steps=400, patience=20))
    assert not walk.is_converged
    assert walk.reason.startswith("stuck at the noise floor")
    assert walk.n_calls < 400
    assert walk.forces[-1] < 1e-4


def test_a_walk_that_is_too_short_says_so():
    (walk,) = descend(argon(), [shaken(bulk("Ar", "fcc", a=5.2, cubic=True))], Descent(steps=2))
    assert (walk.is_converged, walk.reason, walk.n_calls) == (False, "not at rest after 2 steps", 3)


def test_long_walks_are_thinned_and_keep_both_ends():
    start = shaken(bulk("Ar", "fcc", a=5.2, cubic=True))
    (walk,) = descend(argon(), [start], Descent(fmax=1e-6, frames=5, optimizer="fire"))
    assert 3 <= len(walk.frames) <= 6
    assert walk.frame_steps[[0, -1]].tolist() == [0, walk.n_calls - 1]
    assert walk.frames[0].positions == pytest.approx(start.positions)
    for step, frame in zip(walk.frame_steps, walk.frames, strict=True):
        assert frame.get_potential_energy() == walk.energies[step]
        assert np.linalg.norm(frame.get_forces(), axis=1).max() == walk.forces[step]


@final
class Broken(Potential):
    """Falls apart: no number as an energy, or a stress that blows the cell up."""

    cutoff, species, is_conservative = 0.0, None, True

    def __init__(self, energy: float, stress: float | None) -> None:
        super().__init__()
        self.energy, self.stress = energy, stress

    def forward(self, batch: Batch) -> Properties:
        forces = torch.full_like(batch.positions, 0.0)
        stress = (
            None
            if self.stress is None
            else self.stress * torch.eye(3, dtype=torch.float64).repeat(batch.n_structures, 1, 1)
        )
        return Properties(torch.full((batch.n_structures,), self.energy, dtype=torch.float64), forces, stress)


def test_answers_that_are_no_numbers_end_a_walk():
    (walk,) = descend(Broken(math.nan, None), [bulk("Ar")], Descent())
    assert walk.reason == "not finite: the energy is nan eV, the largest force 0.0 eV/Å"
    assert not walk.is_converged


def test_a_cell_that_runs_away_ends_a_walk():
    (walk,) = descend(Broken(0.0, -1.0), [bulk("Ar")], Descent(cell="all"))
    assert walk.reason.startswith("ran away: the volume is 4.")


def test_the_default_limit_of_the_stress_is_a_virial_of_fmax_per_atom():
    atoms = bulk("Ar", "fcc", a=5.2)
    (walk,) = descend(argon(), [atoms], Descent(cell="all", fmax=1e-3))
    limit = EV_PER_A3_TO_GPa * 1e-3 / walk.atoms.cell.volume
    assert walk.stresses is not None
    assert walk.stresses[-1] <= limit < walk.stresses[-2]
    (strict,) = descend(argon(), [atoms], Descent(cell="all", fmax=1e-3, smax_GPa=limit / 100))
    assert strict.n_calls > walk.n_calls


def test_progress_counts_the_structures_that_have_ended():
    told = []
    structures = [bulk("Ar", "fcc", a=5.2), shaken(bulk("Ar", "fcc", a=5.2, cubic=True))]
    descend(argon(), structures, Descent(), tell=told.append)
    assert [told[0].done, told[-1].done, told[-1].total] == [1, 2, 2]
    assert told[0].message.startswith("step 0: 1 of 2 walk on, largest force 0.")


def test_nothing_to_walk_is_nothing_to_do():
    assert descend(argon(), [], Descent()) == []


def test_a_cell_that_does_not_repeat_cannot_relax():
    slab = Atoms("Ar", cell=[4, 4, 20], pbc=[True, True, False])
    with pytest.raises(ValueError, match=r"structure 0 \(Ar\) does not repeat along c .* cell=fixed"):
        descend(argon(), [slab], Descent(cell="all"))
    assert descend(argon(), [slab], Descent(cell="auto"))[0].stresses is None


class Mute(Calculator):
    """Energy and forces, and no stress."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}


def test_a_cell_cannot_relax_without_a_stress():
    with pytest.raises(ValueError, match=r"a Mute gives no stress for structure 0 \(Ar\).*cell=fixed"):
        descend(Foreign(Mute()), [bulk("Ar")], Descent(cell="all"))
    assert descend(Foreign(Mute()), [bulk("Ar")], Descent())[0].is_converged


def test_a_walk_needs_forces():
    class Silent(Potential):
        cutoff, species, is_conservative = 0.0, None, True

        def forward(self, batch: Batch) -> Properties:
            return Properties(torch.zeros(batch.n_structures, dtype=torch.float64))

    with pytest.raises(ValueError, match="a Silent gives no energy or no forces"):
        descend(Silent(), [bulk("Ar")], Descent())


def test_there_is_one_group_for_each_structure():
    with pytest.raises(ValueError, match="2 groups were given for 1 structures"):
        descend(argon(), [bulk("Ar")], Descent(), groups=[None, None])
