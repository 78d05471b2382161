"""Train a small PET on frames labelled by a Lennard-Jones potential; real data take the same lines and more time."""

import ase.io
import numpy as np
from ase.build import bulk

import tumble
from tumble.models.pair import LennardJones

random = np.random.default_rng(0)
teacher = tumble.Gradient(LennardJones(epsilon=0.0103, sigma=3.4))
frames = []
for _ in range(16):
    atoms = bulk("Ar", cubic=True)
    atoms.rattle(0.1, rng=random)
    [answer] = tumble.predict(teacher, atoms)
    atoms.info["REF_energy"], atoms.arrays["REF_forces"] = float(answer.energy), answer.forces.numpy()
    frames.append(atoms)
ase.io.write("argon.extxyz", frames)

settings = tumble.TrainSettings(
    data=("argon.extxyz",),
    model={"cutoff": 5.0, "d_pet": 16, "d_head": 16, "d_node": 16, "d_feedforward": 16, "num_heads": 2},
    phases=({"epochs": 3},),
    atoms_per_batch=32,
)
result = tumble.train(settings, "run", overwrite=True)
potential = tumble.load("run/best.safetensors")
[answer] = tumble.predict(potential, frames[0])
print(f"{float(answer.energy):.4f} eV, labelled {frames[0].info['REF_energy']:.4f} eV")
print(f"wrote {tumble.report(result, to='run/card.html')}")
