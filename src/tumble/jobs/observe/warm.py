"""Warm: the temperatures of a trajectory, and whether they are those of its thermostat."""

from collections.abc import Sequence

import ase.units
import numpy as np
from numpy.typing import NDArray

from tumble import trajectories as tj
from tumble.jobs.observe.finding import Warmth
from tumble.trajectories import Mean, Molecule, Trajectory, checks
from tumble.units import BOLTZMANN

Floats = NDArray[np.float64]

AT_REST = 1e-3
"""Of k_BT / 2 per direction: a centre of mass or a molecule that has less does not move or turn as heat would."""

MOST_SAMPLES = 5000
"""Frames times molecules that the check of equipartition looks at: it takes 0.3 ms for each."""

FEWEST = 20
"""Frames that a check needs."""


def warmth(trajectory: Trajectory, target_K: float | None, molecules: Sequence[Molecule] = ()) -> Warmth:
    """Temperatures of all and of each element, and the checks against a thermostat if there is one.

    Raises:
        ValueError: no velocities.
        ImportError: no physical-validation, and there is something to check.
    """
    kinetic = trajectory.kinetic_eV()
    if kinetic is None or trajectory.velocities is None:
        raise ValueError(f"{trajectory.name} has no velocities, so its temperature is not known. Write momenta too.")
    freedoms, shares = _freedoms(trajectory)
    mean = tj.mean(2 * kinetic / (freedoms * BOLTZMANN))
    of_species = {symbol: _of(trajectory, symbol, shares) for symbol in trajectory.symbols}
    checked, motions = None, {}
    if target_K is not None and len(trajectory) >= FEWEST:
        checked = checks.kinetic(kinetic, freedoms, target_K)
        if len(molecules) > 1 and max(len(one.members) for one in molecules) > 1:
            every = max(1, int(np.ceil(len(trajectory) * len(molecules) / MOST_SAMPLES)))
            thin = trajectory.frames(slice(None, None, every))
            if len(thin) >= FEWEST:
                motions = checks.equipartition(thin, molecules, target_K, n_removed=3 * trajectory.n_atoms - freedoms)
    return Warmth(mean, of_species, target_K, freedoms, checked, motions)


def _of(trajectory: Trajectory, symbol: str, shares: Floats) -> Mean:
    """Temperature of the atoms of an element, each with its share of what is not conserved."""
    atoms = trajectory.where(symbol)
    assert trajectory.velocities is not None, "asked for before"
    v, masses = trajectory.velocities[:, atoms], trajectory.masses[atoms]
    twice = np.einsum("n,knx,knx->k", masses, v, v) / float(ase.units.fs) ** 2
    return tj.mean(twice / (float(shares[atoms].sum()) * BOLTZMANN))


def _freedoms(trajectory: Trajectory) -> tuple[int, Floats]:
    """Degrees of freedom that move, and each atom's share: less 3 if the centre of mass is at rest, and so for turns.

    An atom of mass m has lost 3 m / M of its freedoms to a centre of mass at rest.
    """
    masses, v = trajectory.masses, trajectory.velocities
    assert v is not None, "asked for before"
    n, total = trajectory.n_atoms, masses.sum()
    energy = float(np.einsum("n,knx,knx->", masses, v, v)) / len(v) / (3 * n)  # per freedom, in amu (Å/fs)²
    shares = np.full(n, 3.0)
    momentum = np.einsum("n,knx->kx", masses, v)
    is_at_rest = n > 1 and float((momentum**2).sum(1).mean()) / total < AT_REST * 3 * energy
    if is_at_rest:
        shares -= 3 * masses / total
    if is_at_rest and n > 2 and not trajectory.pbc.any():
        shares -= _turning(trajectory, energy)
    return round(float(shares.sum())), shares


def _turning(trajectory: Trajectory, energy: float) -> Floats:
    """(N,) shares of atoms in turns of the whole, which move nothing where it does not turn; zero where it does."""
    masses, v = trajectory.masses, trajectory.velocities
    assert v is not None, "asked for before"
    x = trajectory.positions - np.einsum("n,knx->kx", masses / masses.sum(), trajectory.positions)[:, None]
    inertia = np.einsum("n,knx,kny->kxy", masses, x, x)
    inertia = np.einsum("kxx->k", inertia)[:, None, None] * np.eye(3) - inertia
    turning = np.einsum("n,knx->kx", masses, np.cross(x, v))
    inverse = np.linalg.pinv(inertia, rcond=1e-6, hermitian=True)
    if float(np.einsum("kx,kxy,ky->k", turning, inverse, turning).mean()) > AT_REST * 3 * energy:
        return np.zeros(trajectory.n_atoms)
    # Of atom n: m tr[(r² − r rᵀ) I⁻¹], which sums to the rank of I.
    square = np.einsum("knx,knx->kn", x, x)
    along = np.einsum("knx,kxy,kny->kn", x, inverse, x)
    return np.asarray((masses * (square * np.einsum("kxx->k", inverse)[:, None] - along)).mean(0))
