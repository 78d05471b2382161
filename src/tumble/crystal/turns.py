"""Turns that may be symmetries: those of the lattice of a crystal, those of a molecule's or wire's outermost atoms."""

import numpy as np

from tumble.crystal.lattice import Floats, Integers, automorphisms
from tumble.crystal.sites import Sites

LOOSE_A = 0.3
"""Å: how far two atoms of a molecule may mislead about where a turn puts the others; what fits all is then strict."""

Candidates = tuple[Floats, Floats]
"""Operations f -> f W + τ: W (K, 3, 3), τ (K, 3)."""


def of_lattice(sites: Sites, reach: float) -> Candidates:
    """Candidates of a crystal or a layer: turns of its primitive lattice, an atom put on each that it may land on."""
    kept = automorphisms(sites.rows[: sites.d], reach)
    turns = np.zeros((len(kept), 3, 3))
    turns[:, : sites.d, : sites.d] = kept
    if sites.d == 2:
        turns = np.concatenate([turns, turns])
        turns[:, 2, 2] = np.repeat([1.0, -1.0], len(kept))
    first, like = sites.reference(reach)
    return _landing(sites, turns, first, like)


def of_line(sites: Sites, axis: Floats | None, reach: float) -> Candidates:
    """Candidates where all atoms are on an axis, or in one point: one of each connected part of an infinite group.

    Args:
        axis: (3,) of a molecule, a unit vector; None for a wire, whose axis is its first row, and for an atom.
    """
    one = np.eye(3)
    if sites.d == 0 and axis is None:
        return np.stack([one, -one]), np.zeros((2, 3))
    across = np.array([0.0, 1.0, 0.0]) if axis is None else np.linalg.svd(axis[None])[2][1]
    mirror = one - 2 * np.outer(across, across)
    turns = np.stack([one, mirror, -one, -mirror])
    if sites.d == 0:
        return turns, np.zeros((4, 3))
    return _landing(sites, turns, *sites.reference(reach))


def of_wire(sites: Sites, reach: float) -> Candidates:
    """Candidates of a wire: the rarest atom off the axis put on each that is as far from it, turned or mirrored."""
    across = sites.places[:, 1:]
    radii = np.linalg.norm(across, axis=1)
    first, like = _rarest(radii, sites.kinds, _is_far(radii, reach), reach)
    angles = np.arctan2(across[:, 1], across[:, 0])
    turns, shifts = [], []
    for image in like:
        for hand in (1.0, -1.0):
            angle = angles[image] - hand * angles[first]
            cosine, sine = np.cos(angle), np.sin(angle)
            for along in (1.0, -1.0):
                # Row vectors: the transpose of the turn that acts on columns.
                turns.append([[along, 0, 0], [0, cosine, sine], [0, -hand * sine, hand * cosine]])
                shifts.append([sites.places[image, 0] - along * sites.places[first, 0], 0, 0])
    return np.array(turns), np.array(shifts)


def of_molecule(sites: Sites, reach: float) -> Candidates:
    """Candidates of a molecule: its two rarest atoms put on all pairs that have their distances and their angle."""
    x = sites.places
    lengths = np.linalg.norm(x, axis=1)
    usable = _is_far(lengths, reach)
    first, like = _rarest(lengths, sites.kinds, usable, reach)
    sine = np.linalg.norm(np.cross(x, x[first]), axis=1) / (lengths * lengths[first] + 1e-300)
    second, others = _rarest(lengths, sites.kinds, usable & (sine >= min(0.3, 0.999 * sine[usable].max())), reach)
    frame, overlap = _frame(x[first], x[second]), x[first] @ x[second]
    area = np.linalg.norm(np.cross(x[first], x[second]))
    slack = 2 * reach * (lengths[first] + lengths[second])
    turns = []
    for i in like:
        is_like = np.abs(x[others] @ x[i] - overlap) <= slack
        is_like &= np.linalg.norm(np.cross(x[others], x[i]), axis=1) > area / 2
        for j in others[is_like]:
            onto = _frame(x[i], x[j])
            turns += [frame.T @ onto, frame.T @ np.diag([1.0, 1.0, -1.0]) @ onto]
    return np.array(turns), np.zeros((len(turns), 3))


def nearest_turns(turns: Floats, places: Floats, onto: Floats) -> Floats:
    """The orthogonal matrices W for which places @ W are closest to others, of the determinants of given ones.

    Args:
        turns: (K, m, m) whose determinants to keep.
        places: (n, m).
        onto: (K, n, m).

    Source: W. Kabsch, Acta Cryst. A 32, 922 (1976).
    """
    left, _, right = np.linalg.svd(np.einsum("ni,knj->kij", places, onto))
    signs = np.ones(left.shape[:-1])
    signs[:, -1] = np.sign(np.linalg.det(turns)) * np.sign(np.linalg.det(left @ right))
    return np.asarray((left * signs[:, None]) @ right)


def _landing(sites: Sites, turns: Floats, first: int, like: Integers) -> Candidates:
    """Every turn with every shift that puts one atom on one like it; none across what does not repeat."""
    shifts = sites.places[like] - (sites.places[first] @ turns)[:, None]
    shifts = np.where(sites.repeats, shifts, 0.0).reshape(-1, 3)
    return np.repeat(turns, len(like), axis=0), shifts


def _rarest(lengths: Floats, kinds: Integers, usable: np.ndarray, reach: float) -> tuple[int, Integers]:
    """The usable atom with the fewest of its kind at its distance, and those."""
    best, choices = -1, np.arange(len(lengths) + 1)
    for kind in np.unique(kinds[usable]):
        of_kind = np.flatnonzero(kinds == kind)
        of_kind = of_kind[np.argsort(lengths[of_kind], kind="stable")]
        ordered = lengths[of_kind]
        low = np.searchsorted(ordered, ordered - 2 * reach)
        high = np.searchsorted(ordered, ordered + 2 * reach, side="right")
        count = np.where(usable[of_kind], high - low, len(lengths) + 1)
        least = int(np.argmin(count))
        if count[least] < len(choices):
            best, choices = int(of_kind[least]), of_kind[low[least] : high[least]]
    return best, choices


def _is_far(lengths: Floats, reach: float) -> np.ndarray:
    """Which atoms are so far from the center that a miss turns them little."""
    return np.asarray(lengths > max(0.1 * lengths.max(), min(2 * reach, 0.5 * lengths.max())))


def _frame(first: Floats, second: Floats) -> Floats:
    """Orthonormal rows: along the first vector, in the plane of both, normal to it."""
    normal = np.cross(first, second)
    rows = np.stack([first, np.cross(normal, first), normal])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
