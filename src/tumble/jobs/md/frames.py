"""Frames: trajectories that grow frame by frame, and can be cut back to where a restart goes on."""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

from ase import Atoms
from ase.io.extxyz import write_xyz

from tumble.jobs.md.disk import Growing
from tumble.jobs.md.motion import Instant

KEPT: Final = ("charge", "spin_multiplicity", "spin")
"""What potentials read from the info of a structure, and frames keep."""


class Frames(ABC):
    """Where frames go. A mark is what a restart remembers: plain JSON, by which the rest can be cut off.

    path: of the file; None where frames are not kept.
    """

    path: Path | None

    @abstractmethod
    def write(self, atoms: Atoms, instant: Instant, structure: int) -> None:
        """One frame; on the disk at the latest after `settle`.

        Raises:
            OSError: the disk is full, or anything else that the operating system refuses.
        """

    @abstractmethod
    def settle(self) -> Any:
        """Force all frames to the disk, and return the mark behind the last one.

        Raises:
            OSError: as for `write`.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the file; frames that are not settled yet may be lost."""


@final
class Nowhere(Frames):
    """No trajectory was asked for."""

    path = None

    def write(self, atoms: Atoms, instant: Instant, structure: int) -> None:
        """Nothing."""

    def settle(self) -> Any:
        """Nothing to remember."""
        return None

    def close(self) -> None:
        """Nothing to close."""


@final
class Text(Frames):
    """Extended XYZ, one frame behind the other; the mark is the number of bytes."""

    def __init__(self, path: Path, n_structures: int, mark: int | None) -> None:
        """Args:
        path: the file; made if there is none.
        n_structures: if more than one, frames say of which they are.
        mark: behind which it is cut off; None: a new file.

        Raises:
            ValueError: the file is shorter than the mark.
        """
        self.path: Path | None = path
        self._file, self._several = Growing(path, mark or 0), n_structures > 1

    def write(self, atoms: Atoms, instant: Instant, structure: int) -> None:
        """One frame, which the operating system has at once."""
        self._file.append(in_text(frame(atoms, instant, structure if self._several else None)))

    def settle(self) -> Any:
        """Bytes of the file."""
        self._file.settle()
        return self._file.length

    def close(self) -> None:
        """Close it."""
        self._file.close()


def frame(atoms: Atoms, instant: Instant, structure: int | None = None) -> Atoms:
    """A structure with its momenta, and in its info the step, the time and energies."""
    info = {} if structure is None else {"structure": structure}
    said = {key: getattr(instant, key) for key in ("step", "time_ps", "potential_eV", "kinetic_eV", "conserved_eV")}
    return bare(atoms, info | {key: value for key, value in said.items() if value is not None})


def bare(atoms: Atoms, info: Mapping[str, Any]) -> Atoms:
    """A structure with momenta, masses that are not the usual ones, charge and spin, and this info; nothing else."""
    arrays = {"momenta": atoms.get_momenta()} | ({"masses": atoms.get_masses()} if atoms.has("masses") else {})
    made = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, **arrays)
    made.info = {key: atoms.info[key] for key in KEPT if key in atoms.info} | dict(info)
    return made


def in_text(atoms: Atoms) -> bytes:
    """A structure in extended XYZ."""
    text = io.StringIO()
    write_xyz(text, [atoms])
    return text.getvalue().encode()


def frames_at(folder: Path, kind: str, structures: Sequence[Atoms], mark: Any = None) -> Frames:
    """The trajectory of a folder.

    Args:
        folder: where it is, or will be.
        kind: extxyz, h5md or none.
        structures: that move.
        mark: behind which it is cut off; None: a new one.

    Raises:
        ValueError: the file was changed since the mark.
        ImportError: H5MD without h5py.
    """
    if kind == "none":
        return Nowhere()
    path = folder / f"trajectory.{kind}"
    if kind == "extxyz":
        return Text(path, len(structures), mark)
    from tumble.jobs.md.h5md import H5MD

    return H5MD(path, structures, mark)
