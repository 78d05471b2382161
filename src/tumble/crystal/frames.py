"""The frame in which a rule over rotations and the point group of a structure have most in common."""

from functools import lru_cache
from typing import Final

import numpy as np
import torch
from torch import Tensor

from tumble.crystal.lattice import Floats, Integers
from tumble.crystal.point import PointGroup
from tumble.rotations import Rotations, find

_ANGLE: Final = 1e-3
"""Difference of cosines of angles between axes that are brought onto each other."""

_PROBES: Final = 8


def aligned_frame(rule: Rotations, group: PointGroup) -> Tensor:
    """The rotation A (3, 3) for which the nodes Q Aᵀ leave the fewest distinct orientations of a structure.

    Every pair of axes of the structure is brought onto every pair of the rule, and the first frame is kept in which
    most of the structure's operations map the rule on itself. Nothing here looks at the lab: axes come in the order of
    the operations, which `find_operations` chooses by what they do to the atoms. Where the point group cannot tell two
    frames apart (a polar axis from its opposite, directions about a single axis) the file decides. A structure without
    axes keeps the lab frame.
    """
    kept = right_stabilizer(rule)
    turns = group.matrices.numpy() if group.is_finite else group.sampled(1).numpy()
    axes, targets = _axes(turns), _axes(kept.numpy())
    if len(axes) == 0:
        return torch.eye(3, dtype=torch.float64)
    frames = _frames(axes, turns, targets, kept.numpy())
    moved = frames.transpose(0, 2, 1)[:, None] @ turns @ frames[:, None]
    # For orthogonal matrices |P - Q|² = 6 - 2 tr(P Qᵀ).
    is_kept = (moved.reshape(-1, 9) @ kept.numpy().reshape(-1, 9).T).max(axis=1) > 3 - _ANGLE**2
    return torch.as_tensor(frames[is_kept.reshape(len(frames), -1).sum(axis=1).argmax()])


@lru_cache(maxsize=16)
def right_stabilizer(rule: Rotations) -> Tensor:
    """The turns q (K, 3, 3) for which the nodes Q q are the nodes again, with their weights: of a group all of it."""
    nodes, weights = rule.matrices, rule.weights
    turns = nodes[0].T @ nodes
    for some in (torch.arange(len(nodes))[:: max(1, len(nodes) // _PROBES)], torch.arange(len(nodes))):
        found = find((nodes[some][None] @ turns[:, None]).reshape(-1, 3, 3), nodes).reshape(len(turns), -1)
        turns = turns[((found >= 0) & ((weights[found] - weights[some]).abs() < 1e-9)).all(dim=1)]
    return turns


def _axes(turns: Floats) -> Floats:
    """Unit vectors (K, 3) along the axes of turns, of the highest order first; a mirror has its normal."""
    proper = turns * np.linalg.det(turns)[:, None, None]
    proper = proper[np.trace(proper, axis1=1, axis2=2) < 3 - 1e-6]
    if len(proper) == 0:
        return np.zeros((0, 3))
    # The axis is what R - 1 sends to zero.
    axes = np.linalg.svd(proper - np.eye(3))[2][:, -1]
    same = np.abs(axes @ axes.T) > 1 - _ANGLE**2
    first = np.flatnonzero(same.argmax(axis=1) == np.arange(len(axes)))
    return np.asarray(axes[first[np.argsort(-same[first].sum(axis=1), kind="stable")]])


def _frames(axes: Floats, turns: Floats, targets: Floats, kept: Floats) -> Floats:
    """Rotations (K, 3, 3) that bring two axes of a rule onto two of a structure, or one where there is only one.

    Those that differ by an operation of the structure or of the rule are the same, so that of the axes that operations
    map onto each other one is enough; of the second ones, those that leave the first where it is.
    """
    if len(targets) == 0:
        targets = np.eye(3)[[2, 0]]
    is_free = len(axes) == 1 or len(targets) == 1
    frames = []
    for target in targets[_apart(targets, kept)]:
        others = _seconds(target, targets, kept)
        for first in axes[_apart(axes, turns)]:
            for second in _seconds(first, axes, turns):
                for other in others:
                    for sign in (1.0, -1.0):
                        if is_free or abs(first @ second - sign * (target @ other)) < _ANGLE:
                            row = _rows(first, second)
                            frames += [row.T @ _rows(end * target, end * sign * other) for end in (1.0, -1.0)]
    return np.array(frames)


def _seconds(first: Floats, axes: Floats, turns: Floats) -> Floats:
    """One of each set of other axes that turns which keep the first map onto each other; a normal if there is none."""
    others = axes[np.abs(axes @ first) < 1 - _ANGLE**2]
    if len(others) == 0:
        across = np.cross(first, np.eye(3)[np.argmin(np.round(np.abs(first), 6))])
        return np.asarray(across[None] / np.linalg.norm(across))
    about = turns[np.abs(turns @ first @ first) > 1 - _ANGLE**2]
    others = others[_apart(others, about)]
    return np.asarray(others[np.argsort(np.round(np.abs(others @ first), 3), kind="stable")])


def _apart(axes: Floats, turns: Floats) -> Integers:
    """One index of each set of axes that turns map onto each other."""
    overlap = np.abs(axes @ turns @ axes.T).max(axis=0)
    return np.flatnonzero((overlap > 1 - _ANGLE**2).argmax(axis=1) == np.arange(len(axes)))


def _rows(first: Floats, second: Floats) -> Floats:
    """Orthonormal right-handed rows: along the first vector, in the plane of both, normal to it."""
    normal = np.cross(first, second)
    rows = np.stack([first, np.cross(normal, first), normal])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
