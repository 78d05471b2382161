"""What i-PI writes, read back as it grows: lines of numbers, and frames in the frame of the user."""

import re
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
from ase import Atoms
from ase.io.extxyz import read_xyz
from ase.units import Bohr, Hartree
from numpy.typing import NDArray

from tumble.bridges.ipi.writer import MOVING, POSITIONS, SERIES

Floats = NDArray[np.float64]

_STEP = re.compile(r"Step:\s*(\d+)")


class Line(NamedTuple):
    """One line of numbers.

    step:           of the slowest level.
    conserved_eV:   per bead, what i-PI conserves.
    potential_eV:   mean of the beads.
    kinetic_eV:     of the atoms; with several beads the centroid virial estimate of the quantum one.
    temperature_K:  kinetic, as i-PI has it.
    volume_A3:      of the cell.
    pressure:       eV/Å³, with the kinetic part.
    velocity:       (3,) of the centre of mass, in units of ASE.
    kinetics_eV:    of the atoms of each element, in the order of the structure; classical.
    temperatures_K: of the same, as i-PI has it.
    """

    step: int
    conserved_eV: float
    potential_eV: float
    kinetic_eV: float
    temperature_K: float
    volume_A3: float
    pressure: float
    velocity: Floats
    kinetics_eV: Floats
    temperatures_K: Floats


@final
class Output:
    """Reads what has been added since it was last asked; what is not complete yet waits."""

    def __init__(self, folder: Path, like: Atoms, turn: Floats) -> None:
        """Args:
        folder: of the run.
        like: the structure that it began with; what does not repeat keeps its cell.
        turn: (3, 3), from `write_input`.
        """
        self._folder, self._like, self._turn = folder, like, turn
        self._places = dict.fromkeys((SERIES, POSITIONS, MOVING), 0)
        self._waiting: dict[int, Atoms] = {}

    def lines(self) -> Iterator[Line]:
        """New lines."""
        n = len(set(self._like.symbols))
        for text in self._blocks(SERIES, 1):
            if not text.startswith("#"):
                row = np.array(text.split(), dtype=float)
                pressure = float(row[6]) * Hartree / Bohr**3
                conserved, potential, kinetic, temperature, volume = map(float, row[1:6])
                energies = conserved, potential, kinetic
                by_species = row[10 : 10 + n], row[10 + n :]
                yield Line(int(row[0]), *energies, temperature, volume, pressure, row[7:10], *by_species)

    def frames(self) -> Iterator[tuple[int, Atoms]]:
        """Step and structure, turned back, with momenta, of new frames."""
        size = len(self._like) + 2
        for text in self._blocks(POSITIONS, size):
            self._waiting[_step(text)] = _frame(text)
        for text in self._blocks(MOVING, size, at_most=len(self._waiting)):
            here, there = self._waiting.pop(_step(text)), _frame(text)
            atoms = self._like.copy()
            atoms.positions = here.arrays["x_centroid"] @ self._turn.T
            if self._like.pbc.all():
                atoms.cell = here.cell.array @ self._turn.T
            atoms.set_velocities(there.arrays["v_centroid"] @ self._turn.T)
            yield _step(text), atoms

    def _blocks(self, name: str, n_rows: int, at_most: int | None = None) -> Iterator[str]:
        path = self._folder / name
        if not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(self._places[name])
            rows = file.read().decode().splitlines(keepends=True)
        for block in _whole(rows, n_rows)[:at_most]:
            self._places[name] += len(block.encode())
            yield block


def cut(folder: Path, like: Atoms, n_done: int) -> None:
    """Remove from the outputs what lies beyond a step, before i-PI goes on from there and writes it again."""
    for name, n_rows in ((SERIES, 1), (POSITIONS, len(like) + 2), (MOVING, len(like) + 2)):
        path = folder / name
        if path.is_file():
            blocks = _whole(path.read_text(encoding="utf-8").splitlines(keepends=True), n_rows)
            kept = [one for one in blocks if one.startswith("#") or _step(one) <= n_done]
            path.write_text("".join(kept), encoding="utf-8")


def _whole(rows: Sequence[str], n_rows: int) -> list[str]:
    """Blocks of so many rows, without the last one if it is not complete."""
    blocks = ["".join(rows[k : k + n_rows]) for k in range(0, len(rows) - n_rows + 1, n_rows)]
    return [one for one in blocks if one.endswith("\n")]


def _step(block: str) -> int:
    found = _STEP.search(block)
    return int(found[1]) if found else int(float(block.split(maxsplit=1)[0]))


def _frame(block: str) -> Atoms:
    return next(iter(read_xyz(StringIO(block))))
