"""Engine: phono3py, from a crystal to displaced supercells, and from forces on them to force constants."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble import extras
from tumble.crystal import check_width, multiples_for
from tumble.jobs.conductivity.settings import ConductivitySettings

Floats = NDArray[np.float64]
Back = bool | Literal["auto"]

USUAL_WIDTH: Final = 10.0
"""Å."""

required = partial(extras.required, who="conductivity needs", extra="phonons")


class Constants(NamedTuple):
    """Force constants in the compact form of phono3py: n atoms of the primitive cell, N of each supercell.

    second: (n, N, 3, 3) eV/Å².
    third:  (n, N, N, 3, 3, 3) eV/Å³.
    """

    second: Floats
    third: Floats


@contextmanager
def quiet() -> Iterator[None]:
    """Without what engines say about their own future, and about primitive cells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def engine_of(atoms: Atoms, cutoff: float, settings: ConductivitySettings) -> Any:
    """phono3py.Phono3py of a crystal that is exactly symmetric, with its supercells and mesh.

    Args:
        atoms: the crystal.
        cutoff: Å, of the potential.
        settings: supercells and mesh.

    Raises:
        ImportError: phono3py or symfc is not installed.
        ValueError: a supercell is too small for the cutoff, or too large, or the mesh does not fit the symmetry.
    """
    phono3py, _ = required("phono3py"), required("symfc")
    third = _multiples(atoms, settings.supercell, cutoff, settings)
    second = None
    if settings.supercell_fc2 is not None:
        second = _multiples(atoms, settings.supercell_fc2, cutoff, settings)
    unit = required("phonopy.structure.atoms").PhonopyAtoms(
        numbers=atoms.numbers,
        cell=atoms.cell.array,
        scaled_positions=atoms.get_scaled_positions(wrap=False),
        masses=atoms.get_masses(),
    )
    with quiet():
        basis = required("phonopy.structure.cells").guess_primitive_matrix(unit)
        # A cell that is primitive already is kept as it is.
        basis = np.eye(3) if abs(np.linalg.det(basis) - 1) < 1e-6 else basis
        engine = phono3py.Phono3py(unit, third, primitive_matrix=basis, phonon_supercell_matrix=second)
    set_mesh(engine, settings.mesh_A if settings.mesh is None else settings.mesh)
    return engine


def set_mesh(engine: Any, mesh: float | Sequence[int]) -> None:
    """Choose the mesh of wave vectors: the length in Å that it stands for, or how many along each vector.

    Raises:
        ValueError: it has less symmetry than the crystal.
    """
    try:
        with quiet():
            engine.mesh_numbers = mesh if isinstance(mesh, float) else list(mesh)
    except RuntimeError as error:
        raise ValueError(
            f"the mesh {mesh} has less symmetry than the crystal ({error}). Give as many wave vectors along equivalent "
            "axes, or mesh_A and no mesh."
        ) from None


def irreducible(engine: Any) -> tuple[int, int]:
    """How many irreducible wave vectors the mesh has, and how many modes each."""
    points = required("phonopy.phonon.grid").get_ir_grid_points(engine.grid)[0]
    return len(points), 3 * len(engine.primitive)


def read_nac(engine: Any, file: str | None) -> None:
    """Take Born charges and the dielectric constant from a BORN file of phonopy.

    Raises:
        ValueError: there is no such file, or it is not one for this crystal.
    """
    if file is None:
        return
    if not Path(file).is_file():
        raise ValueError(f"there is no file {file} of Born charges. Give the path of a BORN file of phonopy.")
    try:
        with quiet():
            found = dict(required("phonopy.file_IO").parse_BORN(engine.primitive, filename=file))
        finite = all(np.isfinite(found[key]).all() for key in ("born", "dielectric"))
        if not finite or np.linalg.eigvalsh(found["dielectric"]).min() < 1:
            raise ValueError("charges that are not finite, or a dielectric constant below that of the vacuum")
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{file} is not a BORN file of phonopy for this crystal: {error}. A line of defaults, one with the "
            "dielectric constant, and one for each symmetry-independent of the "
            f"{len(engine.primitive)} atoms of the primitive cell were expected; of a metal there is none."
        ) from None
    units = required("phonopy.physical_units").get_calculator_physical_units(None)
    engine.nac_params = {"factor": units.nac_factor} | found


