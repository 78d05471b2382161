"""Drift: how fast a simulation heats up because its forces are no gradient, or change from step to step."""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.units import fs

from tumble.jacobian.conservation import NonConservation
from tumble.jacobian.displaced import Array
from tumble.units import BOLTZMANN

NANOSECOND = 1e6 * fs
"""In Å √(amu/eV), the unit of time that goes with eV, Å and amu."""

COHERENCE = 4.0
"""τ ω, from simulations: 4.3 of the published direct PET of liquid water (λ = 0.004, 7e12 K/s, with ω = 2π · 54 THz),
4.0 of the direct heads of the packaged one (λ = 0.030), 2.4 and 6.7 of Lennard-Jones crystals with a curl (λ = 0.08 at
60 K, 0.03 at 130 K). It is above 1 because slow modes, slower than the root mean square, heat most."""


class Heating(NamedTuple):
    """Heating by forces that change at random from step to step.

    mean_K_per_ns: averaged over degrees of freedom.
    by_species:    symbol → K/ns, as if the elements exchanged no heat; the light ones heat first.
    how:           one phrase.
    """

    mean_K_per_ns: float
    by_species: dict[str, float]
    how: str


class Drift(NamedTuple):
    """Heating at constant energy by forces that are no gradient: good to a factor of a few.

    rate_K_per_ns:  dT/dt.
    noise_K_per_ns: the rate that the rounding of forces alone would show.
    how:            one phrase.
    """

    rate_K_per_ns: float
    noise_K_per_ns: float
    how: str


def turn_heating(spread: Array, atoms: Atoms, *, timestep_fs: float = 0.5, harmonic: bool = True) -> Heating:
    """Heating of a simulation that is turned anew at random at each step, without a thermostat.

    A force off by σ per component, and by another amount at the next step, kicks a degree of freedom by Δt σ/m at
    random, so that its energy grows by Δt σ²/2m in a unit of time. Exact for kicks that do not know of each other; no
    calls. It is not what a potential does that is used as it stands.

    Args:
        spread: (N,) eV/Å, norms over components of the deviation of forces, as `Orbit.spread` gives them.
        atoms: one structure.
        timestep_fs: between the forces that are turned.
        harmonic: whether half of the heat becomes potential energy, as in solids and nearly so in liquids (k_B per
            degree of freedom); if not, all is kinetic, as in a dilute gas (k_B/2).
    """
    masses, capacity = atoms.get_masses(), BOLTZMANN * (1.0 if harmonic else 0.5)
    per_atom = timestep_fs * fs * np.square(spread) / 3 / (2 * masses) / capacity * NANOSECOND
    symbols = np.array(atoms.get_chemical_symbols())
    by_species = {str(one): float(per_atom[symbols == one].mean()) for one in np.unique(symbols)}
    stored = "half of it potential" if harmonic else "all of it kinetic"
    return Heating(float(per_atom.mean()), by_species, f"a random turn every {timestep_fs:g} fs, {stored}")


def drift_of(found: NonConservation, temperature_K: float) -> Drift:
    """An estimate from λ and the root mean square frequency ω alone: dT/dt = 4 λ² ω T. No calls.

    Forces f that are no gradient do work at the rate P = v·f. To second order in f, the energy grows by
    ∫₀^∞ ⟨P(0) P(t)⟩ dt / k_B T: to first order in f velocities and positions of one time know nothing of each other. In
    a harmonic system ⟨P²⟩ = (k_B T)² ‖A‖²/ω², A the antisymmetric part of the dynamical matrix, ‖A‖² ≈ 3N λ² ω⁴. So
    dT/dt = λ² ω² τ T with τ the time for which P remembers itself. That is 1/ω, within which modes lose their phases,
    times `COHERENCE`. Where f couples modes of one frequency alone it is far more (`growth_per_ns`); `golden_rule`
    looks at the modes, and came within a factor of 1.6 in the two crystals with a width of 0.2 THz.

    Args:
        found: λ and frequency.
        temperature_K: of the simulation.

    Source: Bigi, Langer, Ceriotti, The dark side of the forces (2025), arXiv:2412.11569.
    """
    if found.frequency_THz is None:
        return Drift(0.0, 0.0, found.how)
    per_ns = COHERENCE * 2 * np.pi * 1000 * abs(found.frequency_THz)
    rate, noise = (float(ratio**2 * per_ns * temperature_K) for ratio in (found.ratio, found.noise))
    how = f"{COHERENCE:g} λ² ω T with ω = 2π · {abs(found.frequency_THz):.3g} THz, to a factor of a few"
    return Drift(rate, noise, how)


def golden_rule(jacobian: Array, atoms: Atoms, temperature_K: float, *, width_THz: float = 1.0) -> float:
    """Heating from the modes of a whole Jacobian, K/ns: of the antisymmetric part, only what couples equal frequencies.

        dT/dt = T π/3N Σ_ij A_ij² δ(ω_i - ω_j) / ω_i ω_j

    the formula of `drift_of` with P(t) of harmonic modes; δ is a Lorentzian, whose width stands for what anharmonic
    modes dephase by. For a dense spectrum it does not depend on the width; for few modes it is the answer to how wide
    they are. Modes below the width or of negative curvature are left out. No calls.

    Args:
        jacobian: (3N, 3N) eV/Å², ∂F/∂x.
        atoms: one structure.
        temperature_K: of the simulation.
        width_THz: half width at half maximum.
    """
    weighted = _weighted(jacobian, atoms)
    values, vectors = np.linalg.eigh(-(weighted + weighted.T) / 2)
    width = 2 * np.pi * width_THz / 1000 / fs
    kept = values > width**2
    frequencies, chosen = np.sqrt(values[kept]), vectors[:, kept]
    coupling = chosen.T @ ((weighted - weighted.T) / 2) @ chosen
    apart = frequencies[:, None] - frequencies
    delta = width / np.pi / (apart**2 + width**2)
    total = np.sum(coupling**2 * delta / (frequencies[:, None] * frequencies))
    return float(temperature_K * np.pi * total / len(jacobian) * NANOSECOND)


def growth_per_ns(jacobian: Array, atoms: Atoms) -> float:
    """Rate at which the amplitude of the most unstable vibration grows, 1/ns, as long as forces are linear.

    x ~ exp(s t) with s² an eigenvalue of M^-1/2 J M^-1/2: complex ones come in pairs, one of which grows, and only a J
    that is not symmetric has them. One oscillator of two equal frequencies ω with a curl κ, ẍ = -k x + κ ẑ × x, grows
    as exp(κ t/2ω). Frequencies farther apart than the coupling shifts them do not grow at all. Motion along negative
    curvature is not counted. No calls.

    Args:
        jacobian: (3N, 3N) eV/Å², ∂F/∂x.
        atoms: one structure.
    """
    squares = np.linalg.eigvals(_weighted(jacobian, atoms)).astype(complex)
    turning = squares[(np.abs(squares.imag) > 1e-9 * np.abs(squares).max(initial=0.0)) & (squares.real < 0)]
    return float(np.abs(np.sqrt(turning).real).max(initial=0.0) * NANOSECOND)


def _weighted(jacobian: Array, atoms: Atoms) -> Array:
    """M^-1/2 J M^-1/2, eV/(Å² amu)."""
    roots = np.repeat(atoms.get_masses(), 3) ** -0.5
    return np.asarray(jacobian * roots[:, None] * roots)
