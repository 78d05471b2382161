"""Residual: what averaging over a rule leaves of the spread, from an orbit that has already been measured."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tumble.batch import Properties
from tumble.orbit.orbit import Orbit
from tumble.rotations import Rotations

UNSEEN = 8
"""Channels above the highest resolved one that are looked at for what a rule could leave of the unresolved variance."""


def residual(orbit: Orbit, rule: Rotations) -> Properties:
    """The spread that remains of the mean over a rule, as a root mean square over the orientations of the structure.

        left² = Σ_rs w_r w_s f(Q_r)·f(Q_s) Σ_g w_g Σ_ℓσ (2ℓ+1) χ_ℓσ(g Q_r Q_s⁻¹) + share × unresolved variance

    For a group of elements g the first part is exact in the channels that the measuring rule resolves: it knows how the
    anisotropy of the potential lies with respect to the axes of the group. Another rule is taken to lie at random. Of
    the unresolved variance, the worst share of the next `UNSEEN` channels is assumed.

    Args:
        orbit: over a measuring rule. One of degree 6 or more resolves the lowest channels; what it does not resolve is
            in the estimate as a bound.
        rule: what would be averaged over.

    Returns:
        energy (S,) eV, forces (N,) eV/Å, stress (S,) eV/Å³, norms over components.

    Raises:
        ValueError: the rule of the orbit has inverted nodes without opposites.
    """
    orbit.check_parity()
    l_max = orbit.resolves
    fold = _Fold.of(orbit.rotations)
    everything = _kernels(fold, Rotations.parse("none"), l_max)
    kept = _kernels(fold, rule, l_max)
    shares = rule.residuals(l_max + UNSEEN)[:, l_max + 1 :] / (2 * torch.arange(l_max + 1, l_max + UNSEEN + 1) + 1)
    worst = float(shares.clamp(min=0).max())

    def left(field: Tensor | None) -> Tensor | None:
        if field is None:
            return None
        parts = fold.parts(field)
        variance = sum(torch.einsum("r,rmc->m", fold.weights, part.square()) for part in parts)
        resolved, inside = (_power(fold, parts, kernels) for kernels in (everything, kept))
        # High channels that the nodes take for low ones are missing here, in proportion to the low ones there are.
        rest = (variance - resolved).clamp(min=0) / fold.share_left(l_max)
        return (inside.clamp(min=0) + worst * torch.minimum(rest, torch.as_tensor(variance))).sqrt()

    return Properties(*(left(field) for field in orbit.properties))


class _Fold(NamedTuple):
    """The proper nodes of a rule, which see the even and the odd part of an answer.

    proper:   (n,) indices of the proper nodes.
    opposite: (n,) indices of their inverted copies; None if the rule has none.
    matrices: (n, 3, 3).
    weights:  (n,) summing to 1.
    """

    proper: Tensor
    opposite: Tensor | None
    matrices: Tensor
    weights: Tensor

    @classmethod
    def of(cls, rule: Rotations) -> "_Fold":
        proper = torch.nonzero(rule.determinants > 0)[:, 0]
        opposite = rule.opposite()
        weights = rule.weights[proper]
        return cls(
            proper, None if opposite is None else opposite[proper], rule.matrices[proper], weights / weights.sum()
        )

    def parts(self, field: Tensor) -> list[Tensor]:
        """The field (R, M, ...) less its mean, as its even and, where known, its odd part (n, M, components)."""
        field = field.detach().cpu()
        field = field.reshape(len(field), field.shape[1], -1)
        if self.opposite is None:
            even = [field[self.proper]]
        else:
            there, back = field[self.proper], field[self.opposite]
            even = [(there + back) / 2, (there - back) / 2]
        even[0] = even[0] - torch.einsum("r,rmc->mc", self.weights, even[0])
        return even

    def share_left(self, l_max: int) -> float:
        """Of the values at the nodes, the share of dimensions that channels up to l_max do not take."""
        taken = sum((2 * ell + 1) ** 2 for ell in range(l_max + 1))
        return max(0.1, 1 - taken / len(self.weights))


def _power(fold: _Fold, parts: list[Tensor], kernels: list[Tensor]) -> Tensor:
    """Σ_rs w_r w_s f_r·f_s K_rs, summed over parts; (M,)."""
    total = torch.zeros(parts[0].shape[1], dtype=torch.float64)
    for part, kernel in zip(parts, kernels, strict=False):
        weighted = (part * fold.weights[:, None, None]).flatten(1)
        total += (weighted * (kernel @ weighted)).sum(0).reshape(part.shape[1:]).sum(1)
    return total


def _kernels(fold: _Fold, rule: Rotations, l_max: int) -> list[Tensor]:
    """For the even and the odd part: Σ_g w_g Σ_ℓ (2ℓ+1) χ_ℓ(g Q_r Q_s⁻¹), (n, n); g with its sign in the odd part."""
    n, polynomials = len(fold.weights), _characters(l_max)
    even, odd = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    if rule.is_group:
        together = np.sum([(2 * ell + 1) * polynomial for ell, polynomial in enumerate(polynomials)], axis=0)
        elements = zip(rule.matrices, rule.determinants.tolist(), rule.weights.tolist(), strict=True)
        for g, sign, weight in elements:
            values = _horner(together, _cosines(sign * g, fold.matrices))
            even.add_(values, alpha=weight)
            odd.add_(values, alpha=weight * sign)
        return [even, odd]
    left = rule.residuals(l_max).clamp(min=0)
    cosines = _cosines(torch.eye(3, dtype=torch.float64), fold.matrices)
    for ell, polynomial in enumerate(polynomials):
        character = _horner(polynomial, cosines)
        # Of an even ℓ the proper channel is of even parity and the pseudo channel of odd, of an odd ℓ the reverse.
        even.add_(character, alpha=float(left[ell % 2, ell]))
        odd.add_(character, alpha=float(left[1 - ell % 2, ell]))
    return [even, odd]


def _cosines(g: Tensor, matrices: Tensor) -> Tensor:
    """Cosines of the angles of g Q_r Q_s⁻¹, (n, n)."""
    trace = (g @ matrices).flatten(1) @ matrices.flatten(1).T
    return trace.sub_(1).div_(2)


def _characters(l_max: int) -> list[np.ndarray]:
    """Coefficients of χ_ℓ = 1 + 2 Σ_m cos mω as a polynomial in cos ω, lowest power first, ℓ = 0 … l_max."""
    rows = (np.polynomial.chebyshev.cheb2poly([1.0] + [2.0] * ell) for ell in range(l_max + 1))
    return [np.pad(row, (0, l_max + 1 - len(row))) for row in rows]


def _horner(coefficients: np.ndarray, x: Tensor) -> Tensor:
    value = torch.full_like(x, float(coefficients[-1]))
    for coefficient in coefficients[-2::-1].tolist():
        value.mul_(x).add_(coefficient)
    return value
