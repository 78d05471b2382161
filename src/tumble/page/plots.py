"""Curves as SVG: lines, points, bars, histograms and parity plots, drawn by matplotlib without its global state."""

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tumble.page.palette import INK, LIGHT, PAPER, RULE, SOFT, STEPS, themed
from tumble.page.pictures import Key, Picture
from tumble.results import Curve, Series, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

COLOURS = tuple(LIGHT[f"c{index}"] for index in range(6))
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")
RASTERIZED_FROM = 1500
"""Points above which a cloud is stored as an image: smaller, and the eye sees no difference."""
DENSE_FROM = 2000
"""Points above which a parity plot of one series shows how many there are in each of `CELLS` x `CELLS` cells."""
CELLS = 90
PALEST = 2
"""First step of the sequential scale that stands out from the paper."""

STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelcolor": LIGHT[SOFT],
    "axes.edgecolor": LIGHT[SOFT],
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.03,
    "grid.color": LIGHT[RULE],
    "grid.linewidth": 0.6,
    "text.color": LIGHT[INK],
    "xtick.color": LIGHT[SOFT],
    "ytick.color": LIGHT[SOFT],
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "ytick.minor.size": 0.0,
    "xtick.minor.size": 1.5,
    "lines.linewidth": 1.6,
    "figure.dpi": 72.0,
    "savefig.dpi": 200.0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def plot(curve: Curve, salt: str) -> Picture:
    """The curve as a picture.

    Args:
        curve: what to draw.
        salt: makes the names within the SVG unique on the page.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the browser has the letters that matplotlib's font lacks
        mpl.rcdefaults()  # what the user has chosen for other figures does not reach this page
        mpl.rcParams.update(STYLE | {"svg.hashsalt": salt})
        figure = Figure(figsize=(5.4, 4.2) if curve.kind == "parity" else (5.4, 3.3), layout="constrained")
        axes = figure.subplots()
        axes.set_xlabel(_cut(curve.x_label, 70))
        axes.set_ylabel(_cut(curve.y_label, 45))
        if _shown(curve).any():
            for is_log, scale in zip(_log_axes(curve), (axes.set_xscale, axes.set_yscale), strict=True):
                scale("log" if is_log else "linear")
            _DRAW[curve.kind](axes, curve)
            _ticks(axes)
            _name_places(axes, curve)
        else:
            axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color=LIGHT[SOFT])
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    said = _numbers(curve)
    names = ", ".join(dict.fromkeys(one.group or one.name for one in curve.series))
    form = {"line": "Line plot", "bars": "Bar chart"}.get(curve.kind, f"{curve.kind.capitalize()} plot")
    alt = f"{form} of {curve.y_label} against {curve.x_label}: {names}. {said}"
    return Picture(curve.title, curve.note, _inline(file.getvalue()), alt, said, _keys(curve))


def _log_axes(curve: Curve) -> tuple[bool, bool]:
    """Which axes are logarithmic: those that were asked for, if anything on them is positive."""
    x = [_finite(one.x) for one in curve.series if not one.has_words]
    y = [_finite(one.y) for one in curve.series]
    has_positive = [any((one > 0).any() for one in along) for along in (x, y)]
    along_x, along_y = curve.log_x and has_positive[0], curve.log_y and (has_positive[1] or curve.kind == "histogram")
    return (along_x and along_y, along_x and along_y) if curve.kind == "parity" else (along_x, along_y)


def _shown(curve: Curve) -> NDArray[np.bool_]:
    """Which points of all series together can be drawn: finite, and positive on a logarithmic axis."""
    masks = []
    for one in curve.series:
        along = [] if one.has_words else [(_log_axes(curve)[0], np.asarray(one.x, float))]
        if np.size(one.y) == np.size(one.x):
            along.append((_log_axes(curve)[1] and curve.kind != "bars", np.asarray(one.y, float)))
        masks.append(np.all([np.isfinite(v) & ((v > 0) | (not is_log)) for is_log, v in along], axis=0))
    return np.concatenate(masks) if masks else np.zeros(0, bool)


def looks(curve: Curve) -> list[int]:
    """The index of each series by which it is coloured: one for each group, and for each series without one."""
    names = [one.group or f"{index} {one.name}" for index, one in enumerate(curve.series)]
    order = list(dict.fromkeys(names))
    return [order.index(name) for name in names]


def _draw_line(axes: "Axes", curve: Curve) -> None:
    for index, one in zip(looks(curve), curve.series, strict=True):
        x, y = _numbers_of(one)
        colour, marker = COLOURS[index % 6], MARKERS[index % 6] if len(x) <= 25 and not one.group else None
        width = 1.1 if one.group else None
        axes.plot(
            x, y, color=colour, linestyle=DASHES[index % 6], marker=marker, markersize=3.8, linewidth=width, zorder=3
        )
        if one.error is not None:
            error = np.asarray(one.error, float)
            axes.fill_between(x, y - error, y + error, color=colour, alpha=0.18, linewidth=0)


def _draw_scatter(axes: "Axes", curve: Curve) -> None:
    many = sum(np.size(one.x) for one in curve.series)
    small = many > 200
    for index, one in enumerate(curve.series):
        x, y = _numbers_of(one)
        axes.plot(
            x,
            y,
            color=COLOURS[index % 6],
            linestyle="none",
            marker=MARKERS[index % 6],
            markersize=2.4 if small else 4.2,
            markeredgecolor="none" if small else LIGHT[PAPER],
            markeredgewidth=0.5,
            alpha=0.55 if small else 1.0,
            rasterized=many > RASTERIZED_FROM,
            zorder=3,
        )
        if one.error is not None:
            axes.errorbar(x, y, one.error, fmt="none", ecolor=COLOURS[index % 6], elinewidth=0.9, zorder=2)


def _draw_bars(axes: "Axes", curve: Curve) -> None:
    has_words = any(one.has_words for one in curve.series)
    labels = list(dict.fromkeys(_word(value) for one in curve.series for value in _values(one)))
    places = sorted({float(v) for one in curve.series for v in _numbers_of(one)[0]}) if not has_words else []
    step = 1.0 if has_words or len(places) < 2 else float(np.diff(places).min())
    width = 0.8 * step / len(curve.series)
    for index, one in enumerate(curve.series):
        y = np.asarray(one.y, float)
        x = np.array([labels.index(_word(v)) for v in _values(one)], float) if has_words else _numbers_of(one)[0]
        x = x + width * (index - (len(curve.series) - 1) / 2)
        axes.bar(x, y, width * 0.94, color=COLOURS[index % 6], zorder=2)
        if one.error is not None:
            axes.errorbar(x, y, one.error, fmt="none", ecolor=LIGHT[INK], elinewidth=0.9, capsize=2, zorder=3)
    if has_words:
        slanted = sum(min(len(label), 24) for label in labels) > 55
        short = [_cut(label, 24) for label in labels]
        axes.set_xticks(range(len(labels)), short, rotation=35 if slanted else 0, ha="right" if slanted else "center")
    elif len(places) <= 20:
        axes.set_xticks(places, [number(value) for value in places])
    axes.grid(False, axis="x")
    heights = _finite(np.concatenate([one.y for one in curve.series]))
    if axes.get_yscale() == "log":
        axes.set_ylim(bottom=10 ** np.floor(np.log10(heights[heights > 0].min()) - 0.3))
    elif (heights < 0).any():
        axes.axhline(0, color=LIGHT[SOFT], linewidth=0.7)


def _draw_histogram(axes: "Axes", curve: Curve) -> None:
    from matplotlib.ticker import MaxNLocator

    clouds = [_finite(one.x) for one in curve.series if np.size(one.y) == 0]
    shared = _edges(np.concatenate(clouds), axes.get_xscale() == "log") if clouds else np.zeros(2)
    for index, one in enumerate(curve.series):
        x, y = np.asarray(one.x, float), np.asarray(one.y, float)
        if not len(y):
            edges, counts = shared, np.histogram(_finite(x), shared)[0].astype(float)
        elif len(x) == len(y):
            middles = (x[1:] + x[:-1]) / 2 if len(x) > 1 else x + 0.5
            edges, counts = np.concatenate([[2 * x[0] - middles[0]], middles, [2 * x[-1] - middles[-1]]]), y
            edges = edges[: len(y) + 1]
        else:
            edges, counts = x, y
        axes.stairs(counts, edges, fill=True, color=COLOURS[index % 6], alpha=0.35 if len(curve.series) > 1 else 0.8)
        axes.stairs(counts, edges, color=COLOURS[index % 6], linewidth=1.1, linestyle=DASHES[index % 6], zorder=3)
    axes.grid(False, axis="x")
    if axes.get_yscale() == "log":
        axes.set_ylim(bottom=0.7)
    else:
        axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def _draw_parity(axes: "Axes", curve: Curve) -> None:
    (_draw_density if _is_dense(curve) else _draw_scatter)(axes, curve)
    shown = np.concatenate([np.stack([one.x, one.y]) for one in curve.series], axis=1)[:, _shown(curve)]
    low, high = float(shown.min()), float(shown.max())
    if axes.get_xscale() == "log":
        low, high = low / 1.1, high * 1.1
    else:
        margin = 0.04 * (high - low) or 1.0
        low, high = low - margin, high + margin
        axes.locator_params(axis="x", nbins=6)  # long numbers would touch
    axes.plot([low, high], [low, high], color=LIGHT[SOFT], linewidth=0.9, zorder=1)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")


def _is_dense(curve: Curve) -> bool:
    return curve.kind == "parity" and len(curve.series) == 1 and int(_shown(curve).sum()) > DENSE_FROM


def _draw_density(axes: "Axes", curve: Curve) -> None:
    """Points counted in cells, whose colours go in steps of equal ratio; a cell without a point stays empty."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    points = np.stack(_numbers_of(curve.series[0]))[:, _shown(curve)]
    is_log = axes.get_xscale() == "log"
    x, y = np.log(points) if is_log else points
    ends = (min(x.min(), y.min()), max(x.max(), y.max()))
    counts, edges, _ = np.histogram2d(x, y, CELLS, (ends, ends))
    edges = np.exp(edges) if is_log else edges
    steps = STEPS - PALEST
    level = np.ceil(np.log1p(counts) / np.log1p(counts.max()) * steps).astype(int) - 1
    for step in range(steps):
        # One path of all cells of a colour: a hundred times smaller than a mesh.
        square = [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]
        cells = [Path(edges[cell + np.array(square)], closed=True) for cell in np.argwhere(level == step)]
        if cells:
            colour = LIGHT[f"q{step + PALEST}"]
            axes.add_patch(
                PathPatch(Path.make_compound_path(*cells), facecolor=colour, edgecolor=colour, linewidth=0.2, zorder=2)
            )


