"""Figures of a simulation: what was conserved, energies, temperatures, angular momentum, the cell."""

from typing import Final

import numpy as np

from tumble.jobs.md.desk import VECTORS
from tumble.jobs.md.finding import Finding, Floats
from tumble.jobs.md.settings import MDSettings
from tumble.results import Curve, Series
from tumble.units import MEV

POINTS: Final = 500
"""Of a line; where there are more, each is an average."""

TIME: Final = "time, ps"


def figures(finding: Finding, settings: MDSettings) -> tuple[Curve, ...]:
    """All that have something to show."""
    made = [_conserved(finding), _temperatures(finding, settings), _energies(finding), _turning(finding, settings)]
    made += [_cell(finding, "pressure_GPa", "Pressure", "pressure, GPa")]
    if settings.ensemble == "npt":
        made.append(_cell(finding, "volume_A3", "Volume", "volume, Å³"))
    return tuple(curve for curve in made if any(len(one.x) for one in curve.series))  # type: ignore[arg-type]


def _conserved(finding: Finding) -> Curve:
    series, values = finding.series, finding.series["conserved_eV"]
    lines = [_line("conserved", series["time_ps"], MEV * (values - values[:1]) / finding.n_atoms)]
    if (drift := finding.drift) is not None and np.isfinite(drift.rate):
        times = series["time_ps"][[0, -1]]
        middle = float(np.nanmean(values - values[0])) * MEV / finding.n_atoms
        ends = middle + drift.rate * (times - times.mean()) / 1000
        lines.append(Series("drift", times, ends))
    note = "Potential + kinetic − heat, less what it was at the start."
    return Curve("Conserved quantity", TIME, "change, meV/atom", lines, note=note)


def _energies(finding: Finding) -> Curve:
    series, lines = finding.series, []
    for name, column in (("potential", "potential_eV"), ("kinetic", "kinetic_eV"), ("heat", "heat_eV")):
        values = series[column]
        lines.append(_line(name, series["time_ps"], MEV * (values - values[:1]) / finding.n_atoms))
    return Curve("Energies", TIME, "change, meV/atom", [one for one in lines if len(one.x)])  # type: ignore[arg-type]


def _temperatures(finding: Finding, settings: MDSettings) -> Curve:
    series = finding.series
    names = {"all": "temperature_K"} | {name[2:-2]: name for name in series if name.startswith("T_")}
    lines = [_line(name, series["time_ps"], series[column]) for name, column in names.items()]
    if settings.ensemble != "nve" and len(series["time_ps"]):
        lines.append(Series("thermostat", series["time_ps"][[0, -1]], (settings.temperature_K,) * 2))
    return Curve("Temperatures", TIME, "temperature, K", [one for one in lines if len(one.x)])  # type: ignore[arg-type]


def _turning(finding: Finding, settings: MDSettings) -> Curve:
    vectors = np.stack([finding.series[name] for name in VECTORS[3:]], 1)
    is_free = not any(one.pbc.any() for one in finding.atoms)
    times = finding.series["time_ps"] if is_free else finding.series["time_ps"][:0]
    line = _line("|L|", times, np.linalg.norm(vectors, axis=1)[: len(times)])
    note = "About the centre of mass. " + (
        "Nothing from outside turns it, so that it should stay what it is."
        if settings.ensemble == "nve"
        else "A thermostat that rescales velocities changes its length, friction and noise change all of it."
    )
    return Curve("Angular momentum", TIME, "|L|, eV fs", [line], note=note)


def _cell(finding: Finding, column: str, title: str, label: str) -> Curve:
    return Curve(title, TIME, label, [_line(title.lower(), finding.series["time_ps"], finding.series[column])])


def _line(name: str, times: Floats, values: Floats) -> Series:
    """A line of no more than so many points: averages of consecutive ones; what is not known is left out."""
    known = np.isfinite(values)
    times, values = times[known], values[known]
    size = max(1, -(-len(times) // POINTS))
    starts = np.arange(0, len(times), size)
    if not len(starts):
        return Series(name, (), ())
    counts = np.diff([*starts, len(times)])
    return Series(name, np.add.reduceat(times, starts) / counts, np.add.reduceat(values, starts) / counts)
