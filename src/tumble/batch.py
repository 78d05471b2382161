"""Batch: structures as flat tensors with their neighbour pairs. Properties: what is known or predicted of them."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from tumble import neighbors

MINIMUM_DISTANCE = 0.1
"""Å. Two atoms closer than this are a broken file, not physics."""

UNCLEAR: Final = -(2**31)
"""Stands for a charge or spin multiplicity that is not a whole number; models that depend on it refuse it."""


class Batch(NamedTuple):
    """S structures, N atoms and P directed pairs in flat tensors.

    positions: (N, 3) Å.
    cell:      (S, 3, 3) Å, rows are lattice vectors; zero where a direction does not repeat and has no length.
    pbc:       (S, 3) bool.
    numbers:   (N,) int64 atomic numbers.
    structure: (N,) int64 index of the structure an atom belongs to, ascending.
    center:    (P,) int64 atom i of each pair, ascending.
    neighbor:  (P,) int64 atom j of each pair.
    shift:     (P, 3) lattice translations S of j, in the dtype of the vectors.
    reverse:   (P,) int64 position of the pair (j, i, -S).
    vectors:   (P, 3) Å, x_j - x_i + S @ cell.
    charge:    (S,) int64 total charge, e; 0 where `atoms.info` has no "charge".
    multiplicity: (S,) int64 2S + 1; 1 where `atoms.info` has neither "spin_multiplicity" nor "spin".
    """

    positions: Tensor
    cell: Tensor
    pbc: Tensor
    numbers: Tensor
    structure: Tensor
    center: Tensor
    neighbor: Tensor
    shift: Tensor
    reverse: Tensor
    vectors: Tensor
    charge: Tensor
    multiplicity: Tensor

    @property
    def n_structures(self) -> int:
        """S."""
        return self.cell.shape[0]

    @property
    def n_atoms(self) -> int:
        """N."""
        return self.positions.shape[0]

    @property
    def n_pairs(self) -> int:
        """P."""
        return self.center.shape[0]


class Properties(NamedTuple):
    """Energy, forces and stress of a batch, predicted or reference; a field that is not known is None.

    energy: (S,) eV, float64 always: totals are large and their differences small.
    forces: (N, 3) eV/Å, -dE/dx if conservative.
    stress: (S, 3, 3) eV/Å³, +(1/V) dE/dε; zero for a structure without a volume (see `has_volume`).

    An orbit adds a leading axis R to every field; `split` drops the axis S.
    """

    energy: Tensor | None = None
    forces: Tensor | None = None
    stress: Tensor | None = None


def collate(
    atoms: Sequence[Atoms],
    cutoff: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    search: neighbors.Search = neighbors.search,
) -> Batch:
    """Structures to one batch, their pairs searched once.

    Args:
        atoms: S structures.
        cutoff: Å.
        dtype: of positions, cells and vectors; vectors are formed in float64 first.
        search: `neighbors.search`, or a `neighbors.Verlet` that follows one structure through time.

    Raises:
        ValueError: no structure, no atom, NaN or infinite positions, a periodic cell without volume, overlapping atoms.
    """
    if len(atoms) == 0:
        raise ValueError("there is no structure to work on: 0 structures were given, at least 1 was expected.")
    for index, one in enumerate(atoms):
        check(one, f"structure {index}")
    pairs, apart = _search_all(atoms, cutoff, search)
    return assemble(atoms, pairs, apart, dtype=dtype, device=device)


def assemble(
    atoms: Sequence[Atoms],
    pairs: neighbors.Pairs,
    vectors: neighbors.Floats,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    names: Sequence[str] | None = None,
) -> Batch:
    """The second half of `collate`, for structures that were checked and searched already.

    Args:
        atoms: S structures.
        pairs: of all of them, their atoms counted through.
        vectors: (P, 3) Å, of the pairs.
        dtype: as in `collate`.
        device: as in `collate`.
        names: what errors call each structure; by default its index.

    Raises:
        ValueError: overlapping atoms.
    """
    _check_distances(atoms, pairs, vectors, names)

    def integers(values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.int64), device=device)

    def floats(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float64).to(device=device, dtype=dtype)

    return Batch(
        positions=floats(np.concatenate([one.positions for one in atoms])),
        cell=floats(np.stack([one.cell.array for one in atoms])),
        pbc=torch.as_tensor(np.stack([one.pbc for one in atoms]), device=device),
        numbers=integers(np.concatenate([one.numbers for one in atoms])),
        structure=integers(np.repeat(np.arange(len(atoms)), [len(one) for one in atoms])),
        center=integers(pairs.center),
        neighbor=integers(pairs.neighbor),
        shift=floats(pairs.shift),
        reverse=integers(pairs.reverse),
        vectors=floats(vectors),
        charge=integers([_whole(one.info.get("charge", 0)) for one in atoms]),
        multiplicity=integers([_whole(one.info.get("spin_multiplicity", one.info.get("spin", 1))) for one in atoms]),
    )


def split(properties: Properties, batch: Batch) -> list[Properties]:
    """One Properties per structure, on the CPU: energy (), forces (n, 3), stress (3, 3).

    The stress is None for a structure without a volume.
    """
    counts = torch.bincount(batch.structure, minlength=batch.n_structures).tolist()
    volumes = has_volume(batch).tolist()
    forces = None if properties.forces is None else properties.forces.detach().cpu().split(counts)
    return [
        Properties(
            None if properties.energy is None else properties.energy[index].detach().cpu(),
            None if forces is None else forces[index],
            None if properties.stress is None or not volumes[index] else properties.stress[index].detach().cpu(),
        )
        for index in range(batch.n_structures)
    ]


def concatenate(batches: Sequence[Batch]) -> Batch:
    """One batch of all structures of several, in order; their pairs are reused, not searched."""
    atoms = np.cumsum([0] + [b.n_atoms for b in batches]).tolist()
    pairs = np.cumsum([0] + [b.n_pairs for b in batches]).tolist()
    structures = np.cumsum([0] + [b.n_structures for b in batches]).tolist()
    offsets = {"structure": structures, "center": atoms, "neighbor": atoms, "reverse": pairs}

    def joined(name: str) -> Tensor:
        shifts = offsets.get(name, [0] * len(batches))
        parts = [getattr(one, name) for one in batches]
        return torch.cat([part + shift if shift else part for part, shift in zip(parts, shifts, strict=False)])

    return Batch(*(joined(name) for name in Batch._fields))


def to_atoms(batch: Batch) -> list[Atoms]:
    """The structures of a batch as ASE Atoms, in float64; a charge or a multiplicity other than 1 is in their info."""
    counts = torch.bincount(batch.structure, minlength=batch.n_structures).tolist()
    positions = batch.positions.detach().cpu().double().split(counts)
    numbers = batch.numbers.cpu().split(counts)
    cells, pbc = batch.cell.detach().cpu().double(), batch.pbc.cpu()
    charges, multiplicities = batch.charge.tolist(), batch.multiplicity.tolist()

    def info(s: int) -> dict[str, int]:
        known = {"charge": (charges[s], 0), "spin_multiplicity": (multiplicities[s], 1)}
        return {name: value for name, (value, usual) in known.items() if value not in (usual, UNCLEAR)}

    return [
        Atoms(numbers[s].numpy(), positions[s].numpy(), cell=cells[s].numpy(), pbc=pbc[s].numpy(), info=info(s))
        for s in range(batch.n_structures)
    ]


def copies(batch: Batch, n: int) -> Batch:
    """The same structures n times over, copy after copy: n S structures, nothing searched again."""
    device = batch.center.device
    of_atoms = torch.arange(n, device=device).repeat_interleave(batch.n_atoms) * batch.n_structures
    by_atoms = torch.arange(n, device=device).repeat_interleave(batch.n_pairs) * batch.n_atoms
    by_pairs = torch.arange(n, device=device).repeat_interleave(batch.n_pairs) * batch.n_pairs
    return Batch(
        positions=batch.positions.repeat(n, 1),
        cell=batch.cell.repeat(n, 1, 1),
        pbc=batch.pbc.repeat(n, 1),
        numbers=batch.numbers.repeat(n),
        structure=batch.structure.repeat(n) + of_atoms,
        center=batch.center.repeat(n) + by_atoms,
        neighbor=batch.neighbor.repeat(n) + by_atoms,
        shift=batch.shift.repeat(n, 1),
        reverse=batch.reverse.repeat(n) + by_pairs,
        vectors=batch.vectors.repeat(n, 1),
        charge=batch.charge.repeat(n),
        multiplicity=batch.multiplicity.repeat(n),
    )


def turn(batch: Batch, rotation: Tensor) -> Batch:
    """The batch with atoms, cells and pair vectors turned: x Qᵀ. Pairs stay what they are.

    Args:
        rotation: (3, 3) one orthogonal matrix for all structures, or (S, 3, 3) one for each.
    """
    turns = rotation.to(batch.positions).expand(batch.n_structures, 3, 3)
    by_atom, by_pair = turns[batch.structure], turns[batch.structure[batch.center]]
    return batch._replace(
        positions=_times(batch.positions, by_atom),
        cell=batch.cell @ turns.mT,
        vectors=_times(batch.vectors, by_pair),
    )


def turn_back(properties: Properties, rotation: Tensor, structure: Tensor) -> Properties:
    """Answers about a turned batch, brought back to the frame before the turn: E, F Q, Qᵀ S Q.

    Args:
        rotation: (3, 3) or (S, 3, 3), what `turn` was given.
        structure: (N,) index of each atom's structure.
    """
    forces, stress = properties.forces, properties.stress
    if forces is not None:
        turns = rotation.to(forces)
        forces = forces @ turns if turns.dim() == 2 else _times(forces, turns.mT[structure])
    if stress is not None:
        turns = rotation.to(stress)
        stress = turns.mT @ stress @ turns
    return Properties(properties.energy, forces, stress)


def strain(batch: Batch, epsilon: Tensor) -> Batch:
    """The batch under a strain: x (1 + ε), cell (1 + ε), v (1 + ε). Pairs stay what they are.

    Args:
        epsilon: (3, 3) for all structures, or (S, 3, 3) one for each.
    """
    deform = (torch.eye(3).to(batch.positions) + epsilon.to(batch.positions)).expand(batch.n_structures, 3, 3)
    return batch._replace(
        positions=torch.einsum("na,nab->nb", batch.positions, deform[batch.structure]),
        cell=batch.cell @ deform,
        vectors=torch.einsum("pa,pab->pb", batch.vectors, deform[batch.structure[batch.center]]),
    )


def select(batch: Batch, mask: Tensor) -> Batch:
    """The batch with only the pairs where the mask is true; it must treat a pair and its reverse alike.

    Args:
        mask: (P,) bool.
    """
    place = torch.cumsum(mask, 0) - 1
    return batch._replace(
        center=batch.center[mask],
        neighbor=batch.neighbor[mask],
        shift=batch.shift[mask],
        reverse=place[batch.reverse[mask]],
        vectors=batch.vectors[mask],
    )


def volume(batch: Batch) -> Tensor:
    """Volume of each cell, (S,) Å³; 0 for a structure whose cell spans none."""
    a, b, c = batch.cell.unbind(1)
    return (torch.linalg.cross(a, b) * c).sum(-1).abs()  # many times faster than a determinant


def has_volume(batch: Batch) -> Tensor:
    """Whether a structure has a stress, (S,) bool: something repeats, and the cell spans a volume (vacuum counts)."""
    return batch.pbc.any(1) & (volume(batch) > 1e-3)


def _whole(value: Any) -> int:
    """A number from `info` as an integer, or `UNCLEAR`: most models do not care, and must not fail for it."""
    try:
        number = float(np.asarray(value).item())
    except (TypeError, ValueError):
        return UNCLEAR
    return int(number) if number.is_integer() and abs(number) < -UNCLEAR else UNCLEAR


def _times(rows: Tensor, matrices: Tensor) -> Tensor:
    """Row n times the transpose of matrix n."""
    return torch.einsum("nb,nab->na", rows, matrices)


def check(atoms: Atoms, name: str) -> None:
    """Refuse a structure in which neighbours cannot be searched.

    Args:
        atoms: one structure.
        name: what errors call it, such as "structure 3".

    Raises:
        ValueError: no atom, NaN or infinite positions or cell, a periodic cell without volume.
    """
    positions, cell, pbc = atoms.positions, atoms.cell.array, atoms.pbc
    if len(atoms) == 0:
        raise ValueError(f"{name} has no atoms; at least one was expected. Remove it from the input.")
    if not np.isfinite(positions).all():
        bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
        raise ValueError(
            f"{name} has {len(bad)} atoms with NaN or infinite positions, the first is atom {bad[0]} at "
            f"{positions[bad[0]]} Å. Remove the structure or repair its file."
        )
    if not np.isfinite(cell).all():
        raise ValueError(
            f"{name} has a cell with NaN or infinite entries: {cell.tolist()}; finite numbers are needed. "
            "Repair its file."
        )
    if pbc.any() and (size := _periodic_measure(cell, pbc)) < 1e-3:
        raise ValueError(
            f"{name} is periodic along {''.join(np.array(list('abc'))[pbc])}, but its cell "
            f"{cell.tolist()} has no volume there ({size:.1e}). Give it a cell, or set pbc to False."
        )


def _search_all(
    atoms: Sequence[Atoms], cutoff: float, search: neighbors.Search
) -> tuple[neighbors.Pairs, neighbors.Floats]:
    """Pairs of all structures, their atoms counted through, and their vectors."""
    positions, cells = [one.positions for one in atoms], [one.cell.array for one in atoms]
    asked = list(zip(positions, cells, [one.pbc for one in atoms], strict=True))
    if search is neighbors.search:
        return neighbors.settle([neighbors.candidates(*one, cutoff) for one in asked], positions, cells, cutoff)
    if isinstance(search, neighbors.Verlet) and len(asked) == 1:
        return search.found(*asked[0], cutoff)
    parts = [search(*one, cutoff) for one in asked]
    apart = [neighbors.vectors(pairs, *one[:2]) for pairs, one in zip(parts, asked, strict=True)]
    if len(parts) == 1:
        return parts[0], apart[0]
    of_atoms = np.cumsum([0] + [len(one) for one in atoms])
    of_pairs = np.cumsum([0] + [len(pairs.center) for pairs in parts])
    moved = [
        neighbors.Pairs(pairs.center + n, pairs.neighbor + n, pairs.shift, pairs.reverse + p)
        for pairs, n, p in zip(parts, of_atoms, of_pairs, strict=False)
    ]
    return neighbors.Pairs(*(np.concatenate(column) for column in zip(*moved, strict=True))), np.concatenate(apart)


def _check_distances(
    atoms: Sequence[Atoms], pairs: neighbors.Pairs, vectors: neighbors.Floats, names: Sequence[str] | None
) -> None:
    distances2 = np.einsum("pa,pa->p", vectors, vectors)
    if not len(distances2) or distances2.min() >= MINIMUM_DISTANCE**2:
        return
    p = int(distances2.argmin())
    ends = np.cumsum([len(one) for one in atoms])
    index = int(np.searchsorted(ends, pairs.center[p], side="right"))
    first = ends[index] - len(atoms[index])
    raise ValueError(
        f"atoms {pairs.center[p] - first} and {pairs.neighbor[p] - first} of "
        f"{names[index] if names else f'structure {index}'} are {np.sqrt(distances2[p]):.4f} Å apart; "
        f"at least {MINIMUM_DISTANCE} Å was expected. Remove one of them, or check the cell and the periodicity."
    )


def _periodic_measure(cell: np.ndarray, pbc: np.ndarray) -> float:
    """Length, area or volume spanned by the periodic lattice vectors, in Å to that power."""
    if pbc.all():
        return abs(float(np.linalg.det(cell)))
    rows = cell[pbc]
    return float(np.sqrt(max(np.linalg.det(rows @ rows.T), 0.0)))
