"""Settings, facts and results: what was chosen for a job, what the job found, and the folder that keeps both."""

import hashlib
import io
import json
import math
import os
import platform
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, Union, final, get_args, get_origin

import numpy as np
import yaml
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from ase import Atoms

type Cell = str | float | bool | None
"""What a table may hold; a string is shown as it is, a float with three significant digits."""

type Fact = Table | Curve | Map | Sketch
"""What a result states about itself and the page typesets."""

FORMAT = "tumble result 1"
"""Names the layout of result.json; a later layout gets a later number."""


class Setting(NamedTuple):
    """One row of a table of settings, ready to print: dotted name, type, default and description."""

    name: str
    type: str
    default: str
    description: str


class Settings(BaseModel):
    """What may be chosen for one job: frozen, keyword-only, validated once.

    A subclass declares fields; the docstring below a field, or `Field(description=...)`, becomes the help of its flag.
    Settings may hold other Settings, alone or as `tuple[Phase, ...]`.

    Raises:
        ValueError: an unknown key (with the nearest known one), a missing key, a wrong type, a failed validator.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    if not TYPE_CHECKING:  # type checkers see the typed signature that pydantic makes from the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise ValueError(_explain(type(self), error)) from None

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> Self:
        """Settings from a YAML file of `key: value` lines; overrides replace what the file says.

        Raises:
            ValueError: the file is missing, empty, not YAML, not a mapping, names a key twice, or has a bad setting.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"there is no settings file {path}. Give the path of a YAML file with 'key: value' lines.")
        try:
            values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid YAML: {error}. Expected 'key: value' lines.") from None
        if not isinstance(values, dict):
            found = "nothing" if values is None else f"a {type(values).__name__}"
            raise ValueError(f"{path} holds {found}; expected 'key: value' lines with the settings of {cls.__name__}.")
        try:
            return cls(**{str(key): value for key, value in values.items()} | overrides)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def to_yaml(self) -> str:
        """All settings, defaults included, as YAML that `from_yaml` reads back."""
        return str(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change with any setting: SHA-256 of the canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @classmethod
    def describe(cls) -> list[Setting]:
        """One row per setting, for help and docs; Settings within Settings get dotted names."""
        rows: list[Setting] = []
        for name, field in cls.model_fields.items():
            default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
            if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
                rows.extend(row._replace(name=f"{name}.{row.name}") for row in field.annotation.describe())
            else:
                shown = "required" if field.is_required() else _dumps(default)
                rows.append(Setting(name, _type_name(field.annotation), shown, field.description or ""))
        return rows


@dataclass(frozen=True)
class Table:
    """Rows under named columns; a unit stands in the column's name.

    columns: C names.
    rows:    rows of C cells: text, number, bool or None.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        """Freeze the rows and check that each has one cell per column."""
        _set(self, columns=tuple(self.columns), rows=tuple(tuple(_scalar(c) for c in row) for row in self.rows))
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {index} of table '{self.title}' has {len(row)} cells; expected {len(self.columns)}, one per column."
                )


@dataclass(frozen=True)
class Series:
    """One named set of points of a Curve.

    x:     (n,) numbers, or n words for bars. Of a histogram: the samples (y empty) or the n + 1 edges of its bins.
    y:     (n,) numbers. Of a histogram: empty, or the n counts.
    error: (n,) one standard error of y, or None.
    """

    name: str
    x: ArrayLike
    y: ArrayLike = ()
    error: ArrayLike | None = None

    def __post_init__(self) -> None:
        """Freeze the numbers."""
        words = all(isinstance(value, str) for value in np.asarray(self.x).ravel().tolist())
        x = tuple(np.asarray(self.x).tolist()) if words and np.size(self.x) else _floats(self.x, (None,), self.name)
        error = None if self.error is None else _floats(self.error, (np.size(self.y),), f"error of {self.name}")
        _set(self, x=x, y=_floats(self.y, (None,), self.name), error=error)


@dataclass(frozen=True)
class Curve:
    """Series over common axes, whose labels carry the units."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    kind: Literal["line", "scatter", "bars", "histogram", "parity"] = "line"
    log_x: bool = False
    log_y: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        """Freeze the series and check that x and y match."""
        _set(self, series=tuple(self.series))
        _one_of(self.kind, ("line", "scatter", "bars", "histogram", "parity"), f"kind of curve '{self.title}'")
        for one in self.series:
            x, y = np.size(one.x), np.size(one.y)
            if x != y and not (self.kind == "histogram" and y in (0, x - 1)):
                raise ValueError(
                    f"series '{one.name}' of curve '{self.title}' has {x} x and {y} y; expected as many of both"
                    + (", or samples only, or one edge more than counts." if self.kind == "histogram" else ".")
                )
            if self.kind != "bars" and x and isinstance(np.asarray(one.x).flat[0], str):
                raise ValueError(f"series '{one.name}' of curve '{self.title}' has words as x; only bars may have them.")


@dataclass(frozen=True)
class Map:
    """A scalar over the sphere of orientations, as a deviation from its mean: colours are centred on zero.

    longitude: (n_lon,) degrees, evenly spaced all around.
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
        """Freeze the numbers and check shapes and degrees."""
        longitude = _floats(self.longitude, (None,), "longitude")
        latitude = _floats(self.latitude, (None,), "latitude")
        values = _floats(self.values, (len(latitude), len(longitude)), "values")
        if min(len(longitude), len(latitude)) < 4:
            raise ValueError(f"map '{self.title}' has {len(latitude)} by {len(longitude)} points; expected 4 by 4 or more.")
        if np.ptp(longitude) < 180 or np.ptp(latitude) < 90 or np.abs(latitude).max() > 90:
            raise ValueError(
                f"map '{self.title}' spans {np.ptp(longitude):.4g} by {np.ptp(latitude):.4g}; expected the whole "
                "sphere, longitudes over 360 and latitudes within -90 and 90. Give degrees, not radians."
            )
        _set(self, longitude=longitude, latitude=latitude, values=values)


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
        numbers = tuple(int(number) for number in _floats(self.numbers, (None,), "numbers"))
        atoms = len(numbers)
        _set(
            self,
            numbers=numbers,
            positions=_floats(self.positions, (atoms, 3), "positions") if atoms else (),
            cell=_floats(self.cell, (3, 3), "cell"),
            pbc=tuple(bool(flag) for flag in np.broadcast_to(np.asarray(self.pbc), 3)),
            values=_floats(self.values, (atoms,), "values"),
        )


@dataclass(frozen=True)
class Verdict:
    """Whether a potential is good enough for a task, with the number that decides. Smaller values are better.

    answer:    "yes" fine as is, "remedy" fine with the remedy at its cost, "no" not with this model, "unknown".
    value:     what was measured, in `unit`, or None.
    threshold: the largest value that is good enough, in `unit`, or None.
    """

    task: str
    answer: Literal["yes", "remedy", "no", "unknown"]
    value: float | None
    threshold: float | None
    unit: str
    reason: str
    remedy: str = ""
    cost: str = ""

    def __post_init__(self) -> None:
        """Check the answer."""
        _one_of(self.answer, tuple(WORDS), f"answer of verdict '{self.task}'")
        _set(self, value=_scalar(self.value), threshold=_scalar(self.threshold))

    @property
    def words(self) -> str:
        """The answer, as one says it."""
        return WORDS[self.answer]


WORDS = {
    "yes": "fine as is",
    "remedy": "fine with a remedy",
    "no": "not with this model",
    "unknown": "not known",
}
"""The four answers of a Verdict, as one says them."""


class Result(ABC):
    """What one job found, and the facts it states about itself. Subclasses are final and have:

    job:       the verb, such as "audit".
    title:     one line that says what was done to what.
    settings:  the Settings of the job.
    arrays:    name → array, eV and Å unless the name says otherwise.
    atoms:     structures.
    citations: one line of plain text each.
    """

    job: str
    title: str
    settings: Settings
    arrays: dict[str, np.ndarray]
    atoms: list["Atoms"]
    citations: tuple[str, ...]

    @abstractmethod
    def verdicts(self) -> tuple[Verdict, ...]:
        """Answers, most important first; empty if the job gives none."""

    @abstractmethod
    def facts(self) -> tuple[Fact, ...]:
        """Tables and figures, most important first."""

    def provenance(self) -> dict[str, Any]:
        """Date, platform, versions of the packages that took part, and digest of the settings."""
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} logical cores",
            "versions": {"python": platform.python_version()} | dict(_versions()),
            "settings": type(self.settings).__name__,
            "digest": self.settings.digest,
        }

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write the result into a folder: settings.json, result.json, arrays.npz, atoms.extxyz, log.txt.

        Every file is written aside and moved into place, result.json last. Other files in the folder stay; log.txt grows.
        There is no atoms.extxyz for a result without atoms.

        Raises:
            ValueError: the folder holds a result and `overwrite` is False, or a file of that name that is not ours.
        """
        from tumble.results_folder import write

        return write(self, Path(folder), overwrite)
