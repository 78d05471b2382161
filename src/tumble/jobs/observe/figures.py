"""Figures of what trajectories say; several trajectories share their axes."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tumble.jobs.observe.finding import Finding
from tumble.results import Curve, Map, Series, number
from tumble.trajectories import Decay, Spectrum

Floats = NDArray[np.float64]

MOST_MAPS = 6
"""Maps that are drawn."""

POINTS = 500
"""Most points of a line; where there are more, every so many-th is drawn."""

SHOWN = 0.999
"""Of a spectrum, up to the frequency below which this part of it is."""


def figures(findings: Sequence[Finding]) -> tuple[Curve | Map, ...]:
    """All that have something to show, most telling first."""
    made = [*_radials(findings), _moved(findings), *_spectra(findings), _dipole(findings), _memory(findings)]
    return (*_maps(findings), *(one for one in [*made, *_pairs(findings)] if one.series))


def _maps(findings: Sequence[Finding]) -> list[Map]:
    made = []
    for one in findings[:MOST_MAPS]:
        if (turned := one.turned) is None or (shown := turned.map) is None:
            continue
        note = (
            f"Free energy of the direction of the axis of {turned.formula} less its mean; {number(turned.noise)} k_BT "
            "of it is noise. Latitude 90: along +z; longitude 0: along +x. One colour is right."
        )
        title = f"Orientational free energy: {one.name}"
        longitude, latitude = np.degrees(shown.azimuths), np.degrees(np.arcsin(shown.cosines))
        made.append(Map(title, "k_BT", longitude, latitude, shown.values, note))
    return made


def _radials(findings: Sequence[Finding]) -> list[Curve]:
    pairs = dict.fromkeys(pair for one in findings for pair in one.radials)
    return [
        Curve(
            f"Radial distribution of {pair}",
            "r, Å",
            "g(r)",
            [Series(one.name, found.r, found.g, found.error) for one in findings if (found := one.radials.get(pair))],
        )
        for pair in pairs
    ]


def _moved(findings: Sequence[Finding]) -> Curve:
    series = [_line(f"{one.name}, {symbol}", moved.decay) for one in findings for symbol, moved in one.moved.items()]
    return Curve("Mean square displacement", "time, ps", "displacement², Å²", series)


def _memory(findings: Sequence[Finding]) -> Curve:
    known = [(one.name, one.turned.memory) for one in findings if one.turned is not None]
    series = [_line(name, memory) for name, memory in known if memory is not None]
    return Curve("Memory of orientation", "time, ps", "⟨u(0)·u(t)⟩", series)


def _spectra(findings: Sequence[Finding]) -> list[Curve]:
    symbols = dict.fromkeys(symbol for one in findings for symbol in one.spectra)
    note = "Their integrals add up to 3 over the elements of a system: each freedom has k_BT / 2."
    curves = []
    for symbol in symbols:
        known = [(one.name, found) for one in findings if (found := one.spectra.get(symbol))]
        series = _densities(known, lambda density: density)
        title, label = f"Vibrations of {symbol}", "density of states, per atom and THz"
        curves.append(Curve(title, "frequency, THz", label, series, note=note))
    return curves


def _dipole(findings: Sequence[Finding]) -> Curve:
    known = [(one.name, one.dipole) for one in findings if one.dipole is not None]
    series = _densities(known, lambda density: density / max(float(density.max()), 1e-300))
    note = "Of the rate of change of the dipole with fixed charges; the largest of each is 1."
    return Curve("Dipole", "frequency, THz", "density", series, note=note)


def _densities(known: Sequence[tuple[str, Spectrum]], scaled: Callable[[Floats], Floats]) -> list[Series]:
    """Lines up to where nothing is left."""
    series = []
    for name, found in known:
        sums = np.cumsum(found.density)
        end = int(np.searchsorted(sums, SHOWN * sums[-1])) + 2
        every = max(1, end // POINTS)
        series.append(Series(name, found.frequencies_THz[:end:every], scaled(found.density)[:end:every]))
    return series


def _pairs(findings: Sequence[Finding]) -> list[Curve]:
    known = [(one.name, one.turned.correlations) for one in findings if one.turned is not None]
    along, across = [], []
    for name, found in known:
        if found is not None:
            there = np.isfinite(found.longitudinal)
            r = found.r[there]
            along.append(Series(name, r, found.longitudinal[there], _errors(found.longitudinal_error[there])))
            across.append(Series(name, r, found.transverse[there], _errors(found.transverse_error[there])))
    note = "Of two molecules at a distance r; c / g in the study."
    return [
        Curve("Longitudinal correlation of molecules", "r, Å", "⟨(u·r̂)(u'·r̂)⟩", along, note=note),
        Curve("Transverse correlation of molecules", "r, Å", "⟨u·u' − (u·r̂)(u'·r̂)⟩", across, note=note),
    ]


def _errors(errors: Floats) -> Floats:
    return np.nan_to_num(errors)


def _line(name: str, decay: Decay) -> Series:
    every = max(1, len(decay.times_ps) // POINTS)
    error = None if np.isnan(decay.error).any() else decay.error[::every]
    return Series(name, decay.times_ps[::every], decay.values[::every], error)
