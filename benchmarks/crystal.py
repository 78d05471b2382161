"""What it costs to find the space group of a structure, small and large, perfect, rattled and with one atom displaced.

    python benchmarks/crystal.py

Prints a table; spglib beside it, except where it takes long.
"""

import time
import warnings

import numpy as np
import spglib
from ase import Atoms
from ase.build import bulk, molecule

from tumble.crystal import space_group


def structures() -> dict[str, Atoms]:
    """Name and structure, each kind smallest first."""
    diamond = bulk("Si", cubic=True)
    places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    perovskite = Atoms("SrTiO3", scaled_positions=places, cell=[3.9] * 3, pbc=True)
    found = {
        "copper": bulk("Cu"),
        "silicon, primitive": bulk("Si"),
        "silicon, cubic": diamond,
        "perovskite": perovskite,
        "perovskite 2 x 2 x 2": perovskite * 2,
        "perovskite 2 x 2 x 2, rattled": rattled(perovskite * 2),
        "fullerene": molecule("C60"),
    }
    for n in (4, 11):
        found[f"silicon {n} x {n} x {n}"] = diamond * n
        found[f"silicon {n} x {n} x {n}, rattled"] = rattled(diamond * n)
        found[f"silicon {n} x {n} x {n}, one displaced by 0.01 Å"] = displaced(diamond * n)
    found["SiGe 11 x 11 x 11, random"] = alloyed(diamond * 11)
    return found


def rattled(atoms: Atoms) -> Atoms:
    """All atoms displaced, by 0.05 Å in the mean."""
    atoms.rattle(0.05, seed=0)
    return atoms


def displaced(atoms: Atoms) -> Atoms:
    """One atom displaced along x, as for a phonon."""
    atoms.positions[len(atoms) // 2, 0] += 0.01
    return atoms


def alloyed(atoms: Atoms) -> Atoms:
    """Every other atom, at random, replaced."""
    atoms.numbers[np.random.default_rng(0).random(len(atoms)) < 0.5] = 32
    return atoms


def milliseconds(call: object, atoms: Atoms) -> float:
    """The shortest of a few calls."""
    assert callable(call)
    taken: list[float] = []
    while len(taken) < 20 and sum(taken) < 1:
        start = time.perf_counter()
        call(atoms)
        taken.append(time.perf_counter() - start)
    return 1000 * min(taken)


def by_spglib(atoms: Atoms) -> None:
    """The same question to spglib."""
    spglib.get_symmetry_dataset((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=1e-3)


def main() -> None:
    """Measure and print."""
    print(f"| {'structure':45} | atoms | turns | translations |      ms | spglib ms |")
    print("|" + "-" * 47 + "|-------|-------|--------------|---------|-----------|")
    for name, atoms in structures().items():
        group = space_group(atoms, 1e-2 if name == "fullerene" else 1e-3)
        ours = milliseconds(space_group, atoms)
        is_short = atoms.pbc.all() and (len(atoms) < 1000 or "," not in name)
        theirs = f"{milliseconds(by_spglib, atoms):9.2f}" if is_short else "        –"
        counts = f"{len(atoms):5} | {group.n_operations:5} | {group.n_translations:12}"
        print(f"| {name:45} | {counts} | {ours:7.2f} | {theirs} |", flush=True)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        main()
