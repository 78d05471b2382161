"""Records: what is known of each structure, in files that a kill at any moment leaves readable."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from tumble.results import Cell

RECORDS: Final = "records"
"""Folder of the files of records within that of a screen."""

PARTIAL: Final = ".partial"

Status = Literal["done", "not converged", "failed"]


@dataclass(frozen=True)
class Record:
    """What one run of the job about one structure has come to.

    name, digest: of the structure, as in the manifest.
    attempt:      0, and one more each time that a failed structure is tried again.
    reason:       of a failure, kind and message of the error.
    seconds:      that it took; of structures that were asked about together, an equal share.
    row:          name of a column → cell.
    atoms:        the structure where the job has left it, as `plain` writes it; None if the job does not move atoms.
    """

    name: str
    digest: str
    attempt: int
    status: Status
    reason: str
    seconds: float
    row: dict[str, Cell]
    atoms: dict[str, Any] | None = None


def append(path: Path, records: Iterable[Record]) -> None:
    """Add one line with these records to a file, and force it to the disk: all of them are there then, or none.

    Each file has one writer, so no two of them can mix their lines.
    """
    line = json.dumps([asdict(record) for record in records], ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Record]:
    """The records of a file, but for a last line that was cut off.

    Raises:
        ValueError: a line before the last is damaged.
    """
    *lines, _torn = path.read_bytes().split(b"\n")
    found: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            found += [Record(**one) for one in json.loads(line)]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"line {number} of {path} is damaged ({error}); records of a screen were expected. Remove this file: "
                "its structures are then asked about again."
            ) from None
    return found


def best(records: Iterable[Record]) -> dict[str, Record]:
    """The record that counts for each structure, by name: one that is not a failure, else that of the last attempt."""
    chosen: dict[str, Record] = {}
    for record in records:
        known = chosen.get(record.name)
        if known is None or _rank(record) > _rank(known):
            chosen[record.name] = record
    return chosen


def _rank(record: Record) -> tuple[bool, int]:
    return record.status != "failed", record.attempt


def read_all(folder: Path) -> dict[str, Record]:
    """The record that counts for each structure in the folder of a screen.

    Raises:
        ValueError: a damaged file.
    """
    return best(record for path in sorted((folder / RECORDS).glob("*.jsonl")) for record in read(path))


def replace(path: Path, content: bytes) -> None:
    """Write a file aside, force it to the disk, and move it into place."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def plain(atoms: Atoms) -> dict[str, Any]:
    """A structure and what its calculator has found, as JSON that keeps every digit."""
    results = {} if atoms.calc is None else atoms.calc.results
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": atoms.cell.array.tolist(),
        "pbc": atoms.pbc.tolist(),
        "info": {key: value for key, value in atoms.info.items() if isinstance(value, str | int | float | bool)},
        "results": {key: np.asarray(results[key]).tolist() for key in ("energy", "forces", "stress") if key in results},
    }


def restored(stored: dict[str, Any], name: str) -> Atoms:
    """The structure of `plain`, with its name in its info."""
    fields = {key: stored[key] for key in ("numbers", "positions", "cell", "pbc")}
    atoms = Atoms(**fields, info=stored["info"] | {"name": name})
    results: dict[str, Any] = {key: value for key, value in stored["results"].items() if key == "energy"}
    results |= {key: np.array(value) for key, value in stored["results"].items() if key != "energy"}
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def unfinished(names: Sequence[str], known: dict[str, Record], *, retry_failed: bool) -> list[str]:
    """The names of structures that have no record yet, or a failed one that is to be tried again."""
    return [name for name in names if name not in known or (retry_failed and known[name].status == "failed")]
