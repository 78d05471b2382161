"""Sums over the leading axis of the fields of Properties; a field that is not known stays None."""

from collections.abc import Callable

import torch
from torch import Tensor

from tumble.batch import Properties


def each(function: Callable[..., Tensor], *properties: Properties) -> Properties:
    """The function of each field; None where the field is not known."""
    columns = zip(*properties, strict=True)
    return Properties(*(None if any(f is None for f in column) else function(*column) for column in columns))


def average(weights: Tensor, field: Tensor) -> Tensor:
    """Σ_r w_r f_r over the leading axis."""
    return torch.einsum("r,r...->...", weights.to(field.device), field)


def scatter(weights: Tensor, field: Tensor, mean: Tensor) -> Tensor:
    """Σ_r w_r |f_r - mean|², per structure or per atom."""
    return average(weights, squares(field - mean, keep=2))


def squares(field: Tensor, keep: int) -> Tensor:
    """Sum of squares over all axes but the first few."""
    return field.square().flatten(keep).sum(keep) if field.dim() > keep else field.square()
