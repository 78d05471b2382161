"""Equations of state: Birch–Murnaghan and Vinet, fitted to energies or to pressures over volumes."""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.optimize import least_squares

from tumble.units import EV_PER_A3_TO_GPa

Floats = NDArray[np.float64]

BIRCH: Final = "Birch–Murnaghan"
VINET: Final = "Vinet"

_TINY: Final = 1e-15


class Fit(NamedTuple):
    """One equation of state with its four parameters, and their standard errors from the scatter of the points.

    name:      whose equation.
    volume:    Å³, of lowest energy.
    bulk_GPa:  bulk modulus there.
    slope:     its derivative by pressure.
    energy:    eV, the lowest; zero of a fit to pressures.
    residual:  root mean square, eV or, of a fit to pressures, GPa.
    errors:    of the volume, the bulk modulus and the slope.
    """

    name: str
    volume: float
    bulk_GPa: float
    slope: float
    energy: float
    residual: float
    errors: tuple[float, float, float]

    def energies(self, volumes: Floats) -> Floats:
        """eV, of volumes in Å³."""
        energy, _ = _FORMS[self.name]
        bulk = self.bulk_GPa / EV_PER_A3_TO_GPa
        return self.energy + bulk * self.volume * energy(volumes / self.volume, self.slope)

    def pressures_GPa(self, volumes: Floats) -> Floats:
        """GPa, minus the derivative of the energy by the volume."""
        _, pressure = _FORMS[self.name]
        return self.bulk_GPa * pressure(volumes / self.volume, self.slope)

    def bulk_at_GPa(self, volume: float) -> float:
        """Bulk modulus at a volume in Å³, GPa: minus V dP/dV."""
        step = 1e-4 * volume
        above, below = self.pressures_GPa(np.array([volume + step, volume - step]))
        return float(volume * (below - above) / (2 * step))


def fit_energies(name: str, volumes: Floats, energies: Floats) -> Fit | None:
    """Fit an equation to energies (n,) eV at volumes (n,) Å³; None if they have no minimum in sight.

    Source: F. Birch, Phys. Rev. 71, 809 (1947), doi:10.1103/PhysRev.71.809; P. Vinet, J. R. Smith, J. Ferrante,
        J. H. Rose, Phys. Rev. B 35, 1945 (1987), doi:10.1103/PhysRevB.35.1945.
    """
    start = _start(volumes, energies)
    if start is None:
        return None
    energy, _ = _FORMS[name]
    v0, b0, e0 = start
    unit = b0 * v0

    def residuals(p: Floats) -> Floats:
        return p[3] + p[0] * p[1] * energy(volumes / (v0 * p[0]), p[2]) - (energies - e0) / unit

    found, errors, rms = _least(residuals, np.array([1.0, 1.0, 4.0, 0.0]))
    if found is None:
        return None
    scale = (v0, b0 * EV_PER_A3_TO_GPa, 1.0)
    v, b, slope = (float(one * by) for one, by in zip(found[:3], scale, strict=True))
    bars = tuple(float(one * by) for one, by in zip(errors[:3], scale, strict=True))
    return Fit(name, v, b, slope, float(e0 + unit * found[3]), unit * rms, (bars[0], bars[1], bars[2]))


def fit_pressures(name: str, volumes: Floats, pressures_GPa: Floats, start: Fit) -> Fit | None:
    """Fit an equation to pressures (n,) GPa, starting from one that was fitted to energies."""
    _, pressure = _FORMS[name]

    def residuals(p: Floats) -> Floats:
        return p[1] * pressure(volumes / (start.volume * p[0]), p[2]) - pressures_GPa / start.bulk_GPa

    found, errors, rms = _least(residuals, np.array([1.0, 1.0, start.slope]))
    if found is None:
        return None
    v, b = start.volume, start.bulk_GPa
    bars = (float(v * errors[0]), float(b * errors[1]), float(errors[2]))
    return Fit(name, float(v * found[0]), float(b * found[1]), float(found[2]), 0.0, b * rms, bars)


def mean_pressures_GPa(volumes: Floats, energies: Floats) -> Floats:
    """Minus the slope of the energy (eV) from each volume (Å³) to the next, (n - 1,) GPa: no fit is needed for it."""
    return -EV_PER_A3_TO_GPa * np.diff(energies) / np.diff(volumes)


def mean_over_intervals(volumes: Floats, pressures_GPa: Floats) -> Floats:
    """The mean of a pressure (n,) from each volume to the next, (n - 1,), by a cubic spline."""
    whole = CubicSpline(volumes, pressures_GPa).antiderivative()(volumes)
    return np.asarray(np.diff(whole) / np.diff(volumes))


def _birch_energy(x: Floats, slope: float) -> Floats:
    f = x ** (-2 / 3) - 1
    return np.asarray(9 / 16 * (f**3 * slope + f**2 * (6 - 4 * (f + 1))))


def _birch_pressure(x: Floats, slope: float) -> Floats:
    return np.asarray(1.5 * (x ** (-7 / 3) - x ** (-5 / 3)) * (1 + 0.75 * (slope - 4) * (x ** (-2 / 3) - 1)))


def _vinet_energy(x: Floats, slope: float) -> Floats:
    eta, y = 1.5 * (slope - 1), x ** (1 / 3) - 1
    return np.asarray(9 / eta**2 * (1 - (1 + eta * y) * np.exp(-eta * y)))


def _vinet_pressure(x: Floats, slope: float) -> Floats:
    y = x ** (1 / 3)
    return np.asarray(3 * (1 - y) / y**2 * np.exp(1.5 * (slope - 1) * (1 - y)))


Form = Callable[[Floats, float], Floats]

_FORMS: Final[dict[str, tuple[Form, Form]]] = {
    BIRCH: (_birch_energy, _birch_pressure),
    VINET: (_vinet_energy, _vinet_pressure),
}
"""Energy in units of B0 V0 above the lowest, and pressure in units of B0, of V / V0 and the slope."""


def _start(volumes: Floats, energies: Floats) -> tuple[float, float, float] | None:
    """V0 Å³, B0 eV/Å³ and E0 eV of a parabola through the energies; None if its minimum is far outside."""
    middle = float(volumes.mean())
    a, b, c = np.polyfit(volumes / middle - 1, energies - energies.mean(), 2)
    if a <= 0 or abs(b / (2 * a)) > 2 * np.ptp(volumes) / middle:
        return None
    lowest = float(-b / (2 * a))
    return middle * (1 + lowest), float(2 * a * (1 + lowest) / middle), float(energies.mean() + c - b**2 / (4 * a))


def _least(residuals: Callable[[Floats], Floats], start: Floats) -> tuple[Floats | None, Floats, float]:
    """Parameters, their standard errors, and the root mean square of the residuals; None if there is no minimum."""
    with np.errstate(all="ignore"):  # of energies that are no such curve it may leave the range where it is defined
        found = least_squares(residuals, start, method="lm", xtol=_TINY, ftol=_TINY, gtol=_TINY, max_nfev=2000)
    if not np.isfinite(found.x).all() or found.x[0] <= 0 or found.x[1] <= 0:
        return None, start, np.inf
    slopes = np.asarray(found.jac)
    square = float(np.sum(found.fun**2))
    scatter = square / (len(found.fun) - len(start))
    errors = np.sqrt(scatter * np.diag(np.linalg.pinv(slopes.T @ slopes)))
    return found.x, errors, float(np.sqrt(square / len(found.fun)))
