"""Elastic tensors as 6 × 6 matrices in the order of Voigt: turns, what a point group allows, their moduli.

Rows are the stress xx yy zz yz xz xy, columns the strain xx yy zz 2yz 2xz 2xy.
"""

from itertools import combinations_with_replacement, product
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PAIRS: Final = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""Directions of each component, in the order of Voigt."""

NAMES: Final = ("xx", "yy", "zz", "yz", "xz", "xy")

_SCALE: Final = np.array([1.0, 1.0, 1.0, *[np.sqrt(2)] * 3])
"""From the order of Voigt to components along orthonormal strains, those of Mandel."""

_BASIS: Final = (
    np.array([[[(p == (i, j)) + (p == (j, i)) for j in range(3)] for i in range(3)] for p in PAIRS], dtype=np.float64)
    / np.array([2.0, 2.0, 2.0, *[np.sqrt(2)] * 3])[:, None, None]
)
"""Orthonormal symmetric strains (6, 3, 3)."""

_EQUAL: Final = 1e-6


class Constant(NamedTuple):
    """One independent elastic constant.

    name:    such as C11.
    place:   row and column, from 0.
    equal:   all places that hold it in a crystal of this point group, up to sign.
    """

    name: str
    place: tuple[int, int]
    equal: tuple[tuple[int, int], ...]


class Moduli(NamedTuple):
    """What an elastic tensor says of an aggregate of randomly oriented grains, GPa; without unit poisson and universal.

    Source: R. Hill, Proc. Phys. Soc. A 65, 349 (1952); S. I. Ranganathan, M. Ostoja-Starzewski, Phys. Rev. Lett. 101,
        055504 (2008), doi:10.1103/PhysRevLett.101.055504.
    """

    bulk_voigt: float
    bulk_reuss: float
    shear_voigt: float
    shear_reuss: float

    @property
    def bulk(self) -> float:
        """Of Hill, the mean of the bounds."""
        return (self.bulk_voigt + self.bulk_reuss) / 2

    @property
    def shear(self) -> float:
        """Of Hill, the mean of the bounds."""
        return (self.shear_voigt + self.shear_reuss) / 2

    @property
    def young(self) -> float:
        """Young's modulus of Hill's mean."""
        return 9 * self.bulk * self.shear / (3 * self.bulk + self.shear)

    @property
    def poisson(self) -> float:
        """Poisson's ratio of Hill's mean."""
        return (3 * self.bulk - 2 * self.shear) / (6 * self.bulk + 2 * self.shear)

    @property
    def universal(self) -> float:
        """Universal anisotropy: zero for an isotropic crystal."""
        return 5 * self.shear_voigt / self.shear_reuss + self.bulk_voigt / self.bulk_reuss - 6


def to_voigt(stress: Floats) -> Floats:
    """Symmetric tensors (..., 3, 3) as (..., 6)."""
    return np.stack([(stress[..., i, j] + stress[..., j, i]) / 2 for i, j in PAIRS], axis=-1)


def to_strain(voigt: Floats) -> Floats:
    """Strains (..., 6), shear doubled, as symmetric tensors (..., 3, 3)."""
    return np.einsum("...k,kij->...ij", voigt / _SCALE, _BASIS)


def turned(constants: Floats, turn: Floats) -> Floats:
    """The tensor (6, 6) of a crystal that is turned by (3, 3): x -> x turnᵀ."""
    [matrix] = _matrices(turn[None])
    return _unscaled(matrix @ _scaled(constants) @ matrix.T)


def projected(constants: Floats, turns: Floats) -> Floats:
    """What a point group (H, 3, 3) allows, and an energy: the symmetric part of the mean over the group."""
    matrices = _matrices(turns)
    mean = np.mean(matrices @ _scaled(constants) @ matrices.transpose(0, 2, 1), axis=0)
    return _unscaled((mean + mean.T) / 2)


def norm(constants: Floats) -> float:
    """Frobenius norm of the tensor, every one of its 81 components counted."""
    return float(np.linalg.norm(_scaled(constants)))


def independent(turns: Floats) -> tuple[Constant, ...]:
    """The constants that the others follow from in a point group (H, 3, 3): of each row the first that are needed."""
    rows = np.zeros((6, 6, 36))
    for column, (i, j) in enumerate(product(range(6), repeat=2)):
        unit = np.zeros((6, 6))
        unit[i, j] = 1.0
        rows[..., column] = projected(unit, turns)
    found: list[Constant] = []
    chosen = np.zeros((0, 36))
    for i, j in combinations_with_replacement(range(6), 2):
        if np.linalg.matrix_rank(np.vstack([chosen, rows[i, j]]), tol=_EQUAL) > len(chosen):
            chosen = np.vstack([chosen, rows[i, j]])
            same = np.minimum(np.abs(rows - rows[i, j]).max(-1), np.abs(rows + rows[i, j]).max(-1)) < _EQUAL
            places = tuple((int(a), int(b)) for a, b in np.argwhere(same))
            found.append(Constant(f"C{i + 1}{j + 1}", (i, j), places))
    return tuple(found)


def moduli(constants: Floats) -> Moduli:
    """Bounds of Voigt and Reuss; those of Reuss are NaN where the tensor cannot be inverted."""
    c = (constants + constants.T) / 2
    s = np.linalg.inv(c) if np.linalg.cond(c) < 1e12 else np.full((6, 6), np.nan)
    direct, mixed, shear = (np.trace(c[:3, :3]), c[0, 1] + c[0, 2] + c[1, 2], np.trace(c[3:, 3:]))
    along, across, sheared = (np.trace(s[:3, :3]), s[0, 1] + s[0, 2] + s[1, 2], np.trace(s[3:, 3:]))
    return Moduli(
        bulk_voigt=float(direct + 2 * mixed) / 9,
        bulk_reuss=float(1 / (along + 2 * across)),
        shear_voigt=float(direct - mixed + 3 * shear) / 15,
        shear_reuss=float(15 / (4 * along - 4 * across + 3 * sheared)),
    )


def zener(constants: Floats) -> float:
    """Zener's ratio 2 C44 / (C11 - C12) of a cubic crystal along the axes: 1 if it is isotropic; NaN if it is 0 / 0."""
    across = float(constants[0, 0] - constants[0, 1])
    return float("nan") if across == 0 else 2 * float(constants[3, 3]) / across


def stiffnesses(constants: Floats) -> tuple[Floats, Floats]:
    """Stiffness against each of six orthonormal strains that cause a stress along themselves, ascending.

    The crystal is stable if all are positive; it is soft against the first strain.

    Returns:
        (6,) of the unit given and (6, 3, 3) strains of norm 1.

    Source: F. Mouhat, F.-X. Coudert, Phys. Rev. B 90, 224104 (2014), doi:10.1103/PhysRevB.90.224104.
    """
    values, axes = np.linalg.eigh(_scaled((constants + constants.T) / 2))
    return values, np.einsum("ks,kij->sij", axes, _BASIS)


def _matrices(turns: Floats) -> Floats:
    """How turns (H, 3, 3) act on the components along orthonormal strains, (H, 6, 6)."""
    moved = turns[:, None] @ _BASIS @ turns.transpose(0, 2, 1)[:, None]
    return np.asarray(np.reshape(_BASIS, (6, 9)) @ moved.reshape(len(turns), 6, 9).transpose(0, 2, 1))


def _scaled(constants: Floats) -> Floats:
    return np.asarray(constants * np.outer(_SCALE, _SCALE))


def _unscaled(matrix: Floats) -> Floats:
    return np.asarray(matrix / np.outer(_SCALE, _SCALE))
