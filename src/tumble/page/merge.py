"""Tables and curves of one title from several results, made one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeAlias

import numpy as np

from tumble.results import Cell, Curve, Fact, Table

Key: TypeAlias = tuple[Cell, ...]

MOST_SERIES = 6
"""Series of one figure that colours tell apart."""


def titled(
    facts: Sequence[Sequence[Fact]], labels: Sequence[str]
) -> tuple[list[dict[str, Table]], list[dict[str, Curve]]]:
    """Tables of one title and curves of one title, kind and axes: label of the result → fact, in their order."""
    tables: dict[tuple[str, ...], dict[str, Table]] = {}
    curves: dict[tuple[str, ...], dict[str, Curve]] = {}
    for label, told in zip(labels, facts, strict=True):
        seen: Counter[tuple[str, ...]] = Counter()
        for fact in told:
            alike: tuple[str, ...]
            if isinstance(fact, Table):
                alike = (fact.title,)
                tables.setdefault((*alike, str(seen[alike])), {})[label] = fact
            elif isinstance(fact, Curve):
                alike = (fact.title, fact.kind, fact.x_label, fact.y_label)
                curves.setdefault((*alike, str(seen[alike])), {})[label] = fact
            else:
                continue
            seen[alike] += 1
    return list(tables.values()), list(curves.values())


def overlay(curves: Mapping[str, Curve]) -> list[Curve]:
    """The series of all curves over common axes, named by their results.

    More series than there are colours become one figure for each name that a series has.
    """
    first = next(iter(curves.values()))
    common = replace(
        first,
        series=(),
        log_x=all(curve.log_x for curve in curves.values()),
        log_y=all(curve.log_y for curve in curves.values()),
        note=_note({label: curve.note for label, curve in curves.items()}),
    )
    series = [(label, one) for label, curve in curves.items() for one in curve.series]
    if any(one.group for _, one in series):  # bands: those of one result look alike
        return [replace(common, series=[replace(one, group=f"{label}: {one.group}") for label, one in series])]
    if len(series) <= MOST_SERIES:
        alone = {label for label, curve in curves.items() if len(curve.series) == 1}
        named = [replace(one, name=label if label in alone else f"{label}: {one.name}") for label, one in series]
        return [replace(common, series=named)]
    made: list[Curve] = []
    for name in dict.fromkeys(one.name for _, one in series):
        named = [replace(one, name=label) for label, one in series if one.name == name]
        whose = f" ({named[0].name})" if len(named) == 1 else ""
        note = "" if made else common.note
        made.append(replace(common, title=f"{common.title}, {name}{whose}", series=named, note=note))
    return made


@dataclass(frozen=True)
class Merged:
    """A table of several results.

    n_words: leading columns that say what a row is about; numbers of results follow.
    """

    table: Table
    n_words: int


def merge(tables: Mapping[str, Table]) -> Merged:
    """One row per row and column of the tables, one column per result, and ratios to the first of them.

    Rows match where their leading texts are equal, as many of them as tell the rows of each table apart; those that
    only one result has are left out and counted.
    """
    width = max(_width(table) for table in tables.values())
    width = max(1, min([width, *(_n_leading(table) for table in tables.values())]))
    found = {label: _cells(table, width) for label, table in tables.items()}
    counts = Counter(key for one in found.values() for key in one)
    quantities = dict.fromkeys(chain.from_iterable(table.columns[width:] for table in tables.values()))
    rows: list[list[Cell]] = []
    for key in (key for key, count in counts.items() if count > 1):
        words: Key = key[:width]
        for quantity in quantities:
            values = [one.get(key, {}).get(quantity) for one in found.values()]
            if any(value is not None for value in values):
                rows.append([*words, quantity, *values, *(_ratio(value, values[0]) for value in values[1:])])
                words = ("",) * width
    first, labels = next(iter(tables.values())), list(tables)
    ratio = ["ratio"] if len(labels) == 2 else [f"{label} / {labels[0]}" for label in labels[1:]]
    note = _note({label: table.note for label, table in tables.items()})
    if left := sum(count == 1 for count in counts.values()):
        note = f"{note} Rows left out because only one result has them: {left}.".strip()
    columns = (*first.columns[:width], "quantity", *labels, *ratio)
    return Merged(Table(first.title, columns, rows, note), width + 1)


def _n_leading(table: Table) -> int:
    """Leading columns of text; at least one column is left for values."""
    for column in range(len(table.columns)):
        if not all(isinstance(row[column], str) for row in table.rows):
            return column
    return max(len(table.columns) - 1, 0)


def _width(table: Table) -> int:
    """The fewest leading columns of text that tell all rows apart; all of them where none do."""
    most = _n_leading(table)
    for width in range(1, most + 1):
        if len({row[:width] for row in table.rows}) == len(table.rows):
            return width
    return most


def _cells(table: Table, width: int) -> dict[Key, dict[str, Cell]]:
    """Cells by row and column; a row whose texts were there before is another row."""
    seen: Counter[Key] = Counter()
    found = {}
    for row in table.rows:
        key = tuple(row[:width])
        found[*key, seen[key]] = dict(zip(table.columns[width:], row[width:], strict=True))
        seen[key] += 1
    return found


def _ratio(value: Cell, first: Cell) -> float | None:
    if isinstance(value, str | bool | None) or isinstance(first, str | bool | None) or first == 0:
        return None
    ratio = value / first
    return ratio if np.isfinite(ratio) else None


def _note(notes: Mapping[str, str]) -> str:
    """What all say once, what they say differently under their names."""
    whose: dict[str, list[str]] = {}
    for label, note in notes.items():
        whose.setdefault(note, []).append(label)
    if len(whose) == 1:
        return next(iter(whose))
    return " ".join(f"{', '.join(labels)}: {note}" for note, labels in whose.items() if note)
