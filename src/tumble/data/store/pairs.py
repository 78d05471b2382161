"""Pair counts of a store: searched once for each cutoff, kept in a file of their own that any reader may extend."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble.data.dataset import pair_count
from tumble.data.store.writer import locked

Counts = NDArray[np.int64]

CHUNK = 1000
"""Structures that are searched before their counts are written."""


def known(folder: Path, cutoff: float, n: int) -> Counts:
    """Counts in the folder, of the first n structures or fewer."""
    path = _path(folder, cutoff)
    if not path.is_file():
        return np.zeros(0, dtype=np.int64)
    return np.fromfile(path, dtype="<i4", count=n).astype(np.int64)


def counts(folder: Path, cutoff: float, n: int, read: Callable[[int], Atoms]) -> Counts:
    """Counts of the first n structures; those that are missing are searched, and kept if the folder can be written.

    Where several processes ask at once, one searches and the others wait for it.
    """
    have = known(folder, cutoff, n)
    if len(have) == n:
        return have
    path = _path(folder, cutoff)
    try:
        with locked(folder, f"{path.name}.lock", wait=True), path.open("ab") as file:
            file.truncate(file.tell() // 4 * 4)  # a killed process may have left a part of a number
            begin = file.tell() // 4
            for start in range(begin, n, CHUNK):
                found = [pair_count(read(index), cutoff) for index in range(start, min(start + CHUNK, n))]
                file.write(np.array(found, dtype="<i4").tobytes())
                file.flush()
        return known(folder, cutoff, n)
    except (OSError, ValueError):  # read-only, or full: the counts are worth having all the same
        rest = [pair_count(read(index), cutoff) for index in range(len(have), n)]
        return np.concatenate([have, np.array(rest, dtype=np.int64)])


def _path(folder: Path, cutoff: float) -> Path:
    return folder / f"pairs-{float(cutoff)!r}.bin"
