"""Numbers and tables of what was seen."""

import math
from typing import Any

from dynamics.cases import CASES, TEMPERATURE_K, Case
from dynamics.runs import Keeper
from tumble.results import Table, number

CHOICES = (("molecule", "averaged"), ("liquid", "averaged"), ("liquid", "raw"), ("crystal", "averaged"))
"""Systems and slow forces that --mts auto is asked about."""


def numbers(keeper: Keeper, overhead: dict[str, float]) -> dict[str, Any]:
    """Everything, as it goes into the file."""
    rows = []
    for case in CASES:
        seen = keeper.seen(case)
        if seen is not None:
            rows.append(seen | {"predicted": _predicted(keeper, case)})
    for row in rows:
        raw = [one for one in rows if one["system"] == row["system"] and one["name"] == "raw"]
        row["cost"] = row["ms_per_step"] / raw[0]["ms_per_step"] if raw else None
    choices = {f"{system}, {potential}": keeper.choice(system, potential) for system, potential in CHOICES}
    turning = {system: keeper.turning(system) for system in ("molecule", "liquid")}
    return {"overhead": overhead, "runs": rows, "choices": choices, "turning": turning}


def _predicted(keeper: Keeper, case: Case) -> float | None:
    """K/ns, from short records; None where nothing is predicted."""
    if case.turned:
        return keeper.turning(case.system)["heating"]
    if case.steps == 1 and case.potential == "direct":
        return keeper.choice(case.system, "raw")["drift"]
    if case.steps != 1:
        potential = "raw" if case.potential == "raw" else "averaged"
        candidates = keeper.choice(case.system, potential)["candidates"]
        return next((one[3] for one in candidates if one[0] == keeper.steps(case)), None)
    return None


def tables(found: dict[str, Any], rule: str) -> list[Table]:
    """Drifts and costs of all simulations; choices; a step outside the model."""
    rows = [
        (
            f"{one['system']}, {one['ensemble'].upper()}",
            one["name"]
            + (f" (M = {one['steps']})" if one["steps"] > 1 and str(one["steps"]) not in one["name"] else ""),
            one["time_ps"],
            one["cost"],
            f"{number(one['drift'], 2)} ± {number(one['error'], 2)}",
            f"{number(one['heating'], 2)} ± {number(one['heating_error'], 2)}",
            one["predicted"],
            None if one["predicted"] is None else _wandering(one),
            one["scatter"],
        )
        for one in found["runs"]
    ]
    columns = (
        *("system", "forces", "ps", "cost of a step, × raw", "drift, meV/atom/ns", "drift, K/ns", "predicted, K/ns"),
        "± in so short a time, K/ns",
        "scatter, meV/atom",
    )
    note = (
        f"Of the conserved quantity; averages over {rule}. Predicted from the record of the choice, from the spread, "
        "or from λ. Forces that heat by R make the energy wander by 2 k_B T R in a unit of time: in so short a time no "
        "simulation can know the predicted heating better than ±."
    )
    return [Table("Drift and cost", columns, rows, note), _choices(found), _outside(found)]


def _wandering(one: dict[str, Any]) -> float:
    """K/ns, of the rate in a simulation of this length that heats as predicted."""
    return math.sqrt(2 * TEMPERATURE_K * one["predicted"] / (3 * one["n_atoms"] * one["time_ps"] / 1000))


def _choices(found: dict[str, Any]) -> Table:
    shown = (4, 5, 6, 8, 10, 12, 16, 20, 24, 30, 40)
    rows = []
    for name, choice in found["choices"].items():
        for steps, outer_fs, cost, heating, error in choice["candidates"]:
            if steps in shown or steps == choice["steps"]:
                rows.append((name, steps, outer_fs, cost, heating, error, "chosen" if steps == choice["steps"] else ""))
    columns = ("system", "M", "outer step, fs", "cost, × raw", "heating, K/ns", "± K/ns", "")
    note = " ".join(
        f"{name}: {one['reason']}; found in {one['n_raw']:.0f} raw calls." for name, one in found["choices"].items()
    )
    return Table("What --mts auto sees", columns, rows, note)


def _outside(found: dict[str, Any]) -> Table:
    rows = [(ensemble.upper(), 100 * share) for ensemble, share in found["overhead"].items()]
    note = (
        "Everything of a step that is not the model's answer to its batch: neighbours, batch, integrator, thermostat."
    )
    return Table("A step outside the model, 192 atoms", ("ensemble", "% of the model's time"), rows, note)


def page(parts: list[Table], title: str, note: str) -> str:
    """Tables as Markdown."""
    lines = [f"# {title}", "", note, ""]
    for one in parts:
        lines += [f"## {one.title}", "", "| " + " | ".join(one.columns) + " |", "|---" * len(one.columns) + "|"]
        lines += ["| " + " | ".join(number(cell) for cell in row) + " |" for row in one.rows]
        lines += ["", one.note, ""]
    return "\n".join(lines)
