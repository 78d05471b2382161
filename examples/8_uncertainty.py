"""Where does the water potential have to guess? Uncertainties relative to structures that it knows, without labels.

`LLPR.calibrate` makes electronvolts of them, with energies that were not trained on.
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
        atoms.positions = stretch * atoms.positions + random.normal(scale=0.05, size=(3, 3))
    return collate_for(potential, structures)


known = shaken(500)
potential.fit([known])
potential.draw(32)  # an ensemble of last layers carries the uncertainty on to forces


def doubt(batch):
    return float(potential.uncertainty(batch).mean()), float(potential.forces_uncertainty(batch).mean())


energy, force = doubt(shaken(20))
for stretch in (0.8, 0.9, 1.0, 1.1, 1.2, 1.4):
    e, f = doubt(shaken(20, stretch))
    print(
        f"bonds stretched by {stretch}: energies {e / energy:5.1f}, forces {f / force:5.1f} times as uncertain as usual"
    )
