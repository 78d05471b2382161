"""leaks(), duplicates(): structures that two sets share, or that one set has twice, exactly or nearly."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tumble.data import fingerprints
from tumble.data.dataset import Dataset
from tumble.results import Table

WITHIN: Final = 1e-4
"""Å. How far distances of near duplicates are apart at most, unless said otherwise."""

CANDIDATES: Final = 4
"""Structures of most similar shape that are compared in full with each one."""

COLUMNS: Final = ("structure", "is also", "how", "distances differ by (Å)")


SHAPES: Final = 0.1
"""Difference of two shapes, as a part of that of single distances, up to which structures are compared in full."""


class Match(NamedTuple):
    """A structure that is another one.

    place:  of it in its set.
    other:  place of the other one in its set.
    how:    "exact" or "near".
    apart:  Å, the largest difference of their sorted distances.
    """

    place: int
    other: int
    how: str
    apart: float


def leaks(train: Dataset, valid: Dataset, *, within: float = WITHIN) -> Table:
    """Structures of the validation set that the training set has too: errors on them say nothing.

    The same structure up to a translation, wrapping and rounding is found for certain. One that also differs by a
    turn, a mirror, a permutation of like atoms, another cell of the same lattice, or displacements that change no
    distance within 4 Å by more than `within`, is found if it is among the four of most similar shape and the mean
    distance differs by less than a tenth of `within`: displacements at random are found, a strain of all is not, nor
    is a supercell. Structures whose sorted distances agree are told as near, whether or not a turn makes them equal.

    Args:
        train: the training set.
        valid: the validation set.
        within: Å. 0 looks for exact copies only.

    Returns:
        A row for each structure of the validation set that is in the training set: its source, the other's, "exact" or
        "near", and the largest difference of sorted distances.
    """
    found = list(matches(train, valid, within))
    shown = tuple((valid.sources[one.place], train.sources[one.other], one.how, one.apart) for one in found)
    note = f"{len(found)} of {len(valid)} structures of the validation set are among {len(train)} of the training set."
    return Table("Structures that are in the training and in the validation set", COLUMNS, shown, note)


def duplicates(dataset: Dataset, *, within: float = WITHIN) -> Table:
    """Structures that are also somewhere before in the same set, exactly or nearly; see `leaks`.

    Args:
        dataset: any.
        within: Å. 0 looks for exact copies only.
    """
    found = list(matches(dataset, dataset, within))
    shown = tuple((dataset.sources[one.place], dataset.sources[one.other], one.how, one.apart) for one in found)
    note = f"{len(found)} of {len(dataset)} structures are also somewhere before."
    return Table("Structures that occur more than once", COLUMNS, shown, note)


def matches(one: Dataset, other: Dataset, within: float = WITHIN) -> Iterator[Match]:
    """The structures of `other`, in order, that are in `one`; if the two are the same object, before themselves.

    In memory are 32 bytes of each structure and what sorts them, and few structures at a time.
    """
    is_same = one is other
    exact = _first_with(one.exact, other.exact)
    if is_same:
        exact[exact == np.arange(len(exact))] = -1
    near = _alike(one, other, within, is_same) if within > 0 else {}
    places = np.unique(np.concatenate([np.flatnonzero(exact >= 0), np.array(list(near), dtype=np.int64)]))
    for place in places.tolist():
        atoms, first = other.atoms[place], int(exact[place])
        if first >= 0 and fingerprints.fingerprint(one.atoms[first]) == fingerprints.fingerprint(atoms):
            yield Match(place, first, "exact", 0.0)
            continue
        differences = ((k, fingerprints.difference(one.atoms[k], atoms)) for k in near.get(place, ()))
        yield from islice((Match(place, k, "near", apart) for k, apart in differences if apart <= within), 1)


def _first_with(values: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.int64]:
    """The first place of each wanted value, -1 where there is none."""
    distinct, first = np.unique(values, return_index=True)
    if len(distinct) == 0:
        return np.full(len(wanted), -1)
    place = np.minimum(np.searchsorted(distinct, wanted), len(distinct) - 1)
    return np.where(distinct[place] == wanted, first[place], -1)


def _alike(one: Dataset, other: Dataset, within: float, is_same: bool) -> dict[int, list[int]]:
    """Structures of `other` with those of `one` whose shape is nearest, formula by formula."""
    scale = np.array([1.0, 1.0, 1.0, 0.1])  # the last is no distance, and several times as large
    shared = np.intersect1d(one.formula, other.formula)
    found: dict[int, list[int]] = {}
    for mine, theirs in zip(_by_formula(one.formula, shared), _by_formula(other.formula, shared), strict=True):
        if is_same and len(mine) < 2:
            continue
        tree = cKDTree(one.shape[mine].astype(np.float64) * scale)
        nearest = [*range(1, min(CANDIDATES + is_same, len(mine)) + 1)]
        # What is stored in float32 is rounded by 2e-7 of a few Å.
        found_here = tree.query(
            other.shape[theirs].astype(np.float64) * scale, k=nearest, distance_upper_bound=SHAPES * within + 1e-6
        )
        for place, row in zip(theirs.tolist(), np.asarray(found_here[1]).tolist(), strict=True):
            near = [int(mine[k]) for k in row if k < len(mine) and not (is_same and mine[k] >= place)]
            if near:
                found[place] = near
    return found


def _by_formula(formula: NDArray[np.uint64], shared: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
    """Positions of the structures with each of these formulas."""
    places = np.flatnonzero(np.isin(formula, shared))
    order = places[np.argsort(formula[places], kind="stable")]
    return np.split(order, np.searchsorted(formula[order], shared[1:])) if len(shared) else []
