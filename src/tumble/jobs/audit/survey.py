"""Survey: all measures of one structure, from one pass over its orbit and a few calls more."""

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms

from tumble.batch import Batch, Properties, has_volume
from tumble.crystal import Resolution, check_resolution, point_operations
from tumble.jobs.audit.ladder import Remedy, Tick, orbit_of, remedies, timed_call
from tumble.jobs.audit.measures import spread as measures
from tumble.jobs.audit.measures.floor import floor
from tumble.jobs.audit.measures.force_gap import ForceGap, force_gap
from tumble.jobs.audit.measures.spread import FreeEnergy, Sizes, Spectrum, difference, sizes
from tumble.jobs.audit.measures.torque import torque
from tumble.jobs.audit.settings import AuditSettings
from tumble.orbit import Orbit
from tumble.potential import Potential, collate_for
from tumble.rotations import Rotations
from tumble.units import MEV, EV_PER_A3_TO_GPa

Floats = np.ndarray
GRID = 10
"""Degrees between points of the map over the sphere."""


@dataclass(frozen=True)
class Finding:
    """What was found about one structure.

    name:        formula and where it came from.
    atoms:       the structure.
    orbit:       its answers over the measuring rule.
    resolution:  what the rule sees of a structure of this symmetry.
    n_operations: point operations of the structure; None for one with infinitely many.
    raw:         the answer as it stands.
    spread, parity, floor: sizes; parity is None for a rule without inversion.
    floor_how:   how the floor was found.
    energy_spectrum, force_spectrum: where in ℓ the anisotropy is; None for a rule too coarse for a spectrum.
    torque_meV_per_rad: (3,) at rest.
    rms_torque_meV_per_rad: over orientations; None without a spectrum.
    net_force_meV_per_A: |ΣF| / √N.
    force_gap:   forces against the slope of the energy.
    forbidden_stress_GPa: what the point group forbids of the raw stress; None where there is none.
    free_energy: of a molecule; None if anything repeats.
    axis:        (3,) direction in the structure that the map follows, and what it is.
    remedies:    averaging rules, cheapest first.
    seconds_of_call: of one raw call.
    raw_error, mean_error: against labels; None without.
    """

    name: str
    atoms: Atoms
    orbit: Orbit
    resolution: Resolution
    n_operations: int | None
    raw: Properties
    spread: Sizes
    parity: Sizes | None
    floor: Sizes
    floor_how: str
    energy_spectrum: Spectrum | None
    force_spectrum: Spectrum | None
    torque_meV_per_rad: Floats
    rms_torque_meV_per_rad: float | None
    net_force_meV_per_A: float | None
    force_gap: ForceGap | None
    forbidden_stress_GPa: float | None
    free_energy: FreeEnergy | None
    axis: tuple[Floats, str]
    remedies: tuple[Remedy, ...]
    seconds_of_call: float
    raw_error: Sizes | None
    mean_error: Sizes | None

    @property
    def is_molecule(self) -> bool:
        """Whether nothing repeats."""
        return not self.atoms.pbc.any()

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


def survey(
    potential: Potential,
    atoms: Atoms,
    name: str,
    settings: AuditSettings,
    rule: Rotations,
    *,
    label: Properties | None = None,
    tick: Tick = lambda work: None,
) -> Finding:
    """Measure one structure.

    Args:
        potential: any Potential.
        atoms: one structure.
        name: what to call it.
        settings: of the audit.
        rule: that measures; remedies are run for half as many calls.
        label: reference energy () eV, forces (n, 3) eV/Å, stress (3, 3) eV/Å³, each or all None.
        tick: told of work done.

    Raises:
        ValueError: the rule that was asked for cannot see the anisotropy of this structure.
    """
    batch = collate_for(potential, [atoms])
    has_stress = bool(has_volume(batch)[0])
    group = point_operations(atoms, settings.symprec)
    resolution = check_resolution(rule, group)
    orbit = orbit_of(potential, batch, rule, tick)
    raw, seconds = timed_call(potential, batch)
    noise, how = floor(potential, atoms, orbit)
    assert noise.energy is not None
    power = orbit.spectrum() if measures.is_resolving(rule) else None
    spectra = (None, None) if power is None else measures.spectra(orbit, power)
    torques = None if power is None or power.energy is None else MEV * measures.rms_torque(power.energy)
    forbidden = None
    if raw.stress is not None and has_stress and group.is_finite:
        apart = measures.forbidden_stress(raw.stress[0], group.matrices)
        forbidden = EV_PER_A3_TO_GPa * float(apart.square().mean().sqrt())
    net = measures.net_force(orbit)

    def sized(deviation: Properties) -> Sizes:
        return sizes(deviation, len(atoms), has_stress=has_stress)

    return Finding(
        name=name,
        atoms=atoms,
        orbit=orbit,
        resolution=resolution,
        n_operations=len(group.matrices) if group.is_finite else None,
        raw=raw,
        spread=sized(orbit.spread()),
        parity=sized(orbit.parity()) if rule.has_inversion else None,
        floor=sized(noise),
        floor_how=how,
        energy_spectrum=spectra[0],
        force_spectrum=spectra[1],
        torque_meV_per_rad=MEV * torque(potential, batch)[0].cpu().numpy(),
        rms_torque_meV_per_rad=torques,
        net_force_meV_per_A=None if net is None else MEV * net,
        force_gap=force_gap(potential, atoms, rounding=float(noise.energy[0])),
        forbidden_stress_GPa=forbidden,
        free_energy=None if atoms.pbc.any() else measures.free_energy(orbit, settings.temperature_K),
        axis=body_axis(atoms),
        remedies=tuple(
            remedies(
                potential,
                batch,
                orbit,
                settings.remedies,
                seconds_of_call=seconds,
                has_stress=has_stress,
                tick=tick,
            )
        ),
        seconds_of_call=seconds,
        raw_error=_error(raw, label, batch, has_stress=has_stress),
        mean_error=_error(orbit.mean(), label, batch, has_stress=has_stress),
    )


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


def _error(answer: Properties, label: Properties | None, batch: Batch, *, has_stress: bool) -> Sizes | None:
    """Error against a label; None without an energy label, NaN never."""
    if label is None or all(field is None for field in label):
        return None
    known = Properties(
        None if label.energy is None else label.energy.reshape(1),
        label.forces,
        None if label.stress is None else label.stress.reshape(1, 3, 3),
    )
    apart = difference(answer, known)
    energy = torch.full((1,), torch.nan) if apart.energy is None else apart.energy
    return sizes(apart._replace(energy=energy), batch.n_atoms, has_stress=has_stress)
