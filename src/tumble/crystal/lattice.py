"""Lattices of one, two or three dimensions: reduced bases, the turns that keep them, integer bases of superlattices."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_STEPS: Integers = np.array(list(product((-2, -1, 0, 1, 2), repeat=3)), dtype=np.int64)
_PLANE: Integers = _STEPS[50:75, 1:]


def reduced(rows: Floats) -> Floats:
    """A basis (d, 3) of the same lattice whose vectors are as short as can be, shortest first (Minkowski-reduced).

    Source: I. Semaev, A 3-dimensional lattice reduction algorithm, CaLC 2001, LNCS 2146, 181.
    """
    basis = [np.asarray(row, dtype=np.float64) for row in rows]
    basis.sort(key=lambda row: float(row @ row))
    k = 1
    while k < len(basis):
        shorter = _nearest_removed(basis[k], basis[:k])
        if shorter @ shorter < (basis[k] @ basis[k]) * (1 - 1e-10):
            basis[k] = shorter
            basis.sort(key=lambda row: float(row @ row))
            k = 1
        else:
            k += 1
    return np.array(basis).reshape(-1, 3)


def _nearest_removed(vector: Floats, basis: list[Floats]) -> Floats:
    """The vector less that of the lattice of one or two shorter ones which leaves the least."""
    if len(basis) == 1:
        first = basis[0]
        return np.asarray(vector - np.round((vector @ first) / (first @ first)) * first)
    rows = np.array(basis)
    vector = vector - np.round(np.linalg.solve(rows @ rows.T, rows @ vector)) @ rows
    around = vector - _PLANE @ rows
    lengths = np.einsum("ij,ij->i", around, around)
    best = int(np.argmin(lengths))
    # Where nothing is gained by more than rounding the vector stays, or two equals would take turns for ever.
    return np.asarray(around[best] if lengths[best] < lengths[12] * (1 - 1e-10) else vector)


def completed(rows: Floats) -> Floats:
    """Rows (3, 3): those given, and unit vectors normal to them and to each other."""
    if len(rows) == 3:
        return rows
    if len(rows) == 0:
        return np.eye(3)
    return np.vstack([rows, np.linalg.svd(rows)[2][len(rows) :]])


def automorphisms(rows: Floats, tolerance: float) -> Integers:
    """Integer matrices W (K, d, d): W @ rows has the lengths and angles of rows, within a tolerance.

    Args:
        rows: (d, 3) a reduced basis, d = 2 or 3.
        tolerance: Å, by which a turned vector may miss its image.
    """
    d = len(rows)
    steps = _STEPS if d == 3 else _PLANE
    vectors = steps @ rows
    lengths, wanted = np.sqrt(np.einsum("ij,ij->i", vectors, vectors)), np.linalg.norm(rows, axis=1)
    like = [np.flatnonzero(np.abs(lengths - length) <= tolerance) for length in wanted]
    dots = vectors @ vectors.T
    chains = like[0][:, None]
    for k in range(1, d):
        chains = np.concatenate(
            [np.repeat(chains, len(like[k]), axis=0), np.tile(like[k], len(chains))[:, None]], axis=1
        )
        for m in range(k):
            slack = tolerance * (wanted[k] + wanted[m])
            chains = chains[np.abs(dots[chains[:, k], chains[:, m]] - rows[k] @ rows[m]) <= slack]
    found = steps[chains]
    determinants = np.round(np.linalg.det(found.astype(np.float64)))
    return np.asarray(found[np.abs(determinants) == 1])


def short_vectors(rows: Floats) -> Integers:
    """The lattice vectors (K, d), in steps along a reduced basis, that are not longer than its longest by 5 %."""
    steps = {3: _STEPS, 2: _PLANE}.get(len(rows), np.zeros((0, len(rows)), dtype=np.int64))
    return np.asarray(steps[np.linalg.norm(steps @ rows, axis=1) <= 1.05 * np.linalg.norm(rows, axis=1).max(initial=0)])


def hermite(rows: list[list[int]]) -> Integers:
    """The upper triangular basis (d, d) of the lattice that integer rows of full rank d span, diagonal positive."""
    rows = [list(row) for row in rows]
    d = len(rows[0])
    for k in range(d):
        while True:
            filled = [r for r in range(k, len(rows)) if rows[r][k]]
            least = min(filled, key=lambda r: abs(rows[r][k]))
            rows[k], rows[least] = rows[least], rows[k]
            rest = [r for r in range(k + 1, len(rows)) if rows[r][k]]
            if not rest:
                break
            for r in rest:
                times = rows[r][k] // rows[k][k]
                rows[r] = [a - times * b for a, b in zip(rows[r], rows[k], strict=True)]
        if rows[k][k] < 0:
            rows[k] = [-a for a in rows[k]]
        rows = rows[: k + 1] + [row for row in rows[k + 1 :] if any(row)]
    return np.array(rows[:d], dtype=np.int64)


def remainders(places: Integers, superlattice: Integers) -> Integers:
    """One number for each set of places (..., 3) that differ by a vector of a superlattice, 0 <= number < det.

    Args:
        superlattice: (3, 3) upper triangular, as `hermite` gives it.
    """
    number = np.zeros(places.shape[:-1], dtype=np.int64)
    for k in range(3):
        size = int(superlattice[k, k])
        times, rest = np.divmod(places[..., k], size)
        if k < 2 and superlattice[k, k + 1 :].any():
            places = places - times[..., None] * superlattice[k]
        number = number * size + rest
    return number
