"""Mixture: steps of several loaders, interleaved at random, each set as often as its weight says."""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tumble.data.loader import Feed, Loader, Step
from tumble.data.workers import Task


class Mixture:
    """Steps of several sets, every step from one: a weight of 2 shows each structure twice per epoch, 0.1 a tenth.

    An epoch is Σ weight × len(loader) steps, rounded to a whole number; that rounding, the same for all sets, is the
    only difference between a weight and how often a structure is seen. A set that an epoch does not finish goes on
    where it stopped in the next one. Loaders that have workers share them.
    """

    def __init__(self, loaders: Sequence[Loader], weights: Sequence[float], seed: int = 0) -> None:
        """Nothing runs yet.

        Args:
            loaders: at least one.
            weights: how often the structures of each are seen in an epoch, > 0.
            seed: of the interleaving.

        Raises:
            ValueError: no loader, not one weight for each, or a weight that is not positive.
        """
        if not loaders or len(loaders) != len(weights):
            raise ValueError(
                f"a mixture has {len(loaders)} loaders and {len(weights)} weights; one weight for each of at least one "
                "loader was expected."
            )
        if not all(0 < weight < np.inf for weight in weights):
            raise ValueError(f"the weights of a mixture are {list(weights)}; all must be finite and > 0.")
        self.loaders, self.weights, self.seed = tuple(loaders), tuple(weights), seed
        self._rates = np.array([weight * len(one) for one, weight in zip(loaders, weights, strict=True)])
        self._n_steps = max(1, round(self._rates.sum()))
        makers, workers = [one.maker for one in loaders], max(one.workers for one in loaders)
        self._feed = Feed(makers, lambda n: _Epoch(self, n), workers, is_same=False)

    def __len__(self) -> int:
        """Steps per epoch."""
        return self._n_steps

    @property
    def waited_s(self) -> float:
        """Seconds that whoever uses the steps has waited for them so far."""
        return self._feed.waited_s

    def epoch(self, n: int, start: int = 0) -> Iterator[Step]:
        """The steps of epoch n from step `start` on, exactly those that a whole epoch would give there.

        Raises:
            ValueError: a structure in which neighbours cannot be searched, with its source.
            RuntimeError: a worker has died.
        """
        return self._feed.epoch(n, start)

    def close(self) -> None:
        """End the workers, if there are any; they start again when a step is asked for."""
        self._feed.close()
        for one in self.loaders:
            one.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def shown(self, n: int) -> NDArray[np.int64]:
        """Steps of each set before epoch n, (sets,).

        Step i of a set is due at (i + 1/2) / rate; of all that ever come, the first n × len(self) are counted.
        """
        wanted = n * self._n_steps
        counts = np.floor(wanted * self._rates / self._rates.sum() + 0.5).astype(np.int64)
        while (excess := int(counts.sum()) - wanted) != 0:  # at most half as often as there are sets
            due = (counts + (0.5 if excess < 0 else -0.5)) / self._rates
            # Of those due at the same time the first set comes first.
            k = int(due.argmin()) if excess < 0 else len(due) - 1 - int(due[::-1].argmax())
            counts[k] += -1 if excess > 0 else 1
        return counts


class _Epoch:
    """The tasks of an epoch of a mixture: for each step its set, two bytes, and how often that set had its turn."""

    def __init__(self, mixture: Mixture, n: int) -> None:
        self.loaders = mixture.loaders
        self.first = mixture.shown(n)
        counts = mixture.shown(n + 1) - self.first
        self.sets = np.repeat(np.arange(len(counts), dtype=np.int16), counts)
        np.random.default_rng([mixture.seed, n]).shuffle(self.sets)

    def __len__(self) -> int:
        return len(self.sets)

    def __getitem__(self, step: int) -> Task:
        k = int(self.sets[step])
        before = int(self.first[k]) + int(np.count_nonzero(self.sets[:step] == k))
        epoch, place = divmod(before, len(self.loaders[k]))
        return self.loaders[k].task(epoch, place, dataset=k)
