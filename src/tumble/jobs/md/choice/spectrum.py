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

FS_PER_NS: Final = 1e6


class Spectrum(NamedTuple):
    """Where in frequency forces do work.

    frequencies: (F,) 1/fs, from 0 to half the sampling rate.
    density:     (F,) eV²/fs, S(ω) = ∫ ⟨P(0) P(t)⟩ cos ωt dt with P = v·f the work that the forces do in a unit of time.
    width:       1/fs, half of what a line is smeared to.
    n_views:     nearly independent estimates that were averaged; the relative error is one over its root.
    """

    frequencies: Array
    density: Array
    width: float
    n_views: int

    @classmethod
    def of(cls, powers: Array, interval_fs: float) -> "Spectrum":
        """From records of the work, by the mean periodogram over orthogonal windows.

        Args:
            powers: (n, K) eV/fs, K records of the same process.
            interval_fs: between samples.

        Source: D. J. Thomson, Proc. IEEE 70, 1055 (1982); windows: `scipy.signal.windows.dpss`.
        """
        n, n_records = powers.shape
        windows = dpss(n, BANDWIDTH, N_TAPERS)
        seen = np.fft.rfft(windows[:, :, None] * (powers - powers.mean(0)), n=4 * n, axis=1)
        density = np.square(np.abs(seen)).mean((0, 2))
        width = BANDWIDTH / (n * interval_fs)
        frequencies, density = (
            np.asarray(one, dtype=np.float64) for one in (np.fft.rfftfreq(4 * n, interval_fs), interval_fs * density)
        )
        return cls(frequencies, density, width, N_TAPERS * n_records)

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
        powers = np.interp(np.arange(1, n_harmonics + 1) / outer_fs, self.frequencies, self.density)
        scale = FS_PER_NS / (BOLTZMANN * temperature_K) / (3 * n_atoms * BOLTZMANN)
        return scale * float(powers.sum()), scale * float(np.linalg.norm(powers)) / self.n_views**0.5
