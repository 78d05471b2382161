"""Experiment C of the 2024 study: what broken symmetry does to the energies of proton orders in ice.

    python benchmarks/study2024/c/run.py study2024 -o runs/study2024/c                # the three cells of 96 molecules
    python benchmarks/study2024/c/run.py study2024 -o runs/study2024/c --full         # all nine, over an hour
    python benchmarks/study2024/c/run.py study2024 -o runs/study2024/c --report       # tables of what there is so far

Each cell is relaxed at fixed cell with the raw potential, and from there with its average over --average; the raw walk
is repeated in random frames. Cells come one after the other, the small ones first, until --budget is used up; a file
that was begun is finished, so a call may take longer. A run that was killed goes on with the file it was at. Writes
<date>-study2024-c.md, .json and .png to benchmarks/results.
"""

import argparse
import sys
from pathlib import Path

import torch

if __name__ == "__main__":  # run as a file, whose own folder would hide modules of others, such as `tables`
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import tumble
from study2024 import command, record, structures
from study2024.c.facts import Found, facts
from study2024.c.picture import draw
from study2024.c.tables import page
from study2024.c.walks import Ice
from tumble.cli.console import progress_bar
from tumble.descent import Descent
from tumble.rotations import Rotations

N_SMALL = 3
"""Cells that are asked without --full or --cells."""


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = command.parser(__doc__, minutes=30)
    parser.add_argument("--cells", type=int, default=N_SMALL, help="how many, the small ones first (%(default)s)")
    parser.add_argument("--average", default="euler:2i", help="rule, of the study by default (%(default)s)")
    parser.add_argument("--fmax", type=float, default=0.001, help="eV/Å at which a walk ends (%(default)s)")
    return parser.parse_args(words)


def main() -> None:
    """Ask what is not known yet, write what is."""
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    given, theirs = (structures.read(chosen.data, what) for what in ("ice", "ice at rest"))
    numbers = range(2, 2 + len(given))
    some = dict(zip(numbers, given, strict=True))
    if not chosen.full:
        some = dict(sorted(some.items(), key=lambda one: (len(one[1]), one[0]))[: chosen.cells])
    raw = tumble.load(chosen.potential)
    averaged = tumble.symmetrize(raw, chosen.average)
    settings = {"weights": record.digest(raw), "average": chosen.average, "fmax": chosen.fmax}
    try:
        command.same_question(chosen.out, settings)
    except ValueError as error:
        sys.exit(str(error))
    ice = Ice(chosen.out, some, raw, averaged, Descent(fmax=chosen.fmax, optimizer="lbfgs", cell="fixed", steps=300))
    with progress_bar("C") as tell:
        ice.run(len(Rotations.parse(chosen.average)), command.clock(chosen), tell)
    everything = Ice(chosen.out, dict(zip(numbers, given, strict=True)), raw, averaged, ice.settings)
    cells = everything.complete()
    if len(cells) < 2:
        sys.exit(f"{chosen.out} holds {len(cells)} complete cells; at least 2 are compared. Run on without --report.")
    found = Found.of(everything, cells, dict(zip(numbers, theirs, strict=True)))
    first = record.head(chosen.potential, raw)
    record.write(
        chosen.results,
        "c",
        lambda figure: page(first, found, settings, figure),
        {"settings": settings, **facts(found)},
        lambda path: draw(found, path),
    )


if __name__ == "__main__":
    main()
