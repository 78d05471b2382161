"""md(): what a simulation conserves, what stops it, and what it says about itself."""

import io
import os
import signal

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.units import fs, kB

import tumble
from analytic import lopsided
from tumble.bridges.ase import Foreign
from tumble.jobs.md import MDResult, MDSettings, md
from tumble.jobs.md.finding import drift_of, momenta_of
from tumble.jobs.md.run import Plan
from tumble.models.pair import LennardJones, Morse
from tumble.potential import Gradient
from tumble.results import Curve, Progress, Table, load_result


def argon() -> Gradient:
    return Gradient(LennardJones(0.0104, 3.4, cutoff=6.5))


def crystal(repeat: int = 2) -> Atoms:
    return bulk("Ar", a=5.3, cubic=True) * repeat


def hydrogen() -> tuple[Gradient, Atoms]:
    return Gradient(Morse(4.0, 0.8, 1.6, cutoff=4.0)), Atoms("HF", [[0, 0, 0], [0.8, 0, 0]])


def short(**changes) -> MDSettings:
    return MDSettings(
        **{"time_ps": 0.5, "timestep_fs": 2.0, "temperature_K": 40.0, "log_fs": 4, "frame_fs": 50} | changes
    )


def verdict(result: MDResult, key: str):
    return next(one for one in result.verdicts() if one.key == key)


def table(result: MDResult, title: str) -> Table:
    return next(one for one in result.facts() if isinstance(one, Table) and one.title == title)


def test_an_oscillator_swings_with_the_frequency_of_its_spring():
    potential, atoms = hydrogen()
    atoms.set_velocities([[0, 0, 0], [0.002 / fs, 0, 0]])
    settings = MDSettings(ensemble="nve", time_ps=0.08, timestep_fs=0.2, log_fs=0.2, trajectory="none", control="no")
    result = md(potential, atoms, settings)
    m = atoms.get_masses()
    omega = np.sqrt(2 * 4.0 * 2.0**2 / (m[0] * m[1] / m.sum())) * fs  # of the bottom of a Morse well, 1/fs
    turns = np.diff(np.sign(np.diff(result.arrays["potential_eV"]))) > 0  # minima: two to a period
    times = 1000 * result.arrays["time_ps"][1:-1][turns]
    assert np.diff(times).mean() == pytest.approx(np.pi / omega, rel=0.01)
    assert np.ptp(result.arrays["conserved_eV"]) < 1e-2 * np.ptp(result.arrays["kinetic_eV"])
    assert verdict(result, "conserved").answer in ("yes", "unknown")


def test_a_crystal_conserves_its_energy_and_stands_still():
    result = md(argon(), crystal(), short(ensemble="nve", time_ps=1.0, control="no"))
    drift = result.finding.drift
    assert drift is not None
    assert abs(drift.rate) < 4 * drift.error + 0.1
    assert verdict(result, "watch").answer == "yes"
    assert verdict(result, "momentum").answer == "yes"
    assert verdict(result, "momentum").value < 1e-6
    assert result.is_converged
    assert result.atoms[0].has("momenta")
    assert len(result.arrays["time_ps"]) == 251
    assert result.arrays["time_ps"][-1] == pytest.approx(1.0)
    titles = [fact.title for fact in result.facts()]
    assert {"What was conserved", "Temperatures", "The simulation", "Conserved quantity", "Energies"} <= {*titles}
    rows = dict(table(result, "The simulation").rows)
    assert rows["calls, potential"] == 500
    assert rows["speed (ns/day)"] > 0
    assert rows["ended"] == "arrived"
    assert any("Atomic" in line or "atomic" in line for line in result.citations)


def test_a_thermostat_brings_two_elements_to_its_temperature():
    atoms = crystal()
    atoms.symbols[::2] = "Ne"
    settings = short(time_ps=2.4, timestep_fs=4, thermostat="langevin", temperature_K=60, log_fs=20)
    result = md(argon(), atoms, settings)
    for found in result.finding.temperatures.values():
        assert abs(found.value - 60) < 4 * found.error
    assert {"all", "Ne", "Ar"} == {*result.finding.temperatures}
    assert verdict(result, "temperature").answer in ("yes", "unknown")
    assert not [one for one in result.verdicts() if one.key == "momentum"]  # noise on every atom may change it


