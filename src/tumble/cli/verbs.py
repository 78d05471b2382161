"""What each command does between its words and a function of the package. Imported only when a command runs."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

import tumble
from tumble import checkpoint, data
from tumble.cli import DONE, INTERRUPTED, NOT_TRUSTED
from tumble.cli.console import progress_bar, show, show_unmet, show_verdicts
from tumble.jobs.audit.tasks import KEYS
from tumble.jobs.predict import predict_files
from tumble.results import load_result, load_trust, parse_require, trust_schema, unmet

if TYPE_CHECKING:
    from tumble.jobs.audit import AuditSettings
    from tumble.potential import Potential

Name = Annotated[
    str, Parameter(help="Name that `tumble models` lists, file, or ase: or torchsim:package.module:factory.")
]
Files = Annotated[list[Path], Parameter(help="Structures, in any format that ASE reads.", negative_iterable=())]
Variant = Annotated[str | None, Parameter(help="Set of heads, of a file with several.")]
Overwrite = Annotated[bool, Parameter(negative="", show_default=False, help="Replace what an earlier run wrote there.")]
Require = Annotated[
    str | None,
    Parameter(help="Exit with 6 unless these are fine, if need be with a remedy: phonons,nvt=yes. All tasks: remedy."),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Where a potential answers, how precisely, and by which of its heads."""

    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1, ...; cpu if not given.")] = None
    dtype: Annotated[Literal["float32", "float64"] | None, Parameter(help="As it was saved if not given.")] = None
    variant: Variant = None
    direct: Annotated[
        bool, Parameter(negative="", show_default=False, help="Forces and stress of the direct heads.")
    ] = False

    def load(self, model: str) -> "Potential":
        """The potential of this name."""
        return tumble.load(model, device=self.device, dtype=self.dtype, variant=self.variant, direct=self.direct)


HERE = Where()


@Parameter(name="*")
@dataclass(frozen=True)
class How:
    """How structures are predicted."""

    pairs_per_batch: Annotated[
        int | None, Parameter(help="Pairs of atoms in one call of the potential; chosen by the device if not given.")
    ] = None
    uncertainty: Annotated[
        bool, Parameter(help="Say how uncertain answers are, where the potential knows; forces cost more calls.")
    ] = True


SO = How()


def predict(
    model: Name,
    files: Files,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="File for the answers, .extxyz.")] = None,
    resume: Annotated[
        bool, Parameter(negative="", show_default=False, help="Keep the answers in the output, and go on behind them.")
    ] = False,
    how: How = SO,
    where: Where = HERE,
    overwrite: Overwrite = False,
) -> int:
    """Energy, forces and stress of structures, however many; a folder stands for the structure files in it."""
    if output is not None:
        refuse_existing(output, overwrite or resume)
    elif resume:
        raise ValueError("--resume goes on with a file of answers, and none is named. Add -o FILE.")
    options: dict[str, Any] = {"resume": resume, "pairs_per_batch": how.pairs_per_batch, "uncertainty": how.uncertainty}
    data.expand([str(file) for file in files], folders=True)  # before a large model is loaded in vain
    potential = where.load(model)  # before the bar, for a download has a bar of its own
    try:
        with progress_bar("predicting") as tell:
            table = predict_files(potential, files, output, tell=lambda one: tell(*one), **options)
    except KeyboardInterrupt:
        if output is None:
            raise
        print(f"tumble: interrupted; the frames in {output} are complete. --resume goes on.", file=sys.stderr)
        return INTERRUPTED
    if table.rows:
        show(table)
    if output is not None:
        print(f"wrote {output}" if table.rows else f"nothing is left to do: {table.note}")
    return DONE


