"""Answers about copies of one structure whose atoms are displaced, and how far the last digits can be trusted."""

import copy

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from tumble.packs import predict
from tumble.potential import Potential

Array = NDArray[np.float64]

ULPS = 4
"""Units in the last place that a force or an energy is trusted to."""


def in_float64(potential: Potential) -> Potential | None:
    """A copy of the potential in float64; None if it has no weights in a lower precision."""
    if potential.dtype == torch.float64:
        return None
    return copy.deepcopy(potential).double()


def precise(potential: Potential) -> Potential:
    """The potential itself if it works in float64, else a copy that does; a black box is taken as it is."""
    exact = in_float64(potential)
    return potential if exact is None else exact


def answers_at(potential: Potential, atoms: Atoms, displacements: Array) -> tuple[Array, Array | None]:
    """Energies and forces of displaced copies, whose neighbours are searched anew.

    Args:
        potential: any Potential.
        atoms: one structure.
        displacements: (K, N, 3) Å.

    Returns:
        (K,) eV and (K, N, 3) eV/Å in float64; None for a potential without forces.
    """
    copies = []
    for displacement in displacements:
        copies.append(atoms.copy())
        copies[-1].positions += displacement
    answers = predict(potential, copies)
    energies = np.array([float(answer.energy) for answer in answers if answer.energy is not None])
    forces = [answer.forces.double().numpy() for answer in answers if answer.forces is not None]
    return energies, np.stack(forces) if len(forces) == len(copies) else None


def rounding_of(values: Array) -> float:
    """The rounding error of numbers that a potential gave, in their unit.

    A black box gives float64 whatever it computes in; numbers that float32 can hold without a loss came from there.
    """
    largest = float(np.abs(values).max(initial=0.0))
    return ULPS * float(np.finfo(np.float32 if is_single(values) else np.float64).eps) * largest


def is_single(values: Array) -> bool:
    """Whether float32 holds these numbers exactly, and not because all of them are whole."""
    return bool((values.astype(np.float32) == values).all() and (values != np.round(values)).any())
