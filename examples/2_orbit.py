"""Turn a molecule, ask, turn the answers back: how far do they scatter, and in which channels?"""

import torch
from ase.build import molecule

import tumble
from tumble.orbit import residual
from tumble.potential import collate_for

water = tumble.load("water", dtype="float64")
batch = collate_for(water, [molecule("H2O")])
rule = tumble.Rotations.parse("o3:8").generic()
print(f"{len(rule)} rotations and inversions, exact to degree {rule.degree}")

orbit = tumble.Orbit.of(water, batch, rule)
spread = orbit.spread()
print(f"energy: {1000 * float(spread.energy):.3f} meV")
for symbol, value in zip("OHH", spread.forces.tolist(), strict=True):
    print(f"force on {symbol}: {1000 * value:.2f} meV/Å")

proper, pseudo = orbit.spectrum().energy[..., 0]
total = float(spread.energy) ** 2
for degree, power in enumerate((proper + pseudo).tolist()[1:], start=1):
    print(f"l = {degree}: {100 * power / total:5.1f} % of the variance of the energy")

left = residual(orbit, tumble.Rotations.parse("Oh")).energy
print(f"averaged over Oh, {1000 * float(left):.4f} meV would be left")
assert torch.isfinite(left).all()
