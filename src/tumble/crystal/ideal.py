"""Ideal: the structure that has exactly the symmetry which the given one has within a tolerance."""

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble.crystal.space import SpaceGroup

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def ideal(atoms: Atoms, group: SpaceGroup) -> Atoms:
    """The mean of a structure over its operations, so that what is off is not taken for an error of a potential.

    It is moved by no more than about the deviation of the group. Turns that do not map the lattice of a supercell on
    itself are left out. No call.

    Args:
        atoms: one structure.
        group: its space group.

    Returns:
        A copy with other positions and another cell.
    """
    turns, images = group.turns[group.is_of_supercell], group.images[group.is_of_supercell]
    moved = atoms.copy()
    stretch = _stretch(atoms.cell.array[atoms.pbc], turns)
    moved.set_cell(np.where(atoms.pbc[:, None], atoms.cell.array @ stretch, atoms.cell.array))
    moved.positions = atoms.positions @ stretch
    shifts = group.shifts[group.is_of_supercell]
    moved.positions -= _excess(moved, turns, shifts, images)
    copies = translations(moved, group)
    same = np.broadcast_to(np.eye(3), (len(copies), 3, 3))
    moved.positions -= _excess(moved, same, (moved.positions[copies] - moved.positions)[:, 0], copies)
    return moved


def translations(atoms: Atoms, group: SpaceGroup) -> Integers:
    """Where each pure translation of the crystal takes each atom, (T, N) indices, the identity first."""
    members = np.argsort(group.classes, kind="stable").reshape(int(group.classes.max()) + 1, -1)
    places = atoms.positions[members]
    images = np.empty((members.shape[1], len(atoms)), dtype=np.int64)
    for k, shift in enumerate(places[0] - places[0, 0]):
        apart = _wrapped(places[:, :, None] + shift - places[:, None, :], atoms)
        nearest = np.linalg.norm(apart, axis=-1).argmin(-1)
        images[k, members] = np.take_along_axis(members, nearest, axis=1)
    return images


def _stretch(rows: Floats, turns: Floats) -> Floats:
    """The symmetric matrix (3, 3) that makes rows (d, 3) of a lattice exactly symmetric under turns (H, 3, 3)."""
    if len(rows) == 0:
        return np.eye(3)
    inverse = np.linalg.pinv(rows)
    steps = np.round(rows @ turns.transpose(0, 2, 1) @ inverse)
    metric = np.mean(steps @ (rows @ rows.T) @ steps.transpose(0, 2, 1), axis=0)
    values, axes = np.linalg.eigh(inverse @ metric @ inverse.T + np.eye(3) - inverse @ rows)
    return np.asarray((axes * np.sqrt(values)) @ axes.T)


def _excess(atoms: Atoms, turns: Floats, shifts: Floats, images: Integers) -> Floats:
    """What positions have beyond their mean over operations, (N, 3) Å, but for a common shift."""
    misses = _wrapped(atoms.positions @ turns.transpose(0, 2, 1) + shifts[:, None] - atoms.positions[images], atoms)
    return np.asarray(np.mean((misses - misses.mean(1, keepdims=True)) @ turns, axis=0))


def _wrapped(steps: Floats, atoms: Atoms) -> Floats:
    """Steps (..., 3) to the nearest periodic copy, where they are short."""
    complete = atoms.cell.complete().array
    along = steps @ np.linalg.inv(complete)
    return np.asarray((along - np.round(along) * atoms.pbc) @ complete)
