"""report(): verdict first, then figures, then tables, then how it was made."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np

from tumble.page.drawings import draw_atoms, draw_map
from tumble.page.palette import COLOURS
from tumble.page.pictures import Picture
from tumble.page.plots import plot
from tumble.results import Curve, Fact, Map, Result, Sketch, Table, Verdict, number

GENERATOR = '<meta name="generator" content="tumble'
"""What tells a page of ours from any other file."""

LARGEST = 5_000_000
"""Bytes of a page that one can still send around."""

ROWS = 100
"""Rows of a table that are shown; all of them are in result.json."""


@dataclass(frozen=True)
class Section:
    """One result, ready for the template."""

    anchor: str
    result: Result
    verdicts: tuple[Verdict, ...]
    headline: str
    pictures: tuple[Picture, ...]
    tables: tuple[Table, ...]
    settings: tuple[tuple[str, str], ...]
    made: Mapping[str, Any]


def report(*results: Result, to: str | Path = "card.html") -> Path:
    """One self-contained HTML page about one or several results; it needs no network and no JavaScript.

    Args:
        results: at least one; several stand below each other, with their verdicts side by side on top.
        to: file to write. An earlier page is replaced, any other file is not.

    Returns:
        The file.

    Raises:
        ValueError: no result, or `to` is a folder or a file that is not a page of ours.
        RuntimeError: the page is larger than 5 MB.
    """
    to = Path(to)
    if not results:
        raise ValueError("there is nothing to report: 0 results were given, at least 1 was expected.")
    if to.is_dir() or (to.exists() and GENERATOR not in to.read_text(encoding="utf-8", errors="replace")[:2000]):
        what = "a folder" if to.is_dir() else "not a page that tumble wrote, and is not overwritten"
        raise ValueError(f"{to} is {what}. Choose another name for the page.")
    page = _render([_section(index, result) for index, result in enumerate(results, 1)]).encode()
    if len(page) > LARGEST:
        raise RuntimeError(
            f"the page has {len(page) / 1e6:.1f} MB; at most {LARGEST / 1e6:.0f} MB were expected. "
            "Report fewer results at once, or results with fewer points."
        )
    to.parent.mkdir(parents=True, exist_ok=True)
    aside = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        aside.write_bytes(page)
        aside.replace(to)
    finally:
        aside.unlink(missing_ok=True)
    return to


def _render(sections: Sequence[Section]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {
        "number": number,
        "exact": _exact,
        "svg": Markup,
        "prose": lambda text: Markup(_prose(text)),
        "sentence": lambda text: Markup(_prose(_sentence(text))),
        "unit": lambda text: Markup("" if text in ("", "1") else f"\u00a0{_prose(text)}"),
        "linked": lambda text: Markup(_linked(text)),
    }
    template = environment.from_string((resources.files("tumble.page") / "page.html").read_text(encoding="utf-8"))
    return template.render(
        sections=sections,
        compared=_compared(sections),
        colours=COLOURS,
        version=_version(),
        is_numeric=_is_numeric,
        gauge=_gauge,
        rows=ROWS,
    )


def _section(index: int, result: Result) -> Section:
    verdicts, facts = result.verdicts(), result.facts()
    return Section(
        anchor=f"result-{index}",
        result=result,
        verdicts=verdicts,
        headline=headline(verdicts),
        pictures=tuple(_picture(fact, f"{index}-{k}") for k, fact in enumerate(facts) if not isinstance(fact, Table)),
        tables=tuple(fact for fact in facts if isinstance(fact, Table)),
        settings=tuple(_flat(result.settings.model_dump(mode="json"))),
        made=result.provenance(),
    )


def _picture(fact: Fact, salt: str) -> Picture:
    if isinstance(fact, Map):
        return draw_map(fact)
    if isinstance(fact, Sketch):
        return draw_atoms(fact)
    assert isinstance(fact, Curve), f"{type(fact).__name__} is not a figure"
    return plot(fact, salt)


def headline(verdicts: Sequence[Verdict]) -> str:
    """All verdicts in one sentence."""
    counts = {answer: sum(v.answer == answer for v in verdicts) for answer in ("yes", "remedy", "no", "unknown")}
    if len(verdicts) == 1:
        return f"{verdicts[0].task}: {verdicts[0].words}."
    words = {
        "yes": "Fine as is for",
        "remedy": "fine with a remedy for",
        "no": "not fit for",
        "unknown": "not known for",
    }
    said = [f"{words[answer]} {count}" for answer, count in counts.items() if count]
    if not said:
        return ""
    scope = f"all {len(verdicts)} tasks" if len(said) == 1 else f"of {len(verdicts)} tasks"
    if len(said) == 1:
        said[0] = said[0].rsplit(" ", 1)[0]
    else:
        said[0] += f" {scope}"
        scope = ""
    text = f"{', '.join(said)} {scope}".strip() + "."
    return text[0].upper() + text[1:]


def _compared(sections: Sequence[Section]) -> list[tuple[str, list[Verdict | None]]]:
    """Tasks and, for every result, its verdict on the task; empty if there is nothing to compare."""
    if sum(bool(one.verdicts) for one in sections) < 2:
        return []
    tasks = dict.fromkeys(verdict.task for one in sections for verdict in one.verdicts)
    return [
        (task, [next((v for v in one.verdicts if v.task == task), None) for one in sections if one.verdicts])
        for task in tasks
    ]


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


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Settings as dotted names and texts."""
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        for index, one in enumerate(value, 1):
            yield from _flat(one, f"{name}.{index}")
    elif isinstance(value, list):
        yield name, ", ".join(_text(one) for one in value) or "none"
    else:
        yield name, _text(value)


def _text(value: Any) -> str:
    return (
        "none" if value in (None, "") or value == {} else f"{value:.6g}" if isinstance(value, float) else number(value)
    )


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