_DRAW: dict[str, Callable[["Axes", Curve], None]] = {
    "line": _draw_line,
    "scatter": _draw_scatter,
    "bars": _draw_bars,
    "histogram": _draw_histogram,
    "parity": _draw_parity,
}


def _edges(samples: Floats, log: bool) -> Floats:
    """Bins of samples that are pooled over all series: 8 to 50, as the width of their middle half suggests."""
    if log:
        return 10 ** _edges(np.log10(samples[samples > 0]), False)
    if not len(samples) or np.ptp(samples) <= 1e-12 * np.abs(samples).max():
        centre = samples[0] if len(samples) else 0.0
        half = 0.5 * abs(centre) or 0.5
        return np.linspace(centre - half, centre + half, 10)
    width = 2 * np.subtract(*np.percentile(samples, [75, 25])) / len(samples) ** (1 / 3)
    count = int(np.clip(np.ptp(samples) / width if width > 0 else 8, 8, 50))
    return np.linspace(samples.min(), samples.max(), count + 1)


def _ticks(axes: "Axes") -> None:
    """Plain numbers at the ticks: the page's own font has no mathematics."""
    from matplotlib.ticker import FuncFormatter, ScalarFormatter

    for axis, scale, limits in (
        (axes.xaxis, axes.get_xscale(), axes.get_xlim()),
        (axes.yaxis, axes.get_yscale(), axes.get_ylim()),
    ):
        if scale == "log":
            decades = abs(float(np.log10(limits[1] / limits[0])))
            shown = (2, 5) if decades > 0.7 else (2, 3, 4, 5, 6, 7, 8, 9)
            axis.set_major_formatter(FuncFormatter(lambda value, _: _decade(value)))
            axis.set_minor_formatter(
                FuncFormatter(
                    lambda value, _, shown=shown, few=decades < 1.6: (
                        _decade(value) if few and round(value / 10 ** np.floor(np.log10(value) + 1e-9)) in shown else ""
                    )
                )
            )
        elif isinstance(axis.get_major_formatter(), ScalarFormatter):
            formatter = ScalarFormatter(useOffset=False, useMathText=False)
            formatter.set_powerlimits((-4, 5))
            axis.set_major_formatter(formatter)


