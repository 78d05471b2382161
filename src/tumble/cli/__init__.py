"""The command line: one row per verb. A flag is a field of the verb's Settings, and beats the settings file."""

import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

from cyclopts import App

from tumble import __version__

DONE, UNEXPECTED, BAD_INPUT, MISSING_EXTRA, NOT_CONVERGED, NOT_TRUSTED, INTERRUPTED = 0, 1, 2, 3, 5, 6, 130
"""Exit codes."""

BAD_FILES = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


class Verb(NamedTuple):
    """One command: the function that runs it, and the Settings whose fields are its flags.

    Both are "module:name" and imported only for the verb that is run: `tumble --help` need not import torch. The
    examples are command lines below its help.
    """

    name: str
    command: str
    help: str
    settings: str = ""
    examples: tuple[str, ...] = ()


VERBS = (
    Verb("predict", "tumble.cli.verbs:predict", "Energy, forces and stress of structures."),
    Verb(
        "symmetrize",
        "tumble.cli.verbs:symmetrize",
        "Average a potential over rotations, or project it on a crystal; the result is a file too.",
    ),
    Verb(
        "train",
        "tumble.cli.train:train",
        "Train a potential on labelled structures.",
        settings="tumble.jobs.train:TrainSettings",
        examples=(
            "tumble template train --preset XS -o recipe.yaml",
            "tumble train recipe.yaml --dry-run",
            "tumble train recipe.yaml -o run --max-minutes 60",
            "tumble train -o run --resume",
        ),
    ),
    Verb(
        "template",
        "tumble.cli.template:template",
        "Print every setting of a verb, with meaning, choices and default, as YAML to fill in.",
        examples=("tumble template train --preset XS -o recipe.yaml", "tumble template audit"),
    ),
    Verb(
        "store",
        "tumble.cli.store:store",
        "Write labelled structures into a store that is read without being loaded.",
        settings="tumble.data:StoreSettings",
    ),
    Verb(
        "uncertainty",
        "tumble.cli.uncertainty:uncertainty",
        "Let a trained potential say how uncertain its answers are, and judge what it says.",
    ),
    Verb(
        "audit",
        "tumble.cli.verbs:audit",
        "Measure how much symmetry a potential breaks, and whether it matters.",
        settings="tumble.jobs.audit:AuditSettings",
    ),
    Verb(
        "relax",
        "tumble.cli.statics:relax",
        "Relax atoms and cells, and say whether the symmetry of what comes out is real.",
        settings="tumble.jobs.relax:RelaxSettings",
        examples=(
            "tumble relax silicon rattled.xyz -o relaxed --cell all",
            "tumble relax silicon rattled.xyz -o kept --symmetry keep",
        ),
    ),
    Verb(
        "elastic",
        "tumble.cli.statics:elastic",
        "Elastic constants and equation of state of a relaxed crystal.",
        settings="tumble.jobs.elastic:ElasticSettings",
        examples=("tumble elastic silicon relaxed/atoms.extxyz -o elastic",),
    ),
    Verb(
        "phonons",
        "tumble.cli.statics:phonons",
        "Phonons of a relaxed crystal, or vibrations of a molecule.",
        settings="tumble.jobs.phonons:PhononsSettings",
        examples=("tumble phonons silicon relaxed/atoms.extxyz -o phonons",),
    ),
    Verb(
        "conductivity",
        "tumble.cli.statics:conductivity",
        "Lattice thermal conductivity of a relaxed crystal.",
        settings="tumble.jobs.conductivity:ConductivitySettings",
        examples=("tumble conductivity silicon relaxed/atoms.extxyz -o kappa --mesh 11 11 11",),
    ),
    Verb(
        "md",
        "tumble.cli.md:md",
        "Molecular dynamics that says what it conserved, what it did not, and why.",
        settings="tumble.jobs.md:MDSettings",
        examples=(
            "tumble md water monomer.xyz -o run --time-ps 10",
            "tumble md water box.xyz -o run --average O --mts auto --temperature-K 300",
            "tumble md water box.xyz -o run --time-ps 20 --resume",
            "tumble md water box.xyz -o quantum --engine i-pi --beads 8 --thermostat langevin",
        ),
    ),
    Verb(
        "observe",
        "tumble.cli.observe:observe",
        "What trajectories say: distribution, diffusion, spectra, orientations, with error bars.",
        settings="tumble.jobs.observe:ObserveSettings",
        examples=("tumble observe run -o observed", "tumble observe raw averaged -o compared"),
    ),
    Verb(
        "screen",
        "tumble.cli.screen:screen",
        "Run any job over many structures, in shards that resume after anything.",
        settings="tumble.jobs.screen:ScreenSettings",
        examples=(
            "tumble screen relax silicon structures/ -o screened --workers 4",
            "tumble screen relax silicon structures/ -o screened --resume",
        ),
    ),
    Verb(
        "report",
        "tumble.cli.verbs:report",
        "Turn result folders into one HTML page, compare them, or check what they say.",
    ),
    Verb("models", "tumble.cli.potentials:models", "List packaged, cached and published potentials."),
    Verb("info", "tumble.cli.potentials:info", "Say what a potential is, and what its file says of itself."),
    Verb("export", "tumble.cli.export:export", "Write a potential as a file that LAMMPS, GROMACS, i-PI and ASE run."),
    Verb("serve", "tumble.cli.serve:serve", "Answer a server that speaks the i-PI protocol, over a socket."),
    Verb("convert", "tumble.cli.potentials:convert", "Write a potential as .safetensors; the numbers stay the same."),
    Verb("demo", "tumble.cli.demo:demo", "Audit the packaged water potential, raw and symmetrized."),
)


