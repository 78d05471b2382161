"""What a program sees of structures, and what its parts say."""

# mypy: disable-error-code="no-untyped-call, no-any-return"

from typing import List, NamedTuple, Tuple  # noqa: UP035  (TorchScript reads these)

import torch
from torch import Tensor, nn


class Seen(NamedTuple):
    """S structures, N atoms and P directed pairs.

    vectors:      (P, 3) Å; what energies are differentiated by.
    center:       (P,) atom i of each pair, ascending.
    neighbor:     (P,) atom j of each pair.
    reverse:      (P,) position of the pair (j, i, -S).
    structure:    (N,) of each atom, ascending.
    numbers:      (N,) atomic numbers.
    counts:       (N,) float64, 1 for atoms whose energy is asked for, else 0.
    charge:       (S,) e.
    multiplicity: (S,) 2S + 1.
    volume:       (S,) float64 Å³, infinite where nothing repeats.
    is_whole:     whether only sums over structures are asked for, and not the energies of atoms.
    """

    vectors: Tensor
    center: Tensor
    neighbor: Tensor
    reverse: Tensor
    structure: Tensor
    numbers: Tensor
    counts: Tensor
    charge: Tensor
    multiplicity: Tensor
    volume: Tensor
    is_whole: bool


class Said(NamedTuple):
    """What a part says; what was not asked for is empty.

    energies: (N,) eV, float64; 0 for atoms that do not count.
    forces:   (N, 3) eV/Å, direct.
    stress:   (S, 3, 3) eV/Å³, direct.
    features: (N, F) of the last layer, float64.
    """

    energies: Tensor
    forces: Tensor
    stress: Tensor
    features: Tensor


class Exact(nn.Module):
    """A float64 constant that stays one when the program is moved to another precision.

    It is no buffer: what moves a module moves its buffers, and would round it.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value.detach().cpu().double().clone()

    def forward(self, like: Tensor) -> Tensor:
        """The constant, where another tensor is."""
        return self.value.to(like.device)


def nothing(like: Tensor) -> Tensor:
    """What stands for an answer that was not asked for."""
    return torch.zeros(0, dtype=like.dtype, device=like.device)


def moved(seen: Seen, vectors: Tensor) -> Seen:
    """The same pairs with other vectors."""
    return Seen(
        vectors,
        seen.center,
        seen.neighbor,
        seen.reverse,
        seen.structure,
        seen.numbers,
        seen.counts,
        seen.charge,
        seen.multiplicity,
        seen.volume,
        seen.is_whole,
    )


def counted(seen: Seen, counts: Tensor) -> Seen:
    """The same with other atoms that count."""
    return Seen(
        seen.vectors,
        seen.center,
        seen.neighbor,
        seen.reverse,
        seen.structure,
        seen.numbers,
        counts,
        seen.charge,
        seen.multiplicity,
        seen.volume,
        seen.is_whole,
    )


def only(seen: Seen, mask: Tensor) -> Seen:
    """The pairs where the mask is true; it treats a pair and its reverse alike."""
    if bool(mask.all()):
        return seen
    place = torch.cumsum(mask, 0) - 1
    kept = mask.nonzero()[:, 0]
    return Seen(
        seen.vectors.index_select(0, kept),
        seen.center[kept],
        seen.neighbor[kept],
        place[seen.reverse[kept]],
        seen.structure,
        seen.numbers,
        seen.counts,
        seen.charge,
        seen.multiplicity,
        seen.volume,
        seen.is_whole,
    )


def copied(seen: Seen, vectors: Tensor) -> Seen:
    """The structures several times over, copy after copy.

    Args:
        seen: once.
        vectors: (n, P, 3) of every copy.
    """
    n = vectors.shape[0]
    copy = torch.arange(n, device=vectors.device)[:, None]
    n_atoms, n_pairs, n_structures = len(seen.numbers), len(seen.center), len(seen.volume)
    return Seen(
        vectors.reshape(-1, 3),
        (seen.center[None] + copy * n_atoms).reshape(-1),
        (seen.neighbor[None] + copy * n_atoms).reshape(-1),
        (seen.reverse[None] + copy * n_pairs).reshape(-1),
        (seen.structure[None] + copy * n_structures).reshape(-1),
        seen.numbers.repeat(n),
        seen.counts.repeat(n),
        seen.charge.repeat(n),
        seen.multiplicity.repeat(n),
        seen.volume.repeat(n),
        seen.is_whole,
    )


def per_structure(values: Tensor, seen: Seen) -> Tensor:
    """Sums over the atoms of each structure, (S, ...)."""
    shape = [len(seen.volume)] + list(values.shape[1:])  # noqa: RUF005  (TorchScript knows no other)
    return torch.zeros(shape, dtype=values.dtype, device=values.device).index_add(0, seen.structure, values)


def forces_and_stress(slope: Tensor, seen: Seen) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """Forces (N, 3) and stress (S, 3, 3) from the derivative of the energy by the vectors, (P, 3)."""
    forces = torch.zeros(len(seen.numbers), 3, dtype=slope.dtype, device=slope.device)
    forces = forces.index_add(0, seen.center, slope).index_add(0, seen.neighbor, -slope)
    by_pair = seen.vectors.detach()[:, :, None] * slope[:, None, :]
    virial = torch.zeros(len(seen.volume), 3, 3, dtype=slope.dtype, device=slope.device)
    virial = virial.index_add(0, seen.structure[seen.center], by_pair)
    return forces, (virial + virial.transpose(1, 2)) / (2 * seen.volume.to(slope.dtype)[:, None, None])


class Layout(NamedTuple):
    """Sequences (an atom, then its pairs) packed into few padded blocks of similar length.

    place:  (N + P,) row of each token; the N atoms come first.
    rows:   total number of rows, padding included.
    blocks: (first row, sequences, length) of each block.
    """

    place: Tensor
    rows: int
    blocks: List[Tuple[int, int, int]]  # noqa: UP006


def layout_of(center: Tensor, n_atoms: int) -> Layout:
    """Rows for every token; within a block lengths differ by at most a third."""
    counts = torch.bincount(center, minlength=n_atoms)
    starts = torch.cumsum(counts, 0) - counts
    slot = torch.arange(len(center), device=center.device) - starts[center] + 1
    lengths = counts + 1
    grade = torch.floor(torch.log(lengths.double()) / 0.28768207245178085).long()  # log(4/3)
    first = torch.zeros_like(lengths)
    blocks: List[Tuple[int, int, int]] = []  # noqa: UP006
    row = 0
    for value in range(int(grade.max()) + 1 if n_atoms > 0 else 0):
        members = (grade == value).nonzero()[:, 0]
        n = len(members)
        if n > 0:
            length = int(lengths[members].max())
            first[members] = row + torch.arange(n, device=center.device) * length
            blocks.append((row, n, length))
            row += n * length
    return Layout(torch.cat([first, first[center] + slot]), row, blocks)
