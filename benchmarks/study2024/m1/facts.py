"""What turns the molecule, how it turns, and at which frequencies energies change."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import ase.io
import numpy as np
from ase import Atoms
from scipy.signal import welch

from study2024.m2.orientation import torques
from study2024.published import LEVELS
from study2024.runs import Simulation, series
from study2024.s1.answers import ask
from study2024.s1.nodes import Nodes
from tumble.jobs.md.trend import Trend
from tumble.potential import Potential
from tumble.units import MEV

Array = np.ndarray

N_TORQUES: Final = 350
"""Frames of the raw run at which every level is asked for forces, as many as in the study."""

TOGETHER: Final = 50
"""Frames of one call."""

DIFFERENCE: Final = ("none", "euler:2i")
SEGMENTS: Final = 5
PS_PER_NS: Final = 1000.0
PER_THZ: Final = 33.35640951981521
"""One THz in cm⁻¹."""


class Turning(NamedTuple):
    """Of one run.

    times_ps: (K,).
    momentum: (K, 3) eV fs, angular, about the centre of mass.
    drift:    meV per atom and ns, of the total energy; its scatter about the line in meV per atom, times 1000.
    """

    times_ps: Array
    momentum: Array
    drift: Trend

    @property
    def angle(self) -> Array:
        """(K,) degrees from where the angular momentum was."""
        unit = self.momentum / np.linalg.norm(self.momentum, axis=1, keepdims=True)
        found: Array = np.degrees(np.arccos(np.clip(unit @ unit[0], -1, 1)))
        return found


class Spectra(NamedTuple):
    """Power spectra along the raw run, meV² per THz, and the standard deviations of what they are of, meV.

    potential:  of V.
    difference: of E_avg − E_raw.
    """

    frequencies_THz: Array
    potential: Array
    difference: Array
    potential_std: float
    difference_std: float

    def below(self, wavenumber: float) -> tuple[float, float]:
        """Shares of the variances below so many cm⁻¹."""
        low = self.frequencies_THz * PER_THZ < wavenumber
        return tuple(float(one[low].sum() / one.sum()) for one in (self.potential, self.difference))  # type: ignore[return-value]


@final
@dataclass(frozen=True, eq=False)
class Found:
    """Everything.

    runs:    raw and averaged.
    torques: level → meV, root mean square of the torque along the raw run.
    """

    runs: dict[str, Turning]
    torques: dict[str, float]
    n_frames: int
    spectra: Spectra

    @classmethod
    def of(cls, potential: Potential, simulations: Sequence[Simulation], folder: Path) -> "Found":
        """From the folders of the runs, as far as they are."""
        runs = {one.name: turning(series(folder / one.name)) for one in simulations if one.done_ps(folder)}
        frames = ase.io.read(folder / simulations[0].name / "trajectory.extxyz", ":")
        some = [frames[k] for k in np.unique(np.linspace(0, len(frames) - 1, N_TORQUES).astype(int))]
        spacing = simulations[0].settings.frame_fs / 1000
        return cls(
            runs=runs,
            torques=torque_of_levels(potential, some),
            n_frames=len(some),
            spectra=spectra(*_energies(potential, frames, folder / "difference.npz"), spacing),
        )


def turning(columns: dict[str, Array]) -> Turning:
    """Of the series of a run."""
    times = columns["time_ps"]
    momentum = np.stack([columns[name] for name in ("Lx", "Ly", "Lz")], 1)
    return Turning(times, momentum, Trend.of(times, MEV * PS_PER_NS * columns["conserved_eV"] / 3))


def torque_of_levels(potential: Potential, frames: Sequence[Atoms]) -> dict[str, float]:
    """Level → root mean square over frames of the norm, meV."""
    nodes = Nodes.of(tuple(LEVELS.values()))
    forces = np.concatenate([ask(potential, part, nodes)["forces"] for part in _parts(frames)], axis=1)
    turning_of = torques(np.array([frame.positions for frame in frames]), forces, frames[0].get_masses())
    rms = 1000 * np.sqrt(np.square(turning_of).sum(-1).mean(-1))
    return dict(zip(LEVELS, rms.tolist(), strict=True))


def spectra(potential_eV: Array, difference_eV: Array, spacing_ps: float) -> Spectra:
    """Welch's, with Hann's window over a fifth of the run."""
    length = max(8, len(potential_eV) // SEGMENTS)
    found = [welch(1000 * one, 1 / spacing_ps, "hann", nperseg=length) for one in (potential_eV, difference_eV)]
    frequencies = found[0][0]
    stds = [1000 * float(one.std()) for one in (potential_eV, difference_eV)]
    return Spectra(frequencies, found[0][1], found[1][1], *stds)


def _energies(potential: Potential, frames: Sequence[Atoms], path: Path) -> tuple[Array, Array]:
    """(K,) eV, raw energies and averaged minus raw; those of frames that were asked before are kept."""
    nodes = Nodes.of(DIFFERENCE)
    known = np.load(path)["energy"] if path.exists() else np.zeros((len(DIFFERENCE), 0))
    new = [ask(potential, part, nodes)["energy"] for part in _parts(frames[known.shape[1] :])]
    energy = np.concatenate([known, *new], axis=1)
    np.savez_compressed(path, energy=energy)
    return energy[0], energy[1] - energy[0]


def _parts(frames: Sequence[Atoms]) -> list[list[Atoms]]:
    return [list(frames[k : k + TOGETHER]) for k in range(0, len(frames), TOGETHER)]


def facts(found: Found) -> dict[str, Any]:
    """For reading by programs."""
    return {
        "runs": {
            name: {
                "time_ps": run.times_ps[-1],
                "angular_momentum_eVfs": {"first": run.momentum[0], "last": run.momentum[-1]},
                "norm_eVfs": {
                    "first": np.linalg.norm(run.momentum[0]),
                    "min": np.linalg.norm(run.momentum, axis=1).min(),
                    "max": np.linalg.norm(run.momentum, axis=1).max(),
                },
                "angle_degrees": {"last": run.angle[-1], "max": run.angle.max()},
                "drift_meV_per_atom_per_ns": run.drift._asdict(),
            }
            for name, run in found.runs.items()
        },
        "torque_rms_meV": found.torques,
        "n_frames": found.n_frames,
        "std_meV": {"potential": found.spectra.potential_std, "difference": found.spectra.difference_std},
        "share_below_1000_per_cm": dict(zip(("potential", "difference"), found.spectra.below(1000), strict=True)),
    }
