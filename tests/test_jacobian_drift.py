"""Drift: what random kicks and a curl do to a system that is integrated."""

import math

import numpy as np
import pytest
from ase import Atoms
from ase.units import fs, kB
from scipy.linalg import expm

from tumble.jacobian import (
    NonConservation,
    drift_of,
    frequency_THz,
    golden_rule,
    growth_per_ns,
    of_jacobian,
    turn_heating,
)
from tumble.jacobian.drift import NANOSECOND

CURL = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


def kicked(masses, sigma, timestep_fs, *, k, n_steps=200):
    """Energy per degree of freedom, eV, that velocity Verlet gains from springs and random forces, by atom."""
    random, dt, n = np.random.default_rng(0), timestep_fs * fs, 2000
    x = v = np.zeros((n, len(masses), 3))
    push = random.normal(scale=sigma, size=x.shape)
    for _ in range(n_steps):
        v = v + dt / 2 * (push - k * x) / masses[:, None]
        x = x + dt * v
        push = random.normal(scale=sigma, size=x.shape)
        v = v + dt / 2 * (push - k * x) / masses[:, None]
    return (masses[:, None] * v**2 / 2 + k * x**2 / 2).mean((0, 2))


@pytest.mark.parametrize("k", [0.0, 5.0], ids=["free particles", "oscillators"])
def test_random_kicks_heat_as_they_do_in_an_integration(k):
    atoms, sigma = Atoms("OH", positions=np.zeros((2, 3))), np.array([0.03, 0.02])
    gained = kicked(atoms.get_masses(), sigma[:, None], 0.5, k=k)
    found = turn_heating(math.sqrt(3) * sigma, atoms, timestep_fs=0.5, harmonic=k > 0)
    temperatures = gained / (kB if k else kB / 2) / (200 * 0.5e-6)
    assert found.by_species["O"] == pytest.approx(temperatures[0], rel=0.05)
    assert found.by_species["H"] == pytest.approx(temperatures[1], rel=0.05)
    assert found.mean_K_per_ns == pytest.approx((found.by_species["O"] + found.by_species["H"]) / 2)


def test_heating_by_turns_has_its_closed_form():
    found = turn_heating(np.full(1, math.sqrt(3) * 0.01), Atoms("H"), timestep_fs=1.0)
    # 1 fs (0.01 eV/Å)² / 2 m k_B in SI units.
    expected = 1e-15 * (0.01 * 1.602176634e-9) ** 2 / (2 * 1.008 * 1.66053907e-27 * 1.380649e-23) * 1e-9
    assert found.mean_K_per_ns == pytest.approx(expected, rel=1e-6)
    assert turn_heating(np.full(1, 0.1), Atoms("H"), harmonic=False).mean_K_per_ns == pytest.approx(
        2 * turn_heating(np.full(1, 0.1), Atoms("H")).mean_K_per_ns
    )


def test_the_estimate_from_lambda_is_that_of_the_published_drift_of_water():
    found = drift_of(NonConservation(0.004, 0.0, 0.0004, 54.0, None, ""), 300)
    assert found.rate_K_per_ns == pytest.approx(4 * 0.004**2 * 2 * math.pi * 54e12 * 300 * 1e-9)
    assert found.rate_K_per_ns == pytest.approx(7e3, rel=0.2)
    assert found.noise_K_per_ns == pytest.approx(found.rate_K_per_ns / 100)
    assert drift_of(NonConservation(0.0, 0.0, 0.0, None, None, "a gradient"), 300) == (0.0, 0.0, "a gradient")


def test_an_oscillator_with_a_curl_grows_exponentially():
    k, kappa, atoms = 4.0, 0.05, Atoms("H")
    jacobian = -k * np.eye(3) + kappa * CURL
    mass = float(atoms.get_masses()[0])
    rate = growth_per_ns(jacobian, atoms)
    assert rate == pytest.approx(kappa / (2 * math.sqrt(k * mass)) * NANOSECOND, rel=1e-3)
    # The amplitude after some time, from the equations of motion themselves.
    motion = np.block([[np.zeros((3, 3)), np.eye(3)], [jacobian / mass, np.zeros((3, 3))]])
    t = 2000.0
    assert math.log(np.linalg.norm(expm(motion * t), 2)) / t * NANOSECOND == pytest.approx(rate, rel=0.05)


def test_frequencies_apart_do_not_grow_and_negative_curvature_is_not_counted():
    atoms = Atoms("H")
    assert growth_per_ns(np.diag([-4.0, -5.0, -6.0]) + 0.05 * CURL, atoms) == 0
    assert growth_per_ns(np.diag([4.0, -5.0, -6.0]), atoms) == 0
    assert growth_per_ns(np.zeros((3, 3)), atoms) == 0


def test_a_dense_band_of_coupled_oscillators_heats_by_the_golden_rule():
    n, t, size, random = 240, 30.0, 3e-3, np.random.default_rng(0)
    atoms = Atoms(f"H{n // 3}")
    atoms.set_masses(np.ones(n // 3))
    frequencies = np.linspace(1, 2, n)
    noise = random.normal(scale=size, size=(n, n))
    curl = (noise - noise.T) / math.sqrt(2)
    jacobian = curl - np.diag(frequencies**2)
    # Energy of a thermal ensemble after a time long enough to tell frequencies apart, and too short to tell all.
    motion = np.block([[np.zeros((n, n)), np.eye(n)], [jacobian, np.zeros((n, n))]])
    stiffness, spread = (np.concatenate([frequencies**power, np.ones(n)]) for power in (2, -1))

    def energy(time):
        moved = expm(motion * time) * spread
        return 0.5 * float(np.sum(stiffness[:, None] * moved**2)) / n

    measured = (energy(2 * t) - energy(t)) / t
    closed = math.pi * size**2 * n * (1 - 1 / 2)
    width = 0.03 / (2 * math.pi) * fs * 1000
    found = golden_rule(jacobian, atoms, 300.0, width_THz=width) / 300 / NANOSECOND
    assert found == pytest.approx(closed, rel=0.2)  # the tails of the Lorentzian leave the band
    assert measured == pytest.approx(closed, rel=0.15)
    # The estimate from λ knows neither the width of the band nor its shape, and is of the order.
    mean_square = float(np.mean(frequencies**2))
    ratio = of_jacobian(jacobian)
    rough = drift_of(NonConservation(ratio, 0.0, 0.0, frequency_THz(mean_square), None, ""), 300.0)
    assert 0.1 < rough.rate_K_per_ns / 300 / NANOSECOND / measured < 10


def test_modes_of_one_frequency_heat_the_more_the_narrower_they_are():
    jacobian, atoms = -4 * np.eye(3) + 0.05 * CURL, Atoms("H")
    narrow, wide = (golden_rule(jacobian, atoms, 300, width_THz=width) for width in (0.5, 1.0))
    assert narrow == pytest.approx(2 * wide)
    omega = 2 * math.pi * frequency_THz(4 / float(atoms.get_masses()[0])) * 1000
    closed = 300 * of_jacobian(jacobian) ** 2 * omega**2 / (2 * math.pi * 1000)
    assert wide == pytest.approx(closed, rel=1e-3)
    assert golden_rule(np.diag([1.0, -1e-9, 0.0]), atoms, 300) == 0
