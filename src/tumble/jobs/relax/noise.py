"""Noise: what a force or a difference of energies means, for a potential that answers otherwise in other directions."""

from typing import NamedTuple

import numpy as np
from ase import Atoms

from tumble.descent import Downhill, Walk
from tumble.jacobian import in_float64, rounding_of
from tumble.orbit import Orbit
from tumble.packs import predict
from tumble.potential import Potential, collate_for
from tumble.rotations import Rotations
from tumble.units import EV_PER_A3_TO_GPa

Floats = np.ndarray


class Scatter(NamedTuple):
    """Answers about one structure in turned frames.

    energies: (R,) eV.
    force:    eV/Å, rms deviation of the force on the atom where it is largest, from its mean over the frames.
    """

    energies: Floats
    force: float


class Floor(NamedTuple):
    """Below which forces mean nothing, eV/Å; None: not measured.

    scatter:   over turned frames, of the force on the worst atom.
    forbidden: the largest force that the space group forbids and the potential gives.
    rounding:  the largest difference to the answer of a float64 copy.
    """

    scatter: float | None
    forbidden: float | None
    rounding: float | None

    @property
    def force(self) -> float:
        """eV/Å, the lowest meaningful fmax: the largest of the three."""
        return max(one or 0.0 for one in self)


class Gain(NamedTuple):
    """By how much the free structure is below the symmetric one, eV.

    energy:    E(symmetric) − E(free) in the frame in which both were relaxed; under pressure, of enthalpies.
    turned:    its mean over turned frames; None: not measured.
    spread:    its standard deviation over turned frames.
    residual:  what forces and stress below their limits can make of it: Σ|d| fmax + V |ε| smax.
    rounding:  what the last digits can make of it.
    distance:  Å, the largest displacement between both, after a common shift.
    """

    energy: float
    turned: float | None
    spread: float
    residual: float
    rounding: float
    distance: float

    @property
    def noise(self) -> float:
        """eV, all of it."""
        return self.spread + self.residual + self.rounding


def scatter(potential: Potential, atoms: Atoms, rule: Rotations) -> Scatter:
    """Ask about a structure in every frame of a rule."""
    orbit = Orbit.of(potential, collate_for(potential, [atoms]), rule)
    energy, forces = orbit.properties.energy, orbit.spread().forces
    assert energy is not None, "the structure was relaxed by this potential"
    assert forces is not None, "the structure was relaxed by this potential"
    return Scatter(energy[:, 0].cpu().numpy(), float(forces.max()))


def floor(potential: Potential, walk: Walk, known: Scatter | None, *, has_group: bool) -> Floor:
    """The lowest meaningful fmax of a walk's end.

    Args:
        potential: that walked.
        walk: at its end.
        known: its end in turned frames; None: not measured.
        has_group: whether it walked in a space group.
    """
    rounding, exact = None, in_float64(potential)
    if exact is not None:
        low, high = (predict(one, walk.atoms)[0].forces for one in (potential, exact))
        assert low is not None, "the structure was relaxed by this potential"
        assert high is not None, "the structure was relaxed by this potential"
        rounding = float((low.double() - high).norm(dim=1).max())
    return Floor(None if known is None else known.force, walk.removed_force if has_group else None, rounding)


def gain(free: Walk, symmetric: Walk, known: tuple[Scatter, Scatter] | None, settings: Downhill) -> Gain:
    """By how much a free structure is below the symmetric one, and how far that can be trusted.

    Args:
        free, symmetric: walks, the second from the end of the first.
        known: both ends in turned frames; None: not measured.
        settings: of both.
    """
    energy = float(symmetric.energies[-1] - free.energies[-1])
    turned, spread = None, 0.0
    if known is not None:
        differences = known[1].energies - known[0].energies
        # Of energies, not of enthalpies: volumes do not turn.
        turned = energy - float(symmetric.atoms.get_potential_energy() - free.atoms.get_potential_energy())
        turned += float(differences.mean())
        spread = float(differences.std())
    apart, strain = _apart(free.atoms, symmetric.atoms)
    sizes = np.linalg.norm(apart, axis=1)
    residual = settings.fmax * float(sizes.sum())
    if free.stresses is not None:
        volume = free.atoms.cell.volume
        limit = EV_PER_A3_TO_GPa * settings.fmax * len(free.atoms) / volume
        smax = (settings.smax_GPa or limit) / EV_PER_A3_TO_GPa
        residual += volume * smax * float(np.abs(strain).sum())
    rounding = 2 * rounding_of(np.array([symmetric.energies[-1], free.energies[-1]]))
    return Gain(energy, turned, spread, residual, rounding, float(sizes.max()))


def _apart(first: Atoms, second: Atoms) -> tuple[Floats, Floats]:
    """Displacements (N, 3) Å between structures of one cell setting, without a common shift; the strain (3, 3)."""
    cell = first.cell.complete().array
    places = [one.cell.complete().scaled_positions(one.positions) for one in (first, second)]
    steps = places[1] - places[0]
    steps = steps - np.round(steps) * first.pbc
    steps = steps - steps[0]
    steps = steps - np.round(steps) * first.pbc
    vectors = (steps - steps.mean(axis=0)) @ cell
    stretch = np.linalg.solve(cell, second.cell.complete().array)
    return vectors, (stretch + stretch.T) / 2 - np.eye(3)
