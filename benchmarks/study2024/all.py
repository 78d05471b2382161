"""All experiments of the 2024 study, one command each, within a budget of real time.

    python benchmarks/study2024/all.py study2024 -o runs/study2024                    # an evening on two cores
    python benchmarks/study2024/all.py study2024 -o runs/study2024 --budget 60        # an hour, with shorter runs
    python benchmarks/study2024/all.py study2024 -o runs/study2024 --full             # the published lengths: weeks
    python benchmarks/study2024/all.py study2024 -o runs/study2024 --report           # tables of what there is so far

Each experiment keeps its work in a folder of its own within the one after -o and goes on where it was, whatever has
ended it: the same command again makes everything longer. One core does the small ones in turn, the other the liquid.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

if __name__ == "__main__":  # run as a file, whose own folder would hide modules of others, such as `tables`
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from study2024 import command

LANES: Final = (("c", "m2", "m1", "s1"), ("b",))
"""Experiments that follow each other; lanes run side by side if there are cores for them."""

NEEDS_minutes: Final = {"c": 25.0, "m2": 20.0, "m1": 15.0, "s1": 65.0}
"""What those with a natural end take on a core of a 2.6 GHz server; the liquid takes whatever it gets."""

LIQUID_SHARE: Final = 0.5
"""Of the budget of a single core."""


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = command.parser(__doc__, minutes=240)
    parser.add_argument("--only", nargs="+", choices=[*NEEDS_minutes, "b"], help="experiments to run; all if left out")
    parser.add_argument("--cores", type=int, choices=(1, 2), default=2, help="experiments side by side (%(default)s)")
    parser.set_defaults(threads=1)
    return parser.parse_args(words)


def plan(budget: float, cores: int, only: Sequence[str] | None = None) -> list[dict[str, float]]:
    """Lanes of experiments with their minutes; what one of them does not need is the next one's.

    Args:
        budget: minutes of real time.
        cores: 1 or 2.
        only: experiments to run; None: all.
    """
    lanes = [[name for name in lane if only is None or name in only] for lane in LANES]
    small, liquid = lanes
    for_small = budget if cores == 2 or not liquid else budget * (1 - LIQUID_SHARE)
    needs = [NEEDS_minutes[name] for name in small]
    scale = min(1.0, for_small / sum(needs)) if needs else 0.0
    minutes = {name: scale * need for name, need in zip(small, needs, strict=True)}
    rest = budget if cores == 2 else budget - sum(minutes.values())
    return [lane for lane in (minutes, dict.fromkeys(liquid, rest)) if lane]


def run(chosen: argparse.Namespace, name: str, minutes: float) -> int:
    """One experiment in a process of its own; how it ended."""
    script = Path(__file__).resolve().parent / name / "run.py"
    words = [sys.executable, str(script), str(chosen.data), "-o", str(chosen.out / name), "--budget", f"{minutes:.3g}"]
    words += ["--potential", chosen.potential, "--threads", str(chosen.threads), "--results", str(chosen.results)]
    words += ["--full"] * chosen.full + ["--report"] * chosen.report
    return subprocess.run(words).returncode


def main() -> None:
    """Run them, and say which have failed."""
    chosen = arguments()
    lanes = plan(chosen.budget, chosen.cores, chosen.only)

    def in_turn(lane: dict[str, float]) -> list[str]:
        return [name for name, minutes in lane.items() if run(chosen, name, minutes)]

    with ThreadPoolExecutor(chosen.cores) as pool:
        failed = [name for names in pool.map(in_turn, lanes) for name in names]
    if failed:
        sys.exit(f"{', '.join(failed)} did not end well; what they said is above. The same command goes on.")


if __name__ == "__main__":
    main()
