"""LAMMPS takes the time steps: its library, in this process, with forces from here."""

import time
from collections.abc import Callable, Sequence
from math import gcd
from typing import Final, final

import numpy as np
from ase import Atoms

from tumble.bridges.lammps import Session, turn_of
from tumble.endings import stop_signal
from tumble.jobs.md.desk import Desk
from tumble.jobs.md.engines.asked import Asked, Floats
from tumble.jobs.md.motion import Instant, start
from tumble.jobs.md.motion.instant import kinetic_energy, momenta_of, pressure_GPa, temperatures, volume_of
from tumble.jobs.md.run import Clock, Ended, Plan, Run, Tell
from tumble.jobs.md.settings import MDSettings
from tumble.jobs.md.watch import Watch
from tumble.potential import Potential
from tumble.results import Progress
from tumble.symmetry import levels
from tumble.symmetry.turned import Turned
from tumble.units import MEV

RESTART: Final = "restart.lammps"
"""What LAMMPS goes on from, beside the restart of the desk."""


def run(potential: Potential, structures: Sequence[Atoms], settings: MDSettings, desk: Desk, tell: Tell) -> Run:
    """Let LAMMPS run one structure until its time has come, or something else ends it.

    A run that is taken up goes on with the same atoms and thermostats, but not to the same bits.

    Args:
        potential: of the slowest forces, averaged already where it should be.
        structures: one.
        settings: of the run; mts says numbers, or none.
        desk: where it writes.
        tell: told at every line of the series.

    Raises:
        ImportError: LAMMPS is not installed.
        ValueError: several structures, or what `start`, `levels`, `Watch` and `Session` refuse.
        RuntimeError: the disk is full.
    """
    if len(structures) != 1:
        raise ValueError(
            f"{len(structures)} structures were given, and LAMMPS runs one at a time here. Run them one by one, or "
            "side by side with the engine torchsim."
        )
    if settings.turns == "random":
        potential = Turned(potential, settings.seed)
    steps, state = settings.steps_of_levels, desk.resumed()
    atoms, watch = start(structures[0], settings), Watch(potential, settings)
    turn = turn_of(atoms)
    asked = [Asked(one, atoms, turn) for one in levels(potential, len(steps) + 1)]
    for one in asked:
        one.check(settings.ensemble)
    restart = None if state is None else desk.folder / RESTART
    with (
        Clock([one.potential for one in asked], desk.record) as clock,
        stop_signal("restart") as was_told,
        Session(atoms, settings, asked, steps, restart=restart) as session,
    ):
        return _Runner(session, asked[-1], turn, settings, desk, watch, clock).until_the_end(tell, was_told)


@final
class _Runner:
    """One session of a run."""

    def __init__(
        self,
        session: Session,
        slowest: Asked,
        turn: Floats,
        settings: MDSettings,
        desk: Desk,
        watch: Watch,
        clock: Clock,
    ) -> None:
        self._session, self._slowest, self._turn, self._settings = session, slowest, turn, settings
        self._desk, self._watch, self._clock = desk, watch, clock
        self._plan, state = Plan.of(settings, settings.steps_of_levels), desk.resumed()
        self._done = 0 if state is None else int(state["step"])
        self._zero_eV = session.heat_eV - (0.0 if state is None else float(state["heat_eV"]))
        self._start_eV = None if state is None else float(state["conserved_eV"])
        self._began = self._saved = time.monotonic()

    def until_the_end(self, tell: Tell, was_told: Callable[[], bool]) -> Run:
        """All steps, with lines, frames and restarts between them."""
        reason, plan, ended = "", self._plan, None
        if self._desk.resumed() is None:
            reason = self._look(tell)
        while not reason and ended is None and self._done < plan.total:
            chunk = min(gcd(plan.log, plan.frame), plan.total - self._done)
            self._session.run(chunk * plan.stride)
            self._done += chunk
            self._clock.effort.steps += chunk
            reason = self._look(tell)
            if was_told():
                ended = "interrupted"
            elif self._is_late():
                ended = "out of time"
            elif time.monotonic() - self._saved > self._settings.restart_s:
                self._save()
        self._save()
        how: Ended = "watch" if reason else ended or "arrived"  # type: ignore[assignment]
        return Run(how, reason, self._clock.now(), self._watch.closest)

    def _look(self, tell: Tell) -> str:
        """Line and frame if it is time, and why the watch stops it, if it does."""
        plan, desk, reason = self._plan, self._desk, ""
        atoms, now = self._now()
        if self._start_eV is None:
            self._start_eV = now.conserved_eV
        if self._done % plan.log == 0 or self._done == plan.total:
            doubt = self._watch.uncertainty(atoms)
            if self._done % plan.log == 0:
                desk.write_line(now, doubt)
            reason = self._watch.alarm(atoms, now, doubt)
            tell(Progress(self._done, plan.total, self._message(now)))
        if self._done % plan.frame == 0:
            desk.write_frame(atoms, now)
        if reason:
            desk.write_stopped(atoms, reason, now.time_ps)
        desk.last[0] = atoms
        return reason

    def _now(self) -> tuple[Atoms, Instant]:
        """The atoms in the frame of the user, with momenta, and what is to be known of them."""
        there, atoms = self._session.now(), self._slowest.atoms.copy()
        atoms.positions = there.positions @ self._turn.T
        atoms.set_velocities(there.velocities @ self._turn.T)
        potential, heat = self._session.energies_eV[-1], self._session.heat_eV - self._zero_eV
        kinetic = kinetic_energy(atoms.get_momenta(), atoms.get_masses())
        step = self._done * self._plan.stride
        return atoms, Instant(
            step,
            step * self._settings.timestep_fs / 1000,
            potential,
            kinetic,
            heat,
            potential + kinetic - heat,
            *temperatures(atoms, self._settings),
            *momenta_of(atoms),
            volume_of(atoms),
            pressure_GPa(atoms, self._slowest.atoms.calc.results.get("stress")),
        )

    def _save(self) -> None:
        self._clock.write_into(self._desk.record)
        self._session.write_restart(self._desk.folder / RESTART)
        self._desk.checkpoint(
            {
                "step": np.array(self._done),
                "heat_eV": np.array(self._session.heat_eV - self._zero_eV),
                "conserved_eV": np.array(self._start_eV),
            }
        )
        self._saved = time.monotonic()

    def _is_late(self) -> bool:
        limit = self._settings.max_minutes
        return limit is not None and time.monotonic() - self._began > 60 * limit

    def _message(self, now: Instant) -> str:
        assert self._start_eV is not None, "the first look was taken before"
        changed = MEV * (now.conserved_eV - self._start_eV) / len(self._slowest.atoms)
        return f"{now.time_ps:.4g} ps, {now.temperature_K:.0f} K, conserved {changed:+.3g} meV/atom"
