"""Many molecules side by side with TorchSim: is every orientation of water as likely as another? Raw and averaged."""

import numpy as np
from ase.build import molecule

import tumble

monomers = []
for turn in np.random.default_rng(0).uniform(0, 360, (32, 3)):
    atoms = molecule("H2O")
    atoms.euler_rotate(*turn, center="COM")
    monomers.append(atoms)

settings = tumble.MDSettings(engine="torchsim", thermostat="langevin", timestep_fs=0.5, time_ps=0.05)
raw = tumble.load("water")
for rule, mts in (("none", "none"), ("T", "10")):
    potential = raw if rule == "none" else tumble.symmetrize(raw, rule)
    found = tumble.md(potential, monomers, settings.model_copy(update={"mts": mts}))
    dipoles = np.array([one.positions[1:].mean(0) - one.positions[0] for one in found.atoms])
    vector = (dipoles / np.linalg.norm(dipoles, axis=1)[:, None]).mean(0)
    print(
        f"{rule:4} {len(found.atoms)} molecules, {found.arrays['temperature_K'].mean():.0f} K, "
        f"mean direction of dipoles {np.round(vector, 2)} ± {1 / np.sqrt(3 * len(dipoles)):.2f}"
    )
