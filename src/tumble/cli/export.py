"""The verb `export`: a potential as a file for other engines."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

import tumble
from tumble import checkpoint
from tumble.cli import DONE
from tumble.cli.verbs import HERE, Name, Overwrite, Rule, Where, refuse_existing


def export(
    model: Name,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="File for the program, .pt.")],
    to: Annotated[Literal["metatomic"], Parameter(help="What the file is for; all engines take this one.")] = (
        "metatomic"
    ),
    rotations: Rule | None = None,
    minus: Annotated[
        str | None, Parameter(help="Another potential whose energy is subtracted, for slow levels of time steps.")
    ] = None,
    where: Where = HERE,
    overwrite: Overwrite = False,
) -> int:
    """Write a potential as a file that ASE, LAMMPS, GROMACS, i-PI and TorchSim run, and compare their numbers."""
    refuse_existing(output, overwrite)
    potential = where.load(model)
    if rotations is not None:
        potential = tumble.symmetrize(potential, rotations)
    other = None if minus is None else where.load(minus)
    said = checkpoint.describe(model)
    card = {"name": Path(model).stem, **said.get("card", {})}
    print(f"wrote {tumble.export(potential, output, to, minus=other, dtype=where.dtype, card=card)}")
    reach = checkpoint.describe(output)["interaction_range_A"]
    print(f"its numbers are those of the potential; an atom feels what is within {reach:g} Å")
    return DONE
