"""The page of experiments B1, B2 and B3 in Markdown."""

from collections.abc import Callable
from typing import Any

import numpy as np
from speed.numbers import table

from study2024 import published
from study2024.b.facts import Found, Liquid, at, extremes
from study2024.record import SOURCE, short, with_error

TITLES = {"raw": "raw", "averaged": "averaged, MTS", "turned": "random turns"}
BULK = {"raw": "bulk raw", "averaged": "bulk averaged", "turned": "bulk turned"}


def page(head: str, found: Found, settings: dict[str, Any], figure: str) -> list[str]:
    """Tables, and what has to be said to read them."""
    lengths = ", ".join(f"{TITLES[name]} {run.ps:.1f} ps" for name, run in found.runs.items())
    return [
        "# B: liquid water",
        "",
        head,
        "",
        f"{found.n_molecules} H2O at 300 K, stochastic velocity rescaling (10 fs), steps of 0.5 fs; averaged over "
        f"`{settings['average']}` at every tenth step. Simulated so far: {lengths}; published are 500 ps of 512 H2O. "
        f"{SOURCE} Errors are from blocks. Written by `benchmarks/study2024/b/run.py`; what it means is in the README "
        "there.",
        "",
        f"![structure, dynamics, drift]({figure})",
        "",
        "## B3: drift of the conserved quantity, meV per H2O and ns",
        "",
        *_drift(found),
        "",
        "## B1: structure",
        "",
        *_extremes(found),
        "",
        *_along(found),
        "",
        *_maps(found),
        "",
        "## B2: dynamics",
        "",
        *_in_time(found),
    ]


def _drift(found: Found) -> list[str]:
    rows = [
        [
            TITLES[name],
            f"{run.ps:.1f}",
            with_error(run.temperature.value, run.temperature.error),
            with_error(run.drift.rate, run.drift.error),
            short(run.drift.scatter / 1000),
            short(published.DRIFT_meV_per_H2O_per_ns[name]),
        ]
        for name, run in found.runs.items()
    ]
    lines = table(["simulation", "ps", "temperature, K", "ours", "rms about the line, meV/H2O", "published"], rows)
    if found.heating is None:
        return lines
    return [
        *lines,
        "",
        f"Random turns are predicted to add {short(found.heating.rate)} meV/H2O/ns, Σ Δt σ_F² / 2m with forces that "
        f"scatter over orientations by {short(found.heating.forces)} meV/Å per component (rms). Kicks also let the "
        "conserved quantity walk at random, and its error is that of the walk.",
    ]


def _extremes(found: Found) -> list[str]:
    rows = []
    for name, (r, g) in published.G_OO.items():
        cells = []
        for run in found.runs.values():
            one = extremes(run.pairs).get(name)
            cells.append(one and f"{one.r:.2f}: {with_error(one.g, one.error)}")
        rows.append([name, *cells, f"{r}: {g}"])
    return table(["g_OO, Å: height", *(TITLES[name] for name in found.runs), "published"], rows)


def _along(found: Found) -> list[str]:
    def longitudinal(run: Liquid, r: float) -> str | None:
        value = at(r, run.along.r, run.along.longitudinal, run.along.longitudinal_error)
        return value and with_error(*value)

    def transverse(run: Liquid, r: float) -> str | None:
        value = at(r, run.along.r, run.along.transverse, run.along.transverse_error)
        return value and with_error(*value)

    rows = []
    for name, ours, theirs in (
        ("c^L / g", longitudinal, published.C_LONGITUDINAL),
        ("c^T / g", transverse, published.C_TRANSVERSE),
    ):
        rows += _curves(found, name, ours, {r: value for r, value in theirs.items() if 2.6 <= r <= 6})
    return table(["orientations at a distance", *(TITLES[name] for name in found.runs), "published"], rows)


def _curves(
    found: Found, name: str, ours: Callable[[Liquid, float], str | None], theirs: dict[float, float]
) -> list[list[Any]]:
    return [
        [f"{name}, {x:g} Å", *(ours(run, x) for run in found.runs.values()), short(value)]
        for x, value in theirs.items()
    ]


def _maps(found: Found) -> list[str]:
    rows = []
    for name, run in found.runs.items():
        theirs = published.FREE_ENERGY_kT[BULK[name]]
        error = float(np.linalg.norm(run.toward.error))
        rows.append([TITLES[name], short(run.map.std), f"{run.toward.amplitude:.4f} (± {error:.4f})"])
        rows[-1] += [short(theirs["std"]), short(theirs["l1"])]
    head = ["orientational free energy, k_BT", "std", "length of the ℓ = 1 vector", "published std", "published length"]
    return table(head, rows)


def _in_time(found: Found) -> list[str]:
    def turned(run: Liquid, t: float) -> str | None:
        value = at(t, run.turned.times_ps, run.turned.values, run.turned.error)
        return value and with_error(*value)

    def spread(run: Liquid, t: float) -> str | None:
        value = at(t, run.spread.times_ps, run.spread.values, run.spread.error)
        return value and with_error(*value)

    rows = []
    for name, ours, theirs in (("c_uu", turned, published.C_UU), ("MSD of O, Å²", spread, published.MSD_O_A2)):
        for t, value in theirs.items():
            cells = [ours(run, t) for run in found.runs.values()]
            if any(cells):
                rows.append([f"{name}, {t:g} ps", *cells, short(value)])
    return table(["", *(TITLES[name] for name in found.runs), "published"], rows)
