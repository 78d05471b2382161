"""Experiment S1 of the 2024 study: how much of the rotational error each averaging grid removes, and at what cost.

    python benchmarks/study2024/s1/run.py study2024 -o runs/study2024/s1                # 190 liquids, 1000 monomers
    python benchmarks/study2024/s1/run.py study2024 -o runs/study2024/s1 --frames 10    # the first ten of each, minutes
    python benchmarks/study2024/s1/run.py study2024 -o runs/study2024/s1 --report       # tables of what there is

`study2024` is a folder with the structures of the study's archive (doi:10.24435/materialscloud:kz-3b) as extended XYZ,
with the published energies as E_pet_0, E_pet_i, ... in the headers: water_test_190_unlabelled.extxyz.xz and
molecule_nvt_1000.extxyz.xz. Every orientation that several rules share is asked once. What is known is kept in the
folder after -o, structure by structure: a run that was killed goes on where it was, more frames are added to those
that are there; after --budget minutes it ends, and --full knows no such end. Writes
<date>-study2024-s1.md, .json and .png to benchmarks/results.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import ase.io
import torch
from ase import Atoms

if __name__ == "__main__":  # run as a file, whose own folder would hide modules of others, such as `tables`
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import tumble
from study2024 import command
from study2024.published import LEVELS
from study2024.record import digest
from study2024.s1.answers import Piece, Store, ask
from study2024.s1.nodes import Nodes
from study2024.s1.picture import draw
from study2024.s1.tables import REFERENCE, Found, facts, page
from tumble.cli.console import progress_bar
from tumble.potential import Potential

GROUPS: Final = ("T", "O", "I", "Th", "Oh", "Ih")
TIERS: Final = {
    "lab": (*LEVELS.values(), *GROUPS),
    "generic": (*(f"{group}@generic" for group in GROUPS), REFERENCE),
    "double": ("none", "i", "euler:2", "euler:2i"),
    "finer": ("o3:11@generic",),
}
"""Rules that are asked together; `double` in float64, for the rounding, `finer` for what the reference leaves."""

FILES: Final = {"monomer": "molecule_nvt_1000.extxyz.xz", "test": "water_test_190_unlabelled.extxyz.xz"}
TOGETHER: Final = {"monomer": 50, "test": 1}
"""Structures of one piece."""

STRIDE: Final = 10
"""Structures are taken 0, 10, 20, ..., 1, 11, ...: however few there are, they are spread over the set."""

N_SHARE: Final = {
    ("test", "generic"): 10,
    ("test", "double"): 2,
    ("test", "finer"): 2,
    ("monomer", "double"): 50,
    ("monomer", "finer"): 50,
}
"""How many structures are asked with the rules that not all of them are asked with."""


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = command.parser(__doc__, minutes=90)
    parser.add_argument("--sets", nargs="+", choices=FILES, default=list(FILES))
    parser.add_argument("--frames", type=int, help="structures of each set, spread over it; all of them if left out")
    return parser.parse_args()


def pieces(name: str, n_structures: int, n_wanted: int | None = None) -> Iterator[Piece]:
    """What a set is asked, in an order that makes every early end worth reporting."""
    order = sorted(range(n_structures), key=lambda index: (index % STRIDE, index))[:n_wanted]
    tiers = {tier: order[: N_SHARE.get((name, tier))] for tier in TIERS}
    first = max((len(some) for tier, some in tiers.items() if (name, tier) in N_SHARE), default=0)
    together = TOGETHER[name]
    for begin in (0, first):
        for tier, some in tiers.items():
            part = some[:first] if begin == 0 else some[first:]
            for start in range(0, len(part), together):
                yield Piece(name, tier, tuple(part[start : start + together]))


def measure(
    potentials: dict[str, Potential],
    structures: dict[str, list[Atoms]],
    plan: list[Piece],
    store: Store,
    clock: command.Clock,
    tell: Callable[[int, int, str], None],
) -> None:
    """Ask what is not known yet, until the time is over; the work is counted in turned atoms."""
    nodes = {tier: Nodes.of(TIERS[tier]) for tier in {piece.tier for piece in plan}}
    work = [len(nodes[p.tier]) * sum(len(structures[p.set][k]) for k in p.indices) for p in plan]
    for number, piece in enumerate(plan):
        tell(sum(work[:number]), sum(work), f"{piece.set} {piece.tier} {piece.indices[0]}")
        if not store.has(piece):
            if clock.left <= 0:
                return
            potential = potentials.get(piece.tier, potentials["lab"])
            some = [structures[piece.set][k] for k in piece.indices]
            store.put(piece, TIERS[piece.tier], ask(potential, some, nodes[piece.tier]))
    tell(sum(work), sum(work), "done")


def main() -> None:
    """Measure what is missing, write what is known."""
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    try:
        structures = {name: ase.io.read(chosen.data / FILES[name], ":") for name in chosen.sets}
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is missing; the structures of the study were expected in {chosen.data}.")
    potential = tumble.load(chosen.potential)
    potentials = {"lab": potential, "double": tumble.load(chosen.potential, dtype="float64")}
    settings = {
        "potential": chosen.potential,
        "weights": digest(potential),
        "dtype": str(potential.dtype).removeprefix("torch."),
        "rules": {tier: list(specs) for tier, specs in TIERS.items()},
    }
    try:
        store = Store(chosen.out, settings)
    except ValueError as error:
        sys.exit(str(error))
    plan = [piece for name in chosen.sets for piece in pieces(name, len(structures[name]), chosen.frames)]
    with progress_bar("S1") as tell:
        measure(potentials, structures, plan, store, command.clock(chosen), tell)
    write(chosen, store, structures, settings)


def write(
    chosen: argparse.Namespace, store: Store, structures: dict[str, list[Atoms]], settings: dict[str, Any]
) -> None:
    """Tables, numbers and the figure."""
    found = {
        name: Found.of(name, structures[name], {tier: store.answers(name, tier) for tier in TIERS})
        for name in chosen.sets
    }
    found = {name: one for name, one in found.items() if one.lab is not None}
    if not found:
        sys.exit(f"{chosen.out} holds no answers about {', '.join(chosen.sets)} yet. Run it without --report.")
    machine = f"{chosen.threads} of {os.cpu_count()} cores ({platform.machine()})"
    head = (
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}, torch {torch.__version__}, tumble {tumble.__version__}, "
        f"`{chosen.potential}` in {settings['dtype']}, weights {settings['weights']}."
    )
    chosen.results.mkdir(parents=True, exist_ok=True)
    target = chosen.results / f"{datetime.now(UTC):%Y-%m-%d}-study2024-s1.md"
    target.write_text("\n".join(page(head, list(found.values()), target.with_suffix(".png").name)) + "\n")
    numbers = {"settings": settings, "sets": {name: facts(one) for name, one in found.items()}}
    target.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")
    draw(list(found.values()), target.with_suffix(".png"))
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
