"""Numbers that compare two sets of force constants: frequencies along a path, degeneracies, κ, elastic constants."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumble.units import THZ, EV_PER_A3_TO_GPa

Array = NDArray[np.float64]

TOGETHER_THz = 1e-5
"""Bands of the reference closer than this are one degenerate level."""

SLOWEST_THz = 0.01
"""Below it a rounding of the force constants appears as its square root; levels there are not compared."""


class Conductivity(NamedTuple):
    """Thermal conductivity: mean of the diagonal in W/(m K), and shares (q, band) of it that add up to it."""

    kappa: float
    modes: Array


class Elastic(NamedTuple):
    """Elastic constants of a cubic crystal in GPa."""

    c11: float
    c12: float
    c44: float

    @property
    def bulk(self) -> float:
        """Bulk modulus, GPa."""
        return (self.c11 + 2 * self.c12) / 3


def rms(ours: Array, theirs: Array) -> float:
    """Root-mean-square difference over all q and bands, both sorted at each q."""
    return float(np.sqrt(np.mean((np.sort(ours, axis=-1) - np.sort(theirs, axis=-1)) ** 2)))


def worst(ours: Array, theirs: Array) -> float:
    """Largest difference over all q and bands."""
    return float(np.abs(np.sort(ours, axis=-1) - np.sort(theirs, axis=-1)).max())


def splitting(ours: Array, theirs: Array, together: float = TOGETHER_THz) -> float:
    """Largest distance, THz, between neighbouring bands that should be degenerate.

    At each q as many of the closest neighbours are taken as the reference has degenerate ones: levels that cross may
    change places.
    """
    found = 0.0
    for mine, other in zip(np.sort(ours, axis=-1), np.sort(theirs, axis=-1), strict=True):
        is_level = (np.diff(other) < together) & (np.abs(other[1:]) > SLOWEST_THz)
        is_away = np.abs(mine[1:]) > SLOWEST_THz
        if n := min(is_level.sum(), is_away.sum()):
            found = max(found, float(np.sort(np.diff(mine)[is_away])[n - 1]))
    return found


def srd(kappa: float, reference: float) -> float:
    """Symmetric relative difference 2 (κ - κ0) / (κ + κ0)."""
    return 2 * (kappa - reference) / (kappa + reference)


def srme(ours: Conductivity, theirs: Conductivity) -> float:
    """Symmetric relative mean error, mode by mode: 2 Σ |κ_i - κ0_i| / (κ + κ0)."""
    return float(2 * np.abs(ours.modes - theirs.modes).sum() / (ours.kappa + theirs.kappa))


def elastic(density: float, along_100: Array, along_110: Array) -> Elastic:
    """Elastic constants of a cubic crystal from its slow waves.

    Args:
        density: amu/Å³.
        along_100: speeds of the three acoustic branches along [100], slowest first, THz Å.
        along_110: the same along [110].

    Source: C11 = ρ v_L², C44 = ρ v_T² along [100]; (C11 + C12 + 2 C44) / 2 = ρ v_L² along [110].
    """
    scale = density / (2 * np.pi * THZ) ** 2 * EV_PER_A3_TO_GPa
    c11, c44 = scale * along_100[2] ** 2, scale * np.mean(along_100[:2]) ** 2
    return Elastic(float(c11), float(2 * scale * along_110[2] ** 2 - c11 - 2 * c44), float(c44))
