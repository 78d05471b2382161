"""tumble md: a simulation, its folder and its page."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import tumble
from tumble import data
from tumble.cli import DONE, INTERRUPTED, NOT_CONVERGED, NOT_TRUSTED
from tumble.cli.console import progress_bar, show_unmet, show_verdicts
from tumble.cli.verbs import HERE, Files, Name, Overwrite, Require, Where, refuse_existing
from tumble.jobs.md.desk import clear
from tumble.jobs.md.job import check, concerns_of
from tumble.results import parse_require, unmet

if TYPE_CHECKING:
    from tumble.jobs.md import MDSettings

KEYS = ("watch", "conserved", "temperature", "momentum")


@Parameter(name="*")
@dataclass(frozen=True)
class Folder:
    """Where a run writes, and what becomes of a run that is there."""

    output: Annotated[
        Path | None,
        Parameter(name=["--output", "-o"], help="Folder for series.csv, trajectory, restart, result and card.html."),
    ] = None
    resume: Annotated[
        bool, Parameter(negative="", show_default=False, help="Go on with the run in the folder, to a longer time-ps.")
    ] = False
    overwrite: Overwrite = False


NOWHERE = Folder()


def md(
    model: Name,
    files: Files,
    *,
    settings: "Callable[[], MDSettings]",
    folder: Folder = NOWHERE,
    require: Require = None,
    where: Where = HERE,
) -> int:
    """Let structures move in time, and say what was conserved, what was not, and why."""
    output, overwrite = folder.output, folder.overwrite or folder.resume
    if output is not None:
        refuse_existing(output / "result.json", overwrite)
    chosen = settings()
    required = () if require is None else parse_require(require, KEYS)  # before anything is computed in vain
    structures = data.read([str(file) for file in files], require=()).atoms
    potential = where.load(model)  # before the bar, for a download has a bar of its own
    check(potential, structures, chosen)
    for line in concerns_of(potential, structures[0], chosen):
        print(f"tumble: {line}", file=sys.stderr)
    if output is not None and folder.overwrite and not folder.resume:
        clear(output)
    with progress_bar("md") as tell:
        result = tumble.md(
            potential,
            structures,
            chosen,
            folder=output,
            resume=folder.resume,
            name=model,
            tell=lambda one: tell(*one),
        )
    show_verdicts(result)
    if output is not None:
        result.save(output, overwrite=overwrite)
        print(f"wrote {output} and {tumble.report(result, to=output / 'card.html')}")
    failures = unmet(required, result.verdicts())
    show_unmet(failures)
    if not result.is_converged:
        return NOT_CONVERGED
    if result.is_interrupted:
        return INTERRUPTED
    return NOT_TRUSTED if failures else DONE
