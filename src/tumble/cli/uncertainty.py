"""The verb `uncertainty`: a finished potential learns how uncertain its answers are."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

import tumble
from tumble import checkpoint, data
from tumble.cli import DONE
from tumble.cli.console import progress_bar, show
from tumble.cli.verbs import Name, Overwrite, refuse_existing
from tumble.data.fingerprints import exact
from tumble.jobs.train.certainty import fit
from tumble.jobs.train.extras import Uncertainty
from tumble.jobs.train.reliability import CertaintyResult
from tumble.models.pet import PET
from tumble.results import Table

Files = Annotated[list[Path], Parameter(consume_multiple=True, negative_iterable=())]


def uncertainty(
    model: Name,
    *,
    train: Annotated[Files, Parameter(help="Files that the potential was trained on; labels only for an ensemble.")],
    valid: Annotated[Files, Parameter(help="Files with labels that it was not trained on.")],
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="File for the potential, .safetensors.")],
    kind: Annotated[
        Literal["llpr", "ensemble"], Parameter(help="From the last features; or last layers drawn and trained.")
    ] = "llpr",
    members: Annotated[int, Parameter(help="Last layers of the ensemble, for forces; 0 for energies only.")] = 8,
    overwrite: Overwrite = False,
) -> int:
    """Let a trained potential say how uncertain its answers are; the answers stay the same.

    Beside the file stands a folder of the same name with the result, and card.html.
    """
    if output.suffix != ".safetensors":  # said before the work, and not after it
        raise ValueError(f"a potential is saved as a .safetensors file; {output.name!r} was given. Change the ending.")
    folder = output.with_suffix("")
    for path in (output, folder / "result.json"):
        refuse_existing(path, overwrite)
    trained = getattr(tumble.load(model), "model", None)
    if not isinstance(trained, PET):
        raise ValueError(
            f"{model} is not a single PET, whose last layer tells uncertainties. Give the PET, and symmetrize what "
            "comes out: an average carries them."
        )
    known = data.read(
        [str(file) for file in train], require=("energy", "forces") if kind == "ensemble" else (), missing="mask"
    )
    held = data.read([str(file) for file in valid], require=("energy",), missing="mask")
    _check_apart(known, held)
    settings = Uncertainty(kind=kind, members=members)
    with progress_bar("fitting") as tell:
        potential, arrays = fit(trained, known, held, settings, tell=lambda one: tell(*one))
    result = CertaintyResult(settings, f"{model} on {len(held)} structures", arrays)
    card = checkpoint.describe(model).get("card", {}) | {
        "uncertainty": {"fitted_to": model, "train": [str(f) for f in train], "valid": [str(f) for f in valid]}
    }
    checkpoint.save(potential, output, card)
    result.save(folder, overwrite=overwrite)
    for fact in result.facts():
        if isinstance(fact, Table):
            show(fact)
    print(f"wrote {output} and {tumble.report(result, to=folder / 'card.html')}")
    return DONE


def _check_apart(train: data.Dataset, valid: data.Dataset) -> None:
    seen = {exact(atoms) for atoms in train.atoms}
    both = [source for source, atoms in zip(valid.sources, valid.atoms, strict=True) if exact(atoms) in seen]
    if both:
        raise ValueError(
            f"{len(both)} of {len(valid)} structures to calibrate by were trained on, the first is {both[0]}; none was "
            "expected, for errors there are smaller. Give others."
        )
