"""One structure that moves: closed forms, ensembles, and what is told of a moment."""

from math import asin

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.units import fs, kB

from moving import ENSEMBLES, Springs, argon, argon_crystal, row
from tumble.jobs.md.motion import Motion, concerns, degrees_of_freedom, start
from tumble.jobs.md.settings import MDSettings
from tumble.symmetry.turned import Turned


def nve(timestep_fs: float = 1.0, **others: object) -> MDSettings:
    return MDSettings(ensemble="nve", timestep_fs=timestep_fs, **others)


def test_free_flight_is_a_straight_line():
    atoms = Atoms("HO", [[0, 0, 0], [5.0, 0, 0]])
    atoms.set_velocities([[0.1, -0.2, 0.3], [0, 0.05, 0]])
    motion = Motion.of(Springs(0.0), atoms, nve(2.0))
    first = motion.now()
    for _ in range(50):
        motion.advance()
    last = motion.now()
    np.testing.assert_allclose(motion.atoms.positions, atoms.positions + 100 * fs * atoms.get_velocities(), rtol=1e-12)
    assert (first.step, last.step, last.time_ps) == (0, 50, pytest.approx(0.1))
    assert last.conserved_eV == first.conserved_eV == pytest.approx(atoms.get_kinetic_energy())
    np.testing.assert_array_equal(last.momentum, first.momentum)
    np.testing.assert_allclose(last.angular_momentum, first.angular_momentum, rtol=1e-12, atol=1e-12)


def test_a_spring_keeps_verlets_shadow_energy_and_period():
    k, mass, step = 5.0, 1.008, 1.0 * fs
    atoms = Atoms("H", [[0.1, 0, 0]])
    atoms.set_momenta(np.zeros((1, 3)))
    motion = Motion.of(Springs(k), atoms, nve(1.0))
    reduced = 1 - k / mass * step**2 / 4
    angle = 2 * asin(np.sqrt(k / mass) * step / 2)
    for n in range(1, 200):
        motion.advance()
        x, p = motion.atoms.positions[0, 0], motion.atoms.get_momenta()[0, 0]
        assert x == pytest.approx(0.1 * np.cos(n * angle), abs=1e-11)
        assert p**2 / 2 / mass + k / 2 * reduced * x**2 == pytest.approx(k / 2 * reduced * 0.01, rel=1e-11)


@pytest.mark.parametrize("chosen", ENSEMBLES, ids=lambda chosen: "-".join(chosen.values()))
def test_what_is_conserved_changes_with_the_square_of_the_step_and_far_less_than_heat(chosen):
    scatter, heat = [], []
    for step in (5.0, 10.0):
        settings = MDSettings(temperature_K=30, thermostat_fs=200, barostat_fs=500, timestep_fs=step, seed=1, **chosen)
        motion, instants = Motion.of(argon(), start(argon_crystal(), settings), settings), []
        for _ in range(int(600 / step)):
            motion.advance()
            instants.append(motion.now())
        conserved = np.array([one.conserved_eV for one in instants])
        scatter.append(conserved.std())
        heat.append(np.ptp([one.heat_eV for one in instants]))
    assert 2.5 < scatter[1] / scatter[0] < 6  # 4, but for the paths that noise makes different
    assert scatter[0] > 0
    if settings.ensemble != "nve":
        assert scatter[1] < 5e-3 * min(heat)
    if settings.ensemble == "npt":
        sides = np.diag(motion.atoms.cell)
        assert sides[0] != argon_crystal().cell[0, 0]
        assert np.allclose(sides, sides[0], rtol=1e-9) == (settings.barostat == "isotropic")


def test_langevin_gives_each_element_its_temperature_and_the_spread_that_maxwell_has():
    settings = MDSettings(thermostat="langevin", temperature_K=500, thermostat_fs=10, timestep_fs=1, seed=3)
    atoms = row("H20O20")
    motion = Motion.of(Springs(8.0, anchors=atoms.positions), start(atoms, settings), settings)
    found = []
    for _ in range(2000):
        motion.advance()
        now = motion.now()
        found.append([now.temperatures_K["H"], now.temperatures_K["O"], now.kinetic_eV])
    hydrogen, oxygen, kinetic = np.array(found)[200:].T
    # Some 100 independent moments of 60 degrees of freedom of each: a standard error of 500 K sqrt(2 / 60 / 100) = 9 K.
    assert hydrogen.mean() == pytest.approx(500, abs=25)
    assert oxygen.mean() == pytest.approx(500, abs=25)
    assert kinetic.mean() == pytest.approx(60 * kB * 500, rel=0.04)
    assert kinetic.var() == pytest.approx(60 * (kB * 500) ** 2, rel=0.35)


