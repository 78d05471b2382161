"""Files of trajectories: ours, H5MD, what i-PI writes, and whatever ASE reads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import ase.io
import ase.units
import numpy as np
from ase import Atoms

from tumble.extras import required
from tumble.trajectories.trajectory import Trajectory

H5 = (".h5md", ".h5", ".hdf5")

NAMES = ("trajectory.extxyz", *(f"trajectory{ending}" for ending in H5), "trajectory.traj")
"""What the folder of a run calls its trajectory."""

LENGTHS: Final = {"angstrom": 1.0, "nm": 10.0, "bohr": float(ase.units.Bohr), "pm": 0.01, "": 1.0}
"""Units of length that files name, in Å."""

TIMES: Final = {"fs": 1e-3, "ps": 1.0, "ns": 1e3, "": 1.0}
"""Units of time that files name, in ps."""


ENERGIES: Final = {f"{kind}_energy": f"{kind}_eV" for kind in ("potential", "kinetic", "conserved")}
"""Names of observables in our H5MD files, and what frames call them."""


def read(
    path: str | Path,
    *,
    stride: int = 1,
    start_ps: float = 0.0,
    structure: int | None = None,
    spacing_fs: float | None = None,
) -> Trajectory:
    """A trajectory from a file, or from the folder of a run.

    Args:
        path: extxyz, H5MD, xyz of i-PI, dump of LAMMPS, or any format of which ASE reads all frames; or a folder with
            a file called trajectory.
        stride: every so many-th frame is kept.
        start_ps: ps; frames before it are left out.
        structure: which of several that moved side by side in one file; None if there is one.
        spacing_fs: fs between frames, of files that do not state their times.

    Raises:
        ValueError: no such file or frames, no times, several structures and none chosen, other atoms from frame to
            frame, or atoms that move farther than a half of the box between frames.
        ImportError: an H5MD file without h5py, a file of i-PI without ipi.
    """
    file = found(path)
    frames = _frames(file, structure)
    name = file.parent.name if file.name in NAMES and file.parent.name else file.stem
    return Trajectory.of(frames, spacing_fs=spacing_fs, stride=stride, start_ps=start_ps, name=name)


def found(path: str | Path) -> Path:
    """The file of a trajectory: itself, or in the folder of a run.

    Raises:
        ValueError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        files = [path / name for name in NAMES if (path / name).is_file()]
        if not files:
            raise ValueError(f"there is no trajectory in {path}; {', '.join(NAMES)} were looked for. Name the file.")
        return files[0]
    if not path.is_file():
        raise ValueError(f"there is no trajectory {path}. Give a file, or the folder of a run.")
    return path


def _frames(file: Path, structure: int | None) -> Iterator[Atoms]:
    if file.suffix in H5:
        return _of_h5md(file, structure)
    if _is_of_ipi(file):
        return _of_ipi(file)
    return _chosen(_of_ase(file), structure, file)


def _of_ase(file: Path) -> Iterator[Atoms]:
    is_xyz = file.suffix in (".xyz", ".extxyz")
    try:
        yield from ase.io.iread(file, ":", **({"format": "extxyz"} if is_xyz else {}))
    except (ase.io.formats.UnknownFileTypeError, OSError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{file} cannot be read as a trajectory: {type(error).__name__}: {error}. Give extxyz, H5MD, or a file "
            "that ASE reads; `ase convert` makes one."
        ) from error


def _chosen(frames: Iterator[Atoms], structure: int | None, file: Path) -> Iterator[Atoms]:
    """Frames of one of the structures that moved side by side."""
    first: Any = None
    n_kept = 0
    for index, frame in enumerate(frames):
        which = frame.info.get("structure", 0)
        first = which if index == 0 else first
        if structure is None and which != first:
            raise ValueError(
                f"{file} holds several structures that moved side by side, {first} and {which} among them; one was "
                "expected. Choose with structure=0, say."
            )
        if structure in (None, which):
            n_kept += 1
            yield frame
    if structure is not None and not n_kept:
        raise ValueError(f"there is no structure {structure} in {file}. Choose from 0 on.")


