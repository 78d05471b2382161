"""Experiments B1, B2, B3 of the 2024 study: liquid water, raw, averaged with multiple time steps, and randomly turned.

    python benchmarks/study2024/b/run.py study2024 -o runs/study2024/b                # 64 molecules, two hours
    python benchmarks/study2024/b/run.py study2024 -o runs/study2024/b --report       # tables of what there is so far
    python benchmarks/study2024/b/run.py study2024 -o runs/study2024/b --molecules 512 --full    # as published

A box is equilibrated with the raw potential; from where that ends the three simulations go on, each for its share of
--budget, until they are as long as the published ones (500 ps). Every call goes on where the last one ended, and a run
that was killed where its last restart file is. Writes <date>-study2024-b.md, .json and .png to benchmarks/results.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

import ase.io
import numpy as np
import torch
from ase import Atoms

if __name__ == "__main__":  # run as a file, whose own folder would hide modules of others, such as `tables`
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import tumble
from study2024 import command, record, structures
from study2024.b.facts import Found, facts
from study2024.b.picture import draw
from study2024.b.tables import page
from study2024.runs import Simulation, advance
from tumble.cli.console import progress_bar
from tumble.jobs.md import MDSettings
from tumble.rotations import Rotations

FRAME: Final = 11
"""Of the study's test set, the 64 molecules to begin with: whole ones, near the bonds they have at rest, at a density
within 1.2 % of that of the study's simulations."""

LENGTH_A: Final = {64: 24.861166 / 2, 512: 24.861166}
"""Edges of boxes by their number of molecules: one density."""

START_ps: Final = 2.0
TIME_ps: Final = 500.0


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = command.parser(__doc__, minutes=120)
    parser.add_argument("--molecules", type=int, choices=LENGTH_A, default=64)
    parser.add_argument("--average", default="T", help="rule; the study's is euler:2i (%(default)s)")
    parser.add_argument("--start-ps", type=float, default=START_ps, help="of equilibration (%(default)s)")
    return parser.parse_args(words)


def box(atoms: Atoms, length_A: float) -> Atoms:
    """The molecules, whole, in a cube of this edge: their centres are moved apart, not their atoms.

    Args:
        atoms: molecules of three atoms, the oxygen first, in a cubic cell that they may be split across.
        length_A: Å.
    """
    old = float(np.cbrt(atoms.cell.volume))
    positions = atoms.positions.reshape(-1, 3, 3)
    inside = positions - positions[:, :1]
    inside -= old * np.round(inside / old)
    centres = positions[:, :1] * (length_A / old)
    return Atoms(atoms.numbers, positions=(centres + inside).reshape(-1, 3), cell=[length_A] * 3, pbc=True)


def begin(data: Path, n_molecules: int) -> Atoms:
    """The box that is equilibrated."""
    if n_molecules == 64:
        return box(structures.read(data, "test")[FRAME], LENGTH_A[64])
    return record.bare(structures.read(data, "liquid")[0])


def simulations(data: Path, out: Path, n_molecules: int, average: str, start_ps: float) -> list[Simulation]:
    """The equilibration, then raw, averaged and turned, which begin with its last frame and its velocities."""
    shared = MDSettings(
        ensemble="nvt", thermostat="svr", temperature_K=300.0, timestep_fs=0.5, log_fs=5.0, frame_fs=50.0, control="no",
    )  # fmt: skip
    first = shared.model_copy(update={"thermostat_fs": 50.0, "velocities": "draw", "time_ps": start_ps})
    study = shared.model_copy(update={"thermostat_fs": 10.0, "velocities": "given", "time_ps": TIME_ps})
    changes: dict[str, tuple[dict[str, object], float]] = {
        "raw": ({}, 1.0),
        "averaged": ({"average": average, "mts": "10"}, 1 + len(Rotations.parse(average)) / 10),
        "turned": ({"turns": "random"}, 1.0),
    }

    def last() -> list[Atoms]:
        found: Atoms = ase.io.read(out / "start" / "trajectory.extxyz", -1)
        return [found]

    return [
        Simulation("start", first, lambda: [begin(data, n_molecules)], 1.0),
        *(
            Simulation(name, study.model_copy(update={**change, "seed": seed}), last, cost)
            for seed, (name, (change, cost)) in enumerate(changes.items(), 1)
        ),
    ]


def main() -> None:
    """Run on, write what there is."""
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    raw = tumble.load(chosen.potential)
    settings = {
        "weights": record.digest(raw),
        "average": chosen.average,
        "molecules": chosen.molecules,
        "start_ps": chosen.start_ps,
    }
    try:
        command.same_question(chosen.out, settings)
    except ValueError as error:
        sys.exit(str(error))
    first, *rest = simulations(chosen.data, chosen.out, chosen.molecules, chosen.average, chosen.start_ps)
    clock = command.clock(chosen)
    with progress_bar("B") as tell:
        advance([first], raw, chosen.out, clock, tell)
        if first.is_done(chosen.out):
            advance(rest, raw, chosen.out, clock, tell)
    found = Found.of(raw, rest, chosen.out)
    if not found.runs:
        sys.exit(f"{chosen.out} holds no simulation longer than 1 ps yet. Run on without --report.")
    line = record.head(chosen.potential, raw)
    record.write(
        chosen.results,
        "b" if chosen.molecules == 64 else f"b{chosen.molecules}",
        lambda figure: page(line, found, settings, figure),
        {"settings": settings, **facts(found)},
        lambda path: draw(found, path),
    )


if __name__ == "__main__":
    main()
