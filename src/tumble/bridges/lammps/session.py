"""A LAMMPS in this process that takes time steps with forces from here (`fix external`)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NamedTuple, Self, final

import numpy as np
from ase import Atoms
from ase.units import fs
from numpy.typing import NDArray

from tumble.bridges.lammps.library import library
from tumble.bridges.lammps.writer import DATA, PS_PER_FS, ensemble, fast_steps, opening, write_data

Floats = NDArray[np.float64]

Ask = Callable[[Floats, Floats], tuple[float, Floats, Floats]]
"""Positions (N, 3) Å and cell (3, 3) Å to energy eV, forces (N, 3) eV/Å and virial -V σ (3, 3) eV."""

FIX = "forces"
VIRIAL = ((0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2))
"""xx, yy, zz, xy, xz, yz."""


class Now(NamedTuple):
    """Atoms in LAMMPS' frame: positions (N, 3) Å, never wrapped; velocities (N, 3) in units of ASE; cell (3, 3) Å."""

    positions: Floats
    velocities: Floats
    cell: Floats


@final
class Session:
    """One simulation; a context that ends it.

    Several levels of forces are impulses: in every P-th step the difference f_k - f_(k-1) of a slow level acts P-fold.
    With Verlet's integrator that is what r-RESPA does, which LAMMPS does not let external forces take part in.

    energies_eV: of the levels, when each was asked last.
    """

    def __init__(
        self,
        atoms: Atoms,
        settings: Any,
        asks: Sequence[Ask],
        steps: Sequence[int] = (),
        *,
        restart: Path | None = None,
    ) -> None:
        """Everything is set up, nothing has moved.

        Args:
            atoms: with momenta.
            settings: ensemble, temperature_K, thermostat, thermostat_fs, pressure_GPa, barostat, barostat_fs,
                timestep_fs, seed, as in `MDSettings`.
            asks: levels of forces, from fast to slow, asked in LAMMPS' frame.
            steps: of each level to one of the next, from fast to slow.
            restart: that `write_restart` wrote, to go on from.

        Raises:
            ImportError: LAMMPS is not installed.
            ValueError: constant pressure with several time steps, or what `write_data` and `ensemble` refuse.
            Exception: what a potential raised while it was asked.
        """
        if settings.ensemble == "npt" and steps:
            raise ValueError(
                "constant pressure was asked for together with multiple time steps, which LAMMPS takes from other "
                "programs at constant volume only. Use nvt, one time step, or the engine i-pi."
            )
        self._asks, self._every = list(asks), fast_steps(steps)
        self._known: list[tuple[float, Floats, Floats]] = []
        self._failure: BaseException | None = None
        text, _ = write_data(atoms)
        moves = ensemble(atoms, settings)
        self._lammps = library()
        try:
            self._set_up(atoms, settings, restart, text, moves)
        except BaseException:
            self.close()
            raise

    @property
    def energies_eV(self) -> list[float]:
        """Of the levels, when each was asked last."""
        return [one[0] for one in self._known]

    @property
    def heat_eV(self) -> float:
        """What thermostat and barostat have given since the fixes were made, up to a constant."""
        return -float(self._lammps.get_thermo("ecouple"))

    def thermo(self, name: str) -> float:
        """A thermo keyword of LAMMPS, in its units."""
        return float(self._lammps.get_thermo(name))

    def run(self, n_steps: int) -> None:
        """Innermost steps.

        Raises:
            RuntimeError: LAMMPS has failed.
            Exception: what a potential raised while it was asked.
        """
        # Said to be part of one long run: at the first step of a run, Langevin's fix forgets the heat it has given.
        self._n_done += n_steps
        first, last = self._first, self._first + self._n_done
        self._command(f"run {n_steps} pre no post no start {first} stop {last}")

    def now(self) -> Now:
        """Where the atoms are."""
        velocities = np.asarray(self._lammps.numpy.extract_atom("v"))[self._order()] * (PS_PER_FS / fs)
        positions, cell = self._unwrapped()
        return Now(positions, velocities, cell)

    def write_restart(self, path: Path) -> None:
        """A file from which `restart` goes on; it replaces one that is there all at once."""
        fresh = path.with_name(path.name + ".new")
        self._command(f'write_restart "{fresh}"')
        fresh.replace(path)

    def close(self) -> None:
        """End it."""
        self._lammps.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _set_up(self, atoms: Atoms, settings: Any, restart: Path | None, text: str, moves: list[str]) -> None:
        with TemporaryDirectory(prefix="tumble-lammps-") as folder:
            data = Path(folder) / DATA
            data.write_text(text, encoding="utf-8")
            rows = opening(atoms, f'"{data}"')
            if restart is not None:
                rows[-1] = f'read_restart "{restart}"'
            for row in rows:
                self._command(row)
        later = [
            # LAMMPS wants a pair style, for its ghosts; this one does nothing.
            "pair_style zero 1.0 nocoeff",
            "pair_coeff * *",
            f"timestep {settings.timestep_fs * PS_PER_FS:.12g}",
            f"fix {FIX} all external pf/callback 1 1",
            *moves,
            "thermo_style custom step pe ke ecouple press",
            "thermo_modify norm no",
        ]
        for row in later:
            self._command(row)
        size = self._lammps.extract_setting
        self._mask, self._bits, self._bits2, self._zero = map(size, ("IMGMASK", "IMGBITS", "IMG2BITS", "IMGMAX"))
        self._lammps.set_fix_external_callback(FIX, self._push, None)
        self._command("run 0 post no")
        self._first, self._n_done = int(self._lammps.extract_global("ntimestep")), 0

    def _command(self, row: str) -> None:
        """One command.

        Raises:
            RuntimeError: LAMMPS refuses it, or has failed while it did it.
            Exception: what a potential raised while it was asked.
        """
        said = ""
        try:
            self._lammps.command(row)
        except Exception as error:  # LAMMPS has nothing finer
            said = " ".join(str(error).split())
        if self._failure is not None:
            raise self._failure
        if said:
            raise RuntimeError(
                f"LAMMPS has failed at {row!r}: {said}. If atoms are lost or not numeric, the simulation has blown up: "
                "shorten its time step."
            )

    def _push(self, _: object, step: int, n: int, tags: Floats, x: Floats, forces: Floats) -> None:
        """Called by LAMMPS for forces; an exception must not pass through it."""
        forces[:] = 0.0
        if self._failure is not None:
            return
        try:
            energy, push, virial = self._impulse(step)
        except BaseException as error:  # also an interrupt: it is raised again as soon as LAMMPS is back
            self._failure = error
            return
        forces[:] = push[np.asarray(tags).ravel() - 1]
        self._lammps.fix_external_set_energy_global(FIX, energy)
        self._lammps.fix_external_set_virial_global(FIX, virial[VIRIAL].tolist())

    def _impulse(self, step: int) -> tuple[float, Floats, Floats]:
        """Energy of the slowest level, forces that act in this step, and the virial of the slowest level."""
        positions, cell = self._unwrapped()
        due = [every for every in self._every if step % every == 0 or not self._known]
        answers = [ask(positions, cell) for ask in self._asks[: len(due)]]
        self._known = answers + self._known[len(due) :]
        push = answers[0][1]
        for k, every in enumerate(due[1:], 1):
            push = push + every * (answers[k][1] - answers[k - 1][1])
        return self._known[-1][0], push, self._known[-1][2]

    def _order(self) -> NDArray[np.int64]:
        """Places of atoms 1, 2, ... in LAMMPS' arrays."""
        n = self._lammps.extract_global("nlocal")
        return np.argsort(np.asarray(self._lammps.numpy.extract_atom("id")).ravel()[:n])

    def _unwrapped(self) -> tuple[Floats, Floats]:
        """Positions (N, 3) Å and cell (3, 3) Å."""
        low, high, xy, yz, xz, _, _ = self._lammps.extract_box()
        cell = np.diag(np.subtract(high, low))
        cell[1, 0], cell[2, 0], cell[2, 1] = xy, xz, yz
        order, ask = self._order(), self._lammps.numpy.extract_atom
        flags = np.asarray(ask("image")).ravel()[order]
        images = np.stack([flags & self._mask, flags >> self._bits & self._mask, flags >> self._bits2], 1) - self._zero
        return np.asarray(ask("x"))[order] - low + images @ cell, cell
