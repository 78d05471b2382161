"""The search for the operations that map a structure on itself, from what repeats to what turns."""

from typing import Final

import numpy as np
from ase import Atoms

from tumble.crystal.closure import closed
from tumble.crystal.lattice import Floats, Integers, completed, reduced, remainders, short_vectors
from tumble.crystal.point import PointGroup
from tumble.crystal.sites import Sites
from tumble.crystal.space import SpaceGroup
from tumble.crystal.translations import Primitive, primitive
from tumble.crystal.turns import LOOSE_A, Candidates, nearest_turns, of_lattice, of_line, of_molecule, of_wire

_SHRINK: Final = 0.7
_ROUNDING_A: Final = 1e-9
_MANY: Final = 10_000
"""Candidates of which a sample is tried first."""

_AT_ONCE: Final = 1 << 16


def space_group(atoms: Atoms, tolerance: float = 1e-3) -> SpaceGroup:
    """The operations that map a structure on itself, see `find_operations`."""
    return find_operations(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, tolerance)


def point_operations(atoms: Atoms, symprec: float = 1e-3) -> PointGroup:
    """The point group of a structure, in its own orientation: the turns of its `space_group`.

    Args:
        symprec: Å, how far an atom may be from where an operation puts it.
    """
    return space_group(atoms, symprec).point


def find_operations(
    numbers: Integers, positions: Floats, cell: Floats, pbc: np.ndarray, tolerance: float
) -> SpaceGroup:
    """The operations that map a structure on itself: of a crystal, a layer, a wire or a molecule.

    All turns of the infinite structure are found, those too that do not map a supercell's own lattice. If what is found
    at the tolerance is not closed under composition, it is tightened until it is.

    Args:
        numbers: (N,) atoms with different numbers are never images of each other.
        positions: (N, 3) Å.
        cell: (3, 3) Å; rows that do not repeat are ignored.
        pbc: (3,) which rows repeat.
        tolerance: Å, how far an atom may be from where an operation puts it.

    Raises:
        ValueError: a tolerance below rounding, positions that are not finite, no atoms, a cell without volume, two
            atoms in one place.
    """
    crystal, origin = _read(numbers, positions, cell, pbc, tolerance)
    reach = tolerance
    while True:
        assert reach > _ROUNDING_A / 1000, "the identity alone is a group, and was not found"
        # Far below the tolerance nothing is left in doubt, however long it takes.
        is_last = reach < tolerance / 100
        found = primitive(crystal, reach, is_last=is_last)
        group = None if found is None else _group(found, origin, reach, tolerance)
        if group is not None:
            return group
        reach *= _SHRINK


def _read(
    numbers: Integers, positions: Floats, cell: Floats, pbc: np.ndarray, tolerance: float
) -> tuple[Sites, Floats]:
    """The structure in a reduced cell, centred where nothing repeats, and where that centre was (3,) Å."""
    numbers, positions = np.asarray(numbers), np.asarray(positions, dtype=np.float64)
    if not _ROUNDING_A <= tolerance < np.inf:
        raise ValueError(
            f"the tolerance of the symmetry search (symprec) is {tolerance} Å; at least {_ROUNDING_A:g} was expected, "
            "or rounding decides. Use 1e-3 for relaxed structures."
        )
    if len(numbers) == 0 or not np.isfinite(positions).all():
        broken = int(np.count_nonzero(~np.isfinite(positions).all(axis=-1))) if len(numbers) else 0
        raise ValueError(
            f"a structure of {len(numbers)} atoms, {broken} of them at positions that are not finite, has no symmetry "
            "to be found; at least one atom and finite positions were expected. Check what made this structure."
        )
    rows = np.asarray(cell, dtype=np.float64)[np.asarray(pbc, dtype=bool)]
    volume = float(np.sqrt(max(0.0, np.linalg.det(rows @ rows.T)))) if len(rows) else 1.0
    if not volume > 1e-9 * float(np.prod(np.linalg.norm(rows, axis=1))):
        raise ValueError(
            f"the {len(rows)} periodic cell vectors span a volume of {volume:.3g} Å^{len(rows)}; vectors that are "
            "finite and independent were expected. Set the cell, or pbc to False where nothing repeats."
        )
    frame = completed(reduced(rows))
    places = positions @ np.linalg.inv(frame)
    origin = np.where(np.arange(3) < len(rows), 0.0, places.mean(axis=0))
    places -= origin
    kinds = np.unique(numbers, return_inverse=True)[1]
    sites = Sites(places, kinds.astype(np.int64), frame, len(rows))
    if (pair := sites.overlap(tolerance)) is not None:
        i, j, apart = pair
        raise ValueError(
            f"atoms {i} and {j} are {apart:.2g} Å apart, within the tolerance of {tolerance:g} Å: which one an "
            "operation lands on cannot be told. Remove one, or choose a tolerance well below the shortest distance."
        )
    return sites, origin @ frame


