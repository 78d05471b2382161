"""Loader: a dataset in steps for training, in an order that any epoch and step can be resumed at."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tumble.batch import Batch, Properties
from tumble.data.dataset import Dataset
from tumble.data.maker import Entry, Maker
from tumble.data.order import Steps, deal, in_steps, n_steps, ordered
from tumble.data.workers import Task, Workers


class Part(NamedTuple):
    """What one forward pass sees of a step.

    batch:   S structures with their pairs.
    labels:  energy (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³; NaN where a label is not known; the stress is
             None if no structure of the dataset has one.
    weights: (S,) factors of the structures in the loss.
    members: S positions in the dataset.
    places:  S positions within the whole step, ascending.
    """

    batch: Batch
    labels: Properties
    weights: Tensor
    members: list[int]
    places: list[int]


class Step(NamedTuple):
    """A step of the optimizer.

    parts:   those of this process; fewer than asked for, or none, where a step has few structures.
    members: positions in the dataset of the structures of the whole step, over all processes.
    dataset: index of the dataset in the mixture.
    """

    parts: list[Part]
    members: list[int]
    dataset: int


class Plan(Protocol):
    """The tasks of an epoch, as a sequence."""

    def __len__(self) -> int:
        """Steps of the epoch."""
        ...

    def __getitem__(self, step: int) -> Task:
        """What a step is made of."""
        ...


class Feed:
    """The steps of a plan, made in this process, or by workers that go on ahead, into the next epoch too."""

    def __init__(self, makers: Sequence[Maker], plan: Callable[[int], Plan], workers: int, *, is_same: bool) -> None:
        """Nothing runs yet.

        Args:
            makers: one for each dataset.
            plan: of an epoch.
            workers: processes; 0 makes steps here, and remembers the structures.
            is_same: all epochs are like the first.
        """
        self.waited_s = 0.0
        self._makers, self._plan, self._n_workers, self._is_same = makers, plan, workers, is_same
        self._workers: Workers | None = None
        self._place = (-1, -1)

    def epoch(self, n: int, start: int) -> Iterator[Step]:
        """The steps of epoch n from step `start` on."""
        began, n = time.perf_counter(), 0 if self._is_same else n
        plan = self._plan(n)
        for step in range(start, len(plan)):
            task, entries = self._prepared(n, step, len(plan)) if self._n_workers else self._made(plan[step])
            parts = [
                Part(*entry, members, places)
                for entry, members, places in zip(entries, task.asked, task.shares, strict=True)
            ]
            self.waited_s += time.perf_counter() - began
            yield Step(parts, task.members, task.dataset)
            began = time.perf_counter()

    def close(self) -> None:
        """End the workers, if there are any; they start again when a step is asked for."""
        if self._workers is not None:
            self._workers.close()
        self._workers = None

    def _made(self, task: Task) -> tuple[Task, list[Entry]]:
        return task, [self._makers[task.dataset].kept(members) for members in task.asked]

    def _prepared(self, n: int, step: int, n_steps: int) -> tuple[Task, list[Entry]]:
        if self._workers is None:
            self._workers, self._place = Workers(self._makers, self._n_workers), (-1, -1)
        if self._place != (n, step):
            self._workers.begin(self._tasks(n, step))
        # Until the step is there, the place of the workers is not known.
        self._place = (-1, -1)
        try:
            found = self._workers.next()
        except RuntimeError:
            self.close()
            raise
        self._place = (n, step + 1) if step + 1 < n_steps else (self._after(n), 0)
        return found

    def _tasks(self, n: int, start: int) -> Iterator[Task]:
        while True:
            plan = self._plan(n)
            yield from (plan[step] for step in range(start, len(plan)))
            n, start = self._after(n), 0

    def _after(self, n: int) -> int:
        return n if self._is_same else n + 1


@dataclass(eq=False, repr=False)
class Loader:
    """A dataset in steps: the order fixed by (seed, epoch), the structures of a step by nothing else.

    The number of steps is the same in every epoch. A step holds about `atoms_per_batch` atoms: never more where all
    structures are of one size, at most by the largest structure where they are not; or so with pairs. Each step is
    dealt out to the processes, and then to the parts of each, with about as many pairs for everybody.

    dataset:         at least one structure.
    cutoff:          Å, of the pairs.
    atoms_per_batch: about how many atoms a step holds, over all processes.
    pairs_per_batch: about how many pairs, instead of atoms.
    parts:           in which a process gets its share of a step, at most.
    rank:            of this process.
    world:           processes that work on a step together.
    workers:         processes that search pairs ahead, at every epoch anew; 0: searched here when first needed, kept.
    dtype:           of positions, vectors, forces, stresses and weights; energies stay float64.
    device:          where batches are given.
    seed:            of the shuffling.
    shuffle:         False keeps the order of the dataset in every epoch.
    config_weights:  factors in the loss for groups of the dataset, besides the weights of its structures.
    """

    dataset: Dataset
    cutoff: float
    _: KW_ONLY
    atoms_per_batch: int = 256
    pairs_per_batch: int | None = None
    parts: int = 1
    rank: int = 0
    world: int = 1
    workers: int = 0
    dtype: torch.dtype = torch.float64
    device: torch.device | str = "cpu"
    seed: int = 0
    shuffle: bool = True
    config_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Search nothing yet, except the pairs that are counted: where steps hold pairs, or are dealt out."""
        if len(self.dataset) == 0:
            raise ValueError("there is nothing to load: the dataset has 0 structures, at least 1 was expected.")
        for name, least in (("atoms_per_batch", 1), ("pairs_per_batch", 1), ("parts", 1), ("world", 1), ("workers", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} is {value}; at least {least} was expected.")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank is {self.rank} in a world of {self.world}; 0 to {self.world - 1} was expected.")
        device = torch.device(self.device)
        self.maker = Maker(self.dataset, self.cutoff, self.dtype, device, self.config_weights)
        self._n_steps = n_steps(self._costs, self.pairs_per_batch or self.atoms_per_batch)
        self._latest: tuple[int, Steps] | None = None
        self._feed = Feed([self.maker], lambda n: _Epoch(self, n), self.workers, is_same=not self.shuffle)

    def __len__(self) -> int:
        """Steps per epoch, whatever rank, world, parts and workers."""
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

    def step_members(self, n: int) -> Steps:
        """Positions in the dataset of the structures of each step of epoch n."""
        n = n if self.shuffle else 0
        if self._latest is None or self._latest[0] != n:
            self._latest = None  # one order at a time: it is what there is the most of
            order = ordered(len(self.dataset), [self.seed, n] if self.shuffle else None)
            self._latest = n, in_steps(order, self._costs, self._n_steps)
        return self._latest[1]

    def task(self, n: int, step: int, dataset: int = 0) -> Task:
        """What this process does in a step of epoch n.

        Args:
            n: the epoch.
            step: of the epoch.
            dataset: what number the dataset has in a mixture.
        """
        members = self.step_members(n)[step]
        if self.world == self.parts == 1:
            return Task(dataset, members, [list(range(len(members)))])
        costs = np.maximum(self._pairs[members], 1).tolist()  # a lone atom costs something, too
        mine = deal(costs, self.world)[self.rank]
        shares = [[mine[k] for k in part] for part in deal([costs[place] for place in mine], self.parts)]
        return Task(dataset, members, [places for places in shares if places])

    def close(self) -> None:
        """End the workers, if there are any; they start again when a step is asked for."""
        self._feed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def _pairs(self) -> NDArray[np.int64]:
        return self.dataset.pair_counts(self.cutoff)

    @property
    def _costs(self) -> NDArray[np.int64]:
        return self._pairs if self.pairs_per_batch else self.dataset.sizes


class _Epoch:
    """The tasks of an epoch of a loader."""

    def __init__(self, loader: Loader, n: int) -> None:
        self.loader, self.n = loader, n

    def __len__(self) -> int:
        return len(self.loader)

    def __getitem__(self, step: int) -> Task:
        return self.loader.task(self.n, step)
