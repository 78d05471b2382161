"""Dataset: structures with their labels, and what their elements weigh."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from tumble import neighbors
from tumble.batch import Properties
from tumble.data import fingerprints
from tumble.data.facts import able_bits, group_of, known_bits, weight_of
from tumble.data.views import Joined, Lazy, Places, Rows, View, beside, column, pick

CHUNK = 10_000
"""Structures whose compositions are in memory at a time."""


@dataclass(frozen=True)
class Dataset:
    """Structures with their reference labels: lists, or sequences that read an entry when it is asked for.

    atoms:   S structures, without calculators.
    labels:  S Properties, CPU float64: energy () eV, forces (n, 3) eV/Å, stress (3, 3) eV/Å³; None where not known.
    sources: S names "file:frame", frames counted from 0.
    """

    atoms: Sequence[Atoms]
    labels: Sequence[Properties]
    sources: Sequence[str]
    _found: dict[str, NDArray[Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        """S."""
        return len(self.atoms)

    def select(self, indices: Sequence[int] | Places) -> "Dataset":
        """The structures at these positions, in this order; nothing is read of a store."""
        places = np.asarray(indices, dtype=np.int64).reshape(-1)
        composed: dict[int, Places] = {}
        parts: list[Any] = [pick(part, places, composed) for part in (self.atoms, self.labels, self.sources)]
        chosen = Dataset(*parts)
        chosen._found.update({what: found[places] for what, found in self._found.items()})
        return chosen

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Atoms of each structure, (S,)."""
        return column(self.atoms, "size", len, np.int64)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Factor of each structure in the loss, (S,): "config_weight" or "weight" of its info, else 1."""
        return column(self.atoms, "weight", weight_of, np.float64)

    @cached_property
    def groups(self) -> Sequence[str]:
        """The "config_type" of each structure's info, else ""."""
        return beside(self.atoms, "groups", group_of)

    @cached_property
    def known(self) -> NDArray[np.uint8]:
        """Which labels each structure has, (S,): a sum of 1 for energy, 2 for forces, 4 for stress."""
        return column(self.labels, "known", known_bits, np.uint8) & np.uint8(7)

    @cached_property
    def can_have_stress(self) -> NDArray[np.bool_]:
        """Whether each structure repeats and spans a volume, (S,)."""
        return (column(self.atoms, "known", able_bits, np.uint8) & 8).astype(bool)

    @cached_property
    def energies(self) -> NDArray[np.float64]:
        """Energy label of each structure, (S,) eV; NaN where not known."""
        return column(self.labels, "energy", _energy_of, np.float64)

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        present = np.zeros(256, dtype=bool)
        for start in range(0, len(self), CHUNK):
            present[numbers_of(self.atoms, np.arange(start, min(start + CHUNK, len(self))))] = True
        return tuple(np.flatnonzero(present).tolist())

    def pair_counts(self, cutoff: float) -> NDArray[np.int64]:
        """Directed pairs within the cutoff of each structure, (S,): searched once, then remembered.

        Args:
            cutoff: Å.
        """
        return self._once(f"pairs {float(cutoff)!r}", lambda: _pair_counts(self.atoms, float(cutoff)))

    @property
    def exact(self) -> NDArray[np.uint64]:
        """64 bits of a fingerprint of each structure, (S,); see `fingerprints.fingerprint`."""
        return self._once("exact", lambda: column(self.atoms, "exact", fingerprints.exact, np.uint64))

    @property
    def formula(self) -> NDArray[np.uint64]:
        """64 bits of the composition of each structure, (S,); see `fingerprints.formula`."""
        return self._once("formula", lambda: column(self.atoms, "formula", fingerprints.formula, np.uint64))

    @property
    def shape(self) -> NDArray[np.float32]:
        """Four numbers of the shape of each structure, (S, 4); see `fingerprints.shape`."""
        return self._once("shape", lambda: column(self.atoms, "shape", fingerprints.shape, np.float32).reshape(-1, 4))

    def _once(self, what: str, find: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Find it, or take what was found before, of this dataset or of the one that it was selected from."""
        if what not in self._found:
            self._found[what] = find()
        return self._found[what]


def joined(datasets: Sequence[Dataset]) -> Dataset:
    """One dataset of several, in order; what is lazy stays so.

    Args:
        datasets: at least one.
    """
    if len(datasets) == 1:
        return datasets[0]
    if not any(isinstance(one.atoms, Lazy) for one in datasets):
        return Dataset(
            [atoms for one in datasets for atoms in one.atoms],
            [label for one in datasets for label in one.labels],
            [source for one in datasets for source in one.sources],
        )
    return Dataset(
        Joined([one.atoms for one in datasets]),
        Joined([one.labels for one in datasets]),
        Joined([one.sources for one in datasets]),
    )


def numbers_of(atoms: Sequence[Atoms], places: Places) -> NDArray[np.int64]:
    """Atomic numbers of the atoms of these structures, one structure after the other."""
    if isinstance(atoms, View):
        return numbers_of(atoms.whole, atoms.places[places])
    if not isinstance(atoms, Rows):
        return np.concatenate([atoms[i].numbers for i in places.tolist()])
    ends, numbers = atoms.column("end"), atoms.column("numbers")
    last = ends[places]
    first = np.where(places > 0, ends[places - 1], 0)
    steps = np.arange((last - first).sum()) - np.repeat(np.cumsum(last - first) - last, last - first)
    return numbers[steps].astype(np.int64)


def offsets(dataset: Dataset, species: Sequence[int]) -> Tensor:
    """Energy of one atom of each element that fits the energies per atom best in the least-squares sense.

    Where the compositions do not determine them (water is always H2O), the solution of smallest norm is taken.

    Args:
        dataset: structures, those without an energy are passed over; few of them are in memory at a time.
        species: atomic numbers, in the order of the answer.

    Returns:
        (n_species,) eV, float64; 0 for an element of which there is no atom.

    Raises:
        ValueError: no structure has an energy, or an element is not among the species.
    """
    known = np.flatnonzero(~np.isnan(dataset.energies))
    if len(known) == 0:
        raise ValueError(f"none of {len(dataset)} structures has an energy, so elements cannot be given offsets.")
    # The triangle R of a QR decomposition says about a least-squares problem all that its rows say, and it can be
    # carried from chunk to chunk.
    triangle = np.zeros((0, len(species) + 1))
    for start in range(0, len(known), CHUNK):
        places = known[start : start + CHUNK]
        fractions = _fractions(dataset, places, species)
        rows = np.column_stack([fractions, dataset.energies[places] / dataset.sizes[places]])
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, rows]), mode="r"))
    return torch.from_numpy(np.linalg.lstsq(triangle[:, :-1], triangle[:, -1], rcond=1e-10)[0])


def _fractions(dataset: Dataset, places: Places, species: Sequence[int]) -> NDArray[np.float64]:
    """Fraction of the atoms of each structure that are of each element, (n, n_species)."""
    numbers, sizes = numbers_of(dataset.atoms, places), dataset.sizes[places]
    column_of = np.full(256, -1)
    column_of[list(species)] = np.arange(len(species))
    if others := sorted(set(np.unique(numbers).tolist()) - set(species)):
        names = ", ".join(chemical_symbols[z] for z in others)
        raise ValueError(
            f"the data contains {names}, the species are {', '.join(chemical_symbols[z] for z in species)}. "
            "Add the elements to the species, or remove their structures."
        )
    cells = np.repeat(np.arange(len(places)), sizes) * len(species) + column_of[numbers]
    counts = np.bincount(cells, minlength=len(places) * len(species)).reshape(len(places), len(species))
    return counts / sizes[:, None]


def _pair_counts(atoms: Sequence[Atoms], cutoff: float) -> NDArray[np.int64]:
    if isinstance(atoms, Rows):
        return atoms.pair_counts(cutoff)
    if isinstance(atoms, Joined):
        return np.concatenate([_pair_counts(part, cutoff) for part in atoms.parts])
    if isinstance(atoms, View) and not isinstance(atoms.whole, list):
        # All of a store are counted where most are wanted: the next who asks finds them there.
        if 2 * len(atoms) > len(atoms.whole):
            return _pair_counts(atoms.whole, cutoff)[atoms.places]
        have = atoms.whole.known_pair_counts(cutoff) if isinstance(atoms.whole, Rows) else np.zeros(0, np.int64)
        if len(atoms) == 0 or atoms.places.max() < len(have):
            return have[atoms.places]
    return np.array([pair_count(one, cutoff) for one in atoms], dtype=np.int64)


def pair_count(atoms: Atoms, cutoff: float) -> int:
    """Directed pairs of a structure within the cutoff in Å."""
    return len(neighbors.search(atoms.positions, atoms.cell.array, atoms.pbc, cutoff).center)


def _energy_of(label: Properties) -> float:
    return np.nan if label.energy is None else float(label.energy)
