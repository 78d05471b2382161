"""Trend: how fast a quantity that should stay what it is drifts, and how well that is known."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCKS: Final = (3, 4, 5, 6, 8)
"""Numbers of consecutive pieces of a series that are taken to know nothing of each other; the largest error counts."""


class Trend(NamedTuple):
    """A straight line through a series.

    rate:    of change, in the unit of the values per unit of time.
    error:   standard error of the rate.
    scatter: root mean square deviation from the line.
    """

    rate: float
    error: float
    scatter: float

    @classmethod
    def of(cls, times: ArrayLike, values: ArrayLike) -> "Trend":
        """By least squares, whose error allows for neighbours that go together.

        With residuals r, the rate is wrong by Σ (t - t̄) r / Σ (t - t̄)². The variance of the sum is estimated from its
        parts in consecutive blocks, two of whose degrees of freedom the line has taken.

        Args:
            times: (n,).
            values: (n,), of which infinite ones make everything infinite.
        """
        t, y = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
        if len(t) < 3 or not np.isfinite(y).all():
            return cls(*(float("inf"),) * 3)
        t = t - t.mean()
        rate = float(t @ y / (t @ t))
        left = y - y.mean() - rate * t
        error = max(_wrong_by(t * left, blocks) for blocks in BLOCKS if blocks <= len(t)) / float(t @ t)
        return cls(rate, error, float(np.sqrt(np.mean(np.square(left)))))


def _wrong_by(terms: NDArray[np.float64], blocks: int) -> float:
    """Standard deviation of a sum, from those over blocks."""
    sums = [part.sum() for part in np.array_split(terms, blocks)]
    return float(np.sqrt(blocks / (blocks - 2) * np.sum(np.square(sums))))
