"""PET as TorchScript reads it: the weights of `tumble.models.pet` in modules that know nothing of settings."""

# mypy: disable-error-code="no-untyped-call, no-any-return, operator"

from typing import List, Tuple, cast  # noqa: UP035  (TorchScript reads these)

import torch
from torch import Tensor, nn
from torch.nn import functional

from tumble.bridges.metatomic.program.edges import Cutoffs
from tumble.bridges.metatomic.program.seen import Exact, Layout, Said, Seen, layout_of, moved, nothing
from tumble.models.pet import PET
from tumble.models.pet.adapt import merged
from tumble.models.pet.conditioning import Conditioning
from tumble.models.pet.heads import Readout
from tumble.models.pet.layers import Attention, FeedForward, MessagePassing, Transformer


class Gated(nn.Module):
    """`FeedForward`, with the gate as a constant."""

    def __init__(self, source: FeedForward) -> None:
        super().__init__()
        self.is_gated = source.is_gated
        self.w_in, self.w_out = source.w_in, source.w_out

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        x = self.w_in(x)
        x = functional.glu(x, dim=-1) if self.is_gated else functional.silu(x)
        return self.w_out(x)


class Attending(nn.Module):
    """`Attention`."""

    def __init__(self, source: Attention) -> None:
        super().__init__()
        self.n_heads, self.scale = source.n_heads, source.scale
        self.input_linear, self.output_linear = source.input_linear, source.output_linear

    def forward(self, tokens: Tensor, bias: Tensor, layout: Layout) -> Tensor:
        """Args:
        tokens: (N + P, D).
        bias: (rows,) logarithm of the weight of each key; -inf for padding.
        """
        mapped = self.input_linear(tokens)
        padded = torch.zeros(layout.rows, mapped.shape[1], dtype=mapped.dtype, device=mapped.device)
        padded = padded.index_copy(0, layout.place, mapped)
        width = tokens.shape[1]
        answers: List[Tensor] = []  # noqa: UP006
        for row, n, length in layout.blocks:
            block = padded[row : row + n * length].view(n, length, 3, self.n_heads, width // self.n_heads)
            queries, keys, values = block.permute(2, 0, 3, 1, 4).unbind(0)
            logits = torch.matmul(queries * self.scale, keys.transpose(2, 3))
            logits = logits + bias[row : row + n * length].view(n, 1, 1, length)
            mixed = torch.matmul(torch.softmax(logits, -1), values)
            answers.append(mixed.transpose(1, 2).reshape(n * length, width))
        return self.output_linear(torch.cat(answers).index_select(0, layout.place))


class Transforming(nn.Module):
    """`Transformer`."""

    def __init__(self, source: Transformer) -> None:
        super().__init__()
        self.is_pre, self.has_wide_node = source.is_pre, source.has_wide_node
        self.attention, self.mlp = Attending(source.attention), Gated(source.mlp)
        self.norm_attention, self.norm_mlp = source.norm_attention, source.norm_mlp
        # TorchScript compiles both ways, so that both must be there.
        wide = source.has_wide_node
        self.center_contraction = source.center_contraction if wide else nn.Identity()
        self.center_expansion = source.center_expansion if wide else nn.Identity()
        self.norm_center_features = source.norm_center_features if wide else nn.Identity()
        self.center_mlp = Gated(source.center_mlp) if wide else nn.Identity()

    def forward(self, node: Tensor, edge: Tensor, bias: Tensor, layout: Layout) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        """Args:
        node: (N, d_node).
        edge: (P, d_pet).
        """
        n = node.shape[0]
        tokens = torch.cat([self.center_contraction(node), edge])
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


class Passing(nn.Module):
    """`MessagePassing` with what comes before and after it in its layer."""

    by_inputs: Tensor
    per_species: Tensor
    by_messages: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, model: PET, index: int) -> None:
        super().__init__()
        source = cast(MessagePassing, model.gnn_layers[index])
        self.is_residual, self.is_first = model.settings.featurizer_type == "residual", index == 0
        self.node_embedder = model.node_embedders[index if self.is_residual else 0]
        folded = [one.detach() for one in source.folded(model.edge_embedder.weight)]
        for name, value in zip(("by_inputs", "per_species", "by_messages", "weight", "bias"), folded, strict=True):
            self.register_buffer(name, value.clone())
        self.layers = nn.ModuleList(Transforming(cast(Transformer, one)) for one in source.layers)
        self.norm = nn.Identity() if self.is_residual else model.combination_norms[index]
        self.mlp = nn.Identity() if self.is_residual else model.combination_mlps[index]

    def forward(
        self, node: Tensor, messages: Tensor, inputs: Tensor, kind: Tensor, seen: Seen, bias: Tensor, layout: Layout
    ) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        """Features of atoms and edges behind the transformers; `kind` is that of each atom."""
        if self.is_residual or self.is_first:
            node = self.node_embedder(kind)
        hidden = torch.matmul(inputs, self.by_inputs.t()) + self.per_species[kind[seen.neighbor]]
        if not self.is_first:
            hidden = hidden + torch.matmul(messages, self.by_messages.t())
        edge = functional.linear(functional.silu(hidden), self.weight, self.bias)
        for layer in self.layers:
            node, edge = layer(node, edge, bias, layout)
        return node, edge

    def combined(self, messages: Tensor, edge: Tensor, reverse: Tensor) -> Tensor:
        """The messages of the next layer, (P, d_pet)."""
        back = edge.index_select(0, reverse)
        if self.is_residual:
            return 0.5 * (messages + back)
        return messages + edge + self.mlp(self.norm(torch.cat([edge, back], dim=1)))


