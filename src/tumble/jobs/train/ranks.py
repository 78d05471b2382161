"""Ranks: the processes of one training, and what they tell each other."""

import itertools
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import TypeVar, final

import torch
from torch import Tensor, distributed
from torch.distributed.rendezvous import rendezvous

BUCKET = 25_000_000
"""Bytes that are sent at once: many small tensors would wait for the network one after the other."""
ON_THE_WAY = 3
"""Buckets that are sent before the first of them must have come back; gradients are not copied as a whole."""
PATIENCE_MINUTES = 10.0
"""How long a process waits for the others: longer than a validation or a compilation, shorter than a night."""
NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
CPU = torch.device("cpu")
_meetings = itertools.count()

T = TypeVar("T")
Sent = tuple[distributed.Work, Tensor, list[Tensor]]


@final
@dataclass(frozen=True)
class Ranks:
    """The processes of a training. Each of them holds one, which knows which process it is.

    All of them must call the same methods in the same order. With one process nothing is sent and nobody is asked.

    rank:   which process this is, from 0.
    size:   how many there are.
    device: where this one computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @classmethod
    def start(cls, device: str = "cpu", *, patience_minutes: float = PATIENCE_MINUTES) -> "Ranks":
        """Meet the other processes that torchrun has started; without torchrun there is one.

        They talk by gloo about numbers and objects, and by NCCL about tensors on GPUs.

        Args:
            device: cpu or cuda; on cuda every process of a machine gets the GPU of its LOCAL_RANK.
            patience_minutes: how long to wait for another process, here and later.

        Raises:
            ValueError: the device or the environment does not fit several processes.
            RuntimeError: the others do not come.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(device=torch.device(device))
        if missing := [name for name in NEEDED if name not in os.environ]:
            raise ValueError(
                f"WORLD_SIZE is {size}, but {', '.join(missing)} are not set, by which {size} processes find each "
                "other. Start the training with torchrun, or unset WORLD_SIZE."
            )
        ranks = cls(int(os.environ["RANK"]), size, _own(torch.device(device), int(os.environ["LOCAL_RANK"])))
        backend = "gloo"
        if ranks.device.type == "cuda":
            torch.cuda.set_device(ranks.device)
            backend += ",cuda:nccl"
        patience = timedelta(minutes=patience_minutes)
        with ranks._talking():
            store, *_ = next(rendezvous("env://", ranks.rank, size, timeout=patience))
            # torchrun's store remembers: a second meeting must not read the addresses of the first.
            store = distributed.PrefixStore(f"meeting{next(_meetings)}", store)  # type: ignore[attr-defined]
            distributed.init_process_group(backend, timeout=patience, store=store, rank=ranks.rank, world_size=size)
        return ranks

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and tells the user."""
        return self.rank == 0

    @torch.no_grad()
    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, which get the same bits.

        Args:
            tensors: on this process's device; the same shapes, types and order on every process.
        """
        if self.size == 1:
            return
        sent: deque[Sent] = deque()
        with self._talking():
            for bucket in _buckets(tensors):
                flat = _flat(bucket)
                work = distributed.all_reduce(flat, async_op=True)
                assert work is not None
                sent.append((work, flat, bucket))
                if len(sent) == ON_THE_WAY:
                    _receive(*sent.popleft())
            while sent:
                _receive(*sent.popleft())

    def sum_gradients_(self, weights: Iterable[Tensor]) -> None:
        """Replace the gradients of weights by their sums over all processes.

        A process that had nothing to learn from contributes zeros. Where no process has a gradient it stays None, so
        that an optimizer leaves such a weight alone, as it does with one process.
        """
        if self.size == 1:
            return
        moving = [one for one in weights if one.requires_grad]
        counts = self.sums([float(one.grad is not None) for one in moving])
        gradients = []
        for weight, count in zip(moving, counts, strict=True):
            if count:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                gradients.append(weight.grad)
        self.sum_(gradients)

    def sums(self, values: Sequence[float]) -> list[float]:
        """Sums of numbers over all processes, in double precision."""
        if self.size == 1:
            return [float(value) for value in values]
        total = torch.tensor(values, dtype=torch.float64)
        with self._talking():
            distributed.all_reduce(total)
        result: list[float] = total.tolist()
        return result

    def sum(self, value: float) -> float:
        """Sum of a number over all processes, in double precision."""
        return self.sums([value])[0]

    def any(self, flag: bool) -> bool:
        """Whether it is true in one process at least; all of them get the same answer."""
        return self.sum(float(flag)) > 0

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all processes in their order, on all of them.

        Args:
            items: any number of objects that can be pickled, tensors on the CPU.
        """
        if self.size == 1:
            return list(items)
        parts: list[list[T]] = [[] for _ in range(self.size)]
        with self._talking():
            distributed.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.any(False)

    def close(self) -> None:
        """Leave the others; they notice if they still wait for this process."""
        if self.size == 1:
            return
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # NCCL would wait for calls that the others will never make; it goes with the process, which is about to end.
        if kind is None or self.device.type != "cuda":
            self.close()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = re.sub(r"^\[\S+\] ", "", (str(error).strip().splitlines() or [type(error).__name__])[0])
            raise RuntimeError(
                f"process {self.rank} of {self.size} has lost the others ({reason}). One of them has ended, and its "
                "own message says why, or did not answer in time. Start all of them again and resume."
            ) from error


def _own(device: torch.device, local: int) -> torch.device:
    """The device of the process with this number on its machine."""
    if device.type == "cpu":
        return device
    if device != torch.device("cuda"):
        raise ValueError(
            f"device is {device}, and there are several processes: they train on cpu or cuda, where each finds its own "
            "GPU. Set device to cpu or cuda."
        )
    if local >= torch.cuda.device_count():
        raise ValueError(
            f"process {local} of this machine has no GPU of its own: {torch.cuda.device_count()} were found. "
            "Start as many processes as there are GPUs (torchrun --nproc-per-node)."
        )
    return torch.device("cuda", local)


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in lists of one type and about `BUCKET` bytes, in an order that their shapes and types decide."""
    opened: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        bucket = opened.setdefault(tensor.dtype, [])
        if bucket and sum(one.nbytes for one in bucket) + tensor.nbytes > BUCKET:
            yield bucket
            opened[tensor.dtype] = bucket = []
        bucket.append(tensor)
    yield from (bucket for bucket in opened.values() if bucket)


def _flat(bucket: Sequence[Tensor]) -> Tensor:
    """All numbers of the tensors, one after the other."""
    return torch.cat([one.detach().reshape(-1) for one in bucket])


def _receive(work: distributed.Work, flat: Tensor, bucket: Sequence[Tensor]) -> None:
    work.wait()
    _spread(flat, bucket)


def _spread(flat: Tensor, bucket: Sequence[Tensor]) -> None:
    """Write flat numbers back where they came from."""
    for tensor, part in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
        tensor.copy_(part.view_as(tensor))
