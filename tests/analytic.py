"""Potentials with closed-form answers about rotations, for the tests."""

from collections.abc import Callable
from typing import final

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from tumble.batch import Batch, Properties, to_atoms
from tumble.potential import Gradient, Model, Outputs, Potential

PairEnergy = Callable[[Tensor, Tensor, Tensor], Tensor]


@final
class PairFunction(Model):
    """Energy of each directed pair from its vector (P, 3) and the numbers (P,) of its atoms, half on each center."""

    def __init__(self, function: PairEnergy, cutoff: float = 3.0) -> None:
        super().__init__()
        self.function = function
        self.cutoff, self.species = cutoff, None
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, batch: Batch) -> Outputs:
        numbers = batch.numbers
        energies = self.function(batch.vectors, numbers[batch.center], numbers[batch.neighbor])
        total = torch.zeros(batch.n_atoms, dtype=energies.dtype).index_add(0, batch.center, energies / 2)
        return Outputs(self.scale * total)


def skewed_dimer(epsilon: float = 0.3) -> Gradient:
    """E = (r - 1)² + ε (r̂·ẑ)²."""

    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        r = v.norm(dim=1)
        return (r - 1) ** 2 + epsilon * (v[:, 2] / r) ** 2

    return Gradient(PairFunction(energy))


def quartic(epsilon: float = 0.3, cutoff: float = 3.0) -> Gradient:
    """E = ε Σ_pairs (x⁴ + y⁴ + z⁴) / r⁴."""

    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        return epsilon * (v**4).sum(1) / v.square().sum(1) ** 2

    return Gradient(PairFunction(energy, cutoff))


def polar(epsilon: float = 0.3) -> Gradient:
    """E = ε r̂·ẑ from the lighter to the heavier atom: pure ℓ = 1, of odd parity."""

    def energy(v: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return epsilon * v[:, 2] * torch.sign(j - i) / v.norm(dim=1)

    return Gradient(PairFunction(energy))


def lopsided(cutoff: float = 3.0) -> Gradient:
    """A pair potential with springs, even and odd anisotropy, all of it vanishing smoothly at the cutoff."""

    def energy(v: Tensor, i: Tensor, j: Tensor) -> Tensor:
        r = v.norm(dim=1)
        taper = (1 - (r / cutoff) ** 2) ** 3
        even = (
            0.3 * (v @ torch.tensor([0.3, -0.5, 0.8], dtype=v.dtype)) ** 2
            + 0.1 * v[:, 0] ** 4
            - 0.2 * v[:, 1] * v[:, 2]
        )
        odd = torch.sign(j - i) * (0.4 * v[:, 0] + 0.2 * v[:, 0] * v[:, 1] * v[:, 2] + 0.1 * v[:, 2] ** 3)
        return taper * ((r - 1.5) ** 2 + even + odd)

    return Gradient(PairFunction(energy, cutoff))


@final
class Handed(Potential):
    """E = ε a·(b × c) of the vectors from atom 0 to atoms 1, 2, 3: a pseudoscalar, and no forces."""

    cutoff, species, is_conservative = 0.0, None, True

    def forward(self, batch: Batch) -> Properties:
        x = batch.positions.reshape(batch.n_structures, 4, 3)
        return Properties(0.3 * torch.linalg.det(x[:, 1:] - x[:, :1]))


@final
class Foreigner(Potential):
    """Knows only Atoms, as an engine would: E = ½ Σ z² about the centroid, with its forces; no pairs."""

    cutoff, species, is_conservative = 0.0, None, True

    def forward(self, batch: Batch) -> Properties:
        energies, forces = [], []
        for atoms in to_atoms(batch):
            z = torch.as_tensor(atoms.positions[:, 2] - atoms.positions[:, 2].mean())
            energies.append(0.5 * z.square().sum())
            forces.append(torch.stack([torch.zeros_like(z), torch.zeros_like(z), -z], 1))
        return Properties(torch.stack(energies), torch.cat(forces))


@final
class Recorder(Potential):
    """Passes everything on, and remembers how many structures, atoms and pairs each call had."""

    def __init__(self, inner: Potential) -> None:
        super().__init__()
        self.inner = inner
        self.cutoff, self.species, self.is_conservative = inner.cutoff, inner.species, inner.is_conservative
        self.calls: list[tuple[int, int, int]] = []

    def forward(self, batch: Batch) -> Properties:
        self.calls.append((batch.n_structures, batch.n_atoms, batch.n_pairs))
        return self.inner(batch)


def dimer(symbols: str = "HF", r: float = 1.2) -> Atoms:
    """Two atoms along an arbitrary direction."""
    start = np.array([0.1, 0.2, 0.3])
    return Atoms(symbols, [start, start + r * np.array([0.36, 0.48, 0.8])])
