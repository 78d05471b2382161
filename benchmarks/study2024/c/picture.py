"""The figure of experiment C: energies cell by cell, and what turning does to them."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study2024.c.facts import Found, relative
from tumble.page.palette import LIGHT

OURS, TURNED, THEIRS = LIGHT["c0"], LIGHT["c1"], LIGHT["c5"]


def draw(found: Found, path: Path) -> None:
    """Relative energies on the left, raw minus averaged on the right."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    at = np.arange(len(found.cells))
    averaged = found.energy["rest"]["averaged"]
    left.plot(at, relative(found.theirs["averaged"]), "s--", color=THEIRS, mfc="white", label="published, averaged")
    left.plot(at, relative(averaged), "o-", color=OURS, label="averaged")
    left.plot(at, relative(found.energy["rest"]["raw"]), "x", color=TURNED, ms=9, label="raw")
    left.set_ylabel("energy at rest from the mean of the cells\nmeV per molecule")
    apart = 1000 * (found.frames - averaged)
    for one in apart:
        right.plot(at, one, "-", color=LIGHT["rule"], lw=0.8, zorder=0)
        right.plot(at, one, ".", color=TURNED, ms=4)
    right.plot([], [], ".-", color=TURNED, ms=4, label="turned, a line for a frame")
    right.plot(at, 1000 * (found.energy["rest"]["raw"] - averaged), "o-", color=OURS, label="as they lie, relaxed")
    theirs = 1000 * (found.theirs["raw"] - found.theirs["averaged"])
    right.plot(at, theirs, "s--", color=THEIRS, mfc="white", label="published, as they lie")
    right.set_ylabel("raw minus averaged energy\nmeV per molecule")
    for axes in (left, right):
        _finish(axes, [f"{cell:02}" for cell in found.cells])
    figure.savefig(path, dpi=120)


def _finish(axes: Axes, names: list[str]) -> None:
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("cell")
    axes.grid(which="major", color=LIGHT["rule"], lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
