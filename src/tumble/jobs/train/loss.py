"""Loss and errors: what predictions and labels have to do with one another."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from tumble.batch import Batch, Properties
from tumble.jobs.train.settings import OrbitTerm, Phase, Target
from tumble.units import MEV

UNITS = {"energy": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}


def residuals(answer: Properties, labels: Properties, batch: Batch) -> dict[str, Tensor]:
    """Prediction minus label where there is a label: energy per atom eV, forces eV/Å, stress eV/Å³, each flat."""
    counts = torch.bincount(batch.structure, minlength=batch.n_structures)
    pairs: dict[str, tuple[Tensor | None, Tensor | None]] = {
        "energy": (answer.energy, labels.energy),
        "forces": (answer.forces, labels.forces),
        "stress": (answer.stress, labels.stress),
    }
    errors = {}
    for name, (predicted, known) in pairs.items():
        if predicted is None or known is None:
            continue
        error = predicted - known.to(predicted.dtype)
        if name == "energy":
            error = error / counts
        errors[name] = error[~torch.isnan(known)]
    return errors


def loss(errors: Mapping[str, Tensor], how: Phase | OrbitTerm) -> Tensor:
    """Weighted sum over the targets of the mean loss of their residuals, (); a constant 0 where no label is known."""
    targets = {"energy": how.energy, "forces": how.force, "stress": how.stress}
    terms = [
        targets[name].weight * _mean_loss(error, targets[name]).float()
        for name, error in errors.items()
        if targets[name].weight > 0 and error.numel()
    ]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def summary(errors: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    """Mean absolute and root-mean-square errors over many batches, in meV units, as "forces_mae" and so on."""
    pooled: dict[str, list[Tensor]] = {}
    for one in errors:
        for name, error in one.items():
            pooled.setdefault(name, []).append(error.detach().double().cpu())
    numbers = {}
    for name, parts in pooled.items():
        error = torch.cat(parts) * MEV
        if error.numel():
            numbers[f"{name}_mae"] = float(error.abs().mean())
            numbers[f"{name}_rmse"] = float(error.square().mean().sqrt())
    return numbers


def _mean_loss(error: Tensor, target: Target) -> Tensor:
    if target.loss == "mse":
        return error.square().mean()
    return functional.smooth_l1_loss(error, torch.zeros_like(error), beta=target.delta)
