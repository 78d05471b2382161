"""Nodes: the elements of groups, product grids and random turns as plain arrays."""

from typing import Final

import numpy as np
import torch
from scipy.integrate import lebedev_rule
from torch import Tensor

from tumble.rotations.characters import find

# Orders 13, 25 and 27 have negative weights, with which a variance could come out negative.
_LEBEDEV: Final = (3, 5, 7, 9, 11, 15, 17, 19, 21, 23, 29, 31, *range(35, 132, 6))

HIGHEST: Final = _LEBEDEV[-1]
"""The largest degree of a grid."""


def elements(name: str) -> Tensor:
    """All elements (R, 3, 3) of T, O or I: products of generators until nothing new appears, identity first."""
    golden = (1 + 5**0.5) / 2
    cycle = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    half = torch.diag(torch.tensor([-1, -1, 1], dtype=torch.float64))
    quarter = torch.tensor([[0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    fifth = torch.tensor([[golden - 1, -golden, 1], [golden, 1, golden - 1], [-1, golden - 1, golden]]).double() / 2
    generators = torch.stack([cycle, half, *{"T": (), "O": (quarter,), "I": (fifth,)}[name]])
    entries = torch.tensor([0, 0.5, 1, golden / 2, (golden - 1) / 2], dtype=torch.float64)
    entries = torch.cat([entries, -entries[1:]])
    group = torch.eye(3, dtype=torch.float64)[None]
    while True:
        products = (generators[:, None] @ group[None]).reshape(-1, 3, 3)
        # Entries are known numbers: the nearest one replaces each product, so that rounding cannot pile up.
        products = entries[(products[..., None] - entries).abs().argmin(-1)]
        fresh = products[find(products, group) < 0]
        if not len(fresh):
            return group
        group = torch.cat([group, torch.unique(fresh, dim=0)])


def lebedev(degree: int) -> tuple[Tensor, Tensor]:
    """Nodes (R, 3, 3) and weights (R,): a Lebedev rule for one axis times degree + 1 equal angles about it."""
    order = next(o for o in _LEBEDEV if o >= degree)
    points, weights = (torch.as_tensor(np.ascontiguousarray(a)) for a in lebedev_rule(order))
    x, y, z = points.clamp(-1, 1)
    tilt = _about(2, torch.atan2(y, x)) @ _about(1, torch.arccos(z))
    spin = _about(2, torch.arange(degree + 1, dtype=torch.float64) * (2 * torch.pi / (degree + 1)))
    weights = weights.repeat_interleave(degree + 1)
    return (tilt[:, None] @ spin[None]).reshape(-1, 3, 3), weights / weights.sum()


def euler(order: int) -> tuple[Tensor, Tensor]:
    """Nodes (R, 3, 3) and weights (R,): zxz angles, 2 order - 1 uniform ones twice, order Gauss-Legendre cosines."""
    n = 2 * order - 1
    around = torch.arange(n, dtype=torch.float64) * (2 * torch.pi / n)
    cosine, weight = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(order))
    first, second, last = torch.cartesian_prod(around, torch.arccos(cosine), around).unbind(1)
    weights = (weight / weight.sum()).repeat_interleave(n).repeat(n) / n**2
    return _about(2, first) @ _about(0, second) @ _about(2, last), weights / weights.sum()


def haar(n: int, seed: int) -> Tensor:
    """Independent uniformly distributed rotations (n, 3, 3)."""
    return _from_quaternions(torch.as_tensor(np.random.default_rng(seed).standard_normal((n, 4))))


def _about(axis: int, angle: Tensor) -> Tensor:
    """Rotations (R, 3, 3) by angles (R,) about one lab axis."""
    after, last = (axis + 1) % 3, (axis + 2) % 3
    matrices = torch.zeros(len(angle), 3, 3, dtype=torch.float64)
    matrices[:, axis, axis] = 1
    matrices[:, after, after] = matrices[:, last, last] = torch.cos(angle)
    matrices[:, last, after] = torch.sin(angle)
    matrices[:, after, last] = -torch.sin(angle)
    return matrices


def _from_quaternions(quaternions: Tensor) -> Tensor:
    """Rotations (R, 3, 3) of quaternions (R, 4), scalar first, of any length."""
    w, x, y, z = (quaternions / quaternions.norm(dim=1, keepdim=True)).unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


GENERIC: Final = _from_quaternions(torch.tensor([[2.0, 3.0, 5.0, 13.0]], dtype=torch.float64).sqrt())[0]
"""(3, 3) the fixed rotation R0 that takes a crystal and the lab out of the frame of a measuring rule.

Of no symmetry with respect to the lab axes: T, O and I turned by it miss less than 8 % of the variance of the lowest
channel of a structure with the same group in the lab frame, of which unturned they miss all.
"""
