"""Structures to measure on, and how they move: silicon crystals, boxes of water, and small random steps.

Needs numpy and ASE only, because the peers' Python makes the same structures from the same seeds.
"""

import re
from typing import final

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

VOLUME_PER_MOLECULE = 29.9
"""Å³ of a water molecule at 1 g/cm³."""

RATTLE = 0.05
"""Å, standard deviation of the atoms of a crystal from their sites."""

JITTER = 0.25
"""Å, standard deviation of the molecules of a box from a cubic grid."""

MOVE = 0.01
"""Å per step and component, what atoms do in about 1 fs at 300 K. Neighbour lists are searched anew as they drift."""


def structure(name: str) -> Atoms:
    """The structure of a name such as "si64" or "water192": the element or molecule, and the number of atoms.

    Raises:
        ValueError: another name, or a number of atoms that fills no cube.
    """
    match = re.fullmatch(r"(si|water)(\d+)", name)
    if not match:
        raise ValueError(f"{name!r} is not a structure; expected si or water and a number of atoms, such as water192.")
    kind, n_atoms = match[1], int(match[2])
    per_cell = 8 if kind == "si" else 3
    side = round((n_atoms / per_cell) ** (1 / 3))
    if per_cell * side**3 != n_atoms:
        near = [per_cell * max(1, side + k) ** 3 for k in (-1, 0, 1)]
        raise ValueError(f"no cube of {kind} has {n_atoms} atoms; expected {per_cell} n³. Take one of {near}.")
    return silicon(side) if kind == "si" else water(side)


def silicon(side: int) -> Atoms:
    """side³ cubic cells of diamond silicon, rattled."""
    crystal = bulk("Si", cubic=True).repeat(side)
    crystal.positions += np.random.default_rng(0).normal(scale=RATTLE, size=crystal.positions.shape)
    return crystal


def water(side: int, seed: int = 0) -> Atoms:
    """A cube of side³ water molecules at 1 g/cm³, on a jittered grid in random orientations.

    Not a liquid, but with the pairs of one: what a call costs depends on their number, not on where they are.
    """
    random = np.random.default_rng(seed)
    spacing = VOLUME_PER_MOLECULE ** (1 / 3)
    sites = spacing * np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    sites = sites + np.clip(random.normal(scale=JITTER, size=sites.shape), -2 * JITTER, 2 * JITTER)
    one = molecule("H2O")
    shape = one.positions - one.positions.mean(axis=0)
    turns = np.linalg.qr(random.normal(size=(len(sites), 3, 3)))[0]
    positions = sites[:, None] + shape @ turns.transpose(0, 2, 1)
    return Atoms(np.tile(one.numbers, len(sites)), positions.reshape(-1, 3), cell=[side * spacing] * 3, pbc=True)


@final
class Moves:
    """The random steps of a structure, the same for every engine."""

    def __init__(self, atoms: Atoms, seed: int = 1) -> None:
        self.atoms, self.random = atoms, np.random.default_rng(seed)

    def __call__(self) -> None:
        """Move every atom a little."""
        self.atoms.positions += self.random.normal(scale=MOVE, size=self.atoms.positions.shape)
