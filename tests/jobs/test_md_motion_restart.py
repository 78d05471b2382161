"""A simulation that is stopped goes on to the same bits."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

import tumble
from moving import ENSEMBLES, Springs, argon, argon_crystal
from tumble.jobs.md.motion import Instant, Motion, start
from tumble.jobs.md.settings import MDSettings
from tumble.potential import Potential


def through_a_file(motion: Motion, folder: Path) -> dict[str, np.ndarray]:
    np.savez(folder / "restart.npz", **motion.state())
    with np.load(folder / "restart.npz") as kept:
        return dict(kept)


def same(first: Instant, second: Instant) -> bool:
    return all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in zip(first, second, strict=True)
    )


def check(
    potential: Potential, atoms: Atoms, settings: MDSettings, folder: Path, steps: tuple[int, ...] = (), n: int = 50
) -> None:
    """Some steps, a restart in another object, and n steps of both."""
    first = Motion.of(potential, atoms, settings, steps)
    for _ in range(7):
        first.advance()
    state = through_a_file(first, folder)
    second = Motion.of(potential, atoms, settings, steps)
    second.restore(state)
    assert same(first.now(), second.now())
    for _ in range(n):
        first.advance()
        second.advance()
        np.testing.assert_array_equal(first.atoms.positions, second.atoms.positions)
        np.testing.assert_array_equal(first.atoms.get_momenta(), second.atoms.get_momenta())
        np.testing.assert_array_equal(first.atoms.cell.array, second.atoms.cell.array)
        assert same(first.now(), second.now())


@pytest.mark.parametrize("chosen", ENSEMBLES, ids=lambda chosen: "-".join(chosen.values()))
def test_every_ensemble_goes_on_to_the_same_bits(chosen, tmp_path):
    settings = MDSettings(temperature_K=50, thermostat_fs=100, barostat_fs=300, timestep_fs=8, seed=1, **chosen)
    check(argon(), start(argon_crystal(), settings), settings, tmp_path)


@pytest.mark.parametrize("thermostat", ["svr", "langevin", "nhc"])
def test_impulses_go_on_to_the_same_bits(thermostat, tmp_path):
    settings = MDSettings(thermostat=thermostat, temperature_K=300, timestep_fs=0.5, seed=2)
    water = tumble.symmetrize(tumble.load("water"), "i")
    check(water, start(molecule("H2O"), settings), settings, tmp_path, (2, 2), 8)


def test_random_turns_go_on_to_the_same_bits(tmp_path):
    settings = MDSettings(thermostat="langevin", turns="random", timestep_fs=0.5, seed=3)
    atoms = start(Atoms("H3O", np.random.default_rng(0).normal(size=(4, 3))), settings)
    check(Springs([1.0, 2.0, 5.0]), atoms, settings, tmp_path)


def test_neighbours_found_after_a_restart_are_those_found_before_it(tmp_path):
    settings = MDSettings(temperature_K=900, timestep_fs=1, seed=4)
    cell = molecule("H2O", cell=[3.2, 3.2, 3.2], pbc=True).repeat((2, 1, 1))
    first = Motion.of(tumble.load("water"), start(cell, settings), settings)
    for _ in range(5):
        first.advance()
    state = through_a_file(first, tmp_path)
    second = Motion.of(tumble.load("water"), start(cell, settings), settings)
    second.restore(state)
    for _ in range(20):
        first.advance()
        second.advance()
        np.testing.assert_array_equal(first.atoms.positions, second.atoms.positions)
        assert first.now().conserved_eV == second.now().conserved_eV


def test_a_restart_asks_nothing_that_is_known():
    springs = Springs(1.0)
    atoms = Atoms("H", [[0.1, 0, 0]], momenta=[[0, 0, 0]])
    settings = MDSettings(ensemble="nve", timestep_fs=1)
    first = Motion.of(springs, atoms, settings)
    first.advance()
    second = Motion.of(springs, atoms, settings)
    before = springs.n_calls
    second.restore(first.state())
    second.now()
    assert springs.n_calls == before
    second.advance()
    assert springs.n_calls == before + 1


def test_a_state_does_not_change_as_its_motion_goes_on():
    settings = MDSettings(temperature_K=50, thermostat="nhc", ensemble="npt", timestep_fs=8)
    motion = Motion.of(argon(), start(argon_crystal(), settings), settings)
    motion.advance()
    state = motion.state()
    before = {name: value.copy() for name, value in state.items()}
    motion.advance()
    again = Motion.of(argon(), start(argon_crystal(), settings), settings)
    again.restore(state)
    again.advance()
    again.advance()
    assert all(np.array_equal(before[name], state[name]) for name in state)
    assert state.keys() == before.keys()


def test_a_restart_of_another_structure_is_refused():
    settings = MDSettings(ensemble="nve", timestep_fs=1)
    first = Motion.of(Springs(1.0), start(molecule("H2O"), settings), settings)
    second = Motion.of(Springs(1.0), start(molecule("CO2"), settings), settings)
    with pytest.raises(ValueError, match="the restart is of 3 atoms, and this structure has 3, or others"):
        second.restore(first.state())


def test_a_restart_with_other_time_steps_is_refused():
    settings = MDSettings(ensemble="nve", timestep_fs=1)
    atoms = start(molecule("H2O"), settings)
    first = Motion((Springs(1.0), Springs(2.0)), atoms, settings, (4,))
    second = Motion((Springs(1.0), Springs(2.0)), atoms, settings, (5,))
    with pytest.raises(ValueError, match=r"fast steps to a slow one, and \(5,\) were asked for"):
        second.restore(first.state())
