"""The symmetry operations of each structure of a batch."""

import torch

from tumble.batch import Batch
from tumble.crystal import SpaceGroup, find_operations


def operations(batch: Batch, tolerance: float) -> list[SpaceGroup]:
    """One space group for each structure.

    Args:
        batch: S structures.
        tolerance: Å; larger where the batch is in a precision whose rounding exceeds it.

    Raises:
        ValueError: two atoms are closer than the tolerance.
    """
    counts = torch.bincount(batch.structure, minlength=batch.n_structures).tolist()
    numbers, positions = batch.numbers.cpu().split(counts), batch.positions.detach().cpu().split(counts)
    cells, pbc = batch.cell.detach().cpu(), batch.pbc.cpu()
    return [
        find_operations(
            numbers[s].numpy(),
            positions[s].double().numpy(),
            cells[s].double().numpy(),
            pbc[s].numpy(),
            max(tolerance, _rounding(positions[s], cells[s])),
        )
        for s in range(batch.n_structures)
    ]


def _rounding(*lengths: torch.Tensor) -> float:
    """Å by which a position may be off because of the precision it is stored in."""
    largest = max(float(length.abs().max()) for length in lengths)
    return 4 * torch.finfo(lengths[0].dtype).eps * largest
