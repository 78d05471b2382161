"""Loader: batches of a dataset for training, in an order that any epoch and step can be resumed at."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tumble.batch import Batch, Properties, collate, concatenate
from tumble.data.dataset import Dataset

MAXIMUM_CACHED_PAIRS = 20_000_000
"""Pairs a Loader keeps (about 1.5 GB); beyond, structures are searched again whenever they are needed."""


class Loader:
    """Batches of a dataset for training: pairs searched once per structure, order fixed by (seed, epoch).

    The number of steps is the same in every epoch. A batch holds about `atoms_per_batch` atoms: never more where all
    structures are of one size, at most by the largest structure where they are not.
    """

    def __init__(
        self,
        dataset: Dataset,
        cutoff: float,
        *,
        atoms_per_batch: int = 1024,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        """Search nothing yet: a structure is searched when it is first needed.

        Args:
            dataset: at least one structure.
            cutoff: Å, of the pairs in the batches.
            atoms_per_batch: about how many atoms a batch holds.
            dtype: of positions, vectors, forces and stresses; energies stay float64.
            device: where batches are kept and given.
            seed: of the shuffling.
            shuffle: False keeps the order of the dataset in every epoch.
        """
        if len(dataset) == 0:
            raise ValueError("there is nothing to load: the dataset has 0 structures, at least 1 was expected.")
        if atoms_per_batch < 1:
            raise ValueError(f"atoms_per_batch is {atoms_per_batch}; at least 1 was expected.")
        self.dataset, self.cutoff, self.dtype, self.device = dataset, cutoff, dtype, torch.device(device)
        self.seed, self.shuffle = seed, shuffle
        self._sizes = np.array([len(one) for one in dataset.atoms])
        self._n_steps = _n_steps(self._sizes, atoms_per_batch)
        self._has_stress = any(label.stress is not None for label in dataset.labels)
        self._cache: dict[int, tuple[Batch, Properties]] = {}
        self._cached_pairs = 0

    def __len__(self) -> int:
        """Steps per epoch."""
        return self._n_steps

    def epoch(self, n: int, start: int = 0) -> Iterator[tuple[Batch, Properties]]:
        """The batches of epoch n from step `start` on, exactly those that a whole epoch would give there.

        Yields:
            A batch and its labels: energy (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³; NaN where a label is
            not known; the stress is None if no structure of the dataset has one.
        """
        for indices in self.steps(n)[start:]:
            batches, labels = zip(*(self._load(i) for i in indices), strict=True)
            columns = zip(*labels, strict=True)
            stacked = (None if column[0] is None else torch.cat(column) for column in columns)
            yield concatenate(batches), Properties(*stacked)

    def steps(self, n: int) -> list[list[int]]:
        """Positions in the dataset of the structures of each step of epoch n."""
        order = np.arange(len(self._sizes))
        if self.shuffle:
            order = np.random.default_rng([self.seed, n]).permutation(order)
        return [part.tolist() for part in _balanced(order, self._sizes, self._n_steps)]

    def _load(self, index: int) -> tuple[Batch, Properties]:
        if index in self._cache:
            return self._cache[index]
        try:
            batch = collate([self.dataset.atoms[index]], self.cutoff, dtype=self.dtype, device=self.device)
        except ValueError as error:
            raise ValueError(f"{self.dataset.sources[index]}: {error}") from error
        entry = batch, self._filled(index)
        if self._cached_pairs + batch.n_pairs <= MAXIMUM_CACHED_PAIRS:
            self._cache[index] = entry
            self._cached_pairs += batch.n_pairs
        return entry

    def _filled(self, index: int) -> Properties:
        """Labels of one structure in the shape of a batch, NaN where not known."""
        label, n = self.dataset.labels[index], len(self.dataset.atoms[index])

        def fill(value: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            known = torch.full(shape, torch.nan) if value is None else value.reshape(shape)
            return known.to(device=self.device, dtype=dtype)

        return Properties(
            fill(label.energy, (1,), torch.float64),
            fill(label.forces, (n, 3), self.dtype),
            fill(label.stress, (1, 3, 3), self.dtype) if self._has_stress else None,
        )


def _n_steps(sizes: NDArray[np.int64], limit: int) -> int:
    """Batches that the structures fill: exact for equal sizes, by the mean size otherwise."""
    per_batch = max(1, int(limit / sizes.mean()))
    return -(-len(sizes) // per_batch)


def _balanced(order: NDArray[np.int64], sizes: NDArray[np.int64], n_steps: int) -> list[NDArray[np.int64]]:
    """Consecutive parts of the order, none empty, with about the same number of atoms each."""
    total = np.cumsum(sizes[order])
    goals = total[-1] * np.arange(1, n_steps) / n_steps
    cuts = np.searchsorted(total, goals + 1e-9 * total[-1], side="right")
    for k in range(n_steps - 1):  # a structure larger than a batch must not leave an empty one beside it
        cuts[k] = min(max(cuts[k], cuts[k - 1] + 1 if k else 1), len(order) - (n_steps - 1 - k))
    return np.split(order, cuts)
