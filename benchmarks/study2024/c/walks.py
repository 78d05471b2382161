"""What is asked about a cell of ice, kept in a folder file by file: a killed run goes on with the next file."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, final

import ase.io
import numpy as np
from ase import Atoms

from study2024.command import Clock
from study2024.record import bare
from tumble.descent import Descent, descend
from tumble.orbit import Orbit
from tumble.packs import predict
from tumble.potential import Potential, collate_for
from tumble.rotations import Rotations

N_FRAMES: Final = 24
"""Random frames in which the raw energy of a cell at rest is asked about; the same ones for every cell."""

TURNED: Final = 2
"""As many of these frames in which the raw walk is repeated."""

RAW_STEPS: Final = 90
AVERAGED_STEPS: Final = 40
"""Steps that a walk takes, for the plan only; one over the average begins where the raw one ended."""


class Task(NamedTuple):
    """One file of the folder.

    cell:  of the study, 2 to 10.
    what:  start, raw, averaged, frames or turned-0, ...
    calls: of the raw potential, about.
    """

    cell: int
    what: str
    calls: int

    @property
    def file(self) -> str:
        """Its name."""
        return f"{self.cell:02}-{self.what}.{'npz' if self.what in ('start', 'frames') else 'extxyz'}"


def tasks(cells: dict[int, Atoms], n_nodes: int) -> Iterator[tuple[Task, int]]:
    """In an order that makes every early end worth reporting: cell by cell, each complete; with atoms × calls."""
    for cell, atoms in sorted(cells.items(), key=lambda one: (len(one[1]), one[0])):
        calls = {"raw": RAW_STEPS, "start": 1 + n_nodes, "averaged": AVERAGED_STEPS * n_nodes, "frames": N_FRAMES}
        calls |= {f"turned-{k}": RAW_STEPS // 2 for k in range(TURNED)}
        for what, n in calls.items():
            yield Task(cell, what, n), n * len(atoms)


@final
class Ice:
    """Nine cells, a potential, its average, and the folder."""

    def __init__(
        self, folder: Path, cells: dict[int, Atoms], raw: Potential, averaged: Potential, settings: Descent
    ) -> None:
        """Nothing is asked yet."""
        self.folder, self.cells, self.raw, self.averaged, self.settings = folder, cells, raw, averaged, settings

    def run(self, n_nodes: int, clock: Clock, tell: Callable[[int, int, str], None]) -> None:
        """Ask what is not known yet, until the time is over; a file that was begun is finished."""
        plan = list(tasks(self.cells, n_nodes))
        work = np.cumsum([0, *(effort for _, effort in plan)]).tolist()
        for number, (task, _) in enumerate(plan):
            if self.has(task):
                continue
            if clock.left <= 0:
                break
            where = f"cell {task.cell}: {task.what}"
            tell(work[number], work[-1], where)
            self._keep(task, lambda message, n=number, w=where: tell(work[n], work[-1], f"{w}, {message}"))

    def has(self, task: Task) -> bool:
        """Whether it is there."""
        return (self.folder / task.file).exists()

    def _keep(self, task: Task, tell: Callable[[str], None]) -> None:
        path = self.folder / task.file
        partial = path.with_name(f"partial-{path.name}")
        if path.suffix == ".npz":
            answer = self._start(task.cell) if task.what == "start" else self._frames(task.cell)
            np.savez_compressed(partial, **answer)
        else:
            ase.io.write(partial, self._walk(task, tell), format="extxyz")
        partial.replace(path)

    def _start(self, cell: int) -> dict[str, np.ndarray]:
        """Of the geometry that was given, raw and averaged."""
        answers = [predict(potential, bare(self.cells[cell]))[0] for potential in (self.raw, self.averaged)]
        energy = np.array([float(answer.energy) for answer in answers])
        return {"energy": energy, "forces": np.stack([answer.forces.numpy() for answer in answers])}

    def _frames(self, cell: int) -> dict[str, np.ndarray]:
        """(1 + K,) eV, raw energies of the cell at rest on the average: as it lies, and in K random frames."""
        batch = collate_for(self.raw, [bare(self.at_rest(cell, "averaged"))])
        frames = Orbit.of(self.raw, batch, random_frames()).properties
        here = predict(self.raw, bare(self.at_rest(cell, "averaged")))[0]
        energy = np.array([float(here.energy), *frames.energy[:, 0].tolist()])
        return {"energy": energy, "forces": np.stack([here.forces.numpy(), *frames.forces.numpy()])}

    def _walk(self, task: Task, tell: Callable[[str], None]) -> Atoms:
        """To rest: raw from the geometry given, the others from where that ended."""
        begin = bare(self.cells[task.cell] if task.what == "raw" else self.at_rest(task.cell, "raw"))
        turn = np.eye(3)
        if task.what.startswith("turned"):
            turn = random_frames().matrices[int(task.what.rpartition("-")[2])].numpy()
        potential = self.averaged if task.what == "averaged" else self.raw
        [walk] = descend(potential, [turned(begin, turn)], self.settings, tell=lambda step: tell(step.message))
        end = turned(bare(walk.atoms), turn.T)
        end.info = {
            "energy_eV": float(walk.energies[-1]),
            "fmax_eV_per_A": float(walk.forces[-1]),
            "n_calls": walk.n_calls,
            "is_converged": walk.is_converged,
        }
        return end

    def at_rest(self, cell: int, what: str) -> Atoms:
        """The end of a walk, in the frame of the study."""
        found: Atoms = ase.io.read(self.folder / Task(cell, what, 0).file)
        return found

    def arrays(self, cell: int, what: str) -> dict[str, np.ndarray]:
        """Of a file of numbers."""
        with np.load(self.folder / Task(cell, what, 0).file) as found:
            return dict(found)

    def complete(self) -> list[int]:
        """Cells of which everything is known."""
        known = dict.fromkeys(self.cells, True)
        for task, _ in tasks(self.cells, 1):
            known[task.cell] &= self.has(task)
        return [cell for cell, is_known in known.items() if is_known]


def random_frames() -> Rotations:
    """The same for every cell."""
    return Rotations.random(N_FRAMES, seed=2024)


def turned(atoms: Atoms, rotation: np.ndarray) -> Atoms:
    """The structure and its cell turned; no atom is moved across a face."""
    found = bare(atoms)
    found.set_cell(atoms.cell.array @ rotation.T)
    found.positions = atoms.positions @ rotation.T
    return found
