"""Finding: what was computed of a crystal, and the numbers that decide."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble.crystal import SpaceGroup
from tumble.descent import Rest
from tumble.jobs.conductivity.metrics import mean_of
from tumble.jobs.conductivity.route import Route
from tumble.jobs.conductivity.transport import Transport

Floats = NDArray[np.float64]

USUAL_K = 300.0
"""The temperature at which conductivities are quoted."""


class Crystal(NamedTuple):
    """What heat is conducted by.

    atoms:     the given cell, exactly symmetric.
    group:     its space group.
    rest:      how far it is from rest, but for what its symmetry forbids.
    engine:    phono3py.Phono3py of it.
    """

    atoms: Atoms
    group: SpaceGroup
    rest: Rest
    engine: Any


@dataclass(frozen=True, eq=False)
class Finding:
    """Conductivities of a crystal.

    routes:  one for each repair, from the least to the most; the last is the result.
    turned:  name → the conductivity in each other orientation of the crystal: of the last one, and where that is
             averaged of the last one before it.
    half:    the result on half the mesh, or None.
    forbidden_forces: share of the forces on displaced supercells that their own symmetry forbids, and that of rounding.
    """

    routes: tuple[Route, ...]
    turned: dict[str, tuple[Transport, ...]]
    half: Transport | None
    forbidden_forces: tuple[float, float]

    @property
    def result(self) -> Route:
        """The route that counts."""
        return self.routes[-1]

    @property
    def temperature_K(self) -> float:
        """300 K, or what is nearest to it."""
        return float(self.result.transport.temperatures_K[self.index])

    @property
    def index(self) -> int:
        """Of that temperature."""
        return int(np.abs(self.result.transport.temperatures_K - USUAL_K).argmin())

    def kappa(self, found: Transport) -> float:
        """W/(m K) at that temperature, the mean of the three directions; NaN where refused."""
        return float(mean_of(found.kappa)[self.index])

    def change(self, found: Transport, of: Transport) -> float | None:
        """The share by which one conductivity differs from another; None where one was refused."""
        if found.is_refused or of.is_refused:
            return None
        first, second = found.kappa[self.index], of.kappa[self.index]
        return float(np.linalg.norm(first - second) / np.linalg.norm(second))

    @property
    def by_repair(self) -> dict[str, float | None]:
        """What each repair but the last is off by, against it, as a share."""
        last = self.result.transport
        return {one.name: self.change(one.transport, last) for one in self.routes[:-1]}

    @property
    def by_turning(self) -> dict[str, float]:
        """The largest change by another orientation, as a share, of those that were made again."""
        found = {}
        for one in self.routes:
            changes = [self.change(other, one.transport) for other in self.turned.get(one.name, ())]
            known = [change for change in changes if change is not None]
            if known:
                found[one.name] = max(known)
        return found