class Head(nn.Module):
    """One layer of a `Readout`."""

    def __init__(self, source: Readout, layer: int) -> None:
        super().__init__()
        self.node_head, self.edge_head = source.node_heads[layer], source.edge_heads[layer]
        self.node_last, self.edge_last = source.node_last[layer], source.edge_last[layer]

    def forward(self, node: Tensor, edge: Tensor, factor: Tensor, center: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        """What is read out of every atom, (N, size), and what the last linear layers saw, (N, 2 d_head)."""
        by_node, by_edge = self.node_head(node), self.edge_head(edge)
        total = self.node_last(by_node).index_add(0, center, self.edge_last(by_edge) * factor[:, None])
        return total, torch.cat([by_node, torch.zeros_like(by_node).index_add(0, center, by_edge * factor[:, None])], 1)


class Reading(nn.Module):
    """`Readout`; without a source it says nothing."""

    def __init__(self, source: Readout | None) -> None:
        super().__init__()
        layers = [] if source is None else range(len(source.node_heads))
        self.heads = nn.ModuleList(Head(cast(Readout, source), layer) for layer in layers)

    def forward(
        self, nodes: list[Tensor], edges: list[Tensor], factor: Tensor, center: Tensor
    ) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        """(N, size) and (N, 2 n_readouts d_head)."""
        totals: List[Tensor] = []  # noqa: UP006
        features: List[Tensor] = []  # noqa: UP006
        for k, head in enumerate(self.heads):
            total, seen = head(nodes[k], edges[k], factor, center)
            totals.append(total)
            features.append(seen)
        return torch.stack(totals).sum(0), torch.cat(features, dim=1)


class Conditions(nn.Module):
    """`Conditioning`; without a source it says nothing."""

    def __init__(self, source: Conditioning | None) -> None:
        super().__init__()
        self.max_charge = 0 if source is None else source.max_charge
        self.max_multiplicity = 0 if source is None else source.max_multiplicity
        self.charge_embedding = nn.Embedding(1, 1) if source is None else source.charge_embedding
        self.multiplicity_embedding = nn.Embedding(1, 1) if source is None else source.spin_multiplicity_embedding
        self.project = nn.Identity() if source is None else source.project

    def forward(self, seen: Seen) -> Tensor:
        """What is added to the features of every atom, (N, d_node)."""
        charge, multiplicity = seen.charge, seen.multiplicity
        if bool((charge.abs() > self.max_charge).any()):
            raise ValueError(f"the charge of a structure is none that this model knows: at most {self.max_charge}")
        if bool(((multiplicity < 1) | (multiplicity > self.max_multiplicity)).any()):
            raise ValueError(
                f"the spin multiplicity of a structure is none that this model knows: 1 to {self.max_multiplicity}"
            )
        both = [self.charge_embedding(charge + self.max_charge), self.multiplicity_embedding(multiplicity - 1)]
        return self.project(torch.cat(both, dim=1))[seen.structure]


class Network(nn.Module):
    """A PET: energies of atoms and, where it has such heads, direct forces and stress."""

    lookup: Tensor

    def __init__(self, model: PET, dtype: torch.dtype) -> None:
        super().__init__()
        model = merged(model).to(dtype).requires_grad_(False)
        self.register_buffer("lookup", model.lookup)
        self.offsets, self.energy_scale = Exact(model.offsets), Exact(model.energy_scale)
        self.force_scale, self.stress_scale = Exact(model.force_scale), Exact(model.stress_scale)
        self.cutoffs = Cutoffs(model.settings)
        self.edge_embedder = model.edge_embedder
        self.layers = nn.ModuleList(Passing(model, index) for index in range(len(model.gnn_layers)))
        self.is_residual = model.settings.featurizer_type == "residual"
        self.is_conditioned = model.system_conditioning is not None
        self.conditions = Conditions(model.system_conditioning)
        readouts = {name: cast(Readout, one) for name, one in model.readouts.items()}
        self.has_forces, self.has_stress = "forces" in readouts, "stress" in readouts
        self.energy, self.forces, self.stress = (Reading(readouts.get(n)) for n in ("energy", "forces", "stress"))

    def forward(self, seen: Seen, has_direct: bool, has_features: bool) -> Said:
        """Args:
        seen: with at least the pairs within the cutoff.
        has_direct: whether to say what the direct heads say.
        has_features: whether to say what the last layer sees.
        """
        seen = moved(seen, seen.vectors.to(self.edge_embedder.weight.dtype))
        kind = self.lookup[seen.numbers]
        kept, inputs, factor = self.cutoffs(seen)
        nodes, edges = self.features(kept, inputs, factor, kind)
        last, features = self.energy(nodes, edges, factor, kept.center)
        energies = last[:, 0].double() * self.energy_scale(kind) + self.offsets(kind)[kind]
        forces = stress = nothing(inputs)
        if has_direct and self.has_forces:
            forces = self.forces(nodes, edges, factor, kept.center)[0]
            forces = forces * self.force_scale(kind).to(forces.dtype)[kind, None]
        if has_direct and self.has_stress:
            by_atom = self.stress(nodes, edges, factor, kept.center)[0]
            stress = self.summed(by_atom, seen)
        features = features.double() if has_features else nothing(energies)
        return Said(energies * seen.counts, forces, stress, features)

    def features(self, seen: Seen, inputs: Tensor, factor: Tensor, kind: Tensor) -> Tuple[List[Tensor], List[Tensor]]:  # noqa: UP006
        """Features of atoms and of pairs, for every layer that is read out."""
        n_atoms = len(seen.numbers)
        layout = layout_of(seen.center, n_atoms)
        weights = torch.log(factor.clamp(min=1e-15))
        keys = torch.cat([torch.zeros(n_atoms, dtype=weights.dtype, device=weights.device), weights])
        bias = torch.full((layout.rows,), -float("inf"), dtype=keys.dtype, device=keys.device)
        bias = bias.index_copy(0, layout.place, keys)
        condition = self.conditions(seen) if self.is_conditioned else nothing(inputs)
        messages, node = self.edge_embedder(kind[seen.neighbor]), nothing(inputs)
        nodes: List[Tensor] = []  # noqa: UP006
        edges: List[Tensor] = []  # noqa: UP006
        for layer in self.layers:
            node, edge = layer(node, messages, inputs, kind, seen, bias, layout)
            if self.is_conditioned:
                node = node + condition
            messages = layer.combined(messages, edge, seen.reverse)
            if self.is_residual:
                nodes.append(node)
                edges.append(edge)
        if not self.is_residual:
            nodes.append(node)
            edges.append(messages)
        return nodes, edges

    def summed(self, by_atom: Tensor, seen: Seen) -> Tensor:
        """The direct stress, (S, 3, 3), from what the head says of atoms, (N, 9)."""
        by_atom = by_atom.view(-1, 3, 3) * (self.stress_scale(by_atom) * seen.counts).to(by_atom.dtype)[:, None, None]
        total = torch.zeros(len(seen.volume), 3, 3, dtype=by_atom.dtype, device=by_atom.device)
        total = total.index_add(0, seen.structure, by_atom) / seen.volume.to(by_atom.dtype)[:, None, None]
        return (total + total.transpose(1, 2)) / 2
