"""Multiple time steps: impulses around ASE's steps."""

from math import pi

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.units import fs

import tumble
from moving import THERMOSTATS, Springs, argon, argon_crystal, row
from tumble.jobs.md.motion import Motion, start
from tumble.jobs.md.settings import MDSettings


def nve(timestep_fs: float = 1.0, **others: object) -> MDSettings:
    return MDSettings(ensemble="nve", timestep_fs=timestep_fs, **others)


def pushed() -> Atoms:
    return Atoms("H", [[0.1, 0.05, 0]], momenta=[[0.1, 0.2, -0.1]])


@pytest.mark.parametrize("steps", [(4,), (3, 2)])
@pytest.mark.parametrize("thermostat", [*THERMOSTATS, None])
def test_levels_that_do_not_differ_give_plain_verlet_to_the_last_bit(steps, thermostat):
    ensemble = {"ensemble": "nvt", "thermostat": thermostat} if thermostat else {"ensemble": "nve"}
    settings = MDSettings(temperature_K=40, timestep_fs=5, **ensemble)
    atoms = start(argon_crystal(), settings)
    plain = Motion.of(argon(), atoms, settings)
    split = Motion((argon(),) * (len(steps) + 1), atoms, settings, steps)
    assert split.stride == np.prod(steps)
    for _ in range(3):
        split.advance()
        for _ in range(split.stride):
            plain.advance()
        np.testing.assert_array_equal(split.atoms.positions, plain.atoms.positions)
        np.testing.assert_array_equal(split.atoms.get_momenta(), plain.atoms.get_momenta())
        assert split.now().conserved_eV == plain.now().conserved_eV
        assert split.now().step == plain.now().step


@pytest.mark.parametrize("steps", [(5,), (2, 3)])
def test_impulses_around_free_flight_are_verlet_with_the_long_step(steps):
    n = int(np.prod(steps))
    free = (Springs(0.0),) * len(steps)
    split = Motion((*free, Springs(3.0)), pushed(), nve(0.5), steps)
    plain = Motion.of(Springs(3.0), pushed(), nve(0.5 * n))
    for _ in range(100):
        split.advance()
        plain.advance()
    np.testing.assert_allclose(split.atoms.positions, plain.atoms.positions, atol=1e-12)
    assert split.now().conserved_eV == pytest.approx(plain.now().conserved_eV, rel=1e-10)
    assert split.now().time_ps == pytest.approx(plain.now().time_ps)


def scatter(n: int, levels: tuple[float, ...] = (4.0, 4.4), inner_fs: float = 0.05) -> float:
    """Standard deviation of the conserved quantity over the same time, eV."""
    motion = Motion(tuple(Springs(k) for k in levels), pushed(), nve(inner_fs), (n,))
    found = []
    for _ in range(round(30 / inner_fs / n)):
        motion.advance()
        found.append(motion.now().conserved_eV)
    return float(np.std(found))


def test_the_energy_is_off_by_the_square_of_the_outer_step_and_by_the_size_of_the_slow_force():
    assert scatter(40) / scatter(20) == pytest.approx(4, rel=0.15)
    assert scatter(40, (4.0, 4.2)) / scatter(40) == pytest.approx(0.5, rel=0.15)
    assert scatter(1, (4.4, 4.4), 2.0) > 5 * scatter(40)  # against one level with the outer step


