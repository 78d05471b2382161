"""Everything a training is at one step: weights, averages, optimizers, position; restored to the same bits."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from tumble.jobs.train import durable
from tumble.jobs.train.durable import LAST, PARTIAL, PREVIOUS
from tumble.jobs.train.rates import optimizers_of
from tumble.jobs.train.settings import Phase, TrainSettings
from tumble.models.pet import PET, Levels, without_direct

VERSION = 2
"""Of the checkpoint; 1 had no checksum, no version and one PET without levels."""
FREE = (
    "checkpoint_minutes", "workers", "live", "leaks", "check_units", "remember", "uncertainty",
    "device", "accumulate", "compile", "recompute", "shard",
)  # fmt: skip
"""Settings that may change from run to run: they leave the weights alone; the last line, but for rounding."""
FOLLOWING = ("validate_every", "probe")
"""Free as well, unless validations decide: how often and on how much it is validated."""
SHOWN = 5
"""Settings that an error names."""


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
    stalled:    validations since then.
    factor:     what a plateau has lowered the learning rates to.
    minutes:    minutes trained so far, over all runs.
    lines:      lines of metrics written.
    skipped:    epochs of the recipe that were not needed.
    seen:       structures learned from so far, each as often as it was seen.
    losses:     of the steps of the present epoch.
    """

    model: Levels
    average: AveragedModel
    optimizers: list[torch.optim.Optimizer]
    phase: int = 0
    epoch: int = 0
    step: int = 0
    best: float = math.inf
    stalled: int = 0
    factor: float = 1.0
    minutes: float = 0.0
    lines: int = 0
    skipped: int = 0
    seen: int = 0
    losses: list[float] = field(default_factory=list)

    @property
    def averages(self) -> Levels:
        """The model with averaged weights."""
        return cast(Levels, self.average.module)

    def change(self, how: Callable[[PET], PET], phase: Phase) -> None:
        """Give the model and its averages fewer weights, and the phase new optimizers for those that remain.

        Args:
            how: a copy of a PET without some of its weights.
            phase: the present one.
        """
        self.model, self.average.module = _changed(self.model, how), _changed(self.averages, how)
        self.optimizers = optimizers_of(self.model, phase)

    def next_phase(self, phase: Phase | None) -> None:
        """Stand at the start of the next phase, with the averaged weights: they are better, and what was validated.

        Args:
            phase: the next one; None: the recipe is finished.
        """
        self.phase, self.epoch, self.step = self.phase + 1, 0, 0
        self.best, self.stalled, self.factor = math.inf, 0, 1.0
        if phase is not None:
            self.model.load_state_dict(self.averages.state_dict())
            self.optimizers = optimizers_of(self.model, phase)

    def content(self, settings: TrainSettings) -> dict[str, Any]:
        """Everything that is written, in plain values and tensors."""
        return {
            "version": VERSION,
            "settings": json.dumps(_deciding(settings)),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "counters": {name: getattr(self, name) for name in COUNTERS},
        }


COUNTERS = (
    "phase", "epoch", "step", "best", "stalled", "factor", "minutes", "lines", "skipped", "seen", "losses",
)  # fmt: skip


def fresh(model: Levels, settings: TrainSettings) -> State:
    """The state before the first step."""
    return State(model, averaged(model, settings.ema), optimizers_of(model, settings.phases[0]))


