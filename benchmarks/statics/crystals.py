"""What DFT says: displaced supercells of three crystals, their forces, and the force constants that follow from them.

Read from the folder of data, nothing of which is part of this project; every number that was published with the data is
listed beside the crystal, and is found again.
"""

import lzma
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import ase.io
import numpy as np
from ase import Atoms

from statics.compare import Array

if TYPE_CHECKING:
    from phono3py import Phono3py

MESH: Final = (11, 11, 11)
TEMPERATURE_K: Final = 300.0
SMALL: Final = 64
LARGE: Final = 512
"""Atoms of the two supercells."""


class Crystal(NamedTuple):
    """A crystal that DFT has answered for. `read` gives a Phono3py with displacements and forces
    of 64 atoms and of 512.

    Third-order force constants are those of 64 atoms; second-order ones of both. `published` is κ in W/(m K) at 300 K
    by the number of atoms that second-order force constants are taken from.
    """

    title: str
    read: Callable[[Path], "Phono3py"]
    solver: str
    published: dict[int, float]
    source: str


def frames(data: Path, name: str) -> list[Atoms]:
    """Structures of one file of phonopy_sets."""
    with lzma.open(data / "phonopy_sets" / f"{name}.extxyz.xz", "rt") as file:
        return list(ase.io.read(file, ":", format="extxyz"))


def unpacked(data: Path, archive: str, names: tuple[str, ...], folder: str) -> list[str]:
    """Files of an archive of phonon_inputs, written into a folder; where they are."""
    with tarfile.open(data / "phonon_inputs" / archive) as file:
        for name in names:
            file.extract(name, folder, filter="data")
    return [str(Path(folder) / name) for name in names]


def silicon(data: Path) -> "Phono3py":
    """One or two atoms of 64 displaced, and one of 512."""
    import phono3py

    with tempfile.TemporaryDirectory() as folder:
        names = ("example/Si-PBEsol/phono3py_disp_dimfc2.yaml",)
        [path] = unpacked(data, "phono3py_inputs.tar.xz", names, folder)
        engine = phono3py.load(path, produce_fc=False, log_level=0)
    small, large = frames(data, "Si_PBEsol_fd111"), frames(data, "Si_PBEsol_fc2")
    displaced(small, [cell for cell in engine.supercells_with_displacements if cell is not None], 1e-4)
    displaced(large, engine.phonon_supercells_with_displacements, 1e-4)
    engine.forces = np.array([atoms.get_forces() for atoms in small])
    engine.phonon_forces = np.array([atoms.get_forces() for atoms in large])
    return engine


def magnesia(data: Path) -> "Phono3py":
    """All atoms displaced by 0.03 Å: 100 supercells of 64, 4 of 512."""
    import phono3py

    path = data / "phonon_inputs" / "phono3py_params_MgO-222rd-444rd.yaml.xz"
    return phono3py.load(str(path), produce_fc=False, log_level=0)


def salt(data: Path) -> "Phono3py":
    """All atoms displaced by 0.03 Å: 100 supercells of 64, 2 of 512."""
    from phono3py import Phono3py
    from phonopy.file_IO import parse_BORN
    from phonopy.interface.vasp import read_vasp
    from phonopy.structure.atoms import PhonopyAtoms

    every = frames(data, "NaCl_PBEsol_rd102_EFS")
    small, large = ([atoms for atoms in every if len(atoms) == n] for n in (64, 512))
    with tempfile.TemporaryDirectory() as folder:
        names = ("NaCl-rd/POSCAR-unitcell", "NaCl-rd/BORN")
        poscar, born = unpacked(data, "phonopy_inputs.tar.xz", names, folder)
        cell = read_vasp(poscar)
        # That cell is of another functional; atoms and their order are the same.
        cell = PhonopyAtoms(symbols=cell.symbols, scaled_positions=cell.scaled_positions, cell=small[0].cell.array / 2)
        engine = Phono3py(cell, supercell_matrix=[2, 2, 2], phonon_supercell_matrix=[4, 4, 4], primitive_matrix="F")
        engine.nac_params = parse_BORN(engine.primitive, filename=born)
    engine.dataset = dataset(small, displaced(small, [engine.supercell] * len(small)))
    engine.phonon_dataset = dataset(large, displaced(large, [engine.phonon_supercell] * len(large)))
    return engine


def displaced(structures: list[Atoms], cells: list[Any], limit: float = 0.1) -> Array:
    """By how much atoms differ from those of cells in the same order (K, N, 3), Å.

    Raises:
        ValueError: they are not the same atoms in the same order.
    """
    pairs = list(zip(structures, cells, strict=False))
    if len(structures) != len(cells) or not all(np.array_equal(a.numbers, b.numbers) for a, b in pairs):
        raise ValueError(f"{len(structures)} structures for {len(cells)} cells, or of other atoms.")
    steps = []
    for atoms, cell in pairs:
        step = atoms.get_scaled_positions() - cell.scaled_positions
        steps.append((step - np.round(step)) @ cell.cell)
    moved = np.array(steps)
    if (furthest := float(np.linalg.norm(moved, axis=-1).max())) > limit:
        raise ValueError(f"an atom is {furthest:.2f} Å from where it was expected, allowed {limit} Å.")
    return moved


def dataset(structures: list[Atoms], moved: Array) -> dict[str, Array]:
    """What phono3py calls displacements and forces of any kind."""
    return {"displacements": moved, "forces": np.array([atoms.get_forces() for atoms in structures])}


CRYSTALS: Final = {
    "silicon": Crystal("Si", silicon, "traditional", {64: 109.0011, 512: 107.9}, "phono3py, example/Si-PBEsol"),
    "MgO": Crystal("MgO", magnesia, "symfc", {512: 63.5538}, "phono3py, test/phono3py_params_MgO-222rd-444rd"),
    "NaCl": Crystal("NaCl", salt, "symfc", {512: 8.3}, "phono3py, example/NaCl-rd; on a mesh of 15³"),
}
