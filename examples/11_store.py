"""More labelled structures than fit into memory: a store that is appended to, read in place, and checked for copies."""

import ase.io
import numpy as np
from ase.build import bulk
from ase.calculators.lj import LennardJones

from tumble import data


def crystals(n, first=0):
    """Shaken crystals of argon with labels."""
    for seed in range(first, first + n):
        atoms = bulk("Ar", cubic=True)
        atoms.rattle(0.1, seed=seed)
        atoms.info["config_type"] = "warm"
        atoms.calc = LennardJones(epsilon=0.0104, sigma=3.4, rc=6.0)
        atoms.get_potential_energy(), atoms.get_forces()
        yield atoms


ase.io.write("a.extxyz", list(crystals(20)))
ase.io.write("b.extxyz", list(crystals(20, first=18)))  # two are in both

store = data.convert("a.extxyz", "argon.store", data.StoreSettings(cutoff=5.0)).store
store = data.convert(["a.extxyz", "b.extxyz"], "argon.store", append=True).store  # of a.extxyz nothing is missing
print(f"{len(store)} structures, {store.n_atoms} atoms, digest {store.digest[:12]}")

dataset = data.read("argon.store")  # nothing is loaded
print(
    f"{dataset.pair_counts(5.0).sum()} pairs within 5 Å; the first is {dataset.atoms[0].symbols} ({dataset.groups[0]})"
)
print(*(row[:3] for row in data.duplicates(dataset).rows), sep="\n")

train, valid = data.split(dataset, 0.2)  # copies stay on one side
assert not data.leaks(train, valid).rows
print(f"{len(train)} to train on, {len(valid)} to validate on, {np.mean(dataset.energies):.3f} eV in the mean")
