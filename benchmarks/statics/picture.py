"""The figure: bands beside those of DFT, and below them the errors of every variant."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from statics.answers import REFERENCE, VARIANTS
from statics.crystals import SMALL
from statics.facts import KAPPA_SHARE, Found, RMS_THz
from tumble.page.palette import LIGHT

PANELS: Final = (
    ("rms", "rms along the path, THz", RMS_THz),
    ("splitting", "splitting of bands, THz", None),
    ("srd", "|error| of κ", KAPPA_SHARE),
)
COLOURS: Final = dict(zip(VARIANTS, ("c5", "c1", "c4", "c0", "c2"), strict=True))


def draw(every: Sequence[Found], path: Path) -> None:
    """A column for each crystal."""
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "statics", "path.simplify_threshold": 0.5}):
        figure = Figure(figsize=(4.6 * len(every), 8.4), layout="constrained")
        axes = figure.subplots(4, len(every), squeeze=False, height_ratios=(3, 1, 1, 1))
        axes[0, 0].set_ylabel("frequency, THz")
        for column, found in zip(axes.T, every, strict=True):
            bands(column[0], found)
            for one, (field, _, bar) in zip(column[1:], PANELS, strict=True):
                errors(one, found, field, bar)
        for one, (_, text, _) in zip(axes[1:, 0], PANELS, strict=True):
            one.set_ylabel(text.replace(", ", ",\n"), fontsize=8)
        figure.savefig(path, metadata={"Date": None})


def bands(axes: Axes, found: Found) -> None:
    """Bands of the smaller supercell: DFT as a line, ours as dots."""
    known = found.bands[SMALL]
    theirs = known[REFERENCE]
    variant = next(name for name in ("projected", "±", "same", "raw") if name in known)
    ours = known[variant]
    axes.plot(theirs.distances[::2], theirs.frequencies[::2], color=LIGHT["ink"], lw=0.9)
    axes.plot(ours.distances[::8], ours.frequencies[::8], ".", color=LIGHT["c0"], ms=3)
    for x, _ in theirs.ticks:
        axes.axvline(x, color=LIGHT["rule"], lw=0.6, zorder=0)
    axes.set_xticks([x for x, _ in theirs.ticks], [name for _, name in theirs.ticks], fontsize=8)
    axes.set_xlim(theirs.distances[0], theirs.distances[-1])
    axes.set_title(f"{found.title}: DFT (lines), {variant} (dots)", fontsize=10)


def errors(axes: Axes, found: Found, field: str, bar: float | None) -> None:
    """One number of every variant, on a logarithmic scale; the bar is a dashed line."""
    known = {name: found.row(SMALL, name) for name in VARIANTS}
    sizes = {name: abs(value) for name, row in known.items() if row and (value := getattr(row, field)) is not None}
    if not sizes:
        axes.set_axis_off()
        return
    places = [VARIANTS.index(name) for name in sizes]
    drawn = [max(size, 1e-9) for size in sizes.values()]
    axes.scatter(places, drawn, c=[LIGHT[COLOURS[name]] for name in sizes], s=36, zorder=2)
    for place, size, at in zip(places, sizes.values(), drawn, strict=True):
        text = f"{size:.2g}" if size > 1e-9 else "0"
        axes.annotate(text, (place, at), (6, 3), textcoords="offset points", fontsize=7)
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.35)
    axes.set_xlim(-0.5, len(VARIANTS) - 0.2)
    axes.set_xticks(range(len(VARIANTS)), VARIANTS, fontsize=8)
    axes.grid(axis="y", color=LIGHT["rule"], lw=0.5)
    if bar is not None:
        axes.axhline(bar, color=LIGHT["no"], lw=1, ls="--")
