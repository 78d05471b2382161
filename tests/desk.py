"""Writes the files that the documents speak of into the working directory: structures, labelled data, a recipe."""

from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

import tumble
from tumble.models.pair import Morse
from tumble.potential import Gradient

RECIPE = """\
data: [train.extxyz]
valid: [valid.extxyz]
model: {cutoff: 3.0, d_pet: 8, d_head: 8, d_node: 8, d_feedforward: 8, num_heads: 2, direct_forces: true}
atoms_per_batch: 32
probe: 0
phases:
  - {forces: direct, epochs: 1}
  - {forces: gradient, epochs: 2, learning_rate: 0.0005}
"""


def dimer() -> Atoms:
    """Two water molecules, 3 Å apart."""
    return molecule("H2O") + Atoms("OH2", molecule("H2O").positions[:, [2, 0, 1]] + [3.0, 0.0, 0.0])


def labelled(n: int, seed: int) -> list[Atoms]:
    """Shaken dimers with the energies and forces of a Morse potential."""
    random, teacher = np.random.default_rng(seed), tumble.Calculator(Gradient(Morse(1.0, 1.5, 3.0, cutoff=3.0)))
    structures = []
    for _ in range(n):
        atoms = dimer()
        atoms.positions += random.normal(scale=0.05, size=atoms.positions.shape)
        atoms.calc = teacher
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = energy, forces
        structures.append(atoms)
    return structures


def rattled() -> Atoms:
    """Diamond with displaced atoms in a strained cell."""
    crystal = bulk("Si", a=5.45, cubic=True)
    crystal.rattle(0.03, seed=0)
    crystal.set_cell(crystal.cell.array @ [[1.002, 0.001, 0], [0.001, 1, 0], [0, 0, 0.999]], scale_atoms=True)
    return crystal


if __name__ == "__main__":
    ase.io.write("monomer.xyz", molecule("H2O"), format="extxyz")
    ase.io.write("structures.xyz", [molecule("H2O"), dimer()], format="extxyz")
    ase.io.write("silicon.xyz", bulk("Si", a=5.4335), format="extxyz")
    ase.io.write("rattled.xyz", rattled(), format="extxyz")
    ase.io.write("train.extxyz", labelled(8, seed=0))
    ase.io.write("valid.extxyz", labelled(2, seed=1))
    Path("recipe.yaml").write_text(RECIPE)
