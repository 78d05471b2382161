"""The training loop: the only one."""

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from ase.io import write
from torch import Tensor

from tumble import checkpoint
from tumble.batch import Batch, Properties, copies, to_atoms, turn, turn_back
from tumble.data import Dataset, Loader
from tumble.jobs.train.loss import loss, residuals, summary
from tumble.jobs.train.polish import Anchors, orbit_turns, repeated, spreads, variance
from tumble.jobs.train.settings import Phase, TrainSettings
from tumble.jobs.train.state import State, optimizers_of, set_rates
from tumble.models.pet import PET
from tumble.potential import Direct, Gradient, Potential
from tumble.results import Progress

Known = list[tuple[float, Properties]]
"""What answers are compared with, in the frame of the batch, and how much each comparison counts."""

LAST, BEST, METRICS, TABLE = "last.ckpt", "best.safetensors", "metrics.jsonl", "metrics.csv"


class Loop:
    """Steps, validations and checkpoints, from wherever the state stands to the end of the recipe or of the time."""

    def __init__(self, settings: TrainSettings, folder: Path, train: Dataset, valid: Dataset, state: State) -> None:
        """Nothing runs yet.

        Args:
            folder: where checkpoints and metrics go.
            state: fresh or restored.
        """
        self.settings, self.folder, self.state, self.valid = settings, folder, state, valid
        dtype, cutoff = getattr(torch, settings.dtype), state.model.cutoff

        def loader(dataset: Dataset, *, shuffle: bool) -> Loader:
            return Loader(
                dataset,
                cutoff,
                atoms_per_batch=settings.atoms_per_batch,
                dtype=dtype,
                device=settings.device,
                seed=settings.seed,
                shuffle=shuffle,
            )

        self.loader, self.validation = loader(train, shuffle=True), loader(valid, shuffle=False)
        self.anchors: tuple[Anchors, Anchors] | None = None
        self.message = ""
        self._saved = time.monotonic()

    @property
    def n_steps(self) -> int:
        """Steps of the whole recipe."""
        return (sum(phase.epochs for phase in self.settings.phases) - self.state.skipped) * len(self.loader)

    @property
    def n_done(self) -> int:
        """Steps finished."""
        return (self._epochs_done() - self.state.skipped) * len(self.loader) + self.state.step

    def run(self, should_stop: Callable[[], bool], tell: Callable[[Progress], None]) -> bool:
        """Train until the recipe is finished, or until told to stop; a checkpoint is written either way.

        Returns:
            Whether the recipe is finished.
        """
        phases, state = self.settings.phases, self.state
        while state.phase < len(phases):
            phase = phases[state.phase]
            self.anchors = self._anchors(phase)
            if phase.polishes and state.epoch == state.step == 0 and math.isinf(state.best):
                self._check(phase, {})  # before the first step
            while state.epoch < phase.epochs:
                if not self._epoch(phase, should_stop, tell):
                    self.save()
                    return False
            shutil.copy2(self.folder / BEST, self.folder / f"phase{state.phase}.safetensors")
            state.phase, state.epoch, state.best = state.phase + 1, 0, math.inf
            if state.phase < len(phases):
                # The next phase starts from the averages: they are better, and what was validated.
                state.model.load_state_dict(state.averages.state_dict())
                state.optimizers = optimizers_of(state.model, phases[state.phase])
            self.save()
        return True

    def save(self) -> None:
        """Write the checkpoint now."""
        self.state.write(self.folder / LAST, self.settings.digest)
        self._saved = time.monotonic()

    def validate(self, phase: Phase) -> dict[str, float]:
        """Errors of the averaged weights on the validation set, its loss, and the rotational spread of the forces."""
        model = self.state.averages
        all_errors, direct_errors, losses = [], [], []
        for step, (batch, labels) in enumerate(self.validation.epoch(0)):
            answer, direct = answers(model, batch, phase, training=False)
            errors = residuals(answer, labels, batch)
            all_errors.append(errors)
            total = phase.labels * loss(errors, phase)
            if self.anchors:
                held = self.anchors[1](self.validation.steps(0)[step], batch)
                total = total + phase.anchor.weight * loss(residuals(answer, held, batch), phase)
            if phase.orbit.weight:
                total = total + self._orbit_loss(model, batch, phase, [self.settings.seed, step])
            losses.append(float(total))
            if phase.forces == "both":
                direct_errors.append(residuals(direct, labels, batch))
        metrics = {"valid_loss": float(np.mean(losses))} | summary(all_errors)
        metrics |= {f"direct_{name}": value for name, value in summary(direct_errors).items() if "energy" not in name}
        if self.settings.probe:
            metrics |= spreads(potential_of(model, phase), self.valid.atoms[: self.settings.probe])
        return metrics

    def _anchors(self, phase: Phase) -> tuple[Anchors, Anchors] | None:
        """What the starting potential says about the structures of both sets, where the phase asks for it."""
        if not phase.anchor.weight:
            return None
        assert self.settings.start is not None
        start = checkpoint.load(self.settings.start, device=self.settings.device, dtype=self.settings.dtype)
        potential = potential_of(cast(PET, start.model), phase)
        train, valid = (Anchors(potential, phase.anchor.rule, one.dataset) for one in (self.loader, self.validation))
        return train, valid

    def _orbit_loss(self, model: PET, batch: Batch, phase: Phase, seed: list[int]) -> Tensor:
        """The orbit term of a validation batch, at turns that are always the same."""
        turns = orbit_turns(batch.n_structures, phase.orbit, seed).to(batch.positions)
        turned = turn(copies(batch, phase.orbit.turns), turns)
        return phase.orbit.weight * variance(
            answers(model, turned, phase, training=False)[0], turns, turned, phase.orbit
        )

    def _epoch(self, phase: Phase, should_stop: Callable[[], bool], tell: Callable[[Progress], None]) -> bool:
        state, steps, epoch = self.state, len(self.loader), self._epochs_done()
        members = self.loader.steps(epoch)
        for batch, labels in self.loader.epoch(epoch, start=state.step):
            started = time.monotonic()
            set_rates(state.optimizers, phase, (state.epoch * steps + state.step + 1) / (phase.epochs * steps))
            known: Known = [(phase.labels, labels)] if phase.labels else []
            if self.anchors:
                known.append((phase.anchor.weight, self.anchors[0](members[state.step], batch)))
            state.losses.append(self._step(batch, known, phase))
            state.step += 1
            state.minutes += (time.monotonic() - started) / 60
            tell(Progress(self.n_done, self.n_steps, self.message or f"loss {state.losses[-1]:.3g}"))
            if should_stop():
                return False
            if time.monotonic() - self._saved > 60 * self.settings.checkpoint_minutes:
                self.save()
        mean, state.losses = float(np.mean(state.losses)), []
        state.step, state.epoch = 0, state.epoch + 1
        if state.epoch % self.settings.validate_every == 0 or state.epoch == phase.epochs:
            rate = set_rates(state.optimizers, phase, state.epoch / phase.epochs)
            self._check(phase, {"train_loss": mean, "rate": rate})
        return True

    def _check(self, phase: Phase, metrics: dict[str, float]) -> None:
        """Validate, write what was found and the state; a spread that is small enough ends the phase."""
        state, metrics = self.state, metrics | self.validate(phase)
        is_reached = phase.until_spread is not None and metrics["forces_spread"] <= phase.until_spread
        self._record(metrics, phase, is_best=is_reached or metrics["valid_loss"] < state.best)
        if is_reached:
            state.skipped, state.epoch = state.skipped + phase.epochs - state.epoch, phase.epochs
        self.save()

    def _step(self, batch: Batch, known: Known, phase: Phase) -> float:
        state, turns = self.state, None
        if phase.orbit.weight:
            batch = copies(batch, phase.orbit.turns)
            known = [(weight, repeated(labels, phase.orbit.turns)) for weight, labels in known]
        if self.settings.turn:
            where = [self.settings.seed, state.phase, state.epoch, state.step]
            turns = orbit_turns(batch.n_structures // phase.orbit.copies, phase.orbit, where).to(batch.positions)
            # Turning back by the inverse is turning.
            known = [(weight, turn_back(labels, turns.mT, batch.structure)) for weight, labels in known]
            batch = turn(batch, turns)
        total = objective(state.model, batch, known, turns, phase)
        if not total.requires_grad:
            return 0.0  # masked labels can leave a batch without any
        if not bool(torch.isfinite(total)):
            self._refuse(batch, float(total.detach()))
        for optimizer in state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), phase.clip)
        for optimizer in state.optimizers:
            optimizer.step()
        state.average.update_parameters(state.model)
        return float(total.detach())

    def _record(self, metrics: dict[str, float], phase: Phase, *, is_best: bool) -> None:
        state = self.state
        place = {"phase": state.phase, "epoch": state.epoch, "step": self.n_done, "minutes": round(state.minutes, 3)}
        line: dict[str, Any] = place | {name: float(f"{value:.6g}") for name, value in metrics.items()}
        lines = (self.folder / METRICS).read_text().splitlines()[: state.lines] if state.lines else []
        lines.append(json.dumps(line))
        state.lines = len(lines)
        (self.folder / METRICS).write_text("\n".join(lines) + "\n")
        write_table(self.folder, [json.loads(one) for one in lines])
        if is_best:
            state.best = metrics["valid_loss"]
            potential = potential_of(state.averages, phase)
            checkpoint.save(potential, self.folder / BEST, {"errors": line, "settings": self.settings.model_dump()})
        self.message = ", ".join(
            f"{label} {metrics[name]:.3g}"
            for name, label in (("energy_mae", "E meV/atom"), ("forces_mae", "F meV/Å"), ("forces_spread", "spread"))
            if name in metrics
        )

    def _refuse(self, batch: Batch, value: float) -> None:
        write(self.folder / "bad_batch.extxyz", to_atoms(batch), format="extxyz")
        raise RuntimeError(
            f"the loss is {value} at epoch {self.state.epoch}, step {self.state.step} of phase {self.state.phase}; a "
            f"finite number was expected. Its structures are in {self.folder / 'bad_batch.extxyz'}; the last good "
            f"state is {self.folder / LAST}. Lower the learning rate, or remove what is wrong with these structures."
        )

    def _epochs_done(self) -> int:
        return sum(phase.epochs for phase in self.settings.phases[: self.state.phase]) + self.state.epoch


