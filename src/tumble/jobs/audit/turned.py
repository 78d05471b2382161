"""Turned: what one structure shows when it is turned, from one pass over its orbit and a few calls more."""

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms

from tumble.batch import Batch, Properties
from tumble.crystal import RESOLVED, Resolution, resolution
from tumble.jobs.audit.ladder import Remedy, Tick, remedies
from tumble.jobs.audit.measures import spread as measures
from tumble.jobs.audit.measures.floor import floor
from tumble.jobs.audit.measures.spread import FreeEnergy, Sizes, Spectrum
from tumble.jobs.audit.measures.torque import torque
from tumble.jobs.audit.settings import AuditSettings
from tumble.jobs.audit.subject import Subject
from tumble.models.pet import LLPR
from tumble.orbit import Orbit, moments_over
from tumble.potential import Potential
from tumble.rotations import Rotations
from tumble.symmetry import Projected, Symmetrized
from tumble.units import MEV

Floats = np.ndarray
GRID = 10
"""Degrees between points of the map over the sphere."""

ALIGNED = "O"
"""The rule in the lab frame that many would use to measure: the octahedral group, which is also Lebedev-3 × 4."""


@dataclass(frozen=True)
class BlindSpot:
    """What a rule in the lab frame would have reported.

    rule:       its name.
    n_rotations: R.
    resolution: what it sees of the structure.
    spread:     what it finds.
    """

    rule: str
    n_rotations: int
    resolution: Resolution
    spread: Sizes


@dataclass(frozen=True)
class Turned:
    """What was found over the orbit of one structure.

    orbit:       its answers over the measuring rule.
    resolution:  what the rule sees of a structure of this symmetry.
    blind_spot:  what a rule in the lab frame would have reported; None where it would have seen enough.
    spread, parity, floor: sizes; parity is None for a rule without inversion.
    floor_how:   how the floor was found.
    spectra:     where in ℓ the anisotropy of energy, forces and stress is; empty for a rule too coarse for a spectrum.
    torque_meV_per_rad: (3,) at rest.
    rms_torque_meV_per_rad: over orientations; None without a spectrum.
    net_force_meV_per_A: |ΣF| / √N.
    free_energy: of a molecule; None if anything repeats.
    axis:        (3,) direction in the structure that the map follows, and what it is.
    remedies:    averaging rules, cheapest first.
    raw_error, mean_error: against labels; None without.
    predicted:   what the potential itself thinks that it is off by; None for one that does not say.
    """

    orbit: Orbit
    resolution: Resolution
    blind_spot: BlindSpot | None
    spread: Sizes
    parity: Sizes | None
    floor: Sizes
    floor_how: str
    spectra: dict[str, Spectrum]
    torque_meV_per_rad: Floats
    rms_torque_meV_per_rad: float | None
    net_force_meV_per_A: float | None
    free_energy: FreeEnergy | None
    axis: tuple[Floats, str]
    remedies: tuple[Remedy, ...]
    raw_error: Sizes | None
    mean_error: Sizes | None
    predicted: Sizes | None

    @property
    def per_atom_meV_per_A(self) -> Floats | None:
        """(N,) rotational spread of the force on each atom, a norm over components."""
        forces = self.orbit.spread().forces
        return None if forces is None else MEV * forces.cpu().numpy()

    def over_sphere(self) -> tuple[Floats, Floats, Floats]:
        """Longitudes, latitudes in degrees, and the energy less its mean, (n_lat, n_lon) eV, where `axis` points."""
        longitude, latitude = np.arange(-180.0, 180.0 + GRID, GRID), np.arange(-90.0, 90.0 + GRID, GRID)
        phi, theta = np.meshgrid(np.radians(longitude), np.radians(latitude))
        directions = np.stack([np.cos(theta) * np.cos(phi), np.cos(theta) * np.sin(phi), np.sin(theta)], axis=-1)
        values = measures.over_sphere(
            self.orbit, torch.as_tensor(self.axis[0]), torch.as_tensor(directions.reshape(-1, 3))
        )
        return longitude, latitude, values.numpy().reshape(phi.shape)


