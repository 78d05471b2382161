"""Molecular dynamics with ASE: the energy of a water molecule, raw and averaged over 24 rotations."""

import numpy as np
from ase import units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet

import tumble

for rule in ("none", "O"):
    atoms = molecule("H2O")
    atoms.calc = tumble.Calculator(tumble.symmetrize(tumble.load("water", dtype="float64"), rule))
    thermal = np.sqrt(atoms.get_masses() * units.kB * 300)
    atoms.set_momenta(np.random.default_rng(0).normal(size=(3, 3)) * thermal[:, None])
    start = atoms.get_total_energy()
    spins = []
    with VelocityVerlet(atoms, 0.25 * units.fs) as dynamics:
        for _ in dynamics.irun(40):
            spins.append(np.linalg.norm(atoms.get_angular_momentum()))
    drift = 1000 * (atoms.get_total_energy() - start)
    print(f"{rule:5} energy drifts by {drift:+.3f} meV in 10 fs, |L| by {100 * np.ptp(spins) / np.mean(spins):.4f} %")
