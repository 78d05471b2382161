"""Energy differences between structures: what of their broken symmetry cancels in a common frame, and what does not."""

from collections.abc import Sequence
from itertools import combinations
from math import gcd
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from tumble.orbit import Orbit
from tumble.units import MEV


class Difference(NamedTuple):
    """How an energy difference between two structures scatters with their orientation.

    first, second:  indices of the structures.
    mean_meV_per_atom:   first less second, averaged over orientations.
    common_meV_per_atom: standard deviation when both are turned together, as they lie to each other in their files.
    random_meV_per_atom: standard deviation when each is turned by itself, √(σ₁² + σ₂²).
    """

    first: int
    second: int
    mean_meV_per_atom: float
    common_meV_per_atom: float
    random_meV_per_atom: float


def energy_differences(orbits: Sequence[Orbit], structures: Sequence[Atoms]) -> list[Difference]:
    """The spread of E₁/N₁ - E₂/N₂ over orientations, for all pairs of structures of one composition ratio.

        common² = Σ_r w_r [ΔE(Q_r) - ΔĒ]²,  random² = σ₁² + σ₂²

    The difference of two orientations of one structure is random too, with √2 σ. Costs no call: the orbits are there.

    Args:
        orbits: of each structure alone, all over the same rule.
        structures: what they are of.

    Returns:
        One for each pair whose atoms are in the same ratio, in the order of the indices; meV/atom.

    Raises:
        ValueError: not one orbit for each structure, or orbits over different rules.
    """
    if len(orbits) != len(structures):
        raise ValueError(
            f"{len(orbits)} orbits were given for {len(structures)} structures; one each was expected, in one order."
        )
    for index, orbit in enumerate(orbits[1:], start=1):
        if not _is_same_rule(orbits[0], orbit):
            raise ValueError(
                f"orbit {index} is over {orbit.rotations.name}, orbit 0 over {orbits[0].rotations.name}; a difference "
                "in a common frame needs both structures in the same orientations. Use one rule for all."
            )
    ratios = [_ratio(one) for one in structures]
    energies = [_per_atom(orbit, len(one)) for orbit, one in zip(orbits, structures, strict=True)]
    return [
        _difference(a, b, energies[a], energies[b], orbits[0].rotations.weights)
        for a, b in combinations(range(len(structures)), 2)
        if ratios[a] == ratios[b]
    ]


def largest(differences: Sequence[Difference]) -> Difference | None:
    """The pair whose difference scatters most in random frames; None if there is no pair."""
    return max(differences, key=lambda one: one.random_meV_per_atom, default=None)


def _difference(first: int, second: int, a: Tensor, b: Tensor, weights: Tensor) -> Difference:
    def variance(values: Tensor) -> float:
        return float(weights @ (values - weights @ values).square())

    return Difference(
        first,
        second,
        MEV * float(weights @ (a - b)),
        MEV * variance(a - b) ** 0.5,
        MEV * (variance(a) + variance(b)) ** 0.5,
    )


def _per_atom(orbit: Orbit, n_atoms: int) -> Tensor:
    """(R,) eV."""
    assert orbit.properties.energy is not None
    return orbit.properties.energy[:, 0].cpu() / n_atoms


def _is_same_rule(a: Orbit, b: Orbit) -> bool:
    return torch.equal(a.rotations.matrices, b.rotations.matrices) and torch.equal(
        a.rotations.weights, b.rotations.weights
    )


def _ratio(atoms: Atoms) -> tuple[tuple[int, int], ...]:
    """Atomic numbers with the smallest whole numbers that their counts are in the ratio of."""
    numbers, counts = np.unique(atoms.numbers, return_counts=True)
    unit = gcd(*counts.tolist())
    return tuple((int(number), int(count) // unit) for number, count in zip(numbers, counts, strict=True))