def _of_h5md(file: Path, structure: int | None) -> Iterator[Atoms]:
    """Frames of a file in the H5MD format, https://nongnu.org/h5md."""
    h5py = required("h5py", who=f"reading {file.name} needs", extra="analysis")
    with h5py.File(file, "r") as opened:
        groups = opened.get("particles")
        names = [] if groups is None else [name for name in groups if "position" in groups[name]]
        if not names:
            raise ValueError(f"{file} has no positions of particles; an H5MD file was expected. Name another file.")
        if len(names) > 1 and structure is None:
            raise ValueError(
                f"{file} holds {len(names)} groups of particles; one was expected. Choose with structure=0."
            )
        if structure is not None and not 0 <= structure < len(names):
            raise ValueError(f"there is no structure {structure} in {file}, only 0 to {len(names) - 1}. Choose one.")
        name = names[structure or 0]
        energies = _energies(opened, name, len(groups[name]["position/value"]))
        for index, frame in enumerate(_of_group(groups[name])):
            frame.info |= {key: float(values[index]) for key, values in energies.items()}
            yield frame


def _energies(opened: Any, name: str, n_frames: int) -> dict[str, Any]:
    """Energies of our own files, of which there is one for each frame."""
    observed = opened.get(f"observables/{name}", opened.get("observables", {}))
    known = {key: observed[word]["value"] for word, key in ENERGIES.items() if word in observed}
    return {key: np.asarray(one) for key, one in known.items() if _unit(one) == "eV" and len(one) == n_frames}


def _of_group(group: Any) -> Iterator[Atoms]:
    """Frames of one group of particles."""
    positions, box = group["position"], group["box"]
    velocities = group.get("velocity")
    length = LENGTHS[_unit(positions["value"]).lower()]
    times = np.asarray(positions["time"]) * TIMES[_unit(positions["time"])]
    edges, is_moving = (box["edges/value"], True) if "value" in box.get("edges", {}) else (box.get("edges"), False)
    pbc = [word in (b"periodic", "periodic") for word in box.attrs["boundary"]]
    symbols = _numbers(group)
    for index, time in enumerate(times):
        cell = None if edges is None else np.asarray(edges[index] if is_moving else edges) * length
        frame = Atoms(symbols, positions["value"][index] * length, cell=cell, pbc=pbc, info={"time_ps": float(time)})
        if "mass" in group:
            masses = group["mass"]["value"][0] if "value" in group["mass"] else group["mass"]
            frame.set_masses(np.asarray(masses))
        if velocities is not None:
            frame.set_velocities(velocities["value"][index] * _speed(_unit(velocities["value"])) / ase.units.fs)
        yield frame


def _numbers(group: Any) -> Any:
    species = group["species"]
    return np.asarray(species["value"][0] if hasattr(species, "keys") else species).astype(int)


def _unit(dataset: Any) -> str:
    unit = dataset.attrs.get("unit", "")
    return str(unit.decode() if isinstance(unit, bytes) else unit)


def _speed(unit: str) -> float:
    """One unit of velocity in Å/fs: "Angstrom fs-1", "nm/ps", ..."""
    words = unit.replace("-1", "").replace("/", " ").split()
    length, time = words if len(words) == 2 else ("", "fs")
    return LENGTHS[length.lower()] / (1000 * TIMES[time])


def _is_of_ipi(file: Path) -> bool:
    if file.suffix != ".xyz":
        return False
    with file.open(encoding="utf-8", errors="replace") as lines:
        next(lines, "")
        return next(lines, "").lstrip().startswith("# CELL")


def _of_ipi(file: Path) -> Iterator[Atoms]:
    """Frames that i-PI has written; their times are not known to it."""
    reading = required("ipi.utils.io", who=f"reading {file.name}, which i-PI has written, needs", extra="ipi")
    bohr = float(ase.units.Bohr)
    with file.open(encoding="utf-8") as opened:
        for frame in reading.iter_file("xyz", opened):
            x, cell = frame["atoms"].q.reshape(-1, 3), frame["cell"].h.T
            yield Atoms(frame["atoms"].names, positions=x * bohr, cell=cell * bohr, pbc=True)
