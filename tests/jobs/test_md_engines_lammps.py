"""Simulations that LAMMPS runs: the same as ours where they must be, and taken up where they were left."""

import os
import signal

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

import tumble
from analytic import lopsided
from tumble.bridges.lammps import library
from tumble.jobs.md.desk import Desk, read_series
from tumble.jobs.md.engines.lammps import run
from tumble.jobs.md.motion import Motion, start
from tumble.jobs.md.settings import MDSettings


@pytest.fixture(scope="module")
def engine():
    try:
        library().close()
    except ImportError as error:
        pytest.skip(str(error))


def settings(**changes):
    values = {"engine": "lammps", "ensemble": "nve", "time_ps": 0.01, "log_fs": 0.5, "frame_fs": 1.0, "seed": 3}
    return MDSettings(**values | {"timestep_fs": 0.25} | changes)


def tilted():
    """A cell that is neither triangular nor right-handed."""
    cell = np.array([[0.3, 4.1, 0.2], [3.9, 0.5, 1.7], [0.4, -0.8, 5.0]])
    fractions = np.array([[0.1, 0.1, 0.1], [0.6, 0.1, 0.2], [0.2, 0.6, 0.6], [0.7, 0.6, 0.5]])
    return start(Atoms("ArNe2Ar", fractions @ cell, cell=cell, pbc=True), MDSettings(seed=1))


def simulated(folder, potential, atoms, chosen, *, resume=False, stop_at=None):
    """How it ended, its series and its frames."""
    told = []

    def tell(progress):
        told.append(progress)
        if progress.done == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with Desk(folder, [atoms], chosen, {"name": "p", "made_of": "p"}, resume=resume) as desk:
        ended = run(potential, [atoms], chosen, desk, tell)
    if ended.ended == "arrived":
        assert told[-1].done == told[-1].total
    return ended, read_series(folder / "series.csv"), ase.io.read(folder / "trajectory.extxyz", ":")


@pytest.mark.parametrize(("mts", "steps"), [("none", ()), ("4", (4,))])
def test_constant_energy_is_that_of_our_own(engine, tmp_path, mts, steps):
    averaged, atoms = tumble.symmetrize(lopsided(), "T"), tilted()
    chosen = settings(mts=mts, log_fs=1.0)
    ended, series, frames = simulated(tmp_path, averaged, atoms, chosen)
    own, stride = Motion.of(averaged, atoms, chosen, steps), 1 if steps else 4
    for line, frame in enumerate(frames):
        now = own.now()
        assert series["step"][line] == frame.info["step"] == now.step == 4 * line
        np.testing.assert_allclose(frame.positions, own.atoms.positions, atol=1e-7)
        np.testing.assert_allclose(frame.get_momenta(), own.atoms.get_momenta(), atol=1e-7)
        for name in ("potential_eV", "kinetic_eV", "conserved_eV", "temperature_K", "volume_A3", "pressure_GPa"):
            assert series[name][line] == pytest.approx(getattr(now, name), abs=1e-5)
        np.testing.assert_allclose([series[one][line] for one in ("Lx", "Ly", "Lz")], now.angular_momentum, atol=1e-4)
        for _ in range(stride):
            own.advance()
    assert len(frames) == 11
    assert ended.effort.calls == ([41, 11] if steps else [41])
    assert not series["heat_eV"].any()


def test_a_molecule_flies_out_of_its_box_and_is_not_folded_back(engine, tmp_path):
    atoms = molecule("H2O")
    momenta = np.zeros((3, 3))
    momenta[:, 2] = 300 * atoms.get_masses()
    atoms.set_momenta(momenta)
    chosen = settings(time_ps=0.004, max_temperature_K=1e15)
    _, _, frames = simulated(tmp_path, lopsided(), atoms, chosen)
    gone = frames[-1].get_center_of_mass() - atoms.get_center_of_mass()
    assert gone[2] == pytest.approx(300 * 4 * 0.09822694788, rel=1e-5)  # 1 fs in units of ASE
    assert gone[2] > 110  # more than the box


def test_a_run_is_taken_up_where_it_was_left(engine, tmp_path, capfd):
    chosen = settings(ensemble="nvt", thermostat="langevin", thermostat_fs=20.0, time_ps=0.05, log_fs=1.0)
    first = simulated(tmp_path, lopsided(), tilted(), chosen, stop_at=40)
    assert first[0].ended == "interrupted"
    assert first[1]["step"][-1] == 40
    ended, series, frames = simulated(tmp_path, lopsided(), tilted(), chosen, resume=True)
    assert ended.ended == "arrived"
    assert ended.effort.steps == 200
    np.testing.assert_array_equal(series["step"], np.arange(0, 201, 4))
    assert [one.info["step"] for one in frames] == list(range(0, 201, 4))
    assert np.ptp(series["heat_eV"]) > 20 * np.ptp(series["conserved_eV"])
    assert "stopping: writing a restart first" in capfd.readouterr().err


def test_constant_pressure_moves_the_cell(engine, tmp_path):
    chosen = settings(ensemble="npt", thermostat_fs=20.0, barostat_fs=50.0, timestep_fs=0.1, pressure_GPa=20.0)
    _, series, frames = simulated(tmp_path, lopsided(), tilted(), chosen)
    assert np.ptp(series["volume_A3"]) > 1e-3
    assert frames[-1].get_volume() == pytest.approx(series["volume_A3"][-1])
    np.testing.assert_allclose(  # it keeps its shape
        frames[-1].cell.cellpar()[3:], tilted().cell.cellpar()[3:], atol=1e-6
    )


def test_a_runaway_is_stopped_and_its_frame_kept(engine, tmp_path):
    ended, series, _ = simulated(tmp_path, lopsided(), tilted(), settings(max_temperature_K=1.0))
    assert ended.ended == "watch"
    assert len(series["step"]) == 1
    assert ended.reason
    assert (tmp_path / "stopped.extxyz").is_file()


def test_several_structures_are_refused(tmp_path):
    atoms, chosen = tilted(), settings()
    with (
        Desk(tmp_path, [atoms, atoms], chosen, {}) as desk,
        pytest.raises(ValueError, match=r"2 structures were given, and LAMMPS runs one at a time here"),
    ):
        run(lopsided(), [atoms, atoms], chosen, desk, print)
