"""The columns of a store: what is kept of a structure, in which numbers, and how it comes back."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from tumble.batch import UNCLEAR, Properties
from tumble.data import fingerprints
from tumble.data.facts import able_bits, charge_of, group_of, known_bits, multiplicity_of, weight_of

Entry = tuple[str, Atoms, Properties]
"""Source "file:frame", structure, labels."""

Arrays = Mapping[str, NDArray[Any]]


class Column(NamedTuple):
    """One file of a store.

    dtype: little-endian whatever the machine.
    shape: of one row.
    per_atom: whether an atom has a row, or a structure.
    """

    dtype: str
    shape: tuple[int, ...] = ()
    per_atom: bool = False

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=int))


# Positions, cells and energies are float64: a total energy of 10^5 eV needs 10 digits for 1 meV per atom, and what is
# searched and differentiated must not depend on whether it came from a file or from a store. Forces and stresses are
# float32: they are compared with what a network of float32 says, and DFT converges them to 4 digits at best, not to 7.
COLUMNS: Final[Mapping[str, Column]] = {
    "end": Column("<i8"),
    "cell": Column("<f8", (3, 3)),
    "pbc": Column("|u1"),
    "known": Column("|u1"),
    "energy": Column("<f8"),
    "stress": Column("<f4", (6,)),
    "charge": Column("<i4"),
    "multiplicity": Column("<i4"),
    "weight": Column("<f8"),
    "group": Column("<i4"),
    "file": Column("<i4"),
    "frame": Column("<i8"),
    "exact": Column("<u8"),
    "formula": Column("<u8"),
    "shape": Column("<f4", (4,)),
    "positions": Column("<f8", (3,), per_atom=True),
    "numbers": Column("|u1", per_atom=True),
    "forces": Column("<f4", (3,), per_atom=True),
}

CONTENT: Final = ("cell", "pbc", "known", "energy", "stress", "charge", "multiplicity", "weight")
"""Columns of a structure that are its content: not where it lies, which file it is from, or what can be computed."""

CONTENT_OF_ATOMS: Final = ("positions", "numbers", "forces")

TEXTS: Final = ("files", "groups")
"""Names that columns count: one JSON string a line."""


def encode(entries: Sequence[Entry], first_atom: int, codes: Mapping[str, NDArray[np.int32]]) -> Arrays:
    """The columns of some structures.

    Args:
        entries: sources, structures and labels.
        first_atom: atoms in the store before them.
        codes: for each structure the position of its file and of its group among the names.
    """
    atoms, labels = [one for _, one, _ in entries], [label for _, _, label in entries]
    energies = [np.nan if label.energy is None else float(label.energy) for label in labels]
    found: dict[str, Any] = {
        "end": first_atom + np.cumsum([len(one) for one in atoms]),
        "cell": [one.cell.array for one in atoms],
        "pbc": [int(one.pbc @ (1, 2, 4)) for one in atoms],
        "known": [known_bits(label) | able_bits(one) for one, label in zip(atoms, labels, strict=True)],
        "energy": energies,
        "stress": [_voigt(label) for label in labels],
        "charge": [charge_of(one) for one in atoms],
        "multiplicity": [multiplicity_of(one) for one in atoms],
        "weight": [weight_of(one) for one in atoms],
        "group": codes["groups"],
        "file": codes["files"],
        "frame": [_frame(source) for source, _, _ in entries],
        "exact": [fingerprints.exact(one) for one in atoms],
        "formula": [fingerprints.formula(one) for one in atoms],
        "shape": [fingerprints.shape(one) for one in atoms],
        "positions": np.concatenate([one.positions for one in atoms]),
        "numbers": np.concatenate([one.numbers for one in atoms]),
        "forces": np.concatenate([_forces(one, label) for one, label in zip(atoms, labels, strict=True)]),
    }
    return {name: np.ascontiguousarray(found[name], dtype=column.dtype) for name, column in COLUMNS.items()}


def structure(arrays: Arrays, index: int, group: str) -> Atoms:
    """One structure; charge, multiplicity, weight and config type are in its info where they are not the usual ones."""
    atoms = slice(_start(arrays, index), int(arrays["end"][index]))
    bits = int(arrays["pbc"][index])
    charge, multiplicity, weight = (arrays[name][index].item() for name in ("charge", "multiplicity", "weight"))
    info = {
        "charge": (np.nan if charge == UNCLEAR else charge, 0),
        "spin_multiplicity": (np.nan if multiplicity == UNCLEAR else multiplicity, 1),
        "config_weight": (weight, 1.0),
        "config_type": (group, ""),
    }
    return Atoms(
        arrays["numbers"][atoms].astype(np.int64),
        arrays["positions"][atoms],
        cell=arrays["cell"][index],
        pbc=[bool(bits & bit) for bit in (1, 2, 4)],
        info={name: value for name, (value, usual) in info.items() if value != usual},
    )


def labels(arrays: Arrays, index: int) -> Properties:
    """The labels of one structure, float64; None where not known."""
    bits = int(arrays["known"][index])
    atoms = slice(_start(arrays, index), int(arrays["end"][index]))
    stress = voigt_6_to_full_3x3_stress(arrays["stress"][index].astype(np.float64)) if bits & 4 else None
    return Properties(
        torch.tensor(arrays["energy"][index].item(), dtype=torch.float64) if bits & 1 else None,
        torch.from_numpy(arrays["forces"][atoms].astype(np.float64)) if bits & 2 else None,
        None if stress is None else torch.from_numpy(stress),
    )


def chained(digest: bytes, arrays: Arrays, groups: Sequence[str]) -> bytes:
    """The digest of a store with these structures behind those that had this digest; the same in one go or in many.

    Args:
        digest: 32 bytes, of what lies before.
        arrays: columns of the structures alone, `end` counted from their own first atom.
        groups: config type of each.
    """
    begin = 0
    for index, (end, group) in enumerate(zip(arrays["end"].tolist(), groups, strict=True)):
        link = hashlib.blake2b(digest, digest_size=32)
        for name in CONTENT:
            link.update(arrays[name][index : index + 1].tobytes())
        for name in CONTENT_OF_ATOMS:
            link.update(arrays[name][begin:end].tobytes())
        link.update(group.encode())
        digest, begin = link.digest(), end
    return digest


def entry_group(entry: Entry) -> str:
    """Config type of an entry."""
    return group_of(entry[1])


def _frame(source: str) -> int:
    frame = source.rpartition(":")[2]
    if not frame.isdecimal():
        raise ValueError(
            f"{source!r} does not say where a structure is from; expected 'file:frame', such as 'a.xyz:0'."
        )
    return int(frame)


def _start(arrays: Arrays, index: int) -> int:
    return int(arrays["end"][index - 1]) if index else 0


def _voigt(label: Properties) -> NDArray[np.float64]:
    return np.full(6, np.nan) if label.stress is None else full_3x3_to_voigt_6_stress(label.stress.numpy())


def _forces(atoms: Atoms, label: Properties) -> NDArray[np.float64]:
    return np.full((len(atoms), 3), np.nan) if label.forces is None else label.forces.numpy()
