"""What an orbit costs: time of one call, and of means over rules, for boxes of water of several sizes.

Writes a table to benchmarks/results/<date>-orbit-cost.md and prints it. Run by `make bench`.
"""

import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

import tumble
from tumble.checkpoint import hardware
from tumble.cli.demo import liquid
from tumble.potential import Potential, collate_for

RULES = ("none", "T", "O", "Oh")
SIDES = (2, 3)
RESULTS = Path(__file__).parent / "results"


def seconds(potential: Potential, batch: tumble.Batch, *, calls: int = 5) -> float:
    """Median time of a call, after one to warm up."""
    potential(batch)
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        potential(batch)
        if batch.positions.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def table() -> str:
    """The measurements as Markdown."""
    water = tumble.load("water", device="cuda" if torch.cuda.is_available() else "cpu")
    lines = [
        "# What an orbit costs",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {hardware()}, torch {torch.__version__}, tumble {tumble.__version__}, "
        f"`water` in {water.dtype}. Milliseconds for energy, forces and stress; in brackets, multiples of one raw call "
        "per rotation.",
        "",
        "| atoms | pairs | " + " | ".join(RULES) + " |",
        "|---|---|" + "---|" * len(RULES),
    ]
    for side in SIDES:
        batch = collate_for(water, [liquid(water, side, n_steps=20)])
        raw, cells = 0.0, []
        for rule in RULES:
            rotations = tumble.Rotations.parse(rule)
            taken = seconds(tumble.symmetrize(water, rotations), batch)
            raw = raw or taken
            cells.append(f"{1000 * taken:.1f} ({taken / raw / len(rotations):.2f})")
        lines.append(f"| {batch.n_atoms} | {batch.n_pairs} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = table()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-orbit-cost.md"
    path.write_text(text)
    print(text)
    print(f"wrote {path}")
