"""What an atom learns about atoms beyond every cutoff: Coulomb potentials of learned charges."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from tumble.batch import Batch, has_volume
from tumble.models.pet.edges import TINY
from tumble.models.pet.settings import PETSettings


class LongRangeFeatures(nn.Module):
    """Every channel of an atom's features becomes a charge; the potentials of these charges become features again.

        q_i = W Σ_l node_i,l / √L + b,   V_i = ½ Σ_j q_j (1 - f(r_ij)) / r_ij,   node_i,l ← (node_i,l + mlp(V_i)) / √2

    f goes from 1 to 0 at the cutoff: what is near is left to the edges. Periodic structures are summed by torch-pme.

    Source: Loche et al., J. Chem. Phys. 162, 142501 (2025), doi:10.1063/5.0251713.
    """

    def __init__(self, settings: PETSettings) -> None:
        super().__init__()
        self.settings, self.cutoff = settings.long_range, settings.cutoff
        width = settings.d_node
        self.charges_map = nn.Linear(width, width)
        self.out_projection = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self._calculators: dict[tuple[bool, torch.dtype, torch.device], Any] = {}
        self.training = False  # Only a potential that is put into training mode sums exactly, which the mesh is not.

    def forward(self, nodes: list[Tensor], batch: Batch) -> list[Tensor]:
        """Args:
        nodes: (N, d_node) of every layer that is read out.
        batch: with all pairs within the cutoff, also those that an adaptive cutoff leaves out.

        Returns:
            The same, with the long-range features added.

        Raises:
            ValueError: a structure that repeats along one direction only, or a slab without a cell around it.
            ImportError: torch-pme is missing.
        """
        _check_dimensions(batch)
        charges = self.charges_map(torch.stack(nodes).sum(0) / math.sqrt(len(nodes)))
        starts = _starts(batch.structure, batch.n_structures)
        pairs = _starts(batch.structure[batch.center], batch.n_structures)
        potentials = [
            self._potential(charges, batch, s, slice(*starts[s : s + 2]), slice(*pairs[s : s + 2]))
            for s in range(batch.n_structures)
        ]
        features = self.out_projection(torch.cat(potentials))
        return [(node + features) * math.sqrt(0.5) for node in nodes]

    def _potential(self, charges: Tensor, batch: Batch, s: int, atoms: slice, pairs: slice) -> Tensor:
        """Potentials at the atoms of structure s, (n, d_node)."""
        positions, pbc = batch.positions[atoms], batch.pbc[s]
        if not bool(pbc.any()):
            return direct(charges[atoms], positions, self.cutoff)
        cell = batch.cell[s]
        if int(pbc.sum()) == 2:
            frame = _slab_frame(cell, pbc)
            positions, cell = positions @ frame.mT, cell @ frame.mT
        return self._calculator(charges)(
            charges=charges[atoms],
            cell=cell,
            positions=positions,
            neighbor_indices=torch.stack([batch.center[pairs], batch.neighbor[pairs]], dim=1) - atoms.start,
            neighbor_distances=torch.sqrt(batch.vectors[pairs].square().sum(1) + TINY),
            periodic=pbc,
        )

    def _calculator(self, like: Tensor) -> Any:
        """Ewald sums in training, where meshes are unstable, else P3M; in the precision of the charges."""
        key = (self.training, like.dtype, like.device)
        if key not in self._calculators:
            self._calculators[key] = self._new_calculator().to(dtype=like.dtype, device=like.device)
        return self._calculators[key]

    def _new_calculator(self) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it prepares TorchScript, of which newer versions of torch complain
                from torchpme import CoulombPotential, EwaldCalculator, P3MCalculator
        except ImportError:
            raise ImportError(
                "this model has long-range features, which periodic structures need torch-pme for, and it is not "
                "installed. Run: pip install 'tumble[longrange]'"
            ) from None
        settings = self.settings
        potential = CoulombPotential(smearing=settings.smearing, exclusion_radius=self.cutoff)
        if self.training:
            return EwaldCalculator(potential, lr_wavelength=settings.kspace_resolution, full_neighbor_list=True)
        return P3MCalculator(
            potential,
            mesh_spacing=settings.kspace_resolution,
            interpolation_nodes=settings.interpolation_nodes,
            full_neighbor_list=True,
        )


def direct(charges: Tensor, positions: Tensor, cutoff: float) -> Tensor:
    """Half the Coulomb potential at every atom of a molecule, without what lies within the cutoff, (n, channels)."""
    square = (positions[:, None] - positions[None]).square().sum(-1)
    itself = torch.eye(len(positions), dtype=torch.bool, device=positions.device)
    distance = torch.sqrt(square.masked_fill(itself, 1.0))
    beyond = torch.where(distance < cutoff, (1 - torch.cos(torch.pi * distance / cutoff)) / 2, 1.0)
    return (beyond / distance).masked_fill(itself, 0.0) @ charges / 2


def _slab_frame(cell: Tensor, pbc: Tensor) -> Tensor:
    """Rotation that brings the normal of a slab onto the axis of its open direction, (3, 3).

    torch-pme takes the coordinate along that axis for the height above the slab, whatever the cell looks like. With the
    axes of the frame made of the cell, the answer does not depend on how the slab is turned.
    """
    axis = int((~pbc).nonzero()[0, 0])
    first, second = cell[(axis + 1) % 3], cell[(axis + 2) % 3]
    normal = torch.linalg.cross(first, second)
    rows = [torch.nn.functional.normalize(v, dim=0) for v in (normal, first, torch.linalg.cross(normal, first))]
    return torch.stack(rows).roll(axis, dims=0)


def _check_dimensions(batch: Batch) -> None:
    directions = batch.pbc.sum(1)
    if bool((directions == 1).any()):
        s = int((directions == 1).nonzero()[0, 0])
        raise ValueError(
            f"structure {s} repeats along one direction; long-range features exist for none, two and three. "
            "Give it a cell with vacuum and set pbc to True, or use a model without them."
        )
    flat = (directions == 2) & ~has_volume(batch)
    if bool(flat.any()):
        s = int(flat.nonzero()[0, 0])
        raise ValueError(
            f"structure {s} repeats along two directions, and its cell spans no volume; long-range features need "
            "vacuum above the slab. Give it a third lattice vector, as by atoms.center(vacuum=10, axis=2)."
        )


def _starts(structure: Tensor, n_structures: int) -> list[int]:
    """First row of each structure in a list that is sorted by structure, and the length of the list."""
    counts = torch.bincount(structure, minlength=n_structures)
    return [0, *torch.cumsum(counts, 0).tolist()]
