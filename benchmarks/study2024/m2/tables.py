"""The page of experiment M2 in Markdown."""

from typing import Any

import numpy as np
from speed.numbers import table

from study2024.m2.facts import Found, Run
from study2024.m2.orientation import RULE, Static, distance
from study2024.published import FREE_ENERGY_kT, L1_RUN_kT, L1_STATIC_kT
from study2024.record import SOURCE, short
from tumble.rotations import Rotations
from tumble.trajectories import SphereMap, Vector

TITLES = {"raw": "raw", "averaged": "averaged", "cold": "raw, cold"}
WAYS = {"counted": "directions counted", "torques": "from torques on the way", "energies": "from E − Ē on the way"}


def page(head: str, found: Found, settings: dict[str, Any], figure: str) -> list[str]:
    """Tables, and what has to be said to read them."""
    n_nodes = len(Rotations.parse(RULE))
    return [
        "# M2: where a molecule points",
        "",
        head,
        "",
        f"{settings['replicas']} molecules side by side, each on its own, Langevin's thermostat (100 fs), steps of 0.5 "
        f"fs (1 fs where it is cold); the average is over `{settings['average']}`, with multiple time steps of 5 "
        f"and 0.5 fs. The static prediction is −√3⟨u⟩ with p(Q) ∝ exp(−E(Q)/k_BT) over `{RULE}`, {n_nodes} "
        "orientations of geometries met in the simulation, 128 of raw ones; errors in brackets are over replicas and "
        f"over geometries. {SOURCE} Written by `benchmarks/study2024/m2/run.py`; what it means is in the README there.",
        "",
        f"![free energies]({figure})",
        "",
        "## The vector of ℓ = 1, in k_BT",
        "",
        *_vectors(found),
        "",
        "## The whole map, in k_BT",
        "",
        *_maps(found),
    ]


def _vectors(found: Found) -> list[str]:
    rows: list[list[str]] = []
    for name, run in found.runs.items():
        rows.append([f"**{TITLES[name]}, {run.temperature_K:.0f} K, {short(run.ns)} ns**", *[""] * 5])
        rows.append(["static prediction", *_cells(run.static.vector), ""])
        ways = {text: getattr(run.moved, way) for way, text in WAYS.items()}
        rows += [[text, *_cells(one), _distance(run, one)] for text, one in ways.items() if one is not None]
    rows.append(["**geometries of the study, 300 K**", *[""] * 5])
    rows.append(["static prediction", *_cells(found.study.vector), ""])
    run_kT, static_kT = np.array(L1_RUN_kT), np.array(L1_STATIC_kT)
    apart = float(np.linalg.norm(run_kT - static_kT) / np.linalg.norm(static_kT))
    rows.append(["**published, raw, 300 K**", *[""] * 5])
    rows.append(["static prediction", *_plain(static_kT), ""])
    rows.append(["map of the simulation", *_plain(run_kT), f"{100 * apart:.0f} %"])
    return table(["", "x", "y", "z", "length", "distance from static"], rows)


def _plain(vector: np.ndarray) -> list[str]:
    return [*(f"{one:+.3f}" for one in vector), f"{np.linalg.norm(vector):.4f}"]


def _cells(vector: Vector) -> list[str]:
    parts = [f"{value:+.4f} ({error:.4f})" for value, error in zip(vector.value, vector.error, strict=True)]
    return [*parts, f"{vector.amplitude:.4f}"]


def _distance(run: Run, vector: Vector) -> str:
    if run.static.vector.amplitude < 5 * float(np.linalg.norm(run.static.vector.error)):
        return ""  # next to nothing is predicted that it could be a share of
    share, error = distance(vector, run.static.vector)
    return f"{100 * share:.0f} % (± {100 * error:.0f})"


def _maps(found: Found) -> list[str]:
    rows: list[list[Any]] = []
    for name, run in found.runs.items():
        rows.append([f"{TITLES[name]}, {run.temperature_K:.0f} K, static", *_static(run.static)])
        rows.append([f"{TITLES[name]}, {run.temperature_K:.0f} K, simulation", *_map(run.map), None])
    rows.append(["geometries of the study, static", *_static(found.study)])
    for name in ("molecule raw", "molecule averaged"):
        theirs = FREE_ENERGY_kT[name]
        share = (theirs["l1"] / theirs["std"]) ** 2
        cells = [short(theirs[key]) for key in ("std", "min", "max")]
        rows.append([f"published, {name}, simulation", *cells, f"{100 * share:.0f} %", None])
    return [
        *table(["", "std", "min", "max", "of its variance in ℓ = 1", "std of E over orientations"], rows),
        "",
        "A map of a simulation holds the noise of its length: that of the average has no other content.",
    ]


def _static(one: Static) -> list[str | None]:
    return [*_map(one.map), short(one.std)]


def _map(one: SphereMap) -> list[str | None]:
    return [
        short(one.std),
        short(float(one.values.min())),
        short(float(one.values.max())),
        f"{100 * one.shares[0]:.0f} %",
    ]
