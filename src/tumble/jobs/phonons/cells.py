"""Cells: the symmetric cell, its supercell as phonopy orders it, and the space group of that."""

import warnings
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble import extras
from tumble.crystal import SpaceGroup, check_width, ideal, multiples_for, space_group
from tumble.jobs.phonons.settings import PhononsSettings
from tumble.results import number

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

USUAL_WIDTH = 10.0
"""Å."""

required = partial(extras.required, who="phonons of a crystal need", extra="phonons")


class Cells(NamedTuple):
    """A crystal and its supercell.

    atoms:     the given cell, exactly symmetric.
    supercell: N atoms in the order of phonopy.
    group:     the space group of the supercell.
    multiples: copies of the given cell along each vector.
    engine:    phonopy.Phonopy of them, without force constants.
    how:       one phrase about the choice of the supercell.
    """

    atoms: Atoms
    supercell: Atoms
    group: SpaceGroup
    multiples: tuple[int, int, int]
    engine: Any
    how: str

    @property
    def chosen(self) -> Integers:
        """(n,) atoms of the supercell that stand for those of the primitive cell."""
        return np.asarray(self.engine.primitive.p2s_map)

    @property
    def primitive(self) -> Atoms:
        """The n atoms of the primitive cell, in the order of `chosen`."""
        cell = self.engine.primitive
        return Atoms(cell.numbers, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True, masses=cell.masses)


def cells_of(atoms: Atoms, cutoff: float, settings: PhononsSettings) -> Cells:
    """The cells of a crystal: symmetric within `symprec` as given, exactly symmetric here.

    Args:
        atoms: periodic in three directions.
        cutoff: Å, of the potential.
        settings: symprec, and how large the supercell may be.

    Raises:
        ImportError: phonopy is not installed.
        ValueError: no supercell is as wide as the cutoff asks for and as small as the settings allow.
    """
    phonopy = required("phonopy")
    exact = ideal(atoms, space_group(atoms, settings.symprec))
    multiples, how = _multiples(exact, cutoff, settings)
    unit = required("phonopy.structure.atoms").PhonopyAtoms(
        numbers=exact.numbers,
        cell=exact.cell.array,
        scaled_positions=exact.get_scaled_positions(wrap=False),
        masses=exact.get_masses(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of spglib, about its own future
        basis = required("phonopy.structure.cells").guess_primitive_matrix(unit)
        # A cell that is primitive already is kept as it is.
        basis = np.eye(3) if abs(np.linalg.det(basis) - 1) < 1e-6 else basis
        # The symmetry is ours; phonopy's own search takes longer than all the rest.
        engine = phonopy.Phonopy(unit, np.diag(multiples), primitive_matrix=basis, is_symmetry=False)
    large = engine.supercell
    supercell = Atoms(
        large.numbers, cell=large.cell, scaled_positions=large.scaled_positions, pbc=True, masses=large.masses
    )
    return Cells(exact, supercell, space_group(supercell, settings.symprec), multiples, engine, how)


def _multiples(atoms: Atoms, cutoff: float, settings: PhononsSettings) -> tuple[tuple[int, int, int], str]:
    """Copies along each vector, and how they were chosen."""
    if settings.supercell is not None:
        if not settings.force:
            check_width(atoms, settings.supercell, cutoff)
        return settings.supercell, "as asked for"
    least = 0.0 if settings.force else 2 * cutoff
    width = settings.width_A or max(USUAL_WIDTH, 2 * cutoff)
    if width < least:
        check_width(atoms, multiples_for(atoms, width), cutoff)
    wanted = width
    while _n_atoms(atoms, width) > settings.max_atoms and width > least:
        width = max(width - 0.25, least)
    found = multiples_for(atoms, width)
    if (n_atoms := _n_atoms(atoms, width)) > settings.max_atoms:
        raise ValueError(
            f"a supercell {number(width)} Å wide takes {'x'.join(map(str, found))} copies, {n_atoms} atoms; at most "
            f"max_atoms = {settings.max_atoms} were expected. Allow more of them, or set the supercell with force=True "
            "(--force)."
        )
    narrowed = "" if width == wanted else f", less than {number(wanted)} Å for at most {settings.max_atoms} atoms"
    return found, f"at least {number(width)} Å wide{narrowed}"


def _n_atoms(atoms: Atoms, width: float) -> int:
    return len(atoms) * int(np.prod(multiples_for(atoms, width)))
