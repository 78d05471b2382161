"""Dynamics: what a step costs and how far the conserved quantity drifts, with forces of several kinds, side by side.

    python benchmarks/dynamics.py -o runs/dynamics --budget 25

A molecule of water, a box of liquid and a crystal of silicon move with the raw potential, its average over rotations,
multiple time steps of the two with as many fast steps as `--mts auto` chooses and with fixed numbers, random turns,
direct forces, and direct forces corrected by the derivative. All simulations go on a little in turn until the budget
is spent, so that their costs, in time of the processor, are compared on equal terms. What is there is kept in the
folder after -o, and another call goes on from it.

Writes <date>-dynamics.md and .json to benchmarks/results.
"""

import argparse
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from dynamics.cases import CASES, Laboratory
from dynamics.runs import Keeper, overhead
from dynamics.tables import CHOICES, numbers, page, tables

import tumble

RESULTS = Path(__file__).resolve().parent / "results"
TURN_S = 8.0
"""Seconds of the processor that a simulation goes on before the next one does."""


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-o", "--out", type=Path, required=True, help="folder in which simulations are kept, and found again")
    add("--budget", type=float, default=25.0, help="minutes of the processor; 0: only the tables of what there is")
    add("--model", default="water", help="a potential of water with direct heads")
    add("--rule", default="T", help="that is averaged over")
    add("--side", type=int, default=2, help="molecules along each edge of the box of liquid")
    add("--molecule", type=float, default=5.0, help="K/ns that auto may add to the molecule")
    add("--liquid", type=float, default=1000.0, help="K/ns that auto may add to the liquid")
    add("--crystal", type=float, default=5.0, help="K/ns that auto may add to the crystal")
    add("--only", default="", help="simulations with this in their name go on, such as crystal; all if left out")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--results", type=Path, default=RESULTS, help="folder of the tables")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Let everything go on, write."""
    chosen, begin = arguments(words), time.process_time()
    torch.set_num_threads(chosen.threads)
    chosen.out.mkdir(parents=True, exist_ok=True)
    laboratory = Laboratory(chosen.out, chosen.model, chosen.rule, chosen.side)
    keeper = Keeper(laboratory, {name: getattr(chosen, name) for name in ("molecule", "liquid", "crystal")})
    outside = keeper.known("overhead", lambda: overhead(laboratory))
    for system, potential in CHOICES:
        print(f"{system}, {potential}: {keeper.choice(system, potential)['reason']}", flush=True)
    while time.process_time() - begin < 60 * chosen.budget:
        for case in (one for one in CASES if chosen.only in one.key):
            keeper.advance(case, min(1.0, chosen.budget / 5) * TURN_S * case.weight)
    found = numbers(keeper, outside)
    day = datetime.now(UTC).date().isoformat()
    note = (
        f"{chosen.threads} threads on {os.cpu_count()} cores, torch {torch.__version__}, tumble {tumble.__version__}: "
        f"`{Path(chosen.model).name}` in {str(laboratory.water['raw'].dtype).removeprefix('torch.')}, "
        f"{chosen.side**3} molecules of liquid, 0.5 fs; 300 K; `silicon`, 64 atoms, 2 fs, 50 K."
    )
    text = page(tables(found, chosen.rule), f"Dynamics, {day}", note)
    chosen.results.mkdir(parents=True, exist_ok=True)
    (chosen.results / f"{day}-dynamics.md").write_text(text)
    (chosen.results / f"{day}-dynamics.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(text)


if __name__ == "__main__":
    main()
