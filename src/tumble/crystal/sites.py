"""Sites: which atom is where, and which atoms could be images of each other at all."""

from functools import cached_property
from typing import Final

import numpy as np
from scipy.spatial import cKDTree

from tumble.crystal.lattice import Floats, Integers

FEW: Final = 12
"""Like atoms that are all tried as images of one, without a look at what is around them."""

_AT_ONCE: Final = 1 << 18
_SMALL: Final = 1 << 11
_NEIGHBORS: Final = 8
_PROBES: Final = (1, 4, 16)


class Sites:
    """Atoms in coordinates along three rows, the first `d` of which repeat.

    places: (n, 3) coordinates; x = places @ rows.
    kinds:  (n,) 0, 1, ...: atoms of different kinds are never images of each other.
    rows:   (3, 3) Å.
    """

    def __init__(self, places: Floats, kinds: Integers, rows: Floats, d: int) -> None:
        self.places, self.kinds, self.rows, self.d = places, kinds, rows, d
        self.repeats = np.arange(3) < d

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def _scale(self) -> Floats:
        """Lengths of rows: coordinates times these are distances along the rows, to which the tree can be boxed."""
        return np.linalg.norm(self.rows, axis=1)

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self._boxed(self.places), boxsize=np.where(self.repeats, self._scale, 0.0))

    @cached_property
    def _probes(self) -> Integers:
        return np.random.default_rng(0).permutation(len(self))[: sum(_PROBES)]

    def _boxed(self, places: Floats) -> Floats:
        wrapped = np.where(self.repeats, places - np.floor(places), places) * self._scale
        # A coordinate just below zero can be rounded to the upper end of the box, which is not in it.
        return np.where(self.repeats & (wrapped >= self._scale), 0.0, wrapped)

    def wrapped(self, steps: Floats) -> Floats:
        """Steps to the nearest copy in the box of repeating rows."""
        return np.where(self.repeats, steps - np.round(steps), steps)

    def lengths(self, steps: Floats) -> Floats:
        """Å."""
        vectors = steps @ self.rows
        return np.sqrt(np.einsum("...i,...i->...", vectors, vectors))

    @cached_property
    def _stretch(self) -> float:
        """By how much two points can be farther apart along the rows, as the tree measures, than they are in space."""
        return 1.001 * float(np.linalg.norm(np.linalg.inv(self.rows) * self._scale, 2))

    def nearest(self, places: Floats, reach: float) -> Integers:
        """Index of the atom nearest to each of places (..., 3); any where none is within reach."""
        flat = places.reshape(-1, 3)
        if len(flat) * len(self) <= _SMALL << 4 or len(self) <= 8:
            steps = self.wrapped(flat[:, None] - self.places)
            vectors = steps @ self.rows
            found = np.einsum("ijk,ijk->ij", vectors, vectors).argmin(axis=1)
        else:
            found = self._tree.query(self._boxed(flat), distance_upper_bound=self._stretch * reach)[1] % len(self)
        return np.asarray(found, dtype=np.int64).reshape(places.shape[:-1])

    def landed(
        self, turns: Floats, shifts: Floats, reach: float, atoms: Integers | None = None
    ) -> tuple[Integers, Floats, Floats]:
        """Where operations f -> f W + τ put atoms.

        Args:
            turns: (K, 3, 3) W.
            shifts: (K, 3) τ.
            reach: Å, beyond which it does not matter which atom is nearest.
            atoms: (m,) which; by default all.

        Returns:
            (K, m) the nearest atom, (K, m, 3) how far short of it, (K, m) the same in Å, inf where its kind is another.
        """
        chosen = slice(None) if atoms is None else atoms
        places = self.places[chosen] @ turns + shifts[:, None]
        images = self.nearest(places, reach)
        misses = self.wrapped(self.places[images] - places)
        distances = np.where(self.kinds[images] == self.kinds[chosen], self.lengths(misses), np.inf)
        return images, misses, distances

    def probed(self, turns: Floats, shifts: Floats, reach: float, atoms: Integers | None = None) -> Integers:
        """Indices of operations that put a few atoms on like ones: first one atom, then more, for those that are left.

        Args:
            reach: Å.
            atoms: to ask about; by default some of all.
        """
        alive = np.arange(len(turns))
        if atoms is None:
            if len(turns) * len(self) <= _SMALL:
                return alive
            steps = np.split(self._probes, np.cumsum(_PROBES[:-1]))
        else:
            steps = [atoms]
        for probes in steps:
            if len(alive) and len(probes):
                alive = alive[(self.landed(turns[alive], shifts[alive], reach, probes)[2] <= reach).all(axis=1)]
        return alive

    def fitted(self, turns: Floats, shifts: Floats, reach: float) -> tuple[Integers, Floats, Floats, Integers]:
        """Operations with the shift that fits all atoms best.

        Returns:
            images (K, n), shifts (K, 3), the farthest miss (K,) Å, inf if it is no operation at all; and (K,) an atom
            on which each that is none fails.
        """
        images, misses, distances = self.landed(turns, shifts, reach)
        lost = distances.max(axis=1) > reach
        lost |= (np.sort(images, axis=1) != np.arange(len(self))).any(axis=1)
        change = misses.mean(axis=1)
        worst = np.where(lost, np.inf, self.lengths(misses - change[:, None]).max(axis=1))
        return images, shifts + change, worst, distances.argmax(axis=1)

    def overlap(self, tolerance: float) -> tuple[int, int, float] | None:
        """Two atoms within a tolerance of each other, and their distance in Å; None if there are none."""
        if len(self) ** 2 <= _AT_ONCE:
            apart = self.lengths(self.wrapped(self.places[:, None] - self.places))
            np.fill_diagonal(apart, np.inf)
            i, j = divmod(int(apart.argmin()), len(self))
            return (i, j, float(apart[i, j])) if apart[i, j] <= tolerance else None
        pairs = self._tree.query_pairs(self._stretch * tolerance, output_type="ndarray")
        if not len(pairs):
            return None
        apart = self.lengths(self.wrapped(self.places[pairs[:, 0]] - self.places[pairs[:, 1]]))
        least = int(apart.argmin())
        i, j = (int(atom) for atom in pairs[least])
        return (i, j, float(apart[least])) if apart[least] <= tolerance else None

    def reference(self, reach: float) -> tuple[int, Integers]:
        """An atom that few others could be an image of, and those (itself among them)."""
        counts = np.bincount(self.kinds)
        rarest = int(np.argmin(np.where(counts > 0, counts, len(self) + 1)))
        like = np.flatnonzero(self.kinds == rarest)
        if len(like) <= FEW:
            return int(like[0]), like
        around, slack = self._surroundings(reach)
        bins = np.floor(around / slack).astype(np.int64)
        labels = bins @ np.random.default_rng(0).integers(1 << 40, size=bins.shape[1]) + self.kinds
        _, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        best, choices = int(like[0]), like
        firsts = np.unique(inverse, return_index=True)[1]
        for first in firsts[np.argsort(sizes, kind="stable")[:16]]:
            same = self.kinds == self.kinds[first]
            same &= (np.abs(around - around[first]) <= slack).all(axis=1)
            if np.count_nonzero(same) < len(choices):
                best, choices = int(first), np.flatnonzero(same)
        return best, choices

    def _surroundings(self, reach: float) -> tuple[Floats, float]:
        """Distances (n, F) Å of the nearest atoms of the rarest few kinds, and by how much those of images may differ.

        Sorted distances, cut off at a radius, change by no more than any one distance: a fingerprint without jumps.
        """
        extent = np.where(self.repeats, 1.0, np.ptp(self.places, axis=0) + 3.0)
        volume = abs(np.linalg.det(self.rows * extent[:, None]))
        radius = 1.6 * float(np.cbrt(volume / len(self)))
        places, kinds = self._padded(radius)
        columns = []
        for kind in np.argsort(np.bincount(self.kinds, minlength=1))[:3]:
            tree = cKDTree(places[kinds == kind] @ self.rows)
            if tree.n:
                points = self.places - np.where(self.repeats, np.floor(self.places), 0.0)
                near = tree.query(points @ self.rows, k=_NEIGHBORS + 1, distance_upper_bound=radius)[0]
                columns.append(np.minimum(near, radius))
        # Two misses, and what a lattice strained by one miss in its shortest vector makes of the radius.
        return np.hstack(columns), reach * (2.01 + 2 * radius / float(self._scale[: self.d].min()))

    def _padded(self, radius: float) -> tuple[Floats, Integers]:
        """The atoms of the box and, in every repeating direction, copies of those within a radius of it."""
        places, kinds = self.places - np.where(self.repeats, np.floor(self.places), 0.0), self.kinds
        margins = radius * np.linalg.norm(np.linalg.inv(self.rows), axis=0)
        for axis in range(self.d):
            parts = [(places, kinds)]
            for step in range(1, int(margins[axis]) + 2):
                for sign in (step, -step):
                    moved = places + sign * np.eye(3)[axis]
                    near = (moved[:, axis] > -margins[axis]) & (moved[:, axis] < 1 + margins[axis])
                    parts.append((moved[near], kinds[near]))
            places, kinds = np.vstack([p for p, _ in parts]), np.concatenate([k for _, k in parts])
        return places, kinds
