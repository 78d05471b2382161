"""Molecules: which atoms are bonded, and where the axes of molecules point."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.formula import Formula
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tumble.neighbors import search
from tumble.trajectories.trajectory import Trajectory

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BONDED = 1.25
"""Times the sum of covalent radii, within which two atoms are bonded."""


class Molecule(NamedTuple):
    """Atoms that are bonded.

    formula: in Hill's order, "H2O".
    members: (n,) their indices, increasing.
    bonds:   (b, 2) pairs of indices.
    """

    formula: str
    members: Integers
    bonds: Integers


def molecules(trajectory: Trajectory, *, bonded: float = BONDED, frame: int = 0) -> tuple[Molecule, ...]:
    """The molecules of one frame, found by covalent radii through periodic boundaries.

    Args:
        trajectory: any.
        bonded: times the sum of covalent radii, within which two atoms are bonded.
        frame: in which bonds are looked for.
    """
    radii = bonded * covalent_radii[trajectory.numbers]
    cell = trajectory.cells[frame]
    pairs = search(trajectory.positions[frame], cell, trajectory.pbc, float(2 * radii.max()))
    apart = trajectory.positions[frame][pairs.neighbor] - trajectory.positions[frame][pairs.center] + pairs.shift @ cell
    is_bond = np.linalg.norm(apart, axis=1) <= radii[pairs.center] + radii[pairs.neighbor]
    is_bond &= pairs.center < pairs.neighbor
    ends = np.stack([pairs.center[is_bond], pairs.neighbor[is_bond]], axis=1)
    n = trajectory.n_atoms
    _, labels = connected_components(coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(n, n)), False)
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    of_bonds: list[list[Integers]] = [[] for _ in groups]
    for bond in ends:
        of_bonds[labels[bond[0]]].append(bond)
    found = [
        Molecule(_formula(trajectory.numbers[group]), group, np.array(bonds, dtype=np.int64).reshape(-1, 2))
        for group, bonds in zip(groups, of_bonds, strict=True)
    ]
    return tuple(sorted(found, key=lambda one: int(one.members[0])))


def axes(found: Sequence[Molecule], trajectory: Trajectory, formula: str = "") -> Integers:
    """The atoms that define the axis of each molecule of a kind.

    Of three atoms (M, 3): the one in the middle, then the ends; the axis is the bisector, from the middle to between
    the ends. Of two (M, 2): the axis points from the lighter to the heavier.

    Args:
        found: molecules.
        trajectory: theirs.
        formula: of the kind; empty: the commonest of two or three atoms.

    Raises:
        ValueError: no molecule of this kind, or one without such an axis.
    """
    kinds = [one.formula for one in found if len(one.members) in (2, 3)]
    formula = Formula(formula).format("hill") if formula else max(kinds, key=kinds.count, default="")
    chosen = [one for one in found if one.formula == formula]
    if not chosen:
        there = ", ".join(dict.fromkeys(one.formula for one in found))
        raise ValueError(
            f"there is no molecule {formula or 'of two or three atoms'} in {trajectory.name}, only {there}. Name "
            "another, or give the atoms of each axis."
        )
    return np.array([_axis(one, trajectory.numbers) for one in chosen])


def directions(trajectory: Trajectory, atoms: ArrayLike) -> Floats:
    """Where the axes of molecules point.

    Args:
        trajectory: K frames.
        atoms: (M, 3) middle and two ends, or (M, 2) from and to; see `axes`.

    Returns:
        (K, M, 3) unit vectors.

    Raises:
        ValueError: not two or three atoms for each axis.
    """
    ends = np.atleast_2d(np.asarray(atoms, dtype=np.int64))
    if ends.ndim != 2 or ends.shape[1] not in (2, 3):
        raise ValueError(
            f"atoms of axes have the shape {ends.shape}; (M, 2) or (M, 3) was expected. Give two atoms for a bond, or "
            "three for a bisector, the middle one first."
        )
    x = trajectory.positions
    pointing = np.empty((len(trajectory), len(ends), 3))
    for frame in range(len(trajectory)):
        bonds = trajectory.nearest(x[frame, ends[:, 1:]] - x[frame, ends[:, :1]], frame)
        pointing[frame] = bonds.mean(axis=1)
    return np.asarray(pointing / np.linalg.norm(pointing, axis=-1, keepdims=True))


def _formula(numbers: Integers) -> str:
    return str(Formula.from_list([chemical_symbols[number] for number in numbers]).format("hill"))


def _axis(molecule: Molecule, numbers: Integers) -> Integers:
    if len(molecule.members) == 2:
        first, second = molecule.members
        return molecule.members if numbers[first] <= numbers[second] else np.array([second, first])
    counts = [int((molecule.bonds == member).sum()) for member in molecule.members]
    if len(molecule.members) != 3 or sorted(counts) != [1, 1, 2]:
        raise ValueError(
            f"{molecule.formula} has {len(molecule.members)} atoms and {len(molecule.bonds)} bonds; an axis was "
            "expected to be a bond of two atoms or a bisector of three. Give the atoms of each axis."
        )
    middle = molecule.members[counts.index(2)]
    return np.array([middle, *(member for member in molecule.members if member != middle)])
