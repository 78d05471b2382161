"""PET as one Model: Batch → per-atom energies, with optional direct heads for forces and stress."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tumble.batch import Batch, has_volume, volume
from tumble.models.pet import engine, training
from tumble.models.pet.conditioning import Conditioning
from tumble.models.pet.edges import Edges, edges_of, layout_of
from tumble.models.pet.heads import Readout
from tumble.models.pet.layers import MessagePassing, attention_bias, gather, mlp
from tumble.models.pet.long_range import LongRangeFeatures
from tumble.models.pet.packing import Packing, folded, pack
from tumble.models.pet.settings import PETSettings
from tumble.potential import Model, Outputs, weights_are_constant

Features = list[tuple[Tensor, Tensor]]
"""(N, d_node) and (P, d_pet) for every layer that is read out."""

EXACT = ("offsets", "energy_scale", "force_scale", "stress_scale")


@final
class PET(Model):
    """Point Edge Transformer: every directed pair is a token, every atom attends to its own pairs.

    What the network says is multiplied by scales and added to constant energies per element, so that it may be trained
    on numbers of order one:

        energy_i = offset[Z_i] + energy_scale y_i,   force_i = force_scale[Z_i] f_i,   stress = stress_scale s

    Source: Pozdnyakov, Ceriotti, arXiv:2305.19302; Bigi et al., arXiv:2601.16195.
    """

    lookup: Tensor
    offsets: Tensor
    energy_scale: Tensor
    force_scale: Tensor
    stress_scale: Tensor

    def __init__(self, species: Sequence[int], settings: PETSettings | dict[str, Any] | None = None) -> None:
        """Args:
        species: atomic numbers that it will know; kept in ascending order.
        settings: its shape; a dictionary of the same names, or None for the defaults.
        """
        super().__init__()
        if not species:
            raise ValueError("a PET of 0 species cannot answer anything. Give the atomic numbers it shall know.")
        settings = PETSettings(**settings) if isinstance(settings, dict) else settings or PETSettings()
        self.settings, self.cutoff = settings, settings.cutoff
        self.species: tuple[int, ...] = tuple(sorted({int(z) for z in species}))
        n = len(self.species)
        lookup = torch.full((max(self.species) + 1,), -1)
        lookup[list(self.species)] = torch.arange(n)
        self.register_buffer("lookup", lookup, persistent=False)
        self.register_buffer("offsets", torch.zeros(n, dtype=torch.float64))
        self.register_buffer("energy_scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("force_scale", torch.ones(n, dtype=torch.float64))
        self.register_buffer("stress_scale", torch.ones((), dtype=torch.float64))
        self.recompute = False
        """Whether training computes the activations of a layer twice instead of keeping them."""
        self._build(n)
        self._packing = Packing()

    def _build(self, n: int) -> None:
        settings, width = self.settings, self.settings.d_pet
        layers = range(settings.num_gnn_layers)
        self.node_embedders = nn.ModuleList(nn.Embedding(n, settings.d_node) for _ in range(settings.n_readouts))
        self.edge_embedder = nn.Embedding(n, width)
        self.gnn_layers = nn.ModuleList(
            MessagePassing(settings, n, 4 + 4 * settings.edge_basis, is_first=layer == 0) for layer in layers
        )
        if settings.featurizer_type == "feedforward":
            self.combination_norms = nn.ModuleList(nn.LayerNorm(2 * width) for _ in layers)
            self.combination_mlps = nn.ModuleList(mlp(2 * width, 2 * width, width) for _ in layers)
        self.system_conditioning = Conditioning(settings) if settings.system_conditioning else None
        self.long_range_featurizer = LongRangeFeatures(settings) if settings.long_range.enable else None
        sizes = {"energy": 1}
        if settings.direct_forces:
            sizes["forces"] = 3
        if settings.direct_stress:
            sizes["stress"] = 9
        self.readouts = nn.ModuleDict({name: Readout(settings, size) for name, size in sizes.items()})

    def forward(self, batch: Batch, *, direct: bool = True) -> Outputs:
        """Per-atom energies (N,) eV and, where the model has such heads, direct forces (N, 3) and stress (S, 3, 3).

        Args:
            batch: structures with the pairs within the cutoff.
            direct: whether to evaluate the direct heads.
        """
        kind = self.lookup[batch.numbers]
        edges, condition = self._edges(batch, kind), self._condition(batch)
        has_others = direct and len(self.readouts) > 1
        if edges.graph is not None and not has_others and self.long_range_featurizer is None:
            arguments = (self._inputs(edges), edges.factor, self._embedded(kind), condition, edges.graph)
            return Outputs(self._scaled(engine.energies(*arguments, self._packing(self)), kind))
        features = self._read(batch, edges, kind, condition)
        forces = stress = None
        if direct and "forces" in self.readouts:
            forces = self.readouts["forces"](features, edges)
            forces = forces * self.force_scale[kind, None].to(forces.dtype)
        if direct and "stress" in self.readouts:
            stress = self._stress(self.readouts["stress"](features, edges), batch)
        return Outputs(self._energies(features, edges, kind), forces, stress)

    def slopes(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Per-atom energies (N,) eV and the derivative of their sum by the vectors (P, 3) eV/Å, where an engine can."""
        if self.long_range_featurizer is not None or not _fits(self.settings, batch):
            return None
        return self._final_slopes(batch) if weights_are_constant() else self._learned_slopes(batch)

    def _final_slopes(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        if self.settings.edge_basis or not engine.finds_edges(self.settings):
            return None
        kind = self.lookup[batch.numbers]
        arguments = (kind, self.settings, self._embedded(kind), self._condition(batch), self._packing(self))
        energies, slope = engine.slopes(batch, *arguments)
        return self._scaled(energies, kind), slope * self.energy_scale.to(slope.dtype)

    def _learned_slopes(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        if not training.fits(self.settings, batch.vectors.dtype, batch.vectors.device):
            return None
        kind = self.lookup[batch.numbers]
        edges, condition = edges_of(batch, self.settings), self._condition(batch)
        inputs, node = self._inputs(edges), self.node_embedders[0](kind)
        graph, weights = engine.graph_of(edges.batch, kind), folded(self, self.settings)
        packed = pack(weights, self.settings, self._packing.for_training)
        arguments = (inputs, edges.factor, node, condition, graph, weights, packed)
        energies, *above = training.slopes(*arguments)
        above = [slope * self.energy_scale.to(slope.dtype) for slope in above]
        (slope,) = torch.autograd.grad([inputs, edges.factor], batch.vectors, above, create_graph=True)
        return self._scaled(energies, kind), slope

    def last_layer_features(self, batch: Batch) -> Tensor:
        """What the last linear layer of the energy sees of every atom, (N, n_last_features)."""
        return self.energies_and_features(batch)[1]

    def energies_and_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Per-atom energies (N,) eV and, from the same pass, `last_layer_features`."""
        kind = self.lookup[batch.numbers]
        edges = self._edges(batch, kind)
        features = self._read(batch, edges, kind, self._condition(batch))
        readout = cast(Readout, self.readouts["energy"])
        return self._energies(features, edges, kind), readout.last_layer_features(features, edges)

    def _energies(self, features: Features, edges: Edges, kind: Tensor) -> Tensor:
        return self._scaled(self.readouts["energy"](features, edges)[:, 0], kind)

    def _scaled(self, energies: Tensor, kind: Tensor) -> Tensor:
        return energies.double() * self.energy_scale + self.offsets[kind]

    def _edges(self, batch: Batch, kind: Tensor) -> Edges:
        """The interacting pairs; with their graph if the engine is to compute on them.

        It knows first derivatives by positions only, so it is not for whoever may want others.
        """
        is_final = weights_are_constant() or not torch.is_grad_enabled()
        is_fast = is_final and _fits(self.settings, batch)
        if is_fast and engine.finds_edges(self.settings):
            return engine.edges_of(batch, kind, self.settings)
        edges = edges_of(batch, self.settings)
        return edges._replace(graph=engine.graph_of(edges.batch, kind)) if is_fast else edges

    def _condition(self, batch: Batch) -> Tensor | None:
        return None if self.system_conditioning is None else self.system_conditioning(batch)

    def _embedded(self, kind: Tensor) -> Tensor:
        return cast(nn.Embedding, self.node_embedders[0]).weight.detach()[kind]

    def _read(self, batch: Batch, edges: Edges, kind: Tensor, condition: Tensor | None) -> Features:
        """The features that are read out, long range included."""
        features = self.features(edges, kind, condition)
        if self.long_range_featurizer is None:
            return features
        nodes = self.long_range_featurizer([node for node, _ in features], batch)
        return [(node, edge) for node, (_, edge) in zip(nodes, features, strict=True)]

    def features(self, edges: Edges, kind: Tensor, condition: Tensor | None = None) -> Features:
        """Features of atoms (N, d_node) and of pairs (P, d_pet), for every layer that is read out.

        Args:
            edges: the interacting pairs.
            kind: (N,) index of each atom's species.
            condition: (N, d_node) what is added to the features of atoms after every message-passing layer.
        """
        if edges.graph is not None:
            arguments = (self._inputs(edges), edges.factor, self._embedded(kind), condition, edges.graph)
            return [engine.trunk(*arguments, self._packing(self))]
        species = kind[edges.batch.neighbor]
        is_residual = self.settings.featurizer_type == "residual"
        layout, reverse = layout_of(edges.batch), edges.batch.reverse
        inputs, bias = self._inputs(edges), attention_bias(edges, layout)
        node, table = self.node_embedders[0](kind), self.edge_embedder.weight
        messages, opening = self.edge_embedder(species), None
        saved = []
        for layer, passing in enumerate(cast(Iterable[MessagePassing], self.gnn_layers)):
            if is_residual:
                node = self.node_embedders[layer](kind)
            run = partial(passing.whole, table, species, layout)
            if self.recompute and torch.is_grad_enabled():
                node, edge = checkpoint(run, opening, node, inputs, bias, use_reentrant=False)
            else:
                node, edge = run(opening, node, inputs, bias)
            if condition is not None:
                node = node + condition
            if is_residual:
                saved.append((node, edge))
                messages = 0.5 * (messages + gather(edge, reverse))
            else:
                both = self.combination_norms[layer](torch.cat([edge, gather(edge, reverse)], dim=1))
                messages = messages + edge + self.combination_mlps[layer](both)
            opening = messages
        return saved if is_residual else [(node, messages)]

    def _inputs(self, edges: Edges) -> Tensor:
        """What an edge sees, (P, 4 + 4 K): its vector and length, and K radial functions with their directions."""
        vectors, distance = edges.batch.vectors, edges.distance[:, None]
        plain = torch.cat([vectors, distance], dim=1)
        n_radial = self.settings.edge_basis
        if not n_radial:
            return plain
        waves = torch.arange(1, n_radial + 1, device=distance.device, dtype=distance.dtype) * (torch.pi / self.cutoff)
        radial = (2 / self.cutoff) ** 0.5 * torch.sin(waves * distance) / distance
        directed = radial[:, :, None] * (vectors / distance)[:, None, :]
        return torch.cat([plain, radial, directed.flatten(1)], dim=1)

    def _stress(self, by_atom: Tensor, batch: Batch) -> Tensor:
        by_atom = by_atom.view(-1, 3, 3) * self.stress_scale
        size = torch.where(has_volume(batch), volume(batch), torch.inf)
        total = by_atom.new_zeros(batch.cell.shape).index_add(0, batch.structure, by_atom) / size[:, None, None]
        return (total + total.mT) / 2

    @property
    def has_direct_forces(self) -> bool:
        """Whether there is a direct force head."""
        return self.settings.direct_forces

    @property
    def has_direct_heads(self) -> bool:
        """Whether there is a direct head of forces or of the stress."""
        return len(self.readouts) > 1

    @property
    def n_last_features(self) -> int:
        """How many numbers the last linear layer of the energy sees of an atom."""
        return 2 * self.settings.n_readouts * self.settings.d_head

    @property
    def sees_positions(self) -> bool:
        """Long-range features need absolute positions and cells."""
        return self.settings.long_range.enable

    def config(self) -> dict[str, object]:
        """Species and settings."""
        return {"species": list(self.species), "settings": self.settings.model_dump()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PET":
        # Totals are large and their differences small: the constants move with the model but never lose precision.
        exact = {name: getattr(self, name) for name in EXACT}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self


def _fits(settings: PETSettings, batch: Batch) -> bool:
    """Whether the compiled engine takes this batch; it knows one precision at a time."""
    device = batch.vectors.device
    return not torch.is_autocast_enabled(device.type) and engine.fits(settings, batch.vectors.dtype, device)
