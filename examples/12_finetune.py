"""Fine-tune a PET to another level of theory with LoRA: two heads, so that the old level is not forgotten."""

import ase.io
import numpy as np
from ase.build import bulk

import tumble
from tumble.models.pair import LennardJones

random = np.random.default_rng(0)
for name, epsilon, n in (("old", 0.0103, 16), ("new", 0.0120, 8)):
    teacher, frames = tumble.Gradient(LennardJones(epsilon=epsilon, sigma=3.4)), []
    for _ in range(n):
        atoms = bulk("Ar", cubic=True)
        atoms.rattle(0.1, rng=random)
        [answer] = tumble.predict(teacher, atoms)
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = float(answer.energy), answer.forces.numpy()
        frames.append(atoms)
    ase.io.write(f"{name}.extxyz", frames)

shape = {"cutoff": 5.0, "d_pet": 16, "d_head": 16, "d_node": 16, "d_feedforward": 16, "num_heads": 2}
first = tumble.TrainSettings(data=("old.extxyz",), model=shape, phases=({"epochs": 3},), atoms_per_batch=32)
tumble.train(first, "first", overwrite=True)

second = tumble.TrainSettings(
    start="first/best.safetensors",
    lora={"rank": 4},
    sets=(
        {"name": "new", "data": ("new.extxyz",), "head": "new"},
        {"name": "old", "data": ("old.extxyz",), "head": "old", "labels": "start", "weight": 0.5},
    ),
    phases=({"layers": "lora", "epochs": 2, "optimizer": "adam"},),
    atoms_per_batch=32,
)
tumble.train(second, "second", overwrite=True)
for name in ("best", "best-old"):
    [answer] = tumble.predict(tumble.load(f"second/{name}.safetensors"), frames[0])
    print(f"{name:8} {float(answer.energy):.4f} eV, labelled {frames[0].info['REF_energy']:.4f} eV")
