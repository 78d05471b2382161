"""Force constants of a crystal from forces on displaced supercells, and what follows from them."""

import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np
from ase import Atoms

from statics.compare import Array, Conductivity, Elastic, elastic
from statics.crystals import MESH, SMALL, TEMPERATURE_K, Crystal

if TYPE_CHECKING:
    from phono3py import Phono3py
    from phonopy import Phonopy

DISTANCE: Final = 0.03
"""By how much an atom is displaced, Å; as in the data."""

POINTS: Final = 51
"""Points on each piece of the path."""

SLOW: Final = 0.002
"""Wave vector of waves that are slow enough for elasticity, 1/Å without 2π."""

Forces = Callable[[Sequence[Atoms]], Array]


class Bands(NamedTuple):
    """Frequencies in THz along the path (K, B) and on a mesh, distances (K,), and where the corners of the path are."""

    frequencies: Array
    mesh: Array
    distances: Array
    ticks: tuple[tuple[float, str], ...]


def structures(cells: Sequence[Any]) -> list[Atoms]:
    """Cells of phonopy as Atoms."""
    found = [cell for cell in cells if cell is not None]
    return [Atoms(numbers=c.numbers, scaled_positions=c.scaled_positions, cell=c.cell, pbc=True) for c in found]


def matrix(engine: "Phono3py", size: int) -> Array:
    """The supercell of so many atoms."""
    return cast(Array, engine.supercell_matrix if size == SMALL else engine.phonon_supercell_matrix)


def harmonic(engine: "Phono3py", size: int, *, is_symmetry: bool = True) -> "Phonopy":
    """A Phonopy without displacements."""
    from phonopy import Phonopy

    found = Phonopy(
        engine.unitcell,
        supercell_matrix=matrix(engine, size),
        primitive_matrix=engine.primitive_matrix,
        is_symmetry=is_symmetry,
    )
    found.nac_params = engine.nac_params
    return found


def anharmonic(engine: "Phono3py", size: int = SMALL) -> "Phono3py":
    """A Phono3py without displacements, second-order force constants those of so many atoms."""
    from phono3py import Phono3py

    found = Phono3py(
        engine.unitcell,
        supercell_matrix=engine.supercell_matrix,
        primitive_matrix=engine.primitive_matrix,
        phonon_supercell_matrix=None if size == SMALL else matrix(engine, size),
    )
    found.nac_params = engine.nac_params
    return found


def second_as_published(crystal: Crystal, engine: "Phono3py", size: int, forces: Forces | None) -> Array:
    """Second-order force constants from the displacements that DFT was asked for."""
    found = anharmonic(engine, size)
    if size == SMALL:
        found.dataset = deepcopy(engine.dataset)
        if forces is not None:
            found.forces = forces(structures(found.supercells_with_displacements))
    else:
        found.phonon_dataset = deepcopy(engine.phonon_dataset)
        if forces is not None:
            found.phonon_forces = forces(structures(found.phonon_supercells_with_displacements))
    found.produce_fc2(fc_calculator=crystal.solver)
    if crystal.solver == "traditional":
        found.symmetrize_fc2()
    return cast(Array, found.fc2)


def third_as_published(crystal: Crystal, engine: "Phono3py", forces: Forces | None) -> Array:
    """Third-order force constants from those displacements."""
    small = anharmonic(engine)
    small.dataset = deepcopy(engine.dataset)
    if forces is not None:
        small.forces = forces(structures(small.supercells_with_displacements))
    small.produce_fc3(fc_calculator=crystal.solver)
    if crystal.solver == "traditional":
        small.symmetrize_fc3()
    return cast(Array, small.fc3)


def second(engine: "Phono3py", size: int, forces: Forces, *, both: bool) -> Array:
    """Second-order force constants from every atom of the primitive cell moved along x, y and z: no use of symmetry."""
    crystal = harmonic(engine, size, is_symmetry=False)
    crystal.generate_displacements(distance=DISTANCE, is_plusminus=both, is_diagonal=False)
    crystal.forces = forces(structures(crystal.supercells_with_displacements))
    crystal.produce_force_constants(calculate_full_force_constants=False, show_drift=False)
    return cast(Array, crystal.force_constants)


def second_projected(engine: "Phono3py", size: int, constants: Array) -> Array:
    """Second-order force constants with the crystal's symmetry, symmetric, and with acoustic sums of zero."""
    crystal = harmonic(engine, size)
    crystal.force_constants = constants.copy()
    crystal.symmetrize_force_constants(use_symfc_projector=True, show_drift=False)
    return cast(Array, crystal.force_constants)