def _group(crystal: Primitive, origin: Floats, reach: float, tolerance: float) -> SpaceGroup | None:
    """The space group of a crystal whose translations are known; None if what is found is not a group."""
    sites = crystal.sites
    candidates, axes, bend = _candidates(sites, reach)
    is_free = sites.d < 2 and len(axes) == 0
    accepted = _accepted(sites, candidates, reach, tolerance, is_free)
    if accepted is None:
        return None
    turns, shifts, images, worst = accepted
    found = closed(sites, turns, images, is_free)
    if found is None or found.strain > reach:
        return None
    offsets = np.round(np.where(sites.repeats, sites.places @ turns + shifts[:, None] - sites.places[images], 0.0))
    lifted, is_of_supercell = _lifted(crystal, turns, images, offsets.astype(np.int64))
    return SpaceGroup(
        turns=found.turns,
        shifts=shifts @ found.rows + origin - found.turns @ origin,
        images=lifted,
        classes=crystal.classes,
        axes=axes,
        deviation=max(crystal.scatter, float(worst.max()), found.strain, bend),
        tolerance=tolerance,
        places=crystal.places,
        supercell=crystal.supercell,
        is_of_supercell=is_of_supercell,
    )


def _candidates(sites: Sites, reach: float) -> tuple[Candidates, Floats, float]:
    """Operations to be tried; axes (K, 3) about which any turn will do, and how far from them an atom may be turned."""
    if sites.d >= 2:
        return of_lattice(sites, reach), np.zeros((0, 3)), 0.0
    _, _, directions = np.linalg.svd(sites.places[:, sites.d :], full_matrices=False)
    spread = np.abs(sites.places[:, sites.d :] @ directions.T).max(axis=0)
    if 2 * spread[0] <= reach:
        axes = np.eye(3) if sites.d == 0 else sites.rows[:1] / np.linalg.norm(sites.rows[0])
        return of_line(sites, None, reach), axes, 2 * float(spread[0])
    if sites.d == 0 and 2 * spread[1:].max(initial=0.0) <= reach:
        return of_line(sites, directions[0], reach), directions[:1], 2 * float(spread[1:].max(initial=0.0))
    return (of_wire if sites.d == 1 else of_molecule)(sites, reach), np.zeros((0, 3)), 0.0


