"""The training loop: the only one."""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

import numpy as np
import torch

from tumble import checkpoint
from tumble.data import Loader, Mixture, Step
from tumble.jobs.train import durable
from tumble.jobs.train.bad import refuse
from tumble.jobs.train.polish import Anchors
from tumble.jobs.train.ranks import Ranks
from tumble.jobs.train.rates import after_validation, set_rates
from tumble.jobs.train.settings import Phase, TrainSettings
from tumble.jobs.train.shard import complete, gathered, whole
from tumble.jobs.train.sources import Source
from tumble.jobs.train.state import State, write
from tumble.jobs.train.step import (
    Share,
    counts_of,
    objective,
    places_of,
    potential_of,
    precision,
    share,
    turns_of,
)
from tumble.jobs.train.validation import Validation
from tumble.jobs.train.watch import Watchers, said
from tumble.models.pet import PET, without_direct
from tumble.results import Progress

BEST, METRICS, TABLE = "best.safetensors", "metrics.jsonl", "metrics.csv"


class Place(NamedTuple):
    """Where a training runs: its folder, and this process among those that share the work."""

    folder: Path
    ranks: Ranks


class Loop:
    """Steps, validations and checkpoints, from wherever the state stands to the end of the recipe or of the time."""

    def __init__(self, settings: TrainSettings, place: Place, found: Sequence[Source], state: State) -> None:
        """Nothing runs yet.

        Args:
            place: where checkpoints and metrics go, and who computes.
            found: the sets, in the order of the recipe.
            state: fresh or restored.
        """
        self.settings, self.folder, self.ranks, self.state, self.found = settings, *place, state, found
        loaders = [self._loader(one, is_training=True) for one in found]
        self.mixture = Mixture(loaders, [one.recipe.weight for one in found], seed=settings.seed)
        kept_apart = [self._loader(one, is_training=False) for one in found]
        self.validation = Validation(settings, found, kept_apart, place.ranks)
        step = self.n_done if state.lines or self.n_done else None
        recipe = settings.model_dump(mode="json")
        self.watchers = Watchers(settings.live, self.folder, step=step, recipe=recipe) if self.ranks.is_first else None
        self.anchors: list[Anchors] = []
        self.message = ""
        self._saved = self._looked = time.monotonic()
        self._before = self.n_done, state.minutes, 0.0

    def _loader(self, one: Source, *, is_training: bool) -> Loader:
        settings = self.settings
        return Loader(
            one.train if is_training else one.valid,
            self.state.model.first.cutoff,
            atoms_per_batch=settings.atoms_per_batch,
            pairs_per_batch=settings.pairs_per_batch if is_training else None,
            parts=settings.accumulate if is_training else 1,
            rank=self.ranks.rank,
            world=self.ranks.size,
            workers=settings.workers if is_training else 0,
            dtype=getattr(torch, settings.dtype),
            device=self.ranks.device,
            seed=settings.seed,
            shuffle=is_training,
            config_weights=settings.config_weights,
        )

    @property
    def n_steps(self) -> int:
        """Steps of the whole recipe."""
        return (sum(phase.epochs for phase in self.settings.phases) - self.state.skipped) * len(self.mixture)

    @property
    def n_done(self) -> int:
        """Steps finished."""
        return (self._epochs_done() - self.state.skipped) * len(self.mixture) + self.state.step

    def run(self, should_stop: Callable[[], bool], tell: Callable[[Progress], None]) -> bool:
        """Train until the recipe is finished, or until told to stop; a checkpoint is written either way.

        Returns:
            Whether the recipe is finished.
        """
        phases, state = self.settings.phases, self.state
        while state.phase < len(phases):
            phase = phases[state.phase]
            self.begin(phase)
            while state.epoch < phase.epochs:
                if not self._epoch(phase, should_stop, tell):
                    self.save()
                    return False
            self._end(phase)
        return True

    def save(self) -> None:
        """Write the checkpoint now."""
        content = whole(self.state.content(self.settings), keep=self.ranks.is_first)
        if self.ranks.is_first:
            write(self.folder, content)
        self._saved = time.monotonic()

    def close(self) -> None:
        """Let go of loaders and of whoever is told the numbers."""
        self.mixture.close()
        if self.watchers is not None:
            self.watchers.close()

    def begin(self, phase: Phase) -> None:
        """Prepare for a phase, from wherever in it the state stands."""
        state = self.state
        if phase.drop_direct and state.model.first.has_direct_heads:
            state.change(without_direct, phase)
        self.anchors = self.validation.begin(phase, self.mixture.loaders)
        if self.settings.compile and phase.forces == "direct":
            for name in state.model.names:
                one = state.model[name]
                one.features = torch.compile(one.features, dynamic=True)  # type: ignore[method-assign]
        if phase.polishes and state.epoch == state.step == 0 and math.isinf(state.best):
            self._check(phase, {})  # before the first step

    def _end(self, phase: Phase) -> None:
        state, phases = self.state, self.settings.phases
        for one in state.model.potentials:
            one.__dict__.pop("features", None)
        if self.ranks.is_first:
            for name in state.model.names:
                best, kept = self.path_of(name), self.path_of(name, f"phase{state.phase}")
                durable.replace(kept, partial(_copy, best), needed=best.stat().st_size)
        state.next_phase(phases[state.phase + 1] if state.phase + 1 < len(phases) else None)
        self.save()

    def path_of(self, head: str, stem: str = "best") -> Path:
        """The file of the potential with this head."""
        first = self.state.model.names[0]
        return self.folder / (f"{stem}.safetensors" if head == first else f"{stem}-{head}.safetensors")

    def _epoch(self, phase: Phase, should_stop: Callable[[], bool], tell: Callable[[Progress], None]) -> bool:
        state, steps = self.state, len(self.mixture)
        for found in self.mixture.epoch(self._epochs_done(), start=state.step):
            progress = (state.epoch * steps + state.step + 1) / (phase.epochs * steps)
            set_rates(state.optimizers, phase, progress, state.factor)
            value, is_told = self.take(found, phase, should_stop())
            now = time.monotonic()
            state.minutes += (now - self._looked) / 60
            self._looked = now
            state.losses.append(value)
            state.step, state.seen = state.step + 1, state.seen + len(found.members)
            tell(Progress(self.n_done, self.n_steps, self.message or f"loss {value:.3g}"))
            if is_told:
                return False
            is_due = self.ranks.is_first and now - self._saved > 60 * self.settings.checkpoint_minutes
            if self.ranks.any(is_due) if self.settings.shard else is_due:  # shards are gathered by all
                self.save()
        mean, state.losses = float(np.mean(state.losses)), []
        state.step, state.epoch = 0, state.epoch + 1
        if state.epoch % self.settings.validate_every == 0 or state.epoch == phase.epochs:
            rate = set_rates(state.optimizers, phase, state.epoch / phase.epochs, state.factor)
            self._check(phase, {"train_loss": mean, "rate": rate})
        return True

    def take(self, found: Step, phase: Phase, is_told: bool) -> tuple[float, bool]:
        """One step; returns its loss, and whether any process was told to stop."""
        state, settings, n = self.state, self.settings, len(found.members)
        model = state.model[self.found[found.dataset].recipe.head]
        where = [settings.seed, state.phase, state.epoch, state.step]
        turns = turns_of(phase, n, where) if settings.turn else None
        anchors = self.anchors[found.dataset] if self.anchors else None
        shares = [
            share(part, phase, None if turns is None else turns[places_of(part, n, phase.orbit.copies)], anchors)
            for part in found.parts
        ]
        *counts, told = self.ranks.sums([*counts_of(shares).flatten().tolist(), float(is_told)])
        with gathered(state.model):
            value = self._gradient(model, shares, phase, torch.tensor(counts, dtype=torch.float64).view(3, 3))
            trained = [one for one in state.model.parameters() if one.requires_grad]
            self.ranks.sum_gradients_(trained)
            value = self.ranks.sum(value)
            norm = torch.nn.utils.clip_grad_norm_(trained, phase.clip)
            if not (math.isfinite(value) and bool(torch.isfinite(norm))):
                refuse(found, self.found[found.dataset], self.folder, state, value)
        for optimizer in state.optimizers:
            optimizer.step()
        state.average.update_parameters(state.model)
        return value, told > 0

    def _gradient(self, model: PET, shares: Sequence[Share], phase: Phase, counts: torch.Tensor) -> float:
        """Leave the gradient of this process's share of the step in the weights; returns its part of the loss."""
        for optimizer in self.state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for one in shares:
            with precision(self.settings):
                part = objective(model, one, phase, counts.to(one.batch.positions.device))
            if part.requires_grad:  # masked labels can leave a share without any
                part.backward()
                total += float(part.detach())
        return total

    def _check(self, phase: Phase, metrics: dict[str, float]) -> None:
        """Validate, write what was found and the state; a goal that is reached ends the phase."""
        state, started = self.state, time.monotonic()
        metrics = metrics | self.validation.of(complete(state.averages), phase)
        if self.settings.live.raw:
            raw = self.validation.errors_of(complete(state.model), phase)
            metrics |= {f"raw_{name}": value for name, value in raw.items() if name.endswith("_mae")}
        metrics |= self._speed()
        is_reached = phase.until_spread is not None and metrics["forces_spread"] <= phase.until_spread
        is_best = is_reached or metrics["valid_loss"] < state.best
        self._record(metrics, is_best=is_best)
        is_over = after_validation(state, phase, metrics["valid_loss"]) or is_reached
        if is_over:
            state.skipped, state.epoch = state.skipped + phase.epochs - state.epoch, phase.epochs
        self.save()
        self._looked += time.monotonic() - started  # validations are not training

    def _speed(self) -> dict[str, float]:
        """How fast steps were since the last validation, and which part of their time went into waiting for data."""
        steps, minutes, waited = self.n_done, self.state.minutes, self.mixture.waited_s
        seconds, done = 60 * (minutes - self._before[1]), steps - self._before[0]
        spent, self._before = waited - self._before[2], (steps, minutes, waited)
        return {"waiting": spent / seconds, "steps_per_s": done / seconds} if seconds and done > 0 else {}

    def _record(self, metrics: dict[str, float], *, is_best: bool) -> None:
        state = self.state
        place = {"phase": state.phase, "epoch": state.epoch, "step": self.n_done, "minutes": round(state.minutes, 3)}
        line: dict[str, Any] = place | {name: float(f"{value:.6g}") for name, value in metrics.items()}
        if self.ranks.is_first:
            lines = (self.folder / METRICS).read_text().splitlines()[: state.lines] if state.lines else []
            lines.append(json.dumps(line))
            durable.replace_text(self.folder / METRICS, "\n".join(lines) + "\n")
            write_table(self.folder, [json.loads(one) for one in lines])
            if self.watchers is not None:
                self.watchers.tell(line)
        if is_best:
            self.keep({"errors": line})
        state.lines += 1
        self.message = said(metrics)

    def keep(self, card: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Write the averaged weights as the best potential so far, one file for each head."""
        averages = complete(self.state.averages)
        if not self.ranks.is_first:
            return
        phase = self.settings.phases[min(self.state.phase, len(self.settings.phases) - 1)]
        for name in self.state.model.names:
            potential = potential_of(averages.extracted(name), phase)
            with durable.writing(self.path_of(name)):
                checkpoint.save(potential, self.path_of(name), {**card, "settings": self.settings.model_dump()})

    def _epochs_done(self) -> int:
        return sum(phase.epochs for phase in self.settings.phases[: self.state.phase]) + self.state.epoch


def _copy(source: Path, file: IO[bytes]) -> None:
    with source.open("rb") as content:
        shutil.copyfileobj(content, file)


def write_table(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The metrics as CSV, one column for every number that ever occurs."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    durable.replace_text(folder / TABLE, "\n".join(lines) + "\n")
