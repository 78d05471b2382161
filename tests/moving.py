"""Potentials and structures with simple dynamics, for the tests."""

from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from tumble.batch import Batch, Properties
from tumble.models.pair import LennardJones
from tumble.potential import Gradient, Potential

THERMOSTATS: Final = ("svr", "langevin", "nhc")
ENSEMBLES: Final[list[dict[str, str]]] = [
    {"ensemble": "nve"},
    *({"ensemble": "nvt", "thermostat": one} for one in THERMOSTATS),
    *(
        {"ensemble": "npt", "thermostat": one, "barostat": barostat}
        for one in THERMOSTATS
        for barostat in ("isotropic", "anisotropic")
    ),
]
"""All that can be chosen, as settings."""


@final
class Springs(Potential):
    """Every atom on a spring, E = ½ Σ k (x - a)², with a curl κ ẑ × (x - a); it counts its calls."""

    cutoff, species, is_conservative = 0.0, None, True

    def __init__(
        self, k: float | Sequence[float], curl: float = 0.0, *, anchors: Any = 0.0, stress: bool = True
    ) -> None:
        super().__init__()
        self.k = torch.as_tensor(k, dtype=torch.float64).expand(3)
        self.anchors = torch.as_tensor(anchors, dtype=torch.float64)
        self.curl, self.has_stress, self.n_calls = curl, stress, 0

    def forward(self, batch: Batch) -> Properties:
        self.n_calls += 1
        x = batch.positions - self.anchors
        energies = torch.zeros(batch.n_structures, dtype=torch.float64)
        energies = energies.index_add(0, batch.structure, 0.5 * (self.k * x**2).sum(1))
        around = torch.stack([-x[:, 1], x[:, 0], torch.zeros_like(x[:, 0])], 1)
        stress = torch.zeros(batch.n_structures, 3, 3, dtype=torch.float64) if self.has_stress else None
        return Properties(energies, -self.k * x + self.curl * around, stress)


def row(symbols: str) -> Atoms:
    """Atoms 3 Å apart, anchors of springs."""
    atoms = Atoms(symbols)
    atoms.positions[:, 0] = 3.0 * np.arange(len(atoms))
    return atoms


def argon() -> Gradient:
    return Gradient(LennardJones(0.0104, 3.4, cutoff=5.0))


def argon_crystal(a: float = 5.3) -> Atoms:
    return bulk("Ar", cubic=True, a=a).repeat(2)
