"""Shifts: what a change of the dynamical matrix does to frequencies, to first order and in full."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumble.jacobian.vibrations import frequencies_of
from tumble.units import THZ

Floats = NDArray[np.float64]
Matrices = NDArray[np.floating] | NDArray[np.complexfloating]

LEAST_THz: Final = 0.1
"""Slower modes have no first order to speak of: it goes as 1/ω."""

DEGENERATE_THz: Final = 1e-4
"""Modes that are closer than this are taken for degenerate."""

PROTECTED: Final = 1e-6
"""Share of a generic symmetric matrix by which it may split modes that symmetry makes degenerate."""


class Shifts(NamedTuple):
    """Frequencies of Q matrices of M modes each, and how a change of the matrices moves them.

    frequencies_THz: (Q, M) ascending; imaginary ones are given as negative.
    first_THz:       (Q, M) e† δD e / 2ω, where δD chooses the e among degenerate modes; 0 for modes slower than
                     `LEAST_THz`.
    full_THz:        (Q, M) change to the mode of the same rank, by diagonalising the sum.
    vectors:         (Q, M, M) eigenvectors of the matrices without the change, in columns.
    """

    frequencies_THz: Floats
    first_THz: Floats
    full_THz: Floats
    vectors: Matrices

    @property
    def error_THz(self) -> Floats:
        """(Q, M) size of the first order or, where that is larger, of the whole change."""
        return np.asarray(np.maximum(np.abs(self.first_THz), np.abs(self.full_THz)))


def shifts_of(matrices: Matrices, changes: Matrices) -> Shifts:
    """Frequencies of hermitian matrices, and their shifts under a hermitian change.

    Args:
        matrices: (Q, M, M) eV/(Å² amu), dynamical matrices.
        changes: (Q, M, M) eV/(Å² amu).
    """
    values, vectors = np.linalg.eigh(matrices)
    frequencies = frequencies_of(values)
    between = vectors.conj().swapaxes(1, 2) @ changes @ vectors
    moved = np.diagonal(between, axis1=1, axis2=2).real.copy()
    for q in np.flatnonzero((np.diff(frequencies, axis=1) <= DEGENERATE_THz).any(1)):
        for members in degenerate(frequencies[q]):
            if len(members) > 1:
                block = np.diag(values[q, members]) + between[q][np.ix_(members, members)]
                moved[q, members] = np.linalg.eigvalsh(block) - values[q, members]
    size = np.maximum(np.abs(frequencies), LEAST_THz)
    first = np.where(np.abs(frequencies) > LEAST_THz, THZ**2 * moved / (2 * size), 0.0)
    full = frequencies_of(np.linalg.eigvalsh(matrices + changes)) - frequencies
    return Shifts(frequencies, first, full, vectors)


def splittings_of(found: Shifts, matrices: Matrices, allowed: Matrices) -> Floats:
    """Largest width (Q,) THz that other matrices give to modes which symmetry makes degenerate, to first order.

    Modes that meet by accident are left out: what symmetry allows would split them.

    Args:
        found: of matrices that are symmetric.
        matrices: (Q, M, M) eV/(Å² amu), those whose splitting is asked for.
        allowed: (Q, M, M) of any unit, generic ones with the symmetry of the first.
    """
    widths = np.zeros(len(matrices))
    for q in np.flatnonzero((np.diff(found.frequencies_THz, axis=1) <= DEGENERATE_THz).any(1)):
        frequencies = found.frequencies_THz[q]
        for members in degenerate(frequencies):
            vectors, middle = found.vectors[q][:, members], abs(float(frequencies[members].mean()))
            if len(members) < 2 or middle < LEAST_THz:
                continue
            width, accident = (
                np.ptp(np.linalg.eigvalsh(vectors.conj().T @ one[q] @ vectors)) for one in (matrices, allowed)
            )
            if accident < PROTECTED * np.linalg.norm(allowed[q]):
                widths[q] = max(widths[q], THZ**2 * width / (2 * middle))
    return widths


def degenerate(frequencies: Floats) -> list[NDArray[np.int64]]:
    """Sets of modes of one matrix, ascending, that are degenerate; one alone is a set too."""
    return np.split(np.arange(len(frequencies)), np.flatnonzero(np.diff(frequencies) > DEGENERATE_THz) + 1)
