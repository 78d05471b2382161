"""Pairs of atoms within a cutoff: searched once, kept with a Verlet skin, always with their reverse."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import vesin
from ase.geometry import complete_cell
from numpy.typing import NDArray

from tumble import native

SOURCE = Path(__file__).with_suffix(".cpp")
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


class Candidates(NamedTuple):
    """Pairs of one structure as they were found: in any order, up to a rounding beyond the cutoff, without reverse.

    ends:  (P, 2) index i and j, unsigned.
    shift: (P, 3) integer lattice translations of j.
    """

    ends: NDArray[np.uint64]
    shift: NDArray[np.int32]


def search(positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float) -> Pairs:
    """All directed pairs within a cutoff, periodic images and self-images included.

    Args:
        positions: (N, 3) Å.
        cell: (3, 3) Å, rows are lattice vectors; rows of directions that are not periodic may be zero.
        pbc: (3,) which lattice directions repeat.
        cutoff: Å. Zero or less finds no pair.

    Source: neighbour search by vesin (https://luthaf.fr/vesin).
    """
    return settle([candidates(positions, cell, pbc, cutoff)], [positions], [cell], cutoff)[0]


def candidates(positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float) -> Candidates:
    """The first half of a search, which tells how many pairs there are; arguments as for `search`."""
    if cutoff <= 0 or len(positions) == 0:
        return Candidates(np.zeros((0, 2), dtype=np.uint64), np.zeros((0, 3), dtype=np.int32))
    listing = vesin.NeighborList(cutoff=cutoff + 2 * ROUNDING, full_list=True, sorted=False)
    ends, shift = listing.compute(
        points=np.ascontiguousarray(positions, dtype=np.float64),
        box=np.ascontiguousarray(complete_cell(cell), dtype=np.float64),
        periodic=np.asarray(pbc, dtype=bool),
        quantities="PS",
    )
    return Candidates(ends, shift)


def settle(
    found: Sequence[Candidates], positions: Sequence[Floats], cells: Sequence[Floats], cutoff: float
) -> tuple[Pairs, Floats]:
    """The second half of a search, for many structures at once: what takes time in small ones is each call of numpy.

    Args:
        found: candidates of S structures.
        positions: (n, 3) Å of each.
        cells: (3, 3) Å of each.
        cutoff: Å, that of the candidates.

    Returns:
        Pairs of all structures, whose atoms are counted through, and their vectors (P, 3) Å. Structure by structure,
        the same to the last bit as what `search` and `vectors` give.
    """
    sizes = [len(one) for one in positions]
    of_pair = np.repeat(np.arange(len(found)), [len(one.shift) for one in found])
    starts = np.cumsum([0, *sizes])[of_pair]
    center, neighbor = (np.concatenate([one.ends[:, k] for one in found]).astype(np.int64) + starts for k in (0, 1))
    shift = np.concatenate([one.shift for one in found]).astype(np.int64)
    rows = cells[0] if len(cells) == 1 else [np.stack([cell[k] for cell in cells])[of_pair] for k in range(3)]
    apart = _vectors(center, neighbor, shift, np.concatenate(positions), rows)
    # Before anything is sorted: a pair on the very edge may have been found from one side only.
    within = np.flatnonzero(_is_within(apart, cutoff))
    if len(within) < len(center):
        center, neighbor, shift, apart = center[within], neighbor[within], shift[within], apart[within]
    order, reverse = _arrange(center, neighbor, shift, sum(sizes))
    return Pairs(center[order], neighbor[order], shift[order], reverse), apart[order]


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
        return self.found(positions, cell, pbc, cutoff)[0]

    def found(self, positions: Floats, cell: Floats, pbc: NDArray[np.bool_], cutoff: float) -> tuple[Pairs, Floats]:
        """The pairs within the cutoff, and their vectors (P, 3) Å."""
        if self._is_stale(positions, cell, pbc, cutoff):
            self._pairs = search(positions, cell, pbc, cutoff + self.skin)
            self._reference = (positions.copy(), np.array(cell, copy=True), np.array(pbc, copy=True), cutoff)
            self.n_searches += 1
        library = native.library(SOURCE)
        if library is not None:
            return _within(library, self._pairs, positions, cell, (cutoff + ROUNDING) ** 2)
        center, neighbor, shift, _ = self._pairs
        apart = _vectors(center, neighbor, shift, positions, cell)
        mask = _is_within(apart, cutoff)
        return keep(self._pairs, mask), apart[mask]

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


class _List(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("center", "neighbor", "shift", "reverse", "vectors")]


def _within(library: ctypes.CDLL, pairs: Pairs, positions: Floats, cell: Floats, limit: float) -> tuple[Pairs, Floats]:
    """Pairs whose squared distance is within the limit, and their vectors: one pass instead of a dozen."""
    n = len(pairs.center)
    positions, cell = (np.ascontiguousarray(one, dtype=np.float64) for one in (positions, cell))
    integers = [np.empty(n, np.int64), np.empty(n, np.int64), np.empty((n, 3), np.int64), np.empty(n, np.int64)]
    place, apart = np.empty(n, np.int64), np.empty((n, 3))
    given = _List(*(one.ctypes.data for one in pairs), None)
    taken = _List(*(one.ctypes.data for one in (*integers, apart)))
    library.within.restype = ctypes.c_int64
    kept = library.within(
        ctypes.c_int64(n),
        ctypes.byref(given),
        *(ctypes.c_void_p(one.ctypes.data) for one in (positions, cell)),
        ctypes.c_double(limit),
        ctypes.byref(taken),
        ctypes.c_void_p(place.ctypes.data),
    )
    return Pairs(*(one[:kept] for one in integers)), apart[:kept]


def _none() -> Pairs:
    empty = np.zeros(0, dtype=np.int64)
    return Pairs(empty, empty, np.zeros((0, 3), dtype=np.int64), empty)


def _vectors(
    center: Integers, neighbor: Integers, shift: Integers, positions: Floats, rows: Floats | Sequence[Floats]
) -> Floats:
    """Pair vectors; the rows of the cell are (3,) each, or (P, 3) where every pair has a cell of its own."""
    # Summed term by term: a matrix product may round a pair and its reverse differently, and must not.
    moved = shift[:, :1] * rows[0] + shift[:, 1:2] * rows[1] + shift[:, 2:] * rows[2]
    return positions[neighbor] - positions[center] + moved


def _is_within(apart: Floats, cutoff: float) -> NDArray[np.bool_]:
    return np.einsum("pa,pa->p", apart, apart) <= (cutoff + ROUNDING) ** 2


def _arrange(center: Integers, neighbor: Integers, shift: Integers, n_atoms: int) -> tuple[Integers, Integers]:
    """The order that sorts a list by (i, j, S), and the position of (j, i, -S) for each pair of the sorted list."""
    reach = int(np.abs(shift).max(initial=0))
    width = 2 * reach + 1
    if n_atoms**2 * width**3 >= 2**63:  # only where atoms lie millions of cells apart
        order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], neighbor, center))
        back = np.lexsort((-shift[:, 2], -shift[:, 1], -shift[:, 0], center, neighbor))
    else:  # one number per pair sorts several times faster than five
        image = ((shift[:, 0] + reach) * width + shift[:, 1] + reach) * width + shift[:, 2] + reach
        order = np.argsort((center * n_atoms + neighbor) * width**3 + image)
        back = np.argsort((neighbor * n_atoms + center) * width**3 + (width**3 - 1 - image))
    # A pair found from one side only would make everything downstream wrong.
    if not (
        np.array_equal(neighbor[back], center[order])
        and np.array_equal(center[back], neighbor[order])
        and np.array_equal(-shift[back], shift[order])
    ):
        raise RuntimeError(
            f"the neighbour search returned {len(center)} pairs of which some have no reverse; "
            "every pair was expected from both sides. Change the cutoff by 1e-6 Å, and report the structure."
        )
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return order, place[back]
