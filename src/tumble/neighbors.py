"""Pairs of atoms within a cutoff: searched once, kept with a Verlet skin, always with their reverse."""

from typing import NamedTuple, Protocol

import numpy as np
import vesin
from ase.geometry import complete_cell
from numpy.typing import NDArray

ROUNDING = 1e-9
"""Å. Pairs on the cutoff count as within it, so that a crystal's shell is found whole however its box is turned."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Pairs(NamedTuple):
    """Directed pairs of one structure, sorted by center; every pair has its reverse.

    center:   (P,) index i.
    neighbor: (P,) index j.
    shift:    (P, 3) integer lattice translations S of the neighbor: v = x_j - x_i + S @ cell.
    reverse:  (P,) position of the pair (j, i, -S) in this list.
    """

    center: Integers
    neighbor: Integers
    shift: Integers
    reverse: Integers


class Search(Protocol):
    """Anything that finds the pairs of a structure: `search` itself, or a `Verlet` list."""

    def __call__(self, positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float) -> Pairs:
        """The pairs within the cutoff."""
        ...


def search(positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float) -> Pairs:
    """All directed pairs within a cutoff, periodic images and self-images included.

    Args:
        positions: (N, 3) Å.
        cell: (3, 3) Å, rows are lattice vectors; rows of directions that are not periodic may be zero.
        pbc: (3,) which lattice directions repeat.
        cutoff: Å. Zero or less finds no pair.

    Source: neighbour search by vesin (https://luthaf.fr/vesin).
    """
    if cutoff <= 0 or len(positions) == 0:
        return _none()
    listing = vesin.NeighborList(cutoff=cutoff + 2 * ROUNDING, full_list=True, sorted=False)
    pairs, shift = listing.compute(
        points=np.ascontiguousarray(positions, dtype=np.float64),
        box=np.ascontiguousarray(complete_cell(cell), dtype=np.float64),
        periodic=np.asarray(pbc, dtype=bool),
        quantities="PS",
    )
    center, neighbor = pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)
    shift = shift.astype(np.int64)
    within = _within(center, neighbor, shift, positions, cell, cutoff)
    center, neighbor, shift = center[within], neighbor[within], shift[within]
    order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], neighbor, center))
    center, neighbor, shift = center[order], neighbor[order], shift[order]
    return Pairs(center, neighbor, shift, _reverse(center, neighbor, shift))


def vectors(pairs: Pairs, positions: Floats, cell: Floats) -> Floats:
    """Pair vectors v = x_j - x_i + S @ cell, (P, 3) Å."""
    return _vectors(pairs.center, pairs.neighbor, pairs.shift, positions, cell)


def keep(pairs: Pairs, mask: NDArray[np.bool_]) -> Pairs:
    """The pairs where the mask is true; the mask treats a pair and its reverse alike.

    Args:
        mask: (P,) bool.
    """
    place = np.cumsum(mask) - 1
    return Pairs(pairs.center[mask], pairs.neighbor[mask], pairs.shift[mask], place[pairs.reverse[mask]])


class Verlet:
    """A neighbour list that outlives small moves: searched to cutoff + skin, searched again only when it must be.

    The answer is always exactly that of `search`: pairs are filtered by their true distance at every call,
    and a new search is made as soon as two atoms could have crossed the skin together. The lattice may move
    too: its change is counted into the distance that atoms have travelled.
    """

    def __init__(self, skin: float = 1.0) -> None:
        """Args:
        skin: Å beyond the cutoff; larger means fewer searches and more pairs to filter.
        """
        if skin < 0:
            raise ValueError(f"the skin of a Verlet list is {skin} Å; it must be >= 0. Use 0 to search every time.")
        self.skin = skin
        self.n_searches = 0
        self._reference: tuple[Floats, Floats, NDArray[np.bool_], float] | None = None
        self._pairs = _none()

    def __call__(self, positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float) -> Pairs:
        """The pairs within the cutoff, exactly as `search` finds them."""
        if self._is_stale(positions, cell, pbc, cutoff):
            self._pairs = search(positions, cell, pbc, cutoff + self.skin)
            self._reference = (positions.copy(), np.array(cell, copy=True), np.array(pbc, copy=True), cutoff)
            self.n_searches += 1
        center, neighbor, shift, _ = self._pairs
        return keep(self._pairs, _within(center, neighbor, shift, positions, cell, cutoff))

    def _is_stale(self, positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float) -> bool:
        if self._reference is None:
            return True
        old_positions, old_cell, old_pbc, old_cutoff = self._reference
        if len(old_positions) != len(positions) or old_cutoff != cutoff or not np.array_equal(old_pbc, pbc):
            return True
        # Atoms are compared after the affine change of the cell, because a strain moves far atoms much but their
        # distances little; what the strain does to a distance within reach is bounded by its norm times the reach.
        stretch, deformation = np.eye(3), 0.0
        if not np.array_equal(old_cell, cell):
            stretch = np.linalg.solve(complete_cell(old_cell), complete_cell(cell))
            deformation = float(np.linalg.norm(stretch - np.eye(3), 2))
            if deformation > 0.5:
                return True
        travelled = float(np.sqrt(np.square(positions - old_positions @ stretch).sum(axis=1).max(initial=0.0)))
        return 2 * travelled + deformation * (cutoff + self.skin) > self.skin


def _none() -> Pairs:
    empty = np.zeros(0, dtype=np.int64)
    return Pairs(empty, empty, np.zeros((0, 3), dtype=np.int64), empty)


def _vectors(center: Integers, neighbor: Integers, shift: Integers, positions: Floats, cell: Floats) -> Floats:
    # Summed term by term: a matrix product may round a pair and its reverse differently, and must not.
    moved = shift[:, :1] * cell[0] + shift[:, 1:2] * cell[1] + shift[:, 2:] * cell[2]
    return positions[neighbor] - positions[center] + moved


def _within(
    center: Integers, neighbor: Integers, shift: Integers, positions: Floats, cell: Floats, cutoff: float
) -> NDArray[np.bool_]:
    distance2 = np.square(_vectors(center, neighbor, shift, positions, cell)).sum(axis=1)
    return distance2 <= (cutoff + ROUNDING) ** 2


def _reverse(center: Integers, neighbor: Integers, shift: Integers) -> Integers:
    """Position of (j, i, -S) for each pair of a list sorted by (i, j, S)."""
    order = np.lexsort((-shift[:, 2], -shift[:, 1], -shift[:, 0], center, neighbor))
    reverse = np.empty(len(center), dtype=np.int64)
    reverse[order] = np.arange(len(center))
    # A pair found from one side only would make everything downstream wrong.
    if len(order) and not (
        np.array_equal(neighbor[order], center)
        and np.array_equal(center[order], neighbor)
        and np.array_equal(-shift[order], shift)
    ):
        raise RuntimeError(
            f"the neighbour search returned {len(center)} pairs of which some have no reverse; "
            "every pair was expected from both sides. Change the cutoff by 1e-6 Å, and report the structure."
        )
    return reverse
