"""Record: the difference of slow and fast forces along a short simulation, and what either costs."""

import time
import timeit
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from ase import Atoms
from ase.units import fs
from numpy.typing import NDArray
from scipy.linalg import helmert

from tumble.batch import Batch
from tumble.bridges.ase import Calculator
from tumble.jobs.md.motion import Motion
from tumble.jobs.md.settings import NONE, MDSettings
from tumble.orbit import Orbit
from tumble.potential import Potential, collate_for
from tumble.results import Progress
from tumble.rotations import Rotations
from tumble.symmetry import Projected, Symmetrized

Array = NDArray[np.float64]

INTERVAL_FS: Final = 1.0
"""Between samples, rounded to whole steps: overtones of the fastest vibrations, 4.9 fs, are well resolved."""

N_TURNS: Final = 2
"""Random orientations that stand for all those of an average."""

DEAR: Final = 8.0
"""Times the cost of fast forces, above which they do."""

MOST_SAMPLES: Final = 400
FEWEST_SAMPLES: Final = 100

N_TIMED: Final = 5

TICK: Final = 1e-6
"""Seconds that a call takes at least."""

SHARE: Final = 0.2
"""Of the simulation that is to come: what the record may cost, as long as it has the fewest samples."""


class Cost(NamedTuple):
    """Seconds per call of the fast and of the slow forces, and of the potential before it is averaged."""

    fast: float
    slow: float
    raw: float

    def of(self, n_steps: int) -> float:
        """Of an innermost step with so many to an impulse, in raw steps; 1 means slow forces at every step."""
        return (self.slow if n_steps == 1 else self.fast + self.slow / n_steps) / self.raw


class Record(NamedTuple):
    """What was seen along a simulation at constant energy.

    powers:        (n, K) eV/fs, v·(F_slow - F_fast), in K independent ways.
    interval_fs:   between samples.
    temperature_K: mean.
    cost:          of the calls.
    atoms:         at the end, with momenta.
    n_raw:         what the record took, in raw calls.
    """

    powers: Array
    interval_fs: float
    temperature_K: float
    cost: Cost
    atoms: Atoms
    n_raw: float


def record(
    fast: Potential, slow: Potential, atoms: Atoms, settings: MDSettings, tell: Callable[[Progress], None]
) -> Record:
    """Run at constant energy along the fast forces, or along the slow ones where the fast ones are no gradient.

    Where the slow forces are a mean over rotations and dear, `N_TURNS` random ones stand for them: in a liquid the
    deviation from the mean is as large and as fast in any orientation, so that differences between orientations have
    its spectrum, at a fraction of the calls and with more statistics. In a crystal they have that of a crystal in an
    arbitrary orientation.

    Args:
        fast: forces at every step.
        slow: forces of the impulses.
        atoms: with momenta.
        settings: of the simulation that is to come.
        tell: called as it goes on.
    """
    motion = Motion.of(fast if fast.is_conservative else slow, atoms, alone(settings))
    motion.advance()  # of a structure that is symmetric at the start, and only there, an average costs less
    cost = costs(fast, slow, motion.atoms)
    is_sampled = _is_mean_of(fast, slow) and cost.slow > DEAR * cost.fast
    every = max(1, round(INTERVAL_FS / settings.timestep_fs))
    per_sample = every + (N_TURNS if is_sampled else (cost.slow if fast.is_conservative else cost.fast) / cost.raw)
    affordable = SHARE * 1000 * settings.time_ps / settings.timestep_fs / per_sample
    n = int(np.clip(affordable, FEWEST_SAMPLES, MOST_SAMPLES))
    ask = _between_turns(fast, settings.seed) if is_sampled else _between_levels(fast, slow)
    powers, temperatures = [], []
    for done in range(n):
        for _ in range(every):
            motion.advance()
        velocities = motion.atoms.get_velocities() * fs
        powers.append(np.tensordot(ask(motion), velocities, 2))
        temperatures.append(motion.now().temperature_K)
        tell(Progress(done + 1, n, f"how the difference of the forces varies, {temperatures[-1]:.0f} K"))
    interval_fs = every * settings.timestep_fs
    return Record(
        np.array(powers), interval_fs, float(np.mean(temperatures)), cost, motion.atoms.copy(), n * per_sample
    )


def alone(settings: MDSettings) -> MDSettings:
    """The same at constant energy, with one level of forces, not averaged and not turned by anything but the caller."""
    return settings.model_copy(update={"ensemble": "nve", "mts": NONE, "average": NONE, "turns": NONE})


def costs(fast: Potential, slow: Potential, atoms: Atoms) -> Cost:
    """Measured: the fastest of `N_TIMED` calls of each, made in turn, after one that does not count.

    On a processor it is this thread's time there, which other programs do not lengthen.
    """
    clock = time.thread_time if fast.device.type == "cpu" else time.perf_counter
    asks = [partial(_wait_for, one, collate_for(one, [atoms])) for one in (fast, slow)]
    rounds = [[timeit.timeit(ask, timer=clock, number=1) for ask in asks] for _ in range(N_TIMED + 1)]
    of_fast, of_slow = (max(min(seconds), TICK) for seconds in zip(*rounds[1:], strict=True))
    return Cost(of_fast, of_slow, of_fast if isinstance(slow, Symmetrized | Projected) else of_slow)


def _wait_for(potential: Potential, batch: Batch) -> None:
    """An answer that has arrived, and is not only on its way."""
    forces = potential(batch).forces
    assert forces is not None
    forces.cpu()


def _is_mean_of(fast: Potential, slow: Potential) -> bool:
    """Whether slow forces are the mean of the fast ones over rotations that do not depend on the structure."""
    return isinstance(slow, Symmetrized) and isinstance(slow.rotations, Rotations) and slow.inner is fast


def _between_levels(fast: Potential, slow: Potential) -> Callable[[Motion], Array]:
    """Slow forces less fast ones, (1, N, 3) eV/Å; one of the two moves the atoms and is known."""
    other, sign = (Calculator(slow), 1.0) if fast.is_conservative else (Calculator(fast), -1.0)

    def ask(motion: Motion) -> Array:
        known = motion.calculators[-1].get_property("forces", motion.atoms)
        found = other.get_property("forces", motion.atoms)
        return np.asarray(sign * (found - known))[None]

    return ask


def _between_turns(potential: Potential, seed: int) -> Callable[[Motion], Array]:
    """Orthonormal differences (K, N, 3) eV/Å of the forces as they are and in K other orientations.

    The deviations from the mean of different orientations know nothing of each other: each of these combinations, whose
    coefficients add up to 0 and their squares to 1, varies as one deviation does.
    """
    rule = Rotations.random(N_TURNS, seed)
    contrasts = helmert(N_TURNS + 1)

    def ask(motion: Motion) -> Array:
        known = motion.calculators[-1].get_property("forces", motion.atoms)
        turned = Orbit.of(potential, collate_for(potential, [motion.atoms]), rule).properties.forces
        assert turned is not None
        return np.asarray(np.tensordot(contrasts, np.concatenate([known[None], turned.cpu().numpy()]), 1))

    return ask
