"""tumble screen: a job over many structures, which the same command continues after whatever has stopped it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import tumble
from tumble.cli import DONE, INTERRUPTED, NOT_CONVERGED
from tumble.cli.console import progress_bar, show
from tumble.cli.verbs import Files, Name
from tumble.jobs.screen import screen as run
from tumble.jobs.screen.manifest import MANIFEST
from tumble.results import Table

if TYPE_CHECKING:
    from tumble.jobs.screen import ScreenSettings

Job = Annotated[str, Parameter(help="predict, relax, elastic, phonons, conductivity or audit.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Ends:
    """Where a screen begins, and what it must have come to in the end."""

    resume: Annotated[
        bool, Parameter(negative="", show_default=False, help="Keep what the folder has, and do what is left.")
    ] = False
    strict: Annotated[
        bool, Parameter(negative="", show_default=False, help="Exit with 5 unless every structure is done.")
    ] = False


ENDS = Ends()


def screen(
    job: Job,
    model: Name,
    files: Files,
    *,
    settings: "Callable[[], ScreenSettings]",
    output: Annotated[
        Path,
        Parameter(name=["--output", "-o"], help="Folder for records, table and card.html."),
    ],
    job_settings: Annotated[
        Path | None, Parameter(name="--settings", help="YAML file of settings of the job; see tumble template JOB.")
    ] = None,
    ends: Ends = ENDS,
) -> int:
    """Run a job over many structures, in shards that survive a kill, with one table at the end."""
    chosen = settings()
    if (output / MANIFEST).exists() and not ends.resume:
        raise ValueError(f"{output} holds a screen already. --resume goes on with it; or give another folder.")
    try:
        with progress_bar(f"screening, {job}") as tell:
            result = run(
                job,
                model,
                [str(file) for file in files],
                output,
                chosen,
                job_settings=job_settings,
                tell=lambda one: tell(*one),
            )
    except KeyboardInterrupt:
        print(f"tumble: interrupted; what is done is kept in {output}. Add --resume to go on.", file=sys.stderr)
        return INTERRUPTED
    for fact in result.facts():
        if isinstance(fact, Table):
            show(fact)
    result.save(output, overwrite=True)
    print(f"wrote {output / 'table.csv'} and {tumble.report(result, to=output / 'card.html')}")
    is_none_done = len(result.failures) == len(result.records)
    return NOT_CONVERGED if is_none_done or (ends.strict and not result.is_converged) else DONE