def third(engine: "Phono3py", forces: Forces, *, both: bool) -> Array:
    """Third-order force constants as phono3py finds them by default, from one and two atoms moved; nothing symmetrised.

    Displacements that symmetry makes equivalent are left out, both signs are kept where `both`.
    """
    small = anharmonic(engine)
    small.generate_displacements(distance=DISTANCE, is_plusminus=True if both else "auto")
    small.forces = forces(structures(small.supercells_with_displacements))
    small.produce_fc3()
    return cast(Array, small.fc3)


def third_projected(engine: "Phono3py", constants: Array) -> Array:
    """The same with the crystal's symmetry, all permutations, and acoustic sums of zero."""
    small = anharmonic(engine)
    small.fc3 = constants.copy()
    small.symmetrize_fc3(use_symfc_projector=True)
    return cast(Array, small.fc3)


def conductivity(engine: "Phono3py", size: int, second: Array, third: Array) -> Conductivity:
    """κ at 300 K in the relaxation-time approximation, without isotopes, mode by mode."""
    found = anharmonic(engine, size)
    found.fc2, found.fc3 = second, third
    found.mesh_numbers = MESH
    found.init_phph_interaction()
    found.run_thermal_conductivity(temperatures=[TEMPERATURE_K])
    rates = found.thermal_conductivity
    shares = rates.mode_kappa[0, 0, :, :, :3].mean(axis=-1) / rates.grid_weights.sum()
    return Conductivity(float(rates.kappa[0, 0, :3].mean()), shares)


def bands(engine: "Phono3py", size: int, constants: Array) -> Bands:
    """Frequencies along the path that seekpath names, and on a mesh of 12³."""
    from phonopy.phonon.band_structure import get_band_qpoints_by_seekpath

    crystal = harmonic(engine, size)
    crystal.force_constants = constants
    paths, labels, connections = get_band_qpoints_by_seekpath(crystal.primitive, POINTS)
    crystal.run_band_structure(paths, path_connections=connections, labels=labels)
    found = crystal.band_structure
    crystal.run_mesh([12, 12, 12], is_gamma_center=True)
    corners = [0.0, *(float(piece[-1]) for piece in found.distances)]
    return Bands(
        np.concatenate(found.frequencies),
        crystal.mesh.frequencies,
        np.concatenate(found.distances),
        tuple(zip(corners, named(labels, connections), strict=True)),
    )


def named(labels: Sequence[str], connections: Sequence[bool]) -> list[str]:
    """Names of the corners of a path: where it jumps, both names."""
    rest = [label.replace("$\\Gamma$", "Γ").replace("$\\mathrm{", "").replace("}$", "") for label in labels]
    found = [rest.pop(0)]
    for is_connected in connections:
        found.append(rest.pop(0))
        if not is_connected and rest:
            found[-1] += f"|{rest.pop(0)}"
    return found


def elasticity(engine: "Phono3py", size: int, constants: Array) -> Elastic:
    """Elastic constants from the speeds of slow waves."""
    crystal = harmonic(engine, size)
    crystal.force_constants = constants
    cell = crystal.primitive.cell
    density = crystal.primitive.masses.sum() / abs(np.linalg.det(cell))
    speeds = []
    for way in ([1, 0, 0], [1, 1, 0]):
        q = SLOW * np.array(way) / np.linalg.norm(way)
        speeds.append(crystal.run_qpoints([q @ cell.T]).frequencies[0, :3] / SLOW)
    return elastic(density, *speeds)


class MissingError(LookupError):
    """Something that has not been computed yet, where nothing may be."""


class Kept:
    """Arrays that have been computed before, one file each; with `is_closed`, no others are."""

    def __init__(self, folder: Path, *, is_closed: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.is_closed = folder, is_closed

    def __call__(self, name: str, compute: Callable[[], Sequence[Array]]) -> list[Array]:
        """What `compute` gives, from the file if there is one.

        Raises:
            MissingError: there is none, and nothing may be computed.
        """
        path = self.folder / f"{name}.npz"
        if not path.exists():
            if self.is_closed:
                raise MissingError(f"{path} is not there; run without --report.")
            arrays = compute()
            partial = path.with_suffix(f".{os.getpid()}.partial")
            with partial.open("wb") as file:
                np.savez(file, *arrays)
            partial.replace(path)
        with np.load(path) as stored:
            return [stored[key] for key in stored.files]
