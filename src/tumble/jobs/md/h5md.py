"""H5MD: trajectories in HDF5, as MDAnalysis and others read them; whatever happens, the file is whole."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from ase import Atoms
from ase.units import fs
from numpy.typing import NDArray

from tumble import __version__
from tumble.extras import required
from tumble.jobs.md.aside import Aside
from tumble.jobs.md.frames import Frames
from tumble.jobs.md.motion import Instant

MOST_BYTES: Final = 1 << 25
"""Of frames that wait in memory; restarts write them earlier."""

CHUNK_BYTES: Final = 1 << 15
"""Of what HDF5 keeps together."""

ENERGIES: Final = {
    "potential_energy": "potential_eV",
    "kinetic_energy": "kinetic_eV",
    "conserved_energy": "conserved_eV",
}
"""Names of observables and of the fields of an instant."""


@final
class H5MD(Frames):
    """Positions and velocities in single precision, cells, steps, times and energies.

    Frames wait in memory until the next restart, which is where a run goes on from: none that counts is lost.

    Source: P. de Buyl, P. H. Colberg, F. Höfling, Comput. Phys. Commun. 185, 1546 (2014),
        doi:10.1016/j.cpc.2014.01.018; https://nongnu.org/h5md.
    """

    def __init__(self, path: Path, structures: Sequence[Atoms], mark: list[int] | None) -> None:
        """Args:
        path: the file; made if there is none.
        structures: that move; a group of particles for each.
        mark: frames of each, behind which it is cut off; None: a new file.

        Raises:
            ValueError: the file has fewer frames than the mark.
            ImportError: h5py is not installed.
        """
        self._h5py = required("h5py", who="a trajectory in H5MD needs", extra="analysis")
        self.path: Path | None = path
        self._file = path
        single = len(structures) == 1
        self._names = ["trajectory"] if single else [f"structure{k:05d}" for k in range(len(structures))]
        self._waiting: list[list[dict[str, Any]]] = [[] for _ in structures]
        self._bytes = 0
        self._counts = mark or [0] * len(structures)
        with self._changed("r+" if mark is not None else "w") as file:
            if mark is None:
                self._lay_out(file, structures)
            for name, count in zip(self._names, self._counts, strict=True):
                self._cut(file, name, count)

    def write(self, atoms: Atoms, instant: Instant, structure: int) -> None:
        """Keep one frame; many of them are written."""
        kept: dict[str, Any] = {
            "position": atoms.positions.astype(np.float32),
            "velocity": (atoms.get_velocities() * fs).astype(np.float32),
            "box/edges": atoms.cell.array.copy(),
            "step": instant.step,
            "time": instant.time_ps,
        }
        kept |= {name: np.nan if (x := getattr(instant, key)) is None else x for name, key in ENERGIES.items()}
        self._waiting[structure].append(kept)
        self._bytes += 24 * len(atoms) + 200
        if self._bytes > MOST_BYTES:
            self.settle()

    def settle(self) -> Any:
        """All frames to the disk; how many there are of each structure."""
        if any(self._waiting):
            with self._changed("r+") as file:
                for name, frames in zip(self._names, self._waiting, strict=True):
                    for dataset, key in _growing(file, name):
                        if frames:
                            dataset.resize(len(dataset) + len(frames), axis=0)
                            dataset[-len(frames) :] = np.stack([one[key] for one in frames])
            self._counts = [count + len(one) for count, one in zip(self._counts, self._waiting, strict=True)]
            self._waiting, self._bytes = [[] for _ in self._names], 0
        return list(self._counts)

    def close(self) -> None:
        """Nothing is open."""

    @contextmanager
    def _changed(self, mode: str) -> Iterator[Any]:
        """The file, whose changes reach the disk all at once when the block ends well."""
        with Aside(self._file) as aside:
            with self._h5py.File(aside, mode, libver="v110") as file:
                yield file
            aside.commit()

    def _lay_out(self, file: Any, structures: Sequence[Atoms]) -> None:
        head = file.create_group("h5md")
        head.attrs["version"] = np.array([1, 1])
        head.create_group("author").attrs["name"] = "unknown"
        head.create_group("creator").attrs.update({"name": "tumble", "version": __version__})
        head.create_group("modules/units").attrs["version"] = np.array([1, 0])
        for name, atoms in zip(self._names, structures, strict=True):
            _lay_out_group(file, name, atoms)

    def _cut(self, file: Any, name: str, count: int) -> None:
        for dataset, _ in _growing(file, name):
            if len(dataset) < count:
                raise ValueError(
                    f"{self._file} has {len(dataset)} frames, and {count} had been written at the last restart: it was "
                    "changed since. Bring it back, or start again in another folder."
                )
            dataset.resize(count, axis=0)


def _lay_out_group(file: Any, name: str, atoms: Atoms) -> None:
    """Particles and observables of one structure, without frames."""
    group = file.create_group(f"particles/{name}")
    group["species"], group["mass"] = atoms.numbers, atoms.get_masses()
    group["mass"].attrs["unit"] = "u"
    box = group.create_group("box")
    box.attrs["dimension"] = 3
    box.attrs["boundary"] = np.array(["periodic" if one else "none" for one in atoms.pbc], dtype="S8")
    _grow(group, "step", (), np.int64)
    _grow(group, "time", (), np.float64, "ps")
    parts: dict[str, tuple[str, tuple[int, ...], NDArray[Any]]] = {
        "position": ("Angstrom", (len(atoms), 3), np.zeros(0, np.float32)),
        "velocity": ("Angstrom fs-1", (len(atoms), 3), np.zeros(0, np.float32)),
    }
    if atoms.cell.any():
        parts["box/edges"] = ("Angstrom", (3, 3), np.zeros(0))
    elements = [group.create_group(part) for part in parts]
    for element, (unit, shape, like) in zip(elements, parts.values(), strict=True):
        _grow(element, "value", shape, like.dtype, unit)
    for energy in ENERGIES:
        elements.append(
            file.create_group(f"observables/{energy}" if name == "trajectory" else f"observables/{name}/{energy}")
        )
        _grow(elements[-1], "value", (), np.float64, "eV")
    for element in elements:
        element["step"], element["time"] = group["step"], group["time"]  # the same data under another name
    del group["step"], group["time"]


def _grow(group: Any, name: str, shape: tuple[int, ...], dtype: Any, unit: str = "") -> None:
    """A dataset with no rows, which may get any number."""
    row = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    chunk = (max(1, min(CHUNK_BYTES // row, 512)), *shape)
    made = group.create_dataset(name, (0, *shape), dtype, maxshape=(None, *shape), chunks=chunk)
    if unit:
        made.attrs["unit"] = unit


def _growing(file: Any, name: str) -> Iterator[tuple[Any, str]]:
    """Datasets of a structure that grow with its frames, each with the name of what it holds."""
    group = file[f"particles/{name}"]
    for part in ("position", "velocity", "box/edges"):
        if part in group:
            yield group[part]["value"], part
    yield group["position/step"], "step"
    yield group["position/time"], "time"
    energies = file["observables" if name == "trajectory" else f"observables/{name}"]
    for energy in ENERGIES:
        yield energies[energy]["value"], energy
