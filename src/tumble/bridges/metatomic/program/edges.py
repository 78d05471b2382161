"""Which pairs count for a PET, with which weight, and what it sees of them."""

# mypy: disable-error-code="no-any-return"

import math
from typing import Tuple  # noqa: UP035  (TorchScript reads it)

import torch
from torch import Tensor, nn

from tumble.bridges.metatomic.program.seen import Seen, only
from tumble.models.pet import PETSettings
from tumble.models.pet.edges import SOLVER_STEPS, TINY
from tumble.models.pet.grid import FIRST_PROBE, SMALLEST_SLOPE


def bump(distance: Tensor, cutoff: Tensor, width: float) -> Tensor:
    """Infinitely smooth taper from 1 at cutoff - width to 0 at the cutoff."""
    s = ((distance - (cutoff - width)) / width).clamp(1e-6, 1 - 1e-6)
    return 0.5 * (1 + torch.tanh(1 / torch.tan(math.pi * s)))


def bump_slope(distance: Tensor, cutoff: Tensor, width: float) -> Tensor:
    """Its derivative by the cutoff."""
    s = (distance - (cutoff - width)) / width
    inside = (s >= 1e-6) & (s <= 1 - 1e-6)
    s = s.clamp(1e-6, 1 - 1e-6)
    level = torch.tanh(1 / torch.tan(math.pi * s))
    return torch.where(inside, (1 - level * level) * (math.pi / (2 * width)) / torch.sin(math.pi * s).square(), 0.0)


def cosine(distance: Tensor, cutoff: Tensor, width: float) -> Tensor:
    """Half a period of a cosine from 1 at cutoff - width to 0 at the cutoff."""
    s = ((distance - (cutoff - width)) / width).clamp(0, 1)
    return 0.5 * (1 + torch.cos(math.pi * s))


class Cutoffs(nn.Module):
    """`edges_of` and the inputs of the network."""

    def __init__(self, settings: PETSettings) -> None:
        super().__init__()
        self.cutoff, self.width = settings.cutoff, settings.cutoff_width
        self.wanted, self.adaptive_width = settings.num_neighbors_adaptive or 0.0, settings.cutoff_width_adaptive
        self.is_adaptive = settings.num_neighbors_adaptive is not None
        self.is_grid, self.is_bump = settings.adaptive_cutoff_method == "grid", settings.cutoff_function == "Bump"
        self.n_radial, self.n_steps = settings.edge_basis, SOLVER_STEPS
        self.tiny, self.first_probe, self.smallest_slope = TINY, FIRST_PROBE, SMALLEST_SLOPE

    def forward(self, seen: Seen) -> Tuple[Seen, Tensor, Tensor]:  # noqa: UP006
        """The pairs that interact, what is seen of them (P, 4 + 4 K), and their weights (P,)."""
        distance = torch.linalg.vector_norm(seen.vectors, dim=1) + self.tiny
        near = distance <= self.cutoff
        seen = only(seen, near & near[seen.reverse])
        distance = torch.linalg.vector_norm(seen.vectors, dim=1) + self.tiny
        reach = torch.full_like(distance, self.cutoff)
        if self.is_adaptive:
            radius = self.by_grid(seen, distance) if self.is_grid else self.by_root(seen, distance)
            reach = (radius.index_select(0, seen.center) + radius.index_select(0, seen.neighbor)) / 2
            near = distance <= reach
            near = near & near[seen.reverse]
            seen, distance, reach = only(seen, near), distance[near], reach[near]
        factor = bump(distance, reach, self.width) if self.is_bump else cosine(distance, reach, self.width)
        return seen, self.inputs(seen), factor

    def inputs(self, seen: Seen) -> Tensor:
        """Vector and length of each pair, and K radial functions with their directions, (P, 4 + 4 K)."""
        distance = torch.sqrt(seen.vectors.square().sum(1) + self.tiny)[:, None]
        plain = torch.cat([seen.vectors, distance], dim=1)
        if self.n_radial == 0:
            return plain
        waves = torch.arange(1, self.n_radial + 1, device=distance.device).to(distance.dtype) * (math.pi / self.cutoff)
        radial = math.sqrt(2 / self.cutoff) * torch.sin(waves * distance) / distance
        directed = radial[:, :, None] * (seen.vectors / distance)[:, None, :]
        return torch.cat([plain, radial, directed.flatten(1)], dim=1)

    def count(self, radius: Tensor, distance: Tensor, center: Tensor) -> Tensor:
        """Neighbours that each atom counts within its radius, (N,)."""
        pairs = bump(distance, radius[center], self.adaptive_width)
        return torch.zeros_like(radius).index_add(0, center, pairs) + self.wanted * (radius / self.cutoff) ** 3

    def count_slope(self, radius: Tensor, distance: Tensor, center: Tensor) -> Tensor:
        """Its derivative by the radius, at least 1e-6."""
        pairs = bump_slope(distance, radius[center], self.adaptive_width)
        sums = torch.zeros_like(radius).index_add(0, center, pairs)
        return (sums + 3 * self.wanted / self.cutoff * (radius / self.cutoff) ** 2).clamp(min=1e-6)

    def by_root(self, seen: Seen, distance: Tensor) -> Tensor:
        """`adaptive_cutoffs`: safeguarded Newton steps on constants, and one with the implicit derivative."""
        fixed, center = distance.detach(), seen.center
        low = torch.zeros(len(seen.numbers), dtype=fixed.dtype, device=fixed.device)
        high = torch.full_like(low, self.cutoff)
        radius = high / 2
        for _ in range(self.n_steps):
            excess = self.count(radius, fixed, center) - self.wanted
            newton = radius - excess / self.count_slope(radius, fixed, center)
            low, high = torch.where(excess <= 0, radius, low), torch.where(excess <= 0, high, radius)
            radius = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
        slope = self.count_slope(radius, fixed, center)
        implicit = radius - (self.count(radius, distance, center) - self.wanted) / slope
        return implicit.clamp(self.cutoff / 16, self.cutoff)

    def by_grid(self, seen: Seen, distance: Tensor) -> Tensor:
        """`grid_cutoffs`: a mean of probes."""
        step = self.adaptive_width / 4
        probes = torch.arange(self.first_probe, self.cutoff, step, dtype=distance.dtype, device=distance.device)
        n = len(probes)
        weights = bump(distance[:, None], probes, self.adaptive_width)
        counts = torch.zeros(len(seen.numbers), n, dtype=weights.dtype, device=weights.device)
        counts = counts.index_add(0, seen.center, weights)
        growth = torch.linspace(0, 1, n, dtype=probes.dtype, device=probes.device) ** 3
        excess = counts - self.wanted + self.wanted * growth
        if n > 1:
            ends = [
                excess[:, 1:2] - excess[:, :1],
                (excess[:, 2:] - excess[:, :-2]) / 2,
                excess[:, -1:] - excess[:, -2:-1],
            ]
            excess = excess / torch.cat(ends, dim=1).abs().clamp(min=self.smallest_slope)
        return torch.matmul(torch.softmax(-0.5 * excess**2, dim=1), probes)
