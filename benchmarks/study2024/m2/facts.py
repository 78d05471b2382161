"""What each simulation says, and what is predicted for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import ase.io
import numpy as np
from ase import Atoms

from study2024.m2.orientation import Moved, Static, directions, distance, moved, static
from study2024.runs import Simulation
from tumble.potential import Potential
from tumble.rotations import Rotations
from tumble.symmetry import Symmetrized
from tumble.trajectories import SphereMap, Vector, free_energy

WARM_UP_ps: Final = 0.3
"""Left out of every replica: three times what the thermostat takes to forget."""

GEOMETRIES: Final = 128
"""Of the geometries met in a simulation, those of which the prediction is made."""

FEW: Final = 8
"""The same for an averaged potential, whose prediction is next to nothing and takes as many times longer."""

AVERAGE: Final = "T"
"""Rule of Ē: what it leaves begins at ℓ = 3 and does not go with u, which is ℓ = 1."""


@final
@dataclass(frozen=True, eq=False)
class Run:
    """One simulation.

    ns:     of all replicas together, without the warm-up.
    moved:  what it says.
    static: what is predicted from the geometries met in it.
    map:    of the directions met in it.
    """

    temperature_K: float
    ns: float
    n_frames: int
    moved: Moved
    static: Static
    map: SphereMap


@final
@dataclass(frozen=True, eq=False)
class Found:
    """Everything.

    study: prediction from geometries of the study's molecules at 300 K; no simulation of ours is in it.
    runs:  name → what there is.
    """

    study: Static
    runs: dict[str, Run]

    @classmethod
    def of(
        cls,
        raw: Potential,
        molecules: Sequence[Atoms],
        simulations: Sequence[Simulation],
        folder: Path,
    ) -> "Found":
        """From the folders of simulations, as far as they are."""
        runs = {}
        for one in simulations:
            replicas = frames(folder / one.name)
            if len(replicas) > 1:
                runs[one.name] = _run(raw, replicas, one)
        return cls(static(raw, molecules, 300.0), runs)


def _run(raw: Potential, replicas: list[list[Atoms]], simulation: Simulation) -> Run:
    settings = simulation.settings
    is_raw = settings.average == "none"
    # Nothing is spared by looking for the symmetry of molecules that vibrate.
    subject = raw if is_raw else Symmetrized(raw, Rotations.parse(settings.average), prune=False)
    everything = [frame for replica in replicas for frame in replica]
    some = [everything[k] for k in np.linspace(0, len(everything) - 1, GEOMETRIES if is_raw else FEW).astype(int)]
    return Run(
        temperature_K=settings.temperature_K,
        ns=len(everything) * settings.frame_fs / 1e6,
        n_frames=len(everything),
        moved=moved(raw, settings.average, AVERAGE if is_raw else None, replicas, settings.temperature_K),
        static=static(subject, some, settings.temperature_K),
        map=free_energy(directions(np.array([frame.positions for frame in everything]))),
    )


def frames(folder: Path) -> list[list[Atoms]]:
    """Of each replica, after the warm-up, without momenta; none if there is no trajectory yet."""
    path = folder / "trajectory.extxyz"
    replicas: dict[int, list[Atoms]] = {}
    for frame in ase.io.iread(path, ":") if path.exists() else ():
        if frame.info["time_ps"] > WARM_UP_ps:
            replicas.setdefault(int(frame.info["structure"]), []).append(
                Atoms(frame.numbers, positions=frame.positions)
            )
    return [replica for _, replica in sorted(replicas.items())]


def facts(found: Found) -> dict[str, Any]:
    """For reading by programs."""
    return {
        "static_from_geometries_of_the_study": _static(found.study),
        "runs": {
            name: {
                "temperature_K": run.temperature_K,
                "ns": run.ns,
                "n_frames": run.n_frames,
                "static": _static(run.static),
            }
            | {way: _against(vector, run.static) for way, vector in run.moved._asdict().items() if vector is not None}
            | {"map": _map(run.map)}
            for name, run in found.runs.items()
        },
    }


def _static(one: Static) -> dict[str, Any]:
    return {"vector": _vector(one.vector), "energy_std_kT": one.std, "map": _map(one.map)}


def _against(vector: Vector, prediction: Static) -> dict[str, Any]:
    share, error = distance(vector, prediction.vector)
    return _vector(vector) | {"distance_from_static": share, "distance_error": error}


def _vector(vector: Vector) -> dict[str, Any]:
    return {"kT": vector.value, "error_kT": vector.error, "amplitude_kT": vector.amplitude}


def _map(one: SphereMap) -> dict[str, Any]:
    return {"std": one.std, "min": one.values.min(), "max": one.values.max(), "l1_share": one.shares[0]}
