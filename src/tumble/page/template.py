"""Templates of the page, and how texts and numbers stand in them."""

import re
from collections.abc import Iterator
from importlib import metadata, resources
from typing import Any

import numpy as np

from tumble.page.palette import COLOURS
from tumble.results import Table, Verdict, number

ROWS = 100
"""Rows of a table that are shown; all of them are in result.json."""


def render(name: str, **values: Any) -> str:
    """A page from the template of this name."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(lambda file: (resources.files("tumble.page") / file).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "number": number,
        "exact": _exact,
        "svg": Markup,
        "prose": lambda text: Markup(_prose(text)),
        "sentence": lambda text: Markup(_prose(_sentence(text))),
        "unit": lambda text: Markup("" if text in ("", "1") else f"\u00a0{_prose(text)}"),
        "linked": lambda text: Markup(_linked(text)),
    }
    environment.globals |= {
        "colours": COLOURS,
        "version": _version(),
        "is_numeric": _is_numeric,
        "gauge": _gauge,
        "rows": ROWS,
    }
    return environment.get_template(name).render(values)


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Settings as dotted names and texts."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from flat(one, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        for index, one in enumerate(value, 1):
            yield from flat(one, f"{name}.{index}")
    elif isinstance(value, list):
        yield name, ", ".join(_text(one) for one in value) or "none"
    else:
        yield name, _text(value)


def _text(value: Any) -> str:
    return (
        "none" if value in (None, "") or value == {} else f"{value:.6g}" if isinstance(value, float) else number(value)
    )


def _gauge(verdict: Verdict) -> float | None:
    """Where the value stands, 0 to 1, on a logarithmic bar: the threshold in its middle, two decades to each side."""
    value, limit = verdict.value, verdict.threshold
    if value is None or limit is None or not (np.isfinite(value) and np.isfinite(limit)) or limit <= 0:
        return None
    return float(np.clip(0.5 + np.log10(max(value, 1e-30 * limit) / limit) / 4, 0.03, 0.97))


def _is_numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers, which stand right-aligned."""
    cells = [row[column] for row in table.rows if row[column] is not None]
    return bool(cells) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells)


def _exact(value: float) -> str:
    """A number that somebody has chosen: without the zeros that would tell how well it was measured."""
    text = number(value)
    return re.sub(r"\.?0+(?=\u202f|$)", "", text) if "." in text else text


def _prose(text: str) -> str:
    """Text, escaped, with the thermal energy as it is printed."""
    from markupsafe import escape

    return str(escape(text)).replace("k_BT", "<i>k</i><sub>B</sub><i>T</i>")


def _sentence(text: str) -> str:
    """Text that begins with a capital, unless its first word is a symbol, and ends with a full stop."""
    if re.match(r"[a-z]+\b(?!_)", text):
        text = text[0].upper() + text[1:]
    return text if not text or text[-1] in ".!?" else f"{text}."


def _linked(text: str) -> str:
    """A citation, escaped, whose DOI is a link."""
    from markupsafe import escape

    return re.sub(
        r"(doi:)?(10\.\d{4,9}/[^\s,;&<]*[^\s,;.&<)])", r'<a href="https://doi.org/\2">\1\2</a>', str(escape(text))
    )


def _version() -> str:
    try:
        return metadata.version("tumble")
    except metadata.PackageNotFoundError:
        return ""
