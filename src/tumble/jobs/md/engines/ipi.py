"""i-PI takes the time steps, also of ring polymers: this process answers it, and writes what it finds."""

import time
from collections.abc import Sequence
from typing import Final, final

import numpy as np
from ase import Atoms
from ase.units import fs

from tumble.bridges.ipi import INPUT, RESUMED, Line, Output, Server, cut, go_on, triangular, write_input
from tumble.endings import stop_signal
from tumble.jobs.md.desk import Desk
from tumble.jobs.md.engines.asked import Asked
from tumble.jobs.md.motion import Instant, degrees_of_freedom, start
from tumble.jobs.md.motion.instant import rests
from tumble.jobs.md.run import Clock, Ended, Plan, Run, Tell
from tumble.jobs.md.settings import MDSettings
from tumble.jobs.md.watch import Watch
from tumble.potential import Potential
from tumble.results import Progress
from tumble.symmetry import levels
from tumble.symmetry.turned import Turned
from tumble.units import BOLTZMANN, MEV, EV_PER_A3_TO_GPa

FOLDER: Final = "i-pi"
"""Below the folder of the run: input and output of i-PI."""


def run(potential: Potential, structures: Sequence[Atoms], settings: MDSettings, desk: Desk, tell: Tell) -> Run:
    """Let i-PI run one structure until its time has come, or something else ends it.

    The conserved quantity is i-PI's own. With several beads energies are per bead, kinetic_eV is the quantum one, and
    heat_eV, which would say what only the classical one means, stays empty; so does the angular momentum.

    Args:
        potential: of the slowest forces, averaged already where it should be.
        structures: one.
        settings: of the run; mts says numbers, or none.
        desk: where it writes; i-PI's files are in the folder i-pi of it.
        tell: told at every line of the series.

    Raises:
        ImportError: i-PI is not installed.
        ValueError: several structures, or what `start`, `levels`, `Watch` and `write_input` refuse.
        RuntimeError: i-PI fails; the disk is full.
    """
    if len(structures) != 1:
        raise ValueError(
            f"{len(structures)} structures were given, and i-PI runs one at a time. Run them one by one, or side by "
            "side with the engine torchsim."
        )
    if settings.turns == "random":
        potential = Turned(potential, settings.seed)
    steps, state = settings.steps_of_levels, desk.resumed()
    atoms, plan, watch = start(structures[0], settings), Plan.of(settings, steps), Watch(potential, settings)
    turn = triangular(atoms)[0]
    asked = [Asked(one, atoms, turn) for one in levels(potential, len(steps) + 1)]
    for one in asked:
        one.check(settings.ensemble)
    zero_eV = float(asked[-1].atoms.get_potential_energy()) if state is None else float(state["zero_eV"])
    for one in asked:
        one.zero_eV = zero_eV
    asks = {f"level{k}": one for k, one in enumerate(asked)}
    folder, file, n_done = desk.folder / FOLDER, INPUT, 0
    if state is None:
        write_input(folder, atoms, settings, list(asks), steps, plan.total)
    else:
        file, n_done = RESUMED, go_on(folder, plan.total)
        cut(folder, atoms, n_done)
    session = _Session(atoms, settings, plan, desk, watch)
    session.take(Output(folder, atoms, turn), tell, zero_eV, after=-1 if state is None else int(state["step"]))
    with Clock([one.potential for one in asked], desk.record) as clock, stop_signal("restart") as was_told:
        ended: Ended = "arrived"
        session.clock = clock
        session.save()
        try:
            if n_done < plan.total:
                with Server(folder, file, asks, len(atoms)) as server:
                    has_ended = server.wait(lambda: session.is_to_stop(was_told()))
                ended = "arrived" if has_ended else session.why
        finally:
            session.collect(is_over=True)
            session.save()
    return Run("watch" if session.reason else ended, session.reason, clock.now(), watch.closest)


