"""tumble observe: trajectories, and a page of what they say."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import tumble
from tumble.cli import DONE, NOT_TRUSTED
from tumble.cli.console import progress_bar, show, show_unmet, show_verdicts
from tumble.cli.verbs import Overwrite, Require, refuse_existing
from tumble.results import Table, parse_require, unmet

if TYPE_CHECKING:
    from tumble.jobs.observe import ObserveSettings

KEYS = ("sampling", "kinetic", "species")

SHOWN = 3
"""Tables that are printed; the page has all."""


def observe(
    trajectories: Annotated[
        list[Path], Parameter(help="Folders of runs, or files; several are compared.", negative_iterable=())
    ],
    *,
    settings: "Callable[[], ObserveSettings]",
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Folder for the result and card.html.")
    ] = None,
    require: Require = None,
    overwrite: Overwrite = False,
) -> int:
    """Say what trajectories say: distributions, diffusion, spectra, orientations, temperatures, with error bars."""
    if output is not None:  # before anything is computed in vain
        refuse_existing(output / "result.json", overwrite)
    chosen = settings()
    required = () if require is None else parse_require(require, KEYS)
    with progress_bar("observe") as tell:
        result = tumble.observe(trajectories, chosen, tell=lambda one: tell(*one))
    for table in [fact for fact in result.facts() if isinstance(fact, Table)][:SHOWN]:
        show(table)
    show_verdicts(result)
    if output is not None:
        result.save(output, overwrite=overwrite)
        print(f"wrote {output} and {tumble.report(result, to=output / 'card.html')}")
    failures = unmet(required, result.verdicts())
    show_unmet(failures)
    return NOT_TRUSTED if failures else DONE
