"""Waves: dynamical matrices at wave vectors, a mesh of these, and what rounding does to frequencies."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumble.jobs.phonons.cells import Cells, required
from tumble.units import THZ

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]

AT_ONCE = 1000
"""Wave vectors whose matrices are held at a time."""


class Mesh(NamedTuple):
    """Wave vectors of a mesh that contains Γ; of q and -q, which have the same frequencies, one.

    counts:  along each vector of the primitive reciprocal lattice.
    q:       (Q, 3) in its units, Γ first.
    weights: (Q,) that add up to 1.
    """

    counts: tuple[int, int, int]
    q: Floats
    weights: Floats


def mesh_of(cells: Cells, length: float) -> Mesh:
    """The mesh that corresponds to a crystal of this length, Å, in each direction. No symmetry but q and -q is used.

    What a potential makes of one arm of a star it need not make of the others.
    """
    reciprocal = np.linalg.norm(np.linalg.inv(cells.engine.primitive.cell), axis=0)
    counts = np.maximum(np.ceil(length * reciprocal - 1e-6), 1).astype(int)
    steps = np.indices(counts).reshape(3, -1).T
    number = np.ravel_multi_index(tuple(steps.T), tuple(counts))
    opposite = np.ravel_multi_index(tuple((-steps % counts).T), tuple(counts))
    kept = number <= opposite
    weights = np.where(number == opposite, 1.0, 2.0)[kept] / len(steps)
    first, second, third = counts.tolist()
    return Mesh((first, second, third), steps[kept] / counts, weights)


def matrices(cells: Cells, constants: Floats, q: Floats, nac: Any = None, direction: Floats | None = None) -> Complexes:
    """Dynamical matrices (Q, 3n, 3n) eV/(Å² amu), hermitian.

    Args:
        cells: the crystal.
        constants: (n, N, 3, 3) eV/Å².
        q: (Q, 3) wave vectors in the basis of the primitive reciprocal lattice.
        nac: Born charges and dielectric constant, as phonopy takes them; None without.
        direction: (3,) from where Γ is approached, where that matters.
    """
    dynamics = required("phonopy.harmonic.dynamical_matrix")
    engine = cells.engine
    matrix = dynamics.get_dynamical_matrix(np.ascontiguousarray(constants), engine.supercell, engine.primitive, nac)
    found = dynamics.get_dynamical_matrices_at_qpoints(
        matrix, np.ascontiguousarray(q), nac_q_direction=None if nac is None else direction
    )
    return np.asarray(found)


def noise_of(frequencies: Floats, vectors: NDArray[Any], masses: Floats, error: float, n_cells: int) -> Floats:
    """Change (Q, M) THz of each frequency if every force constant is off by chance.

    Args:
        frequencies: (Q, M) THz, not zero.
        vectors: (Q, 3n, M) modes.
        masses: (n,) amu.
        error: eV/Å², of a force constant.
        n_cells: primitive cells in the supercell, which a mode adds up.
    """
    softness = np.einsum("qim,i->qm", np.abs(vectors) ** 2, np.repeat(1 / masses, 3))
    return np.asarray(THZ**2 / (2 * np.abs(frequencies)) * softness * error * np.sqrt(n_cells))


def wave(cells: Cells, q: Floats, vector: Complexes) -> Floats:
    """Displacements (N, 3) of the supercell along a mode at a commensurate wave vector, the largest of them 1.

    Args:
        q: (3,) in the basis of the primitive reciprocal lattice.
        vector: (3n,) of the dynamical matrix there.
    """
    engine = cells.engine
    places = engine.supercell.positions @ np.linalg.inv(engine.primitive.cell)
    of = np.array([engine.primitive.p2p_map[k] for k in engine.primitive.s2p_map])
    moved = vector.reshape(-1, 3)[of] / np.sqrt(engine.primitive.masses)[of, None]
    moved = moved * np.exp(2j * np.pi * places @ q)[:, None]
    # Of all phases the one with the largest real part: a standing wave is not caught at rest.
    moved = (moved * np.exp(-0.5j * np.angle(np.sum(moved**2)))).real
    return np.asarray(moved / np.linalg.norm(moved, axis=1).max())
