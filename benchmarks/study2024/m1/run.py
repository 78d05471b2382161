"""Experiment M1 of the 2024 study: one molecule at constant energy, raw and averaged, for 25 ps.

    python benchmarks/study2024/m1/run.py study2024 -o runs/study2024/m1              # the published length, minutes
    python benchmarks/study2024/m1/run.py study2024 -o runs/study2024/m1 --report     # tables of what there is so far

Both runs begin with the study's geometry and the same velocities, drawn at 300 K. A run that was killed goes on where
it was. Torques of every level and E_avg − E_raw are asked for along the raw run afterwards. Writes
<date>-study2024-m1.md, .json and .png to benchmarks/results.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

import torch

if __name__ == "__main__":  # run as a file, whose own folder would hide modules of others, such as `tables`
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import tumble
from study2024 import command, record, structures
from study2024.m1.facts import Found, facts
from study2024.m1.picture import draw
from study2024.m1.tables import page
from study2024.published import LEVELS
from study2024.runs import Simulation, advance
from tumble.cli.console import progress_bar
from tumble.jobs.md import MDSettings
from tumble.rotations import Rotations

TIME_ps: Final = 25.0
AVERAGED: Final = "2i"
"""Level of the averaged run."""


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    return command.parser(__doc__, minutes=30).parse_args(words)


def simulations(data: Path, time_ps: float = TIME_ps) -> list[Simulation]:
    """Raw and averaged."""
    rule = LEVELS[AVERAGED]
    shared = MDSettings(
        ensemble="nve", timestep_fs=0.5, time_ps=time_ps, velocities="draw", temperature_K=300.0, frame_fs=2.0,
        log_fs=10.0, control="no",
    )  # fmt: skip
    averaged = shared.model_copy(update={"average": rule})

    def begin() -> list[structures.Atoms]:
        return [structures.in_vacuum(structures.read(data, "molecule")[0])]

    # Copies of a molecule in one call cost a good tenth of calls of their own.
    return [
        Simulation("raw", shared, begin, 1.0),
        Simulation("averaged", averaged, begin, 1 + 0.1 * len(Rotations.parse(rule))),
    ]


def main() -> None:
    """Run what is not done yet, write what is."""
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    raw = tumble.load(chosen.potential)
    settings = {"weights": record.digest(raw), "levels": LEVELS, "averaged": AVERAGED}
    try:
        command.same_question(chosen.out, settings)
    except ValueError as error:
        sys.exit(str(error))
    plan = simulations(chosen.data)
    with progress_bar("M1") as tell:
        advance(plan, raw, chosen.out, command.clock(chosen), tell)
    if plan[0].done_ps(chosen.out) < 1:
        sys.exit(f"{chosen.out} holds less than 1 ps of the raw run. Run on without --report.")
    found = Found.of(raw, plan, chosen.out)
    first = record.head(chosen.potential, raw)
    record.write(
        chosen.results,
        "m1",
        lambda figure: page(first, found, figure),
        {"settings": settings, **facts(found)},
        lambda path: draw(found, path),
    )


if __name__ == "__main__":
    main()
