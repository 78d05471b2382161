"""Streaming: a potential is asked about turned copies, a few at a time, and means need no more memory than that."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from tumble.batch import Batch, Properties, copies, turn, turn_back
from tumble.crystal import SpaceGroup, cosets
from tumble.orbit.fields import average, each, scatter, squares
from tumble.packs import part, weight
from tumble.potential import Potential
from tumble.rotations import Rotations

PAIRS_PER_PASS: Final = 30_000
"""Pairs (or atoms, where there are more) in one call of the potential, unless the caller chooses the chunk."""


def mean_over(
    potential: Potential,
    batch: Batch,
    rotations: Rotations,
    chunk: int | None = None,
    groups: Sequence[SpaceGroup | None] | None = None,
) -> Properties:
    """The mean of the orbit without the orbit: memory does not grow with the number of rotations.

    Args:
        potential: any Potential.
        batch: S structures.
        rotations: what to turn by.
        chunk: as in `Orbit.of`.
        groups: as in `Orbit.of`.

    Returns:
        energy (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³; float64.
    """
    return moments_over(potential, batch, rotations, chunk, groups)[0]


def moments_over(
    potential: Potential,
    batch: Batch,
    rotations: Rotations,
    chunk: int | None = None,
    groups: Sequence[SpaceGroup | None] | None = None,
) -> tuple[Properties, Properties]:
    """Mean and spread of the orbit without the orbit, as `Orbit.mean` and `Orbit.spread` give them."""
    found = [_moments(passes(potential, one, rotations, chunk, group)) for one, group in runs(batch, rotations, groups)]
    means, spreads = zip(*found, strict=True)
    return each(lambda *fields: torch.cat(fields), *means), each(lambda *fields: torch.cat(fields), *spreads)


def _moments(pieces: Iterator[tuple[Tensor, Tensor, Properties]]) -> tuple[Properties, Properties]:
    """Mean and spread of answers that come in pieces.

    Source: the centred update of B. P. Welford, Technometrics 4, 419 (1962), with weights, chunk by chunk.
    """
    total, mean, square = 0.0, Properties(), Properties()
    for _, weights, answers in pieces:
        added = float(weights.sum())
        of_piece = each(partial(average, weights / added), answers)
        inside = each(partial(scatter, weights), answers, of_piece)
        if total == 0.0:
            mean, square = of_piece, inside
        else:
            share = added / (total + added)
            apart = each(torch.sub, of_piece, mean)
            mean = each(partial(torch.add, alpha=share), mean, apart)
            between = each(lambda d, factor=total * share: factor * squares(d, keep=1), apart)
            square = each(lambda s, i, b: s + i + b, square, inside, between)
        total += added
    return mean, each(torch.sqrt, square)


def passes(
    potential: Potential,
    batch: Batch,
    rotations: Rotations,
    chunk: int | None = None,
    group: SpaceGroup | None = None,
) -> Iterator[tuple[Tensor, Tensor, Properties]]:
    """Turned-back answers in pieces of at most a chunk: places (r,) in the rule, weights (r,), answers with axis r.

    Rotations and structures are packed into one batch per call: r S structures. If an operation h of the structure's
    own group leads from one node to another, only one of the two is asked, and the other follows:

        E(Q h) = E(Q),  F_i(Q h) = F_h(i)(Q) h,  S(Q h) = hᵀ S(Q) h

    Args:
        potential: any Potential.
        batch: S structures.
        rotations: what to turn by.
        chunk: as in `Orbit.of`.
        group: of the structure, where there is one only; None: every node is asked.

    Yields:
        Each node once, in float64; in the order of the rule if there is no group.

    Raises:
        ValueError: a chunk below 1, or a group of more than one structure.
    """
    if chunk is None:
        chunk = max(1, PAIRS_PER_PASS // weight(batch))
    if chunk < 1:
        raise ValueError(
            f"the chunk is {chunk} copies per call; at least 1 was expected. Leave it out, or give 1 or more."
        )
    if group is not None and batch.n_structures != 1:
        raise ValueError(
            f"one group was given for {batch.n_structures} structures; it is of one. Use mean_over or Orbit.of, which "
            "take a group for each."
        )
    nodes = torch.arange(len(rotations))
    chosen, parent, operation = (nodes,) * 3 if group is None else cosets(rotations, group)
    for asked in torch.arange(len(chosen)).split(chunk):
        places = chosen[asked]
        answers = _ask(potential, batch, rotations.matrices[places])
        if group is None or len(chosen) == len(nodes):
            yield places, rotations.weights[places], answers
            continue
        for places in torch.nonzero(torch.isin(parent, asked))[:, 0].split(chunk):
            followed = _follow(answers, parent[places] - asked[0], operation[places], group)
            yield places, rotations.weights[places], followed


def n_calls_for(rotations: Rotations, group: SpaceGroup | None) -> int:
    """Turned copies of a structure with this group that the potential is asked about, for a mean over the rule."""
    return len(rotations) if group is None else len(cosets(rotations, group)[0])


def runs(
    batch: Batch, rotations: Rotations, groups: Sequence[SpaceGroup | None] | None
) -> list[tuple[Batch, SpaceGroup | None]]:
    """The batch in pieces: each structure that its group spares calls alone, and those in between together.

    Raises:
        ValueError: not one group (or None) for each structure.
    """
    if groups is None:
        return [(batch, None)]
    if len(groups) != batch.n_structures:
        raise ValueError(
            f"{len(groups)} groups were given for {batch.n_structures} structures; one for each was expected. "
            "Give None for a structure without one."
        )
    if batch.n_structures == 1:
        return [(batch, groups[0])]
    spared = [s for s, group in enumerate(groups) if n_calls_for(rotations, group) < len(rotations)]
    if not spared:
        return [(batch, None)]
    cuts = sorted({0, batch.n_structures, *spared, *(s + 1 for s in spared)})
    device, there = batch.positions.device, Batch(*(field.cpu() for field in batch))
    parts = (Batch(*(field.to(device) for field in part(there, slice(*ends)))) for ends in pairwise(cuts))
    return [(one, groups[s] if s in spared else None) for s, one in zip(cuts, parts, strict=False)]


def _ask(potential: Potential, batch: Batch, matrices: Tensor) -> Properties:
    """Turned-back answers about copies turned by each of (r, 3, 3), with leading axis r, in float64."""
    turns = matrices.to(batch.positions.device).repeat_interleave(batch.n_structures, dim=0)
    packed = turn(copies(batch, len(matrices)), turns)
    with torch.set_grad_enabled(potential.training and torch.is_grad_enabled()):
        answers = potential(packed)
    back = turn_back(each(Tensor.double, answers), turns, packed.structure)
    return each(lambda field: field.reshape(len(matrices), -1, *field.shape[1:]), back)


def _follow(answers: Properties, parent: Tensor, operation: Tensor, group: SpaceGroup) -> Properties:
    """Answers at nodes Q h from those at their parents Q.

    Args:
        answers: with leading axis k.
        parent: (r,) which of the k.
        operation: (r,) which h.
    """
    energy, forces, stress = each(lambda field: field[parent.to(field.device)], answers)
    turns = torch.as_tensor(group.turns)[operation]
    if forces is not None:
        images = torch.as_tensor(group.images)[operation].to(forces.device)
        forces = torch.take_along_dim(forces, images[..., None], dim=1) @ turns.to(forces)
    if stress is not None:
        turns = turns[:, None].to(stress)
        stress = turns.mT @ stress @ turns
    return Properties(energy, forces, stress)
