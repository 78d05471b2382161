"""Water monomers for the recipe of `water`: geometries and published energies of the 2024 study, labelled.

    python benchmarks/monomers.py molecule_nvt_1000.extxyz monomers

writes monomers_train.extxyz (900) and monomers_test.extxyz (every tenth, 100).

Liquid water says nothing about a molecule alone, and a model trained on the liquid alone scatters there by tenths of an
eV as the molecule turns. The study's archive (CC-BY-4.0, doi:10.24435/materialscloud:kz-3b) holds 1000 monomers from
dynamics at 300 K with the energy of its own PET, averaged over 150 rotations. They are predictions, not DFT, of a model
that was trained on the same revPBE0-D3 data; per molecule they lack -469.01333 eV.
"""

import sys

import ase.io
from ase import Atoms

MISSING_eV = -469.01333


def main() -> None:
    """Read, add the missing constant, drop the box, write."""
    source, target = sys.argv[1:]
    monomers = []
    for frame in ase.io.read(source, ":"):
        alone = Atoms(frame.numbers, frame.get_distances(0, [0, 1, 2], mic=True, vector=True))
        alone.info["REF_energy"] = frame.info["E_pet_3i"] + MISSING_eV
        monomers.append(alone)
    parts = {"test": monomers[::10], "train": [one for k, one in enumerate(monomers) if k % 10]}
    for part, structures in parts.items():
        ase.io.write(f"{target}_{part}.extxyz", structures, format="extxyz")
        print(f"wrote {len(structures)} monomers to {target}_{part}.extxyz")


if __name__ == "__main__":
    main()
