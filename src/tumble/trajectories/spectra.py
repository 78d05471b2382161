"""Spectra: at which frequencies atoms and charges move."""

from collections.abc import Mapping
from typing import NamedTuple

import ase.units
import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from scipy.signal import periodogram

from tumble.trajectories.blocks import cut, standard_error
from tumble.trajectories.trajectory import Trajectory
from tumble.units import BOLTZMANN

Floats = NDArray[np.float64]

PER_THZ = 33.35640951981521
"""1 THz in cm⁻¹."""


class Spectrum(NamedTuple):
    """A density over frequencies.

    frequencies_THz: (n,) THz, from 0 to half of the frames per time; what is faster is folded back below it.
    density:         (n,) per THz, as the function that made it says.
    error:           (n,) standard error from segments of the trajectory; NaN for one.
    """

    frequencies_THz: Floats
    density: Floats
    error: Floats

    @property
    def wavenumbers(self) -> Floats:
        """(n,) cm⁻¹."""
        return self.frequencies_THz * PER_THZ

    @property
    def integral(self) -> float:
        """Of the density over all frequencies."""
        step = self.frequencies_THz[1] - self.frequencies_THz[0]
        return float(self.density.sum() * step)


def velocity_spectrum(
    trajectory: Trajectory,
    symbol: str | None = None,
    *,
    temperature_K: float | None = None,
    n_segments: int = 5,
) -> Spectrum:
    """Vibrational density of states: the power spectrum of velocities, weighted by masses.

        D(ν) = Σ_i m_i P_i(ν) / k_B T,  P the spectral density of the velocity, ∫ P dν = ⟨v²⟩

    The integral is the number of degrees of freedom if each has k_B T / 2 of kinetic energy, as it should.

    Args:
        trajectory: evenly spaced frames; velocities are differences of positions where there are none.
        symbol: element; None: all atoms.
        temperature_K: K; None: that of the velocities of all atoms with three degrees of freedom each, so that the
            integrals of all elements add up to 3 N.
        n_segments: consecutive parts, each under a Hann window, over which spectra are averaged. More parts: less noise
            and less resolution.

    Returns:
        degrees of freedom per THz.

    Raises:
        ValueError: too few frames, or not evenly spaced; no such element; atoms that do not move.
    """
    atoms = trajectory.where(symbol)
    v = velocities(trajectory)
    if temperature_K is None:
        energy = np.einsum("n,knx,knx->k", trajectory.masses, v, v).mean() / float(ase.units.fs) ** 2
        temperature_K = float(energy) / (3 * trajectory.n_atoms * BOLTZMANN)
    if not temperature_K > 0:
        raise ValueError(f"the temperature of a spectrum is {temperature_K:g} K; one above 0 was expected. Give it.")
    weighted = v[:, atoms] * np.sqrt(trajectory.masses[atoms])[:, None]
    found = _spectrum(weighted.reshape(len(v), -1), trajectory.spacing_ps, n_segments, trajectory.name)
    scale = 1 / (float(ase.units.fs) ** 2 * BOLTZMANN * temperature_K)
    return Spectrum(found.frequencies_THz, scale * found.density, scale * found.error)


def dipole_spectrum(trajectory: Trajectory, charges: Mapping[str, float], *, n_segments: int = 5) -> Spectrum:
    """Spectrum of the dipole's rate of change with fixed charges: where infrared light is absorbed, in this picture.

    P(ν) of dM/dt = Σ_i q_i v_i; the absorption coefficient times the refractive index is proportional to it.

    Args:
        trajectory: evenly spaced frames; velocities are differences of positions where there are none.
        charges: e, element → charge, of all elements.
        n_segments: as for `velocity_spectrum`.

    Returns:
        e² Å²/fs² per THz.

    Raises:
        ValueError: too few frames, or not evenly spaced; an element without a charge.
    """
    missing = [symbol for symbol in trajectory.symbols if symbol not in charges]
    if missing:
        raise ValueError(
            f"there is no charge of {', '.join(missing)}; one for each of {', '.join(trajectory.symbols)} was "
            "expected. Give charges={'H': 0.4, 'O': -0.8}, say."
        )
    charge = np.array([charges[chemical_symbols[number]] for number in trajectory.numbers], dtype=np.float64)
    current = np.einsum("n,knx->kx", charge, velocities(trajectory))
    return _spectrum(current, trajectory.spacing_ps, n_segments, trajectory.name)


def velocities(trajectory: Trajectory) -> Floats:
    """(K, N, 3) Å/fs: those of the frames, else differences of positions, (x(t + dt) − x(t − dt)) / 2 dt.

    Differences see a frequency ν weaker by sin(2π ν dt) / (2π ν dt).

    Raises:
        ValueError: fewer than two frames, or not evenly spaced.
    """
    if trajectory.velocities is not None:
        return trajectory.velocities
    return np.asarray(np.gradient(trajectory.positions, trajectory.spacing_ps * 1000, axis=0))


def _spectrum(series: Floats, spacing_ps: float, n_segments: int, name: str) -> Spectrum:
    """Sum over columns of the one-sided spectral densities of (K, n) series."""
    segments = cut(len(series), n_segments)
    length = segments[0].stop - segments[0].start
    if length < 8:
        raise ValueError(
            f"{name} has {len(series)} frames, {length} in each of {len(segments)} segments of a spectrum; at least 8 "
            "were expected. Take fewer segments, or write more frames."
        )
    found = []
    for one in segments:
        frequencies, power = periodogram(series[one], 1 / spacing_ps, "hann", detrend=False, scaling="density", axis=0)
        found.append(power.sum(1))
    return Spectrum(np.asarray(frequencies), np.mean(found, axis=0), standard_error(found))
