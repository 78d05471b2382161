"""Vibrations: normal modes and frequencies of a structure from its force constants."""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble.units import THZ

Floats = NDArray[np.float64]


class Modes(NamedTuple):
    """Harmonic vibrations, without translations and, where they cost nothing, rotations.

    frequencies_THz: (M,) ascending; imaginary ones are given as negative.
    vectors:         (M, 3N) orthonormal, mass-weighted: atoms move along vectors / √m.
    """

    frequencies_THz: Floats
    vectors: Floats


def modes(constants: Floats, atoms: Atoms) -> Modes:
    """Vibrations of a structure with these force constants, in the space in which it is not moved as a whole.

    Translations are left out, and of a molecule rotations, of a wire the turn about its axis. No call.

    Args:
        constants: (N, N, 3, 3) eV/Å², symmetric.
        atoms: the structure; its masses count.
    """
    still = rigid(atoms)
    others = np.linalg.qr(still, mode="complete")[0][:, still.shape[1] :]
    values, vectors = np.linalg.eigh(others.T @ weighted(constants, atoms) @ others)
    return Modes(frequencies_of(values), (others @ vectors).T)


def weighted(constants: Floats, atoms: Atoms) -> Floats:
    """The dynamical matrix of the whole cell at Γ, (3N, 3N) eV/(Å² amu)."""
    roots = np.repeat(np.sqrt(atoms.get_masses()), 3)
    n = 3 * len(atoms)
    return np.asarray(constants.transpose(0, 2, 1, 3).reshape(n, n) / np.outer(roots, roots))


def frequencies_of(values: NDArray[np.floating]) -> Floats:
    """THz, of eigenvalues in eV/(Å² amu)."""
    return np.asarray(THZ * np.sign(values) * np.sqrt(np.abs(values)))


def rigid_THz(constants: Floats, atoms: Atoms) -> Floats:
    """What force constants make of the motions as a whole, (K,) THz ascending; zero where nothing pushes back.

    Of all modes, with nothing left out, the frequencies of the K that are the most like such motions.

    Args:
        constants: (N, N, 3, 3) eV/Å², symmetric.
        atoms: the structure; its masses count.
    """
    still = rigid(atoms)
    values, vectors = np.linalg.eigh(weighted(constants, atoms))
    likeness = np.square(still.T @ vectors).sum(0)
    return frequencies_of(values[np.sort(np.argsort(-likeness, kind="stable")[: still.shape[1]])])


def rigid(atoms: Atoms) -> Floats:
    """Motions of the structure as a whole, (3N, K) orthonormal columns, mass-weighted."""
    roots = np.sqrt(atoms.get_masses())[:, None]
    motions = [np.broadcast_to(axis, (len(atoms), 3)) for axis in np.eye(3)]
    if atoms.pbc.sum() < 2:
        centered = atoms.positions - atoms.get_center_of_mass()
        axes = atoms.cell.array[atoms.pbc] if atoms.pbc.any() else np.eye(3)
        motions += [np.cross(axis, centered) for axis in axes]
    columns = np.stack([(roots * motion).ravel() for motion in motions], axis=1)
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    # About its own axis a straight molecule does not turn.
    return np.asarray(left[:, sizes > 1e-3 * sizes[0]])
