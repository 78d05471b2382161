"""Optimizers of a phase, their learning rates from step to step, and what a validation changes about them."""

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from tumble.jobs.train.settings import Phase

INNER = ("compress", "attention", "mlp", "combination_mlps", "center_", "_heads")
"""Names of the inner matrices, which map features to features: those muon is made for."""
MOVING = {"all": ("",), "heads": ("readouts",), "last": ("node_last", "edge_last"), "lora": ("readouts",)}
"""Parts of the names of the weights that a phase moves; with lora, its low-rank factors besides."""


class Standing(Protocol):
    """How validations have gone in the present phase.

    best:    lowest validation loss.
    stalled: validations since then.
    factor:  what a plateau has lowered the rates to.
    """

    best: float
    stalled: int
    factor: float


def optimizers_of(model: nn.Module, phase: Phase) -> list[torch.optim.Optimizer]:
    """The optimizers of a phase: one, or muon for the inner matrices and adam for the rest.

    Weights that the phase does not move need no gradient from here on. Decay is decoupled from the gradient, with adam
    as with adamw, and acts on matrices only: biases, norms and embeddings hold sizes that are not to shrink.

    Source: Jordan et al., Muon (2024), https://kellerjordan.github.io/posts/muon, as torch.optim.Muon; Loshchilov and
    Hutter, Decoupled weight decay regularization, arXiv:1711.05101.
    """
    for name, weight in model.named_parameters():
        weight.requires_grad_(_moves(name, phase))
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    inner = [name for name, weight in weights.items() if phase.optimizer == "muon" and _is_inner(name, weight)]
    tables = {id(weight) for part in model.modules() if isinstance(part, nn.Embedding) for weight in part.parameters()}
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, weight in weights.items():
        if name not in inner:
            groups[weight.dim() > 1 and id(weight) not in tables].append(weight)
    decay = {True: phase.weight_decay, False: 0.0}
    parts = [{"params": group, "weight_decay": decay[key]} for key, group in groups.items() if group]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(parts, lr=phase.learning_rate)] if parts else []
    if inner:
        matrices = [weights[name] for name in inner]
        found.insert(0, torch.optim.Muon(matrices, lr=phase.matrix_learning_rate, weight_decay=phase.weight_decay))
    return found


def set_rates(optimizers: list[torch.optim.Optimizer], phase: Phase, progress: float, factor: float = 1.0) -> float:
    """Set the learning rates for a position within the phase; returns the factor on the peak rates.

    Args:
        progress: 0 at the start of the phase, 1 at its end.
        factor: what a plateau has lowered them to so far.
    """
    done = (progress - phase.warmup) / max(1 - phase.warmup, 1e-9)
    if progress < phase.warmup:
        factor *= progress / phase.warmup
    elif phase.schedule == "cosine":
        factor *= 0.5 * (1 + math.cos(math.pi * done))
    elif phase.schedule == "linear":
        factor *= 1 - done
    for optimizer in optimizers:
        peak = phase.matrix_learning_rate if isinstance(optimizer, torch.optim.Muon) else phase.learning_rate
        for group in optimizer.param_groups:
            group["lr"] = peak * factor
    return factor


def after_validation(state: Standing, phase: Phase, value: float) -> bool:
    """Note a validation loss: best, validations without gain, and the factor of a plateau.

    Args:
        state: changed in place; `stalled` is 0 afterwards if and only if this is the best value so far.
        value: the loss; one that is not a number is no gain.

    Returns:
        Whether the phase ends early, its patience gone.
    """
    if value < state.best:
        state.best, state.stalled = value, 0
        return False
    state.stalled += 1
    if phase.schedule == "plateau" and state.stalled % phase.plateau_patience == 0:
        state.factor *= phase.plateau_factor
    return phase.patience is not None and state.stalled >= phase.patience


def _moves(name: str, phase: Phase) -> bool:
    return any(part in name for part in MOVING[phase.layers]) or (phase.layers == "lora" and _is_low_rank(name))


def _is_low_rank(name: str) -> bool:
    """Whether it is A or B of a matrix W + B A; W itself is called original."""
    return "parametrizations" in name and "original" not in name


def _is_inner(name: str, weight: Tensor) -> bool:
    """Muon makes all singular values of a change equal, which is not meant for factors of one."""
    return weight.dim() == 2 and any(part in name for part in INNER) and not _is_low_rank(name)
