"""Supercells: how many copies of a cell in each direction, so that its images are far enough apart."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from tumble.crystal.lattice import Floats


def widths(cell: Floats) -> Floats:
    """Distances between opposite faces of a cell (3, 3), (3,) Å."""
    return np.asarray(1 / np.linalg.norm(np.linalg.inv(cell), axis=0))


def multiples_for(atoms: Atoms, width: float) -> tuple[int, int, int]:
    """The fewest copies along each vector for opposite faces at least `width` Å apart; 1 where nothing repeats."""
    counts = np.ceil(width / widths(atoms.cell.complete().array) - 1e-6)
    first, second, third = np.where(atoms.pbc, np.maximum(counts, 1), 1).astype(int).tolist()
    return first, second, third


def check_width(atoms: Atoms, multiples: Sequence[int], cutoff: float) -> None:
    """Refuse a supercell in which an atom feels a displaced atom and its image at the same time.

    Args:
        atoms: the cell.
        multiples: (3,) copies along each vector.
        cutoff: Å, of the potential; 0 where it is not known.

    Raises:
        ValueError: opposite faces are closer than twice the cutoff.
    """
    apart = widths(atoms.cell.complete().array) * np.asarray(multiples)
    short = np.where(atoms.pbc, apart, np.inf)
    if short.min() < 2 * cutoff - 1e-6:
        need = multiples_for(atoms, 2 * cutoff)
        shown = "x".join(map(str, multiples))
        raise ValueError(
            f"the supercell {shown} is {short.min():.2f} Å wide, and the cutoff of the potential is {cutoff:g} Å: "
            f"atoms would feel a displaced atom and its image at once. At least {2 * cutoff:g} Å were expected: use "
            f"{'x'.join(map(str, need))}, or force=True (--force) if this supercell is meant."
        )
