"""Point symmetry of a structure in its own orientation, and what it means for a rule that measures over rotations."""

import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
import spglib
import torch
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from tumble.rotations import Rotations, character_sums, find

SAME_ORIENTATION: Final = 1e-3
"""Largest difference of matrix elements of two turns that count as one (0.06 degrees)."""

RESOLVED: Final = 0.5
"""Smallest share of the lowest anisotropic channel's variance that a measuring rule must capture."""

_HIGHEST: Final = 12
"""Every finite point group has an invariant with 1 <= ℓ <= 6, every infinite one but that of an atom has ℓ = 1 or 2."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PointGroup:
    """The turns x -> x hᵀ that leave a structure unchanged, up to a translation.

    matrices: (H, 3, 3) float64, all of a finite group; of an infinite one, one for each of its connected parts.
    axes:     (K, 3) directions about which any turn is a symmetry: none; 1 if all atoms are on a line; 3 for one atom.
    """

    matrices: Tensor
    axes: Tensor

    @property
    def is_finite(self) -> bool:
        """Whether there are finitely many operations."""
        return len(self.axes) == 0

    def contains(self, matrices: Tensor) -> Tensor:
        """(R,) whether each of (R, 3, 3) orthogonal matrices is an operation, within `SAME_ORIENTATION`."""
        if self.is_finite:
            return torch.ge(find(matrices, self.matrices, SAME_ORIENTATION), 0)
        if len(self.axes) == 3:
            return torch.ones(len(matrices), dtype=torch.bool)
        rest = self.matrices.mT[None] @ matrices[:, None]
        is_about = ((rest @ self.axes[0]) - self.axes[0]).abs().amax(-1) <= SAME_ORIENTATION
        return torch.any(is_about & (torch.linalg.det(rest) > 0), dim=1)

    def rule(self) -> Rotations:
        """The operations as a rule: a mean over it is exactly symmetric under the structure's own point group.

        Raises:
            ValueError: there are infinitely many operations.
        """
        lowest = self.lowest_channel()
        if not self.is_finite or lowest is None:
            raise ValueError(
                "a linear molecule, a straight chain or an isolated atom has infinitely many point operations; a rule "
                'needs finitely many. Use "o3:L" or a polyhedral group.'
            )
        weights = torch.full((len(self.matrices),), 1 / len(self.matrices), dtype=torch.float64)
        return Rotations(self.matrices, weights, lowest - 1, "crystal")

    def _sampled(self, l_max: int) -> Tensor:
        """Operations (H', 3, 3) whose mean is that over the whole group for every ℓ <= l_max: all, if it is finite.

        Args:
            l_max: how many turns about the axis of a linear structure are needed, less one.
        """
        if self.is_finite:
            return self.matrices
        angles = torch.arange(l_max + 1, dtype=torch.float64) * (2 * torch.pi / (l_max + 1))
        turns: Tensor = torch.linalg.matrix_exp(angles[:, None, None] * _cross(self.axes[0]))
        return (self.matrices[:, None] @ turns[None]).reshape(-1, 3, 3)

    def channels(self, l_max: int) -> Tensor:
        """Number of independent invariants of each channel, n_ℓσ = |P|⁻¹ Σ_h χ_ℓσ(h).

        Where it is zero, no potential whatsoever has power in its energy.

        Returns:
            (2, l_max + 1) int64: [0] proper, [1] pseudo.
        """
        if len(self.axes) == 3:
            return torch.eye(2 * (l_max + 1), dtype=torch.int64)[0].reshape(2, -1)
        operations = self._sampled(l_max)
        one = torch.ones(1, 1, dtype=torch.float64)
        each = torch.ones(len(operations), 1, dtype=torch.float64) / len(operations)
        identity = torch.eye(3, dtype=torch.float64)[None]
        return character_sums(identity, one, operations, each, l_max)[..., 0].round().long()

    def lowest_channel(self) -> int | None:
        """The smallest ℓ >= 1 that the energy of this structure can have; None for an isolated atom."""
        allowed = self.channels(_HIGHEST).any(0)[1:].nonzero()
        return int(allowed[0, 0]) + 1 if len(allowed) else None


@dataclass(frozen=True)
class Resolution:
    """What a measuring rule sees of a structure.

    n_distinct: orientations of the structure among the nodes, symmetry-equivalent ones counted once.
    lowest:     the lowest ℓ >= 1 that the structure's symmetry allows; None for an isolated atom.
    captured:   expected variance over the nodes / true variance of a function of that channel; it should be 1.
    """

    n_distinct: int
    lowest: int | None
    captured: float


def resolution(rotations: Rotations, group: PointGroup) -> Resolution:
    """What a rule sees of a structure with this point group."""
    n_distinct, lowest = distinct_orientations(rotations, group), group.lowest_channel()
    if lowest is None or rotations.degree >= lowest:
        return Resolution(n_distinct, lowest, 1.0)
    allowed, operations = group.channels(lowest)[:, lowest], group._sampled(lowest)
    # u(Q h) = u(Q), so two nodes see values that correlate as Σ_h χ(Q_r h Q_s⁻¹); their mean is what no spread shows.
    nodes = (rotations.matrices[:, None] @ operations[None]).reshape(-1, 3, 3)
    weights = (rotations.weights / len(operations)).repeat_interleave(len(operations))[:, None]
    common = character_sums(nodes, weights, rotations.matrices, rotations.weights[:, None], lowest)[:, lowest, 0]
    captured = 1 - common[allowed > 0] / allowed[allowed > 0]
    return Resolution(n_distinct, lowest, max(0.0, float(captured.min())))


def check_resolution(rotations: Rotations, group: PointGroup) -> Resolution:
    """The same, refusing a rule that would report a spread where it cannot see one.

    Raises:
        ValueError: the rule captures less than `RESOLVED` of the lowest channel that the structure allows.
    """
    seen = resolution(rotations, group)
    if seen.captured < RESOLVED:
        remedy = f'"{rotations.name}@generic"' if "@" not in rotations.name else f'"o3:{seen.lowest}@generic"'
        raise ValueError(
            f"the rule {rotations.name} ({len(rotations)} rotations) sees only {seen.n_distinct} distinct orientations "
            f"of this structure and captures {100 * seen.captured:.0f} % of its lowest anisotropic channel, "
            f"l = {seen.lowest}; at least {100 * RESOLVED:.0f} % is needed, or the spread is not measured but missed. "
            f"Turn the rule out of the structure's frame: {remedy}, or Rotations.generic()."
        )
    return seen


def distinct_orientations(rotations: Rotations, group: PointGroup) -> int:
    """How many cosets Q P the nodes of a rule fall into: orientations that the structure's symmetry tells apart."""
    left = rotations.matrices
    count = 0
    while len(left):
        left = left[1:][~group.contains(left[0].T @ left[1:])]
        count += 1
    return count


def point_operations(atoms: Atoms, symprec: float = 1e-3) -> PointGroup:
    """The point group of a structure, in its own orientation.

    Crystals and slabs by spglib, supercells by their primitive cell, so that every turn of the infinite structure is
    found; molecules and wires by matching atoms. For a near-symmetric cell, those of its symmetric average.

    Args:
        symprec: Å, how far an atom may be from where an operation puts it.

    Raises:
        ValueError: symprec is not positive.
        RuntimeError: spglib cannot find the symmetry of this structure at this symprec.

    Source: spglib, Togo, Shinohara, Tanaka, Sci. Technol. Adv. Mater. Meth. 4, 2384822 (2024).
    """
    if symprec <= 0:
        raise ValueError(f"symprec is {symprec} Å; it must be > 0. Use 1e-3 for relaxed structures.")
    n_periodic = int(np.sum(atoms.pbc))
    if n_periodic < 2:
        return _by_matching(atoms, symprec)
    cell = atoms.cell.array.copy()
    if n_periodic == 2:
        free = int(np.flatnonzero(~atoms.pbc)[0])
        normal = np.cross(cell[free - 2], cell[free - 1])
        normal /= np.linalg.norm(normal)
        # Enough vacuum that no image along the normal is within reach; its length carries no symmetry of its own.
        cell[free] = normal * (np.ptp(atoms.positions @ normal) + 20.0)
    turns = _by_spglib(cell, atoms.positions, atoms.numbers, symprec)
    if n_periodic == 2:
        turns = turns[np.abs(np.abs(turns @ normal @ normal) - 1) < 1e-6]
    return PointGroup(torch.as_tensor(turns), torch.zeros(0, 3, dtype=torch.float64))


def _by_spglib(cell: Floats, positions: Floats, numbers: Integers, symprec: float) -> Floats:
    """Cartesian point operations (H, 3, 3) of a 3D crystal."""
    found = _dataset(cell, positions, numbers, symprec)
    # A supercell can hide turns of the crystal that do not map its own cell on itself.
    _, first = np.unique(found.mapping_to_primitive, return_index=True)
    primitive = np.asarray(found.primitive_lattice)
    found = _dataset(primitive, positions[first], numbers[first], symprec)
    turns = np.unique(found.rotations, axis=0).astype(np.float64)
    # In the metric averaged over the operations they are orthogonal to rounding; the cell that has this metric and
    # differs from the given one by a pure strain has its orientation.
    metric = np.mean(turns.transpose(0, 2, 1) @ (primitive @ primitive.T) @ turns, axis=0)
    inverse = np.linalg.inv(primitive)
    values, axes = np.linalg.eigh(inverse @ metric @ inverse.T)
    symmetric = primitive @ (axes * np.sqrt(values)) @ axes.T
    return np.asarray(symmetric.T @ turns @ np.linalg.inv(symmetric.T))


def _dataset(cell: Floats, positions: Floats, numbers: Integers, symprec: float) -> spglib.SpglibDataset:
    error: object = "no answer"
    found = None
    with warnings.catch_warnings():
        # spglib 2.7 and 2.8 announce with every call that errors will become exceptions; both forms are handled here.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            found = spglib.get_symmetry_dataset((cell, positions @ np.linalg.inv(cell), numbers), symprec=symprec)
        except spglib.SpglibError as raised:
            error = raised
    if found is None:
        raise RuntimeError(
            f"spglib found no symmetry of a cell of {len(numbers)} atoms at symprec {symprec:g} Å ({error}). "
            "Check for overlapping atoms, or choose another symprec."
        )
    return found


def _by_matching(atoms: Atoms, symprec: float) -> PointGroup:
    """The point group of a molecule or a wire: turns of two atoms onto like atoms which all others follow."""
    shape = _Shape(atoms, symprec)
    none = torch.zeros(0, 3, dtype=torch.float64)
    _, _, directions = np.linalg.svd(shape.anchors, full_matrices=False)
    spread = np.abs(shape.anchors @ directions.T).max(axis=0)
    inversion = [-np.eye(3)] if shape.match(-np.eye(3)) is not None else []
    if spread[0] <= symprec:
        return PointGroup(torch.as_tensor(np.stack([np.eye(3), -np.eye(3)])), torch.eye(3, dtype=torch.float64))
    if len(spread) < 2 or spread[1] <= symprec:
        axis = directions[0]
        across = np.linalg.svd(axis[None])[2][1]
        parts = [np.eye(3), np.eye(3) - 2 * np.outer(across, across)]
        parts += [part @ minus for minus in inversion for part in parts]
        return PointGroup(torch.as_tensor(np.stack(parts)), torch.as_tensor(axis[None]))
    turns = [turn for candidate in shape.candidates() if (turn := shape.match(candidate)) is not None]
    found = torch.as_tensor(np.stack(turns))
    fresh = [i for i in range(len(found)) if i == 0 or int(find(found[i : i + 1], found[:i], 1e-2)[0]) < 0]
    products = (found[fresh][:, None] @ found[fresh][None]).reshape(-1, 3, 3)
    if bool((find(products, found, 3e-2) < 0).any()):
        # A borderline tolerance accepts an operation but not its square; a smaller one leaves a group in the end.
        return _by_matching(atoms, 0.8 * symprec)
    return PointGroup(found[fresh], none)


class _Shape:
    """Atoms of a molecule, or of a wire that repeats along one axis, ready to be matched with their turned copy."""

    def __init__(self, atoms: Atoms, symprec: float) -> None:
        self.symprec = symprec
        self.numbers = atoms.numbers
        centered = atoms.positions - atoms.positions.mean(axis=0)
        self.axis = np.zeros(3)
        self.period = 0.0
        if atoms.pbc.any():
            repeat = atoms.cell.array[atoms.pbc][0]
            self.period = float(np.linalg.norm(repeat))
            self.axis = repeat / self.period
        self.along = centered @ self.axis
        self.across = centered - np.outer(self.along, self.axis)
        # The axis of a wire is one more thing that a turn must map onto itself or its opposite.
        ends = [self.axis, -self.axis] if self.period else []
        self.anchors = np.array([*self.across, *ends])
        kinds = np.array([*self.numbers, *(0 for _ in ends)])
        self.labels = _classes(np.linalg.norm(self.anchors, axis=1), kinds, symprec)
        self.tree = cKDTree(self._embed(self.across, self.along))

    def candidates(self) -> list[Floats]:
        """Orthogonal matrices that map a frame of two anchors onto like anchors."""
        lengths = np.linalg.norm(self.anchors, axis=1)
        rarity = np.bincount(self.labels)[self.labels]
        usable = lengths > max(0.1 * lengths.max(), 2 * self.symprec)
        first = len(self.anchors) - 2 if self.period else int(np.argmin(np.where(usable, rarity, np.inf)))
        sine = np.linalg.norm(np.cross(self.anchors, self.anchors[first]), axis=1) / (lengths * lengths[first] + 1e-300)
        usable &= sine >= min(0.3, 0.999 * sine[usable].max())
        second = int(np.argmin(np.where(usable, rarity, np.inf)))
        frame = _frame(self.anchors[first], self.anchors[second])
        overlap = self.anchors[first] @ self.anchors[second]
        area = np.linalg.norm(np.cross(self.anchors[first], self.anchors[second]))
        slack = 2 * self.symprec * (lengths[first] + lengths[second])
        turns = []
        for i in np.flatnonzero(self.labels == self.labels[first]):
            like = np.flatnonzero(self.labels == self.labels[second])
            is_like = np.abs(self.anchors[like] @ self.anchors[i] - overlap) <= slack
            is_apart = np.linalg.norm(np.cross(self.anchors[like], self.anchors[i]), axis=1) > area / 2
            for j in like[is_like & is_apart]:
                onto = _frame(self.anchors[i], self.anchors[j])
                turns += [onto.T @ frame, onto.T @ np.diag([1.0, 1.0, -1.0]) @ frame]
        return turns

    def match(self, turn: Floats) -> Floats | None:
        """The orthogonal matrix near a turn that maps atoms best onto like atoms; None if one is off by > symprec."""
        across, along = self.across @ turn.T, self.along * (self.axis @ turn @ self.axis)
        shifts = [0.0]
        if self.period:
            rarest = np.flatnonzero(self.labels == np.argmin(_counts(self.labels[: len(self.numbers)])))
            shifts = list(self.along[rarest] - along[rarest[0]])
        for shift in shifts:
            # Loose first, because two atoms fix the frame only so well; then strict, with the turn that fits all.
            distance, image = map(np.asarray, self.tree.query(self._embed(across, along + shift)))
            if distance.max() > max(0.3, 2 * self.symprec) or not self._is_like(image):
                continue
            fitted = self._fit(image, turn)
            better = self._embed(self.across @ fitted.T, along + shift + np.mean(self._lag(along + shift, image)))
            if np.linalg.norm(better - self.tree.data[image], axis=1).max() <= self.symprec:
                return fitted
        return None

    def _is_like(self, image: Integers) -> bool:
        return len(np.unique(image)) == len(image) and bool((self.numbers[image] == self.numbers).all())

    def _fit(self, image: Integers, turn: Floats) -> Floats:
        rows = np.vstack([self.across, self.axis * self.period])
        onto = np.vstack([self.across[image], self.axis * self.period * np.sign(self.axis @ turn @ self.axis)])
        left, _, right = np.linalg.svd(onto.T @ rows)
        handed = np.sign(np.linalg.det(turn)) * np.linalg.det(left @ right)
        return np.asarray(left @ np.diag([1.0, 1.0, np.sign(handed)]) @ right)

    def _lag(self, along: Floats, image: Integers) -> Floats:
        if not self.period:
            return np.zeros(1)
        lag = self.along[image] - along
        return np.asarray(lag - self.period * np.round(lag / self.period))

    def _embed(self, across: Floats, along: Floats) -> Floats:
        """Coordinates in which the periodic image is the same point: a repeated axis becomes a circle of its length."""
        if not self.period:
            return across
        radius = self.period / (2 * np.pi)
        return np.column_stack([across, radius * np.cos(along / radius), radius * np.sin(along / radius)])


def _classes(lengths: Floats, kinds: Integers, tolerance: float) -> Integers:
    """One label for each set of anchors of one kind whose lengths run on without a gap."""
    order = np.lexsort((lengths, kinds))
    is_new = (np.diff(kinds[order]) != 0) | (np.diff(lengths[order]) > tolerance)
    labels = np.empty(len(order), dtype=np.int64)
    labels[order] = np.concatenate([[0], np.cumsum(is_new)])
    return labels


def _counts(labels: Integers) -> Floats:
    counts = np.bincount(labels).astype(np.float64)
    return np.where(counts > 0, counts, np.inf)


def _frame(first: Floats, second: Floats) -> Floats:
    """Orthonormal rows: along the first vector, in the plane of both, normal to it."""
    normal = np.cross(first, second)
    rows = np.stack([first, np.cross(normal, first), normal])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _cross(axis: Tensor) -> Tensor:
    """The matrix that turns a vector about an axis infinitesimally."""
    x, y, z = axis.tolist()
    return torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
