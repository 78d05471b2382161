"""Watch: when a simulation has left what its potential knows, or physics, and must not go on."""

from typing import Final, final

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from tumble.bridges.ase import ENERGY_DOUBT, Calculator
from tumble.jobs.md.motion import Instant
from tumble.jobs.md.settings import MDSettings
from tumble.neighbors import search, vectors
from tumble.potential import Potential

HOT: Final = 10.0
"""Times the temperature of the settings: what is hotter runs away."""

HOTTEST_K: Final = 3000.0
"""K, below which nothing is called a runaway unless the settings say so."""


@final
class Watch:
    """Looks at a simulation from time to time.

    limit_K:  temperature of a runaway.
    closest:  of all pairs seen so far, the smallest distance over the sum of covalent radii; inf if none was close.
    """

    def __init__(self, potential: Potential, settings: MDSettings) -> None:
        """Args:
        potential: whose uncertainty is watched, if the settings say so.
        settings: with the limits.

        Raises:
            ValueError: the uncertainty of a potential is to be watched that does not know it.
        """
        if settings.max_uncertainty is not None and not potential.has_uncertainty:
            raise ValueError(
                f"max_uncertainty is {settings.max_uncertainty:g} eV, but a {type(potential).__name__} does not know "
                "how uncertain it is. Leave it out, or make a potential that does with `tumble uncertainty`."
            )
        self._settings = settings
        self._doubt = Calculator(potential) if settings.max_uncertainty is not None else None
        self.limit_K = settings.max_temperature_K or max(HOT * settings.temperature_K, HOTTEST_K)
        self.closest = np.inf

    def uncertainty(self, atoms: Atoms) -> float | None:
        """EV per atom; None if it is not watched."""
        if self._doubt is None:
            return None
        return float(self._doubt.get_property(ENERGY_DOUBT, atoms)) / len(atoms)

    def alarm(self, atoms: Atoms, instant: Instant, uncertainty: float | None = None) -> str:
        """Why the simulation must stop, with numbers; empty if it may go on.

        Args:
            atoms: now.
            instant: now.
            uncertainty: eV per atom, what `uncertainty` said.
        """
        if not np.isfinite([instant.potential_eV, instant.kinetic_eV]).all():
            return f"runaway: energies are not finite after {instant.time_ps:g} ps"
        if instant.temperature_K > self.limit_K:
            return (
                f"runaway: {instant.temperature_K:.4g} K after {instant.time_ps:g} ps, above the limit of "
                f"{self.limit_K:.4g} K"
            )
        if collision := self._collision(atoms):
            return f"collision after {instant.time_ps:g} ps: {collision}"
        limit = self._settings.max_uncertainty
        if limit is not None and uncertainty is not None and not uncertainty <= limit:
            return (
                f"extrapolation: the energy is uncertain by {1000 * uncertainty:.3g} meV per atom after "
                f"{instant.time_ps:g} ps, above the limit of {1000 * limit:.3g} meV"
            )
        return ""

    def _collision(self, atoms: Atoms) -> str:
        """The two atoms that are closest for their size, if they are too close."""
        share, radii = self._settings.min_distance, covalent_radii[atoms.numbers]
        if share == 0 or len(atoms) == 0:
            return ""
        positions, cell, pbc = atoms.positions, atoms.cell.array, atoms.pbc
        pairs = search(positions, cell, pbc, 2 * share * float(radii.max()))
        if len(pairs.center) == 0:
            return ""
        lengths = np.linalg.norm(vectors(pairs, positions, cell), axis=1)
        shares = lengths / (radii[pairs.center] + radii[pairs.neighbor])
        worst = int(shares.argmin())
        self.closest = min(self.closest, float(shares[worst]))
        if shares[worst] >= share:
            return ""
        i, j = int(pairs.center[worst]), int(pairs.neighbor[worst])
        return (
            f"atoms {i} ({atoms.symbols[i]}) and {j} ({atoms.symbols[j]}) are {lengths[worst]:.3g} Å apart, "
            f"{shares[worst]:.2g} of the sum of their covalent radii; the limit is {share:g}"
        )
