"""Finding: what a simulation said about itself: drifts, temperatures, momenta, with their errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from ase import Atoms
from ase.units import fs
from numpy.typing import NDArray

from tumble.jacobian import Heating
from tumble.jobs.md.attribution import Attribution
from tumble.jobs.md.desk import VECTORS, symbols_of
from tumble.jobs.md.run import Run
from tumble.jobs.md.settings import MDSettings
from tumble.jobs.md.trend import Trend
from tumble.results import Fact
from tumble.trajectories import Mean, inefficiency, mean
from tumble.units import BOLTZMANN, MEV

Floats = NDArray[np.float64]

SETTLING: Final = 0.2
"""Of a simulation, its beginning: temperatures are averaged over the rest."""

FEWEST: Final = 8
"""Lines of the series, below which nothing is said about drifts and means."""

ALL: Final = "all"
"""Name of the temperature of everything."""


class Momenta(NamedTuple):
    """How far momenta that nothing should change have changed.

    momentum:         (K,) |P - P(0)| over the root mean square of a momentum at this temperature; where a thermostat
                      rescales velocities, of what is perpendicular to P(0) alone.
    angular_momentum: (K,) the same of the angular momentum; None where anything is periodic: it then means nothing.
    """

    momentum: Floats
    angular_momentum: Floats | None


@dataclass(frozen=True, eq=False)
class Finding:
    """One simulation, of one structure or of several side by side.

    name:            what tables call what moved.
    atoms:           the last frames.
    n_atoms:         of a structure; of several, on average.
    series:          columns of series.csv, name → (K,).
    steps:           fast steps to a slow one; () with one time step.
    is_conservative: whether the slowest forces are a gradient.
    is_fast_gradient: whether the fastest are.
    run:             how it ended, and what it cost.
    drift:           of the conserved quantity, meV/atom/ns; None of too few lines.
    temperatures:    K, of everything and of each element, without the beginning; empty for too few lines.
    momenta:         None where they may change: of several structures, or with noise on every atom.
    heating:         what random turns are expected to add; None without.
    attribution:     where the drift comes from; None if it was not traced.
    choice:          facts about how the multiple time steps were chosen.
    concerns:        what was to be feared before the first step.
    """

    name: str
    atoms: list[Atoms]
    n_atoms: float
    series: dict[str, Floats]
    steps: tuple[int, ...]
    is_conservative: bool
    is_fast_gradient: bool
    run: Run
    drift: Trend | None
    temperatures: dict[str, Mean]
    momenta: Momenta | None
    heating: Heating | None
    attribution: Attribution | None
    choice: tuple[Fact, ...]
    concerns: tuple[str, ...]

    @property
    def time_ps(self) -> float:
        """How long it lasted."""
        return float(self.series["time_ps"][-1]) if len(self.series["time_ps"]) else 0.0


def called(structures: Sequence[Atoms]) -> str:
    """A name of what moves."""
    formulas = list(dict.fromkeys(one.get_chemical_formula() for one in structures))
    if len(structures) == 1:
        return formulas[0]
    return f"{len(structures)} structures" + (f" of {formulas[0]}" if len(formulas) == 1 else "")


def drift_of(series: Mapping[str, Floats], n_atoms: float) -> Trend | None:
    """Drift of the conserved quantity, meV/atom/ns, with the scatter about it in meV/atom; None for too few lines.

    Its error is the larger of that from blocks and that from the correlation time of what is left, which knows that the
    few swings of a short simulation look like a drift.

    Args:
        series: with time_ps and conserved_eV.
        n_atoms: of a structure.
    """
    times, values = series["time_ps"], series["conserved_eV"]
    known = np.isfinite(values)
    if known.sum() < FEWEST:
        return None
    ns, change = times[known] / 1000, MEV * (values[known] - values[known][0]) / n_atoms
    trend = Trend.of(ns, change)
    left = change - trend.rate * ns
    n_independent = len(left) / inefficiency(left - left.mean())
    swings = trend.scatter / (float(ns.std()) * np.sqrt(n_independent))
    return trend._replace(error=max(trend.error, swings))


def temperatures_of(series: Mapping[str, Floats], structures: Sequence[Atoms]) -> dict[str, Mean]:
    """Mean temperatures, K, after the beginning; empty for too few lines, or where one is not a number."""
    names = {ALL: "temperature_K"} | {symbol: f"T_{symbol}_K" for symbol in symbols_of(structures)}
    start = int(SETTLING * len(series["time_ps"]))
    rest = {name: series[column][start:] for name, column in names.items()}
    known = {name: values for name, values in rest.items() if len(values) >= FEWEST and np.isfinite(values).all()}
    return {name: mean(values) for name, values in known.items()}


def momenta_of(series: Mapping[str, Floats], atoms: Atoms, settings: MDSettings) -> Momenta | None:
    """How far momenta have changed, in units of what they are in equilibrium."""
    is_pushed = settings.ensemble != "nve" and settings.thermostat == "langevin"
    p, L = (np.stack([series[name] for name in part], 1) for part in (VECTORS[:3], VECTORS[3:]))
    if is_pushed or len(p) < FEWEST or not np.isfinite([p, L]).all():
        return None
    heat, masses = BOLTZMANN * settings.temperature_K, atoms.get_masses()
    apart = atoms.positions - atoms.get_center_of_mass()
    inertia = 2 * float(np.sum(masses[:, None] * np.square(apart)))  # its trace
    scales = np.sqrt([3 * masses.sum() * heat, inertia * heat]) / fs
    if settings.ensemble != "nve":  # velocities are rescaled: lengths change with them, and directions must not
        p, L = _across(p), _across(L)
    changed = [np.linalg.norm(one - one[0], axis=1) / scale for one, scale in zip((p, L), scales, strict=True) if scale]
    return Momenta(changed[0], None if atoms.pbc.any() or len(changed) < 2 else changed[1])


def _across(vectors: Floats) -> Floats:
    """(K, 3) without what lies along the first of them."""
    first = vectors[0] / (np.linalg.norm(vectors[0]) or 1.0)
    return np.asarray(vectors - (vectors @ first)[:, None] * first)
