"""tumble relax, elastic, phonons, conductivity: a job about structures, its folder and its page."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import tumble
from tumble import data
from tumble.cli import DONE, NOT_CONVERGED, NOT_TRUSTED
from tumble.cli.console import progress_bar, show_unmet, show_verdicts
from tumble.cli.flags import Command
from tumble.cli.verbs import HERE, Files, Name, Overwrite, Require, Where, refuse_existing
from tumble.results import Result, Settings, parse_require, unmet

if TYPE_CHECKING:
    from ase import Atoms

Output = Annotated[
    Path | None, Parameter(name=["--output", "-o"], help="Folder for the result, card.html and files of the engines.")
]
Structure = Annotated[Path, Parameter(help="One structure, in any format that ASE reads.")]


def relax(
    model: Name,
    files: Files,
    *,
    settings: Callable[[], Settings],
    output: Output = None,
    require: Require = None,
    where: Where = HERE,
    overwrite: Overwrite = False,
) -> int:
    """Relax atoms and cells, all structures side by side, and say whether their symmetry is real."""
    return _run("relax", model, files, settings, _Ending(output, require, overwrite), where)


def _of_one(verb: str) -> Command:
    """The command of a job that takes one structure."""

    def command(
        model: Name,
        file: Structure,
        *,
        settings: Callable[[], Settings],
        output: Output = None,
        require: Require = None,
        where: Where = HERE,
        overwrite: Overwrite = False,
    ) -> int:
        return _run(verb, model, [file], settings, _Ending(output, require, overwrite), where)

    command.__name__ = verb
    return command


elastic, phonons, conductivity = _of_one("elastic"), _of_one("phonons"), _of_one("conductivity")


class _Ending:
    """What is done with a result: where it is written, and what is asked of its verdicts."""

    def __init__(self, output: Path | None, require: str | None, overwrite: bool) -> None:
        if output is not None:  # before anything is computed in vain
            refuse_existing(output / "result.json", overwrite)
        self.output, self.require, self.overwrite = output, require, overwrite

    def of(self, result: Result) -> int:
        """Show it, write it, and the exit code."""
        show_verdicts(result)
        if self.output is not None:
            result.save(self.output, overwrite=self.overwrite)
            print(f"wrote {self.output} and {tumble.report(result, to=self.output / 'card.html')}")
        keys = tuple(verdict.name for verdict in result.verdicts())
        failures = [] if self.require is None else unmet(parse_require(self.require, keys), result.verdicts())
        show_unmet(failures)
        if not result.is_converged:
            return NOT_CONVERGED
        return NOT_TRUSTED if failures else DONE


def _run(
    verb: str,
    model: str,
    files: Sequence[Path],
    settings: Callable[[], Settings],
    ending: _Ending,
    where: Where,
) -> int:
    job: Any = getattr(tumble, verb)
    chosen = settings()
    structures = data.read([str(file) for file in files], require=())
    given: Any = list(structures.atoms)
    if verb != "relax":
        given = _only(given, files[0], verb)
    potential = where.load(model)  # before the bar, for a download has a bar of its own
    with progress_bar(verb) as tell:
        result: Result = job(potential, given, chosen, name=model, tell=lambda one: tell(*one))
    return ending.of(result)


def _only(structures: "list[Atoms]", file: Path, verb: str) -> "Atoms":
    if len(structures) != 1:
        raise ValueError(
            f"{file} holds {len(structures)} structures; {verb} takes one. Write it into a file of its own, or run "
            f"`tumble screen {verb} MODEL {file}` for all of them."
        )
    return structures[0]
