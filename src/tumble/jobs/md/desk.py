"""Desk: what a simulation leaves in its folder while it runs, and how it is taken up again."""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, final

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tumble.jobs.md.disk import Growing, replace
from tumble.jobs.md.frames import bare, frame, frames_at, in_text
from tumble.jobs.md.motion import Instant
from tumble.jobs.md.settings import MDSettings

SERIES: Final = "series.csv"
RESTART: Final = "restart.npz"
STOPPED: Final = "stopped.extxyz"
NAMES: Final = (SERIES, RESTART, STOPPED, "trajectory.extxyz", "trajectory.h5md", "trajectory.h5md.redo")
"""Files of a run; a folder with one of them is not taken for another run."""

MAY_CHANGE: Final = frozenset(
    ("time_ps", "restart_s", "max_minutes", "control", "max_temperature_K", "min_distance", "max_uncertainty")
)
"""Settings that do not change how anything moves, so that a run may go on with others."""

VECTORS: Final = ("px", "py", "pz", "Lx", "Ly", "Lz")
State = Mapping[str, NDArray[Any]]


@final
class Desk:
    """The folder of a run: series.csv and the trajectory, which grow, and restart.npz, which remembers their lengths.

    A line or a frame that was written is there whatever happens to the process. A restart cuts off what was written
    after it was made, and the run writes the same bytes again.

    folder:      of the run.
    structures:  as they were given.
    record:      plain JSON that every restart keeps, for whoever runs on this desk.
    last:        of each structure, the newest frame; None before the first.
    """

    def __init__(
        self,
        folder: Path,
        structures: Sequence[Atoms],
        settings: MDSettings,
        subject: Mapping[str, str],
        *,
        resume: bool = False,
    ) -> None:
        """Set it up, or take it up.

        Args:
            folder: made if there is none.
            structures: that move.
            settings: of the run.
            subject: what the potential is.
            resume: whether the folder holds the beginning of this run.

        Raises:
            ValueError: the folder holds a run and none is to be resumed, or the other way round; the run there has
                other settings, atoms or another potential, or its files were changed.
        """
        self.folder, self.structures, self._settings = folder, list(structures), settings
        self._identity: dict[str, Any] = {
            "settings": settings.model_dump(mode="json"),
            "potential": dict(subject),
            "numbers": [one.numbers.tolist() for one in structures],
        }
        self.record: dict[str, Any] = {}
        self.last: list[Atoms | None] = [None] * len(structures)
        self._state: State | None = None
        self._time_ps = self._safe_ps = 0.0
        marks: dict[str, Any] = self._taken_up() if resume else self._set_up()
        self._series = Growing(folder / SERIES, marks["series"])
        try:
            with self._writing(folder):
                self._frames = frames_at(folder, settings.trajectory, structures, marks["trajectory"])
                if not resume:
                    self._series.append(_line(columns(structures)))
        except BaseException:
            self._series.close()
            self._leave_nothing()
            raise

    @property
    def series_path(self) -> Path:
        """Where the series is."""
        return self.folder / SERIES

    @property
    def trajectory_path(self) -> Path | None:
        """Where the frames are; None if they are not kept."""
        return self._frames.path

    def write_line(self, instant: Instant, uncertainty: float | None = None) -> None:
        """One line of the series.

        Args:
            instant: what is not known of it is None; of several structures, averages over them.
            uncertainty: eV per atom.

        Raises:
            RuntimeError: the disk is full, or refuses for another reason; what was written before is safe.
        """
        cells = [*_cells(instant, symbols_of(self.structures)), uncertainty]
        with self._writing(self.series_path):
            self._series.append(_line([_cell(one) for one in cells]))
        self._time_ps = instant.time_ps

    def write_frame(self, atoms: Atoms, instant: Instant, structure: int = 0) -> None:
        """One frame of the trajectory, of one of the structures; errors as for `write_line`."""
        self.last[structure] = frame(atoms, instant)
        with self._writing(self.trajectory_path or self.folder):
            self._frames.write(atoms, instant, structure)

    def write_stopped(self, atoms: Atoms, reason: str, time_ps: float) -> None:
        """The frame at which a run was stopped, in a file of its own, with the reason."""
        with self._writing(self.folder / STOPPED):
            replace(self.folder / STOPPED, in_text(bare(atoms, {"reason": reason, "time_ps": time_ps})))

    def checkpoint(self, state: State) -> None:
        """Remember a state, and how long the files are at it; the restart before it is replaced all at once.

        Raises:
            RuntimeError: as for `write_line`; the restart before it is still there.
        """
        with self._writing(self.folder / RESTART):
            self._series.settle()
            marks = {"series": self._series.length, "trajectory": self._frames.settle()}
            known = self._identity | {"marks": marks, "record": self.record, "time_ps": self._time_ps}
            content = io.BytesIO()
            arrays = {f"state/{name}": np.asarray(value) for name, value in state.items()}
            np.savez(content, allow_pickle=False, desk=np.array(json.dumps(known)), **arrays)
            replace(self.folder / RESTART, content.getvalue())
        self._safe_ps = self._time_ps

    def resumed(self) -> State | None:
        """The state to go on from; None for a run that starts."""
        return self._state

    def close(self) -> None:
        """Let go of the files."""
        self._series.close()
        self._frames.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is not None:
            self._leave_nothing()

    def _leave_nothing(self) -> None:
        """Of a run that has not begun."""
        if not (self.folder / RESTART).is_file():
            clear(self.folder)
            with suppress(OSError):  # it holds something else
                self.folder.rmdir()

    def _set_up(self) -> dict[str, Any]:
        if held := [name for name in NAMES if (self.folder / name).exists()]:
            raise ValueError(
                f"the folder {self.folder} holds a run already ({', '.join(held)}). Go on with it (--resume), replace "
                "it (--overwrite), or name another folder."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        return {"series": 0, "trajectory": None}

    def _taken_up(self) -> dict[str, Any]:
        path = self.folder / RESTART
        if not path.is_file():
            raise ValueError(
                f"there is no run to go on with in {self.folder}: it has no {RESTART}. Leave --resume out, or name the "
                "folder of the run."
            )
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
                known = json.loads(str(arrays.pop("desk")))
        except Exception as error:  # whatever a reader says of a file of ours, it is not as it was written
            raise ValueError(
                f"{path} cannot be read ({error}); it was changed since it was written. Start again in another folder."
            ) from None
        self._compare(known)
        (self.folder / STOPPED).unlink(missing_ok=True)  # where it was stopped, it goes on
        self._state = {name.removeprefix("state/"): value for name, value in arrays.items()}
        self.record, self._time_ps, self._safe_ps = known["record"], known["time_ps"], known["time_ps"]
        marks: dict[str, Any] = known["marks"]
        return marks

    def _compare(self, known: dict[str, Any]) -> None:
        """Refuse to go on with something else."""
        if known["numbers"] != self._identity["numbers"]:
            raise ValueError(
                f"the run in {self.folder} is of {_formulas(known['numbers'])}, and "
                f"{_formulas(self._identity['numbers'])} was given. Give the structure that it was started with."
            )
        old, new = known["settings"], self._identity["settings"]
        for key in [key for key in new if key not in MAY_CHANGE and old.get(key) != new[key]]:
            raise ValueError(
                f"the run in {self.folder} has {key} = {old.get(key)!r}, and {new[key]!r} was asked for; a run goes on "
                f"as it began, and only its length may change. Set {key} to {old.get(key)!r}, or use another folder."
            )
        if new["time_ps"] < known["time_ps"] - 1e-9:
            raise ValueError(
                f"the run in {self.folder} has lasted {known['time_ps']:g} ps already, and {new['time_ps']:g} ps in "
                "all were asked for. Ask for more."
            )
        was, given = (one["potential"].get("digest", one["potential"]["made_of"]) for one in (known, self._identity))
        if was != given:
            raise ValueError(
                f"the run in {self.folder} was made with the potential {known['potential']['name']} ({was[:12]}), and "
                f"{self._identity['potential']['name']} ({given[:12]}) was given. Give the same one."
            )

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or os.strerror(error.errno or 0)
            if not (self.folder / RESTART).is_file():
                raise RuntimeError(f"{path} could not be written ({reason}); nothing was begun. Make room.") from error
            raise RuntimeError(
                f"{path} could not be written ({reason}). What was written before, up to {self._time_ps:g} ps, is not "
                f"damaged; the run can go on from {self._safe_ps:g} ps. Make room, then add --resume."
            ) from error


def clear(folder: Path) -> None:
    """Remove the files of a run, and nothing else."""
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)


