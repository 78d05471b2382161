"""Where a drift comes from: closed forms whose drift is all the model's, all the integrator's, or of rounding."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.units import fs

import tumble
from analytic import lopsided
from tumble.batch import Batch, Properties
from tumble.jobs.md.attribution import attribute
from tumble.jobs.md.motion import start
from tumble.jobs.md.settings import MDSettings
from tumble.models.pair import LennardJones
from tumble.potential import Gradient, Potential
from tumble.units import MEV

K, KAPPA = 5.0, 0.002
ARGON = Gradient(LennardJones(0.0104, 3.4, cutoff=6.0))


class Curl(Potential):
    """One atom on a spring, E = k x²/2, whose forces -k x + κ ẑ × x have a curl."""

    cutoff, species, is_conservative = 0.0, None, False

    def forward(self, batch: Batch) -> Properties:
        x = batch.positions
        turned = torch.stack([-x[:, 1], x[:, 0], torch.zeros_like(x[:, 0])], 1)
        return Properties(0.5 * K * x.square().sum(1), -K * x + KAPPA * turned)


def circling():
    """An atom on a circle of 0.1 Å about the origin."""
    atoms = Atoms("H", [[0.1, 0.0, 0.0]])
    atoms.set_velocities([[0.0, 0.1 * math.sqrt(K / atoms.get_masses()[0]), 0.0]])
    return atoms


def argon(temperature_K=60.0):
    crystal = bulk("Ar", a=5.4, cubic=True)
    crystal.rattle(0.1, seed=0)
    return start(crystal, settings(temperature_K=temperature_K))


def settings(**chosen):
    return MDSettings(**{"ensemble": "nve", "timestep_fs": 5.0, "time_ps": 20.0} | chosen)


def test_the_drift_of_lennard_jones_is_all_the_integrator_s():
    found = attribute(ARGON, argon(), settings())
    assert found.dtype is None
    assert found.time_ps == pytest.approx(267 * 5 / 1000)
    assert found.integrator.scatter == pytest.approx(found.total.scatter, rel=0.05)
    assert found.model.scatter < 0.05 * found.integrator.scatter
    assert abs(found.total.rate) < 3 * found.total.error
    assert abs(found.model.rate) < 3 * found.model.error + 1e-3
    assert found.total.rate == pytest.approx(found.model.rate + found.integrator.rate)


def test_the_part_of_the_integrator_goes_with_the_square_of_the_step():
    long, short = (attribute(ARGON, argon(), settings(timestep_fs=h, time_ps=2.5 * h)) for h in (8.0, 4.0))
    assert 3 < long.integrator.scatter / short.integrator.scatter < 5


def test_the_drift_of_a_curl_is_the_model_s_and_has_its_closed_form():
    """On a circle forces along it do the work κ r v in a unit of time."""
    found = attribute(Curl(), circling(), settings(timestep_fs=0.5, time_ps=50.0))
    omega = math.sqrt(K / Atoms("H").get_masses()[0]) * fs  # 1/fs
    expected = MEV * KAPPA * 0.1**2 * omega * 1e6  # meV/ns
    # The circle grows as exp(κ t/2mω): by the middle of the time it takes in a little more.
    mass = Atoms("H").get_masses()[0] / fs**2
    growth = math.exp(KAPPA * 1000 * found.time_ps / 2 / (mass * omega))
    assert found.model.rate == pytest.approx(expected * growth, rel=0.02)
    assert found.total.rate == pytest.approx(found.model.rate, rel=0.01)
    assert abs(found.integrator.rate) < 0.01 * found.model.rate


def test_rounding_is_seen_in_single_precision():
    single = Gradient(LennardJones(0.0104, 3.4, cutoff=6.0)).float()
    atoms = argon()
    found = attribute(single, atoms, settings(timestep_fs=2.0, time_ps=2.0, control="yes"))
    assert found.dtype is not None
    assert 1e-9 < found.dtype.scatter < 0.1 * found.total.scatter
    double = attribute(single.double(), atoms, settings(timestep_fs=2.0, time_ps=2.0, control="yes"))
    assert double.dtype is None
    assert double.model.rate == pytest.approx(found.model.rate, abs=1e-6)
    assert [row[0] for row in found.table().rows] == ["total", "model", "integrator", "rounding"]
    assert [row[0] for row in double.table().rows] == ["total", "model", "integrator"]


def test_random_turns_are_the_model_s():
    atoms, chosen = argon(), {"timestep_fs": 2.0, "time_ps": 2.0, "control": "yes"}
    turned = attribute(lopsided(4.5), atoms, settings(turns="random", **chosen))
    straight = attribute(lopsided(4.5), atoms, settings(**chosen))
    assert turned.integrator == straight.integrator
    assert turned.model.scatter > 10 * straight.model.scatter
    assert turned.total.rate == pytest.approx(turned.model.rate + turned.integrator.rate)


def test_several_time_steps_are_halved_together():
    told = []
    potential = tumble.symmetrize(lopsided(4.5), "i")
    chosen = settings(timestep_fs=2.0, time_ps=2.0, control="yes")
    found = attribute(potential, argon(), chosen, (4,), lambda progress: told.append(progress.message))
    assert found.time_ps == pytest.approx(0.2)
    assert told == ["control: as it is", "control: half the time step"]
    assert np.isfinite(found.total.error)


def test_controls_are_left_out_where_they_are_not_wanted_or_would_take_too_long():
    atoms = argon()
    assert attribute(ARGON, atoms, settings(control="no")) is None
    assert attribute(ARGON, atoms, settings(time_ps=5.0)) is None  # of 1000 steps 67 would be too much
    short = attribute(ARGON, atoms, settings(time_ps=5.0, control="yes"))
    assert short.time_ps == pytest.approx(0.5)
