"""Means over the operations of a space group: what symmetry allows of forces, stress, force constants."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tumble.crystal.lattice import Floats, Integers, remainders
from tumble.rotations import Rotations

if TYPE_CHECKING:
    from tumble.crystal.space import SpaceGroup


def checked(values: Floats, shape: tuple[int, ...], name: str) -> Floats:
    """In float64 and of the expected shape.

    Raises:
        ValueError: another shape.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(
            f"{name} to be projected have the shape {array.shape}; {shape} was expected. Give those of the structure "
            "whose space group this is."
        )
    return array


def forces(group: "SpaceGroup", given: Floats) -> Floats:
    """Mean of F_g(i) h, over translations first: O(N), not one term for each of H translations N operations."""
    first, classes = np.unique(group.classes, return_index=True)[1], group.classes
    means = np.stack([np.bincount(classes, column) for column in given.T], axis=1) / group.n_translations
    turns, which = _sampled(group, 1)
    images = classes[group.images[which][:, first]]
    return np.einsum("hcj,hjk->ck", means[images], turns)[classes] / len(turns)


def stress(group: "SpaceGroup", given: Floats) -> Floats:
    """Mean of hᵀ S h."""
    turns, _ = _sampled(group, 2)
    return np.asarray((turns.transpose(0, 2, 1) @ given @ turns).mean(axis=0))


def constants(group: "SpaceGroup", given: Floats) -> Floats:
    """Mean of force constants of any rank over the operations of the supercell, translations included."""
    rank = given.ndim // 2
    translated = _over_translations(group, given, rank)
    turns, which = _sampled(group, rank)
    kept = group.is_of_supercell[which]
    n = group.n_atoms
    flat = translated.reshape(n**rank, 3**rank)
    mean = np.zeros_like(flat)
    for turn, operation in zip(turns[kept], which[kept], strict=True):
        images = number = group.images[operation]
        every = turn
        for _ in range(1, rank):
            number = (number[:, None] * n + images).reshape(-1)
            every = np.kron(every, turn)
        mean += flat[number] @ every
    return (mean / np.count_nonzero(kept)).reshape(given.shape)


def _over_translations(group: "SpaceGroup", given: Floats, rank: int) -> Floats:
    """The mean over pairs (triples) that a pure translation maps onto each other."""
    if group.n_translations == 1:
        return given
    n, n_classes, n_cells = group.n_atoms, int(group.classes.max()) + 1, group.n_translations
    apart = remainders(group.places[None] - group.places[:, None], group.supercell)
    number = group.classes.reshape(-1, *(1,) * (rank - 1))
    for k in range(1, rank):
        others = [n if axis == k else 1 for axis in range(1, rank)]
        number = (number * n_classes + group.classes.reshape(1, *others)) * n_cells + apart.reshape(n, *others)
    labels = number.reshape(-1)
    count = np.bincount(labels)
    flat = given.reshape(len(labels), -1)
    means = [(np.bincount(labels, column) / np.maximum(count, 1))[labels] for column in flat.T]
    return np.stack(means, axis=1).reshape(given.shape)


def _sampled(group: "SpaceGroup", rank: int) -> tuple[Floats, Integers]:
    """Turns (H', 3, 3) whose mean over tensors of a rank is that over the whole group, and the operation each is of."""
    each = np.arange(group.n_operations)
    if len(group.axes) == 0:
        return group.turns, each
    if len(group.axes) == 3:
        full = Rotations.group("Ih").matrices.numpy()
        return full, np.zeros(len(full), dtype=np.int64)
    angles = np.arange(rank + 1) * (2 * np.pi / (rank + 1))
    about = _about(group.axes[0], angles)
    return (group.turns[:, None] @ about).reshape(-1, 3, 3), np.repeat(each, len(about))


def _about(axis: Floats, angles: NDArray[np.floating]) -> Floats:
    """Turns (K, 3, 3) about a unit vector.

    Source: O. Rodrigues, J. Math. Pures Appl. 5, 380 (1840).
    """
    cross = np.cross(np.eye(3), -axis)
    sine, rest = np.sin(angles)[:, None, None], 1 - np.cos(angles)[:, None, None]
    return np.asarray(np.eye(3) + sine * cross + rest * (cross @ cross))
