"""tumble train: run a recipe, say what it would do, or describe it to an editor."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import tumble
from tumble.cli import DONE
from tumble.cli.console import progress_bar, show
from tumble.cli.verbs import Overwrite, refuse_existing
from tumble.results.schema import schema as schema_of

if TYPE_CHECKING:
    from tumble.jobs.train import TrainSettings

Flag = Annotated[bool, Parameter(negative="", show_default=False)]


@Parameter(name="*")
@dataclass(frozen=True)
class Instead:
    """What to do instead of training."""

    dry_run: Annotated[
        Flag, Parameter(help="Check everything, take a few steps, and print the plan; nothing is written.")
    ] = False
    schema: Annotated[Flag, Parameter(help="Print the JSON Schema of recipes, for editors.")] = False


NOTHING_ELSE = Instead()


def train(
    config: Annotated[Path | None, Parameter(help="Recipe, a YAML file.")] = None,
    *,
    settings: "Callable[[Path | None], TrainSettings]",
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Folder for checkpoints, curves and the potential.")
    ] = None,
    resume: Annotated[Flag, Parameter(help="Continue what the folder holds, with its recipe.")] = False,
    max_minutes: Annotated[float | None, Parameter(help="Stop after so long; --resume continues.")] = None,
    overwrite: Overwrite = False,
    instead: Instead = NOTHING_ELSE,
) -> int:
    """Train a potential on labelled structures."""
    if instead.schema:
        print(json.dumps(recipe_schema(), indent=2, ensure_ascii=False))
        return DONE
    if instead.dry_run:
        return _plan(settings(None))
    if output is None:
        raise ValueError("train writes a folder, and none is named. Add -o FOLDER, or --dry-run to write nothing.")
    stored = output / "recipe.yaml"
    chosen = settings(stored if resume and stored.is_file() else None)
    refuse_existing(output / "result.json", overwrite or resume)
    flags: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "max_minutes": max_minutes}
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process writes and tells
        tumble.train(chosen, output, **flags)
        return DONE
    with progress_bar("training") as tell:
        result = tumble.train(chosen, output, tell=lambda one: tell(*one), show=show, **flags)
    result.save(output, overwrite=overwrite or resume)
    print(f"wrote {output / 'best.safetensors'} and {tumble.report(result, to=output / 'card.html')}")
    return DONE


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe; a published size may stand for the shape of the model."""
    from tumble.jobs.train import TrainSettings
    from tumble.models.pet.settings import SIZES

    made = schema_of(TrainSettings, "tumble train recipe")
    sizes = {"description": "a published size, from which the keys beside it may differ", "enum": list(SIZES)}
    made["$defs"]["PETSettings"]["properties"]["preset"] = sizes
    return made


def _plan(settings: "TrainSettings") -> int:
    from tumble.jobs.train.plan import plan

    with progress_bar("planning") as tell:
        found = plan(settings, tell=lambda one: tell(*one), show=show)
    for table in found.tables():
        show(table)
    return DONE
