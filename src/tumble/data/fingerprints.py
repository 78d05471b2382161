"""What tells structures apart: an exact fingerprint, and four numbers that hardly change when a structure does so."""

import hashlib
from typing import Final

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from numpy.typing import NDArray

from tumble import neighbors
from tumble.data.facts import charge_of, multiplicity_of

REACH: Final = 4.0
"""Å. Distances up to here describe the shape of a structure."""

Distances = NDArray[np.float64]


def fingerprint(atoms: Atoms) -> bytes:
    """Equal for structures that differ only by a translation, wrapping, and 1e-5 of a lattice vector (Å if none).

    Charge and multiplicity count: the same atoms with another charge are another structure.
    """
    cell = complete_cell(atoms.cell.array) if atoms.pbc.any() else np.eye(3)
    fractional = np.linalg.solve(cell.T, (atoms.positions - atoms.positions[0]).T).T
    steps = np.rint(fractional * 1e5).astype(np.int64)
    steps[:, atoms.pbc] %= 100_000
    lattice = np.rint(cell * 1e5).astype(np.int64)
    electrons = np.array([charge_of(atoms), multiplicity_of(atoms)])
    return b"|".join(part.tobytes() for part in (atoms.numbers.astype(np.int64), atoms.pbc, lattice, steps, electrons))


def exact(atoms: Atoms) -> int:
    """64 bits of the fingerprint. Among 10^8 structures two that differ share them with a probability of 3e-4."""
    return _hash(fingerprint(atoms))


def formula(atoms: Atoms) -> int:
    """64 bits of how many atoms of each element there are, how many directions repeat, charge and multiplicity."""
    rest = [atoms.pbc.sum(), charge_of(atoms), multiplicity_of(atoms)]
    return _hash(np.append(np.bincount(atoms.numbers, minlength=120), rest).astype(np.int64).tobytes())


def shape(atoms: Atoms) -> tuple[float, float, float, float]:
    """Four numbers that a turn, a mirror, a permutation of like atoms, or another cell of one lattice leaves alone.

    Pairs within `REACH` count with a weight that falls smoothly to zero there.

    Returns:
        Mean distance, root of the mean squared distance, mean distance weighted by the elements, all in Å, and the
        weight of all pairs per atom; zeros where no pair is within reach.
    """
    distance, first, second = _pairs(atoms)
    if len(distance) == 0:
        return 0.0, 0.0, 0.0, 0.0
    weight = (1 + np.cos(np.pi * distance / REACH)) / 2
    charge = weight * np.sqrt(atoms.numbers[first] + 1.0) * np.sqrt(atoms.numbers[second] + 1.0)
    total = weight.sum()
    return (
        float(weight @ distance / total),
        float(np.sqrt(weight @ distance**2 / total)),
        float(charge @ distance / charge.sum()),
        float(total / len(atoms)),
    )


def difference(one: Atoms, other: Atoms) -> float:
    """How far the distances between like atoms of two structures are apart, in order of length.

    Zero for structures that turns, mirrors and permutations make the same; the distances up to `REACH` are compared.

    Returns:
        Å, the largest difference; infinite if the elements differ, or how many distances there are within `REACH`
        less what a small displacement can carry across it.
    """
    if sorted(one.numbers) != sorted(other.numbers):
        return float("inf")
    (near, kinds), (far, others) = _spectrum(one), _spectrum(other)
    largest = 0.0
    for kind in sorted({*kinds.tolist(), *others.tolist()}):
        a, b = near[kinds == kind], far[others == kind]
        n = min(len(a), len(b))
        # What one of them has in excess must lie at the end of the reach: there a pair appears or vanishes at once.
        rest = np.concatenate([a[n:], b[n:]])
        if len(rest) and rest.min() < 0.95 * REACH:
            return float("inf")
        largest = max(largest, float(np.abs(a[:n] - b[:n]).max(initial=0.0)))
    return largest


def _pairs(atoms: Atoms) -> tuple[Distances, NDArray[np.int64], NDArray[np.int64]]:
    """Distances of the pairs within reach, and their ends; nobody asks for the reverse of a pair, or for an order."""
    found = neighbors.candidates(atoms.positions, atoms.cell.array, atoms.pbc, REACH)
    first, second = found.ends.T.astype(np.int64)
    vectors = atoms.positions[second] - atoms.positions[first] + found.shift @ atoms.cell.array
    return np.sqrt(np.einsum("pa,pa->p", vectors, vectors)), first, second


def _spectrum(atoms: Atoms) -> tuple[Distances, NDArray[np.int64]]:
    """Distances in ascending order, and for each which two elements it is between."""
    distance, first, second = _pairs(atoms)
    ends = np.sort(np.stack([atoms.numbers[first], atoms.numbers[second]]), axis=0)
    order = np.argsort(distance, kind="stable")
    return distance[order], (1000 * ends[0] + ends[1])[order].astype(np.int64)


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
