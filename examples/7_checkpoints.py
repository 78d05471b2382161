"""What a potential file says of itself, one written anew, and published models by name."""

from ase.build import molecule

import tumble
from tumble import checkpoint
from tumble.checkpoint import hub

said = checkpoint.describe("water")
print(f"water: {said['kind']}, {said['n_parameters']} parameters, sees {said['interaction_range_A']} Å far")
print(f"licence: {said['card']['licence']}")

# Any potential of ours, or a .ckpt of metatrain, becomes one file of tensors with a card that anybody can read.
path = checkpoint.convert("water", "converted.safetensors", overwrite=True)
[before], [after] = (tumble.predict(tumble.load(name), molecule("H2O")) for name in ("water", path))
print(f"converted: energy {float(after.energy):.6f} eV, changed by {float(after.energy - before.energy):.1e} eV")

# The same file answers with the heads that predict forces directly.
[direct] = tumble.predict(tumble.load(path, direct=True), molecule("H2O"))
print(f"direct forces deviate by up to {1000 * float((direct.forces - before.forces).abs().max()):.1f} meV/Å")

# Published models load by name, with or without a version: tumble.load("pet-mad-s@1.6.0"). What is there already?
for name, versions in hub.KNOWN.items():
    cached = [version for version in versions if (name, version) in hub.cached()]
    print(f"{name:14} {', '.join(versions):28} {'cached: ' + ', '.join(cached) if cached else ''}")
