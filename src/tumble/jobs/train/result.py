"""What a training found: learning curves, errors, and where the potential is."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import torch
from ase import Atoms

from tumble import checkpoint
from tumble.batch import Properties
from tumble.data import Dataset, coverage
from tumble.jobs.train.loop import BEST, METRICS
from tumble.jobs.train.settings import TrainSettings
from tumble.packs import predict
from tumble.results import Curve, Result, Series, Table, Verdict

LABELS = {
    "energy_mae": "energy MAE, meV/atom",
    "energy_rmse": "energy RMSE, meV/atom",
    "forces_mae": "force MAE, meV/Å",
    "forces_rmse": "force RMSE, meV/Å",
    "stress_mae": "stress MAE, meV/Å³",
    "direct_forces_mae": "direct-force MAE, meV/Å",
    "forces_spread": "rotational spread of forces, meV/Å",
    "energy_spread": "rotational spread of the energy, meV/atom",
}
PARITY_POINTS = 3000


@final
@dataclass(frozen=True)
class TrainResult(Result):
    """Learning curves, errors on the validation set, and the file of the best potential.

    potential:   path of the best potential.
    is_complete: whether the recipe was finished; if not, it can be resumed.
    metrics:     one row per validation, as in metrics.jsonl.
    arrays:      predictions and labels of the validation set: energies eV/atom, forces eV/Å.
    """

    settings: TrainSettings
    title: str
    potential: Path
    is_complete: bool
    metrics: list[dict[str, Any]]
    coverage: Table
    arrays: dict[str, np.ndarray]
    atoms: list[Atoms] = field(default_factory=list)
    job: str = "train"
    citations: tuple[str, ...] = (
        "S. N. Pozdnyakov and M. Ceriotti, Smooth, exact rotational symmetrization for deep learning on point clouds, "
        "NeurIPS 36 (2023), arXiv:2305.19302.",
    )

    @classmethod
    def of(cls, settings: TrainSettings, folder: Path, datasets: tuple[Dataset, Dataset], *, is_complete: bool) -> Self:
        """Read the metrics of a folder and let its best potential predict the validation set."""
        path = folder / METRICS
        metrics = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        potential = checkpoint.load(folder / BEST, device=settings.device)
        valid = datasets[1]
        arrays = _parity(predict(potential, valid.atoms), valid)
        title = _title(settings, metrics)
        return cls(settings, title, folder / BEST, is_complete, metrics, coverage(datasets[0]), arrays)

    def verdicts(self) -> tuple[Verdict, ...]:
        """None: a training has errors, and what they are good for is for an audit to say."""
        return ()

    def facts(self) -> tuple[Table | Curve, ...]:
        """Errors, learning curves, parity plots and label coverage."""
        return (*self._errors(), *self._curves(), *self._parities(), self.coverage)

    def _errors(self) -> tuple[Table, ...]:
        if not self.metrics:
            return ()
        last = self.metrics[-1]
        names = [name for name in LABELS if name in last]
        columns = ("phase", "epoch", "minutes", *(LABELS[name] for name in names))
        newest = {row["phase"]: row for row in self.metrics}
        rows = [row for row in self.metrics if row["epoch"] == 0 or row is newest[row["phase"]]]
        cells = [(r["phase"], r["epoch"], r["minutes"], *(r.get(name) for name in names)) for r in rows]
        before = "; epoch 0 is before its first step" if len(rows) > len(newest) else ""
        note = "the last validation of each phase" + before + ("" if self.is_complete else "; not finished, resume it")
        return (Table("Errors on the validation set", columns, cells, note),)

    def _curves(self) -> tuple[Curve, ...]:
        def series(names: tuple[str, ...]) -> tuple[Series, ...]:
            lines = []
            for name in names:
                rows = [row for row in self.metrics if row.get(name) is not None]
                label = LABELS.get(name, name.replace("_", " ")).split(",")[0]
                lines.append(Series(label, [row["minutes"] for row in rows], [row[name] for row in rows]))
            return tuple(line for line in lines if np.size(line.x))

        plans = (
            ("Force error and rotational spread", "meV/Å", ("forces_mae", "direct_forces_mae", "forces_spread")),
            ("Energy error and rotational spread", "meV/atom", ("energy_mae", "energy_rmse", "energy_spread")),
            ("Loss", "loss", ("train_loss", "valid_loss")),
        )
        axis = "minutes of training"
        return tuple(Curve(title, axis, label, s, log_y=True) for title, label, names in plans if (s := series(names)))

    def _parities(self) -> tuple[Curve, ...]:
        units = {"energy": "energy, eV/atom", "forces": "force component, eV/Å", "stress": "stress component, eV/Å³"}
        curves = []
        for name, label in units.items():
            if f"{name}_label" not in self.arrays:
                continue
            known, predicted = self.arrays[f"{name}_label"].ravel(), self.arrays[f"{name}_predicted"].ravel()
            chosen = np.linspace(0, len(known) - 1, min(len(known), PARITY_POINTS)).astype(int)
            line = Series("validation set", known[chosen], predicted[chosen])
            curves.append(Curve(f"Parity: {name}", f"reference {label}", f"predicted {label}", (line,), kind="parity"))
        return tuple(curves)


def _parity(answers: list[Properties], dataset: Dataset) -> dict[str, np.ndarray]:
    """Predictions beside labels, energies per atom."""
    arrays: dict[str, np.ndarray] = {}
    for name in Properties._fields:
        pairs = [
            (getattr(label, name), getattr(answer, name), len(atoms) if name == "energy" else 1)
            for label, answer, atoms in zip(dataset.labels, answers, dataset.atoms, strict=True)
        ]
        kept = [(known / n, said.double() / n) for known, said, n in pairs if known is not None and said is not None]
        for kind, column in zip(("label", "predicted"), zip(*kept, strict=True), strict=False):
            joined = torch.cat(column) if name == "forces" else torch.stack(column)
            arrays[f"{name}_{kind}"] = joined.numpy()
    return arrays


def _title(settings: TrainSettings, metrics: list[dict[str, Any]]) -> str:
    """What was trained on what, with the best errors of the last phase."""
    newest = [row for row in metrics if row["phase"] == metrics[-1]["phase"]]
    best = min(newest, key=lambda row: row["valid_loss"]) if newest else {}
    units = {"energy_mae": "energy MAE {:.3g} meV/atom", "forces_mae": "force MAE {:.3g} meV/Å"}
    errors = [text.format(best[name]) for name, text in units.items() if name in best]
    return ", ".join([f"PET trained on {', '.join(Path(one).name for one in settings.data)}", *errors])
