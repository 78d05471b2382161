"""Figures of a thermal conductivity: with temperature, by repair, and where in the spectrum it comes from."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tumble.jobs.conductivity.finding import Finding
from tumble.jobs.conductivity.metrics import mean_of
from tumble.jobs.conductivity.reference import Comparison
from tumble.jobs.conductivity.settings import ConductivitySettings
from tumble.jobs.conductivity.transport import Transport
from tumble.results import Curve, Series

Floats = NDArray[np.float64]

KAPPA: Final = "κ (W/(m K))"
POINTS: Final = 3000
"""Most points of a scatter plot."""

STEPS: Final = 400
"""Most points of a cumulative curve."""

LEAST: Final = 1e-6
"""Share of the conductivity that a mode must have: the others stand still but for rounding, and go no way at all."""

NM: Final = 0.1
"""Å in nm."""


def figures(found: Finding, compared: Mapping[str, Comparison], settings: ConductivitySettings) -> tuple[Curve, ...]:
    """All figures, most telling first; those of modes are left out where there is no conductivity."""
    known = {one.name: one.transport for one in found.routes if not one.transport.is_refused}
    if not known:
        return ()
    curves = [_with_temperature(found, known, compared), _by_repair(found, known, compared)]
    if found.result.transport.is_refused:
        return tuple(curves)
    curves += [
        _cumulative_path(found, known),
        _cumulative_frequency(found, known),
        _lifetimes(found),
    ]
    if settings.kind == "wigner":
        curves.insert(1, _coherence(found.result.transport))
    return tuple(curves)


def _with_temperature(found: Finding, known: dict[str, Transport], compared: Mapping[str, Comparison]) -> Curve:
    spread, series = found.by_turning, []
    for name, one in known.items():
        kappa = mean_of(one.kappa)
        error = kappa * spread[name] if name in spread else None
        series.append(Series(name, one.temperatures_K, kappa, error))
    if compared:
        other = next(iter(compared.values()))
        series.append(Series("reference", other.temperatures_K, other.reference))
    note = "Mean of the three directions."
    if spread:
        note += " Ribbon: what it changes by in another orientation of the crystal."
    return Curve("Conductivity and temperature", "temperature (K)", KAPPA, series, log_x=True, log_y=True, note=note)


def _by_repair(found: Finding, known: dict[str, Transport], compared: Mapping[str, Comparison]) -> Curve:
    bars = {name: found.kappa(one) for name, one in known.items()}
    for name, others in found.turned.items():
        bars |= {f"{name}, turned {i}": found.kappa(one) for i, one in enumerate(others, 1) if not one.is_refused}
    other = compared.get(found.result.name)
    if other is not None and found.temperature_K in other.temperatures_K:
        bars["reference"] = float(other.reference[other.temperatures_K == found.temperature_K][0])
    note = "Turned: with the crystal in another orientation before the potential is asked." if found.turned else ""
    series = [Series(KAPPA, list(bars), list(bars.values()))]
    return Curve(f"Conductivity at {found.temperature_K:g} K", "", KAPPA, series, kind="bars", note=note)


def _cumulative_path(found: Finding, known: dict[str, Transport]) -> Curve:
    series = []
    for name, one in known.items():
        paths = NM * one.paths_A[found.index].ravel()
        part = (one.populations[found.index] / one.weights.sum()).ravel()
        conducts = np.isfinite(paths) & (paths > 0) & (part > LEAST * part.sum())
        series.append(_cumulative(name, paths[conducts], part[conducts]))
    title = f"From which mean free paths, at {found.temperature_K:g} K"
    note = "Conductivity by modes whose mean free path is shorter; without coherences."
    return Curve(title, "mean free path (nm)", KAPPA, series, log_x=True, note=note)


def _cumulative_frequency(found: Finding, known: dict[str, Transport]) -> Curve:
    series = []
    for name, one in known.items():
        part = (one.by_mode[found.index] / one.weights.sum()).ravel()
        series.append(_cumulative(name, one.frequencies_THz.ravel(), part))
    title = f"From which frequencies, at {found.temperature_K:g} K"
    return Curve(title, "frequency (THz)", KAPPA, series, note="Conductivity by modes of lower frequency.")


def _lifetimes(found: Finding) -> Curve:
    one = found.result.transport
    times = one.lifetimes_ps[found.index].ravel()
    frequencies = one.frequencies_THz.ravel()
    shown = np.flatnonzero(np.isfinite(times) & (frequencies > 0))[:: max(1, len(times) // POINTS)]
    title = f"Lifetimes at {found.temperature_K:g} K, {found.result.name}"
    series = [Series("modes", frequencies[shown], times[shown])]
    # Below, a mode decays before it has swung once, and is no phonon any more.
    limit = np.linspace(max(frequencies[shown].min(), 0.1), frequencies[shown].max(), 100)
    series.append(Series("one period", limit, 1 / limit))
    note = "By other phonons, and isotopes where they are on. Below one period a mode is no phonon any more."
    return Curve(title, "frequency (THz)", "lifetime (ps)", series, kind="scatter", log_y=True, note=note)


def _coherence(one: Transport) -> Curve:
    parts = {"populations": one.kappa - one.kappa_coherence, "coherences": one.kappa_coherence, "both": one.kappa}
    series = [Series(name, one.temperatures_K, mean_of(part)) for name, part in parts.items()]
    title = "Populations and coherences"
    note = "Populations drift as particles do; coherences between modes of one wave vector tunnel as waves do."
    return Curve(title, "temperature (K)", KAPPA, series, log_x=True, log_y=True, note=note)


def _cumulative(name: str, places: Floats, parts: Floats) -> Series:
    order = np.argsort(places)
    x, y = places[order], np.cumsum(parts[order])
    kept = np.unique(np.linspace(0, len(x) - 1, min(STEPS, len(x))).astype(int))
    return Series(name, x[kept], y[kept])
