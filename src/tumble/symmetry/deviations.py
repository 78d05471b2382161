"""Deviations of a mean over rotations: the mean of deviations, which are linear as answers are."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from tumble.batch import Batch, Properties
from tumble.crystal import SpaceGroup
from tumble.orbit import mean_over, passes
from tumble.orbit.fields import average
from tumble.orbit.streaming import runs
from tumble.potential import Potential
from tumble.rotations import Rotations

Groups = Sequence[SpaceGroup | None]


def mean_deviations(
    potential: Potential, batch: Batch, rotations: Rotations, chunk: int | None, groups: Groups, *, forces: bool
) -> Properties:
    """What `Potential.deviations` says about the mean over a rule; memory does not grow with the number of rotations.

    Args:
        potential: one that knows its uncertainty.
        batch: S structures.
        rotations: the rule.
        chunk: as in `Orbit.of`.
        groups: as in `Orbit.of`.
        forces: of forces and stress too.

    Returns:
        energy (K, S) eV and, with forces, forces (M, N, 3) eV/Å and stress (M, S, 3, 3) eV/Å³; float64.
    """
    if not forces:
        energy = mean_over(_Columns(potential), batch, rotations, chunk, groups).energy
        assert energy is not None
        return Properties(energy.mT)
    found = [_means(potential, one, rotations, chunk, group) for one, group in runs(batch, rotations, groups)]
    energies, *derived = zip(*found, strict=True)
    return Properties(torch.cat(energies).mT, *(torch.cat(parts, 1) for parts in derived))


def _means(
    potential: Potential, batch: Batch, rotations: Rotations, chunk: int | None, group: SpaceGroup | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Means over the orbits, one for each direction; all about one turned copy comes from one question.

    Returns:
        energy (S, K) eV, forces (M, N, 3) eV/Å, stress (M, S, 3, 3) eV/Å³.
    """
    shared: list[Properties] = []
    orbits = [passes(_Direction(potential, shared, 0), batch, rotations, chunk, group)]
    sums: list[list[Tensor]] = []
    for first in orbits[0]:
        if len(orbits) == 1:
            assert shared[0].forces is not None
            more = (_Direction(potential, shared, k) for k in range(1, len(shared[0].forces)))
            orbits += [passes(one, batch, rotations, chunk, group) for one in more]
        pieces = [first, *(next(one) for one in orbits[1:])]
        added = [[average(w, field) for field in answer if field is not None] for _, w, answer in pieces]
        sums = [list(map(torch.add, *pair)) for pair in zip(sums, added, strict=True)] if sums else added
    (energy, *own), *others = sums
    forces, stress = zip(own, *others, strict=True)
    return energy, torch.stack(forces), torch.stack(stress)


@final
class _Columns(Potential):
    """Deviations of energies in the place of energies, (S, K)."""

    is_conservative = False

    def __init__(self, inner: Potential) -> None:
        super().__init__()
        self.inner, self.cutoff, self.species = inner, inner.cutoff, inner.species

    def forward(self, batch: Batch) -> Properties:
        energy = self.inner.deviations(batch).energy
        assert energy is not None
        return Properties(energy.mT)


@final
class _Direction(Potential):
    """Deviations of forces and stress in one direction; the first also asks, and gives those of energies (S, K)."""

    is_conservative = False

    def __init__(self, inner: Potential, shared: list[Properties], direction: int) -> None:
        super().__init__()
        self.inner, self.cutoff, self.species = inner, inner.cutoff, inner.species
        self.shared, self.direction = shared, direction

    def forward(self, batch: Batch) -> Properties:
        energy = None
        if self.direction == 0:
            self.shared[:] = [self.inner.deviations(batch, forces=True)]
            energy = self.shared[0].energy
        _, forces, stress = self.shared[0]
        assert forces is not None and stress is not None
        return Properties(None if energy is None else energy.mT, forces[self.direction], stress[self.direction])
