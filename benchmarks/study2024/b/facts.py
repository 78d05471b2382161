"""What each simulation of the liquid says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import numpy as np
from ase import Atoms, units
from scipy.signal import argrelextrema

from study2024.runs import Simulation, series
from tumble.jobs.md.trend import Trend
from tumble.orbit import Orbit
from tumble.potential import Potential, collate_for
from tumble.rotations import Rotations
from tumble.trajectories import (
    Correlations,
    Decay,
    Mean,
    Radial,
    SphereMap,
    Trajectory,
    Vector,
    axes,
    correlations,
    directions,
    displacements,
    free_energy,
    mean,
    molecules,
    radial,
    read,
    reorientation,
    vector,
)
from tumble.units import MEV

Array = np.ndarray

WARM_UP_ps: Final = 0.2
"""Left out: what a simulation takes to forget that the one before it had other forces."""

SHORTEST_ps: Final = 1.0
"""Simulations that are shorter are not reported."""

PS_PER_NS: Final = 1000.0
RULE: Final = "random:24"
"""Orientations in which forces are asked for, to predict what turning heats."""

N_FRAMES: Final = 3


@final
@dataclass(frozen=True, eq=False)
class Liquid:
    """One simulation.

    ps:       without the warm-up.
    drift:    meV per H2O and ns, of the conserved quantity.
    pairs:    g_OO.
    turned:   c_uu(t).
    spread:   mean squared displacement of O, Å².
    toward:   ℓ = 1 of the orientational free energy, k_BT.
    map:      of it.
    """

    ps: float
    temperature: Mean
    drift: Trend
    pairs: Radial
    along: Correlations
    turned: Decay
    spread: Decay
    toward: Vector
    map: SphereMap


class Heating(NamedTuple):
    """meV per H2O and ns that random turns add, Σ Δt σ_F² / 2m, and the root mean square of σ_F in meV/Å."""

    rate: float
    forces: float


@final
@dataclass(frozen=True, eq=False)
class Found:
    """Simulations by name, and the heating that is predicted; None if there is no simulation."""

    n_molecules: int
    runs: dict[str, Liquid]
    heating: Heating | None

    @classmethod
    def of(cls, potential: Potential, simulations: Sequence[Simulation], folder: Path) -> "Found":
        """From the folders of simulations, as far as they are."""
        runs, heats, n_molecules = {}, None, 0
        for one in simulations:
            if one.done_ps(folder) < SHORTEST_ps + WARM_UP_ps:
                continue
            trajectory = read(folder / one.name, start_ps=WARM_UP_ps)
            n_molecules = len(trajectory.where("O"))
            runs[one.name] = liquid(
                trajectory,
                series(folder / one.name),
                has_kicks=one.settings.turns != "none" or one.settings.mts != "none",
            )
            heats = heats or heating(potential, trajectory, one.settings.timestep_fs)
        return cls(n_molecules, runs, heats)


def liquid(trajectory: Trajectory, columns: dict[str, Array], *, has_kicks: bool = False) -> Liquid:
    """Of the frames and the series of one simulation.

    Args:
        trajectory: its frames.
        columns: of its series.
        has_kicks: whether forces heat, by random turns or impulses, so that the conserved quantity walks at random.
    """
    ends = axes(molecules(trajectory), trajectory, "H2O")
    pointing = directions(trajectory, ends)
    late = columns["time_ps"] >= WARM_UP_ps
    times, n = columns["time_ps"][late], len(ends)
    conserved = MEV * PS_PER_NS * columns["conserved_eV"][late] / n
    drift = walked(times, conserved) if has_kicks else Trend.of(times, conserved)
    return Liquid(
        ps=float(times[-1] - times[0]),
        temperature=mean(columns["temperature_K"][late]),
        drift=drift,
        pairs=radial(trajectory, "O"),
        along=correlations(trajectory, ends, pointing),
        turned=reorientation(trajectory, pointing, block_frames=_block(trajectory)),
        spread=displacements(trajectory, "O", block_frames=_block(trajectory)),
        toward=vector(pointing),
        map=free_energy(pointing),
    )


def walked(times: Array, values: Array, blocks: int = 10) -> Trend:
    """The drift of a random walk: from what it gains in each block, whose scatter is its error.

    A straight line would take the way that the walk has gone by chance for the drift.
    """
    ends = np.linspace(0, len(times) - 1, blocks + 1).astype(int)
    spacing, steps = float(np.diff(times[ends]).mean()), np.diff(values[ends])
    rate, error = float(steps.mean()) / spacing, float(steps.std(ddof=1)) / len(steps) ** 0.5 / spacing
    left = values - values.mean() - rate * (times - times.mean())
    return Trend(rate, error, float(np.sqrt(np.square(left).mean())))


def _block(trajectory: Trajectory) -> int:
    """Frames of a block, in which times go up to a half of it: two blocks, or such that 10 ps are seen."""
    return max(2, min(len(trajectory) // 2, round(20 / trajectory.spacing_ps)))


def heating(potential: Potential, trajectory: Trajectory, timestep_fs: float) -> Heating:
    """What a fresh random orientation at every step adds: the kicks δF Δt of a step have an energy (δF Δt)² / 2m."""
    places = np.linspace(0, len(trajectory) - 1, N_FRAMES).astype(int)
    frames = [
        Atoms(trajectory.numbers, positions=trajectory.positions[k], cell=trajectory.cells[k], pbc=trajectory.pbc)
        for k in places
    ]
    orbits = [Orbit.of(potential, collate_for(potential, [frame]), Rotations.parse(RULE)) for frame in frames]
    n = len(Rotations.parse(RULE))
    squares = np.mean([orbit.spread().forces.numpy() ** 2 * n / (n - 1) for orbit in orbits], axis=0)
    step = timestep_fs * units.fs
    per_step = (squares * step**2 / (2 * trajectory.masses)).sum() / len(trajectory.where("O"))
    rate = MEV * per_step / timestep_fs * 1e6
    return Heating(float(rate), float(MEV * np.sqrt(squares.mean() / 3)))


class Extreme(NamedTuple):
    """A maximum or minimum of g: where, Å; how high; the error of that."""

    r: float
    g: float
    error: float


def extremes(pairs: Radial, smallest: float = 2.5) -> dict[str, Extreme]:
    """The maxima and minima of g, the first ones beyond 2.5 Å, by the names that the study's have."""
    beyond = pairs.r > smallest
    found: dict[str, Extreme] = {}
    for kind, comparison in (("maximum", np.greater), ("minimum", np.less)):
        places = [k for k in argrelextrema(pairs.g, comparison, order=8)[0] if beyond[k]]
        for word, k in zip(("first", "second", "third"), places, strict=False):
            found[f"{word} {kind}"] = Extreme(float(pairs.r[k]), float(pairs.g[k]), float(pairs.error[k]))
    return found


