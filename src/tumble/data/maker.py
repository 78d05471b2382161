"""Maker: structures of a dataset as a batch with labels and weights, searched when needed."""

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, NamedTuple

import torch
from ase import Atoms
from torch import Tensor

from tumble.batch import Batch, Properties, collate, concatenate
from tumble.data.dataset import Dataset
from tumble.data.facts import BITS, group_of, weight_of
from tumble.data.views import Places, View

MAXIMUM_CACHED_PAIRS = 20_000_000
"""Pairs that are kept (about 1.5 GB); beyond, structures are searched again whenever they are needed."""


class Entry(NamedTuple):
    """Some structures, ready for a model.

    batch:   S structures with their pairs.
    labels:  energy (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³ or None; NaN where not known.
    weights: (S,) factors in the loss.
    """

    batch: Batch
    labels: Properties
    weights: Tensor


class Maker:
    """Makes entries of a dataset's structures, and remembers those of single structures."""

    def __init__(
        self,
        dataset: Dataset,
        cutoff: float,
        dtype: torch.dtype,
        device: torch.device,
        config_weights: Mapping[str, float],
    ) -> None:
        """Search nothing yet.

        Args:
            dataset: the structures.
            cutoff: Å, of the pairs.
            dtype: of positions, vectors, forces, stresses and weights; energies stay float64.
            device: where `kept` keeps and gives entries.
            config_weights: factors in the loss for groups of the dataset; others have 1.
        """
        self.dataset, self.cutoff, self.dtype, self.device = dataset, cutoff, dtype, device
        self.config_weights = dict(config_weights)
        self._has_stress = bool((dataset.known & BITS["stress"]).any())
        self._cache: dict[int, Entry] = {}
        self._cached_pairs = 0

    def kept(self, members: Sequence[int]) -> Entry:
        """The structures at these positions on the device, each searched when it is first needed.

        Raises:
            ValueError: a structure in which neighbours cannot be searched, with its source.
        """
        return joined([self._kept(index) for index in members])

    def made(self, members: Sequence[int]) -> Entry:
        """What `kept` gives, to the last bit, but on the CPU, all structures searched at once and none remembered."""
        atoms = [self.dataset.atoms[index] for index in members]
        try:
            batch, weights = collate(atoms, self.cutoff, dtype=self.dtype), self._weights(atoms)
        except ValueError:
            return joined([self._single(index) for index in members])  # the one at fault is named
        labels = [self._labels(index, len(one)) for index, one in zip(members, atoms, strict=True)]
        return Entry(batch, _stacked(labels), weights)

    def apart(self) -> tuple["Maker", Places | None]:
        """A maker to be sent to other processes, and where its structures are those of this one; None: in order.

        What was found is not sent, and of a choice out of a store only where the store is.
        """
        whole, places = undone(self.dataset)
        other = copy(self)
        other.dataset, other._cache, other._cached_pairs = whole, {}, 0
        return other, places

    def _kept(self, index: int) -> Entry:
        if index in self._cache:
            return self._cache[index]
        entry = moved(self._single(index), self.device)
        if self._cached_pairs + entry.batch.n_pairs <= MAXIMUM_CACHED_PAIRS:
            self._cache[index] = entry
            self._cached_pairs += entry.batch.n_pairs
        return entry

    def _single(self, index: int) -> Entry:
        atoms = [self.dataset.atoms[index]]
        try:
            batch, weights = collate(atoms, self.cutoff, dtype=self.dtype), self._weights(atoms)
        except ValueError as error:
            raise ValueError(f"{self.dataset.sources[index]}: {error}") from error
        return Entry(batch, self._labels(index, batch.n_atoms), weights)

    def _labels(self, index: int, n: int) -> Properties:
        """Labels of one structure in the shape of a batch, NaN where not known."""
        label = self.dataset.labels[index]

        def filled(value: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.full(shape, torch.nan, dtype=dtype) if value is None else value.reshape(shape).to(dtype)

        return Properties(
            filled(label.energy, (1,), torch.float64),
            filled(label.forces, (n, 3), self.dtype),
            filled(label.stress, (1, 3, 3), self.dtype) if self._has_stress else None,
        )

    def _weights(self, atoms: Sequence[Atoms]) -> Tensor:
        factors = [weight_of(one) * self.config_weights.get(group_of(one), 1.0) for one in atoms]
        return torch.tensor(factors, dtype=self.dtype)


def undone(dataset: Dataset) -> tuple[Dataset, Places | None]:
    """What a dataset was chosen from, and the places of its structures there; itself, and None, if it was not."""
    parts: list[Any] = [dataset.atoms, dataset.labels, dataset.sources]
    if not all(isinstance(part, View) and part.places is parts[0].places for part in parts):
        return Dataset(*parts), None
    return Dataset(*(part.whole for part in parts)), parts[0].places


def joined(entries: Sequence[Entry]) -> Entry:
    """The structures of several entries in one, in order."""
    batches, labels, weights = zip(*entries, strict=True)
    return Entry(concatenate(batches), _stacked(labels), torch.cat(weights))


def moved(entry: Entry, device: torch.device) -> Entry:
    """The entry on a device."""
    labels = Properties(*(None if one is None else one.to(device) for one in entry.labels))
    return Entry(Batch(*(one.to(device) for one in entry.batch)), labels, entry.weights.to(device))


def _stacked(labels: Sequence[Properties]) -> Properties:
    columns = zip(*labels, strict=True)
    return Properties(*(None if column[0] is None else torch.cat(column) for column in columns))
