"""How uncertain energies are: LLPR as TorchScript reads it."""

# mypy: disable-error-code="no-any-return"

import torch
from torch import Tensor, nn

from tumble.bridges.metatomic.program.seen import Exact
from tumble.models.pet import LLPR


class Certainty(nn.Module):
    """Standard deviations from sums of features, by the covariance of the training set or by trained members."""

    def __init__(self, source: LLPR) -> None:
        super().__init__()
        self.are_trained = bool(source.are_trained)
        members = source.members - source.members.mean(0) if self.are_trained else source.members[:0]
        self.members, self.multiplier = Exact(members), Exact(source.multiplier)
        self.cholesky = Exact(source.cholesky[:0] if self.are_trained else source.cholesky)

    def forward(self, rows: Tensor) -> Tensor:
        """Standard deviations (n,) eV of energies with these features, (n, F)."""
        if self.are_trained:
            members = self.members(rows)
            apart = torch.matmul(members, rows.t()) / float(len(members) - 1) ** 0.5
        else:
            apart = self.multiplier(rows) * torch.linalg.solve_triangular(self.cholesky(rows), rows.t(), upper=False)
        return torch.linalg.vector_norm(apart, dim=0)