@final
class _Session:
    """What is done with the output of i-PI while it grows.

    clock:   of the run.
    last:    step of the newest line that was written; -1 before the first.
    reason:  of the watch.
    why:     it was told to stop.
    """

    clock: Clock

    def __init__(self, atoms: Atoms, settings: MDSettings, plan: Plan, desk: Desk, watch: Watch) -> None:
        self.last, self.reason = -1, ""
        self.why: Ended = "interrupted"
        self._atoms, self._settings, self._plan, self._desk, self._watch = atoms, settings, plan, desk, watch
        self._began = self._saved = time.monotonic()
        self._pending: list[tuple[int, Atoms]] = []

    def take(self, output: Output, tell: Tell, zero_eV: float, after: int) -> None:
        """Read from here, beyond a step that the desk has already."""
        self._output, self._tell, self._zero_eV, self._after = output, tell, zero_eV, after
        self._first: Instant | None = None
        self.last = self._newest = after
        self._known: dict[int, Instant] = {}

    def save(self) -> None:
        """Let the desk remember how far it is; i-PI has restarts of its own."""
        self.clock.write_into(self._desk.record)
        self._desk.checkpoint({"step": np.array(self.last), "zero_eV": np.array(self._zero_eV)})
        self._saved = time.monotonic()

    def is_to_stop(self, was_told: bool) -> bool:
        """Take what is new, and whether i-PI is to stop."""
        self.collect()
        if time.monotonic() - self._saved > self._settings.restart_s:
            self.save()
        limit = self._settings.max_minutes
        is_late = limit is not None and time.monotonic() - self._began > 60 * limit
        self.why = "interrupted" if was_told else "out of time"
        return was_told or is_late or bool(self.reason)

    def collect(self, *, is_over: bool = False) -> None:
        """Write new lines and frames to the desk, and look at them; a frame waits for the line of its step.

        Args:
            is_over: whether no line will come any more.
        """
        for line in self._output.lines():
            now = self._instant(line)
            self._first = self._first or now
            if line.step > self._after:
                self._desk.write_line(now)
                self.clock.effort.steps += line.step - max(self.last, 0)
                self.last = line.step
                self._tell(Progress(line.step, self._plan.total, self._message(now)))
            self._known[line.step], self._newest = now, line.step
        self._pending += self._output.frames()
        while self._pending and (is_over or self._pending[0][0] <= self._newest):
            step, atoms = self._pending.pop(0)
            if step > self._after:
                self._look(atoms, self._at(step))

    def _look(self, atoms: Atoms, now: Instant) -> None:
        """Keep a frame, and stop everything if it is alarming."""
        self._desk.write_frame(atoms, now)
        if self.reason or now.kinetic_eV is None:
            return
        self.reason = self._watch.alarm(atoms, now, self._watch.uncertainty(atoms))
        if self.reason:
            self._desk.write_stopped(atoms, self.reason, now.time_ps)

    def _at(self, step: int) -> Instant:
        """The moment of a frame; energies are known where a line was written at the same step."""
        inner = step * self._plan.stride
        unknown = Instant(inner, inner * self._settings.timestep_fs / 1000, *[None] * 10)  # type: ignore[arg-type]
        now = self._known.get(step, unknown)
        self._known = {k: one for k, one in self._known.items() if k > step}
        return now

    def _instant(self, line: Line) -> Instant:
        atoms, settings = self._atoms, self._settings
        step, is_ring, is_bulk = line.step * self._plan.stride, settings.beads > 1, bool(atoms.pbc.all())
        potential, conserved = line.potential_eV + self._zero_eV, line.conserved_eV + self._zero_eV
        temperature, by_element = self._temperatures(line)
        return Instant(
            step,
            step * settings.timestep_fs / 1000,
            potential,
            line.kinetic_eV,
            None if is_ring else potential + line.kinetic_eV - conserved,  # type: ignore[arg-type]
            conserved,
            temperature,
            by_element,
            line.velocity * atoms.get_masses().sum() / fs,
            None,  # type: ignore[arg-type]
            line.volume_A3 if is_bulk else None,
            line.pressure * EV_PER_A3_TO_GPa if is_bulk else None,
        )

    def _temperatures(self, line: Line) -> tuple[float, dict[str, float]]:
        """K; classical ones counted as those of the other engines, those of ring polymers as i-PI has them."""
        atoms = self._atoms
        symbols = list(dict.fromkeys(atoms.get_chemical_symbols()))
        if self._settings.beads > 1:
            return line.temperature_K, dict(zip(symbols, line.temperatures_K.tolist(), strict=True))
        free, masses = np.full(len(atoms), 3.0), atoms.get_masses()
        if rests(atoms, self._settings):
            free -= 3 * masses / masses.sum()
        by_element = {
            symbol: 2 * float(kinetic) / (BOLTZMANN * free[atoms.symbols == symbol].sum())
            for symbol, kinetic in zip(symbols, line.kinetics_eV, strict=True)
        }
        return 2 * line.kinetic_eV / (BOLTZMANN * degrees_of_freedom(atoms, self._settings)), by_element

    def _message(self, now: Instant) -> str:
        assert self._first is not None, "the first line was taken before"
        changed = MEV * (now.conserved_eV - self._first.conserved_eV) / len(self._atoms)
        return f"{now.time_ps:.4g} ps, {now.temperature_K:.0f} K, conserved {changed:+.3g} meV/atom"
