"""The table of a screen as files: CSV that anything reads, Parquet that keeps the types."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tumble.jobs.screen.records import replace
from tumble.results import Cell

CSV: Final = "table.csv"
PARQUET: Final = "table.parquet"

Row = Mapping[str, Cell]


def check_installed() -> None:
    """Refuse to begin what could not be written in the end.

    Raises:
        ImportError: pyarrow is missing.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "table.parquet needs the module pyarrow: pip install 'tumble[screen]'. Without it, parquet: false."
        ) from error


def write(rows: Sequence[Row], folder: Path, *, parquet: bool) -> None:
    """Write both files; a cell that a structure does not have is empty."""
    columns = columns_of(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    replace(folder / CSV, text.getvalue().encode())
    if parquet:
        import pyarrow as pa
        import pyarrow.parquet as pq

        content = pa.BufferOutputStream()
        pq.write_table(pa.table({name: typed([row.get(name) for row in rows]) for name in columns}), content)
        replace(folder / PARQUET, content.getvalue().to_pybytes())


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The columns of all rows, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def typed(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of a column as one type, None aside: numbers become real ones if some are, mixtures become text."""
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds == {int, float}:
        return [None if cell is None else float(cell) for cell in cells]
    return list(cells) if len(kinds) < 2 else [None if cell is None else str(cell) for cell in cells]


def _cell(cell: Cell) -> str:
    if cell is None:
        return ""
    return repr(cell) if isinstance(cell, float) else str(cell)
