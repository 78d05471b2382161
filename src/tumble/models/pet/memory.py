"""Memory as the engine wants it: in large pages, from one call to the next, at the start of a cache line."""

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

CONTAINER = Path("/sys/fs/cgroup/memory.max")
LINE = 64
"""Bytes of a cache line, and of a register of the engine."""


@cache
def plenty() -> int:
    """Bytes above which a call computes twice what it could keep: a quarter of the machine's or container's memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        allowed = int(CONTAINER.read_text())
    except (OSError, ValueError):  # no such system, or "max": no limit
        allowed = total
    return min(total, allowed) // 4


def room(size: int, dtype: torch.dtype) -> Tensor:
    """So many numbers, whatever they are, at the start of a cache line.

    NumPy asks the system for large pages and torch does not: with small ones, addresses are looked up all the time.
    """
    spare = LINE // dtype.itemsize
    memory = torch.from_numpy(np.empty(size + spare, dtype=np.dtype(str(dtype).removeprefix("torch."))))
    start = -memory.data_ptr() % LINE // dtype.itemsize
    return memory[start : start + size]


class Workspace:
    """Memory that calls hand on to each other: fresh pages cost a fifth of a call."""

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self._kept: list[Tensor] = []

    def take(self, size: int, like: Tensor) -> Tensor:
        """At least this many numbers of that type, whatever they are, for nobody else until they are given back."""
        kept = self._kept.pop() if self._kept else None
        if kept is not None and kept.dtype == like.dtype and size <= len(kept) <= 2 * size + 2**20:
            return kept
        del kept  # before the new one is made
        return room(size + size // 16, like.dtype)

    def give(self, buffer: Tensor) -> None:
        """Give it back; only one is kept."""
        self._kept[:] = [buffer]


def addresses(tensors: Sequence[Tensor | None]) -> Any:
    """Where they are, as an array of pointers for C."""
    return (ctypes.c_void_p * len(tensors))(*(None if one is None else one.data_ptr() for one in tensors))
