"""Trajectory: atoms in time, unwrapped, whatever engine has moved them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import ase.units
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.geometry import complete_cell
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FARTHEST = 0.45
"""Of a box, that an atom may be from where it was a frame before. At a half, nobody knows which way it went."""

UNEVEN = 1e-3
"""Of the time between frames, by which frames may come too early or late and still be evenly spaced."""

KEPT = ("potential_eV", "kinetic_eV", "conserved_eV", "temperature_K", "pressure_GPa")
"""What frames say of themselves and a trajectory keeps."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """K frames of the same N atoms; 24 bytes per atom and frame, twice that with velocities.

    name:       what tables call it.
    numbers:    (N,) atomic numbers.
    masses:     (N,) amu.
    pbc:        (3,) which lattice directions repeat.
    times_ps:   (K,) ps, increasing.
    positions:  (K, N, 3) Å, unwrapped: atoms leave the cell.
    cells:      (K, 3, 3) Å, rows are lattice vectors.
    velocities: (K, N, 3) Å/fs, or None.
    series:     what frames say of themselves, name → (K,): potential_eV, kinetic_eV, conserved_eV, temperature_K, ...
    """

    name: str
    numbers: NDArray[np.int64]
    masses: Floats
    pbc: NDArray[np.bool_]
    times_ps: Floats
    positions: Floats
    cells: Floats
    velocities: Floats | None = None
    series: Mapping[str, Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that frames follow each other in time.

        Raises:
            ValueError: no frame, or times that do not increase.
        """
        if not len(self.times_ps):
            raise ValueError(f"{self.name} has no frame left; at least 1 was expected. Start earlier, or run longer.")
        steps = np.diff(self.times_ps)
        if len(steps) and not float(steps.min()) > 0:
            place = int(np.argmin(steps))
            raise ValueError(
                f"{self.name}: frame {place + 1} is at {self.times_ps[place + 1]:g} ps, the one before it at "
                f"{self.times_ps[place]:g} ps; times that increase were expected. Read one replica, or one run, at a "
                "time."
            )

    @classmethod
    def of(
        cls,
        frames: Iterable[Atoms],
        *,
        spacing_fs: float | None = None,
        stride: int = 1,
        start_ps: float = 0.0,
        name: str = "trajectory",
    ) -> Self:
        """Frames of ASE in a row; positions are unwrapped by the nearest image between frames, before any is left out.

        Args:
            frames: the same atoms in each; velocities count if every frame has momenta.
            spacing_fs: fs between frames; None: each says its `time_ps` in info.
            stride: every so many-th frame is kept.
            start_ps: ps; frames before it are left out.
            name: what tables and errors call it.

        Raises:
            ValueError: no frame, other atoms, no times, or atoms that move farther than a half of the box.
        """
        if stride < 1:
            raise ValueError(
                f"a stride of {stride} frames was asked for; 1 or more was expected. Use 1 for all frames."
            )
        kept = list(_kept(_unwrapped(frames, name), spacing_fs, stride, start_ps, name))
        if not kept:
            raise ValueError(f"{name} has no frame at or after {start_ps:g} ps. Start earlier, or run longer.")
        first = kept[0][1]
        has_momenta = all(one.has("momenta") for _, one in kept)
        fs = float(ase.units.fs)
        return cls(
            name=name,
            numbers=first.numbers.astype(np.int64),
            masses=first.get_masses(),
            pbc=np.array(first.pbc),
            times_ps=np.array([time for time, _ in kept]),
            positions=np.array([one.positions for _, one in kept]),
            cells=np.array([one.cell.array for _, one in kept]),
            velocities=np.array([one.get_velocities() * fs for _, one in kept]) if has_momenta else None,
            series=_series([one for _, one in kept]),
        )

    def __len__(self) -> int:
        """K."""
        return len(self.times_ps)

    @property
    def n_atoms(self) -> int:
        """N."""
        return len(self.numbers)

    @property
    def spacing_ps(self) -> float:
        """Time between frames.

        Returns:
            ps.

        Raises:
            ValueError: one frame, or frames that are not evenly spaced.
        """
        if len(self) < 2:
            raise ValueError(f"{self.name} has {len(self)} frame; at least 2 were expected for anything in time.")
        steps = np.diff(self.times_ps)
        usual = float(np.median(steps))
        if float(np.abs(steps - usual).max()) > UNEVEN * usual:
            raise ValueError(
                f"{self.name}: frames are from {steps.min():.6g} to {steps.max():.6g} ps apart; the same distance was "
                "expected for anything in time. Give frames that were written at one interval."
            )
        return float((self.times_ps[-1] - self.times_ps[0]) / len(steps))

    @property
    def volumes(self) -> Floats:
        """(K,) Å³ of the cells."""
        return np.abs(np.linalg.det(self.cells))

    def where(self, symbol: str | None) -> NDArray[np.int64]:
        """Indices of the atoms of an element; of all for None.

        Raises:
            ValueError: there are none.
        """
        if symbol is None:
            return np.arange(self.n_atoms)
        found = np.flatnonzero(self.numbers == atomic_numbers.get(symbol, -1))
        if not len(found):
            present = ", ".join(self.symbols)
            raise ValueError(
                f"{self.name} has no atom of the element {symbol}, only of {present}. Ask for one of these."
            )
        return found

    @property
    def symbols(self) -> tuple[str, ...]:
        """The elements, in the order of the atoms."""
        return tuple(chemical_symbols[number] for number in dict.fromkeys(self.numbers.tolist()))

    def kinetic_eV(self) -> Floats | None:
        """(K,) eV, of the velocities; what the frames say where there are none, or None."""
        if self.velocities is None:
            return self.series.get("kinetic_eV")
        twice = np.einsum("n,knx,knx->k", self.masses, self.velocities, self.velocities)
        return np.asarray(0.5 * twice / float(ase.units.fs) ** 2)  # from amu (Å/fs)²

    def frames(self, chosen: slice) -> Self:
        """Some of the frames."""
        return replace(
            self,
            times_ps=self.times_ps[chosen],
            positions=self.positions[chosen],
            cells=self.cells[chosen],
            velocities=None if self.velocities is None else self.velocities[chosen],
            series={key: values[chosen] for key, values in self.series.items()},
        )

    def named(self, name: str) -> Self:
        """The same with another name."""
        return replace(self, name=name)

    def nearest(self, apart: Floats, frame: int) -> Floats:
        """The nearest periodic images of (..., 3) vectors in Å, in a cell that they are short for."""
        return nearest(apart, self.cells[frame], self.pbc)