def at(x: float, points: Array, values: Array, errors: Array) -> tuple[float, float] | None:
    """Value and error of a curve at x, between its points; None beyond them."""
    if not points[0] <= x <= points[-1] * (1 + 1e-9):
        return None
    return float(np.interp(x, points, values)), float(np.interp(x, points, errors))


def facts(found: Found) -> dict[str, Any]:
    """For reading by programs."""
    return {
        "molecules": found.n_molecules,
        "predicted_heating_meV_per_H2O_per_ns": found.heating and found.heating._asdict(),
        "runs": {
            name: {
                "ps": run.ps,
                "temperature_K": run.temperature._asdict(),
                "drift_meV_per_H2O_per_ns": run.drift._asdict(),
                "g_OO": {where: one._asdict() for where, one in extremes(run.pairs).items()},
                "c_uu": {"ps": run.turned.times_ps, "value": run.turned.values, "error": run.turned.error},
                "msd_O_A2": {"ps": run.spread.times_ps, "value": run.spread.values, "error": run.spread.error},
                "l1_kT": {"value": run.toward.value, "error": run.toward.error, "amplitude": run.toward.amplitude},
                "map": {"std": run.map.std, "min": run.map.values.min(), "max": run.map.values.max()},
            }
            for name, run in found.runs.items()
        },
    }
