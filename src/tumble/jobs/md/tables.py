"""Tables of a simulation: what was run, what was conserved, how hot what was, and what it cost."""

import numpy as np

from tumble.jobs.md.finding import ALL, SETTLING, Finding
from tumble.jobs.md.settings import NONE, MDSettings
from tumble.results import Cell, Table, number
from tumble.units import MEV

Row = tuple[Cell, ...]


def tables(finding: Finding, settings: MDSettings) -> tuple[Table, ...]:
    """All that have something to show, most important first."""
    made = [_conserved(finding), _temperatures(finding, settings), _concerns(finding), _run(finding, settings)]
    made += [_turns(finding)] + ([finding.attribution.table()] if finding.attribution is not None else [])
    return tuple(table for table in made if table.rows)


def _conserved(finding: Finding) -> Table:
    rows: list[Row] = []
    if (drift := finding.drift) is not None:
        rows.append(("conserved quantity", drift.rate, drift.error, "meV/atom/ns"))
        rows.append(("conserved quantity, scatter about its drift", drift.scatter, None, "meV/atom"))
    heat = finding.series["heat_eV"]
    if len(heat) and np.isfinite(heat[-1]) and heat[-1] != 0:
        rows.append(("heat from thermostat and barostat", MEV * float(heat[-1]) / finding.n_atoms, None, "meV/atom"))
    if finding.momenta is not None:
        rows.append(("momentum, largest change", 100 * float(finding.momenta.momentum.max()), None, "% of thermal"))
        if (turning := finding.momenta.angular_momentum) is not None:
            rows.append(("angular momentum, largest change", 100 * float(turning.max()), None, "% of thermal"))
    note = (
        f"In {number(finding.time_ps, 4)} ps. Conserved: potential + kinetic − heat. A drift is the slope of a "
        "straight line; its error is from blocks of the series. Thermal: root mean square at the temperature of the "
        "settings."
    )
    return Table("What was conserved", ("quantity", "value", "error", "unit"), rows, note)


def _temperatures(finding: Finding, settings: MDSettings) -> Table:
    rows: list[Row] = []
    for name, found in finding.temperatures.items():
        apart = None if name == ALL else found.value - finding.temperatures[ALL].value
        rows.append((name, found.value, found.error, apart, found.n_independent))
    columns = ("of", "mean (K)", "error (K)", "above all (K)", "independent samples")
    target = "" if settings.ensemble == "nve" else f" The thermostat is at {settings.temperature_K:g} K."
    note = f"Without the first {100 * SETTLING:g} %. Errors count the correlation of samples.{target}"
    return Table("Temperatures", columns, rows, note)


def _concerns(finding: Finding) -> Table:
    return Table("Before the first step", ("concern",), [(line,) for line in finding.concerns])


def _run(finding: Finding, settings: MDSettings) -> Table:
    rows: list[Row] = [("what", finding.name), ("atoms", finding.n_atoms), ("time (ps)", finding.time_ps)]
    rows += [("ensemble", _ensemble(settings)), ("time steps", _time_steps(finding, settings))]
    if settings.average != NONE or settings.turns != NONE:
        rows.append(("rotations", "a random turn at every step" if settings.turns != NONE else settings.average))
    rows.append(("engine", settings.engine))
    run, effort = finding.run, finding.run.effort
    rows.append(("ended", run.reason or run.ended))
    rows.append(("speed (ns/day)", speed(finding, settings)))
    rows.append(("ms per innermost step", 1000 * effort.seconds / max(1, effort.steps * stride(finding.steps))))
    share = (effort.seconds - effort.in_model) / effort.in_model if effort.in_model else None
    rows.append(("time outside the potential, % of that within", None if share is None else 100 * share))
    names = ["potential"] if not finding.steps else [f"level {k}" for k in range(len(effort.calls))]
    rows += [(f"calls, {name}", count) for name, count in zip(names, effort.calls, strict=True)]
    if np.isfinite(run.closest):
        rows.append(("closest two atoms came, of the sum of covalent radii", run.closest))
    return Table("The simulation", ("what", "value"), rows)


def _turns(finding: Finding) -> Table:
    rows: list[Row] = []
    if (heating := finding.heating) is not None:
        rows = [(name, rate) for name, rate in (("all", heating.mean_K_per_ns), *heating.by_species.items())]
    how = "" if finding.heating is None else finding.heating.how
    note = f"From the scatter of forces over turned frames at the start: {how}. A thermostat takes it away."
    return Table("Heating that random turns are expected to add", ("of", "K/ns"), rows, note)


def speed(finding: Finding, settings: MDSettings) -> float | None:
    """ns/day of all sessions together; None where no step was taken."""
    effort = finding.run.effort
    if not effort.steps or not effort.seconds:
        return None
    ns = effort.steps * stride(finding.steps) * settings.timestep_fs * 1e-6
    return ns / effort.seconds * 86400


def stride(steps: tuple[int, ...]) -> int:
    """Innermost steps to one of the slowest forces."""
    return int(np.prod(steps, dtype=int))


def _ensemble(settings: MDSettings) -> str:
    text = settings.ensemble.upper()
    if settings.ensemble == "nve":
        return text
    text += f", {settings.temperature_K:g} K by {settings.thermostat} of {settings.thermostat_fs:g} fs"
    if settings.ensemble == "npt":
        text += f", {settings.pressure_GPa:g} GPa by an {settings.barostat} barostat of {settings.barostat_fs:g} fs"
    return text


def _time_steps(finding: Finding, settings: MDSettings) -> str:
    times = [settings.timestep_fs]
    for count in finding.steps:
        times.append(times[-1] * count)
    return " | ".join(f"{time:g} fs" for time in times) + (", fast to slow" if finding.steps else "")
