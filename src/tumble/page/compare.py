"""Results of one job against the first of them: what got better, and what cannot be compared."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tumble.page.merge import Merged, merge, overlay, titled
from tumble.page.pictures import Picture
from tumble.page.plots import plot
from tumble.page.template import flat, render
from tumble.results import Curve, Result, Structure, Table, Verdict

if TYPE_CHECKING:
    from ase import Atoms

Mark = Literal["better", "worse", "same", ""]

SAME = 0.05
"""Values that differ by less than this share of the larger one count as the same."""

MOVED = 1e-5
"""Å that a coordinate of the same structure may differ: files round."""

LONGEST = 40
"""Letters of a label; the whole title stands where it is said how the result was made."""

ORDER = ("no", "remedy", "yes")


@dataclass(frozen=True)
class Cell:
    """A verdict, and whether it is better than that of the first result; no mark where nobody can tell."""

    verdict: Verdict | None
    mark: Mark


@dataclass(frozen=True)
class Comparison:
    """Results side by side, ready for the template.

    labels:    of the results, all different.
    headlines: one sentence for each result after the first.
    warnings:  why numbers may not be comparable.
    tasks:     task, and a cell for each result.
    alone:     titles of tables and curves that only one result has, or that have nothing in common.
    """

    job: str
    labels: tuple[str, ...]
    headlines: tuple[str, ...]
    warnings: tuple[str, ...]
    tasks: tuple[tuple[str, tuple[Cell, ...]], ...]
    pictures: tuple[Picture, ...]
    tables: tuple[Merged, ...]
    alone: tuple[str, ...]
    settings: Table
    made: Table
    citations: tuple[str, ...]


def compared_page(results: Sequence[Result]) -> str:
    """The page of a comparison.

    Raises:
        ValueError: fewer than two results, or results of different jobs.
    """
    if len(results) < 2:
        raise ValueError(f"{len(results)} results were given to compare; at least 2 were expected. Name another one.")
    jobs = dict.fromkeys(result.job for result in results)
    if len(jobs) > 1:
        raise ValueError(
            f"results of different jobs were given to compare: {', '.join(jobs)}. Expected one job; leave out compare "
            "to have them below each other."
        )
    return render("compare.html", compared=_compare(results))


def change(before: Verdict | None, after: Verdict | None) -> Mark:
    """Whether a verdict got better: by its answer, and where that is the same by its share of the limit.

    Nothing is said where a verdict is missing or not known, or where units differ. Shares that differ by less than 5 %,
    or by less than what rounding alone makes, are the same.
    """
    if before is None or after is None or "unknown" in (before.answer, after.answer):
        return ""
    if before.answer != after.answer:
        return "better" if ORDER.index(after.answer) > ORDER.index(before.answer) else "worse"
    if before.value is None or after.value is None:
        return "same"
    if before.unit != after.unit:
        return ""
    limits = [verdict.threshold or 0.0 for verdict in (before, after)]
    one, other = limits if min(limits) > 0 else (1.0, 1.0)
    first, second = before.value / one, after.value / other
    noise = max((before.floor or 0.0) / one, (after.floor or 0.0) / other)
    if np.isnan(first) or np.isnan(second):
        return ""
    if first == second or abs(second - first) <= max(SAME * max(first, second), noise) < np.inf:
        return "same"
    return "better" if second < first else "worse"


def labels_of(results: Sequence[Result]) -> tuple[str, ...]:
    """Short and different names: of the potentials, else the titles without the words that all of them end in."""
    titles = [result.title for result in results]
    words = [title.split(" ") for title in titles]
    while len({one[-1] for one in words}) == 1 and min(map(len, words)) > 1:
        words = [one[:-1] for one in words]
    short = [" ".join(one) for one in words]
    names = [str((result.subject or {}).get("name") or "") for result in results]
    for chosen in (names, short, titles):
        cut = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1].rstrip()}…" for name in chosen]
        if all(cut) and len(set(cut)) == len(cut):
            return tuple(cut)
    counts = Counter(titles)
    return tuple(f"{title} ({i})" if counts[title] > 1 else title for i, title in enumerate(titles, 1))


def _compare(results: Sequence[Result]) -> Comparison:
    labels = labels_of(results)
    facts = [result.facts() for result in results]
    tables, curves = titled(facts, labels)
    tasks = tuple(_tasks([result.verdicts() for result in results]))
    merged = [merge(group) for group in tables if len(group) > 1]
    overlaid = [curve for group in curves if len(group) > 1 for curve in overlay(group)]
    groups: list[Mapping[str, Table | Curve]] = [*tables, *curves]
    alone = [f"{fact.title} ({label})" for group in groups if len(group) == 1 for label, fact in group.items()]
    alone += [f"{one.table.title} (no row in common)" for one in merged if not one.table.rows]
    return Comparison(
        job=results[0].job,
        labels=labels,
        headlines=tuple(_headline(labels, tasks, index) for index in range(1, len(labels)) if tasks),
        warnings=(*_protocols(results, labels), *_structures([result.atoms for result in results], labels)),
        tasks=tasks,
        pictures=tuple(plot(curve, f"compared-{index}") for index, curve in enumerate(overlaid)),
        tables=tuple(one for one in merged if one.table.rows),
        alone=tuple(alone),
        settings=_settings(results, labels),
        made=_made(results, labels),
        citations=tuple(dict.fromkeys(citation for result in results for citation in result.citations)),
    )


def _tasks(verdicts: Sequence[Sequence[Verdict]]) -> Iterator[tuple[str, tuple[Cell, ...]]]:
    """Verdicts of one key or one task belong together; the first of each result."""
    groups: list[list[Verdict | None]] = []
    for place, given in enumerate(verdicts):
        for verdict in given:
            for group in groups:
                known = [one for one in group if one is not None]
                if group[place] is None and any(v.name == verdict.name or v.task == verdict.task for v in known):
                    group[place] = verdict
                    break
            else:
                groups.append([verdict if k == place else None for k in range(len(verdicts))])
    for group in groups:
        task = next(verdict.task for verdict in group if verdict is not None)
        yield task, tuple(Cell(one, change(group[0], one) if k else "") for k, one in enumerate(group))


def _headline(labels: Sequence[str], tasks: Sequence[tuple[str, Sequence[Cell]]], index: int) -> str:
    marks = Counter(cells[index].mark for _, cells in tasks)
    words: dict[Mark, str] = {
        "better": "better for",
        "worse": "worse for",
        "same": "the same for",
        "": "not comparable for",
    }
    said = [f"{text} {marks[mark]}" for mark, text in words.items() if marks[mark]]
    said[0] += f" of {len(tasks)} tasks" if len(tasks) > 1 else " task"
    return f"{labels[index]} against {labels[0]}: {', '.join(said)}."


def _protocols(results: Sequence[Result], labels: Sequence[str]) -> Iterator[str]:
    measured: dict[str, list[str]] = {}
    names = {}
    for label, made in zip(labels, (result.provenance() for result in results), strict=True):
        measured.setdefault(made["digest"], []).append(label)
        names[made["digest"]] = _protocol(made)
    if len(measured) > 1:
        said = "; ".join(f"{names[digest]} for {', '.join(whose)}" for digest, whose in measured.items())
        yield (
            f"The settings differ, so the numbers are not comparable: {said}. A change may come from the settings "
            "alone; they are listed below"
        )


def _protocol(made: Mapping[str, Any]) -> str:
    return f"{made.get('protocol') or made['settings']} {made['digest']}"


def _structures(atoms: Sequence[Sequence["Atoms"]], labels: Sequence[str]) -> Iterator[str]:
    """Structures that are not in all results, or not the same in all."""
    named = [dict(_numbered(structures)) for structures in atoms]
    missing: dict[str, list[str]] = {}
    different = []
    for name in dict.fromkeys(name for one in named for name in one):
        there = {label: one[name] for label, one in zip(labels, named, strict=True) if name in one}
        first, *others = there.values()
        if len(there) < len(labels):
            missing.setdefault(", ".join(there), []).append(name[0])
        elif not all(_is_same(first, other) for other in others):
            different.append(name[0])
    if missing:
        said = "; ".join(f"{_some(names)} (only in {where})" for where, names in missing.items())
        yield f"Not all structures are in all results, and each verdict is about those of its own: {said}"
    if different:
        yield f"Structures of one name have different atoms or places: {_some(different)}"


def _numbered(structures: Sequence["Atoms"]) -> Iterator[tuple[tuple[str, int], "Atoms"]]:
    """Structures by name; the second of a name is another one."""
    seen: Counter[str] = Counter()
    for atoms in structures:
        name = Structure.of(atoms).name
        yield (name, seen[name]), atoms
        seen[name] += 1


def _is_same(one: "Atoms", other: "Atoms") -> bool:
    if len(one) != len(other) or not np.array_equal(one.numbers, other.numbers):
        return False
    moved = max(
        np.abs(one.positions - other.positions).max(initial=0), np.abs(one.cell.array - other.cell.array).max(initial=0)
    )
    return bool(moved < MOVED and np.array_equal(one.pbc, other.pbc))


def _some(names: Sequence[str], most: int = 8) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _settings(results: Sequence[Result], labels: Sequence[str]) -> Table:
    chosen = [dict(flat(result.settings.model_dump(mode="json"))) for result in results]
    return _differing("Settings that differ", "setting", chosen, labels)


def _made(results: Sequence[Result], labels: Sequence[str]) -> Table:
    table = _differing(
        "How they were made", "", [dict(_provenance(result)) for result in results], labels, everything=True
    )
    return replace(table, note="Of versions, those that differ.") if table.rows else table


def _provenance(result: Result) -> Iterator[tuple[str, str]]:
    made: Mapping[str, Any] = result.provenance()
    yield "title", result.title
    if result.subject:
        yield from flat(dict(result.subject), "potential")
    yield "date", made["date"].replace("T", " ").replace("+00:00", " UTC")
    yield "settings", _protocol(made)
    yield from ((f"version of {name}", version) for name, version in made["versions"].items())
    yield "platform", made["platform"]


def _differing(
    title: str, what: str, chosen: Sequence[Mapping[str, str]], labels: Sequence[str], everything: bool = False
) -> Table:
    """One row per name, those only whose values differ."""
    rows = []
    for name in dict.fromkeys(name for one in chosen for name in one):
        values = [one.get(name) for one in chosen]
        if len(set(values)) > 1 or (everything and not name.startswith("version of ")):
            rows.append((name, *values))
    return Table(title, (what, *labels), rows)