def test_forces_that_are_no_gradient_are_feared_measured_and_remedied():
    class Curl(Calculator):
        """Springs to lattice sites, and on one element a force around z."""

        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            apart = self.atoms.positions - sites
            turned = 0.3 * apart @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 0]])
            turned[self.atoms.numbers == 17] = 0
            self.results = {"energy": float(np.square(apart).sum()), "forces": -2 * apart + turned}

    atoms = bulk("NaCl", "rocksalt", a=5.3) * (3, 3, 3)
    sites = atoms.positions.copy()
    said: list[Progress] = []
    potential = Foreign(Curl(), conservative=False)
    settings = short(time_ps=2.0, temperature_K=100, thermostat_fs=300, log_fs=10, max_temperature_K=1e5)
    result = md(potential, atoms, settings, tell=said.append)
    assert "not the derivative of an energy" in said[0].message
    hot = verdict(result, "temperature")
    assert hot.answer == "remedy"
    assert "acts on all alike" in hot.reason
    assert "langevin" in hot.remedy
    assert result.finding.temperatures["Na"].value > result.finding.temperatures["Cl"].value + 10
    assert verdict(result, "conserved").answer == "remedy"
    assert "derivative of the energy" in verdict(result, "conserved").remedy
    assert any("conserved" in one.message for one in said)
    assert "nothing is conserved" in md(potential, atoms, short(ensemble="nve", time_ps=0.02)).finding.concerns[0]


def test_a_turned_molecule_gains_angular_momentum_and_is_told_to_average():
    atoms = Atoms("ArNe", [[0, 0, 0], [1.5, 0.2, 0.1]])
    settings = MDSettings(ensemble="nve", time_ps=0.05, timestep_fs=0.5, log_fs=1, velocities="draw", min_distance=0)
    raw = md(lopsided(), atoms, settings)
    found = verdict(raw, "momentum")
    assert found.answer == "remedy"
    assert "angular momentum" in found.reason
    assert "average" in found.remedy
    assert any(isinstance(fact, Curve) and fact.title == "Angular momentum" for fact in raw.facts())
    averaged = md(lopsided(), atoms, settings.model_copy(update={"average": "Oh"}))
    assert verdict(averaged, "momentum").value < verdict(raw, "momentum").value / 4


def test_momenta_are_in_units_of_thermal_ones():
    atoms = Atoms("H2", [[0, 0, 0], [1.0, 0, 0]])
    mass, settings = float(atoms.get_masses()[0]), MDSettings(ensemble="nve", temperature_K=300)
    p = np.sqrt(3 * 2 * mass * kB * 300) / fs
    L = np.sqrt(mass * kB * 300) / fs  # trace of the inertia: 2 · 2 · m (1/2)² = m
    series = {name: np.linspace(0, 1, 9) * scale for name, scale in (("px", p), ("Lz", L))}
    series |= {name: np.zeros(9) for name in ("py", "pz", "Lx", "Ly")}
    found = momenta_of(series, atoms, settings)
    assert found.momentum[-1] == pytest.approx(1)
    assert found.angular_momentum[-1] == pytest.approx(1)
    assert momenta_of(series, atoms, MDSettings(thermostat="langevin")) is None


def test_a_thermostat_may_rescale_angular_momentum_but_not_turn_it():
    atoms, swelling = Atoms("H2", [[0, 0, 0], [1.0, 0, 0]]), np.linspace(1, 2, 9)
    series = {name: np.zeros(9) for name in ("px", "py", "pz", "Ly", "Lz")} | {"Lx": swelling}
    svr, nve = MDSettings(), MDSettings(ensemble="nve")
    assert momenta_of(series, atoms, svr).angular_momentum == pytest.approx(0)
    alone = momenta_of(series, atoms, nve).angular_momentum
    assert alone[-1] > 0
    aside = momenta_of(series | {"Ly": swelling - 1}, atoms, svr).angular_momentum
    assert aside == pytest.approx(alone)


def test_a_drift_is_known_as_well_as_blocks_and_swings_allow():
    times = np.linspace(0, 20, 2001)
    noise = np.random.default_rng(0).normal(size=2001)
    found = drift_of({"time_ps": times, "conserved_eV": 1e-3 * (0.5 * times + noise)}, 2)
    assert found.rate == pytest.approx(250, abs=3 * found.error)  # 0.5 meV/ps of two atoms
    assert found.error == pytest.approx(500 / np.sqrt(2001) / times.std(), rel=0.9)
    for swings in (0.7, 1.2, 2.3):  # nothing drifts: too few swings to tell
        series = {"time_ps": times, "conserved_eV": np.sin(2 * np.pi * swings * times / 20)}
        found = drift_of(series, 1)
        assert abs(found.rate) < 3 * found.error
    assert drift_of({"time_ps": times[:5], "conserved_eV": times[:5]}, 1) is None


