"""Neighbours of many structures that move side by side: one Verlet list each, all of them filtered at once."""

from typing import final

import numpy as np
import torch
from ase.geometry import complete_cell
from numpy.typing import NDArray
from torch import Tensor

from tumble import neighbors
from tumble.batch import MINIMUM_DISTANCE, Batch
from tumble.neighbors import ROUNDING, Floats, Integers, Pairs

WORST_STRETCH = 0.5
"""Change of a cell, as a norm, beyond which its structure is searched again without further thought."""


@final
class Verlets:
    """The batch of some structures whose atoms and cells move, from one moment to the next.

    Each structure is searched to the cutoff plus a skin, and searched again, alone, as soon as two of its atoms could
    have crossed the skin together. Pairs and vectors are those of a new search. Atoms that an engine has wrapped into
    the cell are taken back to the side where they were searched, so that wrapping costs no search.
    """

    def __init__(self, like: Batch, cutoff: float, skin: float = 1.0) -> None:
        """What does not change.

        Args:
            like: S structures; its numbers, periodicities, charges, dtype and device are taken, its pairs are not.
            cutoff: Å.
            skin: Å beyond the cutoff; larger means fewer searches and more pairs to filter.
        """
        self.cutoff, self.skin = cutoff, skin
        self.n_searches = 0
        self._like, self._batch = like, like
        self._pbc: NDArray[np.bool_] = like.pbc.cpu().numpy()
        self._structure: Integers = like.structure.cpu().numpy()
        self._starts = np.searchsorted(self._structure, np.arange(like.n_structures + 1))
        self._asked: tuple[Floats, Floats] | None = None
        self._found: list[Pairs | None] = [None] * like.n_structures
        self._cells: Floats = np.zeros((like.n_structures, 3, 3))  # the last ones, and
        self._whole = self._cells  # the same with a vector in every direction
        self._positions: Floats = like.positions.cpu().double().numpy().copy()  # where atoms were searched,
        self._searched: Floats = np.tile(np.eye(3), (like.n_structures, 1, 1))  # and in which whole cells
        self._pairs: Pairs | None = None
        self._moved: Floats | None = None

    def __call__(self, positions: Floats, cells: Floats) -> Batch:
        """The structures as they are now.

        Args:
            positions: (N, 3) Å, wrapped or not.
            cells: (S, 3, 3) Å, rows are lattice vectors.

        Raises:
            ValueError: NaN or infinite positions or cells, overlapping atoms.
        """
        if self._asked is not None and all(map(np.array_equal, self._asked, (positions, cells))):
            return self._batch
        self._check(positions, cells)
        self._complete(cells)
        here = self._brought_back(positions)
        stale = np.flatnonzero(self._is_stale(here))
        if len(stale):
            self._search(stale, here)
        self._batch = self._within(here)
        self._asked = positions.copy(), cells.copy()
        return self._batch

    def _check(self, positions: Floats, cells: Floats) -> None:
        if np.isfinite(positions).all() and np.isfinite(cells).all():
            return
        bad = {*self._structure[~np.isfinite(positions).all(1)], *np.flatnonzero(~np.isfinite(cells).all((1, 2)))}
        raise ValueError(
            f"{len(bad)} of {len(cells)} structures have NaN or infinite positions or cells, the first is structure "
            f"{min(bad)}; finite numbers were expected. Take shorter time steps, or start from where forces are small."
        )

    def _complete(self, cells: Floats) -> None:
        """Take these cells as the present ones."""
        if self._asked is not None and np.array_equal(cells, self._cells):
            return
        self._cells, self._moved = cells.copy(), None
        pairs = zip(cells, self._pbc, strict=True)
        self._whole = np.stack([complete_cell(cell) if pbc.any() else np.eye(3) for cell, pbc in pairs])

    def _brought_back(self, positions: Floats) -> Floats:
        """Positions on the side of the cell where they were searched."""
        if not self._pbc.any():
            return positions
        travelled = np.einsum("na,nab->nb", positions - self._positions, np.linalg.inv(self._whole)[self._structure])
        jumps = np.where(self._pbc[self._structure], np.round(travelled), 0.0)
        return positions - np.einsum("na,nab->nb", jumps, self._whole[self._structure]) if jumps.any() else positions

    def _is_stale(self, positions: Floats) -> NDArray[np.bool_]:
        """Whether a structure must be searched again, (S,); `tumble.neighbors.Verlet` gives the reasons."""
        unknown = np.array([one is None for one in self._found])
        start, deformation = self._positions, np.zeros(len(unknown))
        if not np.array_equal(self._whole, self._searched):
            stretch = np.linalg.solve(self._searched, self._whole)
            deformation = np.linalg.norm(stretch - np.eye(3), 2, (1, 2))
            start = np.einsum("na,nab->nb", start, stretch[self._structure])
        travelled = np.sqrt(np.maximum.reduceat(np.square(positions - start).sum(1), self._starts[:-1]))
        is_far = 2 * travelled + deformation * (self.cutoff + self.skin) > self.skin
        return np.asarray(unknown | is_far | (deformation > WORST_STRETCH))

    def _search(self, stale: Integers, positions: Floats) -> None:
        """Search some structures, all of them in one go where numpy has the word."""
        reach, spans = self.cutoff + self.skin, [slice(*self._starts[s : s + 2]) for s in stale]
        here, cells = [positions[span] for span in spans], [self._cells[s] for s in stale]
        asked = zip(here, cells, self._repeats(positions)[stale], strict=True)
        found = [neighbors.candidates(*one, reach) for one in asked] if self.cutoff > 0 else []
        pairs = neighbors.settle(found, here, cells, reach)[0] if found else _no_pairs()
        atoms = np.cumsum([0, *map(len, here)])
        ends = np.searchsorted(pairs.center, atoms)
        for s, span, a, p, q in zip(stale, spans, atoms, ends, ends[1:], strict=False):
            center, neighbor, shift, reverse = (column[p:q] for column in pairs)
            self._found[s] = Pairs(center - a, neighbor - a, shift, reverse - p)
            self._positions[span], self._searched[s] = positions[span], self._whole[s]
        self.n_searches += len(stale)
        self._pairs = self._moved = None

    def _repeats(self, positions: Floats) -> NDArray[np.bool_]:
        """Directions (S, 3) in which images may be within reach: a molecule in a large box has none, and costs less."""
        inverse = np.linalg.inv(self._whole)
        parts = np.einsum("na,nab->nb", positions, inverse[self._structure])
        extent = np.maximum.reduceat(parts, self._starts[:-1]) - np.minimum.reduceat(parts, self._starts[:-1])
        reach = (self.cutoff + self.skin + ROUNDING) * np.linalg.norm(inverse, axis=1)
        return np.asarray(self._pbc & (extent + reach > 1 - ROUNDING))

    def _joined(self) -> Pairs:
        """Pairs of all structures, their atoms counted through."""
        if self._pairs is None:
            center, neighbor, shift, reverse = zip(*(one for one in self._found if one is not None), strict=True)
            sizes = [len(one) for one in center]
            atoms, pairs = np.repeat(self._starts[:-1], sizes), np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
            joined = (np.concatenate(column) for column in (center, neighbor, shift, reverse))
            self._pairs = Pairs(next(joined) + atoms, next(joined) + atoms, next(joined), next(joined) + pairs)
        return self._pairs

    def _within(self, positions: Floats) -> Batch:
        pairs = self._joined()
        if self._moved is None:
            rows, shift = self._cells[self._structure[pairs.center]], pairs.shift
            # Summed term by term: a pair and its reverse must be rounded alike.
            self._moved = shift[:, :1] * rows[:, 0] + shift[:, 1:2] * rows[:, 1] + shift[:, 2:] * rows[:, 2]
        apart = positions[pairs.neighbor] - positions[pairs.center] + self._moved
        distances2 = np.einsum("pa,pa->p", apart, apart)
        mask = distances2 <= (self.cutoff + ROUNDING) ** 2
        if len(distances2) and distances2.min() < MINIMUM_DISTANCE**2:
            self._refuse(pairs, distances2)
        return self._assembled(positions, neighbors.keep(pairs, mask), apart[mask])

    def _refuse(self, pairs: Pairs, distances2: Floats) -> None:
        p = int(distances2.argmin())
        s = int(self._structure[pairs.center[p]])
        raise ValueError(
            f"atoms {pairs.center[p] - self._starts[s]} and {pairs.neighbor[p] - self._starts[s]} of structure {s} are "
            f"{np.sqrt(distances2[p]):.4f} Å apart; at least {MINIMUM_DISTANCE} Å was expected. Take shorter time "
            "steps, or check the cell and the periodicity."
        )

    def _assembled(self, positions: Floats, pairs: Pairs, apart: Floats) -> Batch:
        like = self._like

        def floats(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float64).to(like.positions)

        center, neighbor, reverse = (
            torch.from_numpy(column).to(like.center.device) for column in (pairs.center, pairs.neighbor, pairs.reverse)
        )
        return like._replace(
            positions=floats(positions),
            cell=floats(self._cells),
            center=center,
            neighbor=neighbor,
            shift=floats(pairs.shift),
            reverse=reverse,
            vectors=floats(apart),
        )


def _no_pairs() -> Pairs:
    none = np.zeros(0, dtype=np.int64)
    return Pairs(none, none, np.zeros((0, 3), dtype=np.int64), none)
