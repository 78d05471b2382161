"""Workers: processes that search pairs and build batches ahead of the one that trains."""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from tumble.batch import Batch, Properties
from tumble.data.maker import Entry, Maker
from tumble.data.views import Places

AHEAD = 4
"""Steps that each worker prepares before they are asked for: enough for one that takes several times the mean."""

ALIGNMENT = 64
"""Bytes, of tensors within the buffer in which they travel."""


class Task(NamedTuple):
    """What a step is made of.

    dataset: index of the set that the structures are from.
    members: positions in that set of all structures of the step, over all processes.
    shares:  of each part of this process the places of its structures among the members; none is empty.
    """

    dataset: int
    members: list[int]
    shares: list[list[int]]

    @property
    def asked(self) -> list[list[int]]:
        """Positions in the set of the structures of each part."""
        return [[self.members[place] for place in places] for places in self.shares]


class Parcel:
    """Entries as one buffer, which goes from process to process, or to a device, in one piece."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        """Copy the tensors of the entries into the buffer."""
        tensors = list(_tensors(entries))
        room = [0 if one is None else -(-one.nbytes // ALIGNMENT) * ALIGNMENT for one in tensors]
        self.buffer = torch.empty(sum(room), dtype=torch.uint8)
        self.layout = [
            None if one is None else (one.dtype, tuple(one.shape), end - size)
            for one, size, end in zip(tensors, room, accumulate(room), strict=True)
        ]
        for one, place in zip(tensors, self.layout, strict=True):
            if one is not None and place is not None:
                _tensor(self.buffer, *place).copy_(one)

    def pin_memory(self) -> "Parcel":
        """Called by torch for a GPU, which then fetches the buffer while it computes."""
        self.buffer = self.buffer.pin_memory()
        return self

    def entries(self, device: torch.device) -> list[Entry]:
        """The entries on a device, without a further copy."""
        buffer = self.buffer.to(device, non_blocking=True)
        tensors = [None if one is None else _tensor(buffer, *one) for one in self.layout]
        n_batch, n = len(Batch._fields), len(Batch._fields) + len(Properties._fields) + 1
        parts = [tensors[k : k + n] for k in range(0, len(tensors), n)]
        return [Entry(Batch(*one[:n_batch]), Properties(*one[n_batch:-1]), one[-1]) for one in parts]  # type: ignore[arg-type]


class Workers:
    """Processes that make the entries of a stream of tasks, some steps ahead, in the order of the tasks.

    They come from a fork server: one process that has imported everything and runs nothing else. Forking the one that
    trains could hang in OpenMP or CUDA; spawning takes seconds and as much memory again for every worker.
    """

    def __init__(self, makers: Sequence[Maker], n: int) -> None:
        """Start the processes.

        Args:
            makers: one for each set; each worker has a copy, except of what a store keeps on disk.
            n: processes.
        """
        self._device = makers[0].device
        others, places = zip(*(one.apart() for one in makers), strict=True)
        self._stream = _Stream(places)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This DataLoader will create")  # the number is the user's choice
            self._loader: DataLoader[Any] | None = DataLoader(
                _Makers(others),
                batch_size=None,
                sampler=self._stream,
                num_workers=n,
                collate_fn=_as_it_is,
                pin_memory=self._device.type == "cuda",
                multiprocessing_context=context,
                generator=torch.Generator(),  # the numbers of the global one belong to the training
                persistent_workers=True,
                prefetch_factor=AHEAD,
                worker_init_fn=_prepare,
            )
        self._steps: Iterator[Any] | None = None

    def begin(self, tasks: Iterator[Task]) -> None:
        """From here on make these tasks; what was under way is dropped."""
        assert self._loader is not None
        self._stream.tasks, self._stream.sent = tasks, deque()
        with _without_main():
            self._steps = iter(self._loader)

    def next(self) -> tuple[Task, list[Entry]]:
        """The next task of the stream, and its entries.

        Raises:
            ValueError: a structure in which neighbours cannot be searched, with its source.
            RuntimeError: a worker has died.
        """
        assert self._steps is not None
        try:
            found = next(self._steps)
        except (RuntimeError, EOFError, OSError) as error:  # the last two: it died while it handed something over
            is_its_own = str(error).startswith("Caught ")
            if is_its_own or (isinstance(error, RuntimeError) and "exited unexpectedly" not in str(error)):
                raise
            self.close()
            raise RuntimeError(
                f"a process that prepares data has died ({error!r}); all were expected to live. What it said is above; "
                "if nothing, memory may have run out. Continue with fewer workers, or with workers=0."
            ) from error
        if isinstance(found, str):
            raise ValueError(found)
        return self._stream.sent.popleft(), found.entries(self._device)

    def close(self) -> None:
        """End the processes."""
        self._steps = self._loader = None  # torch ends them when nobody refers to them


class _Stream:
    """Tasks on their way to the workers, as a sampler of torch."""

    def __init__(self, places: Sequence[Places | None]) -> None:
        self.places = places
        self.tasks: Iterator[Task] = iter(())
        self.sent: deque[Task] = deque()

    def __iter__(self) -> Iterator[tuple[int, list[list[int]]]]:
        for task in self.tasks:
            self.sent.append(task)
            places = self.places[task.dataset]
            yield task.dataset, task.asked if places is None else [places[part].tolist() for part in task.asked]


class _Makers(TorchDataset[Any]):
    """What runs in a worker."""

    def __init__(self, makers: Sequence[Maker]) -> None:
        self.makers = makers

    def __getitem__(self, asked: tuple[int, list[list[int]]]) -> Parcel | str:
        dataset, parts = asked
        try:
            return Parcel([self.makers[dataset].made(members) for members in parts])
        except ValueError as error:
            return str(error)  # raised where the steps are used, without the traceback of another process


def _tensors(entries: Sequence[Entry]) -> Iterator[Tensor | None]:
    for batch, labels, weights in entries:
        yield from (*batch, *labels, weights)


def _tensor(buffer: Tensor, dtype: torch.dtype, shape: tuple[int, ...], start: int) -> Tensor:
    size = torch.Size(shape).numel() * dtype.itemsize
    return buffer[start : start + size].view(dtype).view(shape)


def _as_it_is(found: Any) -> Any:
    return found


def _prepare(worker: int) -> None:
    """What a worker does first."""
    # Ctrl-C reaches every process of a terminal; the one that trains decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Torch looks whether the process that forked is alive; here that is the fork server, which outlives a kill.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _without_main() -> Iterator[None]:
    """Workers do not run the user's script again, which would start a training in each where it has no guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