def test_langevin_leaves_the_momenta_of_a_stiff_spring_at_the_temperature_and_its_width_to_verlet():
    k, step, temperature = 8.0, 2.0, 400.0
    settings = MDSettings(thermostat="langevin", temperature_K=temperature, thermostat_fs=20, timestep_fs=step)
    atoms = row("H200")
    motion = Motion.of(Springs(k, anchors=atoms.positions), start(atoms, settings), settings)
    kinetic, squares = [], []
    for n in range(1000):
        motion.advance()
        if n >= 150:
            kinetic.append(motion.now().temperature_K)
            squares.append(np.mean((motion.atoms.positions - atoms.positions) ** 2))
    stiffened = 1 - k / 1.008 * (step * fs) ** 2 / 4  # 0.92
    assert np.mean(kinetic) == pytest.approx(temperature, rel=0.015)
    assert np.mean(squares) == pytest.approx(kB * temperature / k / stiffened, rel=0.03)


@pytest.mark.parametrize("thermostat", ["svr", "nhc"])
def test_a_global_thermostat_heats_all_but_the_centre_of_mass(thermostat):
    settings = MDSettings(thermostat=thermostat, temperature_K=30, thermostat_fs=60, timestep_fs=8, seed=2)
    motion = Motion.of(argon(), start(argon_crystal(), settings), settings)
    kinetic = []
    for _ in range(900):
        motion.advance()
        kinetic.append(motion.now().kinetic_eV)
    n_free = degrees_of_freedom(motion.atoms, settings)
    assert n_free == 3 * 32 - 3
    assert np.mean(kinetic[200:]) == pytest.approx(n_free / 2 * kB * 30, rel=0.05)
    assert np.abs(motion.now().momentum).max() < 1e-12
    if thermostat == "svr":  # what rescaling to one temperature would not have
        assert np.var(kinetic[200:]) == pytest.approx(n_free / 2 * (kB * 30) ** 2, rel=0.5)


def test_temperatures_add_up_and_know_that_the_centre_of_mass_is_at_rest():
    settings = MDSettings(thermostat="svr", temperature_K=300, timestep_fs=0.5)
    drawn = []
    for seed in range(300):
        atoms = start(molecule("H2O"), settings.model_copy(update={"seed": seed}))
        now = Motion.of(Springs(0.0), atoms, settings).now()
        drawn.append([now.temperature_K, now.temperatures_K["H"], now.temperatures_K["O"]])
        assert now.temperature_K == pytest.approx(2 * now.kinetic_eV / (6 * kB))
    of_all, of_h, of_o = np.mean(drawn, axis=0)
    assert of_all == pytest.approx(300, rel=0.12)  # 4 standard errors: sqrt(2 / 6 / 300) each
    assert of_h == pytest.approx(300, rel=0.12)
    assert of_o == pytest.approx(300, rel=0.5)  # a third of a degree of freedom


def test_a_drift_of_the_centre_of_mass_is_no_heat_unless_langevin_heats_it():
    atoms = Atoms("ArNe", [[0, 0, 0], [9, 0, 0]])
    atoms.set_velocities([[0.01, 0, 0], [0.01, 0, 0]])
    assert Motion.of(Springs(0.0), atoms, nve()).now().temperature_K == pytest.approx(0, abs=1e-9)
    langevin = MDSettings(thermostat="langevin", timestep_fs=1)
    now = Motion.of(Springs(0.0), atoms, langevin).now()
    assert now.temperature_K == pytest.approx(atoms.get_kinetic_energy() * 2 / 6 / kB)


def test_a_gas_without_forces_has_the_pressure_of_an_ideal_gas():
    settings = nve(temperature_K=250.0)
    atoms = Atoms("Ar8", np.random.default_rng(0).uniform(0, 9, (8, 3)), cell=[9, 9, 9], pbc=True)
    motion = Motion.of(Springs(0.0), start(atoms, settings), settings)
    now = motion.now()
    assert now.volume_A3 == pytest.approx(729)
    assert now.pressure_GPa == pytest.approx(2 * now.kinetic_eV / 3 / 729 * 160.21766208)


