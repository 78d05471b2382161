"""Symmetrized: a potential averaged over rotations, a Potential again."""

from collections.abc import Iterator
from typing import Final, final

import torch
from torch import Tensor

from tumble.batch import Batch, Properties, copies, turn
from tumble.crystal import Aligned, SpaceGroup
from tumble.orbit import PAIRS_PER_PASS, mean_over, n_calls_for
from tumble.packs import part, weight
from tumble.potential import Potential, check_species
from tumble.rotations import Rotations
from tumble.symmetry.deviations import mean_deviations
from tumble.symmetry.operations import operations

PRUNING_TOLERANCE: Final = 1e-6
"""Å. A structure is taken for symmetric if an operation maps every atom this well onto another."""

ALIGNING_TOLERANCE: Final = 1e-3
"""Å. The same, where a rule takes its nodes or its frame from the structure."""


@final
class Symmetrized(Potential):
    """The mean of a potential's turned-back answers over a rule.

    Energy, forces and stress are averaged over the same rule in the same pass, so the forces of a conservative
    potential remain the exact gradient of the averaged energy. Of the symmetry error, every channel 1 <= ℓ <= degree of
    the rule is removed, and what lies above it remains. Memory does not grow with the number of rotations, except in
    training mode, where answers carry the graph of every copy.

    Turns that differ by a symmetry operation of the structure have the same answer, with atoms exchanged; only one of
    them is asked about. This changes nothing but the cost. In training mode all of them are.
    """

    def __init__(
        self, inner: Potential, rotations: Rotations | Aligned, *, chunk: int | None = None, prune: bool = True
    ) -> None:
        """Args:
        inner: any Potential; it is shared, not copied.
        rotations: the rule to average over, or one that takes its nodes or its frame from the point group of each
            structure. Such a mean jumps where the point group changes: it is for a crystal near rest, not for dynamics.
        chunk: turned copies in one call of the inner potential; by default chosen from the number of pairs.
        prune: ask once for what the structure's own symmetry makes equal. It needs a potential that knows no place in
            space and no order of atoms, as every Potential should.
        """
        super().__init__()
        self.inner = inner
        self.rotations = rotations
        self.chunk = chunk
        self.prune = prune
        self.n_calls = 0
        """Questions to the inner potential that the last answer took, all structures together."""
        self.training = inner.training
        self.cutoff, self.species = inner.cutoff, inner.species
        self.is_conservative, self.is_batched = inner.is_conservative, inner.is_batched

    @property
    def dtype(self) -> torch.dtype:
        """That of the inner potential."""
        return self.inner.dtype

    @property
    def device(self) -> torch.device:
        """That of the inner potential."""
        return self.inner.device

    def forward(self, batch: Batch) -> Properties:
        """Mean energy, forces and stress; in training mode they can be differentiated again."""
        plan = self._plan(batch)
        self.n_calls = sum(map(_n_calls, plan))
        if isinstance(self.rotations, Rotations):
            mean = mean_over(self.inner, batch, self.rotations, self.chunk, [group for _, group in plan])
        else:
            means = [
                mean_over(self.inner, one, rule, self.chunk, [group])
                for one, (rule, group) in zip(_singles(batch), plan, strict=True)
            ]
            columns = zip(*means, strict=True)
            mean = Properties(*(None if any(f is None for f in column) else torch.cat(column) for column in columns))
        energy, forces, stress = mean
        dtype = batch.positions.dtype
        return Properties(
            energy, None if forces is None else forces.to(dtype), None if stress is None else stress.to(dtype)
        )

    def deviations(self, batch: Batch, *, forces: bool = False) -> Properties:
        """The mean of the inner potential's deviations over the same rule; their norm is the uncertainty of the mean.

        Turned copies are wrong in nearly the same way: the uncertainty of the mean is that of the mean of the features,
        not the mean of uncertainties and not √R times smaller.

        Raises:
            ValueError: the inner potential does not know how uncertain it is.
        """
        check_species(self.species, batch)
        plan = self._plan(batch)
        if isinstance(self.rotations, Rotations):
            groups = [group for _, group in plan]
            return mean_deviations(self.inner, batch, self.rotations, self.chunk, groups, forces=forces)
        found = [
            mean_deviations(self.inner, one, rule, self.chunk, [group], forces=forces)
            for one, (rule, group) in zip(_singles(batch), plan, strict=True)
        ]
        columns = zip(*found, strict=True)
        return Properties(*(None if any(f is None for f in column) else torch.cat(column, 1) for column in columns))

    def energies_by_atom(self, batch: Batch) -> Tensor:
        """Means over the same rule; every node is asked, for what symmetry makes equal belongs to other atoms."""
        check_species(self.species, batch)
        pairs = zip(_singles(batch), self.rules(batch), strict=True)
        return torch.cat([_mean_by_atom(self.inner, one, rule, self.chunk) for one, rule in pairs])

    @property
    def has_energies_by_atom(self) -> bool:
        """Whether the inner potential has them."""
        return self.inner.has_energies_by_atom

    @property
    def has_uncertainty(self) -> bool:
        """Whether the inner potential has one."""
        return self.inner.has_uncertainty

    @property
    def has_forces_uncertainty(self) -> bool:
        """Whether the inner potential has one."""
        return self.inner.has_forces_uncertainty

    def rules(self, batch: Batch) -> list[Rotations]:
        """The rule that each structure of a batch is averaged over."""
        if isinstance(self.rotations, Rotations):
            return [self.rotations] * batch.n_structures
        return [self.rotations.of(group.point) for group in operations(batch, ALIGNING_TOLERANCE)]

    def calls(self, batch: Batch) -> list[int]:
        """How often the inner potential is asked about each structure."""
        return [_n_calls(one) for one in self._plan(batch)]

    def extra_repr(self) -> str:
        """Rule, number of nodes, degree."""
        if not isinstance(self.rotations, Rotations):
            return f"{self.rotations.name}: at most {self.rotations.n_most} rotations, chosen for each structure"
        odd = ", no parity-odd part" if self.rotations.has_inversion else ""
        return f"{self.rotations.name}: {len(self.rotations)} rotations, exact to degree {self.rotations.degree}{odd}"

    def _plan(self, batch: Batch) -> list[tuple[Rotations, SpaceGroup | None]]:
        """For each structure the rule, and the operations that make some of its nodes equal."""
        carries_graph = self.training and torch.is_grad_enabled()
        groups: list[SpaceGroup | None] = [None] * batch.n_structures
        if self.prune and not carries_graph:
            groups = [None if one.is_trivial else one for one in operations(batch, PRUNING_TOLERANCE)]
        return list(zip(self.rules(batch), groups, strict=True))


def _n_calls(plan: tuple[Rotations, SpaceGroup | None]) -> int:
    rule, group = plan
    return len(rule) if group is None else n_calls_for(rule, group)


def _mean_by_atom(potential: Potential, batch: Batch, rule: Rotations, chunk: int | None) -> Tensor:
    """(N,) eV of one structure."""
    energies = torch.zeros(batch.n_atoms, dtype=torch.float64, device=batch.positions.device)
    for nodes in torch.arange(len(rule)).split(chunk or max(1, PAIRS_PER_PASS // weight(batch))):
        turned = turn(copies(batch, len(nodes)), rule.matrices[nodes].to(energies.device))
        found = potential.energies_by_atom(turned).view(len(nodes), -1)
        energies += rule.weights[nodes].to(energies) @ found
    return energies


def _singles(batch: Batch) -> Iterator[Batch]:
    """Each structure of a batch alone, nothing searched again."""
    if batch.n_structures == 1:
        yield batch
        return
    there = Batch(*(field.cpu() for field in batch))
    for s in range(batch.n_structures):
        yield Batch(*(field.to(batch.positions.device) for field in part(there, slice(s, s + 1))))
