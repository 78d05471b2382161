"""Simulations that i-PI runs: the same as ASE's where they must be, and taken up where they were left."""

import os
import signal

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.md.verlet import VelocityVerlet
from ase.units import fs

import tumble
from analytic import lopsided
from tumble.bridges.ase import Calculator
from tumble.jobs.md.desk import Desk, read_series
from tumble.jobs.md.engines.ipi import run
from tumble.jobs.md.motion import Motion, start
from tumble.jobs.md.settings import MDSettings
from tumble.potential import Potential

WATER = tumble.load("water", dtype="float64")


def settings(**changes):
    values = {"engine": "i-pi", "ensemble": "nve", "time_ps": 0.01, "log_fs": 0.5, "frame_fs": 0.5, "seed": 3}
    return MDSettings(**values | changes)


def moving(atoms):
    return start(atoms, MDSettings(seed=1))


def tilted():
    """A cell that is neither triangular nor right-handed."""
    cell = np.array([[0.3, 4.1, 0.2], [3.9, 0.5, 1.7], [0.4, -0.8, 5.0]])
    fractions = np.array([[0.1, 0.1, 0.1], [0.6, 0.1, 0.2], [0.2, 0.6, 0.6], [0.7, 0.6, 0.5]])
    return moving(Atoms("ArNe2Ar", fractions @ cell, cell=cell, pbc=True))


def simulated(folder, potential, atoms, chosen, *, resume=False, stop_at=None):
    """How it ended, its series and its frames."""
    pytest.importorskip("ipi")
    told = []

    def tell(progress):
        told.append(progress)
        if progress.done == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with Desk(folder, [atoms], chosen, {"name": "p", "made_of": "p"}, resume=resume) as desk:
        ended = run(potential, [atoms], chosen, desk, tell)
    assert not ended.reason
    series = read_series(folder / "series.csv")
    if ended.ended == "arrived" and not resume:
        assert told[-1].done == told[-1].total
    return ended, series, ase.io.read(folder / "trajectory.extxyz", ":")


def test_constant_energy_is_that_of_ase_also_behind_an_interrupt(tmp_path, capfd):
    atoms, chosen = moving(molecule("H2O")), settings(time_ps=0.03)
    first = simulated(tmp_path, WATER, atoms, chosen, stop_at=8)
    assert first[0].ended == "interrupted"
    assert "stopping: writing a restart first" in capfd.readouterr().err
    assert 8 <= first[1]["step"][-1] < 60
    ended, series, frames = simulated(tmp_path, WATER, atoms, chosen, resume=True)
    assert ended.ended == "arrived"
    assert ended.effort.steps == 60
    np.testing.assert_array_equal(series["step"], np.arange(61))
    atoms.calc = Calculator(WATER)
    dynamics = VelocityVerlet(atoms, 0.5 * fs)
    for step, frame in enumerate(frames):
        assert frame.info["step"] == step
        np.testing.assert_allclose(frame.positions, atoms.positions, atol=1e-6)
        np.testing.assert_allclose(frame.get_momenta(), atoms.get_momenta(), atol=1e-6)
        assert series["potential_eV"][step] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        assert series["kinetic_eV"][step] == pytest.approx(atoms.get_kinetic_energy(), abs=1e-6)
        dynamics.run(1)
    assert len(frames) == 61
    assert np.abs(series["heat_eV"]).max() < 1e-6
    assert np.isnan(series["Lx"]).all()  # i-PI does not say
    assert np.isnan(series["volume_A3"]).all()
    again = simulated(tmp_path, WATER, atoms, chosen, resume=True)
    assert len(again[1]["step"]) == 61  # nothing was left to do


