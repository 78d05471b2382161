"""Maps over the sphere of orientations, and atoms: drawn as SVG by hand, because their geometry is ours."""

from html import escape

import numpy as np
from numpy.typing import NDArray

from tumble.page.palette import BANDS, STEPS
from tumble.page.pictures import Picture, Scale
from tumble.results import Map, Sketch, number

Floats = NDArray[np.float64]

DIRECTIONS = (
    (0, 0, "x"),
    (90, 0, "y"),
    (-90, 0, "−y"),
    (0, 90, "z"),
    (0, -90, "−z"),
    (179.99, 0, "−x"),
    (-179.99, 0, "−x"),
)
"""Longitude, latitude and name of the axes."""


def draw_map(fact: Map) -> Picture:
    """The whole sphere in Hammer's projection, which keeps areas: what looks large is likely."""
    longitude, latitude, values = _whole_sphere(fact)
    limit = float(np.abs(values).max()) or 1.0
    x, y = _hammer(*np.meshgrid(longitude, latitude))
    parts = [_bands(x, y, values, limit), _graticule()]
    for place, name in ((np.argmax(values), "largest"), (np.argmin(values), "smallest")):
        row, column = np.unravel_index(place, values.shape)
        parts.append(
            f'<circle class="spot" cx="{x[row, column]:.1f}" cy="{y[row, column]:.1f}" r="4"><title>{name}: '
            f"{number(float(values[row, column]))}\u00a0{escape(fact.unit)}</title></circle>"
        )
    for lon, lat, name in DIRECTIONS:
        px, py = _hammer(np.array(float(lon)), np.array(float(lat)))
        outward = {"z": (0, -8), "−z": (0, 15), "−x": (14 if lon > 0 else -14, 4)}.get(name, (0, 4))
        parts.append(f'<text class="axis" x="{px + outward[0]:.1f}" y="{py + outward[1]:.1f}">{name}</text>')
    weights = np.cos(np.radians(latitude))[:, None]
    spread = float(np.sqrt((weights * values**2).sum() / (weights.sum() * values.shape[1])))
    low, high = float(np.min(fact.values)), float(np.max(fact.values))
    said = f"From {number(low)} to {_with(high, fact.unit)}, rms {_with(spread, fact.unit)}; rings mark both ends."
    ticks = (_with(-limit, fact.unit), "0", _with(limit, fact.unit))
    return Picture(
        fact.title,
        fact.note,
        f'<svg viewBox="-222 -122 444 244" class="map" aria-hidden="true">{"".join(parts)}</svg>',
        f"Map over the sphere of orientations. {said}",
        said,
        scale=Scale(tuple(f"d{band}" for band in range(BANDS)), ticks),
    )


def _hammer(longitude: Floats, latitude: Floats) -> tuple[Floats, Floats]:
    """Degrees to the plane, x from -200 to 200 and y, downwards, from -100 to 100.

    Source: E. Hammer, Petermanns Geographische Mitteilungen 38, 85 (1892).
    """
    half, lat = np.radians(longitude) / 2, np.radians(latitude)
    scale = 100 / np.sqrt(1 + np.cos(lat) * np.cos(half))
    return 2 * scale * np.cos(lat) * np.sin(half), -scale * np.sin(lat)


def _whole_sphere(fact: Map) -> tuple[Floats, Floats, Floats]:
    """The values on a fine grid over the whole sphere, cubic between those that were given."""
    from scipy.interpolate import RectBivariateSpline

    given = np.nan_to_num(np.asarray(fact.values, float))
    lon = (np.asarray(fact.longitude, float) + 180) % 360 - 180
    lon, columns = np.unique(np.round(lon, 9), return_index=True)
    lat, rows = np.unique(np.asarray(fact.latitude, float), return_index=True)
    given = given[np.ix_(rows, columns)]
    around = np.concatenate([lon - 360, lon, lon + 360])
    given = np.tile(given, 3)
    for pole, row in ((-90.0, 0), (90.0, -1)):
        if abs(lat[row] - pole) > 1e-6:  # a grid between the poles: the pole is the mean of the ring around it
            ring = np.full((1, given.shape[1]), given[row].mean())
            given = np.vstack([ring, given] if row == 0 else [given, ring])
            lat = np.append(lat, pole) if row else np.insert(lat, 0, pole)
    longitude, latitude = np.linspace(-180, 180, 145), np.linspace(-90, 90, 73)
    fine = RectBivariateSpline(lat, around, given)(latitude, longitude)
    return longitude, latitude, np.clip(fine, given.min(), given.max())


