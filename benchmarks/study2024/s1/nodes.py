"""Many rules on the same structure: each orientation that several of them share is asked about once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from tumble.rotations import Rotations

SAME: Final = 1e-8
"""Largest difference of an element between two matrices that count as one."""


@final
@dataclass(frozen=True, eq=False)
class Nodes:
    """U different orientations, and how K rules weigh them.

    specs:     K names.
    matrices:  (U, 3, 3).
    weights:   (K, U); zero where a rule lacks the orientation, every row sums to 1.
    """

    specs: tuple[str, ...]
    matrices: Tensor
    weights: Tensor

    @classmethod
    def of(cls, specs: Sequence[str]) -> "Nodes":
        """The union of the rules that the specs name."""
        rules = [Rotations.parse(spec) for spec in specs]
        matrices, places = rules[0].matrices[:0], []
        for rule in rules:
            apart = (rule.matrices[:, None] - matrices).abs().amax((2, 3))
            apart = torch.cat([apart, torch.full((len(rule), 1), SAME, dtype=apart.dtype)], dim=1)
            place = apart.argmin(1)
            is_new = place == len(matrices)
            place[is_new] = len(matrices) + torch.arange(int(is_new.sum()))
            matrices = torch.cat([matrices, rule.matrices[is_new]])
            places.append(place)
        weights = torch.zeros(len(rules), len(matrices), dtype=matrices.dtype)
        for row, rule, place in zip(weights, rules, places, strict=True):
            row.index_add_(0, place, rule.weights)
        return cls(tuple(specs), matrices, weights)

    def __len__(self) -> int:
        """U."""
        return len(self.matrices)

    def rotations(self) -> Rotations:
        """The orientations as one list to ask about; as a rule it is exact for nothing."""
        equal = torch.full((len(self),), 1 / len(self), dtype=torch.float64)
        return Rotations(self.matrices, equal, 0, "union")

    def means(self, field: Tensor) -> Tensor:
        """(U, ...) turned-back answers as (K, ...) means of the rules."""
        center = field.mean(0)  # energies are 10⁷ times what is wanted of them
        return center + torch.einsum("ku,u...->k...", self.weights, field - center)
