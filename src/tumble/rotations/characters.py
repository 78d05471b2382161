"""Sums of characters over sets of turns, and turns found among others."""

from typing import Final

import torch
from torch import Tensor

_BLOCK: Final = 1 << 21
"""Products of two turns that are formed at a time."""


def character_sums(left: Tensor, a: Tensor, right: Tensor, b: Tensor, l_max: int) -> Tensor:
    """Double character sums Σ_rs a_r b_s χ_ℓσ(Q_r Q_s⁻¹) over two sets of orthogonal matrices.

    χ_ℓ(ω) = sin((2ℓ+1)ω/2) / sin(ω/2) for a rotation by ω, and χ_ℓσ(-R) = σ (-1)^ℓ χ_ℓ(R).

    Args:
        left: (A, 3, 3), with columns a: (A, M).
        right: (B, 3, 3), with columns b: (B, M).

    Returns:
        (2, l_max + 1, M): [0] proper channels, σ = 1; [1] pseudo channels, σ = -1.
    """
    signs_a, signs_b = torch.linalg.det(left).sign()[:, None], torch.linalg.det(right).sign()[:, None]
    # A channel of even parity sees the columns as they are, one of odd parity sees those of inverting matrices with
    # the opposite sign; both see only the proper part of the turn.
    a, b = torch.cat([a, a * signs_a], dim=1), torch.cat([b, b * signs_b], dim=1)
    proper_a, proper_b = (left.flatten(1) * signs_a), (right.flatten(1) * signs_b).mT
    sums = torch.zeros(l_max + 1, a.shape[1], dtype=torch.float64)
    rows = max(1, _BLOCK // len(right))
    for block, columns in zip(torch.split(proper_a, rows), torch.split(a, rows), strict=True):
        # χ_ℓ = 1 + 2 Σ_m cos mω, and cos mω is a Chebyshev polynomial of cos ω: no angle, no 0/0.
        cosine = ((block @ proper_b - 1) / 2).clamp(-1, 1)
        before, now, character = cosine, torch.ones_like(cosine), torch.ones_like(cosine)
        for ell in range(l_max + 1):
            if ell:
                before, now = now, 2 * cosine * now - before
                character = character + 2 * now
            sums[ell] += (columns * (character @ b)).sum(0)
    even, odd = sums.chunk(2, dim=1)
    alternating = (torch.arange(l_max + 1) % 2 == 0)[:, None]
    return torch.stack([torch.where(alternating, even, odd), torch.where(alternating, odd, even)])


def find(matrices: Tensor, among: Tensor, tolerance: float = 1e-6) -> Tensor:
    """(A,) index of each of A matrices among others (B, 3, 3); -1 where none is equal within the tolerance."""
    found = []
    for block in torch.split(matrices, max(1, _BLOCK // len(among))):
        # For orthogonal matrices |P - Q|² = 6 - 2 tr(P Qᵀ); the trace finds the nearest, the difference decides.
        nearest = (block.flatten(1) @ among.flatten(1).mT).argmax(1)
        equal = (block - among[nearest]).abs().amax((1, 2)) <= tolerance
        found.append(torch.where(equal, nearest, -1))
    return torch.cat(found)
