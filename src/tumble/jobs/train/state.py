"""Everything a training is at one step: weights, averages, optimizers, position; restored to the same bits."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tumble.jobs.train.settings import Phase, TrainSettings
from tumble.models.pet import PET

INNER = ("compress", "attention", "mlp", "combination_mlps", "center_", "_heads")
"""Names of the inner matrices, which map features to features: those muon is made for."""
MOVING = {"all": ("",), "heads": ("readouts",), "last": ("node_last", "edge_last")}
"""Parts of the names of the weights that a phase moves."""


@dataclass
class State:
    """Where a training stands.

    model:      the weights being trained.
    average:    their exponential moving average, which is what gets validated and saved.
    optimizers: of the present phase.
    phase:      index of the present phase.
    epoch:      epochs finished within the phase.
    step:       steps finished within the epoch.
    best:       lowest validation loss of the phase.
    minutes:    minutes trained so far, over all runs.
    skipped:    epochs of the recipe that a reached target made unnecessary.
    """

    model: PET
    average: AveragedModel
    optimizers: list[torch.optim.Optimizer]
    phase: int = 0
    epoch: int = 0
    step: int = 0
    best: float = math.inf
    minutes: float = 0.0
    lines: int = 0
    skipped: int = 0
    losses: list[float] = field(default_factory=list)

    @property
    def averages(self) -> PET:
        """The model with averaged weights."""
        return cast(PET, self.average.module)

    def write(self, path: Path, digest: str) -> None:
        """Write everything to one file, atomically: the previous one stays until the new one is on the disk."""
        content = {
            "digest": digest,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "counters": {name: getattr(self, name) for name in COUNTERS},
        }
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


COUNTERS = ("phase", "epoch", "step", "best", "minutes", "lines", "skipped", "losses")


def fresh(model: PET, settings: TrainSettings) -> State:
    """The state before the first step."""
    return State(model, averaged(model, settings.ema), optimizers_of(model, settings.phases[0]))


def averaged(model: PET, decay: float) -> AveragedModel:
    """An exponential moving average that forgets its start: after n steps it decays by at most (1 + n)/(10 + n)."""

    def move(averages: Sequence[Tensor], weights: Sequence[Tensor], n: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(n)) / (10 + int(n)))
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, share)

    return AveragedModel(model, multi_avg_fn=move)


def restore(path: Path, model: PET, settings: TrainSettings) -> State:
    """The state that was written, to the same bits.

    Raises:
        ValueError: the file is damaged, or was written with other settings.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location=settings.device, weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({str(error).splitlines()[0]}). Move it away and start again with start: "
            f"{path.with_name('best.safetensors')}."
        ) from None
    if content["digest"] != settings.digest:
        raise ValueError(
            f"{path} was written with other settings (digest {content['digest']}, now {settings.digest}). "
            "Resume with the recipe.yaml in that folder, or choose a new folder."
        )
    state = fresh(model, settings)
    for name, value in content["counters"].items():
        setattr(state, name, value)
    state.model.load_state_dict(content["model"])
    state.average.load_state_dict(content["average"])
    state.optimizers = optimizers_of(model, settings.phases[min(state.phase, len(settings.phases) - 1)])
    for optimizer, saved in zip(state.optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state


def optimizers_of(model: nn.Module, phase: Phase) -> list[torch.optim.Optimizer]:
    """The optimizers of a phase: one, or muon for the inner matrices and adam for the rest.

    Weights that the phase does not move need no gradient from here on.

    Source: Jordan et al., Muon (2024), https://kellerjordan.github.io/posts/muon, as torch.optim.Muon.
    """
    for name, weight in model.named_parameters():
        weight.requires_grad_(any(part in name for part in MOVING[phase.layers]))
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    decay, rate = phase.weight_decay, phase.learning_rate
    if phase.optimizer != "muon":
        kind = torch.optim.AdamW if phase.optimizer == "adamw" else torch.optim.Adam
        return [kind(weights.values(), lr=rate, weight_decay=decay)]
    inner = [n for n, w in weights.items() if w.dim() == 2 and any(part in n for part in INNER)]
    adam = torch.optim.Adam([w for n, w in weights.items() if n not in inner], lr=rate)
    if not inner:
        return [adam]
    return [torch.optim.Muon([weights[n] for n in inner], lr=phase.matrix_learning_rate, weight_decay=decay), adam]


def set_rates(optimizers: list[torch.optim.Optimizer], phase: Phase, progress: float) -> float:
    """Set the learning rates for a position within the phase; returns the factor on the peak rates.

    Args:
        progress: 0 at the start of the phase, 1 at its end.
    """
    if progress < phase.warmup:
        factor = progress / phase.warmup
    elif phase.schedule == "constant":
        factor = 1.0
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (progress - phase.warmup) / max(1 - phase.warmup, 1e-9)))
    for optimizer in optimizers:
        peak = phase.matrix_learning_rate if isinstance(optimizer, torch.optim.Muon) else phase.learning_rate
        for group in optimizer.param_groups:
            group["lr"] = peak * factor
    return factor