def test_multiple_time_steps_are_those_of_our_own(tmp_path):
    averaged, atoms = tumble.symmetrize(lopsided(), "T"), tilted()
    chosen = settings(mts="4", timestep_fs=0.25)
    ended, series, frames = simulated(tmp_path, averaged, atoms, chosen)
    assert ended.effort.calls[0] == pytest.approx(4 * ended.effort.calls[1], abs=4)
    own = Motion.of(averaged, atoms, chosen, (4,))
    for step, frame in enumerate(frames):
        now = own.now()
        assert frame.info["step"] == series["step"][step] == now.step == 4 * step
        np.testing.assert_allclose(frame.positions, own.atoms.positions, atol=1e-6)
        assert series["conserved_eV"][step] == pytest.approx(now.conserved_eV, abs=1e-6)
        assert series["temperature_K"][step] == pytest.approx(now.temperature_K, abs=1e-4)
        assert series["T_Ne_K"][step] == pytest.approx(now.temperatures_K["Ne"], abs=1e-4)
        assert series["pressure_GPa"][step] == pytest.approx(now.pressure_GPa, abs=1e-5)
        own.advance()
    assert len(frames) == 11


def test_a_cell_that_moves_is_turned_back_too(tmp_path):
    potential, atoms = lopsided(), tilted()
    chosen = settings(ensemble="npt", barostat="anisotropic", barostat_fs=50.0, timestep_fs=0.25, time_ps=0.005)
    _, series, frames = simulated(tmp_path, potential, atoms, chosen)
    assert not np.allclose(frames[-1].cell.array, atoms.cell.array, atol=1e-4)
    for step in (0, -1):
        frame = frames[step].copy()
        frame.calc = Calculator(potential)
        assert series["potential_eV"][step] == pytest.approx(frame.get_potential_energy(), abs=1e-6)
        assert series["volume_A3"][step] == pytest.approx(frame.get_volume(), abs=1e-5)


def test_a_ring_polymer_has_the_energy_of_its_beads(tmp_path):
    atoms = molecule("H2O")
    chosen = settings(ensemble="nvt", thermostat="langevin", beads=4, time_ps=0.005)
    _, series, frames = simulated(tmp_path, WATER, atoms, chosen)
    assert len(frames) == 11
    atoms.calc = Calculator(WATER)
    assert series["potential_eV"][0] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)  # all beads at one place
    assert series["kinetic_eV"][0] == pytest.approx(9 / 2 * 8.617333e-5 * 300, rel=1e-4)  # of the centroid virial
    assert np.isnan(series["heat_eV"]).all()
    beads = series["potential_eV"] - series["potential_eV"][0]
    assert beads[-1] > 0.01  # the ring has opened


def test_a_runaway_is_stopped_and_its_frame_kept(tmp_path):
    pytest.importorskip("ipi")
    atoms, chosen = tilted(), settings(time_ps=100.0, max_temperature_K=1.0)
    with Desk(tmp_path, [atoms], chosen, {"made_of": "p"}) as desk:
        ended = run(lopsided(), [atoms], chosen, desk, lambda progress: None)
    assert ended.ended == "watch"
    assert "K" in ended.reason
    stopped = ase.io.read(tmp_path / "stopped.extxyz")
    np.testing.assert_allclose(stopped.positions, atoms.positions, atol=1e-6)


def test_what_ipi_does_not_do_is_refused(tmp_path):
    atoms, chosen = tilted(), settings()
    with pytest.raises(ValueError, match=r"2 structures were given, and i-PI runs one at a time"):
        run(lopsided(), [atoms, atoms], chosen, Desk(tmp_path, [atoms, atoms], chosen, {}), print)

    class Silent(Potential):
        cutoff, species, is_conservative = 0.0, None, True

        def forward(self, batch):
            return lopsided()(batch)._replace(stress=None)

    chosen, folder = settings(ensemble="npt"), tmp_path / "silent"
    silent = Silent()
    silent.cutoff = lopsided().cutoff
    with (
        Desk(folder, [atoms], chosen, {}) as desk,
        pytest.raises(ValueError, match=r"constant pressure was asked for, and this Silent gives no stress"),
    ):
        run(silent, [atoms], chosen, desk, print)