def test_impulses_remove_the_work_of_a_curl():
    k, curl, mass, n = 4.0, 0.15, 1.008, 4
    omega = np.sqrt(k / mass)
    fast, exact = Springs(k, curl), Springs(k)
    time_fs = 240
    raw = Motion.of(fast, pushed(), nve(0.5))
    split = Motion((fast, exact), pushed(), nve(0.5), (n,))
    energies = [split.now().conserved_eV]
    for _ in range(time_fs * 2 // n):
        split.advance()
        energies.append(split.now().conserved_eV)
    for _ in range(time_fs * 2):
        raw.advance()
    # ẍ = -k x + κ ẑ × x: one of the two circular motions in the plane grows as exp(κ t / 2 m ω), the other one shrinks.
    growth = np.exp(curl * time_fs * fs / mass / omega)
    spin = np.cross(raw.atoms.positions, raw.atoms.get_momenta())[0, 2] * omega
    start_at = Motion.of(exact, pushed(), nve()).now()
    plane = start_at.conserved_eV - 0.5 * 0.1**2 / mass
    turning = np.cross(pushed().positions, pushed().get_momenta())[0, 2] * omega
    assert spin == pytest.approx(((plane + turning) * growth - (plane - turning) / growth) / 2, rel=0.05)
    assert raw.now().conserved_eV > 3 * start_at.conserved_eV
    assert np.ptp(energies) < 0.03 * energies[0]
    assert abs(np.mean(energies[-40:]) - np.mean(energies[:40])) < 0.005 * energies[0]


def test_half_a_period_as_outer_step_is_a_resonance():
    k, mass = 4.0, 1.008
    period_fs = 2 * pi / np.sqrt(k / mass) / fs
    inner = period_fs / 50
    found = []
    for n in (15, 25):
        motion = Motion((Springs(k), Springs(1.1 * k)), pushed(), nve(inner), (n,))
        first = motion.now().conserved_eV
        for _ in range(40):
            motion.advance()
        found.append(abs(motion.now().conserved_eV / first - 1))
    assert found[0] < 0.15
    assert found[1] > 2


def test_each_level_is_asked_once_about_each_of_its_moments():
    levels = Springs(1.0), Springs(2.0), Springs(3.0)
    motion = Motion(levels, pushed(), nve(0.5), (4, 3))
    assert motion.stride == 12
    for _ in range(2):
        motion.advance()
        motion.now()
    assert [one.n_calls for one in levels] == [1 + 24, 1 + 6, 1 + 2]
    assert motion.now().step == 24
    assert [one.potential for one in motion.calculators] == list(levels)


@pytest.mark.parametrize("thermostat", THERMOSTATS)
def test_what_is_conserved_counts_the_energy_of_the_slowest_level_and_the_heat_of_inner_steps(thermostat):
    atoms = row("H8O8")
    levels = Springs(8.0, anchors=atoms.positions), Springs(8.4, anchors=atoms.positions)
    settings = MDSettings(thermostat=thermostat, temperature_K=300, thermostat_fs=50, timestep_fs=0.5, seed=7)
    motion, instants = Motion(levels, start(atoms, settings), settings, (4,)), []
    for _ in range(100):
        motion.advance()
        instants.append(motion.now())
    now = instants[-1]
    assert now.potential_eV == pytest.approx(4.2 * np.sum((motion.atoms.positions - atoms.positions) ** 2))
    assert now.conserved_eV == pytest.approx(now.potential_eV + now.kinetic_eV - now.heat_eV, rel=1e-12)
    assert np.std([one.conserved_eV for one in instants]) < 0.02 * np.ptp([one.heat_eV for one in instants])


def test_the_average_of_water_is_followed_with_an_average_every_fourth_step():
    water = tumble.load("water")
    average = tumble.symmetrize(water, "T")
    settings = nve(0.25, temperature_K=300, seed=1)
    atoms = start(molecule("H2O"), settings)
    exact, split = Motion.of(average, atoms, settings), Motion.of(average, atoms, settings, (4,))
    raw = Motion.of(water, atoms, settings)
    assert split.calculators[0].potential is water
    assert split.calculators[1].potential is average
    for _ in range(20):
        split.advance()
        for _ in range(4):
            exact.advance()
            raw.advance()
    off = [np.abs(one.atoms.positions - exact.atoms.positions).max() for one in (split, raw)]
    assert off[0] < 0.2 * off[1]
    assert split.now().conserved_eV == pytest.approx(exact.now().conserved_eV, abs=2e-3)


def test_direct_heads_of_water_are_the_fast_level_where_nothing_is_averaged():
    water = tumble.load("water")
    settings = nve(0.5)
    motion = Motion.of(water, start(molecule("H2O"), settings), settings, (2,))
    fast, slow = (one.potential for one in motion.calculators)
    assert (fast.is_conservative, slow.is_conservative) == (False, True)
    motion.advance()
    answer = tumble.predict(water, motion.atoms)[0]
    assert motion.now().potential_eV == pytest.approx(float(answer.energy), abs=1e-4)
    forces = motion.calculators[1].results["forces"]
    assert torch.allclose(torch.as_tensor(forces, dtype=answer.forces.dtype), answer.forces, atol=1e-4)


def test_more_levels_than_a_potential_has_are_refused():
    with pytest.raises(ValueError, match="2 levels of forces were asked for, and a Gradient without direct heads"):
        Motion.of(argon(), start(argon_crystal(), nve()), nve(), (4,))


def test_random_turns_are_not_split_into_levels():
    settings = nve(turns="random")
    with pytest.raises(ValueError, match="2 levels of forces were asked for, and a Turned"):
        Motion.of(argon(), start(argon_crystal(), settings), settings, (4,))
