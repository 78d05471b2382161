"""Facts: what a result states about itself, as plain frozen data that any page can typeset."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

Cell: TypeAlias = str | float | bool | None
"""What a table may hold: a string is shown as it is, a number with three significant digits."""

Kind = Literal["line", "scatter", "bars", "histogram", "parity"]
Answer = Literal["yes", "remedy", "no", "unknown"]


@dataclass(frozen=True)
class Table:
    """Rows under named columns; a unit stands in the name of its column.

    columns: C names.
    rows:    rows of C cells: text, number, bool or None.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        """Freeze the rows and check that each has one cell per column."""
        rows = tuple(tuple(_scalar(cell) for cell in row) for row in self.rows)
        _freeze(self, columns=tuple(str(name) for name in self.columns), rows=rows)
        for index, row in enumerate(rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {index} of table '{self.title}' has {len(row)} cells; expected {len(self.columns)}. "
                    "Give one cell per column."
                )


@dataclass(frozen=True)
class Series:
    """One named set of points of a Curve.

    x:     (n,) numbers, or n words for bars. Of a histogram: the samples (y empty) or the n + 1 edges of its bins.
    y:     (n,) numbers. Of a histogram: empty, or the n counts.
    error: (n,) standard error of y, or None; a line gets a ribbon, points and bars get whiskers.
    group: series of one group look alike and share an entry of the legend: the branches of a band structure.
    """

    name: str
    x: ArrayLike
    y: ArrayLike = ()
    error: ArrayLike | None = None
    group: str = ""

    def __post_init__(self) -> None:
        """Freeze the numbers."""
        plain = np.asarray(self.x)
        x = tuple(plain.tolist()) if plain.dtype.kind in "UT" else _floats(self.x, (None,), f"x of '{self.name}'")
        y = _floats(self.y, (None,), f"y of '{self.name}'")
        error = None if self.error is None else _floats(self.error, (len(y),), f"error of '{self.name}'")
        _freeze(self, x=x, y=y, error=error)

    @property
    def has_words(self) -> bool:
        """Whether x holds words instead of numbers."""
        return np.asarray(self.x).dtype.kind in "UT"


