"""What a training step waits for its data, and what memory the data take, for N structures and for 10 N.

Prints three tables and writes them to benchmarks/results/<date>-loader.md. Structures are made up, and read from stores
in a temporary folder; nothing is downloaded. Every number of memory is from a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

import tumble
from tumble.batch import Properties
from tumble.cli.console import show
from tumble.data import Loader, Step, Store, maker
from tumble.data.order import in_steps, ordered
from tumble.models.pet import PET, PETSettings
from tumble.potential import Gradient
from tumble.results import Table, number

RESULTS = Path(__file__).parent / "results"
CUTOFF, DEVICE_MS = 4.5, 20
MIB = 2**20


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=2000, help="N")
    parser.add_argument("--steps", type=int, default=20, help="training steps of each measurement of waiting")
    parser.add_argument("--preset", default="XS", help="size of the PET that is trained")
    parser.add_argument("--to", type=Path, help="file for the tables, instead of a dated one in results/")
    parser.add_argument("--one", nargs=2, metavar=("STORE", "WORKERS"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(peaks(Path(chosen.one[0]), int(chosen.one[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        stores = [written(Path(folder) / f"{n}.store", n) for n in (chosen.structures, 10 * chosen.structures)]
        tables = [waiting(stores[0], chosen.preset, chosen.steps), memory(stores), orders()]
    for table in tables:
        show(table)
    path = chosen.to or RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-loader.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(markdown, tables)))
    print(f"wrote {path}")


def structures(n: int) -> Iterator[tuple[str, Atoms, Properties]]:
    """Shaken copper crystals of 4 to 48 atoms with made-up labels, one after the other."""
    random = np.random.default_rng(0)
    crystals = [bulk("Cu", cubic=True) * (1, *repeats) for repeats in ((1, 1), (1, 2), (2, 2), (2, 3), (3, 4))]
    for k in range(n):
        one = crystals[random.integers(len(crystals))].copy()
        one.positions += random.normal(scale=0.05, size=one.positions.shape)
        forces = torch.from_numpy(random.normal(size=one.positions.shape))
        yield f"made.xyz:{k}", one, Properties(torch.tensor(-3.5 * len(one), dtype=torch.float64), forces)


def written(path: Path, n: int) -> Path:
    """A store of n structures, their pairs counted."""
    store = Store.create(path)
    store.append(structures(n))
    store.dataset().pair_counts(CUTOFF)
    return path


def waiting(path: Path, preset: str, n_steps: int) -> Table:
    """How much of a training step is waiting: data searched in between, and by workers."""
    torch.set_num_threads(1)
    model = PET([29], PETSettings.preset(preset, cutoff=CUTOFF))
    trainers: dict[str, Callable[[Step], object]] = {
        f"PET {preset}, one thread": lambda step: learn(model, step),
        f"a device that needs {DEVICE_MS} ms": lambda step: time.sleep(DEVICE_MS / 1e3),
    }
    rows = []
    for name, train in trainers.items():
        for workers in (0, 1, 2):
            ms, waited, pairs = timed(path, workers, train, n_steps)
            rows.append((name, workers, ms, waited, 100 * waited / ms, pairs))
    columns = ("trained by", "workers", "time per step (ms)", "of it waiting (ms)", "waiting (%)", "pairs per step")
    note = f"{hardware()}. Gradient forces, float32; {n_steps} steps; no structure is kept from epoch to epoch."
    return Table("Waiting for data", columns, tuple(rows), note)


def timed(path: Path, workers: int, train: Callable[[Step], object], n_steps: int) -> tuple[float, float, float]:
    """Milliseconds of a step, of waiting in it, and pairs of a step."""
    with loader_of(path, workers) as loader:
        steps = loader.epoch(0)
        train(next(steps))  # workers start
        before, began, pairs = loader.waited_s, time.perf_counter(), 0
        for _, step in zip(range(n_steps), steps, strict=False):
            train(step)
            pairs += sum(part.batch.n_pairs for part in step.parts)
        took, waited = time.perf_counter() - began, loader.waited_s - before
    return 1e3 * took / n_steps, 1e3 * waited / n_steps, pairs / n_steps


def loader_of(path: Path, workers: int) -> Loader:
    """Steps of about 10,000 pairs from a store, of which nothing is remembered."""
    maker.MAXIMUM_CACHED_PAIRS = 0
    return Loader(Store.open(path).dataset(), CUTOFF, pairs_per_batch=10_000, dtype=torch.float32, workers=workers)


def learn(model: PET, step: Step) -> None:
    """One gradient of a plain loss."""
    potential = Gradient(model).train()
    for part in step.parts:
        answer, labels = potential(part.batch), part.labels
        error = answer.energy.sub(labels.energy).square().sum() + answer.forces.sub(labels.forces).square().sum()
        error.backward()
    model.zero_grad()


def memory(stores: list[Path]) -> Table:
    """Memory of an epoch for two stores, without and with workers."""
    rows = []
    for workers in (0, 2):
        small, large = (
            json.loads(subprocess.check_output([sys.executable, __file__, "--one", str(path), str(workers)]))
            for path in stores
        )
        for name in small:
            rows.append((workers, name, small[name], large[name], large[name] / small[name]))
    counts = [len(Store.open(path)) for path in stores]
    columns = ("workers", "what", f"{counts[0]} structures", f"{counts[1]} structures", "ratio")
    note = (
        "MiB that a process has written and shares with nobody, at their highest in an epoch from a store; structures "
        "per second of waiting, with nothing else to do."
    )
    return Table("Memory of an epoch", columns, tuple(rows), note)


def peaks(path: Path, workers: int) -> dict[str, float]:
    """Peaks over an epoch, MiB, and what its data cost."""
    highest: dict[str, float] = {}
    with loader_of(path, workers) as loader:
        for step in loader.epoch(0):
            assert step.parts
            found = {"this process (MiB)": own_mib("self")}
            for k, one in enumerate(torch.multiprocessing.active_children()):
                found[f"worker {k} (MiB)"] = own_mib(str(one.pid))
            highest |= {name: max(value, highest.get(name, 0.0)) for name, value in found.items()}
        return highest | {"structures per second": len(loader.dataset) / loader.waited_s}


def own_mib(pid: str) -> float:
    """What a process has written and shares with nobody, MiB: no page of a store, nothing workers are born with."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(lines["Private_Dirty"].split()[0]) / 1024