def _accepted(
    sites: Sites, candidates: Candidates, reach: float, tolerance: float, is_free: bool
) -> tuple[Floats, Floats, Integers, Floats] | None:
    """Turns, shifts, images and worst misses of the candidates that are operations; None if too many are in doubt."""
    loose = max(3 * reach, min(LOOSE_A, 100 * reach)) if is_free else 3 * reach
    turns, shifts = candidates
    if sites.d >= 2 and len(turns) > _MANY and reach > tolerance / 100:
        # At most one in thousands can be an operation. Where many seem to be, a defect is as small as the reach.
        sample = np.arange(0, len(turns), len(turns) // 1000)
        if len(sites.probed(turns[sample], shifts[sample], loose)) > 0.05 * len(sample):
            return None
    alive = sites.probed(turns, shifts, loose)
    block = max(1, _AT_ONCE // len(sites))
    parts = []
    for some in np.split(alive, range(block, len(alive), block)):
        now = turns[some]
        images, fitted, worst, _ = sites.fitted(now, shifts[some], loose)
        if is_free:
            landed = np.isfinite(worst)
            now, fitted, images = now[landed], fitted[landed], images[landed]
            now[:, sites.d :, sites.d :] = nearest_turns(
                now[:, sites.d :, sites.d :], sites.places[:, sites.d :], sites.places[images][..., sites.d :]
            )
            images, fitted, worst, _ = sites.fitted(now, fitted, loose)
        kept = worst <= reach
        parts.append((now[kept], fitted[kept], images[kept], worst[kept]))
    found = [np.concatenate(column) for column in zip(*parts, strict=True)]
    chosen = _distinct(found[0], found[2], found[3], is_free)
    chosen = chosen[_order(sites, found[0][chosen], found[2][chosen])]
    return found[0][chosen], found[1][chosen], found[2][chosen], found[3][chosen]


def _distinct(turns: Floats, images: Integers, worst: Floats, is_free: bool) -> Integers:
    """One index, the best, of each operation that was found more than once."""
    best: dict[bytes, int] = {}
    hands = np.round(np.linalg.det(turns))
    for k in np.argsort(worst, kind="stable"):
        # Images and handedness fix a free turn, together with the end of its axis to which a wire goes.
        free = np.array([hands[k], np.sign(turns[k, 0, 0]) if is_free else 0, *images[k]])
        best.setdefault((free if is_free else np.round(turns[k])).tobytes(), int(k))
    return np.array(sorted(best.values()))


def _order(sites: Sites, turns: Floats, images: Integers) -> Integers:
    """Identity first, then by what an operation does, in numbers that depend on neither the lab nor the file."""
    one = np.abs(turns - np.eye(3)).sum(axis=(1, 2)).argmin()
    atoms = (images == np.arange(len(sites))).sum(axis=1)
    vectors = short_vectors(sites.rows[: sites.d])
    lattice = (np.abs(vectors @ turns[:, : sites.d, : sites.d] - vectors) < 0.5).all(axis=2).sum(axis=1)
    trace = np.round(np.trace(turns, axis1=1, axis2=2), 2)
    return np.lexsort([-lattice, -atoms, -trace, -np.round(np.linalg.det(turns)), np.arange(len(turns)) != one])


def _lifted(crystal: Primitive, turns: Floats, images: Integers, offsets: Integers) -> tuple[Integers, np.ndarray]:
    """Images of all atoms (H, N) from those of the sites of the primitive cell; whether the supercell is kept (H,)."""
    sites, supercell, classes = crystal.sites, crystal.supercell, crystal.classes
    n_cells = int(np.prod(np.diag(supercell)))
    if n_cells == 1:
        return images[:, classes], np.ones(len(turns), dtype=bool)
    steps = np.zeros(turns.shape, dtype=np.int64)
    steps[:, : sites.d, : sites.d] = np.round(turns[:, : sites.d, : sites.d])
    moved = supercell @ steps @ np.linalg.inv(supercell)
    is_kept: np.ndarray = np.all(np.abs(moved - np.round(moved)) < 1e-6, axis=(1, 2))
    cells = np.where(is_kept[:, None, None], offsets[:, classes] + crystal.places @ steps, crystal.places)
    table = np.empty(len(classes), dtype=np.int64)
    table[classes * n_cells + remainders(crystal.places, supercell)] = np.arange(len(classes))
    return table[images[:, classes] * n_cells + remainders(cells, supercell)], is_kept
