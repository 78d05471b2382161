"""Simulations of an experiment: which, how far they are, and how a budget of real time is divided among them."""

import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

import numpy as np
from ase import Atoms

from study2024.command import Clock, shares
from tumble.jobs.md import MDSettings, md
from tumble.jobs.md.desk import RESTART, SERIES, clear
from tumble.potential import Potential
from tumble.results import Progress

SHORTEST_MINUTES: Final = 0.05
"""A simulation that would get less than this of a budget is left for the next call."""


class Simulation(NamedTuple):
    """One folder.

    name:     of it.
    settings: with the time it runs in all.
    start:    makes its structures, once.
    cost:     of 1 ps, in any unit that the simulations of an experiment share.
    """

    name: str
    settings: MDSettings
    start: Callable[[], list[Atoms]]
    cost: float

    def done_ps(self, folder: Path) -> float:
        """How far it is."""
        return min(last_time_ps(folder / self.name), self.settings.time_ps)

    def is_done(self, folder: Path) -> bool:
        """Whether it has reached its time, to a step."""
        return self.done_ps(folder) >= self.settings.time_ps - max(
            self.settings.log_fs, self.settings.timestep_fs
        ) / 1000 * (1 + 1e-6)

    def left(self, folder: Path) -> float:
        """Cost of the rest."""
        return 0.0 if self.is_done(folder) else self.cost * (self.settings.time_ps - self.done_ps(folder))


def advance(
    simulations: Sequence[Simulation],
    potential: Potential,
    folder: Path,
    clock: Clock,
    tell: Callable[[int, int, str], None],
) -> None:
    """Run all of them on for as long as there is time, each for a share in proportion to what it costs.

    A simulation that was killed goes on from its last restart file; one that is done is not touched.

    Args:
        simulations: in the order in which they run.
        potential: of all of them; what they average over is in their settings.
        folder: of the experiment; each has a folder of its name in it.
        clock: what is left of the budget.
        tell: called with picoseconds done, in all, and a message.
    """
    total = [one.settings.time_ps for one in simulations]

    def report(name: str) -> Callable[[Progress], None]:
        def say(progress: Progress) -> None:
            done = sum(one.done_ps(folder) for one in simulations)
            tell(round(1000 * done), round(1000 * sum(total)), f"{name}: {progress.message}")

        return say

    def share(one: Simulation) -> float:
        return shares(clock.left, [one.left(folder), *(other.left(folder) for other in waiting)])[0]

    is_worth_it = True
    while is_worth_it:  # what one of them has left of its share is for the others
        is_worth_it, waiting = False, list(simulations)
        while waiting:
            one = waiting.pop(0)
            minutes = clock.left if clock.left == float("inf") else share(one)
            if not one.is_done(folder) and minutes >= SHORTEST_MINUTES:
                is_worth_it = True
                _go_on(one, potential, folder, minutes, report(one.name))


def _go_on(
    one: Simulation, potential: Potential, folder: Path, minutes: float, tell: Callable[[Progress], None]
) -> None:
    """Run one for so many minutes, or until it is done."""
    where, structures, began = folder / one.name, one.start(), monotonic()
    resume = (where / RESTART).exists()
    if not resume:
        clear(where)  # of a run that was killed before it could be gone on with
    settings = one.settings.model_copy(update={"max_minutes": None if minutes == float("inf") else minutes})
    subject = structures[0] if len(structures) == 1 else structures
    md(potential, subject, settings, folder=where, resume=resume, name=one.name, tell=tell)
    if not one.is_done(folder) and monotonic() - began < 60 * minutes:
        sys.exit(f"{where} was interrupted, or stopped by its watch. The same command goes on.")


def series(folder: Path) -> dict[str, np.ndarray]:
    """Columns of the series of a run, name → (K,); empty fields are NaN, a line that was cut off is left out."""
    path = folder / SERIES
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        names, *rows = list(csv.reader(file)) or [[]]
    rows = [row for row in rows if len(row) == len(names)]
    values = np.array([[float(cell) if cell else np.nan for cell in row] for row in rows]).reshape(-1, len(names))
    return dict(zip(names, values.T, strict=True))


def last_time_ps(folder: Path) -> float:
    """Of the last line of a series; zero without one."""
    path = folder / SERIES
    if not path.exists():
        return 0.0
    with path.open("rb") as file:
        names = file.readline().decode().strip().split(",")
        file.seek(max(file.tell(), path.stat().st_size - 4096))
        lines = file.read().decode(errors="ignore").splitlines()
    for line in reversed(lines):
        cells = line.split(",")
        if len(cells) == len(names) and cells[names.index("time_ps")]:
            return float(cells[names.index("time_ps")])
    return 0.0
