"""What an edge of PET is: which pairs count, with which weight, and where their tokens lie."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from tumble.batch import Batch, select
from tumble.models.pet.grid import grid_cutoffs
from tumble.models.pet.settings import PETSettings

TINY = 1e-15
"""Å² under the root and Å on the distance: keeps derivatives finite, as published."""
SOLVER_STEPS = 10
BLOCK_FILL = 0.75


class Edges(NamedTuple):
    """The pairs of a batch that interact.

    batch:    the batch with these pairs only, P of them.
    distance: (P,) Å.
    factor:   (P,) weight of each pair, 1 inside and 0 at its cutoff.
    graph:    who neighbours whom, where the engine found the pairs and is to compute on them; else None.
    """

    batch: Batch
    distance: Tensor
    factor: Tensor
    graph: "Graph | None" = None


class Graph(NamedTuple):
    """What the engine must know of the pairs: int64, contiguous.

    starts:  (N + 1,) first pair of every atom, and P.
    species: (P,) species index of the neighbour.
    reverse: (P,) position of the reverse pair.
    """

    starts: Tensor
    species: Tensor
    reverse: Tensor


class Layout(NamedTuple):
    """Sequences (an atom, then its edges) packed into few padded blocks of similar length.

    place:  (N + P,) row of each token; the N atoms come first.
    rows:   total number of rows, padding included.
    blocks: (first row, sequences, length) of each block.
    """

    place: Tensor
    rows: int
    blocks: tuple[tuple[int, int, int], ...]


def bump(distance: Tensor, cutoff: Tensor | float, width: float) -> Tensor:
    """Infinitely smooth taper from 1 at cutoff - width to 0 at the cutoff."""
    s = ((distance - (cutoff - width)) / width).clamp(1e-6, 1 - 1e-6)
    return 0.5 * (1 + torch.tanh(1 / torch.tan(torch.pi * s)))


def cosine(distance: Tensor, cutoff: Tensor | float, width: float) -> Tensor:
    """Half a period of a cosine from 1 at cutoff - width to 0 at the cutoff."""
    s = ((distance - (cutoff - width)) / width).clamp(0, 1)
    return 0.5 * (1 + torch.cos(torch.pi * s))


def edges_of(batch: Batch, settings: PETSettings) -> Edges:
    """The interacting pairs of a batch, their weights and their layout."""
    distance = _length(batch.vectors)
    reach: Tensor | float = settings.cutoff
    if settings.num_neighbors_adaptive is not None:
        batch, distance = _within(batch, distance, settings.cutoff)
        if settings.adaptive_cutoff_method == "grid":
            radius = grid_cutoffs(batch, distance + TINY, settings, bump)
        else:
            radius = adaptive_cutoffs(batch, distance, settings)
        reach = (radius[batch.center] + radius[batch.neighbor]) / 2
    mask = (distance + TINY) <= reach
    if not bool(mask.all()):
        batch, distance = select(batch, mask), distance[mask]
        reach = reach[mask] if isinstance(reach, Tensor) else reach
    taper = bump if settings.cutoff_function == "Bump" else cosine
    factor = taper(distance + TINY, reach, settings.cutoff_width)
    return Edges(batch, torch.sqrt(batch.vectors.square().sum(-1) + TINY), factor)


def adaptive_cutoffs(batch: Batch, distance: Tensor, settings: PETSettings) -> Tensor:
    """Radius at which each atom counts the wanted number of neighbours, (N,) Å, differentiable.

        n(r) = sum_j bump(d_ij; r, w) + K (r / r_max)^3 = K

    The root is found by safeguarded Newton steps on constants; one more step carries the implicit derivative.
    """
    wanted, largest, width = (
        cast(float, settings.num_neighbors_adaptive),
        settings.cutoff,
        settings.cutoff_width_adaptive,
    )

    def count(radius: Tensor, distances: Tensor) -> Tensor:
        pairs = bump(distances, radius[batch.center], width)
        return torch.zeros_like(radius).index_add(0, batch.center, pairs) + wanted * (radius / largest) ** 3

    fixed = (distance + TINY).detach()
    low = fixed.new_zeros(batch.n_atoms)
    high = torch.full_like(low, largest)
    radius = high / 2

    def slope_at(radius: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            probe = radius.detach().requires_grad_()
            value = count(probe, fixed)
            (slope,) = torch.autograd.grad(value.sum(), probe)
        return value.detach() - wanted, slope.clamp(min=1e-6)

    for _ in range(SOLVER_STEPS):
        excess, slope = slope_at(radius)
        low, high = torch.where(excess <= 0, radius, low), torch.where(excess <= 0, high, radius)
        newton = radius - excess / slope
        radius = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
    _, slope = slope_at(radius)
    implicit = radius - (count(radius, distance + TINY) - wanted) / slope
    return implicit.clamp(largest / 16, largest)


def layout_of(batch: Batch) -> Layout:
    """Rows for every token: one block if the sequences are of similar length, else blocks by length."""
    n_atoms, device = batch.n_atoms, batch.center.device
    counts = torch.bincount(batch.center, minlength=n_atoms)
    starts = torch.cumsum(counts, 0) - counts
    slot = torch.arange(batch.n_pairs, device=device) - starts[batch.center] + 1
    lengths = counts + 1
    longest = int(lengths.max())
    if n_atoms + batch.n_pairs >= BLOCK_FILL * n_atoms * longest:
        first = torch.arange(n_atoms, device=device) * longest
        blocks: tuple[tuple[int, int, int], ...] = ((0, n_atoms, longest),)
    else:
        first, blocks = _blocks_by_length(lengths)
    rows = blocks[-1][0] + blocks[-1][1] * blocks[-1][2]
    return Layout(torch.cat([first, first[batch.center] + slot]), rows, blocks)


def _blocks_by_length(lengths: Tensor) -> tuple[Tensor, tuple[tuple[int, int, int], ...]]:
    """First row of each atom, with the blocks; within a block lengths differ by at most a third."""
    grade = torch.floor(torch.log(lengths.double()) / torch.log(torch.tensor(4 / 3, dtype=torch.float64))).long()
    first = torch.empty_like(lengths)
    blocks, row = [], 0
    for value in torch.unique(grade).tolist():
        members = (grade == value).nonzero()[:, 0]
        length = int(lengths[members].max())
        first[members] = row + torch.arange(len(members), device=lengths.device) * length
        blocks.append((row, len(members), length))
        row += len(members) * length
    return first, tuple(blocks)


def _within(batch: Batch, distance: Tensor, cutoff: float) -> tuple[Batch, Tensor]:
    mask = (distance + TINY) <= cutoff
    return (batch, distance) if bool(mask.all()) else (select(batch, mask), distance[mask])


def _length(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=-1)
