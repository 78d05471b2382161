"""Verbs about potentials as files: which there are, what one of them is, and one written anew as .safetensors."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tumble import checkpoint
from tumble.checkpoint import hub
from tumble.cli import DONE
from tumble.cli.console import show
from tumble.cli.verbs import Name, Overwrite, Variant
from tumble.results import Table


def convert(
    model: Name,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="File for the potential, .safetensors.")],
    variant: Variant = None,
    overwrite: Overwrite = False,
) -> int:
    """Write a potential as .safetensors, with its card also as .json beside it; the numbers stay the same."""
    written = checkpoint.convert(model, output, variant=variant, overwrite=overwrite)
    print(f"wrote {written} and {written.with_suffix('.json')}")
    return DONE


def info(
    model: Name,
    *,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", show_default=False, help="Everything, as JSON.")
    ] = False,
) -> int:
    """Say what a potential is: species, cutoff, size, heads, variants, versions, card. Nothing is downloaded."""
    facts = checkpoint.describe(model)
    if as_json:
        print(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        show(Table(model, ("what", "value"), list(_lines(facts))))
    return DONE


def models(
    *,
    online: Annotated[
        bool, Parameter(negative="", show_default=False, help="Ask the Hugging Face Hub what there is now.")
    ] = False,
) -> int:
    """List the potentials that are packaged, in the cache, or known to be published."""
    rows = []
    for name, path in checkpoint.packaged().items():
        card = checkpoint.read_header(path)["card"]
        error = card.get("errors", {}).get("forces_mae_meV_per_A")
        size = f"{path.stat().st_size / 2**20:.1f}"
        rows.append((name, size, error, str(card.get("licence", "")), str(card.get("data", ""))))
    there, here = hub.published() if online else hub.KNOWN, hub.cached()
    show(Table("packaged potentials", ("name", "MB", "force MAE (meV/Å)", "licence", "data"), rows))
    show(_published(there, here, "now" if online else f"on {hub.KNOWN_ON}"))
    return DONE


def _published(there: hub.Versions, here: Mapping[tuple[str, str], Path], when: str) -> Table:
    """Models and their versions; an asterisk marks what the cache of this machine holds."""
    extra = {model: () for model, _ in here if model not in there}
    rows = []
    for model, versions in {**there, **extra}.items():
        more = (number for name, number in here if name == model and number not in versions)
        marked = (f"{number}{'*' if (model, number) in here else ''}" for number in (*versions, *more))
        rows.append((model, " ".join(marked), *hub.family(model)))
    note = (
        f"Known {when}; {len(here)} in the cache of this machine (*). A name alone is the newest: tumble info pet-mad-s"
    )
    return Table(f"published at {hub.REPOSITORY}", ("name", "versions", "level", "for"), rows, note)


def _lines(facts: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """One row per value; a value of a value is named with a dot."""
    for name, value in facts.items():
        place = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from _lines(value, f"{place}.")
        elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
            yield place, f"{len(value)} of them; --json shows them"
        elif isinstance(value, list | tuple):
            yield place, ", ".join(str(one) for one in value) or "none"
        else:
            number = isinstance(value, float)
            yield place, f"{value:.6g}" if number else "–" if value in (None, "") else str(value)