def test_the_pressure_of_a_crystal_at_rest_is_that_of_its_stress():
    atoms = argon_crystal(5.1)
    atoms.set_momenta(np.zeros((32, 3)))
    motion = Motion.of(argon(), atoms, nve())
    stress = motion.atoms.get_stress()
    assert motion.now().pressure_GPa == pytest.approx(-stress[:3].mean() * 160.21766208)
    assert motion.now().pressure_GPa > 0.1


def test_what_is_not_periodic_has_no_volume_and_no_pressure():
    atoms = Atoms("HO", [[0, 0, 0], [1, 0, 0]], momenta=np.ones((2, 3)))
    now = Motion.of(Springs(1.0), atoms, nve()).now()
    assert now.volume_A3 is None
    assert now.pressure_GPa is None


def test_angular_momentum_is_about_the_centre_of_mass_in_ev_fs():
    atoms = Atoms("H2", [[10, 0, 0], [10.8, 0, 0]])
    atoms.set_velocities([[0, 0.3, 0], [0, 0.5, 0]])
    now = Motion.of(Springs(0.0), atoms, nve()).now()
    mass = 1.008
    np.testing.assert_allclose(now.angular_momentum, [0, 0, 2 * mass * 0.4 * 0.1 / fs], rtol=1e-12)
    np.testing.assert_allclose(now.momentum, [0, mass * 0.8 / fs, 0], rtol=1e-12)


def test_random_turns_are_drawn_once_for_each_step_and_heat():
    atoms = start(Atoms("H4", np.random.default_rng(1).normal(size=(4, 3))), nve(temperature_K=10.0))
    settings = nve(0.5, turns="random", seed=5)
    motion = Motion.of(Springs([1.0, 4.0, 9.0]), atoms, settings)
    for _ in range(20):
        motion.advance()
        motion.now()
    assert isinstance(motion.calculators[0].potential, Turned)
    assert motion.calculators[0].potential.n_calls == 21
    straight = Motion.of(Springs([1.0, 4.0, 9.0]), atoms, nve(0.5))
    for _ in range(20):
        straight.advance()
    assert np.abs(motion.atoms.positions - straight.atoms.positions).max() > 1e-3


def test_the_structure_that_was_given_is_left_alone():
    atoms = start(argon_crystal(), nve(temperature_K=30.0))
    before = atoms.copy()
    motion = Motion.of(argon(), atoms, nve(5.0))
    motion.advance()
    assert atoms == before
    np.testing.assert_array_equal(atoms.get_momenta(), before.get_momenta())
    assert np.abs(motion.atoms.positions - before.positions).max() > 1e-4


def test_no_step_asks_twice_about_the_same_positions():
    springs = Springs(2.0)
    motion = Motion.of(springs, Atoms("H", [[0.1, 0, 0]], momenta=[[0, 0, 0]]), nve())
    for _ in range(7):
        motion.advance()
        motion.now()
    assert springs.n_calls == 8


def test_constant_pressure_asks_once_for_each_step():
    settings = MDSettings(ensemble="npt", temperature_K=300, timestep_fs=1)
    springs = Springs(0.0)
    atoms = start(Atoms("Ar4", np.random.default_rng(0).uniform(0, 9, (4, 3)), cell=[9, 9, 9], pbc=True), settings)
    motion = Motion.of(springs, atoms, settings)
    for _ in range(7):
        motion.advance()
        motion.now()
    assert springs.n_calls == 8


def test_drawn_velocities_have_the_temperature_and_a_centre_of_mass_at_rest():
    atoms = Atoms("H500O500", np.zeros((1000, 3)))
    drawn = start(atoms, MDSettings(temperature_K=700, seed=4))
    assert not atoms.has("momenta")
    assert np.abs(drawn.get_momenta().sum(0)).max() < 1e-10
    assert drawn.get_kinetic_energy() == pytest.approx(1.5 * 999 * kB * 700, rel=0.08)
    assert drawn.get_kinetic_energy() != pytest.approx(1.5 * 999 * kB * 700, rel=1e-6)
    again = start(atoms, MDSettings(temperature_K=700, seed=4))
    np.testing.assert_array_equal(again.get_momenta(), drawn.get_momenta())
    other = start(atoms, MDSettings(temperature_K=700, seed=5))
    assert not np.array_equal(other.get_momenta(), drawn.get_momenta())


