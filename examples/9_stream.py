"""Answers for more structures than fit into memory, written as they come; a second run goes on where one stopped."""

from pathlib import Path

import ase.io
from ase.build import bulk

from tumble.jobs.predict import predict_files
from tumble.models.pair import LennardJones
from tumble.packs import stream
from tumble.potential import Gradient

argon = Gradient(LennardJones(0.0104, 3.4))


def crystals(n):
    """Shaken crystals, made one at a time."""
    for seed in range(n):
        atoms = bulk("Ar", cubic=True)
        atoms.rattle(0.1, seed=seed)
        yield atoms


lowest, atoms = min(
    ((float(answer.energy), atoms) for atoms, answer in stream(argon, crystals(300))), key=lambda p: p[0]
)
print(f"the lowest of 300: {atoms.symbols} at {lowest:.4f} eV")

ase.io.write("crystals.extxyz", list(crystals(300)))
answers = Path("answers.extxyz")
predict_files(argon, ["crystals.extxyz"], answers)
answers.write_bytes(answers.read_bytes()[:-9000])  # as if the power had failed
print(predict_files(argon, ["crystals.extxyz"], answers, resume=True).note)
