"""Run: the steps of one structure, through ASE, with what is written, watched and told on the way."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal, NamedTuple, Self

from ase import Atoms
from torch.utils.hooks import RemovableHandle

from tumble.endings import stop_signal
from tumble.jobs.md.desk import Desk, read_series
from tumble.jobs.md.motion import Instant, Motion, start
from tumble.jobs.md.settings import MDSettings
from tumble.jobs.md.watch import Watch
from tumble.potential import Potential
from tumble.results import Progress
from tumble.units import MEV

Tell = Callable[[Progress], None]
Ended = Literal["arrived", "out of time", "interrupted", "watch"]

PS_PER_NS = 1000.0
SECONDS_PER_DAY = 86400.0


class Plan(NamedTuple):
    """What happens when, in outer steps.

    stride:  innermost steps in one.
    total:   of the whole simulation.
    log:     between lines of the series.
    frame:   between frames.
    """

    stride: int
    total: int
    log: int
    frame: int

    @classmethod
    def of(cls, settings: MDSettings, steps: Sequence[int]) -> Self:
        """The nearest whole numbers of outer steps; the whole is not cut short.

        Args:
            settings: with times.
            steps: fast steps to a slow one, from fast to slow.
        """
        stride = 1
        for one in steps:
            stride *= one
        outer_fs = stride * settings.timestep_fs
        log, frame = (max(1, round(each / outer_fs)) for each in (settings.log_fs, settings.frame_fs))
        return cls(stride, max(1, ceil(1000 * settings.time_ps / outer_fs - 1e-6)), log, frame)

    def in_words(self, settings: MDSettings) -> list[str]:
        """Times that were asked for and are rounded to outer steps."""
        outer_fs = self.stride * settings.timestep_fs
        asked = {"log_fs": (settings.log_fs, self.log), "frame_fs": (settings.frame_fs, self.frame)}
        return [
            f"{name} is {count * outer_fs:g}, a whole number of steps of {outer_fs:g} fs, and not {wanted:g}"
            for name, (wanted, count) in asked.items()
            if abs(count * outer_fs - wanted) > 1e-9 * wanted
        ]


@dataclass
class Effort:
    """What a run has cost so far, all its sessions together.

    seconds:   of real time.
    in_model:  seconds within the potential.
    steps:     outer ones.
    calls:     of each level, fast to slow.
    """

    seconds: float = 0.0
    in_model: float = 0.0
    steps: int = 0
    calls: list[int] = field(default_factory=list)


class Run(NamedTuple):
    """How a run ended.

    ended:   arrived at its time, out of real time, interrupted by a signal, or stopped by the watch.
    reason:  of the watch, with numbers; empty otherwise.
    effort:  what it cost.
    closest: smallest distance seen over the sum of covalent radii; inf where no two atoms came near.
    """

    ended: Ended
    reason: str
    effort: Effort
    closest: float


def run(
    potential: Potential, atoms: Atoms, settings: MDSettings, steps: tuple[int, ...], desk: Desk, tell: Tell
) -> Run:
    """Run one structure until its time has come, or something else ends it.

    Args:
        potential: of the slowest forces, averaged already where it should be.
        atoms: as given; velocities are drawn where they should be.
        settings: of the run.
        steps: fast steps to a slow one, from fast to slow.
        desk: where it writes.
        tell: told at every line of the series.

    Raises:
        ValueError: what `start`, `Motion` and `Watch` refuse.
        RuntimeError: the disk is full.
    """
    watch = Watch(potential, settings)
    motion = Motion.of(potential, start(atoms, settings), settings, steps)
    if (state := desk.resumed()) is not None:
        motion.restore(state)
    with Clock([one.potential for one in motion.calculators], desk.record) as clock, stop_signal("restart") as was_told:
        return _Runner(motion, settings, desk, watch, clock).until_the_end(tell, was_told)


class _Runner:
    """One session of a run."""

    def __init__(self, motion: Motion, settings: MDSettings, desk: Desk, watch: Watch, clock: "Clock") -> None:
        self.motion, self.settings, self.desk, self.watch, self.clock = motion, settings, desk, watch, clock
        self.plan = Plan.of(settings, motion.steps)
        self.done = self.first = motion.now().step // self.plan.stride
        self.began = self.saved = time.monotonic()
        self.start_eV, self.last = self._conserved_at_start(), motion.atoms

    def until_the_end(self, tell: Tell, was_told: Callable[[], bool]) -> Run:
        """All steps, with lines, frames and restarts between them."""
        reason = ""
        ended: Ended | None = None
        if self.desk.resumed() is None:
            reason = self._look(tell)
            self._save()
        while not reason and ended is None and self.done < self.plan.total:
            if reason := self._step():
                return self._end("watch", reason)
            reason = self._look(tell)
            if was_told():
                ended = "interrupted"
            elif self._is_late():
                ended = "out of time"
            elif time.monotonic() - self.saved > self.settings.restart_s:
                self._save()
        self._save()
        return self._end("watch" if reason else ended or "arrived", reason)

    def _step(self) -> str:
        """One outer step; why it failed, or nothing."""
        before = self.motion.atoms.copy()
        try:
            self.motion.advance()
        except ValueError as error:  # atoms on top of each other, or positions that are no numbers
            reason = f"runaway: the potential refused the structure after {self._time_ps():g} ps: {error}"
            self.desk.write_stopped(before, reason, self._time_ps())
            self.last = before
            return reason
        self.done += 1
        self.clock.effort.steps += 1
        return ""

    def _look(self, tell: Tell) -> str:
        """Line and frame if it is time, and why the watch stops it, if it does."""
        plan, desk, atoms = self.plan, self.desk, self.motion.atoms
        reason = ""
        if self.done % plan.log == 0 or self.done == plan.total:
            now, doubt = self.motion.now(), self.watch.uncertainty(atoms)
            if self.done % plan.log == 0:
                desk.write_line(now, doubt)
            reason = self.watch.alarm(atoms, now, doubt)
            tell(Progress(self.done, plan.total, self._message(now)))
        if self.done % plan.frame == 0:
            desk.write_frame(atoms, self.motion.now())
        if reason:
            desk.write_stopped(atoms, reason, self._time_ps())
        return reason

    def _save(self) -> None:
        self.clock.write_into(self.desk.record)
        self.desk.checkpoint(self.motion.state())
        self.saved = time.monotonic()

    def _end(self, ended: Ended, reason: str) -> Run:
        self.desk.last[0] = self.last
        return Run(ended, reason, self.clock.now(), self.watch.closest)

    def _is_late(self) -> bool:
        limit = self.settings.max_minutes
        return limit is not None and time.monotonic() - self.began > 60 * limit

    def _conserved_at_start(self) -> float:
        if self.desk.resumed() is None:
            return self.motion.now().conserved_eV
        return float(read_series(self.desk.series_path)["conserved_eV"][0])

    def _time_ps(self) -> float:
        return self.done * self.plan.stride * self.settings.timestep_fs / 1000

    def _message(self, now: Instant) -> str:
        """Time, temperature, what the conserved quantity has changed by, and the speed of this session."""
        changed = MEV * (now.conserved_eV - self.start_eV) / len(self.motion.atoms)
        text = f"{now.time_ps:.4g} ps, {now.temperature_K:.0f} K, conserved {changed:+.3g} meV/atom"
        steps, seconds = self.done - self.first, time.monotonic() - self.began
        if steps and seconds > 0:
            ns = steps * self.plan.stride * self.settings.timestep_fs / 1000 / PS_PER_NS
            text += f", {ns / seconds * SECONDS_PER_DAY:.3g} ns/day"
        return text


class Clock:
    """Seconds and calls of potentials, while it is entered; what one calls within another counts once.

    effort: of the sessions before this one, to which steps are added from outside.
    """

    def __init__(self, potentials: Sequence[Potential], record: dict[str, Any]) -> None:
        """Args:
        potentials: fast to slow.
        record: of the desk, with the effort of earlier sessions, if any.
        """
        self.effort = Effort(**record.get("effort", {}))
        self.effort.calls = self.effort.calls or [0] * len(potentials)
        self._potentials, self._depth, self._entered = potentials, 0, 0.0
        self._handles: list[RemovableHandle] = []
        self._before, self._began = self.effort.seconds, time.monotonic()

    def __enter__(self) -> Self:
        """Listen."""
        for level, potential in enumerate(self._potentials):
            self._handles.append(potential.register_forward_pre_hook(lambda *_, level=level: self._enter(level)))
            self._handles.append(potential.register_forward_hook(lambda *_: self._leave(), always_call=True))
        return self

    def __exit__(self, *error: object) -> None:
        """Listen no more."""
        for handle in self._handles:
            handle.remove()

    def now(self) -> Effort:
        """The effort up to now."""
        self.effort.seconds = self._before + time.monotonic() - self._began
        return self.effort

    def write_into(self, record: dict[str, Any]) -> None:
        """Let the next restart remember it."""
        record["effort"] = vars(self.now()).copy()

    def _enter(self, level: int) -> None:
        if self._depth == 0:
            self.effort.calls[level] += 1
            self._entered = time.monotonic()
        self._depth += 1

    def _leave(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.effort.in_model += time.monotonic() - self._entered