def test_a_molecule_can_be_started_without_rotation():
    drawn = start(molecule("CH3CH2OH"), MDSettings(temperature_K=300), rotating=False)
    now = Motion.of(Springs(0.0), drawn, nve()).now()
    assert np.abs(now.angular_momentum).max() < 1e-10
    assert np.abs(now.momentum).max() < 1e-10
    assert now.kinetic_eV > 0
    periodic = molecule("H2O", cell=[9, 9, 9], pbc=True)
    spinning = start(periodic, MDSettings(temperature_K=300), rotating=False)
    assert np.abs(Motion.of(Springs(0.0), spinning, nve()).now().angular_momentum).max() > 1e-3


def test_velocities_are_kept_where_they_are_given_and_a_single_atom_moves():
    atoms = Atoms("H", [[0, 0, 0]], momenta=[[0.1, 0, 0]])
    for choice in ("auto", "given"):
        np.testing.assert_array_equal(start(atoms, MDSettings(velocities=choice)).get_momenta(), [[0.1, 0, 0]])
    redrawn = start(atoms, MDSettings(velocities="draw"))
    assert redrawn.get_momenta().all()
    assert degrees_of_freedom(redrawn, MDSettings()) == 3
    resting = Atoms("H2", np.zeros((2, 3)), momenta=np.zeros((2, 3)))
    assert start(resting, MDSettings(velocities="auto")).get_momenta().any()
    assert not start(resting, MDSettings(velocities="given")).get_momenta().any()


def test_given_velocities_that_are_not_there_are_missed():
    with pytest.raises(ValueError, match="velocities are said to be given, but the structure H2O has none"):
        start(molecule("H2O"), MDSettings(velocities="given"))


def test_a_step_that_is_long_for_the_lightest_atom_is_a_concern_with_its_number():
    water = molecule("H2O")
    assert concerns(water, MDSettings(timestep_fs=0.5)) == []
    (long,) = concerns(water, MDSettings(timestep_fs=1.5))
    assert "1.5 fs is long for H, whose bonds vibrate in about 9 fs: 6 steps" in long
    assert long.endswith("Take 0.9 fs or less.")
    (unstable,) = concerns(water, MDSettings(timestep_fs=3.0))
    assert "fewer than π are unstable" in unstable
    heavy = water.copy()
    heavy.set_masses([15.999, 2.014, 2.014])
    assert concerns(heavy, MDSettings(timestep_fs=1.2)) == []
    assert concerns(bulk("Si"), MDSettings(timestep_fs=4.0)) == []


def test_pressure_without_a_periodic_cell_is_refused():
    settings = MDSettings(ensemble="npt")
    with pytest.raises(ValueError, match="periodic in 0 directions; 3 are needed"):
        Motion.of(Springs(1.0), start(molecule("H2O"), settings), settings)


def test_pressure_without_stress_is_refused():
    settings = MDSettings(ensemble="npt")
    atoms = start(Atoms("Ar2", [[0, 0, 0], [3, 0, 0]], cell=[9, 9, 9], pbc=True), settings)
    with pytest.raises(ValueError, match="constant pressure was asked for, and this Springs gives no stress"):
        Motion.of(Springs(1.0, stress=False), atoms, settings)


def test_pressure_with_several_time_steps_is_refused():
    settings = MDSettings(ensemble="npt")
    atoms = start(argon_crystal(), settings)
    with pytest.raises(ValueError, match="constant pressure was asked for with multiple time steps"):
        Motion((argon(), argon()), atoms, settings, (4,))


def test_atoms_that_are_held_are_refused():
    atoms = start(argon_crystal(), nve())
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(ValueError, match="the structure has atoms that are held "):
        Motion.of(argon(), atoms, nve())


@pytest.mark.parametrize("ensemble", ["nvt", "npt"])
def test_rescaling_atoms_at_rest_is_refused(ensemble):
    atoms = argon_crystal()
    with pytest.raises(ValueError, match="all 32 atoms are at rest, and svr rescales"):
        Motion.of(argon(), atoms, MDSettings(ensemble=ensemble, thermostat="svr"))
    Motion.of(argon(), atoms, MDSettings(ensemble=ensemble, thermostat="langevin"))
