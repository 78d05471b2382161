"""Blocks: means of correlated samples, and how far they may be trusted."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

WINDOW = 5.0
"""The correlation function is summed up to this multiple of the correlation time that the sum gives."""


class Mean(NamedTuple):
    """The mean of a series.

    value:         its mean, in the unit of the series.
    error:         standard error, the correlation of samples counted; NaN for less than two samples.
    inefficiency:  samples to one independent sample, at least 1.
    n_independent: how many independent samples there are.
    """

    value: float
    error: float
    inefficiency: float
    n_independent: float


def mean(series: ArrayLike) -> Mean:
    """Mean of a correlated series, with the standard error that its correlation time leaves.

        error² = variance inefficiency / K

    Args:
        series: (K,) equally spaced samples in any unit.

    Raises:
        ValueError: not one series of finite numbers.
    """
    values = _series(series)
    long = inefficiency(values)
    n = len(values) / long
    error = float(values.std(ddof=1)) / n**0.5 if len(values) > 1 else float("nan")
    return Mean(float(values.mean()), error, long, n)


def inefficiency(series: ArrayLike) -> float:
    """Samples of a series to one independent sample, 1 + 2 Σ_t (1 − t/K) c(t), at least 1.

    c is the normalised correlation function. The sum ends at the first t that is at least 5 times half of the sum so
    far: later terms are noise.

    Args:
        series: (K,) equally spaced samples.

    Raises:
        ValueError: not one series of finite numbers.

    Source: the automatic window of A. D. Sokal, in Functional Integration, NATO ASI B 361, 131 (1997).
    """
    values = _series(series)
    count = len(values)
    apart = values - values.mean()
    if count < 3 or float(np.abs(apart).max()) <= 1e-14 * float(np.abs(values).max()):
        return 1.0
    correlation = products(apart)
    sums = 1 + 2 * np.cumsum((1 - np.arange(1, count) / count) * (correlation[1:] / correlation[0]))
    ends = np.flatnonzero(np.arange(1, count) >= WINDOW * np.maximum(sums, 1) / 2)
    return max(1.0, float(sums[ends[0] if len(ends) else -1]))


def products(values: Floats) -> Floats:
    """Mean product of samples t apart, ⟨v(0) v(t)⟩ for t from 0 to K − 1, by Fourier transform along the first axis.

    Args:
        values: (K, ...) equally spaced samples.
    """
    count = len(values)
    size = 1 << (2 * count - 1).bit_length()
    transformed = np.fft.rfft(values, size, axis=0)
    sums = np.fft.irfft(transformed.real**2 + transformed.imag**2, size, axis=0)[:count]
    rows = np.arange(count, 0, -1, dtype=np.float64).reshape(-1, *(1,) * (values.ndim - 1))
    return np.asarray(sums / rows)


def standard_error(blocks: ArrayLike) -> Floats:
    """Standard error of the mean of blocks that count as independent.

    Args:
        blocks: (B, ...) one answer per block.

    Returns:
        (...), NaN for fewer than two blocks.
    """
    answers = np.asarray(blocks, dtype=np.float64)
    if len(answers) < 2:
        return np.full(answers.shape[1:], np.nan)
    return np.asarray(answers.std(axis=0, ddof=1) / len(answers) ** 0.5)


def cut(n_frames: int, n_blocks: int) -> list[slice]:
    """Consecutive blocks of equal length, as many as asked for and can be; frames that are left over come first.

    Args:
        n_frames: K.
        n_blocks: B.

    Raises:
        ValueError: no block.
    """
    if n_blocks < 1:
        raise ValueError(f"a trajectory was to be cut into {n_blocks} blocks; at least 1 was expected. Use 5, say.")
    n_blocks = max(1, min(n_blocks, n_frames))
    length = n_frames // n_blocks
    first = n_frames - n_blocks * length
    return [slice(first + k * length, first + (k + 1) * length) for k in range(n_blocks)]


def _series(series: ArrayLike) -> Floats:
    values = np.asarray(series, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(
            f"a series has the shape {values.shape} and {int((~np.isfinite(values)).sum())} values that are not "
            "finite; one row of finite numbers was expected. Give one quantity, one number per frame."
        )
    return values
