"""tumble serve: a client for a server that speaks the i-PI protocol."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import tumble
from tumble import data
from tumble.cli import DONE, INTERRUPTED
from tumble.cli.console import progress_bar
from tumble.cli.verbs import HERE, Name, Where

Structure = Annotated[Path, Parameter(help="The server's atoms, in its order, in any format that ASE reads.")]


def serve(
    model: Name,
    file: Structure,
    *,
    address: Annotated[str, Parameter(help="Name or number of the server's machine.")] = "localhost",
    port: Annotated[int, Parameter(help="Port of the server.")] = 31415,
    unix: Annotated[str | None, Parameter(help="Name or path of a UNIX socket, instead of address and port.")] = None,
    virial: Annotated[
        bool, Parameter(help="Answer with the virial, too; without, the cell must stay as it is.")
    ] = True,
    where: Where = HERE,
) -> int:
    """Answer a server that speaks the i-PI protocol, over a socket, until it goes."""
    structures = data.read([str(file)], require=()).atoms
    if len(structures) != 1:
        raise ValueError(
            f"{file} holds {len(structures)} structures; the one of the server was expected. Write it into a file "
            "of its own."
        )
    potential = where.load(model)  # before the bar, for a download has a bar of its own
    try:
        with progress_bar("serving") as tell:
            n_answers = tumble.serve(
                potential,
                structures[0],
                address=address,
                port=port,
                unix=unix,
                virial=virial,
                tell=lambda one: tell(*one),
            )
    except KeyboardInterrupt:
        print("tumble: interrupted; the server waits for another client.", file=sys.stderr)
        return INTERRUPTED
    print(f"gave {n_answers} answers")
    return DONE
