"""Thermal: density of states and thermodynamics of harmonic modes."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumble.units import BOLTZMANN, MEV

Floats = NDArray[np.float64]

QUANTUM: Final = 4.135667696e-3
"""Planck constant, eV per THz."""

SLOWEST_THz: Final = 0.01
"""Modes below this, imaginary ones too, take no part in thermodynamics: their classical entropy has no bound."""


class Thermal(NamedTuple):
    """Thermodynamics at constant volume, per atom.

    temperatures_K: (T,).
    free_energy:    (T,) meV/atom, zero-point energy included.
    entropy:        (T,) k_B/atom.
    heat_capacity:  (T,) k_B/atom; 3 at high temperature.
    """

    temperatures_K: Floats
    free_energy: Floats
    entropy: Floats
    heat_capacity: Floats


def thermal_of(frequencies: Floats, weights: Floats, temperatures: Floats, n_atoms: int) -> Thermal:
    """Sums over modes.

    Args:
        frequencies: (Q, M) THz.
        weights: (Q,) that add up to 1.
        temperatures: (T,) K.
        n_atoms: in the cell whose modes these are.
    """
    takes_part = frequencies > SLOWEST_THz
    energies = QUANTUM * np.where(takes_part, frequencies, 1.0)
    weight = np.where(takes_part, weights[:, None], 0.0) / n_atoms
    free, entropy, heat = [np.zeros(len(temperatures)) for _ in range(3)]
    for t, temperature in enumerate(temperatures):
        free[t] = MEV * np.sum(weight * energies / 2)
        if temperature > 0:
            # Beyond 700 the exponential is zero, and nothing overflows.
            x = np.minimum(energies / (BOLTZMANN * temperature), 700.0)
            occupied = 1 / np.expm1(x)
            free[t] += MEV * BOLTZMANN * temperature * np.sum(weight * np.log(-np.expm1(-x)))
            entropy[t] = np.sum(weight * (x * occupied - np.log(-np.expm1(-x))))
            heat[t] = np.sum(weight * x**2 * occupied * (occupied + 1))
    return Thermal(np.asarray(temperatures, float), free, entropy, heat)


def states_of(frequencies: Floats, weights: Floats, grid: Floats, width: float) -> Floats:
    """Density of states on a regular grid, 1/THz for each cell, with Gaussians of this width.

    Args:
        frequencies: (Q, M) THz.
        weights: (Q,) that add up to 1.
        grid: (G,) THz, of all modes.
        width: THz, standard deviation.
    """
    fine = 8
    step = (grid[1] - grid[0]) / fine
    n = fine * (len(grid) - 1) + 1
    place = np.clip(np.round((frequencies - grid[0]) / step).astype(int), 0, n - 1)
    counts = np.bincount(place.ravel(), np.repeat(weights, frequencies.shape[1]), n)
    reach = int(np.ceil(5 * width / step))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / width) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum() / step)[reach : reach + n]
    return np.asarray(smooth[::fine])


def grid_of(frequencies: list[Floats], width: float | None) -> tuple[Floats, float]:
    """A grid (G,) THz around all modes, and the width of the Gaussians."""
    lowest = min(float(one.min()) for one in frequencies)
    highest = max(float(one.max()) for one in frequencies)
    width = width or 0.01 * max(highest, 1e-3)
    start, end = min(lowest - 5 * width, 0.0), highest + 5 * width
    return np.linspace(start, end, int(np.clip(4 * (end - start) / width, 101, 1001))), width