def answers(model: PET, batch: Batch, phase: Phase, *, training: bool) -> tuple[Properties, Properties]:
    """What the phase compares with labels: its main answer, and that of the direct heads from the same pass."""
    if phase.forces == "direct":
        answer = Direct(model).train(training)(batch)
        return answer, answer
    potential = Gradient(model)
    potential.train(training)
    if phase.forces == "gradient":  # without the direct heads there is a faster path
        answer = potential(batch)
        return answer, answer
    return potential.both(batch)


def objective(model: PET, batch: Batch, known: Known, turns: Tensor | None, phase: Phase) -> Tensor:
    """What a step makes smaller, ().

    Args:
        batch: of turned copies.
        known: what to compare the answers with.
        turns: (S, 3, 3) how each structure was turned, or None.
    """
    answer, direct = answers(model, batch, phase, training=True)
    total = torch.zeros(())
    for weight, labels in known:
        part = loss(residuals(answer, labels, batch), phase)
        if phase.forces == "both":
            errors = residuals(direct, labels, batch)
            part = part + phase.direct_weight * loss({k: v for k, v in errors.items() if k != "energy"}, phase)
        total = total + weight * part
    if phase.orbit.weight:
        assert turns is not None
        part = variance(answer, turns, batch, phase.orbit)
        if phase.forces == "both":
            part = part + phase.direct_weight * variance(direct._replace(energy=None), turns, batch, phase.orbit)
        total = total + phase.orbit.weight * part
    return total


def potential_of(model: PET, phase: Phase) -> Potential:
    """The potential that a phase trains."""
    return Direct(model) if phase.forces == "direct" else Gradient(model)


def write_table(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The metrics as CSV, one column for every number that ever occurs."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    (folder / TABLE).write_text("\n".join(lines) + "\n")
