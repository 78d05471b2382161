"""The figure of experiments B: g_OO, orientations at a distance, c_uu(t), and the conserved quantity."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study2024 import published
from study2024.b.facts import Found
from study2024.b.tables import TITLES
from tumble.page.palette import LIGHT

COLOURS = {"raw": LIGHT["c0"], "averaged": LIGHT["c2"], "turned": LIGHT["c1"]}
THEIRS = LIGHT["c5"]


def draw(found: Found, path: Path) -> None:
    """Four panels."""
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    (pairs, along), (turned, spread) = figure.subplots(2, 2)
    for name, run in found.runs.items():
        style = {"color": COLOURS[name], "lw": 1.2, "label": TITLES[name]}
        pairs.plot(run.pairs.r, run.pairs.g, **style)
        beyond = run.along.r > 2.5  # below, there are next to no pairs
        along.plot(run.along.r[beyond], run.along.longitudinal[beyond], **style)
        along.plot(run.along.r[beyond], run.along.transverse[beyond], color=COLOURS[name], lw=1.2, ls=":")
        for axes, decay in ((turned, run.turned), (spread, run.spread)):
            axes.plot(decay.times_ps, decay.values, **style)
            low, high = decay.values - decay.error, decay.values + decay.error
            axes.fill_between(decay.times_ps, low, high, color=COLOURS[name], alpha=0.15, lw=0)
    last = max(run.turned.times_ps[-1] for run in found.runs.values())
    _published(pairs, dict(published.G_OO.values()))
    _published(along, published.C_LONGITUDINAL)
    _published(along, published.C_TRANSVERSE)
    _published(turned, {t: value for t, value in published.C_UU.items() if t <= last})
    _published(spread, {t: value for t, value in published.MSD_O_A2.items() if t <= last})
    pairs.set(xlim=(2, 8), xlabel="Å", ylabel="g_OO")
    along.set(xlim=(2.4, 8), ylim=(-0.15, 0.45), xlabel="Å", ylabel="c^L / g (full), c^T / g (dotted)")
    turned.set(xlabel="ps", ylabel="c_uu(t)")
    spread.set(xlabel="ps", ylabel="MSD of O, Å²")
    for axes in (pairs, along, turned, spread):
        axes.grid(which="major", color=LIGHT["rule"], lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    pairs.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)


def _published(axes: Axes, points: dict[float, float]) -> None:
    axes.plot(list(points), list(points.values()), "s", color=THEIRS, mfc="white", ms=5, label="published")
