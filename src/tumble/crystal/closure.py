"""Whether operations are a group, and the exact matrices of it that lie closest to them."""

from dataclasses import dataclass

import numpy as np

from tumble.crystal.lattice import Floats, Integers
from tumble.crystal.sites import Sites

_FAR = 0.3
"""Difference of matrix elements of two turns that are not the same one, however near-symmetric the structure."""


@dataclass(frozen=True, eq=False)
class Closed:
    """The exact group.

    turns:  (H, 3, 3) orthogonal to rounding, closed under multiplication to rounding.
    rows:   (3, 3) Å, the symmetric average of the lattice.
    strain: Å, how far a lattice vector is from the image of another.
    """

    turns: Floats
    rows: Floats
    strain: float


def closed(sites: Sites, turns: Floats, images: Integers, is_free: bool) -> Closed | None:
    """The exact group that operations f -> f W + τ are close to; None if products of them are missing.

    Args:
        turns: (H, 3, 3) W, identity first.
        images: (H, n).
        is_free: whether turns are of any angle, known to the tolerance only; else those of a lattice, known exactly.
    """
    change = np.linalg.inv(sites.rows)
    matrices = change @ turns @ sites.rows
    table = _table(matrices)
    if table is None or not _composes(table, images):
        return None
    if is_free:
        return Closed(_represented(matrices, table).transpose(0, 2, 1), sites.rows, 0.0)
    # In the metric averaged over the operations they are orthogonal to rounding; the cell that has this metric and
    # differs from the given one by a pure strain has its orientation.
    metric = np.mean(turns @ (sites.rows @ sites.rows.T) @ turns.transpose(0, 2, 1), axis=0)
    values, axes = np.linalg.eigh(change @ metric @ change.T)
    rows = sites.rows @ (axes * np.sqrt(values)) @ axes.T
    exact = np.linalg.inv(rows) @ turns @ rows
    exact[0] = np.eye(3)
    missed = np.linalg.norm(turns @ sites.rows - sites.rows @ exact, axis=2)[:, : sites.d]
    return Closed(exact.transpose(0, 2, 1), rows, float(missed.max(initial=0.0)))


def _table(matrices: Floats) -> Integers | None:
    """(H, H) index of each product, None if one is not among the matrices."""
    n = len(matrices)
    products = (matrices[:, None] @ matrices).reshape(-1, 9)
    table = (products @ matrices.reshape(n, 9).T).argmax(axis=1)
    if np.abs(products - matrices.reshape(n, 9)[table]).max() > _FAR:
        return None
    table = table.reshape(n, n)
    if (np.sort(table, axis=1) != np.arange(n)).any():
        return None
    return np.asarray(table, dtype=np.int64)


def _composes(table: Integers, images: Integers) -> bool:
    """Whether atoms go where products of operations say: asked of generators, which implies it of all."""
    members = np.zeros(1, dtype=np.int64)
    for one in range(1, len(table)):
        if one in members:
            continue
        if (images[table[:, one]] != images[one][images]).any():
            return False
        generators = np.append(members, one)
        while len(grown := np.unique(table[np.ix_(members, generators)])) > len(members) or one not in members:
            members = grown
    return True


def _represented(matrices: Floats, table: Integers) -> Floats:
    """The exact representation of a group that is closest to matrices which multiply only nearly as it does.

    Each is replaced by the mean of all R(a)ᵀ R(a h), which should equal it; what is left of the error is its square.

    Source: K. Grove, H. Karcher, E. A. Ruh, Math. Ann. 211, 7 (1974).
    """
    for _ in range(8):
        before = matrices
        products = np.einsum("aji,ahjk->hik", matrices, matrices[table], optimize=True) / len(matrices)
        left, _, right = np.linalg.svd(products)
        matrices = left @ right
        if np.abs(matrices - before).max() < 1e-15:
            break
    matrices[0] = np.eye(3)
    return np.asarray(matrices)
