"""What a training learns from a potential's own orbit: turned copies that should agree, and the mean at its start."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from tumble.batch import Batch, Properties, turn_back
from tumble.data import Dataset
from tumble.jobs.train.extras import OrbitTerm
from tumble.jobs.train.loss import Errors, errors, loss
from tumble.orbit import mean_over
from tumble.potential import Potential, collate_for
from tumble.rotations import Rotations

NODES: Final = {"opposite": "i", "tetrahedral": "T"}


def random_turns(n: int, seed: list[int]) -> Tensor:
    """Random elements of O(3), (n, 3, 3): rotations, half of them with an inversion."""
    first, second = np.random.SeedSequence(seed).generate_state(2)
    signs = np.random.default_rng(second).choice([-1.0, 1.0], size=n)
    return Rotations.random(n, int(first)).matrices * torch.as_tensor(signs)[:, None, None]


def orbit_turns(n: int, term: OrbitTerm, seed: list[int]) -> Tensor:
    """Turns of the copies of n structures, (copies n, 3, 3), copy after copy; each alone is uniformly distributed."""
    if term.nodes == "random" or term.copies == 1:
        return random_turns(term.copies * n, seed)
    rule = Rotations.parse(NODES[term.nodes]).matrices
    n_sets = -(-term.turns // len(rule))
    draw = np.random.default_rng([*seed, n_sets])
    chosen = np.concatenate([draw.permutation(len(rule)) for _ in range(n_sets)])[: term.turns]
    frames = random_turns(n_sets * n, seed).view(n_sets, n, 3, 3)
    return torch.cat([rule[node] @ frames[k // len(rule)] for k, node in enumerate(chosen)])


def repeated(labels: Properties, n: int) -> Properties:
    """The labels of n copies of a batch, copy after copy."""
    return Properties(*(None if one is None else one.repeat(n, *[1] * (one.dim() - 1)) for one in labels))


def deviations(answer: Properties, turns: Tensor, batch: Batch, n: int) -> Errors:
    """Answers about n turned copies, turned back, minus their mean.

    Args:
        answer: about the turned batch.
        turns: (S, 3, 3) how each structure of it was turned.
        batch: n copies of some structures, copy after copy.
        n: copies.

    Returns:
        Energy per atom (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³.
    """
    back = turn_back(answer, turns, batch.structure)
    means = Properties(*(None if one is None else one.unflatten(0, (n, -1)).mean(0) for one in back))
    return errors(back, repeated(means, n), batch)


def variance(answer: Properties, turns: Tensor, batch: Batch, term: OrbitTerm, counts: Tensor | None = None) -> Tensor:
    """The orbit term, (): with squared losses an unbiased estimate of the variance, Σ_r |f_r - mean|² / (turns - 1).

    Args:
        answer: about the turned batch.
        turns: (S, 3, 3) how each structure of it was turned.
        batch: copies of some structures, copy after copy.
        term: how many copies, and what counts.
        counts: as in `loss`.
    """
    return term.turns / (term.turns - 1) * loss(deviations(answer, turns, batch, term.turns), term, counts)


class Anchors:
    """The mean over a rule of what a potential answers about each structure: asked once, then remembered."""

    def __init__(self, potential: Potential, rule: str, dataset: Dataset) -> None:
        """Args:
        potential: with the weights that training started from.
        rule: spec of the rotations.
        dataset: the structures.

        Raises:
            ValueError: the rule is not in the grammar.
        """
        self.potential, self.rotations, self.dataset = potential.eval(), Rotations.parse(rule), dataset
        self._known: dict[int, Properties] = {}

    def __call__(self, indices: Sequence[int], batch: Batch) -> Properties:
        """Energies (S,) eV and forces (N, 3) eV/Å of the structures at these positions of the dataset.

        Args:
            batch: made of these structures; it gives device and precision.
        """
        for index in set(indices) - set(self._known):
            one = collate_for(self.potential, [self.dataset.atoms[index]])
            self._known[index] = mean_over(self.potential, one, self.rotations)
        energies, forces, _ = zip(*(self._known[index] for index in indices), strict=True)
        return Properties(torch.cat(energies), torch.cat(forces).to(batch.positions))
