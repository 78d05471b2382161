"""Matrices as coloured squares with their numbers, drawn as SVG by hand."""

from html import escape

import numpy as np

from tumble.page.palette import BANDS
from tumble.page.pictures import Picture, Scale
from tumble.results import Heat, number

WIDE, HIGH, LEFT, TOP = 58, 34, 64, 24
"""A square, and the room for the names of rows and columns, in units of the drawing."""


def draw_matrix(fact: Heat) -> Picture:
    """The matrix with its signs: colours are centred on zero, and every square holds its number."""
    values = np.asarray(fact.values, float)
    finite = values[np.isfinite(values)]
    limit = float(np.abs(finite).max(initial=0.0)) or 1.0
    parts = [_name(LEFT + WIDE * (k + 0.5), TOP - 9, name, "middle") for k, name in enumerate(fact.columns)]
    for row, (name, line) in enumerate(zip(fact.rows, values, strict=True)):
        parts.append(_name(LEFT - 8, TOP + HIGH * (row + 0.5) + 4, name, "end"))
        parts += [_square(row, column, value, limit) for column, value in enumerate(line)]
    size = (LEFT + WIDE * len(fact.columns) + 4, TOP + HIGH * len(fact.rows) + 4)
    said = _said(fact, values)
    return Picture(
        fact.title,
        fact.note,
        f'<svg viewBox="0 0 {size[0]} {size[1]}" class="matrix" aria-hidden="true">{"".join(parts)}</svg>',
        f"Matrix of {len(fact.rows)} rows and {len(fact.columns)} columns. {said}",
        said,
        scale=Scale(
            tuple(f"d{band}" for band in range(BANDS)),
            (f"{number(-limit)}\u00a0{fact.unit}", "0", f"{number(limit)}\u00a0{fact.unit}"),
        ),
    )


def _square(row: int, column: int, value: float, limit: float) -> str:
    x, y = LEFT + WIDE * column, TOP + HIGH * row
    square = f'<rect x="{x + 1}" y="{y + 1}" width="{WIDE - 2}" height="{HIGH - 2}" rx="2"'
    if not np.isfinite(value):
        return f'{square} fill="none" stroke="var(--rule)"/>'
    band = int(np.clip((value / limit + 1) / 2 * BANDS, 0, BANDS - 1))
    ink = "paper" if abs(band - BANDS // 2) > BANDS // 4 else "ink"
    shown = number(value) if abs(value) > 5e-4 * limit else "0"
    return (
        f'{square} fill="var(--d{band})"/>'
        f'<text x="{x + WIDE / 2}" y="{y + HIGH / 2 + 4}" text-anchor="middle" font-size="12" fill="var(--{ink})">'
        f"{escape(shown)}</text>"
    )


def _name(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="12" fill="var(--soft)">{escape(text)}</text>'


def _said(fact: Heat, values: np.ndarray) -> str:
    if not np.isfinite(values).any():
        return "No data."
    row, column = map(int, np.unravel_index(int(np.nanargmax(np.abs(values))), values.shape))
    largest = number(float(values[row, column]))
    return f"Largest: {largest}\u00a0{fact.unit} at {fact.rows[row]}, {fact.columns[column]}."
