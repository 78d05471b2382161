"""Where molecules of water point: counted in a simulation, told by its torques and energies, predicted by an orbit.

All vectors are c = −√3 ⟨u⟩ for the unit vector u from O to between the H: to first order the coefficients of
√3 (u_x, u_y, u_z) in the free energy F(u) / k_BT.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from ase import Atoms

from study2024.s1.answers import ask
from study2024.s1.nodes import Nodes
from tumble.orbit import Orbit
from tumble.potential import Potential, collate_for
from tumble.rotations import Rotations
from tumble.trajectories import SphereMap, Vector, predicted
from tumble.units import BOLTZMANN

Array = np.ndarray

RULE: Final = "so3:8"
"""Orientations in which a molecule is asked about."""

TOGETHER: Final = 64
"""Frames of one call."""


class Static(NamedTuple):
    """What turned copies of molecules predict.

    map:    of the free energy.
    vector: its error is over the geometries.
    std:    k_BT, of the raw energy over orientations of a geometry, root mean square over geometries.
    """

    map: SphereMap
    vector: Vector
    std: float


class Moved(NamedTuple):
    """What a simulation says, in three ways; errors are over replicas.

    counted:  −√3 ⟨u⟩ itself.
    torques:  √3 ⟨u × τ⟩ / 2 k_BT. The same for a Boltzmann distribution, as ⟨δu⟩ = ⟨u δE⟩ / k_BT for every turn; but
              where torques are small, so is what scatters.
    energies: −√3 ⟨u (1 − w)⟩, w ∝ exp((E − Ē) / k_BT) of mean one. The same, as ⟨u w⟩ is the mean under the average Ē,
              which is zero; None if Ē was not asked.
    """

    counted: Vector
    torques: Vector
    energies: Vector | None


def directions(positions: Array) -> Array:
    """(..., 3) unit vectors of molecules (..., 3, 3) in Å, the oxygen first."""
    along = positions[..., 1:, :].mean(-2) - positions[..., 0, :]
    unit: Array = along / np.linalg.norm(along, axis=-1, keepdims=True)
    return unit


def torques(positions: Array, forces: Array, masses: Array) -> Array:
    """(..., 3) eV about the centre of mass of molecules (..., n, 3)."""
    centre = np.einsum("n,...nx->...x", masses / masses.sum(), positions)
    turning: Array = np.cross(positions - centre[..., None, :], forces).sum(-2)
    return turning


def static(potential: Potential, molecules: Sequence[Atoms], temperature_K: float) -> Static:
    """Where molecules of these geometries would point, if each orientation of each is as likely as its energy says.

    With the geometries that a simulation has met, in whatever orientation, this is what it will tend to.
    """
    rule = Rotations.parse(RULE)
    orbit = Orbit.of(potential, collate_for(potential, list(molecules)), rule)
    energy = orbit.properties.energy.numpy().T
    axis = directions(np.array([one.positions for one in molecules]))
    found = predicted(energy, rule, axis, temperature_K)
    spread = orbit.spread().energy.numpy() / (BOLTZMANN * temperature_K)
    return Static(*found, float(np.sqrt(np.square(spread).mean())))


def moved(
    potential: Potential, spec: str, average: str | None, replicas: Sequence[Sequence[Atoms]], temperature_K: float
) -> Moved:
    """Of frames of molecules that know nothing of each other; asked about again.

    Args:
        potential: raw.
        spec: rule that they moved with the average over; none for the raw potential.
        average: rule of Ē, or None.
        replicas: the frames of each.
        temperature_K: that they had.
    """
    kT = BOLTZMANN * temperature_K
    frames = [frame for replica in replicas for frame in replica]
    ends = np.cumsum([len(replica) for replica in replicas])[:-1]
    positions = np.array([frame.positions for frame in frames])
    nodes = Nodes.of((spec,) if average is None else (spec, average))
    answers = [ask(potential, frames[k : k + TOGETHER], nodes) for k in range(0, len(frames), TOGETHER)]
    u = directions(positions)
    forces = np.concatenate([answer["forces"][0] for answer in answers])
    turning = torques(positions, forces, frames[0].get_masses())
    by_energy = None
    if average is not None:
        apart = np.concatenate([answer["energy"][0] - answer["energy"][1] for answer in answers])
        weights = np.exp((apart - apart.mean()) / kT)
        by_energy = _mean(-np.sqrt(3) * u * (1 - weights / weights.mean())[:, None], ends)
    by_torque = np.sqrt(3) / (2 * kT) * np.cross(u, turning)
    return Moved(_mean(-np.sqrt(3) * u, ends), _mean(by_torque, ends), by_energy)


def _mean(values: Array, ends: Array) -> Vector:
    """Over replicas of about the same length, with the error that their scatter leaves."""
    means = np.array([part.mean(0) for part in np.split(values, ends)])
    return Vector(means.mean(0), means.std(0, ddof=1) / len(means) ** 0.5, float(len(means)))


def distance(some: Vector, other: Vector) -> tuple[float, float]:
    """Between two vectors, as a share of the second, and the standard error that both leave in it."""
    apart, error = some.value - other.value, np.hypot(some.error, other.error)
    return float(np.linalg.norm(apart)) / other.amplitude, float(np.linalg.norm(error)) / other.amplitude
