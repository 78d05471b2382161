"""Throughput of training with 1, 2, ... processes, and where the time of a step goes; beside it, `mtt train`.

    python benchmarks/training.py                          # 1 and 2 processes of one thread each
    python benchmarks/training.py --processes 1 2 4 8 --device cuda --repeats 3
    python benchmarks/training.py --metatrain              # also one process against `mtt train` (speed/training.py)

Frames are boxes of water, labelled by the packaged potential. Every case is a training of its own under torchrun; the
cases take turns. "weak" gives every process the same work whatever their number, "strong" divides the same work.
Efficiency is throughput over that of one process times their number; 1 is perfect. Its CPU column compares processor
time per structure, which other programs on the machine do not disturb: it shows what sharing the work costs, not what
waiting costs. Writes benchmarks/results/<date>-training.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, final

import ase.io
import numpy as np
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from speed import systems, training
from speed.numbers import milliseconds, table
from speed.plan import Plan, say

import tumble
from tumble.jobs.train.loop import Loop
from tumble.jobs.train.ranks import Ranks

PARTS: Final = ("waiting for data", "forward and backward", "all-reduce", "optimizer", "rest")
RESULTS: Final = Path(__file__).parent / "results"


@final
class Stopwatch:
    """Seconds that the parts of every step take, by wrapping the functions that do them."""

    def __init__(self) -> None:
        """Wrap; from now on every step of a training in this process is written down."""
        self.steps: list[dict[str, float]] = []
        self.parts: Counter[str] = Counter()
        self.is_inside = False
        self.ended = self.cpu = 0.0
        self._wrap(Loop, "_gradient", "forward and backward")
        for name in ("sums", "sum_", "sum_gradients_"):
            self._wrap(Ranks, name, "all-reduce")
        self._wrap(torch.optim.AdamW, "step", "optimizer")
        self._wrap(torch.optim.swa_utils.AveragedModel, "update_parameters", "optimizer")
        self._around(Loop, "take", self._step)
        self._around(Loop, "_check", self._restart)

    def _around(self, owner: Any, name: str, how: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        setattr(owner, name, lambda *given, **named: how(lambda: original(*given, **named)))

    def _wrap(self, owner: Any, name: str, part: str) -> None:
        self._around(owner, name, lambda call: self._part(part, call))

    def _part(self, part: str, call: Callable[[], Any]) -> Any:
        if self.is_inside:  # a part of a part
            return call()
        self.is_inside, started = True, time.perf_counter()
        try:
            return call()
        finally:
            self.is_inside = False
            self.parts[part] += time.perf_counter() - started

    def _step(self, call: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        self.parts.clear()
        found = call()
        now, cpu = time.perf_counter(), time.process_time()
        if self.ended:
            known = {**self.parts, "waiting for data": started - self.ended}
            total = now - self.ended
            self.steps.append({**known, "rest": total - sum(known.values()), "total": total, "cpu": cpu - self.cpu})
        self.ended, self.cpu = now, cpu
        return found

    def _restart(self, call: Callable[[], Any]) -> Any:
        """A validation: the next step cannot say how long it waited."""
        found = call()
        self.ended = 0.0
        return found


def worker(recipe: str, out: str) -> None:
    """One process of a training: write the times of its steps, the first epoch left out."""
    watch = Stopwatch()
    settings = tumble.TrainSettings.from_yaml(recipe)
    tumble.train(settings, out, show=lambda table: None)
    path = Path(out) / f"steps{os.environ['RANK']}.json"
    path.write_text(json.dumps(watch.steps[len(watch.steps) // settings.phases[0].epochs :]))


def frames(folder: Path, n: int, side: int) -> int:
    """Write boxes of water with labels; returns how many atoms each has."""
    boxes = [systems.water(side, seed) for seed in range(n)]
    for box, answer in zip(boxes, tumble.predict(tumble.load("water"), boxes), strict=True):
        forces = np.asarray(answer.forces, dtype=float)
        box.calc = SinglePointCalculator(box, energy=float(answer.energy), forces=forces)
    ase.io.write(folder / "train.xyz", boxes, format="extxyz")
    ase.io.write(folder / "valid.xyz", boxes[:1], format="extxyz")
    return len(boxes[0])


def recipe(folder: Path, chosen: argparse.Namespace, atoms: int) -> dict[str, Any]:
    """A conservative training of two epochs, the shape of speed/training.py."""
    return {
        "data": [str(folder / "train.xyz")],
        "valid": [str(folder / "valid.xyz")],
        "leaks": "allow",
        "model": {"d_pet": training.WIDTH, "cutoff": 4.5},
        "phases": [{"forces": chosen.forces, "epochs": 2, "optimizer": "adamw", "learning_rate": 1e-4}],
        "atoms_per_batch": atoms,
        "device": chosen.device,
        "probe": 0,
        "live": {"raw": False, "curl": False},
        "checkpoint_minutes": 1000,
    }


def run(folder: Path, n: int, content: dict[str, Any]) -> list[list[dict[str, float]]]:
    """The times of every step of every process of a training under torchrun."""
    path, out = folder / "recipe.yaml", folder / "run"
    path.write_text(tumble.TrainSettings(**content).to_yaml())
    subprocess.run(["rm", "-rf", str(out)], check=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--worker", str(path), str(out)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"the training with {n} processes ended with exit code {done.returncode}:\n{done.stderr}")
    return [json.loads((out / f"steps{rank}.json").read_text()) for rank in range(n)]


def measured(chosen: argparse.Namespace) -> tuple[dict[tuple[str, int], list[Any]], int]:
    """Steps of every case in every round, and atoms of a frame."""
    cases = [(kind, n) for n in chosen.processes for kind in (("weak", "strong") if n > 1 else ("weak",))]
    found: dict[tuple[str, int], list[Any]] = {case: [] for case in cases}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        atoms = frames(folder, chosen.frames, chosen.side)
        for turn in range(chosen.repeats):
            for kind, n in cases:
                say(f"round {turn + 1}: {n} processes, {kind}")
                share = chosen.batch_size * (n if kind == "weak" else 1)
                found[kind, n] += [run(folder, n, recipe(folder, chosen, share * atoms))]
    return found, atoms


def report(found: dict[tuple[str, int], list[Any]], atoms: int, batch_size: int) -> list[str]:
    """Two tables: throughput with efficiencies, and the parts of a step."""
    rates, costs, rows, parts = {}, {}, [], []
    for (kind, n), rounds in found.items():
        size = batch_size * (n if kind == "weak" else 1)
        steps = [step for one in rounds for step in one[0]]
        rates[kind, n] = size / statistics.median(step["total"] for step in steps)
        everyone = [sum(step["cpu"] for step in together) for one in rounds for together in zip(*one, strict=True)]
        costs[kind, n] = statistics.median(everyone) / size
        rate, name = rates[kind, n], [n, kind if n > 1 else "–", size, len(steps)]
        gain = rate / n / rates.get(("weak", 1), np.nan), costs.get(("weak", 1), np.nan) / costs[kind, n]
        cells = [f"{rate:.2f}", f"{rate * atoms:.0f}", f"{gain[0]:.2f}", milliseconds(costs[kind, n]), f"{gain[1]:.2f}"]
        rows.append([*name, *cells])
        medians = {part: statistics.median(step.get(part, 0.0) for step in steps) for part in PARTS}
        total = sum(medians.values())
        parts.append([*name[:3], *(f"{milliseconds(one)} ({100 * one / total:.1f} %)" for one in medians.values())])
    head = ["processes", "work", "structures per step", "steps", "structures/s", "atoms/s", "efficiency"]
    return [
        *table([*head, "CPU ms per structure", "efficiency, CPU"], rows),
        "",
        "Medians of the first process, in ms; waiting for slower processes is in the all-reduce:",
        "",
        *table([*head[:3], *PARTS], parts),
    ]


def against(chosen: argparse.Namespace) -> list[str]:
    """One process beside `mtt train`, as speed/training.py measures it."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            (), (), (), 1, chosen.threads, chosen.device, None, None, Path(folder), frames=chosen.frames, batch_size=4
        )
        return training.report(training.measure(plan, lambda sofar: None))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--processes", type=int, nargs="+", default=[1, 2])
    add("--forces", choices=("gradient", "direct", "both"), default="gradient")
    add("--device", default="cpu")
    add("--frames", type=int, default=64)
    add("--side", type=int, default=2, help="water molecules along an edge of a box")
    add("--batch-size", type=int, default=4, help="structures per step of one process")
    add("--repeats", type=int, default=2, help="rounds in which every case has its turn")
    add("--metatrain", action="store_true", help="compare one process with mtt train, too")
    add("--threads", type=int, default=1, help="of that comparison")
    add("--beside", default="nothing that is known", help="what else ran on the machine, for the record")
    add("--worker", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        worker(*chosen.worker)
        return
    found, atoms = measured(chosen)
    load = os.getloadavg()[1]
    lines = [
        f"# Training with several processes, {chosen.forces} forces",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, one thread per process, {chosen.device}, torch "
        f"{torch.__version__}, tumble {tumble.__version__}: boxes of {atoms} atoms, d_pet {training.WIDTH}, AdamW, "
        f"medians of {chosen.repeats} rounds. Beside it ran {chosen.beside}; mean load {load:.1f}.",
        "",
        *report(found, atoms, chosen.batch_size),
    ]
    if chosen.metatrain:
        lines += ["", *against(chosen)]
    print("\n".join(lines))
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-training.md"
    path.write_text("\n".join(lines) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
