"""Verdicts: whether a simulation went on, kept what it should keep, and heats all elements alike."""

from typing import Final

import numpy as np

from tumble.jobs.md.finding import ALL, Finding
from tumble.jobs.md.settings import NONE, MDSettings
from tumble.results import Verdict, number

SIGMAS: Final = 2.0
"""Standard errors that a number is given before it is held against a threshold."""

DRIFT_NVE: Final = 1.0
"""meV/atom/ns, of the conserved quantity at constant energy: 4 K/ns in a solid or a liquid."""

DRIFT_BATH: Final = 10.0
"""meV/atom/ns, with a thermostat: one of 0.1 ps takes it away at the price of 0.01 K."""

SHARE: Final = 0.02
"""Of the temperature: how far that of an element may be from that of all; 6 K at 300 K."""

FEW: Final = 50
"""Atoms that are not periodic; if they keep their angular momentum, fewer need not be equally hot."""

THERMAL: Final = 10.0
"""%, of a thermal momentum or angular momentum: how far that of the whole may change."""


def judge(finding: Finding, settings: MDSettings) -> tuple[Verdict, ...]:
    """On the watch, on drift, on temperatures and on momenta, as far as there is something to say."""
    made = [_watch(finding), _conserved(finding, settings)]
    if len(finding.temperatures) > 2:
        made.append(_equal(finding, settings))
    if finding.momenta is not None:
        made.append(_momentum(finding, settings))
    return tuple(one for one in made if one is not None)


def _watch(finding: Finding) -> Verdict:
    task, run = "Simulation", finding.run
    if run.ended == "watch":
        remedy = "stopped.extxyz has the frame: look at it; train with such structures, or take a smaller time step"
        return Verdict(task, "no", None, None, "", run.reason, remedy, key="watch")
    reason = {"arrived": "ran to its end", "out of time": "stopped by max_minutes", "interrupted": "interrupted"}[
        run.ended
    ]
    return Verdict(
        task, "yes", None, None, "", f"{reason} after {finding.time_ps:.4g} ps, nothing alarming", key="watch"
    )


def _conserved(finding: Finding, settings: MDSettings) -> Verdict:
    """Drift of the conserved quantity and its error against a threshold."""
    task, unit = "Conserved quantity", "meV/atom/ns"
    limit = DRIFT_NVE if settings.ensemble == "nve" else DRIFT_BATH
    drift = finding.drift
    if drift is None or not np.isfinite([drift.rate, drift.error]).all():
        reason = f"{len(finding.series['time_ps'])} lines of series.csv tell no drift"
        return Verdict(task, "unknown", None, limit, unit, reason, "a longer simulation", key="conserved")
    said = f"drifts by {number(drift.rate)} ± {number(drift.error)} {unit}"
    size = abs(drift.rate)
    if size + SIGMAS * drift.error <= limit:
        return Verdict(task, "yes", size, limit, unit, said, key="conserved")
    if size - SIGMAS * drift.error <= limit:
        reason = f"{said}, and {number(finding.time_ps)} ps do not tell whether that is less than {number(limit)}"
        return Verdict(task, "unknown", size, limit, unit, reason, "a longer simulation", key="conserved")
    return Verdict(task, "remedy", size, limit, unit, said, _remedy(finding, settings), key="conserved")


def _remedy(finding: Finding, settings: MDSettings) -> str:
    """What is most likely to help against a drift."""
    if settings.turns != "none":
        return "average over rotations (average) instead of turning at random"
    if not finding.is_conservative:
        return "forces that are the derivative of the energy, alone or as the slow forces of mts"
    if finding.attribution is not None:
        parts = {
            "a potential whose energy is smooth: the model itself drifts": finding.attribution.model,
            "a smaller time step": finding.attribution.integrator,
            "float64 (--dtype float64)": finding.attribution.dtype,
        }
        known = {name: abs(part.rate) for name, part in parts.items() if part is not None}
        return max(known, key=lambda name: known[name])
    return "fewer fast steps to a slow one" if finding.steps else "a smaller time step, or float64 (--dtype float64)"


def _equal(finding: Finding, settings: MDSettings) -> Verdict:
    """The element whose temperature is farthest from that of all, in units of its error."""
    task, every = "Equal temperatures", finding.temperatures[ALL]
    limit = SHARE * every.value
    apart = {
        name: (one.value - every.value, float(np.hypot(one.error, every.error)))
        for name, one in finding.temperatures.items()
        if name != ALL
    }
    worst = max(apart, key=lambda name: abs(apart[name][0]) - SIGMAS * apart[name][1])
    value, error = apart[worst]
    side = "above" if value > 0 else "below"
    said = f"{worst} is {number(abs(value))} ± {number(error)} K {side} the mean of {number(every.value)} K"
    size = abs(value)
    if finding.momenta is not None and finding.momenta.angular_momentum is not None and finding.n_atoms < FEW:
        reason = f"{said}; so few atoms that keep their angular momentum need not be equally hot"
        return Verdict(task, "unknown", size, limit, "K", reason, "langevin", key="temperature")
    if size + SIGMAS * error <= limit:
        return Verdict(task, "yes", size, limit, "K", said, key="temperature")
    if size - SIGMAS * error <= limit:
        reason = f"{said}; {number(finding.time_ps)} ps do not tell whether that is more than {number(limit)} K"
        return Verdict(task, "unknown", size, limit, "K", reason, "a longer simulation", key="temperature")
    if settings.ensemble != "nve" and settings.thermostat != "langevin" and not finding.is_conservative:
        reason = (
            f"{said}: the forces are no gradient and heat some atoms more than others, and {settings.thermostat} acts "
            "on all alike"
        )
        remedy = "the thermostat langevin, or mts with the derivative of the energy as slow forces"
        return Verdict(task, "remedy", size, limit, "K", reason, remedy, key="temperature")
    remedy = "a longer simulation: vibrations exchange heat slowly" if settings.ensemble == "nve" else "langevin"
    return Verdict(task, "remedy", size, limit, "K", said, remedy, key="temperature")


def _momentum(finding: Finding, settings: MDSettings) -> Verdict:
    """The larger of the changes of momentum and, of what is not periodic, of angular momentum."""
    assert finding.momenta is not None, "asked only where there are any"
    task, unit = "Momentum", "% of thermal"
    changes = {"momentum": float(finding.momenta.momentum.max())}
    if finding.momenta.angular_momentum is not None:
        changes["angular momentum"] = float(finding.momenta.angular_momentum.max())
    worst = max(changes, key=lambda name: changes[name])
    size = 100 * changes[worst]
    said = "; ".join(f"{name} changes by {number(100 * change)} %" for name, change in changes.items())
    if size <= THERMAL:
        return Verdict(task, "yes", size, THERMAL, unit, said, key="momentum")
    remedies = {
        "momentum": "langevin, or forces whose sum vanishes",
        "angular momentum": "average over rotations (average)"
        if settings.average == NONE
        else f"average over a rule of higher degree than {settings.average}",
    }
    return Verdict(task, "remedy", size, THERMAL, unit, said, remedies[worst], key="momentum")
