"""Torque at rest: the slope of the energy as a structure is turned. Space has no directions, so it should be zero."""

import torch
from torch import Tensor

from tumble.batch import Batch, turn
from tumble.potential import Direct, Gradient, Model, Potential, Sum, constant_weights, differentiable
from tumble.rotations import Rotations
from tumble.symmetry import Projected, Symmetrized

STEP = 1e-3
"""Radians, of finite differences."""


def torque(potential: Potential, batch: Batch) -> Tensor:
    """dE/dθ for an infinitesimal turn of atoms and cell about each lab axis.

    One backward pass where the energy is made of our models, central differences of small turns for a black box.

    Returns:
        (S, 3) eV/rad, float64.
    """
    if isinstance(potential, Gradient | Direct):
        return _from_model(potential.model, batch)
    if isinstance(potential, Sum):
        return torch.stack([torque(part, batch) for part in potential.parts]).sum(0)  # type: ignore[arg-type]
    if isinstance(potential, Projected):
        return torque(potential.inner, batch)
    if isinstance(potential, Symmetrized) and isinstance(potential.rotations, Rotations):
        rule = potential.rotations
        total = torch.zeros(batch.n_structures, 3, dtype=torch.float64, device=batch.cell.device)
        for Q, weight, sign in zip(rule.matrices, rule.weights.tolist(), rule.determinants.tolist(), strict=True):
            # A torque is a pseudovector: turned back like a force, and inverted once more where Q inverts.
            total += weight * sign * (torque(potential.inner, turn(batch, Q)) @ Q.to(total))
        return total
    return by_differences(potential, batch)


def by_differences(potential: Potential, batch: Batch, step: float = STEP) -> Tensor:
    """The same from the energies of structures turned by small angles, for any potential.

    Args:
        step: radians.

    Returns:
        (S, 3) eV/rad, float64.
    """
    slopes = []
    for axis in range(3):
        plus, minus = (potential(turn(batch, _small_turn(axis, sign * step))).energy for sign in (1, -1))
        assert plus is not None
        assert minus is not None
        slopes.append((plus - minus).double() / (2 * step))
    return torch.stack(slopes, 1)


def _from_model(model: Model, batch: Batch) -> Tensor:
    with torch.enable_grad(), constant_weights(True):
        seen = differentiable(batch, positions=model.sees_positions)
        leaves = [one for one in (seen.vectors, seen.positions, seen.cell) if one.requires_grad]
        total = model(seen).energies.sum() + sum(0.0 * leaf.sum() for leaf in leaves)
        slopes = torch.autograd.grad(total, leaves)
    rows = torch.arange(batch.n_structures, device=batch.cell.device).repeat_interleave(3)
    turned = torch.zeros(batch.n_structures, 3, dtype=torch.float64, device=batch.cell.device)
    # Under x -> x + θ k × x every pair vector does the same, so dE/dθ = Σ g·(k × v) = k·Σ v × g; and so do positions
    # and lattice vectors, where a model looks at them.
    for leaf, slope, owner in zip(leaves, slopes, (batch.structure[batch.center], batch.structure, rows), strict=False):
        each = torch.linalg.cross(leaf.detach().double().view(-1, 3), slope.double().view(-1, 3))
        turned = turned.index_add(0, owner, each)
    return turned


def _small_turn(axis: int, angle: float) -> Tensor:
    generator = torch.zeros(3, 3, dtype=torch.float64)
    generator[(axis + 2) % 3, (axis + 1) % 3] = angle
    generator[(axis + 1) % 3, (axis + 2) % 3] = -angle
    return torch.linalg.matrix_exp(generator)
