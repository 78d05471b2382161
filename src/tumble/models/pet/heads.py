"""Readouts of PET: per-atom numbers from the features of atoms and of their edges."""

import torch
from torch import Tensor, nn

from tumble.models.pet.edges import Edges
from tumble.models.pet.layers import mlp
from tumble.models.pet.settings import PETSettings


class Readout(nn.Module):
    """One target: per-atom numbers from the features of atoms and of their edges."""

    def __init__(self, settings: PETSettings, size: int) -> None:
        super().__init__()
        hidden = settings.d_head
        layers = range(settings.n_readouts)
        self.node_heads = nn.ModuleList(nn.Sequential(mlp(settings.d_node, hidden, hidden), nn.SiLU()) for _ in layers)
        self.edge_heads = nn.ModuleList(nn.Sequential(mlp(settings.d_pet, hidden, hidden), nn.SiLU()) for _ in layers)
        self.node_last = nn.ModuleList(nn.Linear(hidden, size) for _ in layers)
        self.edge_last = nn.ModuleList(nn.Linear(hidden, size) for _ in layers)

    def forward(self, features: list[tuple[Tensor, Tensor]], edges: Edges) -> Tensor:
        """Args:
        features: (N, d_node) and (P, d_pet) of every layer that is read out.

        Returns:
            (N, size).
        """
        total = torch.zeros(())
        for k, (node, edge) in enumerate(features):
            by_edge = self.edge_last[k](self.edge_heads[k](edge)) * edges.factor[:, None]
            by_node = self.node_last[k](self.node_heads[k](node)).to(by_edge.dtype)  # which autocast leaves coarser
            total = total.to(by_node) + by_node.index_add(0, edges.batch.center, by_edge)
        return total

    def last_layer_features(self, features: list[tuple[Tensor, Tensor]], edges: Edges) -> Tensor:
        """What the last linear layers see, (N, 2 n_readouts d_head): an atom's own, then the sum of its edges.

        Args:
            features: (N, d_node) and (P, d_pet) of every layer that is read out.
            edges: the interacting pairs.
        """
        parts: list[Tensor] = []
        for k, (node, edge) in enumerate(features):
            by_node, by_edge = self.node_heads[k](node), self.edge_heads[k](edge) * edges.factor[:, None]
            parts += [by_node, torch.zeros_like(by_node).index_add(0, edges.batch.center, by_edge)]
        return torch.cat(parts, dim=1)
