"""What PET is told about a whole structure: its total charge and its spin multiplicity."""

from typing import cast

import torch
from torch import Tensor, nn

from tumble.batch import UNCLEAR, Batch
from tumble.models.pet.settings import PETSettings


class Conditioning(nn.Module):
    """A learned vector for every charge and every multiplicity; zero for all of them before training."""

    def __init__(self, settings: PETSettings) -> None:
        super().__init__()
        width = settings.d_node
        self.max_charge, self.max_multiplicity = settings.max_charge, settings.max_spin_multiplicity
        self.charge_embedding = nn.Embedding(2 * self.max_charge + 1, width)
        self.spin_multiplicity_embedding = nn.Embedding(self.max_multiplicity, width)
        gate = nn.Linear(width, width)
        nn.init.zeros_(gate.weight)
        nn.init.zeros_(gate.bias)
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), gate)

    def forward(self, batch: Batch) -> Tensor:
        """What is added to the features of every atom, (N, d_node).

        Raises:
            ValueError: a charge or a multiplicity that is not in the tables, or no whole number.
        """
        _check("charge", batch.charge, -self.max_charge, self.max_charge)
        _check("spin_multiplicity", batch.multiplicity, 1, self.max_multiplicity)
        charge = self.charge_embedding(batch.charge + self.max_charge)
        multiplicity = self.spin_multiplicity_embedding(batch.multiplicity - 1)
        by_structure: Tensor = self.project(torch.cat([charge, multiplicity], dim=1))
        return by_structure[batch.structure]


def _check(name: str, values: Tensor, lowest: int, highest: int) -> None:
    outside = (values < lowest) | (values > highest)
    if not bool(outside.any()):
        return
    structure = int(outside.nonzero()[0, 0])
    value = cast(int, values[structure].item())
    shown = "not a whole number" if value == UNCLEAR else str(value)
    raise ValueError(
        f"the {name} of structure {structure} is {shown}; this model knows whole numbers from {lowest} to {highest}. "
        f'Correct atoms.info["{name}"], or use a model with a larger max_{name}.'
    )
