"""The structures of the study's archive, from a folder that the user has.

Source: archive doi:10.24435/materialscloud:kz-3b (CC-BY-4.0), as extended XYZ; the ice cells are those of J. A. Hayward
and J. R. Reimers, J. Chem. Phys. 106, 1518 (1997).
"""

import sys
from pathlib import Path
from typing import Final

import ase.io
from ase import Atoms

FILES: Final = {
    "test": "water_test_190_unlabelled.extxyz.xz",
    "monomers": "molecule_nvt_1000.extxyz.xz",
    "molecule": "molecule.extxyz",
    "liquid": "water_512.extxyz.xz",
    "ice": "ice_initial_9.extxyz.xz",
    "ice at rest": "ice_relaxed2i_9.extxyz.xz",
}
"""What they are → file: 190 boxes of 64 H2O; 1000 molecules at 300 K; one molecule; 512 H2O; nine cells of ice, as they
were and as the study left them."""


def read(folder: Path, what: str) -> list[Atoms]:
    """All structures of one of the files, as a command: it ends if the file is missing."""
    path = folder / FILES[what]
    if not path.exists():
        sys.exit(f"{path} is missing; the structures of the study were expected in {folder}.")
    found: list[Atoms] = ase.io.read(path, ":")
    return found


def in_vacuum(molecule: Atoms) -> Atoms:
    """The molecule without its box of 100 Å, which no cutoff reaches across, its centre of mass at the origin."""
    alone = Atoms(molecule.get_chemical_symbols(), positions=molecule.positions)
    alone.positions -= alone.get_center_of_mass()
    return alone
