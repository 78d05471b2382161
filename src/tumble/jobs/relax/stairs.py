"""Stairs: which symmetry a structure has at every tolerance, and the plateau on which it does not depend on it."""

from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
from ase import Atoms

from tumble.crystal import groups_at, space_group

STRICT: Final = 1e-5
LOOSE: Final = 1e-2
"""Å, the tolerances at which relaxed crystals are usually compared."""

SYMPRECS: Final = (
    *(STRICT, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3),
    *(LOOSE, 2e-2, 5e-2, 1e-1, 2e-1),
)
"""Å, at which symmetry is looked for."""


class Stair(NamedTuple):
    """The symmetry at one tolerance.

    name:         of the space group; the number of operations where it has no name.
    n_operations: translations within the cell included.
    """

    name: str
    n_operations: int


class Plateau(NamedTuple):
    """Tolerances at which the symmetry is the same.

    stair:         the symmetry.
    first, last:   Å, of the tolerances at which it was found.
    """

    stair: Stair
    first: float
    last: float

    @property
    def middle(self) -> float:
        """Å, in the middle on a logarithmic axis."""
        return float(np.sqrt(self.first * self.last))


Stairs = tuple[Stair | None, ...]
"""The symmetry at each of the tolerances; None where that is so large that atoms merge, or not known."""

UNKNOWN: Final[Stairs] = (None,) * len(SYMPRECS)


def stairs(atoms: Atoms) -> Stairs:
    """The symmetry at each tolerance."""
    if atoms.pbc.all():
        return tuple(None if one is None else Stair(str(one), one.n_operations) for one in groups_at(atoms, SYMPRECS))
    return tuple(_unnamed(atoms, symprec) for symprec in SYMPRECS)


def at(found: Stairs, symprec: float) -> str:
    """The name of the symmetry at one of the tolerances."""
    stair = found[SYMPRECS.index(symprec)]
    return "–" if stair is None else stair.name


def _unnamed(atoms: Atoms, symprec: float) -> Stair | None:
    try:
        group = space_group(atoms, symprec)
    except ValueError:
        return None
    count = group.n_operations * group.n_translations
    axes = ", all turns about an axis" if len(group.axes) else ""
    return Stair(f"{count} operation{'s' if count > 1 else ''}{axes}", count)


def plateau_of(found: Stairs, ratio: float) -> Plateau | None:
    """The highest symmetry that lasts while the tolerance grows by a ratio; None if there is none but the identity."""
    plateaus = []
    for stair, run in groupby(zip(found, SYMPRECS, strict=True), key=lambda one: one[0]):
        tolerances = [symprec for _, symprec in run]
        if stair is not None and stair.n_operations > 1 and tolerances[-1] >= ratio * tolerances[0] * (1 - 1e-9):
            plateaus.append(Plateau(stair, tolerances[0], tolerances[-1]))
    return max(plateaus, key=lambda one: one.stair.n_operations, default=None)