def _bands(x: Floats, y: Floats, values: Floats, limit: float) -> str:
    """Filled contours, one path per colour."""
    from matplotlib.figure import Figure

    edges = np.linspace(-limit, limit, BANDS + 1) * (1 + 1e-9)
    filled = Figure().subplots().contourf(x, y, values, levels=edges)
    drawn = []
    for band, path in enumerate(filled.get_paths()):
        rings = ["L".join(f"{px:.1f} {py:.1f}" for px, py in np.asarray(ring)) for ring in path.to_polygons()]
        if rings:
            data = "M" + "ZM".join(rings) + "Z"
            drawn.append(f'<path d="{data}" fill="var(--d{band})" stroke="var(--d{band})" fill-rule="evenodd"/>')
    return "".join(drawn)


def _graticule() -> str:
    lines = []
    for lon in range(-180, 181, 45):
        x, y = _hammer(np.full(61, float(lon)), np.linspace(-90, 90, 61))
        lines.append(("rim" if abs(lon) == 180 else "grid", x, y))
    for lat in (-60, -30, 0, 30, 60):
        x, y = _hammer(np.linspace(-180, 180, 91), np.full(91, float(lat)))
        lines.append(("grid", x, y))
    return "".join(
        f'<polyline class="{name}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))}"/>'
        for name, x, y in lines
    )


def draw_atoms(fact: Sketch) -> Picture:
    """The atoms seen from the side, far ones first, coloured and sized by their value."""
    from ase.data import chemical_symbols

    numbers, values = np.asarray(fact.numbers, int), np.asarray(fact.values, float)
    names = [f"{chemical_symbols[z] if z < len(chemical_symbols) else z}\u00a0{i}" for i, z in enumerate(numbers)]
    low, high, colours = _range(values)
    said = _said(values, names, fact.unit)
    ticks = (_with(low, fact.unit), number((low + high) / 2), _with(high, fact.unit))
    return Picture(
        fact.title,
        fact.note,
        _atoms_svg(fact, names, [_colour(value, low, high, colours) for value in values]),
        f"Drawing of {len(numbers)} atoms. {said}",
        said,
        scale=Scale(colours, ticks) if np.isfinite(values).any() else None,
    )


