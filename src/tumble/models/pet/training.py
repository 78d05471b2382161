"""The fast path of PET for conservative training on a CPU: energies and their slopes, differentiable by the weights.

A loss on forces needs the derivative by the weights of a derivative by the positions. For a step along u of what the
network sees, the slopes' part of it is the rate at which the derivative of the energy by the weights changes. So one
pass with dual numbers v + ε d, whose inputs move along u, gives the derivatives of the whole loss: six matrix products
for each of the network, two of them over tangents, and no graph of thousands of small operations.
"""

import ctypes
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tumble import native
from tumble.models.pet import engine
from tumble.models.pet.edges import Graph
from tumble.models.pet.engine import SUFFIX, Weights
from tumble.models.pet.memory import Workspace, addresses
from tumble.models.pet.packing import Matrix
from tumble.models.pet.settings import PETSettings

SOURCE = Path(__file__).parent / "native" / "training.cpp"


class Slopes(NamedTuple):
    """Energies and the derivatives of their sum.

    energies:  (N,) what the head of the energy says, before scale and offset.
    of_inputs: (P, n_inputs).
    of_factor: (P,).
    """

    energies: Tensor
    of_inputs: Tensor
    of_factor: Tensor


def fits(settings: PETSettings, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this path knows the model and runs here; it is built at the first such question."""
    return engine.fits(settings, dtype, device) and native.library(SOURCE) is not None


def slopes(
    inputs: Tensor,
    factor: Tensor,
    node: Tensor,
    condition: Tensor | None,
    graph: Graph,
    folded: Sequence[Matrix | Tensor],
    weights: Weights,
) -> Slopes:
    """Energies and slopes, once differentiable by everything.

    Args:
        inputs: (P, n_inputs) what an edge sees.
        factor: (P,) weight of each pair.
        node: (N, d_node) embedding of every atom.
        condition: (N, d_node) added to every atom after each layer, or None.
        graph: who neighbours whom.
        folded: what `packing.folded` gives.
        weights: the same, by `pack`.
    """
    plain = [one.weight if isinstance(one, Matrix) else one for one in folded]
    kinds = tuple(isinstance(one, Matrix) for one in folded)
    return Slopes(*_Slopes.apply(inputs, factor, node, condition, (graph, weights, kinds), *plain))


class _Lease:
    """A piece of a workspace, given back when nobody can ask for it any more."""

    def __init__(self, workspace: Workspace, size: int, like: Tensor) -> None:
        self.workspace, self.memory = workspace, workspace.take(size, like)

    def __del__(self) -> None:
        self.workspace.give(self.memory)


class _Slopes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        factor: Tensor,
        node: Tensor,
        condition: Tensor | None,
        net: tuple[Graph, Weights, tuple[bool, ...]],
        *folded: Tensor,
    ) -> tuple[Tensor, ...]:
        graph, weights, are_matrices = net
        inputs, factor = inputs.detach().contiguous(), factor.detach().contiguous()
        shape = engine._shape(graph, weights._replace(has_head=True))
        atoms, pairs, width, d_node = shape.n_atoms, shape.n_pairs, shape.width, shape.d_node
        size = _function("size", inputs)(ctypes.byref(shape))
        scratch = 2 * (atoms * (d_node + 4 * width) + 2 * pairs * width)
        lease = _Lease(weights.workspace, 2 * size + scratch, inputs)
        condition = None if condition is None else condition.detach().contiguous()
        answer = inputs.new_empty(atoms), torch.zeros_like(inputs), torch.zeros_like(factor)
        data = [inputs, factor, node.detach().contiguous(), condition]
        this = engine.Call(shape, graph, weights, lease.memory)
        engine.call(_function("first", inputs), this, data, [*answer, lease.memory[2 * size :]])
        ctx.kept = (inputs, factor, graph, weights, lease, 2 * size, condition is not None)
        ctx.are_matrices, ctx.shapes = are_matrices, [one.shape for one in folded]
        return answer

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Any) -> Any:
        inputs, factor, graph, weights, lease, place, has_condition = ctx.kept
        shape = engine._shape(graph, weights._replace(has_head=True))
        atoms, d_node = shape.n_atoms, shape.d_node
        starts, total = _places(ctx.shapes)
        gradients = inputs.new_zeros(shape.n_threads, total)
        own = [gradients[0, start:] for start in starts]
        twice = [part for one, both in zip(own, ctx.are_matrices, strict=True) for part in [one, one][: 1 + both]]
        of_inputs, of_factor = torch.zeros_like(inputs), torch.zeros_like(factor)
        of_condition = inputs.new_zeros(atoms, d_node) if has_condition else None
        seeds, *along = (one.contiguous() for one in above)
        scratch = lease.memory[place:]
        data = [inputs, factor, *along, seeds]
        out = [of_inputs, of_factor, of_condition, scratch]
        this = engine.Call(shape, graph, weights, lease.memory)
        engine.call(_function("second", inputs), this, data, out, addresses(twice), ctypes.c_int64(total))
        of_node = scratch[atoms * d_node : 2 * atoms * d_node].view(atoms, d_node).clone()
        summed = gradients[0] if shape.n_threads == 1 else gradients.sum(0)
        parts = _cut(summed, starts, ctx.shapes, ctx.are_matrices)
        return of_inputs, of_factor, of_node, of_condition, None, *parts


def _places(shapes: Iterable[torch.Size]) -> tuple[list[int], int]:
    """Where in one array each gradient starts, on boundaries of cache lines, and how long the array is."""
    starts, total = [], 0
    for shape in shapes:
        starts.append(total)
        total += -(-shape.numel() // 16) * 16
    return starts, total


def _cut(summed: Tensor, starts: list[int], shapes: list[torch.Size], are_matrices: Iterable[bool]) -> list[Tensor]:
    """Gradients in the shapes of the folded weights; those of matrices come as (in, out)."""
    parts = []
    for start, shape, is_matrix in zip(starts, shapes, are_matrices, strict=True):
        flat = summed[start : start + shape.numel()]
        parts.append(flat.view(shape[1], shape[0]).mT if is_matrix else flat.view(shape))
    return parts


def _function(name: str, like: Tensor) -> Any:
    library = native.library(SOURCE)
    assert library is not None
    library.size32.restype = library.size64.restype = ctypes.c_int64
    return getattr(library, name + SUFFIX[like.dtype])
