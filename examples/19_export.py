"""Export: water averaged over rotations as a file for other engines, and what that file says of itself."""

from ase.build import molecule

import tumble
from tumble.checkpoint import describe

water = tumble.load("water", dtype="float64")
averaged = tumble.symmetrize(water, "T")
card = {"name": "water, averaged", "description": "for trying things out"}
files = {
    "raw": tumble.export(water, "water.pt"),
    "averaged": tumble.export(averaged, "averaged.pt", card=card),
    "what averaging adds": tumble.export(averaged, "slow.pt", minus=water),
}
for name, path in files.items():
    said = describe(path)
    [answer] = tumble.predict(tumble.load(path), molecule("H2O"))
    print(f"{name:20} {path.name:12} {', '.join(said['outputs'])}")
    print(f"{'':20} an atom feels what is within {said['interaction_range_A']:g} Å; a monomer has ", end="")
    print(f"{float(answer.energy):.6f} eV and forces up to {float(answer.forces.abs().max()):.6f} eV/Å")
