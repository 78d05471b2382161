"""What a training found: learning curves, errors, symmetry, and where the potential is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, final

from ase import Atoms
from numpy.typing import NDArray

from tumble import checkpoint
from tumble.data import coverage, leaks
from tumble.jobs.train.figures import curves
from tumble.jobs.train.judged import Judged, by_element, by_group, error_by_force, histograms, judge, parities, worst
from tumble.jobs.train.loop import BEST, METRICS
from tumble.jobs.train.reliability import calibration_facts
from tumble.jobs.train.settings import TrainSettings
from tumble.jobs.train.sources import Source
from tumble.results import Cell, Curve, Fact, Result, Table, Verdict, number

LABELS = {
    "energy_mae": "energy MAE, meV/atom",
    "energy_rmse": "energy RMSE, meV/atom",
    "forces_mae": "force MAE, meV/Å",
    "forces_rmse": "force RMSE, meV/Å",
    "stress_mae": "stress MAE, meV/Å³",
    "direct_forces_mae": "direct-force MAE, meV/Å",
    "forces_spread": "rotational spread of forces, meV/Å",
    "energy_spread": "rotational spread of the energy, meV/atom",
    "spread_over_error": "spread / error of forces",
    "curl": "λ of direct forces",
    "force_gap": "force gap",
    "remember_energy_mae": "energy MAE of what is remembered, meV/atom",
    "remember_forces_mae": "force MAE of what is remembered, meV/Å",
}

LEAKED = {
    "error": "none of these structures is in the training set",
    "warn": "structures that are in the training set too have a table of their own, if there are any",
    "allow": "whether any of these structures is in the training set was not looked at",
}
"""What a check of leaks has found, as a note on the validation set."""


@final
@dataclass(frozen=True)
class TrainResult(Result):
    """Learning curves, errors on the validation set, and the file of the best potential.

    potential:   path of the best potential; of a mixture, of the one with its first head.
    is_complete: whether the recipe was finished; if not, it can be resumed.
    metrics:     one row per validation, as in metrics.jsonl.
    judged:      figures and tables about its predictions.
    tables:      label coverage of every set, and leaks.
    arrays:      labels and predictions, energies eV/atom, forces eV/Å, stress eV/Å³, NaN where there is none; atomic
                 numbers, to which structure an atom belongs, and which of the validation set that is. Of a mixture,
                 names begin with that of the set.
    atoms:       the worst structures, as in their table.
    """

    settings: TrainSettings
    title: str
    potential: Path
    is_complete: bool
    metrics: list[dict[str, Any]]
    judged: tuple[Fact, ...]
    tables: tuple[Table, ...]
    arrays: dict[str, NDArray[Any]]
    atoms: list[Atoms] = field(default_factory=list)
    job: str = "train"
    citations: tuple[str, ...] = (
        "S. N. Pozdnyakov and M. Ceriotti, Smooth, exact rotational symmetrization for deep learning on point clouds, "
        "NeurIPS 36 (2023), arXiv:2305.19302.",
    )

    @classmethod
    def of(
        cls,
        settings: TrainSettings,
        folder: Path,
        found: Sequence[Source],
        *,
        is_complete: bool,
        extra: Mapping[str, NDArray[Any]] = MappingProxyType({}),
    ) -> Self:
        """Read the metrics of a folder and let its best potentials predict the validation sets.

        Args:
            settings: the recipe.
            folder: of the training.
            found: its sets.
            is_complete: whether the recipe was finished.
            extra: further arrays to keep: what `certainty.fit` gives.
        """
        path = folder / METRICS
        metrics = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        potentials = {
            head: checkpoint.load(file, device=settings.device) for head, file in files_of(folder, found).items()
        }
        names = sets_of(settings) or [""]
        judged = [judge(potentials[one.recipe.head], one, name) for one, name in zip(found, names, strict=True)]
        listed, kept = worst(judged)
        return cls(
            settings=settings,
            title=titled(settings, metrics, is_complete=is_complete),
            potential=folder / BEST,
            is_complete=is_complete,
            metrics=metrics,
            judged=(*_figures(judged), *listed, *by_element(judged), *by_group(judged)),
            tables=tuple(table for one in found for table in _coverages(one, settings)),
            arrays={name: values for one in judged for name, values in one.arrays.items()} | dict(extra),
            atoms=kept,
        )

    def verdicts(self) -> tuple[Verdict, ...]:
        """None: a training has errors, and what they are good for is for an audit to say."""
        return ()

    def facts(self) -> tuple[Fact, ...]:
        """Errors, learning curves, symmetry, what the best potential predicts, and label coverage."""
        sets = sets_of(self.settings)
        return (
            *errors(self.metrics, sets, is_complete=self.is_complete),
            *curves(self.metrics, sets),
            *self.judged,
            *calibration_facts(self.arrays),
            *self.tables,
        )


def files_of(folder: Path, found: Sequence[Source]) -> dict[str, Path]:
    """The files of the best potentials, by head."""
    heads = list(dict.fromkeys(one.recipe.head for one in found))
    return {head: folder / (f"best-{head}.safetensors" if index else BEST) for index, head in enumerate(heads)}


def sets_of(settings: TrainSettings) -> list[str]:
    """Names of the sets of a mixture, as they stand before the names of metrics; empty for a single one."""
    return [one.name for one in settings.mixture] if len(settings.mixture) > 1 else []


def errors(metrics: Sequence[Mapping[str, Any]], sets: Sequence[str], *, is_complete: bool) -> tuple[Table, ...]:
    """The numbers before the first step, where there are any, and at the end of each phase."""
    if not metrics:
        return ()
    newest = {row["phase"]: row for row in metrics}
    rows = [row for row in metrics if row["epoch"] == 0 or row is newest[row["phase"]]]
    names = [name for name in LABELS if any(f"{prefix}{name}" in row for row in rows for prefix in _prefixes(sets))]
    cells: list[tuple[Cell, ...]] = []
    for row in rows:
        for one in sets or ("",):
            prefix = f"{one}/" if one else ""
            place = (row["phase"], row["epoch"], row["minutes"], one)
            cells.append((*place[: 4 if sets else 3], *(row.get(prefix + name) for name in names)))
    columns = ("phase", "epoch", "minutes", *(("set",) if sets else ()), *(LABELS[name] for name in names))
    before = "; epoch 0 is before its first step" if len(rows) > len(newest) else ""
    note = "the last validation of each phase" + before + ("" if is_complete else "; not finished, resume it")
    return (Table("Errors on the validation set", columns, cells, note),)


def titled(settings: TrainSettings, metrics: Sequence[Mapping[str, Any]], *, is_complete: bool) -> str:
    """What was trained on what, with the best errors of the last phase."""
    sets = sets_of(settings)
    data = sets or [Path(one).name for one in settings.mixture[0].data]
    shown = data if len(data) < 4 else [*data[:2], f"{len(data) - 2} more"]
    several = " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
    what = "PET trained on" if settings.start is None else f"{Path(settings.start).stem} trained further on"
    newest = [row for row in metrics if row["phase"] == metrics[-1]["phase"]]
    best = min(newest, key=lambda row: row["valid_loss"]) if newest else {}
    said = []
    for name, word, unit in (("energy_mae", "energy", "meV/atom"), ("forces_mae", "force", "meV/Å")):
        found = [number(best[prefix + name]) for prefix in _prefixes(sets[:3]) if prefix + name in best]
        if found:
            said.append(f"{word} MAE {' | '.join(found)} {unit}")
    said += [] if is_complete else ["not finished"]
    return f"{what} {several}" + (f": {', '.join(said)}" if said else "")


def _prefixes(sets: Sequence[str]) -> list[str]:
    return [f"{one}/" for one in sets] or [""]


def _figures(judged: Sequence[Judged]) -> tuple[Curve | Table, ...]:
    return (*parities(judged), *error_by_force(judged), *histograms(judged))


def _coverages(one: Source, settings: TrainSettings) -> tuple[Table, ...]:
    """Label coverage of the training and of the validation set, and what is in both if that was allowed."""
    train, valid = coverage(one.train), coverage(one.valid)
    tables = [
        replace(train, title=f"{one.label}training set. {train.title}"),
        replace(valid, title=f"{one.label}validation set. {valid.title}", note=f"{valid.note}{LEAKED[settings.leaks]}"),
    ]
    if settings.leaks == "warn" and (found := leaks(one.train, one.valid)).rows:
        tables.append(replace(found, title=f"{one.label}{found.title[:1].lower()}{found.title[1:]}"))
    return tuple(replace(table, title=table.title[:1].upper() + table.title[1:]) for table in tables)
