"""Pure translations of a crystal: its primitive cell, and which atoms are copies of each other."""

from dataclasses import dataclass
from math import lcm
from typing import Final

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tumble.crystal.lattice import Floats, Integers, completed, hermite, reduced, remainders
from tumble.crystal.sites import Sites

_DOUBTS: Final = 32
"""Translations of a large cell that fail on some atom after they passed a few: more only where a defect is as small as
the reach, so that it can be seen in no single place."""


@dataclass(frozen=True, eq=False)
class Primitive:
    """A crystal as copies of a primitive cell.

    sites:     one mean atom for each class.
    classes:   (N,) class of each atom.
    places:    (N, 3) int64, in which primitive cell an atom is: x = (sites[class] + place) @ rows.
    supercell: (3, 3) int64 upper triangular, the given lattice in units of the primitive one.
    scatter:   Å, twice the farthest that an atom is from the mean of its copies.
    """

    sites: Sites
    classes: Integers
    places: Integers
    supercell: Integers
    scatter: float


def primitive(crystal: Sites, reach: float, *, is_last: bool) -> Primitive | None:
    """The smallest cell that a crystal repeats, within reach; None if its copies do not form a lattice.

    Args:
        is_last: try all translations, however many fail; else None too if more do than a structure has reason to.
    """
    n, d = len(crystal), crystal.d
    found = _translations(crystal, reach, is_last) if d else (np.eye(0, dtype=np.int64), 1, [])
    if found is None:
        return None
    lattice, denominator, images = found
    rows = completed(reduced(lattice / denominator @ crystal.rows[:d]))
    rows[d:] = crystal.rows[d:]
    change = np.linalg.inv(rows)
    places = crystal.places @ crystal.rows @ change
    supercell = np.eye(3, dtype=np.int64)
    if not images:
        alone: Integers = np.arange(n, dtype=np.int64)
        return Primitive(Sites(places, crystal.kinds, rows, d), alone, np.zeros((n, 3), np.int64), supercell, 0.0)
    supercell[:d, :d] = hermite(np.round(crystal.rows[:d] @ change)[:, :d].astype(int).tolist())
    edges = (np.ones(n * len(images)), (np.tile(np.arange(n), len(images)), np.concatenate(images)))
    n_classes, labels = connected_components(coo_array(edges, shape=(n, n)), directed=False)
    classes: Integers = labels.astype(np.int64)
    first = np.unique(classes, return_index=True)[1]
    steps = places - places[first][classes]
    cells = np.round(np.where(crystal.repeats, steps, 0.0)).astype(np.int64)
    residuals = steps - cells
    n_copies = int(np.prod(np.diag(supercell)))
    numbers = classes * n_copies + remainders(cells, supercell)
    if len(numbers) != n_classes * n_copies or len(np.unique(numbers)) != n:
        return None
    means = np.stack([np.bincount(classes, residuals[:, k]) for k in range(3)], axis=1) / n_copies
    scatter = 2 * float(np.linalg.norm((residuals - means[classes]) @ rows, axis=1).max())
    if scatter > reach:
        return None
    sites = Sites(places[first] + means, crystal.kinds[first], rows, d)
    return Primitive(sites, classes, cells, supercell, scatter)


def _translations(crystal: Sites, reach: float, is_last: bool) -> tuple[Integers, int, list[Integers]] | None:
    """The lattice of all translations of a crystal, as integer rows over a denominator, and images of generators."""
    d = crystal.d
    first, like = crystal.reference(reach)
    shifts = crystal.wrapped(crystal.places[like] - crystal.places[first])
    keep = (like != first) & (crystal.lengths(np.where(crystal.repeats, 0.0, shifts)) <= 2 * reach)
    shifts = np.where(crystal.repeats, shifts[keep], 0.0)
    shifts = shifts[np.argsort(crystal.lengths(shifts), kind="stable")]
    one = np.broadcast_to(np.eye(3), (len(shifts), 3, 3))
    shifts = shifts[crystal.probed(one, shifts, 3 * reach)]
    lattice, denominator = np.eye(d, dtype=np.int64), 1
    images: list[Integers] = []
    block, n_failed = max(1, 20_000 // len(crystal)), 0
    while len(shifts):
        now, shifts = shifts[:block], shifts[block:]
        found, fitted, worst, witnesses = crystal.fitted(one[: len(now)], now, 3 * reach)
        for k in range(len(now)):
            if worst[k] <= reach and not _is_in(fitted[k : k + 1, :d], lattice, denominator)[0]:
                order = _order(found[k])
                step = np.round(order * fitted[k, :d]).astype(int)
                multiple = lcm(denominator, order)
                generators = [(multiple // order * step).tolist(), *(multiple // denominator * lattice).tolist()]
                lattice, denominator = hermite(generators), multiple
                images.append(found[k])
        shifts = shifts[~_is_in(shifts[:, :d], lattice, denominator)]
        # What one translation failed on, most others fail on too: a displaced atom in a large cell.
        failed = np.unique(witnesses[~(worst <= reach)])[:8]
        n_failed += len(now) if len(failed) else 0
        if n_failed > _DOUBTS and block < _DOUBTS and not is_last:
            return None
        if len(failed) and len(shifts) > block:
            shifts = shifts[crystal.probed(one[: len(shifts)], shifts, 3 * reach, failed)]
    return lattice, denominator, images


def _is_in(shifts: Floats, lattice: Integers, denominator: int) -> np.ndarray:
    """Whether shifts (K, d) are, to a tenth, whole steps of a lattice."""
    steps = shifts @ np.linalg.inv(lattice / denominator)
    return np.asarray((np.abs(steps - np.round(steps)) < 0.1).all(axis=1))


def _order(images: Integers) -> int:
    """After how many steps the first atom is back."""
    order, atom = 1, int(images[0])
    while atom:
        order, atom = order + 1, int(images[atom])
    return order