def turned(subject: Subject, orbit: Orbit, seen: Resolution, settings: AuditSettings, tick: Tick) -> Turned:
    """What the orbit of one structure says.

    Args:
        subject: the structure.
        orbit: over the measuring rule; remedies are run for half as many calls.
        seen: what this rule sees of the structure.
        settings: of the audit.
        tick: told of work done.
    """
    potential, atoms, batch, sized = subject.potential, subject.atoms, subject.batch, subject.sized
    rule = orbit.rotations
    noise, how = floor(potential, atoms, orbit)
    power = orbit.spectrum() if measures.is_resolving(rule) else None
    net = measures.net_force(orbit)
    torques = None if power is None or power.energy is None else MEV * measures.rms_torque(power.energy)
    return Turned(
        orbit=orbit,
        resolution=seen,
        blind_spot=_blind_spot(subject),
        spread=sized(orbit.spread()),
        parity=sized(orbit.parity()) if rule.has_inversion else None,
        floor=sized(noise),
        floor_how=how,
        spectra={} if power is None else measures.spectra(orbit, power, has_stress=subject.has_stress),
        torque_meV_per_rad=MEV * torque(potential, batch)[0].cpu().numpy(),
        rms_torque_meV_per_rad=torques,
        net_force_meV_per_A=None if net is None else MEV * net,
        free_energy=None if atoms.pbc.any() else measures.free_energy(orbit, settings.temperature_K),
        axis=body_axis(atoms),
        remedies=tuple(remedies(subject, orbit, settings.remedies, tick)),
        raw_error=subject.error(subject.raw),
        mean_error=subject.error(orbit.mean()),
        predicted=None if (doubt := _uncertainty(potential, batch)) is None else sized(doubt),
    )


def _uncertainty(potential: Potential, batch: Batch) -> Properties | None:
    """Predicted standard deviations of a potential with last-layer uncertainties, as norms over components."""
    while isinstance(potential, Symmetrized | Projected):
        potential = potential.inner
    if not isinstance(potential, LLPR) or not bool(potential.cholesky.diagonal().all()):
        return None
    forces = potential.forces_uncertainty(batch).norm(dim=1) if len(potential.members) > 1 else None
    return Properties(potential.uncertainty(batch), forces)


def body_axis(atoms: Atoms) -> tuple[Floats, str]:
    """A direction in the structure whose way over the sphere can be followed, and what it is.

    The last lattice vector that repeats; of a molecule the vector from its centroid to its centre of mass, which lies
    on the axis of a polar molecule; if the two coincide, the principal axis whose moment of inertia is most unlike the
    others.
    """
    if atoms.pbc.any():
        index = int(np.flatnonzero(atoms.pbc)[-1])
        vector = atoms.cell.array[index]
        return vector / np.linalg.norm(vector), f"lattice vector {'abc'[index]}"
    centre = atoms.get_center_of_mass()
    vector = centre - atoms.positions.mean(axis=0)
    if np.linalg.norm(vector) > 0.01:
        return vector / np.linalg.norm(vector), "the vector from the centroid to the centre of mass"
    moments, axes = atoms.get_moments_of_inertia(vectors=True)
    axis = axes[int(np.argmax(np.abs(moments - np.median(moments))))]
    return axis * np.sign(axis[np.argmax(np.abs(axis))]), "the principal axis of inertia most unlike the others"


def _blind_spot(subject: Subject) -> BlindSpot | None:
    rule = Rotations.parse(ALIGNED)
    seen = resolution(rule, subject.group.point)
    if seen.captured >= RESOLVED:
        return None
    _, spread = moments_over(subject.potential, subject.batch, rule, groups=[subject.exact_group])
    return BlindSpot(rule.name, len(rule), seen, subject.sized(spread))
