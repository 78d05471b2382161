"""The weights of a PET trunk as the engine reads them: folded, scaled and in its order."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from tumble.models.pet import engine
from tumble.models.pet.engine import Weights
from tumble.models.pet.heads import Readout
from tumble.models.pet.layers import FeedForward, MessagePassing, Transformer
from tumble.models.pet.memory import LINE, Workspace, addresses, room
from tumble.models.pet.settings import PETSettings


class Matrix(NamedTuple):
    """A weight matrix (out, in) that the engine multiplies by."""

    weight: Tensor


class Packing:
    """The packed weights of one trunk; packed again only when a weight has changed."""

    def __init__(self) -> None:
        """Nothing is packed yet."""
        self._of: tuple[tuple[int, int], ...] = ()
        self._weights: Weights | None = None
        self._parameters: tuple[nn.Parameter, ...] = ()
        self.for_training = Workspace()

    def __call__(self, trunk: nn.Module) -> Weights:
        """Weights of the modules `edge_embedder`, `gnn_layers`, `combination_*` and `readouts` of a PET."""
        if not self._parameters:
            self._parameters = tuple(trunk.parameters())  # walking through the modules takes longer than a layer
        now = tuple((one.data_ptr(), one._version) for one in self._parameters)
        if self._weights is None or now != self._of:
            with torch.no_grad():
                self._weights = packed(trunk, cast(PETSettings, trunk.settings))
            self._of = now
        return self._weights

    def __deepcopy__(self, memo: object) -> "Packing":
        return Packing()

    def __reduce__(self) -> tuple[type["Packing"], tuple[()]]:
        return Packing, ()


def packed(trunk: nn.Module, settings: PETSettings) -> Weights:
    """What `Weights` of native/memory.h lists, in that order: matrices packed both ways, the rest as it is."""
    return pack(folded(trunk, settings), settings, Workspace())


def pack(weights: Iterable[Matrix | Tensor], settings: PETSettings, workspace: Workspace) -> Weights:
    """The engine's weights from folded ones."""
    parts = list(weights)
    sizes = [engine.packed_sizes(one.weight) if isinstance(one, Matrix) else (one.numel(),) for one in parts]
    dtype = parts[0].weight.dtype if isinstance(parts[0], Matrix) else parts[0].dtype
    tensors = _side_by_side([size for of_one in sizes for size in of_one], dtype)
    places = iter(tensors)
    for one in parts:
        if isinstance(one, Matrix):
            engine.pack(one.weight.detach(), next(places), next(places))
        else:
            next(places).copy_(one.detach().reshape(-1))
    shape = {
        "width": settings.d_pet,
        "d_node": settings.d_node,
        "d_feedforward": settings.d_feedforward,
        "n_heads": settings.num_heads,
        "n_inputs": 4 + 4 * settings.edge_basis,
        "n_layers": settings.num_gnn_layers,
        "n_attention": settings.num_attention_layers,
        "is_wide": int(settings.d_node != settings.d_pet),
        "d_head": settings.d_head,
    }
    eps = torch.finfo(tensors[0].dtype).eps
    return Weights(tuple(tensors), shape, eps, workspace, addresses(tensors))


def _side_by_side(sizes: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
    """Room for tensors of these sizes in one piece of memory, each at the start of a cache line."""
    line = LINE // dtype.itemsize
    taken = [-(-size // line) * line for size in sizes]
    return [one[:size] for one, size in zip(room(sum(taken), dtype).split(taken), sizes, strict=True)]


def folded(trunk: nn.Module, settings: PETSettings) -> list[Matrix | Tensor]:
    """The weights in the engine's order, with all that can be multiplied beforehand; differentiable."""
    embedding = cast(nn.Embedding, trunk.edge_embedder).weight
    parts: list[Matrix | Tensor] = [embedding]
    gnn_layers = cast(Iterable[MessagePassing], trunk.gnn_layers)
    norms, mlps = cast(nn.ModuleList, trunk.combination_norms), cast(nn.ModuleList, trunk.combination_mlps)
    for passing, norm, mlp in zip(gnn_layers, norms, mlps, strict=True):
        by_inputs, table, by_messages, last, bias = passing.folded(embedding)
        parts += [Matrix(by_inputs), table, Matrix(by_messages), Matrix(last), bias]
        for layer in cast(Iterable[Transformer], passing.layers):
            parts += _transform(layer, settings)
        parts += _combination(cast(nn.LayerNorm, norm), cast(nn.Sequential, mlp))
    readout = cast(Readout, cast(nn.ModuleDict, trunk.readouts)["energy"])
    return parts + _head(readout.node_heads, readout.node_last) + _head(readout.edge_heads, readout.edge_last)


def _transform(layer: Transformer, settings: PETSettings) -> list[Matrix | Tensor]:
    """Attention and feedforward weights, the norms' gains inside; heads fastest among queries, keys and values."""
    attention, width = layer.attention, settings.d_pet
    order = torch.arange(width).view(settings.num_heads, -1).mT.reshape(-1)
    weight = attention.input_linear.weight * _gain(layer.norm_attention)
    parts, biases = weight.view(3, width, width)[:, order], attention.input_linear.bias.view(3, width)[:, order]
    scales = weight.new_tensor([attention.scale, 1.0, 1.0])
    tensors: list[Matrix | Tensor] = [
        Matrix((parts * scales[:, None, None]).reshape(3 * width, width)),
        (biases * scales[:, None]).reshape(-1),
        Matrix(attention.output_linear.weight[:, order]),
        attention.output_linear.bias,
        *_feedforward(layer.mlp, layer.norm_mlp),
    ]
    if layer.has_wide_node:
        for linear in (layer.center_contraction, layer.center_expansion):
            tensors += [Matrix(linear.weight), linear.bias]
        tensors += _feedforward(layer.center_mlp, layer.norm_center_features)
    return tensors


def _feedforward(mlp: FeedForward, norm: nn.Module) -> list[Matrix | Tensor]:
    first = Matrix(mlp.w_in.weight * _gain(norm))
    return [first, mlp.w_in.bias, Matrix(mlp.w_out.weight), mlp.w_out.bias]


def _combination(norm: nn.LayerNorm, mlp: nn.Sequential) -> list[Matrix | Tensor]:
    """The first map of both directions as maps of their half sum and half difference; see `combine` in trunk.h."""
    first, last = cast(nn.Linear, mlp[0]), cast(nn.Linear, mlp[2])
    own, other = (first.weight * norm.weight).chunk(2, dim=1)
    constant = first.bias + first.weight @ norm.bias
    matrices: list[Matrix | Tensor] = [Matrix((own + other) / 2), Matrix((own - other) / 2)]
    return [*matrices, (own + other).sum(1), constant, Matrix(last.weight), last.bias]


def _head(heads: nn.ModuleList, lasts: nn.ModuleList) -> list[Matrix | Tensor]:
    """The only layer's: two linear maps with SiLU after each, and the last one to a number."""
    first, _, second = cast(Iterable[nn.Linear], cast(nn.Sequential, heads[0])[0])
    last = cast(nn.Linear, lasts[0])
    return [Matrix(first.weight), first.bias, Matrix(second.weight), second.bias, last.weight, last.bias]


def _gain(norm: nn.Module) -> Tensor:
    return cast(Tensor, norm.weight)
