"""The layers of PET on flat tokens: N atoms and P edges, padded only inside attention."""

import math
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tumble.models.pet.edges import Edges, Layout
from tumble.models.pet.settings import PETSettings

SMALLEST_WEIGHT = 1e-15


class _Gather(torch.autograd.Function):
    """x[index] where no index repeats: its derivative is then a copy, not a sum, and much faster."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        (index,) = ctx.saved_tensors
        return _Scatter.apply(slopes[0], index, ctx.rows), None, None


class _Scatter(torch.autograd.Function):
    """The opposite of `_Gather`: rows of x go to the given rows of a larger tensor of zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = x.shape[0]
        return x.new_zeros((rows, *x.shape[1:])).index_copy_(0, index, x)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        (index,) = ctx.saved_tensors
        return _Gather.apply(slopes[0], index, ctx.rows), None, None


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x at the given places, none of which repeats."""
    result: Tensor = _Gather.apply(x, index, x.shape[0])
    return result


def scatter(x: Tensor, index: Tensor, rows: int) -> Tensor:
    """Rows of x at the given places of a tensor of zeros with that many rows; no place repeats."""
    result: Tensor = _Scatter.apply(x, index, rows)
    return result


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    layers: list[nn.Module] = []
    for left, right in pairwise(widths):
        layers += [nn.Linear(left, right), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def norm(settings: PETSettings, width: int) -> nn.Module:
    """The normalisation that the settings name."""
    return nn.RMSNorm(width) if settings.normalization == "RMSNorm" else nn.LayerNorm(width)


class FeedForward(nn.Module):
    """Two linear maps with SwiGLU (value x sigmoid(gate)) or SiLU between them."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.is_gated = activation == "SwiGLU"
        self.w_in = nn.Linear(width, 2 * hidden if self.is_gated else hidden)
        self.w_out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        x = self.w_in(x)
        x = functional.glu(x, dim=-1) if self.is_gated else functional.silu(x)
        return self.w_out(x)