def test_times_are_rounded_to_whole_outer_steps_and_it_is_said():
    settings = MDSettings(time_ps=0.0101, timestep_fs=0.5, log_fs=5, frame_fs=7)
    assert Plan.of(settings, ()) == (1, 21, 10, 14)
    assert Plan.of(settings, ()).in_words(settings) == []
    plan = Plan.of(settings, (4, 2))
    assert plan == (8, 3, 1, 2)
    assert plan.in_words(settings) == [
        "log_fs is 4, a whole number of steps of 4 fs, and not 5",
        "frame_fs is 8, a whole number of steps of 4 fs, and not 7",
    ]


def test_multiple_time_steps_are_counted_level_by_level(tmp_path):
    settings = short(time_ps=0.08, mts="4", average="O", ensemble="nve", log_fs=6)
    atoms = crystal(1)
    result = md(lopsided(cutoff=4.0), atoms, settings.model_copy(update={"min_distance": 0.0}))
    rows = dict(table(result, "The simulation").rows)
    assert (rows["calls, level 0"], rows["calls, level 1"]) == (40, 10)
    assert rows["time steps"] == "2 fs | 8 fs, fast to slow"
    assert "log_fs is 8" in table(result, "Before the first step").rows[0][0]
    assert result.arrays["step"].tolist() == list(range(0, 41, 4))


def test_random_turns_are_said_to_heat_and_by_how_much():
    result = md(lopsided(cutoff=4.0), crystal(1), short(time_ps=0.2, turns="random", min_distance=0.0))
    heating = result.finding.heating
    assert heating is not None
    rows = dict(table(result, "Heating that random turns are expected to add").rows)
    assert rows["all"] == pytest.approx(heating.mean_K_per_ns)
    assert rows["Ar"] > 0


def test_a_runaway_is_stopped_with_the_frame_and_the_reason(tmp_path):
    atoms = crystal()
    atoms.set_velocities(np.random.default_rng(0).normal(scale=0.02 / fs, size=(32, 3)))
    result = md(argon(), atoms, short(max_temperature_K=50), folder=tmp_path / "run")
    assert not result.is_converged
    assert verdict(result, "watch").answer == "no"
    assert "runaway: " in verdict(result, "watch").reason
    stopped = ase.io.read(tmp_path / "run" / "stopped.extxyz")
    assert "above the limit of 50 K" in stopped.info["reason"]
    assert len(stopped) == 32
    on = md(
        argon(),
        atoms,
        short(max_temperature_K=1e6, min_distance=0.0, time_ps=0.01),
        folder=tmp_path / "run",
        resume=True,
    )
    assert on.is_converged
    assert not (tmp_path / "run" / "stopped.extxyz").exists()


def test_atoms_that_come_too_close_have_collided():
    atoms = Atoms("Ar2", [[0, 0, 0], [4.0, 0, 0]])
    atoms.set_velocities([[0.05 / fs, 0, 0], [-0.05 / fs, 0, 0]])
    nothing = Gradient(LennardJones(1e-9, 1.0, cutoff=5.0))
    settings = MDSettings(ensemble="nve", time_ps=1, timestep_fs=1.0, log_fs=1.0, max_temperature_K=1e9)
    result = md(nothing, atoms, settings)
    assert "collision" in verdict(result, "watch").reason
    assert "atoms 0 (Ar) and 1 (Ar)" in verdict(result, "watch").reason
    assert result.finding.run.closest < 0.5
    assert 0.99 < result.atoms[0].get_distance(0, 1) < 1.06


def test_an_answer_that_is_no_number_ends_the_run_at_the_last_good_frame(tmp_path):
    class Broken(Calculator):
        """Forces that are no numbers once an atom has moved 0.01 Å."""

        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            bad = np.nan if self.atoms.positions[0, 0] > 0.01 else 0.0
            self.results = {"energy": 0.0, "forces": np.full((1, 3), bad)}

    atoms = Atoms("Ar", [[0, 0, 0]])
    atoms.set_velocities([[0.001 / fs, 0, 0]])
    settings = MDSettings(ensemble="nve", time_ps=1, timestep_fs=1.0, log_fs=100, control="no")
    result = md(Foreign(Broken()), atoms, settings, folder=tmp_path)
    assert not result.is_converged
    assert "runaway" in verdict(result, "watch").reason
    assert (tmp_path / "stopped.extxyz").is_file()