def _atoms_svg(fact: Sketch, names: list[str], fills: list[str]) -> str:
    from ase.data import covalent_radii

    positions, cell = np.reshape(np.asarray(fact.positions, float), (-1, 3)), np.asarray(fact.cell, float)
    values = np.nan_to_num(np.abs(np.asarray(fact.values, float)))
    radii = covalent_radii[np.clip(np.asarray(fact.numbers, int), 0, len(covalent_radii) - 1)]
    has_cell = any(np.asarray(fact.pbc)) and bool(np.abs(cell).any())
    view = _view(positions, has_cell)
    edges = _edges(cell) @ view if has_cell else np.zeros((0, 2, 3))
    seen = positions @ view
    corner, scale, width, height = _frame(np.concatenate([seen, edges.reshape(-1, 3)])[:, :2])

    def line(kind: str, ends: Floats) -> tuple[float, str]:
        (x1, y1), (x2, y2) = (ends[:, :2] - corner) * scale * [1, -1]
        return float(ends[:, 2].mean()), f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'

    drawn = 0.7 * radii * (0.85 + 0.3 * values / (values.max(initial=0) or 1.0))
    items = [line("cell", ends) for ends in edges]
    items += [line("bond", _between(seen[pair], drawn[pair])) for pair in _bonds(positions, radii)]
    for point, size, name, fill, value in zip(
        seen, scale * drawn, names, fills, np.asarray(fact.values, float), strict=True
    ):
        x, y = (point[:2] - corner) * scale * [1, -1]
        title = f"<title>{name}: {escape(_with(value, fact.unit))}</title>"
        items.append((point[2], f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" fill="{fill}">{title}</circle>'))
    inside = "".join(svg for _, svg in sorted(items, key=lambda item: -item[0]))
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" class="atoms" aria-hidden="true">{inside}</svg>'


def _view(positions: Floats, has_cell: bool) -> Floats:
    """Columns right, up and away: a crystal a little from above and from the side, a molecule on its broad side."""
    if has_cell or len(positions) < 2:
        turn, tilt = np.radians(18), np.radians(12)
        right = np.array([np.cos(turn), np.sin(turn), 0])
        away = np.array([-np.sin(turn) * np.cos(tilt), np.cos(turn) * np.cos(tilt), -np.sin(tilt)])
        return np.stack([right, np.cross(right, away), away], axis=1)
    right, up, _ = np.linalg.svd(positions - positions.mean(axis=0))[2]
    right, up = (axis * (-1 if axis[np.abs(axis).argmax()] < 0 else 1) for axis in (right, up))
    return np.stack([right, up, np.cross(up, right)], axis=1)


def _frame(points: Floats) -> tuple[Floats, float, float, float]:
    """Upper left corner in Å, pixels per Å, and width and height in pixels, so that the points fill 520 by 360."""
    points = points if len(points) else np.zeros((1, 2))
    low, high = points.min(axis=0) - 0.9, points.max(axis=0) + 0.9
    width, height = high - low
    scale = min(520 / width, 360 / height, 75.0)
    middle = (low[0] + high[0]) / 2
    return np.array([middle - 260 / scale, high[1]]), scale, 520.0, height * scale


def _edges(cell: Floats) -> Floats:
    """The twelve edges of the cell, (12, 2, 3)."""
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    pairs = [(a, b) for a in corners for b in corners if (b - a).sum() == 1 and (b >= a).all()]
    return np.array(pairs) @ cell


def _bonds(positions: Floats, radii: Floats) -> list[list[int]]:
    """Pairs of atoms that are about as close as a covalent bond; none in a drawing too large to show them."""
    if not 1 < len(positions) <= 1000:
        return []
    distances = np.sqrt(np.square(positions[:, None] - positions[None]).sum(axis=-1))
    bonded = np.triu(distances < 1.15 * (radii[:, None] + radii[None]), k=1)
    return [[int(i), int(j)] for i, j in np.argwhere(bonded)]


def _between(ends: Floats, radii: Floats) -> Floats:
    """The part of a bond that is outside its two atoms."""
    along = ends[1] - ends[0]
    along = along / np.linalg.norm(along)
    return np.stack([ends[0] + 0.9 * radii[0] * along, ends[1] - 0.9 * radii[1] * along])


def _range(values: Floats) -> tuple[float, float, tuple[str, ...]]:
    """Low and high end of the colours: centred on zero for both signs, else from zero if that is near enough."""
    finite = values[np.isfinite(values)]
    low, high = float(finite.min(initial=np.inf)), float(finite.max(initial=-np.inf))
    if not len(finite):
        low, high = 0.0, 1.0
    if low < 0 < high:
        limit = max(-low, high)
        return -limit, limit, tuple(f"d{band}" for band in range(BANDS))
    if 0 <= low <= 0.7 * high or low == high == 0:
        low = 0.0
    if low == high:
        high = low + (abs(low) or 1.0)
    return low, high, tuple(f"q{step}" for step in range(STEPS))


def _colour(value: float, low: float, high: float, colours: tuple[str, ...]) -> str:
    if not np.isfinite(value):
        return "none"
    return f"var(--{colours[int(np.clip((value - low) / (high - low) * len(colours), 0, len(colours) - 1))]})"


def _said(values: Floats, names: list[str], unit: str) -> str:
    if not np.isfinite(values).any():
        return "No values."
    top = int(np.nanargmax(np.abs(values)))
    low, high = number(float(np.nanmin(values))), _with(np.nanmax(values), unit)
    return f"From {low} to {high}, largest on {names[top]}; {len(values)} atoms."


def _with(value: float, unit: str) -> str:
    return f"{number(float(value))}\u00a0{unit}".rstrip()