class Attention(nn.Module):
    """Self-attention among the tokens of each atom's own sequence, weighted by the cutoff factor of the keys."""

    def __init__(self, settings: PETSettings) -> None:
        super().__init__()
        self.n_heads = settings.num_heads
        self.scale = 1 / (math.sqrt(settings.d_pet // settings.num_heads) * settings.attention_temperature)
        self.input_linear = nn.Linear(settings.d_pet, 3 * settings.d_pet)
        self.output_linear = nn.Linear(settings.d_pet, settings.d_pet)

    def forward(self, tokens: Tensor, bias: Tensor, layout: Layout) -> Tensor:
        """Args:
        tokens: (N + P, D).
        bias: (rows,) logarithm of the weight of each key; -inf for padding.
        """
        padded = scatter(self.input_linear(tokens), layout.place, layout.rows)
        answers = [self._block(padded, bias, block) for block in layout.blocks]
        return self.output_linear(gather(torch.cat(answers) if len(answers) > 1 else answers[0], layout.place))

    def _block(self, padded: Tensor, bias: Tensor, block: tuple[int, int, int]) -> Tensor:
        row, n, length = block
        width = padded.shape[1] // 3
        queries, keys, values = (
            padded[row : row + n * length]
            .view(n, length, 3, self.n_heads, width // self.n_heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        logits = (queries * self.scale) @ keys.mT + bias[row : row + n * length].view(n, 1, 1, length)
        mixed = torch.softmax(logits, -1) @ values
        return mixed.transpose(1, 2).reshape(n * length, width)


class Transformer(nn.Module):
    """One transformer layer: attention, then a feedforward network, for edges and (in its own width) for the atom."""

    def __init__(self, settings: PETSettings) -> None:
        super().__init__()
        width, d_node = settings.d_pet, settings.d_node
        self.is_pre = settings.transformer_type == "PreLN"
        self.attention = Attention(settings)
        self.norm_attention = norm(settings, width)
        self.norm_mlp = norm(settings, width)
        self.mlp = FeedForward(width, settings.d_feedforward, settings.activation)
        self.has_wide_node = d_node != width
        if self.has_wide_node:
            self.center_contraction = nn.Linear(d_node, width)
            self.center_expansion = nn.Linear(width, d_node)
            self.norm_center_features = norm(settings, d_node)
            self.center_mlp = FeedForward(d_node, 2 * d_node, settings.activation)

    def forward(self, node: Tensor, edge: Tensor, bias: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Args:
        node: (N, d_node).
        edge: (P, d_pet).
        """
        n = node.shape[0]
        center = self.center_contraction(node) if self.has_wide_node else node
        tokens = torch.cat([center, edge])
        if self.is_pre:
            mixed = self.attention(self.norm_attention(tokens), bias, layout)
            center, edge = mixed[:n], edge + mixed[n:]
            edge = edge + self.mlp(self.norm_mlp(edge))
        else:
            tokens = self.norm_attention(tokens + self.attention(tokens, bias, layout))
            tokens = self.norm_mlp(tokens + self.mlp(tokens))
            center, edge = tokens[:n], tokens[n:]
        if not self.has_wide_node:
            return center, edge
        node = node + self.center_expansion(center)
        return node + self.center_mlp(self.norm_center_features(node)), edge


class MessagePassing(nn.Module):
    """One message-passing layer: form the tokens of every edge, then transform each atom's sequence."""

    def __init__(self, settings: PETSettings, n_species: int, n_inputs: int, *, is_first: bool) -> None:
        super().__init__()
        width = settings.d_pet
        self.edge_embedder = nn.Linear(n_inputs, width)
        self.neighbor_embedder = None if is_first else nn.Embedding(n_species, width)
        self.compress = mlp((2 if is_first else 3) * width, width, width)
        self.layers = nn.ModuleList(Transformer(settings) for _ in range(settings.num_attention_layers))

    def forward(self, node: Tensor, edge: Tensor, bias: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Args:
        node: (N, d_node).
        edge: (P, d_pet), from `tokens`.
        bias: (rows,) attention bias.
        """
        for layer in self.layers:
            node, edge = layer(node, edge, bias, layout)
        return node, edge

    def whole(
        self, table: Tensor, species: Tensor, layout: Layout,
        messages: Tensor | None, node: Tensor, inputs: Tensor, bias: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Features of atoms and edges behind this layer; arguments as in `tokens` and `forward`."""
        return self(node, self.tokens(messages, table, inputs, species), bias, layout)

    def tokens(self, messages: Tensor | None, table: Tensor, inputs: Tensor, species: Tensor) -> Tensor:
        """Edge tokens before attention, (P, d_pet).

        Args:
            messages: (P, d_pet), or None in the first layer, where the messages are rows of the table.
            table: (species, d_pet) embedding of the neighbour that opens the first layer.
            inputs: (P, n_inputs) what an edge sees.
            species: (P,) species index of the neighbour.

        The first linear map after the embeddings is applied to the embedding matrices instead of to every edge:
        the same numbers for a tenth less arithmetic.
        """
        by_inputs, per_species, by_messages, *_ = self.folded(table)
        hidden = inputs @ by_inputs.mT + per_species[species]
        if messages is not None:
            hidden = hidden + messages @ by_messages.mT
        return self.compress[2](self.compress[1](hidden))

    def folded(self, table: Tensor) -> list[Tensor]:
        """What `tokens` multiplies by: (D, n_inputs), (species, D), (D, D) for messages, and its last weight and bias.

        Args:
            table: (species, d_pet) embedding of the neighbour that opens the first layer.
        """
        first, last = cast(nn.Linear, self.compress[0]), cast(nn.Linear, self.compress[2])
        blocks = first.weight.split(self.edge_embedder.out_features, dim=1)
        constant = first.bias + blocks[0] @ self.edge_embedder.bias
        by_species = table if self.neighbor_embedder is None else self.neighbor_embedder.weight
        # In the first layer the messages are embeddings too, so that nothing is left to multiply them by.
        per_species = by_species @ blocks[1].mT + constant
        return [blocks[0] @ self.edge_embedder.weight, per_species, blocks[-1], last.weight, last.bias]


def attention_bias(edges: Edges, layout: Layout) -> Tensor:
    """Logarithm of the weight of every key, (rows,): 0 for atoms, log of the factor for edges, -inf for padding."""
    n_atoms = edges.batch.n_atoms
    weights = torch.log(edges.factor.clamp(min=SMALLEST_WEIGHT))
    keys = torch.cat([weights.new_zeros(n_atoms), weights])
    padding = torch.full((layout.rows,), -torch.inf, dtype=keys.dtype, device=keys.device)
    padding[layout.place] = 0.0
    return scatter(keys, layout.place, layout.rows) + padding
