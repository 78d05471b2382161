"""Loop work: what the forces do on the way around a closed path, which a conservative potential does not."""

from typing import NamedTuple

import numpy as np
from ase import Atoms

from tumble.jacobian import Array, answers_at, rounding_of
from tumble.jobs.audit.measures.force_gap import is_gradient
from tumble.potential import Potential
from tumble.units import MEV

N_LOOPS = 4

AMPLITUDE = 0.05
"""Å, root mean square displacement of an atom on the circle: about that of a stiff crystal at room temperature."""

FEWEST, MOST = 8, 64
"""Points on a circle."""

ENOUGH = 1e-5
"""Of ∮|F - F̄||dx|: smaller errors of the quadrature are let be."""


class LoopWork(NamedTuple):
    """Work ∮F·dx over circles of all atoms about a structure; zero for forces that are the gradient of any energy.

    work_meV:  root mean square over the loops.
    worst_meV: largest magnitude.
    error_meV: of the quadrature, the largest change as the points of a circle were last doubled.
    noise_meV: the work that the rounding of forces alone would show.
    relative:  root mean square of the work over that of ∮|F - F̄||dx|, F̄ the mean over the circle, which does none. For
               small circles about λ/√(3N - 1): seen from a plane of random directions, most of J leads out of it.
    n_calls:   points at which forces were asked for.
    how:       one phrase.
    """

    work_meV: float
    worst_meV: float
    error_meV: float
    noise_meV: float
    relative: float
    n_calls: int
    how: str


def loop_work(
    potential: Potential,
    atoms: Atoms,
    *,
    amplitude_A: float = AMPLITUDE,
    n_loops: int = N_LOOPS,
    rounding: float = 0.0,
    seed: int = 0,
) -> LoopWork | None:
    """Work on circles x + a (e₁ cos θ + e₂ sin θ), e₁ and e₂ orthonormal random displacements of all atoms.

    The trapezoidal rule converges exponentially on a circle where forces are smooth. Its points are doubled, from
    `FEWEST` on, until no work changes by more than 10 % of the largest, than `ENOUGH` or than rounding, `MOST` at the
    latest: 16 to 64 calls a loop, in the precision of the potential. Forces that are a gradient by construction cost
    nothing.

    Args:
        potential: any Potential.
        atoms: one structure.
        amplitude_A: root mean square displacement of an atom.
        n_loops: circles.
        rounding: eV/Å, of a force component, where it is known to be larger than the last digits show.
        seed: of the random directions.

    Returns:
        None for a potential without forces.
    """
    if is_gradient(potential):
        return LoopWork(0.0, 0.0, 0.0, 0.0, 0.0, 0, "forces are the derivative of the energy by construction")
    planes = _planes(len(atoms), n_loops, amplitude_A, seed)
    n, forces = FEWEST, _on_circles(potential, atoms, planes, np.arange(FEWEST) * 2 * np.pi / FEWEST)
    if forces is None:
        return None
    length = 2 * np.pi * amplitude_A * len(atoms) ** 0.5
    rounding = max(rounding, rounding_of(forces))
    works, scales = _works(forces, planes)
    while True:
        between = _on_circles(potential, atoms, planes, (np.arange(n) + 0.5) * 2 * np.pi / n)
        assert between is not None
        forces, n = np.stack([forces, between], axis=2).reshape(n_loops, 2 * n, -1, 3), 2 * n
        before, (works, scales) = works, _works(forces, planes)
        error, noise = float(np.abs(works - before).max()), length * rounding / n**0.5
        enough = max(0.1 * float(np.abs(works).max()), ENOUGH * float(scales.max()), noise)
        if error <= enough or n >= MOST:
            break
    rms, scale = float(np.sqrt(np.mean(works**2))), float(np.sqrt(np.mean(scales**2)))
    how = f"{n_loops} circles of {amplitude_A:g} Å, {n} points each"
    relative = rms / scale if scale else 0.0
    worst = float(np.abs(works).max())
    return LoopWork(MEV * rms, MEV * worst, MEV * error, MEV * noise, relative, n_loops * n, how)


def _planes(n_atoms: int, n_loops: int, amplitude: float, seed: int) -> Array:
    """(n_loops, 2, N, 3) Å: two displacements of equal length at right angles for each loop."""
    random = np.random.default_rng(seed)
    pairs = np.linalg.qr(random.standard_normal((n_loops, 3 * n_atoms, 2)))[0]
    return np.asarray(amplitude * n_atoms**0.5 * pairs.transpose(0, 2, 1).reshape(n_loops, 2, n_atoms, 3))


def _on_circles(potential: Potential, atoms: Atoms, planes: Array, angles: Array) -> Array | None:
    """Forces (n_loops, n, N, 3) eV/Å at these angles of every circle."""
    around = np.einsum("kt,lkix->ltix", np.stack([np.cos(angles), np.sin(angles)]), planes)
    forces = answers_at(potential, atoms, around.reshape(-1, len(atoms), 3))[1]
    return None if forces is None else forces.reshape(around.shape)


def _works(forces: Array, planes: Array) -> tuple[Array, Array]:
    """∮F·dx and ∮|F - F̄||dx| of each loop, (n_loops,) eV, from forces at equidistant angles that start at 0."""
    n = forces.shape[1]
    angles = np.arange(n) * 2 * np.pi / n
    steps = np.einsum("kt,lkix->ltix", np.stack([-np.sin(angles), np.cos(angles)]), planes) * (2 * np.pi / n)
    varying = forces - forces.mean(1, keepdims=True)
    sizes = np.sqrt(np.square(varying).sum((2, 3))) * np.sqrt(np.square(steps).sum((2, 3)))
    return np.einsum("ltix,ltix->l", varying, steps), sizes.sum(1)