def build(words: Sequence[str] = ()) -> App:
    """The application: every verb registered, only the one among these words imported."""
    app = App(
        name="tumble",
        version=__version__,
        help="Train, audit, repair and run unconstrained interatomic potentials.",
        help_epilogue="`tumble VERB --help` lists the flags of a verb. `--debug` shows the traceback of an error. "
        "Exit codes: 0 done, 1 unexpected, 2 bad input, 3 missing extra, 5 not converged, 6 trust failed.",
        help_format="markdown",
        result_action="return_value",
    )
    for order, verb in enumerate(VERBS):
        command = _command(verb) if verb.name in words else verb.command
        shown = "Examples:\n\n" + "\n".join(f"- `{line}`" for line in verb.examples) if verb.examples else None
        app.command(command, name=verb.name, help=verb.help, help_epilogue=shown, sort_key=order)
    return app


def _check_verb(words: Sequence[str]) -> None:
    names = [verb.name for verb in VERBS]
    if words and words[0] not in names and words[0] not in ("-h", "--help", "--version"):
        near = get_close_matches(words[0], names, 1)
        hint = f" Did you mean {near[0]!r}?" if near else " See tumble --help."
        raise ValueError(f"there is no verb {words[0]!r}; there are {', '.join(names)}.{hint}")


def _command(verb: Verb) -> Callable[..., int | None]:
    from tumble.cli.flags import with_settings

    command = fetch(verb.command)
    return with_settings(fetch(verb.settings), command) if verb.settings else command


def fetch(place: str) -> Any:
    """What "module:name" says, imported now."""
    module, name = place.split(":")
    return getattr(import_module(module), name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is one message on stderr, without a traceback.

    Args:
        arguments: words after `tumble`; those of the process if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or bool(os.environ.get("TUMBLE_DEBUG"))
    words = [word for word in words if word != "--debug"]
    try:
        _check_verb(words)
        return build(words)(words) or DONE
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else BAD_INPUT
    except Exception as error:
        if debug:
            raise
        code = exit_code(error)
        hint = "" if code in (BAD_INPUT, MISSING_EXTRA) else "\nAdd --debug to see where it happened."
        print(f"tumble: {_message(error)}{hint}", file=sys.stderr)
        return code


def exit_code(error: Exception) -> int:
    """What an error means to the shell."""
    if isinstance(error, ImportError):
        return MISSING_EXTRA
    return BAD_INPUT if isinstance(error, (ValueError, *BAD_FILES)) else UNEXPECTED


def _message(error: Exception) -> str:
    ours = isinstance(error, ValueError | RuntimeError | ImportError | OSError)
    return str(error) if ours and str(error) else f"{type(error).__name__}: {error}"
