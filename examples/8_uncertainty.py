"""Where does the water potential have to guess? Uncertainties relative to structures that it knows, without labels.

`tumble uncertainty` makes electronvolts of them, with labels that were not trained on.
"""

import numpy as np
from ase.build import molecule

import tumble
from tumble.models.pet import LLPR
from tumble.potential import collate_for

random = np.random.default_rng(0)
potential = LLPR(tumble.load("water").model)


def shaken(n, stretch=1.0):
    structures = [molecule("H2O") for _ in range(n)]
    for atoms in structures:
        turn, _ = np.linalg.qr(random.normal(size=(3, 3)))
        atoms.positions = stretch * atoms.positions @ turn + random.normal(scale=0.05, size=(3, 3))
    return collate_for(potential, structures)


potential.fit([shaken(500)])
potential.draw(16)  # an ensemble of last layers carries the uncertainty on to forces
averaged = tumble.symmetrize(potential, "O")  # and an average over rotations carries it too


def doubt(one, batch):
    known = one.uncertainties(batch, forces=True)
    return float(known.energy.mean()), float(known.forces.mean())


energy, force = doubt(potential, shaken(20))
for stretch in (0.8, 0.9, 1.0, 1.1, 1.2, 1.4):
    (e, f), (mean, _) = (doubt(one, shaken(20, stretch)) for one in (potential, averaged))
    print(f"bonds × {stretch}: energies {e / energy:5.1f} (averaged {mean / energy:5.1f}), forces {f / force:5.1f}")
