"""Dataset: structures with their labels; what they cover, how they split, what their elements weigh."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import complete_cell
from torch import Tensor

from tumble import neighbors
from tumble.batch import Properties
from tumble.results import Table


@dataclass(frozen=True)
class Dataset:
    """Structures with their reference labels.

    atoms:   S structures, without calculators.
    labels:  S Properties, CPU float64: energy () eV, forces (n, 3) eV/Å, stress (3, 3) eV/Å³; None where not known.
    sources: S names "file:frame", frames counted from 0.
    """

    atoms: list[Atoms]
    labels: list[Properties]
    sources: list[str]

    def __len__(self) -> int:
        """S."""
        return len(self.atoms)

    def select(self, indices: Sequence[int]) -> "Dataset":
        """The structures at these positions, in this order."""
        return Dataset(
            [self.atoms[i] for i in indices], [self.labels[i] for i in indices], [self.sources[i] for i in indices]
        )


def coverage(dataset: Dataset) -> Table:
    """What the structures of each file are and which labels they have.

    Duplicates are structures with the elements, cell and positions of an earlier one (of any file), up to a
    translation, wrapping into the cell, and 1e-5 of a lattice vector.
    """
    columns = (
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
    files: dict[str, list[int]] = {}
    for index, source in enumerate(dataset.sources):
        files.setdefault(source.rpartition(":")[0], []).append(index)
    seen: set[bytes] = set()
    rows = []
    for file, indices in files.items():
        part = dataset.select(indices)
        prints = [_fingerprint(one) for one in part.atoms]
        fresh = set(prints) - seen
        seen |= fresh
        rows.append((file, *_summary(part), len(part) - len(fresh)))
    return Table(f"Label coverage of {len(dataset)} structures", columns, tuple(rows))


def split(dataset: Dataset, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Two parts of the structures drawn at random: the rest, and the fraction. Duplicates stay together.

    Args:
        dataset: at least two distinct structures.
        fraction: of structures in the second part, strictly between 0 and 1; at least one structure in each.
        seed: the same seed draws the same parts.

    Raises:
        ValueError: the fraction is not between 0 and 1, or fewer than two distinct structures.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"cannot split off a fraction of {fraction}; it must lie strictly between 0 and 1.")
    groups: dict[bytes, list[int]] = {}
    for index, one in enumerate(dataset.atoms):
        groups.setdefault(_fingerprint(one), []).append(index)
    if len(groups) < 2:
        raise ValueError(f"cannot split {len(groups)} distinct structures in two; at least 2 are needed. Add data.")
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    members = list(groups.values())
    wanted = fraction * len(dataset)
    held: list[int] = members[order[0]].copy()
    for k in order[1:-1]:
        if len(held) + len(members[k]) / 2 <= wanted:
            held += members[k]
    apart = set(held)
    return dataset.select([i for i in range(len(dataset)) if i not in apart]), dataset.select(sorted(held))


def offsets(dataset: Dataset, species: Sequence[int]) -> Tensor:
    """Energy of one atom of each element that fits the energies per atom best in the least-squares sense.

    Where the compositions do not determine them (water is always H2O), the solution of smallest norm is taken.

    Args:
        dataset: structures, those without an energy are passed over.
        species: atomic numbers, in the order of the answer.

    Returns:
        (n_species,) eV, float64; 0 for an element of which there is no atom.

    Raises:
        ValueError: no structure has an energy, or an element is not among the species.
    """
    pairs = zip(dataset.atoms, dataset.labels, strict=True)
    known = [(one, float(label.energy)) for one, label in pairs if label.energy is not None]
    if not known:
        raise ValueError(f"none of {len(dataset)} structures has an energy, so elements cannot be given offsets.")
    if others := {int(z) for one, _ in known for z in one.numbers} - set(species):
        names = ", ".join(chemical_symbols[z] for z in sorted(others))
        raise ValueError(
            f"the data contains {names}, the species are {', '.join(chemical_symbols[z] for z in species)}. "
            "Add the elements to the species, or remove their structures."
        )
    fractions = np.array([[np.mean(one.numbers == z) for z in species] for one, _ in known])
    energies = np.array([energy / len(one) for one, energy in known])
    return torch.from_numpy(np.linalg.lstsq(fractions, energies, rcond=1e-10)[0])


def _summary(part: Dataset) -> tuple[Any, ...]:
    """One row of the coverage table, from the number of structures to the volume per atom."""
    n = len(part)
    elements = Counter(symbol for one in part.atoms for symbol in one.symbols)
    counts = [sum(getattr(label, name) is not None for label in part.labels) for name in Properties._fields]
    forces = torch.cat([label.forces for label in part.labels if label.forces is not None] or [torch.zeros(0, 3)])
    volumes = [one.get_volume() / len(one) for one in part.atoms if one.pbc.all()]
    return (
        n,
        sum(elements.values()),
        " ".join(sorted(elements)),
        *(f"{count}/{n}" for count in counts),
        forces.square().mean().sqrt().item() if len(forces) else None,
        forces.norm(dim=1).max().item() if len(forces) else None,
        min(_smallest_distance(one) for one in part.atoms),
        f"{min(volumes):.2f} to {max(volumes):.2f}" if volumes else None,
    )


def _smallest_distance(atoms: Atoms) -> float:
    """Å, periodic images included; infinite for one isolated atom or atoms more than 16 Å apart."""
    for cutoff in (1.0, 2.0, 4.0, 8.0, 16.0):
        pairs = neighbors.search(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
        if len(pairs.center):
            return float(np.linalg.norm(neighbors.vectors(pairs, atoms.positions, atoms.cell.array), axis=1).min())
    return float("inf")


def _fingerprint(atoms: Atoms) -> bytes:
    """Equal for structures that differ only by a translation, wrapping, and rounding."""
    cell = complete_cell(atoms.cell.array) if atoms.pbc.any() else np.eye(3)
    fractional = np.linalg.solve(cell.T, (atoms.positions - atoms.positions[0]).T).T
    steps = np.rint(fractional * 1e5).astype(np.int64)
    steps[:, atoms.pbc] %= 100_000
    lattice = np.rint(cell * 1e5).astype(np.int64)
    return b"|".join(part.tobytes() for part in (atoms.numbers.astype(np.int64), atoms.pbc, lattice, steps))