def averaged(model: Levels, decay: float) -> AveragedModel:
    """An exponential moving average that forgets its start: after n steps it decays by at most (1 + n)/(10 + n)."""

    def move(averages: Sequence[Tensor], weights: Sequence[Tensor], n: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(n)) / (10 + int(n)))
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, share)

    return AveragedModel(model, multi_avg_fn=move)


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the content of a state to last.ckpt; the one before is previous.ckpt from then on.

    At every instant one of the two is complete.

    Raises:
        RuntimeError: the disk is full or the folder read-only; what was there is untouched.
    """
    durable.save(folder / LAST, content, keep=folder / PREVIOUS)


def holds_training(folder: Path) -> bool:
    """Whether there is a state to continue from. A kill between two moves leaves previous.ckpt alone."""
    return (folder / LAST).is_file() or (folder / PREVIOUS).is_file()


def forget(folder: Path) -> None:
    """Remove the checkpoints of a folder, the last one first."""
    for name in (LAST + PARTIAL, LAST, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


def restore(folder: Path, model: Levels, settings: TrainSettings, warn: Callable[[str], None]) -> State:
    """The state that was written, to the same bits: that of last.ckpt or, if it is damaged, of previous.ckpt.

    Args:
        folder: holds one of them at least.
        model: shaped as the recipe begins; its weights are replaced.
        settings: the recipe.
        warn: told if last.ckpt is damaged; it is then called last.ckpt.damaged.

    Raises:
        ValueError: both are damaged, or were written with other settings or by another version.
    """
    content = _read(folder, next(model.parameters()).device, settings, warn)
    state = State(model, averaged(model, settings.ema), [], **content["counters"])
    phase = settings.phases[min(state.phase, len(settings.phases) - 1)]
    if model.state_dict().keys() - content["model"].keys():  # a phase has dropped the direct heads
        state.change(without_direct, phase)
    state.model.load_state_dict(content["model"])
    state.average.load_state_dict(content["average"])
    state.optimizers = optimizers_of(state.model, phase)
    for optimizer, saved in zip(state.optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state


def _changed(model: Levels, how: Callable[[PET], PET]) -> Levels:
    """Levels whose PETs have been changed, and share what they shared."""
    changed, weights = Levels(how(model.first), model.names), model.state_dict()
    changed.load_state_dict({name: weights[name] for name in changed.state_dict()})
    return changed


def _deciding(settings: TrainSettings) -> dict[str, Any]:
    """The settings that decide what is learned; with others, a training is another one."""
    decides = any(
        phase.schedule == "plateau" or phase.patience is not None or phase.until_spread is not None
        for phase in settings.phases
    )
    return settings.model_dump(mode="json", exclude={*FREE, *(() if decides else FOLLOWING)})


def _read(folder: Path, device: torch.device, settings: TrainSettings, warn: Callable[[str], None]) -> dict[str, Any]:
    """The newest complete checkpoint; a damaged one is set aside, and never deleted."""
    reasons = []
    for name in (LAST, PREVIOUS):
        try:
            content = durable.load(folder / name, device)
        except FileNotFoundError:
            continue
        except (ValueError, OSError) as error:
            reasons.append(f"{name} cannot be read ({error})")
            continue
        _check(folder / name, content, settings)
        if reasons:
            warn(f"{folder / LAST} is damaged: {reasons[0]}. It is now called {_set_aside(folder / LAST).name}, and "
                 f"{name} is used, the checkpoint before it.")  # fmt: skip
        return content
    if not reasons:
        raise ValueError(f"{folder} holds no checkpoint, neither {LAST} nor {PREVIOUS}. Start a training there first.")
    raise ValueError(
        f"in {folder}, {' and '.join(reasons)}. Move them away and start again, with start: "
        f"{folder / 'best.safetensors'} if that file is there."
    )


def _set_aside(path: Path) -> Path:
    """Give a damaged file a name that is free; another process may have done so already."""
    names = (f"{path.name}.damaged{number or ''}" for number in range(10**6))
    aside = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    with suppress(FileNotFoundError):
        path.rename(aside)
    return aside


def _check(path: Path, content: Mapping[str, Any], settings: TrainSettings) -> None:
    version = content.get("version", 1)
    if version != VERSION:
        age = "an older" if version < VERSION else "a newer"
        raise ValueError(
            f"{path} was written by {age} version of tumble (checkpoint format {version}, this one has {VERSION}), so "
            f"it cannot be continued. Start again in another folder, with start: {path.with_name('best.safetensors')}."
        )
    old, new = dict(_flat("", json.loads(content["settings"]))), dict(_flat("", _deciding(settings)))
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if not differing:
        return
    shown = [f"{key} was {old.get(key)!r} and is now {new.get(key)!r}" for key in differing[:SHOWN]]
    more = f", and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
    raise ValueError(
        f"{path} was written with other settings: {', '.join(shown)}{more}. "
        "Resume with the recipe.yaml in that folder, or choose a new folder."
    )


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Settings within settings under dotted names."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not items:
        yield name, value
        return
    for key, inner in items:
        yield from _flat(f"{name}.{key}" if name else str(key), inner)
