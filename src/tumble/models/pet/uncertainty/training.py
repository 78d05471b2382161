"""Ensembles of last layers that are trained to scatter as much as their mean is wrong."""

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

RATE: Final = 0.01
"""Of Adam, for numbers of order one."""

PARTS: Final = 16
"""Steps in a pass over the training rows."""


class Rows(NamedTuple):
    """Answers that are linear in the last layer, and how wrong they are.

    features: (R, F) what a last layer is multiplied by: sums over a structure, or their derivatives by a position.
    errors:   (R,) what the model answers less what it should, eV or eV/Å.
    kinds:    (R,) int64, 0 for an energy, 1 for a component of a force; each kind counts the same.
    """

    features: Tensor
    errors: Tensor
    kinds: Tensor


class Trained(NamedTuple):
    """Members (M, F) about a mean of zero, and the mean score on the validation set before and after each epoch."""

    members: Tensor
    scores: list[float]


def trained(members: Tensor, rows: Rows, valid: Rows, epochs: int, seed: int = 0) -> Trained:
    """Members whose scatter makes the errors likeliest, log sigma² + (error / sigma)², as a normal distribution has it.

    The scatter is of low rank and the training set was fitted, so it is easily too small beyond it: after each epoch
    one factor is chosen on the validation set, and the epoch that then does best there is kept, with its factor. That
    may be none.

    Args:
        members: (M, F) to start from.
        rows: of the training set; the order of the members' size decides the size of their changes.
        valid: of a validation set.
        epochs: passes over the rows.
        seed: of their order.
    """
    scale = members.square().mean(0).sqrt().clamp(min=1e-300)
    start = (members - members.mean(0)) / scale
    layers = start.clone().requires_grad_()
    inputs, checks = rows.features * scale, valid.features * scale
    optimizer = torch.optim.Adam([layers], lr=RATE)
    random = torch.Generator().manual_seed(seed)
    best, factor = start, rescaled(start, checks, valid)
    scores = [score(factor * start, checks, valid)]
    weights = _weights(rows.kinds)
    for _ in range(epochs):
        for part in torch.randperm(len(inputs), generator=random).to(inputs.device).tensor_split(PARTS):
            if len(part):
                optimizer.zero_grad()
                _mean(layers, inputs[part], rows.errors[part], weights[part]).backward()
                optimizer.step()
        now = (layers - layers.mean(0)).detach()
        again = rescaled(now, checks, valid)
        scores.append(score(again * now, checks, valid))
        if scores[-1] <= min(scores):
            best, factor = now, again
    return Trained(factor * best * scale, scores)


def rescaled(layers: Tensor, features: Tensor, rows: Rows) -> float:
    """The factor by which the layers scatter as the errors of energies say; of what there is if there is no energy."""
    energies = rows.kinds == 0 if bool((rows.kinds == 0).any()) else rows.kinds >= 0
    ratios = rows.errors[energies].abs() / sigma(layers, features[energies])
    return math.sqrt(math.pi / 2) * float(ratios.nanmean())


def score(layers: Tensor, features: Tensor, rows: Rows) -> float:
    """Mean negative log likelihood, each kind weighing the same; each with a factor of its own, as `LLPR` has."""
    scores = []
    for kind in rows.kinds.unique():
        those = rows.kinds == kind
        spread, errors = sigma(layers, features[those]), rows.errors[those]
        best = (errors / spread).square().mean().log() / 2
        scores.append(float(spread.log().mean() + best + 0.5))
    return sum(scores) / len(scores)


def sigma(layers: Tensor, features: Tensor) -> Tensor:
    """Standard deviation of the answers of members, (R,)."""
    return (features @ (layers - layers.mean(0)).mT).square().sum(1).div(len(layers) - 1).clamp(min=1e-30).sqrt()


def _mean(layers: Tensor, features: Tensor, errors: Tensor, weights: Tensor) -> Tensor:
    spread = sigma(layers, features)
    return (weights * (spread.log() + (errors / spread).square() / 2)).sum() / weights.sum()


def _weights(kinds: Tensor) -> Tensor:
    counts = torch.bincount(kinds).to(torch.float64)
    return 1 / counts[kinds]