def test_extrapolation_stops_a_run_whose_potential_knows_it(tmp_path):
    class Doubting(tumble.Potential):
        """Argon that doubts more with every question about its doubt."""

        cutoff, species, is_conservative, has_uncertainty = 6.5, None, True, True

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.asked = argon(), 0

        def forward(self, batch):
            return self.inner(batch)

        def uncertainties(self, batch, *, forces=False):
            self.asked += 1
            return tumble.Properties(torch.full((1,), 0.032 * self.asked, dtype=torch.float64))

    result = md(Doubting(), crystal(), short(max_uncertainty=0.0025))
    assert "extrapolation: the energy is uncertain by 3 meV per atom" in verdict(result, "watch").reason
    assert result.arrays["uncertainty_eV_per_atom"] == pytest.approx([0.001, 0.002, 0.003])
    with pytest.raises(ValueError, match=r"max_uncertainty is 0.0025 eV, but a Gradient does not know how uncertain"):
        md(argon(), crystal(), short(max_uncertainty=0.0025))


def test_a_signal_ends_it_in_good_order_and_the_handlers_are_as_before(tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def tell(progress):
        if progress.done == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    result = md(argon(), crystal(), short(), folder=tmp_path, tell=tell)
    assert result.is_interrupted
    assert result.is_converged
    assert result.finding.time_ps == pytest.approx(0.04)
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "restart.npz").is_file()
    whole = md(argon(), crystal(), short(), folder=tmp_path, resume=True)
    assert whole.finding.time_ps == pytest.approx(0.5)
    assert dict(table(whole, "The simulation").rows)["calls, potential"] == 250


def test_a_second_signal_interrupts_at_once():
    def tell(progress):
        if progress.done == 20:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        md(argon(), crystal(), short(), tell=tell)


def test_a_result_in_memory_brings_its_trajectory_and_reads_back(tmp_path):
    result = md(argon(), crystal(1), short(), name="argon")
    result.save(tmp_path / "kept")
    frames = ase.io.read(tmp_path / "kept" / "trajectory.extxyz", ":")
    assert len(frames) == 11
    assert frames[3].info["time_ps"] == pytest.approx(0.15)
    assert frames[3].info["step"] == 75
    series = np.genfromtxt(tmp_path / "kept" / "series.csv", delimiter=",", names=True)
    assert frames[2].info["conserved_eV"] == pytest.approx(series["conserved_eV"][25], abs=1e-9)
    assert frames[2].get_kinetic_energy() == pytest.approx(series["kinetic_eV"][25], rel=1e-5)
    again = load_result(tmp_path / "kept")
    assert again.title == "0.5 ps of Ar4 with argon, NVT"
    assert again.arrays["temperature_K"] == pytest.approx(result.arrays["temperature_K"])
    text = io.StringIO()
    ase.io.write(text, again.atoms, format="extxyz")
    assert "momenta" in text.getvalue()


def test_a_long_step_is_feared_with_a_number():
    result = md(*hydrogen(), MDSettings(time_ps=0.01, timestep_fs=2.0, control="no"))
    assert "a time step of 2 fs is long for H" in table(result, "Before the first step").rows[0][0]


def test_bad_input_is_refused_before_anything_is_written(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=r"there is no structure to move; one was expected"):
        md(argon(), [], folder=folder)
    with pytest.raises(ValueError, match=r"2 structures were given, and the engine ase moves one.*torchsim"):
        md(argon(), [crystal(), crystal()], folder=folder)
    with pytest.raises(ValueError, match=r"element 18 \(Ar\) in structure 0 is unknown to this model \(H, O\)"):
        md(tumble.load("water"), crystal(), folder=folder)
    with pytest.raises(ValueError, match=r"a run is to go on, and no folder is named"):
        md(argon(), crystal(), resume=True)
    with pytest.raises(ValueError, match=r"there is no run to go on with in .*: it has no restart.npz"):
        md(argon(), crystal(), folder=folder, resume=True)
    with pytest.raises(ValueError, match=r"velocities are said to be given, but the structure Ar32 has none"):
        md(argon(), crystal(), short(velocities="given"), folder=folder)
    with pytest.raises(ValueError, match=r"constant pressure was asked for.*periodic in 0 directions"):
        md(argon(), molecule("H2O"), short(ensemble="npt"))
    assert not folder.exists()


def test_constant_pressure_needs_a_stress():
    class Springs(Calculator):
        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3))}

    with pytest.raises(ValueError, match=r"stress"):
        md(Foreign(Springs()), crystal(), short(ensemble="npt"))
