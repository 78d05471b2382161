"""Average a potential over rotations, save it, and compare what it costs with what it repairs."""

import time

from ase.build import molecule

import tumble
from tumble.potential import collate_for

water = tumble.load("water")
batch = collate_for(water, [molecule("H2O")])
measure = tumble.Rotations.random(10, seed=1)
for rule in ("none", "T", "O", "Oh"):
    potential = tumble.symmetrize(water, rule)
    start = time.perf_counter()
    potential(batch)
    milliseconds = 1000 * (time.perf_counter() - start)
    spread = tumble.Orbit.of(potential, batch, measure).spread()
    print(f"{rule:5} energy scatters by {1000 * float(spread.energy):7.4f} meV, one call {milliseconds:6.1f} ms")

path = tumble.save(tumble.symmetrize(water, "Oh"), "symmetric.safetensors")
print(f"wrote {path} with {tumble.load(path).extra_repr()}")