def symbols_of(structures: Sequence[Atoms]) -> list[str]:
    """Elements by atomic number."""
    return [chemical_symbols[number] for number in sorted({int(z) for one in structures for z in one.numbers})]


def columns(structures: Sequence[Atoms]) -> list[str]:
    """Names of the columns of a series."""
    return [
        *("step", "time_ps", "potential_eV", "kinetic_eV", "heat_eV", "conserved_eV", "temperature_K"),
        *(f"T_{symbol}_K" for symbol in symbols_of(structures)),
        *(*VECTORS, "volume_A3", "pressure_GPa", "uncertainty_eV_per_atom"),
    ]


def read_series(path: Path) -> dict[str, NDArray[np.float64]]:
    """Columns of a series, name → (K,); NaN where a cell is empty."""
    with path.open(newline="") as file:
        names, *rows = csv.reader(file)
    table = np.array([[float(cell) if cell else np.nan for cell in row] for row in rows]).reshape(-1, len(names))
    return {name: table[:, place].copy() for place, name in enumerate(names)}


def _cells(instant: Instant, symbols: Sequence[str]) -> list[Any]:
    """Plain numbers in the order of the columns, None where nothing is known."""
    first = [getattr(instant, name) for name in Instant._fields[:7]]
    by_element = [(instant.temperatures_K or {}).get(symbol) for symbol in symbols]
    vectors = [
        value
        for vector in (instant.momentum, instant.angular_momentum)
        for value in ([None] * 3 if vector is None else [float(one) for one in vector])
    ]
    return [*first, *by_element, *vectors, instant.volume_A3, instant.pressure_GPa]


def _cell(value: float | None) -> str:
    """A number with all its digits."""
    return "" if value is None else repr(int(value) if isinstance(value, int | np.integer) else float(value))


def _line(cells: Sequence[str]) -> bytes:
    return (",".join(cells) + "\n").encode()


def _formulas(numbers: Sequence[Sequence[int]]) -> str:
    return ", ".join(Atoms(numbers=one).get_chemical_formula() for one in numbers[:3]) + (
        f" and {len(numbers) - 3} more" if len(numbers) > 3 else ""
    )
