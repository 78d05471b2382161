"""The figure of experiment M2: maps of free energies, and the vector of ℓ = 1 in every way it is known."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study2024.m2.facts import Found, Run
from study2024.m2.tables import TITLES, WAYS
from tumble.page.palette import LIGHT
from tumble.trajectories import SphereMap

COLOURS = {"counted": LIGHT["c5"], "torques": LIGHT["c0"], "energies": LIGHT["c1"]}


def draw(found: Found, path: Path) -> None:
    """A row for each simulation: prediction, what it counted, the components of the vector."""
    n = max(len(found.runs), 1)
    figure = Figure(figsize=(11, 2.9 * n), layout="constrained")
    axes = figure.subplots(n, 3, squeeze=False, width_ratios=(1, 1, 0.9))
    rows = list(found.runs.items()) or [("study", None)]
    for row, (name, run) in zip(axes, rows, strict=True):
        if run is None:
            _map(figure, row[0], found.study.map, "geometries of the study, static")
            continue
        title = f"{TITLES[name]}, {run.temperature_K:.0f} K"
        _map(figure, row[0], run.static.map, f"{title}: predicted")
        _map(figure, row[1], run.map, f"{title}: {run.ns:.2g} ns counted")
        _vector(row[2], run)
    figure.savefig(path, dpi=90)


def _map(figure: Figure, axes: Axes, one: SphereMap, title: str) -> None:
    limit = max(0.01, float(np.abs(one.values).max()))
    degrees = np.degrees(one.azimuths)
    mesh = axes.pcolormesh(degrees, one.cosines, one.values, cmap="RdBu_r", vmin=-limit, vmax=limit, shading="auto")
    figure.colorbar(mesh, ax=axes, label="F / k_BT")
    axes.set(xlabel="φ, degrees", ylabel="cos θ")
    axes.set_title(title, fontsize=9)


def _vector(axes: Axes, run: Run) -> None:
    at = np.arange(3)
    axes.bar(at, run.static.vector.value, 0.75, color=LIGHT["rule"], label="static prediction")
    for shift, (way, text) in zip((-0.22, 0.0, 0.22), WAYS.items(), strict=True):
        vector = getattr(run.moved, way)
        if vector is not None:
            axes.errorbar(at + shift, vector.value, vector.error, fmt="o", ms=4, color=COLOURS[way], label=text)
    axes.axhline(0, color=LIGHT["edge"], lw=0.7)
    axes.set_xticks(at, ["x", "y", "z"])
    axes.set_ylabel("ℓ = 1 vector / k_BT")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=7)
