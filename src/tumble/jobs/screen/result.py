"""What a screen has found: one row per structure, and what stands out."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, final

import numpy as np
from ase import Atoms

from tumble.jobs.screen.manifest import Manifest, Structure
from tumble.jobs.screen.records import Record, restored
from tumble.jobs.screen.settings import ScreenSettings
from tumble.jobs.screen.table import columns_of
from tumble.results import Cell, Curve, Fact, Result, Series, Table, Verdict
from tumble.results.facts import WORDS, Answer

FIXED: Final = ("structure", "formula", "n_atoms", "digest", "status", "reason", "seconds")
"""Columns that every table begins with."""

SHOWN: Final = 50
"""Failures that the page lists."""

HISTOGRAMS: Final = 6

CITATIONS: Final = (
    "Y. Babuji et al., Parsl: Pervasive parallel programming in Python, Proc. 28th HPDC, 25 (2019), "
    "doi:10.1145/3307681.3325400.",
)


@final
@dataclass(frozen=True, eq=False)
class ScreenResult(Result):
    """One job over many structures.

    of_job:     the job.
    structures: S entries of the manifest.
    records:    of each of them, in their order.
    arrays:     the columns of the table: numbers with NaN where there is none, and text.
    atoms:      structures where the job has left them, of a job that moves atoms.
    """

    title: str
    settings: ScreenSettings
    of_job: str
    structures: tuple[Structure, ...]
    records: tuple[Record, ...]
    arrays: dict[str, np.ndarray]
    atoms: list[Atoms]
    subject: dict[str, Any]
    job: str = "screen"
    citations: tuple[str, ...] = CITATIONS

    @classmethod
    def of(cls, manifest: Manifest, records: Mapping[str, Record], settings: ScreenSettings, model: str) -> Self:
        """Put the records in the order of the manifest."""
        listed = [one for one in manifest.structures if one.name in records]
        found = tuple(records[one.name] for one in listed)
        rows = [_row(*pair) for pair in zip(listed, found, strict=True)]
        atoms = [restored(one.atoms, one.name) for one in found if one.atoms is not None]
        title = f"{manifest.job} with {model} on {len(found)} structures"
        subject = dict(manifest.model) | {"job": manifest.job, "job_settings": manifest.settings}
        arrays = {name: _array([row.get(name) for row in rows]) for name in columns_of(rows)}
        return cls(title, settings, manifest.job, tuple(listed), found, arrays, atoms, subject)

    def rows(self) -> list[dict[str, Cell]]:
        """The table: one row per structure, in the order of the manifest."""
        return [_row(*pair) for pair in zip(self.structures, self.records, strict=True)]

    @property
    def failures(self) -> tuple[Record, ...]:
        """Records of structures about which there is no answer."""
        return tuple(one for one in self.records if one.status == "failed")

    @property
    def is_converged(self) -> bool:
        """Whether every structure is done, and what the job has to converge has converged."""
        return all(one.status == "done" for one in self.records)

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether every structure is done."""
        counts = Counter(one.status for one in self.records)
        left = len(self.records) - counts["done"]
        said = [f"{counts['done']} of {len(self.records)} structures are done"]
        said += [f"{counts[name]} {name}" for name in ("not converged", "failed") if counts[name]]
        task = f"{self.of_job} of every structure"
        answer: Answer = "unknown" if left else "yes"
        remedy = "read why below, then screen again with --resume --retry-failed" if left else ""
        return (Verdict(task, answer, float(left), 0.0, "structures not done", ", ".join(said), remedy, key="done"),)

    def facts(self) -> tuple[Fact, ...]:
        """Histograms, then counts, extremes and failures."""
        numbers = self._numbers()
        shown = [(name, values) for name, values in numbers.items() if np.isfinite(values).sum() > 1][:HISTOGRAMS]
        pictures = [
            Curve(name, name, "structures", (Series(name, values[np.isfinite(values)]),), kind="histogram")
            for name, values in shown
        ]
        tables = [self._counts(), self._answers(), self._extremes(numbers), self._failures()]
        return (*pictures, *(table for table in tables if table.rows))

    def _numbers(self) -> dict[str, np.ndarray]:
        """Columns of numbers that the job has given."""
        return {
            name: array.astype(float)
            for name, array in self.arrays.items()
            if name not in FIXED and array.dtype.kind in "fiu"
        }

    def _counts(self) -> Table:
        seconds = sum(one.seconds for one in self.records)
        counts = Counter(one.status for one in self.records)
        rows = [(status, counts[status]) for status in ("done", "not converged", "failed") if counts[status]]
        note = f"{sum(one.n_atoms for one in self.structures)} atoms, {seconds:.3g} s of work"
        return Table("structures", ("status", "structures"), rows, note)

    def _answers(self) -> Table:
        """How often each verdict was given."""
        columns = {
            name: Counter(one for one in array.tolist() if one)
            for name, array in self.arrays.items()
            if name not in FIXED and array.dtype.kind == "U" and set(array.tolist()) <= {*WORDS, ""}
        }
        rows: list[tuple[Cell, ...]] = [
            (name, *(counts[answer] for answer in WORDS)) for name, counts in columns.items() if counts.total()
        ]
        return Table("verdicts", ("verdict", *WORDS.values()), rows)

    def _extremes(self, numbers: Mapping[str, np.ndarray]) -> Table:
        rows: list[tuple[Cell, ...]] = []
        for name, values in numbers.items():
            if np.isfinite(values).any():
                low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
                median = float(np.nanmedian(values))
                names = [self.records[place].name for place in (low, high)]
                rows.append((name, median, float(values[low]), names[0], float(values[high]), names[1]))
        return Table("extremes", ("number", "median", "smallest", "of", "largest", "of "), rows)

    def _failures(self) -> Table:
        failed = [
            (record.name, one.formula, one.n_atoms, record.reason)
            for one, record in zip(self.structures, self.records, strict=True)
            if record.status == "failed"
        ]
        kinds = Counter(reason.split(":")[0] for *_, reason in failed)
        note = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
        note += f"; the first {SHOWN} are shown, table.csv has all" if len(failed) > SHOWN else ""
        return Table("failures", ("structure", "formula", "atoms", "reason"), failed[:SHOWN], note)


def _row(one: Structure, record: Record) -> dict[str, Cell]:
    fixed: dict[str, Cell] = {
        "structure": one.name,
        "formula": one.formula,
        "n_atoms": one.n_atoms,
        "digest": one.digest,
        "status": record.status,
        "reason": record.reason,
        "seconds": record.seconds,
    }
    return fixed | {f"{name} " if name in FIXED else name: cell for name, cell in record.row.items()}


def _array(cells: list[Cell]) -> np.ndarray:
    """Numbers with NaN for None, or text with "" for it."""
    present = [cell for cell in cells if cell is not None]
    if present and not any(isinstance(cell, str) for cell in present):
        if len(present) == len(cells):
            return np.array(cells)
        return np.array([np.nan if cell is None else float(cell) for cell in cells])
    return np.array(["" if cell is None else str(cell) for cell in cells], dtype=str)
