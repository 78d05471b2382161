"""Pair potentials as TorchScript reads them: the formulas and weights of `tumble.models.pair`."""

# mypy: disable-error-code="no-untyped-call, no-any-return"

from typing import Tuple  # noqa: UP035  (TorchScript reads it)

import torch
from torch import Tensor, nn

from tumble.bridges.metatomic.program.seen import Exact, Said, Seen, nothing
from tumble.models.pair import COULOMB, ZBL, LennardJones, Morse


def shared(energies: Tensor, seen: Seen) -> Said:
    """Half of the energy of each pair, (P,), to its center."""
    by_atom = torch.zeros(len(seen.numbers), dtype=torch.float64, device=energies.device)
    by_atom = by_atom.index_add(0, seen.center, energies.double() / 2) * seen.counts
    return Said(by_atom, nothing(energies), nothing(energies), nothing(by_atom))


class LennardJonesPairs(nn.Module):
    """`LennardJones`."""

    table: Tensor
    epsilon: Tensor
    sigma: Tensor

    def __init__(self, source: LennardJones) -> None:
        super().__init__()
        for name in ("epsilon", "sigma"):
            self.register_buffer(name, getattr(source, name).detach().clone())
        self.cutoff, self.onset = source.cutoff, source.onset
        self.register_buffer("table", source._kind._table.clone())

    def forward(self, seen: Seen, has_direct: bool, has_features: bool) -> Said:
        """Energies of atoms."""
        kind = self.table[seen.numbers[seen.center], seen.numbers[seen.neighbor]]
        r2 = seen.vectors.square().sum(1)
        c6 = (self.sigma[kind].square() / r2) ** 3
        c, o = self.cutoff**2, self.onset**2
        taper = torch.where(r2 < o, torch.ones_like(r2), (c - r2) ** 2 * (c + 2 * r2 - 3 * o) / (c - o) ** 3)
        energies = 4 * self.epsilon[kind] * (c6 * c6 - c6) * taper
        return shared(torch.where(r2 < c, energies, torch.zeros_like(r2)), seen)


class MorsePairs(nn.Module):
    """`Morse`."""

    table: Tensor
    epsilon: Tensor
    r0: Tensor
    rho0: Tensor

    def __init__(self, source: Morse) -> None:
        super().__init__()
        for name in ("epsilon", "r0", "rho0"):
            self.register_buffer(name, getattr(source, name).detach().clone())
        self.cutoff, self.onset = source.cutoff, source.onset
        self.register_buffer("table", source._kind._table.clone())

    def forward(self, seen: Seen, has_direct: bool, has_features: bool) -> Said:
        """Energies of atoms."""
        kind = self.table[seen.numbers[seen.center], seen.numbers[seen.neighbor]]
        r = seen.vectors.square().sum(1).sqrt()
        x = torch.exp(self.rho0[kind] * (1 - r / self.r0[kind]))
        s = ((self.cutoff - r) / (self.cutoff - self.onset)).clamp(0, 1)
        return shared(self.epsilon[kind] * x * (x - 2) * s**3 * (10 + s * (6 * s - 15)), seen)


class ZBLPairs(nn.Module):
    """`ZBL`."""

    def __init__(self, source: ZBL) -> None:
        super().__init__()
        radii = torch.zeros(max(source._radii) + 1, dtype=torch.float64)
        radii[list(source._radii)] = torch.tensor(list(source._radii.values()), dtype=torch.float64)
        self.radii, self.heights, self.rates = (
            Exact(torch.as_tensor(one, dtype=torch.float64)) for one in (radii, source._C, source._D)
        )
        self.power, self.length, self.coulomb = source._P, source._A0, COULOMB

    def forward(self, seen: Seen, has_direct: bool, has_features: bool) -> Said:
        """Energies of atoms."""
        r = seen.vectors.double().square().sum(1).sqrt()
        zi, zj = seen.numbers[seen.center], seen.numbers[seen.neighbor]
        radii = self.radii(r)
        rc = radii[zi] + radii[zj]
        e, de, d2e = self.screened(rc, zi, zj)
        a = (-3 * de + rc * d2e) / rc**2
        b = (2 * de - rc * d2e) / rc**3
        c = -e + rc * de / 2 - rc**2 * d2e / 12
        energies = self.screened(r, zi, zj)[0] + a / 3 * r**3 + b / 4 * r**4 + c
        return shared(torch.where(r < rc, energies, torch.zeros_like(r)), seen)

    def screened(self, r: Tensor, zi: Tensor, zj: Tensor) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
        """Screened Coulomb energy and its first two derivatives by r, (P,)."""
        rates = self.rates(r) * (zi.to(r.dtype) ** self.power + zj.to(r.dtype) ** self.power)[:, None] / self.length
        terms = self.heights(r) * torch.exp(-rates * r[:, None])
        phi, dphi, d2phi = terms.sum(1), -(terms * rates).sum(1), (terms * rates**2).sum(1)
        charge = self.coulomb * zi.double() * zj
        return (
            charge * phi / r,
            charge * (dphi / r - phi / r**2),
            charge * (d2phi / r - 2 * dphi / r**2 + 2 * phi / r**3),
        )
