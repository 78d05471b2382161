"""Ask a potential about a molecule, in empty space and in a periodic box."""

from ase.build import molecule

import tumble

water = tumble.load("water")
print(f"{water.species} within {water.cutoff} Å, {water.dtype}, conservative: {water.is_conservative}")

structures = [molecule("H2O"), molecule("H2O", cell=[7.0, 7.0, 7.0], pbc=True)]
for atoms, answer in zip(structures, tumble.predict(water, structures), strict=True):
    force = float(answer.forces.norm(dim=1).max())
    stress = "no stress" if answer.stress is None else f"pressure {-answer.stress.trace() / 3:.6f} eV/Å³"
    print(f"{atoms.symbols}: {float(answer.energy):.4f} eV, largest force {force:.3f} eV/Å, {stress}")
