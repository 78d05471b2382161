"""Spectrum: at which frequencies forces do work on a motion, and how fast impulses of them would heat it."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.signal.windows import dpss

from tumble.units import BOLTZMANN

Array = NDArray[np.float64]

BANDWIDTH: Final = 3.0
"""Half the width that a line is smeared to, in units of one over the length of the record."""

N_TAPERS: Final = 4
"""Windows that the record is seen through, nearly independent of each other."""

N_ROUNDS: Final = 10
"""In which weights of windows and the density that they show are made to agree."""

TINY: Final = 1e-100
"""Added to what is divided by, which is zero where no work is done at all."""

FS_PER_NS: Final = 1e6


class Spectrum(NamedTuple):
    """Where in frequency forces do work.

    frequencies: (F,) 1/fs, from 0 to half the sampling rate.
    density:     (F,) eV²/fs, S(ω) = ∫ ⟨P(0) P(t)⟩ cos ωt dt with P = v·f the work that the forces do in a unit of time.
    width:       1/fs, half of what a line is smeared to.
    n_views:     (F,) nearly independent estimates that were averaged; the relative error is one over the root.
    """

    frequencies: Array
    density: Array
    width: float
    n_views: Array

    @classmethod
    def of(cls, powers: Array, interval_fs: float) -> "Spectrum":
        """From records of the work, by the mean periodogram over orthogonal windows.

        Windows of higher order let a little of everything in at every frequency. Where that would be more than what is
        there, as far from the vibrations of a crystal, they count less.

        Args:
            powers: (n, K) eV/fs, K records of the same process.
            interval_fs: between samples.

        Source: D. J. Thomson, Proc. IEEE 70, 1055 (1982); windows: `scipy.signal.windows.dpss`.
        """
        n, n_records = powers.shape
        windows, kept = dpss(n, BANDWIDTH, N_TAPERS, return_ratios=True)
        apart = powers - powers.mean(0)
        seen = interval_fs * np.square(np.abs(np.fft.rfft(windows[:, :, None] * apart, n=4 * n, axis=1))).mean(2)
        density, weights = _adapted(seen, kept[:, None], interval_fs * float(np.square(apart).mean()))
        views = n_records * np.square(weights.sum(0)) / np.square(weights).sum(0)
        frequencies = np.asarray(np.fft.rfftfreq(4 * n, interval_fs), dtype=np.float64)
        return cls(frequencies, density, BANDWIDTH / (n * interval_fs), views)

    @property
    def longest_fs(self) -> float:
        """The longest step between impulses whose harmonics can be told from motion that is hardly any."""
        return 1 / (2 * self.width)

    @property
    def shortest_fs(self) -> float:
        """The shortest one of which any harmonic has been seen."""
        return float(1 / self.frequencies[-1])

    def heating(self, outer_fs: float, temperature_K: float, n_atoms: int) -> tuple[float, float]:
        """Heating by impulses of these forces at regular times, K/ns, and its standard error.

        Impulses h f at times n h are f times 1 + 2 Σ_k cos ω_k t with ω_k = 2πk/h. The 1 is what they stand for; the
        harmonics heat. Each adds S(ω_k)/k_B T in a unit of time to second order in f (linear response), so

            dE/dt = Σ_k≥1 S(ω_k) / k_B T,     dT/dt = dE/dt / 3N k_B.

        Harmonics beyond half the sampling rate are left out. It holds where the motion forgets its phases. The lines
        of a molecule alone are sharp: between them it heats less than this, and on them more.

        Args:
            outer_fs: h.
            temperature_K: of the record.
            n_atoms: that share the heat, half of it potential.
        """
        n_harmonics = int(outer_fs * self.frequencies[-1] * (1 + 1e-9))
        harmonics = np.arange(1, n_harmonics + 1) / outer_fs
        powers, views = (np.interp(harmonics, self.frequencies, one) for one in (self.density, self.n_views))
        scale = FS_PER_NS / (BOLTZMANN * temperature_K) / (3 * n_atoms * BOLTZMANN)
        return scale * float(powers.sum()), scale * float(np.linalg.norm(powers / np.sqrt(views)))


def _adapted(seen: Array, kept: Array, everywhere: float) -> tuple[Array, Array]:
    """The mean over windows (F,), each weighted by how much of what it shows is really there, and the weights (K, F).

    Args:
        seen: (K, F) what each window shows.
        kept: (K, 1) share that a window takes from within its bandwidth; the rest is from everywhere.
        everywhere: mean of the density over all frequencies.
    """
    density = seen[:2].mean(0)
    for _ in range(N_ROUNDS):
        weights = kept * np.square(density / (kept * density + (1 - kept) * everywhere + TINY))
        density = (weights * seen).sum(0) / (weights.sum(0) + TINY)
    return np.asarray(density), np.asarray(weights + TINY)