def nearest(apart: Floats, cell: Floats, pbc: NDArray[np.bool_]) -> Floats:
    """The image of (..., 3) vectors in Å with fractional coordinates within a half, where directions repeat."""
    if not pbc.any():
        return apart
    whole = complete_cell(cell)
    turns = np.where(pbc, np.round(apart @ np.linalg.inv(whole)), 0.0)
    return np.asarray(apart - turns @ whole)


def _unwrapped(frames: Iterable[Atoms], name: str) -> Iterator[Atoms]:
    """Frames whose atoms do not jump; fractional coordinates go on from those of the frame before."""
    before: Floats | None = None
    first: Atoms | None = None
    for index, frame in enumerate(frames):
        if first is None:
            first = frame
        elif len(frame) != len(first) or not np.array_equal(frame.numbers, first.numbers):
            raise ValueError(
                f"frame {index} of {name} is {frame.get_chemical_formula()}, the first one is "
                f"{first.get_chemical_formula()}; the same atoms in the same order were expected in every frame."
            )
        if not frame.pbc.any():
            yield frame
            continue
        cell = complete_cell(frame.cell.array)
        here = frame.positions @ np.linalg.inv(cell)
        if before is not None:
            step = here - before
            step -= np.where(frame.pbc, np.round(step), 0.0)
            _check_steps(np.where(frame.pbc, step, 0.0), index, name)
            here = before + step
            moved = frame.copy()
            moved.calc, moved.positions = frame.calc, here @ cell
            frame = moved
        before = here
        yield frame


def _check_steps(step: Floats, index: int, name: str) -> None:
    farthest = float(np.abs(step).max(initial=0.0))
    if farthest > FARTHEST:
        atom = int(np.abs(step).max(axis=1).argmax())
        raise ValueError(
            f"atom {atom} of {name} moves by {farthest:.2f} of the box from frame {index - 1} to frame {index}; at "
            f"most {FARTHEST:g} was expected, for beyond a half its way is not known. Write frames more often."
        )


def _kept(
    frames: Iterator[Atoms], spacing_fs: float | None, stride: int, start_ps: float, name: str
) -> Iterator[tuple[float, Atoms]]:
    """Frames with their times, from the start on, every so many-th."""
    count = 0
    for index, frame in enumerate(frames):
        if spacing_fs is not None:
            time = index * spacing_fs / 1000
        elif "time_ps" in frame.info:
            time = float(frame.info["time_ps"])
        else:
            raise ValueError(
                f"frame {index} of {name} does not say its time (time_ps); it was expected there, or the time between "
                "frames. Give spacing_fs, the femtoseconds from one frame to the next."
            )
        if time >= start_ps - 1e-9:
            if count % stride == 0:
                yield time, frame
            count += 1


def _series(frames: list[Atoms]) -> dict[str, Floats]:
    """What every frame says of itself."""
    kept = {key: [frame.info.get(key) for frame in frames] for key in KEPT}
    results = [{} if frame.calc is None else getattr(frame.calc, "results", {}) for frame in frames]
    if None in kept["potential_eV"]:
        kept["potential_eV"] = [one.get("energy") for one in results]
    return {key: np.array(values, dtype=np.float64) for key, values in kept.items() if None not in values}
