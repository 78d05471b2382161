"""Simulations that go on where they were, and what was seen in them; choices; the cost of a step outside the model."""

import json
import time
from typing import Any

import numpy as np

from dynamics.cases import AUTO, CASES, TEMPERATURE_K, Case, Laboratory
from tumble.batch import Batch, Properties
from tumble.jacobian.drift import turn_heating
from tumble.jobs.md.choice import choose
from tumble.jobs.md.motion import Motion
from tumble.jobs.md.settings import MDSettings
from tumble.jobs.md.trend import Trend
from tumble.orbit import Orbit
from tumble.potential import Potential, collate_for
from tumble.rotations import Rotations
from tumble.units import BOLTZMANN, MEV

LOG_FS = 5.0
N_FRAMES = 5


class Timed(Potential):
    """Passes everything on, and knows how long it took, in seconds of the processor."""

    def __init__(self, inner: Potential) -> None:
        super().__init__()
        self.inner, self.seconds = inner, 0.0
        self.cutoff, self.species, self.is_conservative = inner.cutoff, inner.species, inner.is_conservative

    @property
    def dtype(self):
        """That of the inner potential."""
        return self.inner.dtype

    def forward(self, batch: Batch) -> Properties:
        """The inner potential's answer."""
        begin = time.process_time()
        answer = self.inner(batch)
        self.seconds += time.process_time() - begin
        return answer


def overhead(laboratory: Laboratory, n_side: int = 4, n_steps: int = 40) -> dict[str, float]:
    """Time of a step that is not the model's, as a share of what is, for each ensemble."""
    found = {}
    for ensemble in ("nve", "nvt"):
        timed = Timed(laboratory.water["raw"])
        settings = MDSettings(ensemble=ensemble, temperature_K=TEMPERATURE_K)
        motion = Motion.of(timed, laboratory.box(n_side), settings)
        motion.advance()
        timed.seconds, begin = 0.0, time.process_time()
        for _ in range(n_steps):
            motion.advance()
            motion.now()
        found[ensemble] = (time.process_time() - begin) / timed.seconds - 1
    return found


class Keeper:
    """The folder of a benchmark: choices and simulations as far as they have come."""

    def __init__(self, laboratory: Laboratory, allowed: dict[str, float]) -> None:
        """Args:
        laboratory: with a folder.
        allowed: K/ns, of the choice, for each system.
        """
        self.laboratory, self._allowed, self.folder = laboratory, allowed, laboratory.folder

    def known(self, name: str, ask: Any) -> Any:
        """What was found before under this name, or is now."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            path.write_text(json.dumps(ask(), indent=1))
        return json.loads(path.read_text())

    def choice(self, system: str, potential: str = "averaged") -> dict[str, Any]:
        """What auto chooses, as plain numbers."""
        return self.known(f"choice-{system}-{potential}", lambda: self._choose(system, potential))

    def _choose(self, system: str, potential: str) -> dict[str, Any]:
        step_fs = next(one.step_fs for one in CASES if one.system == system)
        limit = {"mts_heating_K_per_ns": self._allowed[system], "temperature_K": TEMPERATURE_K}
        settings = MDSettings(ensemble="nve", mts="auto", time_ps=100.0, timestep_fs=step_fs, **limit)
        atoms = self.laboratory.structures[system]
        begin = time.process_time()
        found = choose(self.laboratory.potential(system, potential), atoms, settings)
        drift = found.drift and found.drift.rate_K_per_ns
        return {
            "steps": found.steps[0] if found.steps else 1,
            "allowed": self._allowed[system],
            "reason": found.reason,
            "candidates": [[one.steps[0], *one[1:]] for one in found.candidates],
            "tried": found.tried,
            "seconds": time.process_time() - begin,
            "n_raw": found.n_raw,
            "lambda": found.conservation and found.conservation.ratio,
            "drift": drift,
        }

    def steps(self, case: Case) -> int:
        """Fast steps to a slow one."""
        return self.choice(case.system)["steps"] if case.steps == AUTO else case.steps

    def turning(self, system: str) -> dict[str, float]:
        """Heating that `turn_heating` predicts, K/ns, and the spread of forces, meV/Å per component."""
        return self.known(f"turning-{system}", lambda: self._turning(system))

    def _turning(self, system: str) -> dict[str, float]:
        raw, atoms = self.laboratory.potential(system, "raw"), self.laboratory.structures[system]
        spread = Orbit.of(raw, collate_for(raw, [atoms]), Rotations.random(12, 1)).spread().forces
        assert spread is not None
        heating = turn_heating(spread.numpy(), atoms, timestep_fs=0.5)
        return {"heating": heating.mean_K_per_ns, "spread": MEV * float((spread.square().mean() / 3).sqrt())}

    def advance(self, case: Case, seconds: float) -> None:
        """Let a simulation go on for so many seconds of the processor, at least for one step of its slowest forces."""
        path = self.folder / f"{case.key}.npz"
        motion = self.laboratory.motion(case, self.steps(case))
        kept: dict[str, np.ndarray] = dict(np.load(path)) if path.is_file() else {}
        if kept:
            motion.restore(
                {name.removeprefix("state."): one for name, one in kept.items() if name.startswith("state.")}
            )
        series = [kept["series"]] if kept else [_line(motion)]
        every = max(1, round(LOG_FS / case.step_fs / motion.stride))
        n_steps, begin = 0, time.process_time()
        while time.process_time() - begin < seconds:
            for _ in range(every):
                motion.advance()
            n_steps += every * motion.stride
            series.append(_line(motion))
        spent = time.process_time() - begin
        kept = {f"state.{name}": one for name, one in motion.state().items()} | {
            "series": np.concatenate(series),
            "seconds": kept.get("seconds", np.zeros(())) + spent,
            "n_steps": kept.get("n_steps", np.zeros((), dtype=int)) + n_steps,
        }
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **kept)
        partial.replace(path)

    def seen(self, case: Case) -> dict[str, Any] | None:
        """Time, cost and drift of what has been simulated."""
        path = self.folder / f"{case.key}.npz"
        if not path.is_file():
            return None
        kept = np.load(path)
        n_atoms = len(self.laboratory.structures[case.system])
        times, energies, temperatures = kept["series"].T
        found = Trend.of(times / 1000, energies * MEV / n_atoms)
        kelvin = 3 * BOLTZMANN * MEV
        return {
            "system": case.system,
            "ensemble": case.ensemble,
            "name": case.name,
            "steps": self.steps(case),
            "time_ps": float(times[-1]),
            "ms_per_step": float(1000 * kept["seconds"] / kept["n_steps"]),
            "temperature_K": float(temperatures.mean()),
            "drift": found.rate,
            "error": found.error,
            "scatter": found.scatter,
            "heating": found.rate / kelvin,
            "heating_error": found.error / kelvin,
            "n_atoms": n_atoms,
        }


def _line(motion: Motion) -> np.ndarray:
    now = motion.now()
    return np.array([[now.time_ps, now.conserved_eV, now.temperature_K]])
