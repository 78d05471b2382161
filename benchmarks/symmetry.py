"""What a repair costs, in raw calls: averages, pruned by the structure's symmetry or not, and projections.

Prints a table and writes it to benchmarks/results/<date>-symmetry.md. Run by `make bench`; for another potential:
python benchmarks/symmetry.py silicon.ckpt --structures si64.xyz --dtype float64
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

import tumble
from tumble.cli.console import show
from tumble.cli.demo import ice, liquid, monomer
from tumble.crystal import space_group
from tumble.potential import Potential, collate_for
from tumble.results import Table, number
from tumble.symmetry import Projected, Symmetrized

RULES = ("O", "Oh", "I", "Ih", "I@crystal", "crystal", "o3:7")
COLUMNS = ("structure", "repair", "rotations", "calls", "time (× raw)", "unpruned (× raw)", "forbidden force (eV/Å)")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="water", help="any potential that tumble loads")
    parser.add_argument("--structures", nargs="*", type=Path, default=[], help="files; none: ice, or silicon")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5, help="all repairs in turn, so often; medians are shown")
    parser.add_argument("--to", type=Path, help="file for the table, instead of a dated one in results/")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    raw = tumble.load(chosen.model, dtype=chosen.dtype)
    rows = [row for atoms in structures(raw, chosen.structures) for row in compared(raw, atoms, chosen.rounds)]
    note = (
        f"{datetime.now(UTC):%Y-%m-%d}, {chosen.threads} threads on {os.cpu_count()} cores, torch {torch.__version__}, "
        f"tumble {tumble.__version__}: `{Path(chosen.model).name}` in {chosen.dtype}, medians of "
        f"{chosen.rounds} rounds. Unpruned: every rotation asked. "
        "Forbidden force: the largest component that the space group does not allow."
    )
    table = Table("What a repair costs", COLUMNS, rows, note)
    show(table)
    path = chosen.to or RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-symmetry.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(markdown(table))
    print(f"wrote {path}")


def markdown(table: Table) -> str:
    """A table as Markdown."""
    lines = [
        f"# {table.title}",
        "",
        table.note,
        "",
        "| " + " | ".join(table.columns) + " |",
        "|---" * len(COLUMNS) + "|",
    ]
    lines += ["| " + " | ".join(number(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines) + "\n"


def structures(potential: Potential, files: list[Path]) -> list[Atoms]:
    """Those of the files; without files some that the potential knows."""
    if files:
        return [ase.io.read(file) for file in files]
    if potential.species is None or 14 in potential.species:
        return [bulk("Si", cubic=True), bulk("Si", cubic=True) * (2, 2, 2)]
    named = {"molecule": monomer(), "ice": ice(), "liquid": liquid(potential, 2, n_steps=20)}
    for name, atoms in named.items():
        atoms.info["name"] = name
    return list(named.values())


def compared(raw: Potential, atoms: Atoms, rounds: int) -> list[tuple[object, ...]]:
    """One row per repair, all timed in turn."""
    batch = collate_for(raw, [atoms])
    repairs: dict[str, Potential] = {"none": raw, "project": Projected(raw)}
    repairs |= {rule: one for rule in RULES if isinstance(one := tumble.symmetrize(raw, rule), Symmetrized)}
    full = {rule: Symmetrized(raw, one.rotations, prune=False) for rule, one in repairs.items() if rule in RULES}
    times: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for name, one in repairs.items():
            times.setdefault(name, []).append(seconds(lambda one=one: one(batch)))
        for name, one in full.items():
            times.setdefault(f"{name}, all", []).append(seconds(lambda one=one: one(batch)))
    median = {name: statistics.median(values[1:]) for name, values in times.items()}
    group, rows = space_group(atoms), []
    for name, one in repairs.items():
        forces = one(batch).forces.double().numpy()
        is_average = isinstance(one, Symmetrized)
        rows.append(
            (
                atoms.info.get("name", atoms.get_chemical_formula()),
                name,
                len(one.rules(batch)[0]) if is_average else 1,
                one.calls(batch)[0] if is_average else 1,
                median[name] / median["none"],
                median[f"{name}, all"] / median["none"] if is_average else None,
                float(np.abs(group.project_forces(forces)[1]).max()),
            )
        )
    return rows


def seconds(ask: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    ask()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
