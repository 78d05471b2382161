"""Force gap: how far the forces are from the slope of the energy."""

from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms

from tumble.jacobian import in_float64
from tumble.models.pet import LLPR
from tumble.potential import Gradient, Potential, Sum, collate_for
from tumble.symmetry import Symmetrized

N_DIRECTIONS = 4
STEP = 0.002
"""Å, root mean square per atom, of the differences; they reach twice as far."""


class ForceGap(NamedTuple):
    """Forces against the slope of the energy along random displacements of all atoms.

    gap:   rms(F + dE/dx) / rms(dE/dx) along them; 0 if exact by construction.
    noise: the gap that the rounding of energies alone would show.
    how:   one phrase.
    """

    gap: float
    noise: float
    how: str


def is_gradient(potential: Potential) -> bool:
    """Whether forces are the derivative of the energy by construction, not by declaration."""
    if isinstance(potential, Symmetrized):
        return is_gradient(potential.inner)
    if isinstance(potential, Sum):
        return all(is_gradient(part) for part in potential.parts)  # type: ignore[arg-type]
    return isinstance(potential, Gradient | LLPR)


def force_gap(potential: Potential, atoms: Atoms, rounding: float = 0.0) -> ForceGap | None:
    """The gap, measured unless it is zero by construction; None for a potential without forces.

    Potentials with weights are measured in float64.

    Args:
        potential: any Potential.
        atoms: one structure.
        rounding: eV, of the energy of a black box.
    """
    if is_gradient(potential):
        return ForceGap(0.0, 0.0, "forces are the derivative of the energy by construction")
    precise = in_float64(potential)
    exact, rounding = (potential, rounding) if precise is None else (precise, 0.0)
    answer = exact(collate_for(exact, [atoms]))
    if answer.forces is None:
        return None
    rest, forces = float(answer.energy[0]), answer.forces.cpu().double()
    random = np.random.default_rng(0)
    rows = []
    for _ in range(N_DIRECTIONS):
        direction = random.standard_normal((len(atoms), 3))
        direction *= STEP / np.sqrt(np.square(direction).sum(1).mean())
        one, back, two, far = (_energy(exact, atoms, times * direction) for times in (1, -1, 2, -2))
        slope = (8 * (one - back) - (two - far)) / 12  # along the direction, exact to fourth order in the step
        work = float((forces * torch.as_tensor(direction)).sum())
        rows.append((work, slope, (one + back) / 2 - rest))
    work, slope, bow = np.array(rows).T
    # At rest the slope vanishes; the curvature over the step then says what is large and what is small.
    size = float(np.sqrt(np.mean(slope**2 + bow**2)))
    if size == 0:
        return ForceGap(0.0, 0.0, "neither energy nor forces change under random displacements")
    gap = float(np.sqrt(np.mean((work + slope) ** 2)))
    return ForceGap(gap / size, rounding / size, f"differences of {STEP} Å along {N_DIRECTIONS} random displacements")


def _energy(potential: Potential, atoms: Atoms, displacement: np.ndarray) -> float:
    moved = atoms.copy()
    moved.positions += displacement
    energy = potential(collate_for(potential, [moved])).energy
    assert energy is not None
    return float(energy[0])