@dataclass(frozen=True)
class Curve:
    """Series over common axes, whose labels carry the units.

    ticks: places on the x axis with names, such as the corners of a path through the Brillouin zone; none: numbers.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    kind: Kind = "line"
    log_x: bool = False
    log_y: bool = False
    note: str = ""
    ticks: Sequence[tuple[float, str]] = ()

    def __post_init__(self) -> None:
        """Freeze the series and check that x and y match."""
        _freeze(self, series=tuple(self.series), ticks=tuple((float(x), str(name)) for x, name in self.ticks))
        _one_of(self.kind, get_args(Kind), f"kind of curve '{self.title}'")
        for one in self.series:
            x, y = np.size(one.x), np.size(one.y)
            if x != y and not (self.kind == "histogram" and y in (0, x - 1)):
                raise ValueError(
                    f"series '{one.name}' of curve '{self.title}' has {x} x and {y} y; expected as many of both"
                    + (", or samples without y, or edges and one count less." if self.kind == "histogram" else ".")
                )
            if self.kind != "bars" and one.has_words:
                raise ValueError(
                    f"series '{one.name}' of '{self.title}' has words as x; expected numbers. Only bars take words."
                )


@dataclass(frozen=True)
class Map:
    """A scalar over the sphere of orientations, as a deviation from its mean: colours are centred on zero.

    longitude: (n_lon,) degrees, all around.
    latitude:  (n_lat,) degrees, from -90 to 90.
    values:    (n_lat, n_lon) in `unit`.
    """

    title: str
    unit: str
    longitude: ArrayLike
    latitude: ArrayLike
    values: ArrayLike
    note: str = ""

    def __post_init__(self) -> None:
        """Freeze the numbers and check that they are degrees over the whole sphere."""
        longitude = _floats(self.longitude, (None,), f"longitude of '{self.title}'")
        latitude = _floats(self.latitude, (None,), f"latitude of '{self.title}'")
        values = _floats(self.values, (len(latitude), len(longitude)), f"values of '{self.title}'")
        _freeze(self, longitude=longitude, latitude=latitude, values=values)
        if broken := int((~np.isfinite(values)).sum()):
            raise ValueError(f"map '{self.title}' has {broken} values that are not finite. Leave the map out.")
        if min(len(longitude), len(latitude)) < 4:
            raise ValueError(
                f"map '{self.title}' has {len(latitude)} latitudes and {len(longitude)} longitudes; "
                "at least 4 of each were expected. Use a finer grid."
            )
        if np.ptp(longitude) < 180 or np.ptp(latitude) < 90 or np.abs(latitude).max() > 90:
            raise ValueError(
                f"map '{self.title}' spans {np.ptp(longitude):.4g} of longitude, {np.ptp(latitude):.4g} of latitude; "
                "the whole sphere was expected, 360 by 180. Give degrees, not radians."
            )


@dataclass(frozen=True)
class Sketch:
    """A per-atom quantity on the atoms.

    numbers:   (N,) atomic numbers.
    positions: (N, 3) Å.
    cell:      (3, 3) Å, rows are lattice vectors.
    pbc:       (3,) bool.
    values:    (N,) in `unit`.
    """

    title: str
    unit: str
    numbers: ArrayLike
    positions: ArrayLike
    cell: ArrayLike
    pbc: ArrayLike
    values: ArrayLike
    note: str = ""

    def __post_init__(self) -> None:
        """Freeze the numbers and check their shapes."""
        numbers = tuple(int(number) for number in _floats(self.numbers, (None,), f"numbers of '{self.title}'"))
        positions = _floats(np.reshape(self.positions, (-1, 3)), (len(numbers), 3), f"positions of '{self.title}'")
        _freeze(
            self,
            numbers=numbers,
            positions=positions,
            cell=_floats(self.cell, (3, 3), f"cell of '{self.title}'"),
            pbc=tuple(np.broadcast_to(np.asarray(self.pbc, dtype=bool), 3).tolist()),
            values=_floats(self.values, (len(numbers),), f"values of '{self.title}'"),
        )


@dataclass(frozen=True)
class Heat:
    """A matrix of numbers under named rows and columns, coloured by size: signed, and centred on zero.

    rows, columns: names.
    values:        (rows, columns) in `unit`; NaN stays empty.
    """

    title: str
    unit: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: ArrayLike
    note: str = ""

    def __post_init__(self) -> None:
        """Freeze the numbers and check that there is one for each row and column."""
        shape = (len(self.rows), len(self.columns))
        _freeze(
            self,
            rows=tuple(str(name) for name in self.rows),
            columns=tuple(str(name) for name in self.columns),
            values=_floats(self.values, shape, f"values of '{self.title}'"),
        )


Fact: TypeAlias = Table | Curve | Map | Sketch | Heat
"""One table or figure."""

WORDS: dict[Answer, str] = {
    "yes": "fine as is",
    "remedy": "fine with a remedy",
    "no": "not with this model",
    "unknown": "not known",
}
"""The four answers of a Verdict, as one says them."""


@dataclass(frozen=True)
class Verdict:
    """Whether a potential is good enough for a task, with the number that decides; smaller is better.

    answer:    "yes" fine as is, "remedy" fine with the remedy at its cost, "no" not with this model, "unknown".
    value:     what was measured, in `unit`, or None.
    threshold: the largest value that is good enough, in `unit`, or None.
    floor:     what rounding alone would make of `value`, in `unit`, or None.
    key:       short name of the task, by which commands and certificates call it.
    """

    task: str
    answer: Answer
    value: float | None
    threshold: float | None
    unit: str
    reason: str
    remedy: str = ""
    cost: str = ""
    floor: float | None = None
    key: str = ""

    def __post_init__(self) -> None:
        """Check the answer."""
        _one_of(self.answer, get_args(Answer), f"answer of verdict '{self.task}'")
        _freeze(self, value=_scalar(self.value), threshold=_scalar(self.threshold), floor=_scalar(self.floor))

    @property
    def words(self) -> str:
        """The answer, as one says it."""
        return WORDS[self.answer]

    @property
    def name(self) -> str:
        """The key; the task where the job has given none."""
        return self.key or self.task


def number(value: Cell, digits: int = 3) -> str:
    """A number as one prints it: significant digits, grouped thousands, powers of ten only where they help.

    Whole numbers keep all their digits, text passes, None and NaN become a dash.
    """
    if isinstance(value, bool | str):
        return value if isinstance(value, str) else "yes" if value else "no"
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    mantissa, exponent = f"{value + 0.0:.{digits - 1}e}".split("e")
    power, whole = int(exponent), float(value).is_integer()
    if value != 0 and (power < -3 or power > (11 if isinstance(value, int) else 6)):
        raised = str(power).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
        return f"{mantissa}\u202f×\u202f10{raised}".replace("-", "−")
    text = f"{value + 0:,.{0 if whole else max(digits - 1 - power, 0)}f}"
    return text.replace(",", "\u202f" if power > 3 else "").replace("-", "−")


def _scalar(value: Any) -> Any:
    """A Python scalar of a NumPy or torch one."""
    return value.item() if hasattr(value, "item") else value


def _floats(values: ArrayLike, shape: tuple[int | None, ...], what: str) -> tuple[Any, ...]:
    """Nested tuples of floats, of a shape in which None is any length."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{what}: {str(values)[:60]!r} are not numbers. Give a list or an array of numbers.") from None
    if array.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("n" if size is None else str(size) for size in shape)
        raise ValueError(f"{what}: the shape is {array.shape}; expected ({wanted}). Check what was passed.")
    return tuple(_frozen(one) for one in array.tolist())


def _frozen(nested: Any) -> Any:
    return tuple(_frozen(one) for one in nested) if isinstance(nested, list) else nested


def _freeze(fact: Any, **fields: Any) -> None:
    """Set fields of a frozen dataclass while it is being made."""
    for name, value in fields.items():
        object.__setattr__(fact, name, value)


def _one_of(value: str, allowed: Sequence[str], what: str) -> None:
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}; expected one of {', '.join(allowed)}.")
