"""What was found about the elasticity of one crystal: every number that tables, figures and verdicts speak of."""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy import constants as si

from tumble.crystal import Group
from tumble.jacobian import rounding_of
from tumble.jobs.elastic.equation import (
    BIRCH,
    VINET,
    Fit,
    fit_energies,
    fit_pressures,
    mean_over_intervals,
    mean_pressures_GPa,
)
from tumble.jobs.elastic.strain import Stiffness
from tumble.jobs.elastic.tensor import Constant, Moduli, moduli, turned
from tumble.units import EV_PER_A3_TO_GPa

Floats = NDArray[np.float64]


class State(NamedTuple):
    """The crystal over volumes, ions relaxed in cells that keep their shape.

    volumes:       (n,) Å³.
    energies:      (n,) eV.
    pressures_GPa: (n,) minus a third of the trace of the stress.
    fits:          to the energies; empty if they have no minimum in sight.
    of_pressures:  the first of them fitted to the pressures instead; None if it cannot be.
    """

    volumes: Floats
    energies: Floats
    pressures_GPa: Floats
    fits: tuple[Fit, ...]
    of_pressures: Fit | None

    @property
    def best(self) -> Fit:
        """The fit with the smaller residual."""
        return min(self.fits, key=lambda fit: fit.residual)

    @property
    def fit_share(self) -> float:
        """Residual of the energies about the better fit, rms, as a share of their range."""
        return self.best.residual / max(float(np.ptp(self.energies)), 1e-300)

    @property
    def fit_floor(self) -> float:
        """What rounded energies alone would make of it."""
        return rounding_of(self.energies) / max(float(np.ptp(self.energies)), 1e-300)

    @property
    def gaps_GPa(self) -> Floats:
        """Pressure from the stress less that from the energy, their means from each volume to the next, (n - 1,)."""
        said = mean_over_intervals(self.volumes, self.pressures_GPa)
        return said - mean_pressures_GPa(self.volumes, self.energies)

    @property
    def pressure_share(self) -> float:
        """Root mean square of those gaps as a share of the range of the pressure from the energy."""
        return float(np.sqrt(np.mean(self.gaps_GPa**2))) / self._range_GPa

    @property
    def pressure_floor(self) -> float:
        """What rounded energies alone would make of it."""
        slopes = 2**0.5 * rounding_of(self.energies) / float(np.diff(self.volumes).min())
        return EV_PER_A3_TO_GPa * slopes / self._range_GPa

    @property
    def _range_GPa(self) -> float:
        return max(float(np.ptp(mean_pressures_GPa(self.volumes, self.energies))), 1e-300)


class Waves(NamedTuple):
    """What the moduli say of sound: density, mean speeds and the Debye temperature; NaN if a modulus is negative.

    Source: O. L. Anderson, J. Phys. Chem. Solids 24, 909 (1963), doi:10.1016/0022-3697(63)90067-2.
    """

    density_g_per_cm3: float
    longitudinal_m_per_s: float
    transverse_m_per_s: float
    debye_K: float


class Finding(NamedTuple):
    """Elastic constants and equation of state of one crystal.

    atoms:     the crystal, as symmetric as it is within the tolerance.
    group:     its space group.
    n_operations: of its point group.
    axes:      (3, 3) rotation into the standard axes of the crystal: x -> x axesᵀ.
    independent: its constants in those axes.
    ways:      raw, ± and projected, and averaged where that was asked for; ions relaxed.
    clamped:   ions carried along by the strain; projected.
    state:     None where no equation of state was asked for.
    residual_GPa: the largest component of the stress at rest.
    force, forbidden_force: eV/Å, the largest that symmetry allows of an atom at rest, and that it forbids.
    lost:      relaxations that have not arrived: what was relaxed, and why it ended.
    n_calls:   structures that the potential was asked about, every step of the ions counted.
    n_calls_averaged: and for the average over turns.
    averaged_over: rule; empty without.
    """

    atoms: Atoms
    group: Group
    n_operations: int
    axes: Floats
    independent: tuple[Constant, ...]
    ways: tuple[Stiffness, ...]
    clamped: Stiffness
    state: State | None
    residual_GPa: float
    force: float
    forbidden_force: float
    lost: tuple[tuple[str, str], ...]
    n_calls: int
    n_calls_averaged: int = 0
    averaged_over: str = ""

    def way(self, name: str) -> Stiffness | None:
        """Constants by how they came about."""
        return next((one for one in self.ways if one.name == name), None)

    @property
    def measured(self) -> Stiffness:
        """Of ±, what the verdicts are about."""
        return next(one for one in self.ways if one.name == "±")

    @property
    def best(self) -> Stiffness:
        """What symmetry leaves of ±."""
        return next(one for one in self.ways if one.name == "projected")

    def standard(self, constants: Floats) -> Floats:
        """A tensor (6, 6) in the standard axes of the crystal."""
        return turned(constants, self.axes)

    @property
    def lost_volumes(self) -> tuple[tuple[str, str], ...]:
        """Of the relaxations that have not arrived, those of the equation of state."""
        return tuple(one for one in self.lost if one[0].startswith("volume"))

    @property
    def lost_strains(self) -> tuple[tuple[str, str], ...]:
        """And those that the constants come from."""
        return tuple(one for one in self.lost if not one[0].startswith("volume"))

    @property
    def is_cubic(self) -> bool:
        """Whether three constants say everything, along axes that are all alike."""
        return self.group.number >= 195


def state_of(volumes: Floats, energies: Floats, pressures_GPa: Floats) -> State:
    """Fit both equations to the energies, and the first to the pressures too."""
    fits = tuple(fit for name in (BIRCH, VINET) if (fit := fit_energies(name, volumes, energies)) is not None)
    other = fit_pressures(fits[0].name, volumes, pressures_GPa, fits[0]) if fits else None
    return State(volumes, energies, pressures_GPa, fits, other)


def waves(atoms: Atoms, known: Moduli) -> Waves:
    """Speeds of sound and Debye temperature of a crystal from the means of Hill."""
    density = float(atoms.get_masses().sum()) * si.atomic_mass / (atoms.cell.volume * si.angstrom**3)
    with np.errstate(invalid="ignore"):
        along = np.sqrt(1e9 * (known.bulk + 4 / 3 * known.shear) / density)
        across = np.sqrt(1e9 * np.float64(known.shear) / density)
    mean = (3 / (1 / along**3 + 2 / across**3)) ** (1 / 3)
    wavenumber = (6 * np.pi**2 * len(atoms) / (atoms.cell.volume * si.angstrom**3)) ** (1 / 3)
    debye = si.hbar / si.k * mean * wavenumber
    return Waves(density / 1000, float(along), float(across), float(debye))


def moduli_of(finding: Finding) -> dict[str, Moduli]:
    """The moduli of the constants of every way."""
    return {one.name: moduli(one.constants) for one in finding.ways}
