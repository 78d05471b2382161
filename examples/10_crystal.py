"""Repair a potential for a crystal: forbidden forces, the error bar they are, and what averaging costs there."""

import numpy as np
from ase import Atoms

import tumble
from tumble.potential import collate_for
from tumble.units import EV_PER_A3_TO_GPa

# Ice X, cubic: oxygen on a bcc lattice, a proton in the middle of each bond; here not along the axes of the lab.
protons = np.array([(1, 1, 1), (3, 3, 1), (3, 1, 3), (1, 3, 3)]) / 4
ice = Atoms("O2H4", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5), *protons], cell=[2.8] * 3, pbc=True)
ice.rotate(20, (1, 2, 3), rotate_cell=True)

water = tumble.load("water", dtype="float64")
projected = tumble.symmetrize(water, "none", project="crystal")
batch = collate_for(water, [ice])
kept, removed = projected.both(batch)
print(f"forces: {1000 * float(removed.forces.norm(dim=1).max()):.1f} meV/Å are forbidden and removed, ", end="")
print(f"{1000 * float(kept.forces.abs().max()):.1g} meV/Å remain")
print(f"stress: {EV_PER_A3_TO_GPa * float(removed.stress.norm() / 3):.2f} GPa are removed, and the rest is isotropic")

for spec in ("I", "I@crystal", "crystal"):
    averaged = tumble.symmetrize(water, spec)
    energy = float(averaged(batch).energy)
    print(f"{spec:9} {averaged.n_calls:2} calls of {len(averaged.rules(batch)[0])}, energy {energy:.6f} eV")
