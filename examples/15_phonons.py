"""Phonons of silicon: raw, ±, projected and averaged side by side, and the file that phonopy opens."""

from ase.build import bulk

import tumble
from tumble.units import MEV

silicon = tumble.load("silicon")
atoms = bulk("Si", "diamond", a=5.4335)  # at rest by symmetry
# A supercell of 10 Å, twice the cutoff, takes minutes; this one is for a first look.
settings = tumble.PhononsSettings(supercell=(2, 2, 2), force=True, average="T@generic", temperatures_K=(0, 300))
result = tumble.phonons(silicon, atoms, settings, name="silicon")

found = result.found
print(f"forces that symmetry forbids: {MEV * result.rest.forbidden:.3f} meV/Å")
print(f"forbidden share of the force constants: {found.sizes.forbidden:.1e}")
for key, frequencies in found.modes.frequencies_THz.items():
    gamma = ", ".join(f"{one:.4f}" for one in frequencies[0, 3:])
    print(f"{key:9} optical modes at Γ {gamma} THz, largest splitting {found.splitting_THz(key):.1e} THz")
room = found.rows["projected"]
print(f"zero-point energy {room.free_energy[0]:.1f} meV/atom, at 300 K C = {room.heat_capacity[1]:.2f} k_B/atom")
for verdict in result.verdicts():
    print(f"{verdict.task}: {verdict.words}. {verdict.reason}")
print(f"wrote {result.save('phonons')} and {tumble.report(result, to='phonons.html')}")
