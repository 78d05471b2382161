"""Adaptive cutoffs by a grid of probes: how PET chose them before the solver, kept for the files of that time."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from tumble.batch import Batch
from tumble.models.pet.settings import PETSettings

FIRST_PROBE = 0.5
"""Å."""
SMALLEST_SLOPE = 1e-12


def grid_cutoffs(
    batch: Batch, distance: Tensor, settings: PETSettings, taper: Callable[[Tensor, Tensor, float], Tensor]
) -> Tensor:
    """Mean of the probes at which each atom counts about the wanted number of neighbours, (N,) Å, differentiable.

        n_k = sum_j taper(d_ij; p_k, w) + K (k / k_max)^3,   weight_k = exp(-((n_k - K) / slope_k)^2 / 2)

    Memory grows with pairs times probes. It has no root to find, and no sharp choice: a mean over many probes moves as
    soon as any of their counts does.

    Args:
        batch: with the pairs within the largest cutoff.
        distance: (P,) Å.
        settings: target K, largest cutoff and width w; probes are a quarter of w apart.
        taper: weight of a neighbour at a distance under a cutoff.
    """
    wanted, width = cast(float, settings.num_neighbors_adaptive), settings.cutoff_width_adaptive
    probes = torch.arange(FIRST_PROBE, settings.cutoff, width / 4, dtype=distance.dtype, device=distance.device)
    weights = taper(distance[:, None], probes, width)
    counts = weights.new_zeros((batch.n_atoms, len(probes))).index_add(0, batch.center, weights)
    # Atoms with few neighbours are pushed to large cutoffs by a count that grows with the volume of the probe.
    excess = counts - wanted + wanted * torch.linspace(0, 1, len(probes), dtype=probes.dtype, device=probes.device) ** 3
    if len(probes) > 1:
        excess = excess / torch.gradient(excess, dim=1)[0].abs().clamp(min=SMALLEST_SLOPE)
    return torch.softmax(-0.5 * excess**2, dim=1) @ probes
