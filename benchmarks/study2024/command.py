"""What every experiment can be asked: where the structures are, where work is kept, how long it may take."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final

import torch

RESULTS: Final = Path(__file__).resolve().parents[1] / "results"
SETTINGS: Final = "settings.json"


def parser(doc: str | None, *, minutes: float) -> argparse.ArgumentParser:
    """The flags that all experiments share.

    Args:
        doc: description.
        minutes: of real time, the default of --budget.
    """
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("data", type=Path, help="folder with the structures of the study's archive")
    add("-o", "--out", type=Path, required=True, help="folder in which work is kept, and found again")
    add("--potential", default="water", help="a packaged name, a file, or ase:package.module:factory")
    add("--budget", type=float, default=minutes, metavar="MINUTES", help="of real time for this call (%(default)g)")
    add("--full", action="store_true", help="until the published lengths are reached, however long that takes")
    add("--report", action="store_true", help="compute nothing new, write the tables of what is there")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--results", type=Path, default=RESULTS, help="folder of the tables")
    return found


class Clock:
    """Real time that is left of a budget; there is no end to it if it is unlimited."""

    def __init__(self, minutes: float | None) -> None:
        """Starts now."""
        self.start, self.minutes = monotonic(), minutes

    @property
    def left(self) -> float:
        """Minutes; infinite without a budget, and never below zero."""
        if self.minutes is None:
            return float("inf")
        return max(0.0, self.minutes - (monotonic() - self.start) / 60)


def clock(chosen: argparse.Namespace) -> Clock:
    """What --budget and --full say; --report leaves nothing."""
    return Clock(0.0 if chosen.report else None if chosen.full else chosen.budget)


def same_question(folder: Path, settings: dict[str, Any]) -> None:
    """Mark a folder with what is asked there.

    Raises:
        ValueError: it holds answers to another question.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    asked = json.loads(json.dumps(settings))
    before = json.loads(path.read_text()) if path.exists() else asked
    if before != asked:
        changed = {key: before.get(key) for key in asked | before if before.get(key) != asked.get(key)}
        now = {key: asked.get(key) for key in changed}
        raise ValueError(
            f"{folder} holds answers for {changed}, and {now} is asked for now. Name another folder with -o."
        )
    path.write_text(json.dumps(asked, indent=1) + "\n")


def shares(minutes: float, weights: Sequence[float]) -> list[float]:
    """A budget divided in proportion to weights; those of what is done already are zero."""
    total = sum(weights)
    return [minutes * weight / total if total else 0.0 for weight in weights]
