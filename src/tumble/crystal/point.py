"""PointGroup: the turns that leave a structure unchanged, in its own orientation."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tumble.rotations import Rotations, character_sums, find

SAME_ORIENTATION: Final = 1e-3
"""Largest difference of matrix elements of two turns that count as one (0.06 degrees)."""

_HIGHEST: Final = 12
"""Every finite point group has an invariant with 1 <= ℓ <= 6, every infinite one but that of an atom has ℓ = 1 or 2."""


@dataclass(frozen=True, eq=False)
class PointGroup:
    """The turns x -> x hᵀ that leave a structure unchanged, up to a translation.

    matrices: (H, 3, 3) float64, all of a finite group; of an infinite one, one for each of its connected parts.
    axes:     (K, 3) directions about which any turn is a symmetry: none; 1 if all atoms are on a line; 3 for one atom.
    """

    matrices: Tensor
    axes: Tensor

    @property
    def is_finite(self) -> bool:
        """Whether there are finitely many operations."""
        return len(self.axes) == 0

    def contains(self, matrices: Tensor) -> Tensor:
        """(R,) whether each of (R, 3, 3) orthogonal matrices is an operation, within `SAME_ORIENTATION`."""
        if self.is_finite:
            return torch.ge(find(matrices, self.matrices, SAME_ORIENTATION), 0)
        if len(self.axes) == 3:
            return torch.ones(len(matrices), dtype=torch.bool)
        rest = self.matrices.mT[None] @ matrices[:, None]
        is_about = ((rest @ self.axes[0]) - self.axes[0]).abs().amax(-1) <= SAME_ORIENTATION
        return torch.any(is_about & (torch.linalg.det(rest) > 0), dim=1)

    def rule(self) -> Rotations:
        """The operations as a rule: a mean over it is exactly symmetric under the structure's own point group.

        Raises:
            ValueError: there are infinitely many operations.
        """
        lowest = self.lowest_channel()
        if not self.is_finite or lowest is None:
            raise ValueError(
                "a linear molecule, a straight chain or an isolated atom has infinitely many point operations; a rule "
                'needs finitely many. Use "o3:L" or a polyhedral group.'
            )
        weights = torch.full((len(self.matrices),), 1 / len(self.matrices), dtype=torch.float64)
        return Rotations(self.matrices, weights, lowest - 1, "crystal")

    def sampled(self, l_max: int) -> Tensor:
        """Operations (H', 3, 3) whose mean is that over the whole group for every ℓ <= l_max: all, if it is finite.

        Args:
            l_max: how many turns about the axis of a linear structure are needed, less one.
        """
        if self.is_finite:
            return self.matrices
        angles = torch.arange(l_max + 1, dtype=torch.float64) * (2 * torch.pi / (l_max + 1))
        turns: Tensor = torch.linalg.matrix_exp(angles[:, None, None] * _cross(self.axes[0]))
        return (self.matrices[:, None] @ turns[None]).reshape(-1, 3, 3)

    def channels(self, l_max: int) -> Tensor:
        """Number of independent invariants of each channel, n_ℓσ = |P|⁻¹ Σ_h χ_ℓσ(h).

        Where it is zero, no potential whatsoever has power in its energy.

        Returns:
            (2, l_max + 1) int64: [0] proper, [1] pseudo.
        """
        if len(self.axes) == 3:
            return torch.eye(2 * (l_max + 1), dtype=torch.int64)[0].reshape(2, -1)
        operations = self.sampled(l_max)
        one = torch.ones(1, 1, dtype=torch.float64)
        each = torch.ones(len(operations), 1, dtype=torch.float64) / len(operations)
        identity = torch.eye(3, dtype=torch.float64)[None]
        return character_sums(identity, one, operations, each, l_max)[..., 0].round().long()

    def lowest_channel(self) -> int | None:
        """The smallest ℓ >= 1 that the energy of this structure can have; None for an isolated atom."""
        allowed = self.channels(_HIGHEST).any(0)[1:].nonzero()
        return int(allowed[0, 0]) + 1 if len(allowed) else None


def _cross(axis: Tensor) -> Tensor:
    """The matrix that turns a vector about an axis infinitesimally."""
    x, y, z = axis.tolist()
    return torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
