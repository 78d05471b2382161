"""Experiment M2 of the 2024 study: where a single molecule of water points, in motion and as its orbit predicts.

    python benchmarks/study2024/m2/run.py study2024 -o runs/study2024/m2              # 1 ns raw and 0.1 ns averaged
    python benchmarks/study2024/m2/run.py study2024 -o runs/study2024/m2 --full       # 10 ns, 1 ns and 10 ns at 30 K
    python benchmarks/study2024/m2/run.py study2024 -o runs/study2024/m2 --report     # tables of what there is so far

256 molecules that know nothing of each other move side by side, with Langevin's thermostat: raw at 300 K, averaged at
300 K with multiple time steps, and raw at 30 K, where the same energies are ten times as large in units of k_BT. A run
that was killed goes on where it was. Writes <date>-study2024-m2.md, .json and .png to benchmarks/results.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

import numpy as np
import torch
from ase import Atoms

if __name__ == "__main__":  # run as a file, whose own folder would hide modules of others, such as `tables`
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import tumble
from study2024 import command, record, structures
from study2024.m2.facts import Found, WARM_UP_ps, facts
from study2024.m2.picture import draw
from study2024.m2.tables import page
from study2024.runs import Simulation, advance
from tumble.cli.console import progress_bar
from tumble.jobs.md import MDSettings
from tumble.rotations import Rotations

REPLICAS: Final = 256
MOLECULES: Final = 128
"""Geometries of the study's molecules of which the static prediction is made; and as many of our own."""

LENGTHS_ns: Final = {"raw": (1.0, 10.0), "averaged": (0.1, 1.0), "cold": (2.0, 10.0)}
"""Of all replicas together, beside the warm-up: by default, and with --full."""

COLD_K: Final = 30.0


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = command.parser(__doc__, minutes=45)
    parser.add_argument("--average", default="euler:2i", help="rule, of the study by default (%(default)s)")
    return parser.parse_args(words)


def begin(molecules: list[Atoms], n: int) -> list[Atoms]:
    """Molecules of the study, spread over its run, each in a random orientation of its own."""
    chosen = [molecules[k] for k in np.linspace(0, len(molecules) - 1, n).astype(int)]
    turns = Rotations.random(n, seed=7).matrices.numpy()
    found = [structures.in_vacuum(one) for one in chosen]
    for one, turn in zip(found, turns, strict=True):
        one.positions = one.positions @ turn.T
    return found


def simulations(molecules: list[Atoms], average: str, *, full: bool, replicas: int = REPLICAS) -> list[Simulation]:
    """Raw, averaged, cold."""
    n_nodes = len(Rotations.parse(average))
    shared = MDSettings(
        engine="torchsim", ensemble="nvt", thermostat="langevin", thermostat_fs=100.0, timestep_fs=0.5, frame_fs=50.0,
        log_fs=50.0, velocities="draw", control="no",
    )  # fmt: skip
    changes: dict[str, tuple[dict[str, object], float]] = {
        "raw": ({}, 1.0),
        "averaged": ({"average": average, "mts": "10"}, 1 + n_nodes / 10),
        "cold": ({"temperature_K": COLD_K, "timestep_fs": 1.0}, 0.5),
    }
    return [
        Simulation(
            name,
            shared.model_copy(
                update={**change, "time_ps": WARM_UP_ps + 1000 * LENGTHS_ns[name][full] / replicas, "seed": seed}
            ),
            lambda: begin(molecules, replicas),
            cost,
        )
        for seed, (name, (change, cost)) in enumerate(changes.items())
    ]


def main() -> None:
    """Run what is not done yet, write what is."""
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    molecules = structures.read(chosen.data, "monomers")
    raw = tumble.load(chosen.potential)
    settings = {"weights": record.digest(raw), "average": chosen.average, "replicas": REPLICAS}
    try:
        command.same_question(chosen.out, settings)
    except ValueError as error:
        sys.exit(str(error))
    plan = simulations(molecules, chosen.average, full=chosen.full)
    with progress_bar("M2") as tell:
        advance(plan, raw, chosen.out, command.clock(chosen), tell)
    some = [molecules[k] for k in np.linspace(0, len(molecules) - 1, MOLECULES).astype(int)]
    found = Found.of(raw, [structures.in_vacuum(one) for one in some], plan, chosen.out)
    first = record.head(chosen.potential, raw)
    record.write(
        chosen.results,
        "m2",
        lambda figure: page(first, found, settings, figure),
        {"settings": settings, **facts(found)},
        lambda path: draw(found, path),
    )


if __name__ == "__main__":
    main()