class Displaced(NamedTuple):
    """Displaced supercells in the order of phono3py.

    third:    for the third order; None where a pair is beyond the cutoff and is not asked about.
    second:   for the second order; empty where those of third order serve both.
    datasets: what phono3py knows of them.
    """

    third: list[Atoms | None]
    second: list[Atoms]
    datasets: tuple[Any, Any]

    @property
    def structures(self) -> list[Atoms]:
        """Those that are asked about."""
        return [one for one in (*self.third, *self.second) if one is not None]


def displaced(engine: Any, settings: ConductivitySettings, back: Back) -> Displaced:
    """The displacements that symmetry does not make equal.

    Args:
        engine: see `engine_of`.
        settings: how far, and how far apart pairs may be.
        back: whether atoms are displaced back too, or only where symmetry does not make that equal.
    """
    engine.phonon_dataset = None
    with quiet():
        engine.generate_displacements(
            distance=settings.displacement_A, cutoff_pair_distance=settings.cutoff_pair_A, is_plusminus=back
        )
        third = [None if one is None else _atoms(one) for one in engine.supercells_with_displacements]
        second = [] if engine.phonon_supercell_matrix is None else engine.phonon_supercells_with_displacements
    return Displaced(third, [_atoms(one) for one in second], (engine.dataset, engine.phonon_dataset))


def give(engine: Any, cells: Displaced, forces: Sequence[Floats]) -> None:
    """Hand forces (N, 3) eV/Å of `cells.structures` to phono3py."""
    engine.dataset, engine.phonon_dataset = cells.datasets
    answers = iter(forces)
    nothing = np.zeros((len(engine.supercell), 3))
    engine.forces = np.stack([nothing if one is None else next(answers) for one in cells.third])
    if cells.second:
        engine.phonon_forces = np.stack([next(answers) for _ in cells.second])


def differences(engine: Any) -> Constants:
    """Force constants by finite differences: nothing beyond the symmetry of the displacements is imposed."""
    with quiet():
        engine.produce_fc3(fc_calculator="traditional")
        if engine.phonon_supercell_matrix is not None:
            engine.produce_fc2(fc_calculator="traditional")
    return Constants(engine.fc2.copy(), engine.fc3.copy())


def allowed(engine: Any, settings: ConductivitySettings) -> Constants:
    """Force constants that obey the space group, the exchange of indices and the sum rule."""
    with quiet():
        if settings.solver == "symfc":
            options = None if settings.cutoff_pair_A is None else f"|cutoff={settings.cutoff_pair_A}"
            engine.produce_fc3(fc_calculator="symfc", fc_calculator_options=options)
            if engine.phonon_supercell_matrix is not None:
                engine.produce_fc2(fc_calculator="symfc")
        else:
            engine.fc2, engine.fc3 = differences(engine)
            engine.symmetrize_fc2(use_symfc_projector=True)
            engine.symmetrize_fc3(use_symfc_projector=True)
    return Constants(engine.fc2.copy(), engine.fc3.copy())


def _multiples(
    atoms: Atoms, asked: tuple[int, int, int] | None, cutoff: float, settings: ConductivitySettings
) -> tuple[int, int, int]:
    if asked is None:
        asked = multiples_for(atoms, settings.width_A or max(USUAL_WIDTH, 2 * cutoff))
        if (n_atoms := len(atoms) * int(np.prod(asked))) > settings.max_atoms:
            raise ValueError(
                f"a supercell of {'x'.join(map(str, asked))} copies has {n_atoms} atoms; at most max_atoms = "
                f"{settings.max_atoms} were expected. Allow more of them, set a smaller width_A, or set the supercell."
            )
    if not settings.force:
        check_width(atoms, asked, cutoff)
    return asked


def _atoms(cell: Any) -> Atoms:
    return Atoms(cell.numbers, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True, masses=cell.masses)