def _name_places(axes: "Axes", curve: Curve) -> None:
    """Named places on the x axis, each with a vertical rule."""
    if curve.ticks:
        places, names = zip(*curve.ticks, strict=True)
        axes.set_xticks(places, names)
        axes.xaxis.grid(True, color=LIGHT[SOFT], linewidth=0.7)
        axes.set_xlim(min(places), max(places))
        axes.tick_params(axis="x", length=0)


def _decade(value: float) -> str:
    power = np.log10(value)
    if -3 <= power <= 4:
        return f"{value:.5g}"
    return number(value, 1).replace("1\u202f×\u202f", "")


def _numbers(curve: Curve) -> str:
    """What the picture shows, in numbers."""
    said = []
    for one in [one for one in curve.series if not one.group][:4]:
        name = f"{one.name}: " if len(curve.series) > 1 else ""
        if curve.kind == "parity":
            x, y = (np.asarray(v, float) for v in (one.x, one.y))
            error = _finite(y - x)
            if len(error):
                mean, square = number(float(np.abs(error).mean())), number(float(np.sqrt(np.square(error).mean())))
                dense = ", more where it is darker" if _is_dense(curve) else ""
                said.append(f"{name}MAE {mean}, RMSE {square}, {len(error)} points{dense}")
        elif curve.kind == "histogram" and not np.size(one.y):
            x = _finite(one.x)
            if len(x):
                said.append(
                    f"{name}median {number(float(np.median(x)))}, largest {number(float(x.max()))}, {len(x)} values"
                )
        elif curve.kind == "line" and len(y := _finite(one.y)) > 1:
            first, last = number(float(y[0])), number(float(y[-1]))
            said.append(f"{name}{first}" if first == last else f"{name}from {first} to {last}")
        elif curve.kind == "bars" and len(_finite(one.y)) > 1:
            top = int(np.nanargmax(np.asarray(one.y, float)))
            said.append(f"{name}largest {number(float(np.asarray(one.y, float)[top]))} at {_word(_values(one)[top])}")
    text = "; ".join(said) + "." if said else ""
    if hidden := int((~_shown(curve)).sum()):
        text += f" Not shown: {hidden} points that are not finite, or not positive where an axis is logarithmic."
    return text[:1].upper() + text[1:] if len(curve.series) == 1 else text.strip()


