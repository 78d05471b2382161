"""report(): verdict first, then figures, then tables, then how it was made."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumble.page.compare import compared_page
from tumble.page.drawings import draw_atoms, draw_map
from tumble.page.matrices import draw_matrix
from tumble.page.pictures import Picture
from tumble.page.plots import plot
from tumble.page.template import flat, render
from tumble.results import Curve, Fact, Heat, Map, Result, Sketch, Table, Verdict

GENERATOR = '<meta name="generator" content="tumble'
"""What tells a page of ours from any other file."""

LARGEST = 5_000_000
"""Bytes of a page that one can still send around."""


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


def report(*results: Result, to: str | Path = "card.html", compare: bool = False) -> Path:
    """One self-contained HTML page about one or several results; it needs no network and no JavaScript.

    Args:
        results: at least one; several stand below each other, with their verdicts side by side on top.
        to: file to write. An earlier page is replaced, any other file is not.
        compare: results of one job against the first of them instead: verdicts with what changed, tables merged, curves
            of one title overlaid, settings and structures that differ.

    Returns:
        The file.

    Raises:
        ValueError: no result, `to` is a folder or a file that is not a page of ours, or a comparison of one result or
            of different jobs.
        RuntimeError: the page is larger than 5 MB.
    """
    to = Path(to)
    if not results:
        raise ValueError("there is nothing to report: 0 results were given, at least 1 was expected.")
    if to.is_dir() or (to.exists() and GENERATOR not in to.read_text(encoding="utf-8", errors="replace")[:2000]):
        what = "a folder" if to.is_dir() else "not a page that tumble wrote, and is not overwritten"
        raise ValueError(f"{to} is {what}. Choose another name for the page.")
    page = (compared_page(results) if compare else _page(results)).encode()
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


def _page(results: Sequence[Result]) -> str:
    sections = [_section(index, result) for index, result in enumerate(results, 1)]
    return render("page.html", sections=sections, compared=_compared(sections))


def _section(index: int, result: Result) -> Section:
    verdicts, facts = result.verdicts(), result.facts()
    return Section(
        anchor=f"result-{index}",
        result=result,
        verdicts=verdicts,
        headline=headline(verdicts),
        pictures=tuple(_picture(fact, f"{index}-{k}") for k, fact in enumerate(facts) if not isinstance(fact, Table)),
        tables=tuple(fact for fact in facts if isinstance(fact, Table)),
        settings=tuple(flat(result.settings.model_dump(mode="json"))),
        made=result.provenance(),
    )


def _picture(fact: Fact, salt: str) -> Picture:
    if isinstance(fact, Map):
        return draw_map(fact)
    if isinstance(fact, Sketch):
        return draw_atoms(fact)
    if isinstance(fact, Heat):
        return draw_matrix(fact)
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
