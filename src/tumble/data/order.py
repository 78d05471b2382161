"""The order of an epoch, where it is cut into steps, and how a step is dealt out to those who work on it together."""

import heapq
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 20
"""Structures whose costs are summed at a time, so that nothing of the size of the dataset is made but the order."""

Integers = NDArray[np.int32] | NDArray[np.int64]


class Steps:
    """The members of each step of an epoch, as a sequence; kept are one order of all structures and its cuts."""

    def __init__(self, order: Integers, cuts: NDArray[np.int64]) -> None:
        """Args:
        order: (S,) positions in the dataset.
        cuts: (steps - 1,) where in the order each step but the first begins, rising.
        """
        self.order, self.cuts = order, cuts

    def __len__(self) -> int:
        """Steps of the epoch."""
        return len(self.cuts) + 1

    def __getitem__(self, step: int) -> list[int]:
        """Positions in the dataset of the structures of a step."""
        step = range(len(self))[step]
        start = self.cuts[step - 1] if step else 0
        end = self.cuts[step] if step < len(self.cuts) else len(self.order)
        members: list[int] = self.order[start:end].tolist()
        return members

    def __iter__(self) -> Iterator[list[int]]:
        """All steps, one after the other."""
        return (self[step] for step in range(len(self)))


def ordered(n_structures: int, seed: list[int] | None) -> Integers:
    """All positions in a dataset, (S,), four bytes each where that is enough; shuffled where a seed is given."""
    dtype: type[np.int32 | np.int64] = np.int32 if n_structures <= 2**31 else np.int64
    order: NDArray[Any] = np.arange(n_structures, dtype=dtype)
    if seed is not None:
        np.random.default_rng(seed).shuffle(order)
    return order


def n_steps(costs: NDArray[np.int64], limit: int) -> int:
    """Steps that the structures fill: exact for equal costs, by the mean cost otherwise."""
    per_step = max(1, int(limit / (_total(costs) / len(costs))))
    return -(-len(costs) // per_step)


def in_steps(order: Integers, costs: NDArray[np.int64], n: int) -> Steps:
    """The order cut into n consecutive steps, none empty, of about the same cost each.

    Args:
        order: (S,) positions in the dataset.
        costs: (S,) of each structure, in the order of the dataset; what costs nothing counts as 1.
        n: steps, at most S.
    """
    total = float(_total(costs))
    goals = total * np.arange(1, n) / n + 1e-9 * total
    cuts = np.empty(n - 1, dtype=np.int64)
    passed, done = 0, 0
    for start in range(0, len(order), BLOCK):
        sums = passed + np.cumsum(np.maximum(costs[order[start : start + BLOCK]], 1))
        until = int(np.searchsorted(goals, sums[-1]))
        cuts[done:until] = start + np.searchsorted(sums, goals[done:until], side="right")
        passed, done = int(sums[-1]), until
    # A structure larger than a step must not leave an empty one beside it: cuts rise by at least 1.
    steps = np.arange(n - 1)
    cuts = np.maximum.accumulate(np.maximum(cuts - steps, 1))
    return Steps(order, np.minimum(cuts, len(order) - n + 1) + steps)


def _total(costs: NDArray[np.int64]) -> int:
    return int(costs.sum()) + int(np.count_nonzero(costs == 0))


def deal(costs: Sequence[int], n: int) -> list[list[int]]:
    """Places of a step's structures in n parts of about equal cost; no two differ by more than the largest structure.

    The longest first, each to the part with the least so far; within a part the places ascend.

    Args:
        costs: (S,) of each structure of the step.
        n: parts; some stay empty where there are fewer structures.
    """
    parts: list[list[int]] = [[] for _ in range(n)]
    loads = [(0, k) for k in range(n)]
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        load, k = loads[0]
        parts[k].append(place)
        heapq.heapreplace(loads, (load + costs[place], k))
    return [sorted(part) for part in parts]
