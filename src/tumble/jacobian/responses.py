"""Responses of the forces to small displacements of one structure: products with J = ∂F/∂x, without J itself."""

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from tumble.batch import Batch
from tumble.jacobian.displaced import Array, answers_at, rounding_of
from tumble.potential import Direct, Gradient, Potential, Sum, constant_weights

LEAST_STEP, LARGEST_STEP = 1e-4, 1e-2
"""Å, of differences of forces."""

SOFTNESS = 4e-3
"""Å⁴/eV, J over its second derivative, of a bond: with it, rounding and curvature weigh the same in a difference."""


class Graph:
    """Forces as a function of positions that autograd knows; what they are the gradient of is differentiated twice."""

    def __init__(self, positions: Tensor, direct: Tensor | None, derived: Tensor | None) -> None:
        """Args:
        positions: (N, 3) Å, a leaf.
        direct: (N, 3) eV/Å, forces of direct heads.
        derived: (N, 3) eV/Å, forces that are minus the derivative of an energy: their J is symmetric.
        """
        self._positions, self._derived = positions, derived
        self._direct = direct

    def along(self, v: Array) -> Array:
        """J v, (N, 3) eV/Å for a displacement (N, 3) Å."""
        total = self._product(self._derived, v)
        if self._direct is None or not self._direct.requires_grad:
            return total
        # Jᵀ w is linear in w, and the derivative of v · Jᵀ w by w is J v.
        w = torch.zeros_like(self._direct, requires_grad=True)
        (transposed,) = torch.autograd.grad(
            self._direct, self._positions, w, create_graph=True, allow_unused=True, materialize_grads=True
        )
        if not transposed.requires_grad:
            return total
        (found,) = torch.autograd.grad(
            transposed, w, torch.as_tensor(v).to(transposed), allow_unused=True, materialize_grads=True
        )
        return total + found.cpu().numpy()

    def against(self, v: Array) -> Array:
        """vᵀ J, (N, 3) eV/Å for a displacement (N, 3) Å."""
        return self._product(self._derived, v) + self._product(self._direct, v)

    def jacobian(self) -> Array:
        """J (3N, 3N) eV/Å², row by row."""
        n = self._positions.numel()
        units = np.eye(n).reshape(n, -1, 3)
        return np.stack([self.against(unit).ravel() for unit in units])

    def _product(self, forces: Tensor | None, v: Array) -> Array:
        if forces is None or not forces.requires_grad:
            return np.zeros(v.shape)
        (found,) = torch.autograd.grad(
            forces,
            self._positions,
            torch.as_tensor(v).to(forces),
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return np.asarray(found.cpu().numpy())


def graph_of(potential: Potential, batch: Batch) -> Graph | None:
    """The graph of Direct and of sums with it; None for what autograd does not see through, or not cheaply.

    Of several structures J is one block each.
    """
    if not _is_open(potential):
        return None
    positions = batch.positions.clone().requires_grad_()
    with torch.enable_grad(), constant_weights(False):
        moved = positions - batch.positions
        vectors = batch.vectors + moved[batch.neighbor] - moved[batch.center]
        direct, derived = _forces(potential, batch._replace(positions=positions, vectors=vectors))
    return Graph(positions, direct, derived)


def _is_open(potential: Potential) -> bool:
    if isinstance(potential, Sum):
        return all(_is_open(part) for part in potential.parts)  # type: ignore[arg-type]
    return isinstance(potential, Direct | Gradient)


def _forces(potential: Potential, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
    """Forces of direct heads, and those that are a derivative."""
    if isinstance(potential, Sum):
        columns = zip(*(_forces(part, batch) for part in potential.parts), strict=True)  # type: ignore[arg-type]
        known = [[one for one in column if one is not None] for column in columns]
        direct, derived = (torch.stack(column).sum(0) if column else None for column in known)
        return direct, derived
    assert isinstance(potential, Direct | Gradient)
    outputs = potential.model(batch)
    if isinstance(potential, Direct):
        return outputs.forces, None
    energy = outputs.energies.sum() + 0.0 * batch.positions.sum()  # an isolated atom has no pair
    return None, -torch.autograd.grad(energy, batch.positions, create_graph=True)[0]


class Differences:
    """J v by central differences of the forces of any potential: two calls each."""

    def __init__(self, potential: Potential, atoms: Atoms, rounding: float = 0.0) -> None:
        """Args:
        potential: any Potential, asked once here for the size of its forces.
        atoms: one structure.
        rounding: eV/Å, of a force component, where it is known to be larger than the last digits show.
        """
        self._potential, self._atoms = potential, atoms
        rest = answers_at(potential, atoms, np.zeros((1, len(atoms), 3)))[1]
        self.has_forces = rest is not None
        known = np.zeros(0) if rest is None else rest
        rounding = max(rounding, rounding_of(known))
        self.step = float(np.clip((SOFTNESS * rounding) ** (1 / 3), LEAST_STEP, LARGEST_STEP))
        self.noise = rounding / (2**0.5 * self.step)
        """eV/Å², of a component of J v, v of 1 Å a component."""

    def along(self, v: Array) -> Array:
        """J v, (K, N, 3) eV/Å for displacements (K, N, 3) Å, each scaled so that a component moves by the step."""
        scale = self.step / np.sqrt(np.square(v).mean((1, 2), keepdims=True))
        return self._slopes(v * scale) / scale

    def jacobian(self) -> Array:
        """J (3N, 3N) eV/Å², column by column."""
        n = len(self._atoms)
        columns = self._slopes(self.step * np.eye(3 * n).reshape(3 * n, n, 3)) / self.step
        return np.ascontiguousarray(columns.reshape(3 * n, 3 * n).T)

    def _slopes(self, moves: Array) -> Array:
        forces = answers_at(self._potential, self._atoms, np.concatenate([moves, -moves]))[1]
        assert forces is not None
        ahead, behind = np.split(forces, 2)
        return np.asarray((ahead - behind) / 2)
