"""What the structures of a dataset are, and which labels they have."""

from collections import Counter
from typing import Any

import numpy as np
from ase import Atoms

from tumble import neighbors
from tumble.batch import Properties
from tumble.data.dataset import Dataset
from tumble.data.facts import BITS
from tumble.data.views import Places, files_of
from tumble.results import Table

LOOKED_AT = 20_000
"""Structures of a file that are read for distances, forces and volumes; of a larger file as many, evenly spaced."""

COLUMNS = (
    "file",
    "structures",
    "atoms",
    "elements",
    "energy",
    "forces",
    "stress",
    "force rms (eV/Å)",
    "force max (eV/Å)",
    "smallest distance (Å)",
    "volume per atom (Å³)",
    "duplicates",
)


def coverage(dataset: Dataset) -> Table:
    """What the structures of each file are and which labels they have; few of them are in memory at a time.

    Duplicates are structures with the elements, cell and positions of an earlier one (of any file), up to a
    translation, wrapping into the cell, and 1e-5 of a lattice vector.
    """
    files, codes = files_of(dataset.sources)
    is_repeat = np.ones(len(dataset), dtype=bool)
    is_repeat[np.unique(dataset.exact, return_index=True)[1]] = False
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(files) + 1))
    rows, is_sampled = [], False
    for code, file in enumerate(files):
        places = order[bounds[code] : bounds[code + 1]]
        if len(places):
            is_sampled |= len(places) > LOOKED_AT
            rows.append((file, *_summary(dataset, places), int(is_repeat[places].sum())))
    note = f"Elements, forces, distances and volumes are those of {LOOKED_AT} structures of a file, evenly spaced."
    return Table(f"Label coverage of {len(dataset)} structures", COLUMNS, tuple(rows), note if is_sampled else "")


def _summary(dataset: Dataset, places: Places) -> tuple[Any, ...]:
    """One row of the coverage table, from the number of structures to the volume per atom."""
    n = len(places)
    known = dataset.known[places]
    part = dataset.select(places[np.unique(np.linspace(0, n - 1, min(n, LOOKED_AT)).astype(int))])
    elements: Counter[str] = Counter()
    squares, n_components, largest, nearest, volumes = 0.0, 0, 0.0, float("inf"), []
    for atoms, label in zip(part.atoms, part.labels, strict=True):
        elements.update(set(atoms.symbols))
        nearest = min(nearest, _smallest_distance(atoms))
        if atoms.pbc.all():
            volumes.append(atoms.get_volume() / len(atoms))
        if label.forces is not None:
            squares += float(label.forces.square().sum())
            n_components += label.forces.numel()
            largest = max(largest, float(label.forces.norm(dim=1).max()))
    return (
        n,
        int(dataset.sizes[places].sum()),
        " ".join(sorted(elements)),
        *(f"{int((known & BITS[label] > 0).sum())}/{n}" for label in Properties._fields),
        (squares / n_components) ** 0.5 if n_components else None,
        largest if n_components else None,
        nearest,
        f"{min(volumes):.2f} to {max(volumes):.2f}" if volumes else None,
    )


def _smallest_distance(atoms: Atoms) -> float:
    """Å, periodic images included; infinite for one isolated atom or atoms more than 16 Å apart."""
    for cutoff in (1.0, 2.0, 4.0, 8.0, 16.0):
        pairs = neighbors.search(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
        if len(pairs.center):
            return float(np.linalg.norm(neighbors.vectors(pairs, atoms.positions, atoms.cell.array), axis=1).min())
    return float("inf")