def orders() -> Table:
    """Memory and time of the order of an epoch; the last row is extrapolated."""
    rows = []
    for n in (10**6, 10**7):
        sizes, steps = np.full(n, 20), n // 100
        tracemalloc.start()
        began = time.process_time()
        found = in_steps(ordered(n, [0, 0]), sizes, steps)
        took, (kept, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(found) == steps
        rows.append((n, kept / n, peak / n, kept / MIB, took))
    rows.append((10**8, rows[-1][1], rows[-1][2], 10 * rows[-1][3], None))
    columns = (
        "structures",
        "bytes kept each",
        "bytes each at the peak",
        "kept (MiB)",
        "time of one core per epoch (s)",
    )
    return Table(
        "The order of an epoch of steps of 100 structures", columns, tuple(rows), "The last row is extrapolated."
    )


def hardware() -> str:
    """What was measured on, and what else was running there."""
    load = f"{os.cpu_count()} cores with a load of {os.getloadavg()[1]:.1f}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {load}, torch {torch.__version__}, tumble {tumble.__version__}"


def markdown(table: Table) -> str:
    """A table as Markdown."""
    lines = [
        f"# {table.title}",
        "",
        table.note,
        "",
        "| " + " | ".join(table.columns) + " |",
        "|---" * len(table.columns) + "|",
    ]
    lines += ["| " + " | ".join(number(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
