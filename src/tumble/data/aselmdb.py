"""Rows of an .aselmdb file, the form in which OMat24, OMol25 and their like are published.

An LMDB with the keys "1", "2", ... up to the number in "nextid", less those in "deleted_ids"; what they hold is JSON
compressed with zlib: what an ASE database says of a row.

Source: the layout as written by fairchem's `LMDBDatabase` (https://github.com/facebookresearch/fairchem).
"""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.jsonio import decode

from tumble.data.extxyz import Unread

RESULTS = ("energy", "forces", "stress")


def frames(path: Path, start: int = 0) -> Iterator[Unread]:
    """The rows in the order of their ids, each decoded when it is asked for.

    Args:
        path: of the file.
        start: rows before this one, counted from 0 without those that were deleted, are passed over.

    Raises:
        ImportError: no module lmdb.
        ValueError: no such file, or a row that is missing; in its turn.
    """
    try:
        import lmdb
    except ImportError as error:
        raise ImportError(f"{str(path)!r} needs the module lmdb: pip install 'tumble[lmdb]'") from error
    # Neither a lock file nor read-ahead: a published file may lie in a folder that cannot be written, and be huge.
    with (
        lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False) as environment,
        environment.begin() as reading,
    ):
        deleted = set(_decoded(reading.get(b"deleted_ids")) or ())
        ids = (one for one in range(1, _decoded(reading.get(b"nextid")) or 1) if one not in deleted)
        for frame, one in enumerate(ids):
            if frame >= start:
                yield frame, _parser(one, reading.get(str(one).encode()))


def _decoded(content: bytes | None) -> Any:
    return None if content is None else decode(zlib.decompress(content).decode(), always_array=False)


def _parser(identity: int, content: bytes | None) -> Callable[[], Atoms]:
    def parse() -> Atoms:
        if content is None:
            raise ValueError(f"it has no row {identity}, and does not say that it was deleted")
        return _atoms(_decoded(content))

    return parse


def _atoms(row: dict[str, Any]) -> Atoms:
    info = {**row.get("key_value_pairs", {}), **(row.get("data") or {})}
    atoms = Atoms(row["numbers"], np.array(row["positions"]), cell=np.array(row["cell"]), pbc=row["pbc"], info=info)
    results = {name: np.array(row[name]) for name in RESULTS if row.get(name) is not None}
    atoms.calc = SinglePointCalculator(atoms, **results) if results else None
    return atoms
