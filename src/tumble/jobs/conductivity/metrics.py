"""Metrics: how far conductivities are from a reference, in all and mode by mode."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WORST: Final = 2.0
"""SRE and SRME of a conductivity that could not be computed."""

SOURCE: Final = (
    "B. Póta, P. Ahlawat, G. Csányi, M. Simoncelli, Thermal conductivity predictions with foundation atomistic models, "
    "arXiv:2408.00755 (2024)."
)


def mean_of(tensors: Floats) -> Floats:
    """A third of the trace of tensors (..., 3, 3)."""
    return np.asarray(np.trace(tensors, axis1=-2, axis2=-1) / 3)


def srd(kappa: Floats, reference: Floats) -> Floats:
    """Symmetric relative difference, from -2 to 2.

        2 (k - k0) / (k + k0)

    Args:
        kappa: (T,) W/(m K); NaN where it could not be computed.
        reference: (T,) of the same unit.

    Returns:
        (T,); -2 where it could not be computed.
    """
    kappa, reference = np.asarray(kappa, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    total = kappa + reference
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(total == 0, 0.0, WORST * (kappa - reference) / total)
    return np.where(np.isfinite(ratio), ratio, -WORST)


def srme(kappa: Floats, modes: Floats, reference: Floats, reference_modes: Floats, weights: NDArray[Any]) -> Floats:
    """Symmetric relative mean error of modes, from 0 to 2: errors of different modes do not cancel.

        2 sum_i |k_i - k0_i| / sum(w) / (k + k0)

    Args:
        kappa, reference: (T,) W/(m K).
        modes, reference_modes: (T, Q, B) of each mode, times the number of wave vectors that each stands for.
        weights: (Q,) that number; their sum is that of all wave vectors.

    Returns:
        (T,); 2 where it could not be computed.

    Source: Póta, Ahlawat, Csányi, Simoncelli, arXiv:2408.00755 (2024), as matbench-discovery computes it.
    """
    apart = np.abs(np.asarray(modes) - reference_modes).sum(axis=(1, 2)) / float(weights.sum())
    total = np.asarray(kappa, dtype=np.float64) + reference
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(total == 0, np.where(apart == 0, 0.0, WORST), WORST * apart / total)
    return np.where(np.isfinite(ratio), np.minimum(ratio, WORST), WORST)


def by_mode(matrix: Floats, capacities: Floats) -> Floats:
    """What each mode contributes, populations and coherences, from what each pair of modes contributes.

    The coherence of two modes is shared in the ratio of their heat capacities, as in the benchmark: mode j gets from
    the pair (i, j) twice its part times c_i / (c_i + c_j).

    Args:
        matrix: (T, Q, B, B) of pairs, symmetric; the diagonal holds the populations.
        capacities: (T, Q, B) heat capacities.

    Returns:
        (T, Q, B), of the same sum.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        share = capacities[..., :, None] / (capacities[..., :, None] + capacities[..., None, :])
    return np.asarray(2 * (matrix * np.nan_to_num(share)).sum(axis=2))


def has_imaginary(frequencies_THz: Floats, gamma: int, tolerance_THz: float) -> bool:
    """Whether a mode of the mesh is imaginary: an acoustic one at Γ by more than the tolerance, or any other at all.

    Args:
        frequencies_THz: (Q, B), negative where imaginary.
        gamma: index of Γ.
        tolerance_THz: what rounding may make of an acoustic mode there.
    """
    others = np.delete(frequencies_THz, gamma, axis=0)
    at_gamma = np.sort(frequencies_THz[gamma])
    return bool((others < 0).any() or (at_gamma < -tolerance_THz).any() or (at_gamma[3:] < 0).any())