Rule = Annotated[
    str,
    Parameter(
        help="RULE, RULE@FRAME or auto. RULE: none; i; the groups T O I Th Oh Ih; so3:L or o3:L (with inversion), "
        "exact to degree L; euler:L, euler:Li; random:n; crystal, the structure's own point group. FRAME: lab, "
        "generic, random:n, or crystal (fewest calls for a crystal however it is turned)."
    ),
]
Project = Annotated[
    Literal["crystal"] | None,
    Parameter(help="Project forces and stress on the space group of each structure, within 0.001 Å."),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Chosen:
    """How good the rule auto must be, and on which structures."""

    tolerance: Annotated[
        str | None,
        Parameter(help='With auto: the error that may remain, "1 meV/A", "0.2 meV/atom", "10 meV" or "0.05 GPa".'),
    ] = None
    on: Annotated[
        tuple[Path, ...],
        Parameter(
            help="With auto: structures to choose the rule on.",
            consume_multiple=True,
            negative_iterable=(),
            show_default=False,
        ),
    ] = ()


UNCHOSEN = Chosen()


def symmetrize(
    model: Name,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="File for the new potential, .safetensors.")],
    rotations: Rule = "Ih",
    project: Project = None,
    choice: Chosen = UNCHOSEN,
    variant: Variant = None,
    overwrite: Overwrite = False,
) -> int:
    """Average a potential over rotations; the result is a file that every other command takes."""
    refuse_existing(output, overwrite)
    on = data.read([str(file) for file in choice.on], require=()).atoms if choice.on else None
    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        print(text, flush=True)

    asked: dict[str, Any] = {"project": project, "tolerance": choice.tolerance, "on": on, "tell": tell}
    potential = tumble.symmetrize(tumble.load(model, variant=variant), rotations, **asked)
    words = {"--rotations": rotations, "--tolerance": choice.tolerance, "--project": project}
    flags = "".join(f" {flag} {shlex.quote(word)}" for flag, word in words.items() if word)
    card = {"made_by": f"tumble symmetrize {model}{flags}"} | ({"choice": said[-1]} if said else {})
    checkpoint.save(potential, output, card)
    print(f"wrote {output}")
    return DONE


def audit(
    model: Name,
    files: Files,
    *,
    settings: "Callable[[], AuditSettings]",
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Folder for the result and card.html.")
    ] = None,
    require: Require = None,
    where: Where = HERE,
    overwrite: Overwrite = False,
) -> int:
    """Measure how much symmetry a potential breaks on these structures, and whether it matters."""
    if output is not None:
        refuse_existing(output / "result.json", overwrite)
    chosen = settings()
    required = () if require is None else parse_require(require, KEYS)  # before anything is measured in vain
    structures = data.read([str(file) for file in files], require=())
    potential = where.load(model)  # before the bar, for a download has a bar of its own
    with progress_bar("auditing") as tell:
        result = tumble.audit(potential, structures, chosen, name=model, tell=lambda one: tell(*one))
    show_verdicts(result)
    if output is not None:
        result.save(output, overwrite=overwrite)
        print(f"wrote {output} and {tumble.report(result, to=output / 'card.html')}")
    failures = unmet(required, result.verdicts())
    show_unmet(failures)
    return NOT_TRUSTED if failures else DONE


def report(
    folders: Annotated[
        list[Path] | None, Parameter(help="Folders that commands have written.", negative_iterable=())
    ] = None,
    *,
    to: Annotated[Path | None, Parameter(help="The page to write; card.html if nothing else is asked for.")] = None,
    compare: Annotated[
        bool, Parameter(negative="", show_default=False, help="Results of one job side by side, with what changed.")
    ] = False,
    require: Require = None,
    schema: Annotated[
        bool, Parameter(negative="", show_default=False, help="Print the JSON Schema of trust.json.")
    ] = False,
) -> int:
    """Turn result folders into one self-contained HTML page, or check what they say."""
    if schema:
        print(trust_schema(), end="")
        return DONE
    folders = folders or []
    failures = [] if require is None else _failures(folders, require)
    if to is not None or compare or require is None or not folders:
        results = [load_result(folder) for folder in folders]
        print(f"wrote {tumble.report(*results, to=to or Path('card.html'), compare=compare)}")
    show_unmet(failures)
    return NOT_TRUSTED if failures else DONE


def _failures(paths: list[Path], require: str) -> list[str]:
    """What the verdicts in folders of results fall short of; a certificate alone, or its folder, is enough."""
    stored = {
        path: (load_result(path).verdicts() if (path / "result.json").is_file() else load_trust(path).verdicts)
        for path in paths
    }
    known = dict.fromkeys((*KEYS, *(verdict.name for verdicts in stored.values() for verdict in verdicts)))
    required = parse_require(require, tuple(known))
    return [f"{path}: {line}" for path, verdicts in stored.items() for line in unmet(required, verdicts)]


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Refuse to write over a file.

    Raises:
        ValueError: the file exists and may not be replaced.
    """
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already; a new file was expected. Give another name, or --overwrite.")
