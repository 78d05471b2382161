"""run(): many structures side by side through TorchSim, with the files that every engine leaves."""

import time
from collections.abc import Callable, Sequence
from typing import final

import numpy as np
from ase import Atoms

from tumble.endings import stop_signal
from tumble.jobs.md.desk import Desk
from tumble.jobs.md.engines.torchsim.moment import Moment
from tumble.jobs.md.engines.torchsim.replicas import Replicas, refuse
from tumble.jobs.md.motion import start
from tumble.jobs.md.run import Clock, Plan, Run
from tumble.jobs.md.settings import AUTO, MDSettings
from tumble.jobs.md.watch import Watch
from tumble.potential import Potential
from tumble.results import Progress

Tell = Callable[[Progress], None]

SECONDS_PER_DAY = 86400.0


def run(
    potential: Potential,
    structures: Sequence[Atoms],
    settings: MDSettings,
    desk: Desk,
    tell: Tell = lambda progress: None,
) -> Run:
    """Move structures side by side until their time has come, or something else ends it.

    A line of the series is an average over the structures; a frame is of one of them. Velocities of structure k, where
    they are drawn, are drawn with the seed plus k. What the watch finds in one structure stops all of them.

    Args:
        potential: of the slowest forces, averaged already where it should be.
        structures: S of them, of any sizes.
        settings: of the run.
        desk: where it writes, and from where it goes on.
        tell: told at every line of the series, with ns/day of all structures together.

    Raises:
        ImportError: torch-sim is not installed.
        ValueError: what `Replicas`, `start` and `Watch` refuse.
        RuntimeError: the disk is full.
    """
    refuse(settings)
    watch = Watch(potential, settings)
    seeds = (settings.model_copy(update={"seed": settings.seed + k}) for k in range(len(structures)))
    moving = [start(one, own) for one, own in zip(structures, seeds, strict=True)]
    replicas = Replicas(potential, moving, settings, _steps(potential, moving[0], settings, desk, tell))
    if (state := desk.resumed()) is not None:
        replicas.restore(state)
    with Clock(replicas.potentials, desk.record) as clock, stop_signal("restart") as was_told:
        return _Runner(replicas, settings, desk, watch, clock).until_the_end(tell, was_told)


def _steps(potential: Potential, atoms: Atoms, settings: MDSettings, desk: Desk, tell: Tell) -> tuple[int, ...]:
    """Fast steps to a slow one; where they are chosen, those of the first session."""
    if settings.mts != AUTO:
        return settings.steps_of_levels
    if "steps" not in desk.record:
        from tumble.jobs.md.choice import choose

        desk.record["steps"] = list(choose(potential, atoms, settings, tell).steps)
    return tuple(desk.record["steps"])


@final
class _Runner:
    """One session of a run."""

    def __init__(self, replicas: Replicas, settings: MDSettings, desk: Desk, watch: Watch, clock: Clock) -> None:
        self.replicas, self.settings, self.desk, self.watch, self.clock = replicas, settings, desk, watch, clock
        self.plan = Plan.of(settings, replicas.steps)
        self.done = self.first = replicas.n_steps // replicas.stride
        self.began = self.saved = time.monotonic()

    def until_the_end(self, tell: Tell, was_told: Callable[[], bool]) -> Run:
        """All steps, with lines, frames and restarts between them."""
        reason = ""
        if self.desk.resumed() is None:
            reason = self._look(tell)
            self._save()
        while not reason and self.done < self.plan.total and not was_told() and not self._is_late():
            if reason := self._step():
                return self._end(reason, was_told())
            reason = self._look(tell)
            if time.monotonic() - self.saved > self.settings.restart_s:
                self._save()
        self._save()
        return self._end(reason, was_told())

    def _step(self) -> str:
        """One outer step; why it failed, or nothing."""
        try:
            self.replicas.advance()
        except ValueError as error:  # atoms on top of each other, or positions that are no numbers
            now = Moment.of(self.replicas, self.settings)
            reason = f"runaway: the potential refused a structure after {now.time_ps:g} ps: {error}"
            hottest = self.replicas.frames({int(now.temperature_K.argmax())})
            self.desk.write_stopped(hottest[0], reason, now.time_ps)
            return reason
        self.done += 1
        self.clock.effort.steps += 1
        return ""

    def _look(self, tell: Tell) -> str:
        """Line and frames if it is time, and why the watch stops it, if it does."""
        plan, reason = self.plan, ""
        is_line, is_frame = self.done % plan.log == 0, self.done % plan.frame == 0
        if not (is_line or is_frame or self.done == plan.total):
            return ""
        now = Moment.of(self.replicas, self.settings)
        frames = self.replicas.frames() if is_frame else []
        if is_line or self.done == plan.total:
            doubts = self._uncertainties()
            mean = now.mean()
            if is_line:
                self.desk.write_line(mean, None if doubts is None else float(doubts.mean()))
            reason = self._alarm(now, doubts)
            tell(Progress(self.done, plan.total, self._message(mean.time_ps, mean.temperature_K)))
        for index, atoms in enumerate(frames):
            self.desk.write_frame(atoms, now.at(index), index)
        return reason

    def _alarm(self, now: Moment, doubts: np.ndarray | None) -> str:
        """Why the watch stops one of the structures, and with it all of them."""
        suspects = {int(np.nan_to_num(now.temperature_K, nan=np.inf).argmax()), self.replicas.tightest()}
        suspects |= set() if doubts is None else {int(doubts.argmax())}
        frames = self.replicas.frames(suspects)
        for index, atoms in zip(sorted(suspects), frames, strict=True):
            instant = now.at(index)
            if reason := self.watch.alarm(atoms, instant, None if doubts is None else float(doubts[index])):
                reason = f"structure {index}: {reason}" if len(now.kinetic_eV) > 1 else reason
                self.desk.write_stopped(atoms, reason, now.time_ps)
                return reason
        return ""

    def _uncertainties(self) -> np.ndarray | None:
        """(S,) eV per atom; None if they are not watched."""
        return None if self.settings.max_uncertainty is None else self.replicas.uncertainties()

    def _save(self) -> None:
        self.clock.write_into(self.desk.record)
        self.desk.checkpoint(self.replicas.state())
        self.saved = time.monotonic()

    def _end(self, reason: str, was_told: bool) -> Run:
        self.desk.last[:] = self.replicas.frames()
        arrived = self.done >= self.plan.total
        ended = "watch" if reason else "arrived" if arrived else "interrupted" if was_told else "out of time"
        return Run(ended, reason, self.clock.now(), self.watch.closest)  # type: ignore[arg-type]

    def _is_late(self) -> bool:
        limit = self.settings.max_minutes
        return limit is not None and time.monotonic() - self.began > 60 * limit

    def _message(self, time_ps: float, temperature_K: float) -> str:
        """Time, mean temperature, and the speed of this session, all structures together."""
        text, n = f"{time_ps:.4g} ps, {temperature_K:.0f} K", len(self.replicas.atoms)
        seconds, steps = time.monotonic() - self.began, (self.done - self.first) * self.plan.stride
        if not steps or seconds <= 0:
            return text
        speed = n * steps * self.settings.timestep_fs * 1e-6 / seconds * SECONDS_PER_DAY
        return f"{text}, {speed:.3g} ns/day" + (f" of {n} structures together" if n > 1 else "")
