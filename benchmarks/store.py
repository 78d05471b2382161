"""What a store costs: bytes on the disk, memory of an index, of a shuffle and of an epoch, and how fast it is read.

    python benchmarks/store.py [--structures 200000] [--folder FOLDER]

Makes two stores of small synthetic crystals, one ten times the other, and reads both in fresh processes. What grows
with the number of structures is extrapolated to 10^8. Times are those of the processor: other work does not count.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ase.build import bulk

from tumble.batch import Properties
from tumble.data import Store, leaks
from tumble.data.store.columns import COLUMNS, Entry

ATOMS = 8
LARGE = 10**8
"""Structures that the table is extrapolated to."""


def entries(n: int, seed: int = 0) -> Iterator[Entry]:
    """Shaken cubic cells of rock salt with random labels."""
    random, perfect = np.random.default_rng(seed), bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    for k in range(n):
        atoms = perfect.copy()
        atoms.positions += random.normal(scale=0.1, size=(ATOMS, 3))
        forces = torch.from_numpy(random.normal(size=(ATOMS, 3)))
        yield f"made.xyz:{k}", atoms, Properties(torch.tensor(-27.0, dtype=torch.float64), forces, torch.eye(3))


def memory() -> dict[str, float]:
    """MB of this process: its own, and of files that are mapped, which all processes share and the system may drop."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) / 1000 for line in lines if line.startswith("Rss")}
    return {"own": values["RssAnon"], "mapped": values["RssFile"]}


def read(path: str) -> dict[str, float]:
    """What it takes to open a store, to know its sizes, to shuffle it, and to read all of it in that order."""
    Store.open(path)  # what is imported on the way is not counted
    start, before = time.process_time(), memory()
    dataset = Store.open(path).dataset()
    opened = time.process_time() - start
    sizes = dataset.sizes
    indexed = memory()
    order = np.random.default_rng(0).permutation(len(sizes))
    shuffled = memory()
    found = {"open_ms": 1e3 * opened, "index_MB": indexed["own"] - before["own"]}
    for index in order[:2000]:  # torch and ASE grow while they warm up
        dataset.atoms[index], dataset.labels[index]
    warm, start = memory(), time.process_time()
    for index in order[2000:]:
        dataset.atoms[index], dataset.labels[index]
    found["read_per_s"] = (len(order) - 2000) / (time.process_time() - start)
    after = memory()
    found |= {"shuffle_MB": shuffled["own"] - indexed["own"], "epoch_own_MB": after["own"] - warm["own"]}
    return found | {"epoch_mapped_MB": after["mapped"] - before["mapped"]}


def compare(path: str) -> dict[str, float]:
    """Time and memory to look for a thousand structures in a store."""
    train = Store.open(path).dataset()
    valid = train.select(np.arange(0, len(train), max(1, len(train) // 1000)))
    before, start = memory(), time.process_time()
    table = leaks(train, valid)
    assert len(table.rows) == len(valid)
    return {"leaks_s": time.process_time() - start, "leaks_MB": memory()["own"] - before["own"]}


def in_fresh_process(what: str, path: Path) -> dict[str, float]:
    """The numbers of one of the functions above."""
    words = [sys.executable, __file__, "--measure", what, "--folder", str(path)]
    return dict(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--structures", type=int, default=200_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", choices=("read", "compare"))
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps({"read": read, "compare": compare}[chosen.measure](str(chosen.folder))))
        return
    per = {kind: sum(one.row_bytes for one in COLUMNS.values() if one.per_atom == kind) for kind in (False, True)}
    print(f"on the disk: {per[False]} bytes for each structure and {per[True]} for each atom\n")
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        found = {}
        for n in (chosen.structures // 10, chosen.structures):
            path, start = Path(folder) / str(n), time.process_time()
            Store.create(path).append(entries(n))
            written = n / (time.process_time() - start)
            found[n] = {"written_per_s": written, **in_fresh_process("read", path), **in_fresh_process("compare", path)}
        print("| measure | " + " | ".join(f"{n} structures" for n in found) + f" | extrapolated to {LARGE:.0e} |")
        print("|---" * (len(found) + 2) + "|")
        for name in found[chosen.structures]:
            small, large = (numbers[name] for numbers in found.values())
            slope = (large - small) / (0.9 * chosen.structures)
            grows = name in ("index_MB", "shuffle_MB", "leaks_MB", "leaks_s")
            print(f"| {name} | {small:.3g} | {large:.3g} | {f'{slope * LARGE:.3g}' if grows else '–'} |")


if __name__ == "__main__":
    main()
