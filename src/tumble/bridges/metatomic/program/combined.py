"""Parts of a program made of parts: sums, averages over rotations, and the derivative in place of a direct head."""

# mypy: disable-error-code="no-untyped-call, no-any-return, operator"

from collections.abc import Sequence
from typing import Tuple  # noqa: UP035  (TorchScript reads it)

import torch
from torch import Tensor, nn

from tumble.bridges.metatomic.program.seen import (
    Exact,
    Said,
    Seen,
    copied,
    counted,
    forces_and_stress,
    moved,
    nothing,
)
from tumble.rotations import Rotations

PAIRS_PER_PASS = 30_000
"""Pairs in one call of what is averaged; what is above it is computed one copy after the other."""


class Total(nn.Module):
    """A sum of parts, of which all but the first have a factor."""

    def __init__(self, parts: Sequence[nn.Module], factors: Sequence[float]) -> None:
        super().__init__()
        self.parts, self.factors = nn.ModuleList(parts), [float(one) for one in factors]

    def forward(self, seen: Seen, has_direct: bool, has_features: bool) -> Said:
        """The sum of what the parts say, but for features."""
        total = Said(seen.counts, seen.vectors, seen.vectors, seen.counts)
        for k, part in enumerate(self.parts):
            said = part(seen, has_direct, False)
            total = said if k == 0 else combined(total, said, self.factors[k])
        return Said(total.energies, total.forces, total.stress, nothing(total.energies))


class Derived(nn.Module):
    """A part whose derivative stands where others have direct heads."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, seen: Seen, has_direct: bool, has_features: bool) -> Said:
        """Energies, and, as direct forces and stress, their derivatives."""
        said = self.inner(seen, False, has_features)
        if not has_direct:
            return said
        of_counted = self.slope(seen)
        stress = forces_and_stress(of_counted, seen)[1]
        if bool((seen.counts == 1).all()):
            return Said(said.energies, forces_and_stress(of_counted, seen)[0], stress, said.features)
        # The force on an atom is the slope of the energies of its neighbours too, whether they count or not.
        every = counted(seen, torch.ones_like(seen.counts))
        return Said(said.energies, forces_and_stress(self.slope(every), every)[0], stress, said.features)

    def slope(self, seen: Seen) -> Tensor:
        """The derivative of the energy by the vectors, (P, 3)."""
        was_enabled = torch.is_grad_enabled()  # who asks for direct forces may have switched derivatives off
        torch.set_grad_enabled(True)
        vectors = seen.vectors.detach().requires_grad_()
        said = self.inner(moved(seen, vectors), False, False)
        slope = gradient(said.energies, vectors)
        torch.set_grad_enabled(was_enabled)
        return slope


class Averaged(nn.Module):
    """The mean of a part over rotations, its answers turned back; a few turned copies at a time."""

    def __init__(self, inner: nn.Module, rotations: Rotations) -> None:
        super().__init__()
        self.inner = inner
        self.turns, self.weights = Exact(rotations.matrices), Exact(rotations.weights)
        self.pairs_per_pass = PAIRS_PER_PASS

    def forward(self, seen: Seen, has_direct: bool, has_features: bool) -> Said:
        """The mean.

        Where only sums over structures are asked for, every pass is differentiated at once and then forgotten, and the
        mean takes its slope from theirs: memory does not grow with the number of rotations.
        """
        turns, weights = self.turns(seen.vectors), self.weights(seen.vectors)
        n_pass = max(1, self.pairs_per_pass // max(len(seen.center), len(seen.numbers), 1))
        forgets = seen.is_whole and seen.vectors.requires_grad and torch.is_grad_enabled()
        energies, none = torch.zeros_like(seen.counts), nothing(seen.counts)
        mean = Said(energies, none, none, none)
        slope = torch.zeros_like(seen.vectors, dtype=torch.float64)
        for start in range(0, len(turns), n_pass):
            turn, weight = turns[start : start + n_pass], weights[start : start + n_pass]
            if forgets:
                said, of_pairs = self.differentiated(seen, turn, has_direct, has_features)
                slope = slope + (weight[:, None, None] * of_pairs).sum(0)
            else:
                many = copied(seen, turned(seen.vectors, turn))
                said = self.inner(many, has_direct, has_features)
            mean = summed(mean, turned_back(said, turn, len(seen.numbers)), weight)
        energies = mean.energies
        if forgets:
            linear = (slope * (seen.vectors - seen.vectors.detach()).double()).sum(1)
            energies = energies.index_add(0, seen.center, linear)
        dtype = seen.vectors.dtype
        return Said(energies, mean.forces.to(dtype), mean.stress.to(dtype), mean.features)

    def differentiated(self, seen: Seen, turn: Tensor, has_direct: bool, has_features: bool) -> Tuple[Said, Tensor]:  # noqa: UP006
        """What the part says of turned copies, without a graph, and the slopes of their energies, (r, P, 3)."""
        vectors = turned(seen.vectors.detach(), turn).requires_grad_()
        said = self.inner(copied(seen, vectors), has_direct, has_features)
        slope = gradient(said.energies, vectors)
        forces, stress, features = said.forces.detach(), said.stress.detach(), said.features.detach()
        return Said(said.energies.detach(), forces, stress, features), torch.matmul(slope.double(), turn)


def combined(total: Said, said: Said, factor: float) -> Said:
    """A sum with a part added; what one of them does not say, the sum does not say."""
    forces = stress = nothing(total.energies)
    if len(total.forces) > 0 and len(said.forces) > 0:
        forces = total.forces + factor * said.forces
    if len(total.stress) > 0 and len(said.stress) > 0:
        stress = total.stress + factor * said.stress
    return Said(total.energies + factor * said.energies, forces, stress, nothing(total.energies))


def gradient(energies: Tensor, vectors: Tensor) -> Tensor:
    """The derivative of a sum of energies; zero where there is no pair to depend on."""
    slope = torch.autograd.grad([energies.sum() + 0.0 * vectors.sum()], [vectors])[0]
    return torch.zeros_like(vectors) if slope is None else slope


def turned(vectors: Tensor, turns: Tensor) -> Tensor:
    """Vectors (P, 3) turned by each of (r, 3, 3): (r, P, 3)."""
    return torch.matmul(vectors, turns.to(vectors.dtype).transpose(1, 2))


def turned_back(said: Said, turns: Tensor, n_atoms: int) -> Said:
    """What was said of r turned copies, with a leading axis r, in the frame before the turn; float64."""
    r = len(turns)
    forces, stress, features = said.forces, said.stress, said.features
    if len(forces) > 0:
        forces = torch.matmul(forces.double().view(r, n_atoms, 3), turns)
    if len(stress) > 0:
        stress = torch.matmul(turns.transpose(1, 2)[:, None], stress.double().view(r, -1, 3, 3))
        stress = torch.matmul(stress, turns[:, None])
    if len(features) > 0:
        features = features.view(r, n_atoms, -1)
    return Said(said.energies.view(r, n_atoms), forces, stress, features)


def summed(total: Said, said: Said, weights: Tensor) -> Said:
    """A total with what was said of r copies added, each with its weight."""
    return Said(
        added(total.energies, said.energies, weights),
        added(total.forces, said.forces, weights),
        added(total.stress, said.stress, weights),
        added(total.features, said.features, weights),
    )


def added(total: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """A total, empty before the first, with the weighted sum of values (r, ...) added."""
    if len(values) == 0:
        return total
    shape = [len(weights)] + [1] * (values.dim() - 1)
    mean = (weights.view(shape) * values).sum(0)
    return mean if len(total) == 0 else total + mean