def _keys(curve: Curve) -> tuple[Key, ...]:
    if len(curve.series) < 2:
        return ()
    form = {"line": "line", "scatter": "marker", "parity": "marker"}.get(curve.kind, "box")
    names = {index: one.group or one.name for index, one in zip(looks(curve), curve.series, strict=True)}
    return tuple(Key(name, index, form) for index, name in names.items()) if len(names) > 1 else ()  # type: ignore[arg-type]


def _cut(text: str, longest: int) -> str:
    """A label that leaves room for the figure; all of it is in the text for those who do not see the figure."""
    return text if len(text) <= longest else f"{text[: longest - 1].rstrip()}…"


def _values(series: Series) -> list[Any]:
    return list(np.asarray(series.x).tolist())


def _word(value: str | float) -> str:
    return value if isinstance(value, str) else number(value)


def _numbers_of(series: Series) -> tuple[Floats, Floats]:
    return np.asarray(series.x, dtype=np.float64), np.asarray(series.y, dtype=np.float64)


def _finite(values: Any) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def _inline(svg: str) -> str:
    """An SVG file as a part of an HTML page: without header, metadata, global style and superfluous digits."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box, "matplotlib writes a viewBox"
    svg = re.sub(r"<svg[^>]*>", f'<svg {box[0]} aria-hidden="true">', svg, count=1)
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda name: name[0] if name[1] in used else "", svg)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    svg = re.sub(r'<text style="[^"]*"', lambda text: _font(text[0]), svg)
    return re.sub(r"\n\s*", "\n", themed(svg)).strip()


def _font(style: str) -> str:
    """The style of a text with its size only: the page has its own fonts."""
    return re.sub(r"font-family: [^;\"]*;?", "", re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", style))
