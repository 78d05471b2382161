"""What commands print: tables and verdicts on the terminal."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as Grid

from tumble.results import Cell, Result, Table, Verdict, number

COLOURS = {"yes": "green", "remedy": "yellow", "no": "red", "unknown": "dim"}


def show(table: Table) -> None:
    """Print a table: text to the left, numbers to the right; on its side if that is how it fits."""
    console = Console()
    names, rows = list(table.columns), [[number(cell) for cell in row] for row in table.rows]
    grid = Grid(title=table.title, title_justify="left", caption=table.note or None, caption_justify="left")
    width = sum(max(map(len, column)) + 3 for column in zip(names, *rows, strict=True))
    if width > console.width and len(rows) < len(names) / 2:
        names, *rows = ([name, *cells] for name, *cells in zip(names, *rows, strict=True))
    for place, name in enumerate(names):
        is_text = any(isinstance(row[place], str) and not _is_number(row[place]) for row in table.rows)
        grid.add_column(
            name, justify="left" if is_text or len(names) != len(table.columns) else "right", overflow="fold"
        )
    for row in rows:
        grid.add_row(*row)
    console.print(grid)


def show_verdicts(result: Result) -> None:
    """Print the verdicts of a result with their keys, and the reasons of those that are not a plain yes."""
    console = Console()
    console.print(f"\n{result.title}", style="bold", highlight=False, markup=False)
    grid = Grid()
    for name in ("key", "task", "verdict", "measured", "allowed"):
        grid.add_column(name)
    for verdict in result.verdicts():
        grid.add_row(*_row(verdict))
    console.print(grid)
    for verdict in result.verdicts():
        if verdict.answer != "yes":
            remedy = ", ".join(filter(None, (verdict.remedy, verdict.cost)))
            text = f"{verdict.name}: {verdict.reason}" + (f". Remedy: {remedy}" if remedy else "")
            console.print(text, style="dim", highlight=False, markup=False)


def show_unmet(failures: Sequence[str]) -> None:
    """Say on stderr which requirements are not met, one line each."""
    if failures:
        print("\n  ".join(["tumble: what was required is not met:", *failures]), file=sys.stderr)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr that follows calls with the steps done, the steps in all (0: not known), and a message."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[message]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, message="")
        yield lambda done, total, message: bar.update(task, completed=done, total=total or None, message=message)


def _row(verdict: Verdict) -> tuple[str, ...]:
    measured, allowed = (
        "–" if value is None else f"{number(value)} {verdict.unit}" for value in (verdict.value, verdict.threshold)
    )
    answer = f"[{COLOURS[verdict.answer]}]{verdict.words}[/]"
    return verdict.key, verdict.task, answer, measured, allowed


def _is_number(cell: Cell) -> bool:
    try:
        float(str(cell))
    except ValueError:
        return False
    return True
