"""Loss: what predictions and labels have to do with one another."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tumble.batch import Batch, Properties
from tumble.jobs.train.extras import OrbitTerm, Target
from tumble.jobs.train.settings import Phase


class Errors(NamedTuple):
    """Prediction minus label, NaN where there is no label, None where nothing is compared.

    energy: (S,) eV per atom.
    forces: (N, 3) eV/Å.
    stress: (S, 3, 3) eV/Å³.
    """

    energy: Tensor | None = None
    forces: Tensor | None = None
    stress: Tensor | None = None


def errors(answer: Properties, labels: Properties, batch: Batch) -> Errors:
    """What an answer about a batch is off by; a label that is not known is NaN, or None if none of its kind is."""
    sizes = torch.bincount(batch.structure, minlength=batch.n_structures)

    def between(predicted: Tensor | None, known: Tensor | None) -> Tensor | None:
        return None if predicted is None or known is None else predicted - known.to(predicted.dtype)

    energy = between(answer.energy, labels.energy)
    forces, stress = between(answer.forces, labels.forces), between(answer.stress, labels.stress)
    return Errors(None if energy is None else energy / sizes, forces, stress)


def known(labels: Properties | Errors) -> Tensor:
    """How many numbers are known of the energy, the forces and the stress, (3,) float64."""
    counts = [torch.zeros((), dtype=torch.float64) if one is None else (~one.isnan()).sum().double() for one in labels]
    return torch.stack([one.to(counts[1].device) for one in counts])


def loss(
    found: Errors, how: Phase | OrbitTerm, counts: Tensor | None = None, weights: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Weighted sum over the targets of the mean loss of their errors, (); without a gradient if nothing is known.

    Args:
        found: errors; an unknown one neither counts nor has a slope.
        how: weights and kinds of loss.
        counts: (3,) the numbers of errors that the means are over, where these are only some of them.
        weights: (S,) and (N,) factors of the structures and of their atoms; 1 if not given.
    """
    counts = known(found) if counts is None else counts
    targets = (how.energy, how.force, how.stress)
    terms = []
    for place, (error, target, count) in enumerate(zip(found, targets, counts, strict=True)):
        if error is None or not target.weight:
            continue
        there = ~error.isnan()
        each = _each(torch.where(there, error, 0.0), target)
        if weights is not None:
            factor = weights[1] if place == 1 else weights[0]
            each = each * factor.to(each.dtype).reshape(-1, *[1] * (each.dim() - 1))
        terms.append(target.weight * (each.sum() / count.clamp(min=1.0)).float())
    return torch.stack(terms).sum() if terms else torch.zeros(())


def _each(error: Tensor, target: Target) -> Tensor:
    if target.loss == "mse":
        return error.square()
    if target.loss == "mae":
        return error.abs()
    return functional.smooth_l1_loss(error, torch.zeros_like(error), beta=target.delta, reduction="none")
