"""tumble template: the settings of a verb as a commented file to fill in."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tumble.cli import DONE, VERBS, fetch
from tumble.results import Settings
from tumble.results.schema import template as filled_in

LIVE = {
    "train": (
        *("data", "valid", "targets", "model.cutoff", "model.d_pet", "model.num_gnn_layers"),
        *("phases.forces", "phases.epochs", "phases.learning_rate", "phases.matrix_learning_rate"),
        *("atoms_per_batch", "device", "seed"),
    ),
    "audit": ("tasks", "rotations", "budget", "temperature_K"),
}
"""What one chooses first, and so stands first; of other verbs the first setting."""
EXAMPLE: dict[str, dict[str, Any]] = {"train": {"data": ["train.extxyz"]}}
"""What has no default."""
USE = {
    "train": "Check it: tumble train recipe.yaml --dry-run; run it: tumble train recipe.yaml -o run.",
    "audit": "Use it: tumble audit MODEL FILES --config FILE.",
}


def template(
    verb: Annotated[str, Parameter(help="A verb that has settings, such as train or audit.")],
    *,
    preset: Annotated[str | None, Parameter(help="Of train: a published size of PET, XS, S, M, L or XL.")] = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="File to write; printed if none.")] = None,
) -> int:
    """Print every setting of a verb with its meaning, choices and default, as YAML to fill in."""
    settings = settings_of(verb)
    values = dict(EXAMPLE.get(verb, {}))
    if preset is not None:
        if verb != "train":
            raise ValueError(f"--preset chooses the size of a PET, and {verb} has none. Leave it out.")
        values["model"] = {"preset": preset}
    head = f"# Settings of tumble {verb}. A commented key shows its default. {USE.get(verb, 'Flags beat the file.')}\n"
    text = head + filled_in(settings(**values), LIVE.get(verb, tuple(settings.model_fields)[:1]))
    if output is None:
        print(text, end="")
    else:
        if output.exists():
            raise ValueError(f"{output} exists already; a new file was expected. Give another name.")
        output.write_text(text, encoding="utf-8")
    return DONE


def settings_of(verb: str) -> type[Settings]:
    """The Settings class of a verb.

    Raises:
        ValueError: there is no such verb, or it has no settings.
    """
    places = {one.name: one.settings for one in VERBS if one.settings}
    if verb not in places:
        raise ValueError(f"{verb!r} has no settings that could be filled in; expected one of {', '.join(places)}.")
    found: type[Settings] = fetch(places[verb])
    return found
