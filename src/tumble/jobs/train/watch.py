"""Watchers: who else is told the numbers of a training while it runs: TensorBoard and Weights & Biases."""

import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from uuid import uuid4

from tumble.jobs.train.extras import Live
from tumble.results import number

TENSORBOARD: Final = "tensorboard"
"""Folder of its event files, in the folder of the training."""

WANDB_RUN: Final = "wandb_run.txt"
"""Holds the id of the run, so that a resumed training continues it."""


SAID: Final = {
    "energy_mae": "E {} meV/atom",
    "forces_mae": "F {} meV/Å",
    "stress_mae": "S {} meV/Å³",
    "forces_spread": "spread {}",
    "curl": "λ {}",
}
"""What the line on the terminal says of each number."""

MOST_SETS: Final = 3
"""Sets of a mixture that the line on the terminal has room for."""


class Watchers:
    """TensorBoard and W&B, if asked for: both hear the rows of metrics.jsonl, each number under its name."""

    def __init__(
        self, live: Live, folder: Path, *, step: int | None = None, recipe: Mapping[str, Any] | None = None
    ) -> None:
        """Open what is asked for. Where W&B writes, and whether it needs a network, its WANDB_MODE decides.

        Args:
            live: says whom to tell.
            folder: of the training.
            step: where it is resumed: whatever was told about later steps is void. None: it starts, as a new run.
            recipe: what W&B notes as its settings.

        Raises:
            ImportError: a package is missing; names the extra that has it.
        """
        self._writer: Any = None
        self._run: Any = None
        if live.tensorboard:
            _module("tensorboard", "live.tensorboard")
            writing = import_module("torch.utils.tensorboard")
            # TensorBoard hides what it was told from this step on: steps after the last checkpoint of a killed run.
            purge = 0 if step is None else step + 1
            self._writer = writing.SummaryWriter(log_dir=str(folder / TENSORBOARD), purge_step=purge)
        if live.wandb:
            wandb = _module("wandb", "live.wandb")
            known = folder / WANDB_RUN
            if step is None or not known.is_file():
                known.write_text(uuid4().hex[:8] + "\n")
            self._run = wandb.init(
                project=live.wandb,
                name=folder.resolve().name,
                id=known.read_text().strip(),
                resume="allow",
                dir=str(folder),
                config=dict(recipe or {}),
            )

    def tell(self, row: Mapping[str, Any]) -> None:
        """Pass on a row of metrics; its "step" says where it belongs, and what is not a finite number is left out."""
        step = int(row["step"])
        numbers = {
            name: value
            for name, value in row.items()
            if name != "step" and isinstance(value, int | float) and math.isfinite(value)
        }
        if self._writer is not None:
            for name, value in numbers.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        if self._run is not None and step >= self._run.step:  # what it has heard already it would refuse
            self._run.log(numbers, step=step)

    def close(self) -> None:
        """Write out what is not written yet."""
        if self._writer is not None:
            self._writer.close()
        if self._run is not None:
            self._run.finish()


def _module(name: str, setting: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"{setting} needs the package {name} ({error}). Run: pip install 'tumble[{name}]'") from error


def said(row: Mapping[str, Any]) -> str:
    """The newest numbers in one line, for the terminal: errors, what part of them is rotational spread, and λ."""
    # The name of a group, behind an @, may hold a slash of its own.
    sets = list(dict.fromkeys(name.partition("/")[0] for name in row if "/" in name.partition("@")[0]))
    parts = [_errors(row, f"{name}/", f"{name}: ") for name in sets[:MOST_SETS]] if sets else [_errors(row, "", "")]
    if len(sets) > MOST_SETS:
        parts.append(f"{len(sets) - MOST_SETS} more sets")
    return "; ".join(filter(None, parts))


def _errors(row: Mapping[str, Any], prefix: str, title: str) -> str:
    words = {name: text.format(number(row[prefix + name])) for name, text in SAID.items() if prefix + name in row}
    if "forces_spread" in words and (share := row.get(prefix + "spread_over_error")) is not None:
        words["forces_spread"] += f" ({100 * share:.0f} % of the error)"
    return title + ", ".join(words.values()) if words else ""
