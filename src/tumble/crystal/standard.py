"""Space groups by their names, and crystals in standard cells: what spglib knows, for three-dimensional crystals."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import spglib
from ase import Atoms


class Group(NamedTuple):
    """Which of the 230 space groups a crystal has, within a tolerance.

    number:       1 to 230.
    symbol:       international, short: "Fd-3m".
    n_operations: of the cell as given, pure translations within it included.
    symprec:      Å, the tolerance.
    """

    number: int
    symbol: str
    n_operations: int
    symprec: float

    def __str__(self) -> str:
        """Symbol and number."""
        return f"{self.symbol} ({self.number})"


def group_of(atoms: Atoms, symprec: float = 1e-5) -> Group:
    """The space group of a crystal.

    Args:
        atoms: periodic in three directions.
        symprec: Å, how far an atom may be from where an operation puts it.

    Raises:
        ValueError: not periodic in three directions, or two atoms closer than the tolerance.

    Source: A. Togo, K. Shinohara, I. Tanaka, Sci. Technol. Adv. Mater.: Methods 4, 2384822 (2024).
    """
    found = _dataset(atoms, symprec)
    return Group(int(found.number), str(found.international), len(found.rotations), symprec)


def groups_at(atoms: Atoms, symprecs: Sequence[float]) -> list[Group | None]:
    """The space group at each tolerance; None where the tolerance is so large that atoms merge."""
    groups: list[Group | None] = []
    for symprec in symprecs:
        try:
            groups.append(group_of(atoms, symprec))
        except ValueError:
            if not atoms.pbc.all():
                raise
            groups.append(None)
    return groups


def standardised(atoms: Atoms, symprec: float = 1e-5, *, primitive: bool = False) -> Atoms:
    """The conventional (or primitive) cell with exactly the symmetry that the crystal has within the tolerance.

    In the standard setting and orientation; forces, velocities and other arrays are left behind.

    Raises:
        ValueError: as for `group_of`.
    """
    _dataset(atoms, symprec)  # says what is wrong, where something is
    with _quiet():
        found: Any = spglib.standardize_cell(_plain(atoms), to_primitive=primitive, no_idealize=False, symprec=symprec)
    cell, places, numbers = found
    return Atoms(numbers, cell=cell, scaled_positions=places, pbc=True)


def _dataset(atoms: Atoms, symprec: float) -> Any:
    if not atoms.pbc.all():
        raise ValueError(
            f"pbc is {atoms.pbc.tolist()}; space groups by name are those of crystals that repeat in three directions. "
            "Set pbc to True in all of them, or use tumble.crystal.space_group, which knows layers and molecules."
        )
    with _quiet():
        try:
            found = spglib.get_symmetry_dataset(_plain(atoms), symprec=symprec)
        except Exception as error:  # newer versions raise where older ones return None
            found, why = None, str(error)
        else:
            why = ""
    if found is None:
        raise ValueError(
            f"no space group was found for {atoms.get_chemical_formula()} within {symprec:g} Å"
            f"{': ' + why if why else ''}; atoms farther apart than the tolerance were expected. Use a smaller symprec."
        )
    return found


def _plain(atoms: Atoms) -> Any:
    """What spglib takes for a crystal."""
    return atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
