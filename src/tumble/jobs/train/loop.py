"""The training loop: the only one."""

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.io import write
from torch import Tensor

from tumble import checkpoint
from tumble.batch import Batch, Properties, to_atoms, turn, turn_back
from tumble.data import Dataset, Loader
from tumble.jobs.train.loss import loss, residuals, summary
from tumble.jobs.train.settings import Phase, TrainSettings
from tumble.jobs.train.state import State, optimizers_of, set_rates
from tumble.models.pet import PET
from tumble.orbit import moments_over
from tumble.potential import Direct, Gradient, Potential, collate_for
from tumble.results import Progress
from tumble.rotations import Rotations
from tumble.units import MEV

LAST, BEST, METRICS, TABLE = "last.ckpt", "best.safetensors", "metrics.jsonl", "metrics.csv"
PROBE_RULE = "T@generic"


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
        self.message = ""
        self._saved = time.monotonic()

    @property
    def n_steps(self) -> int:
        """Steps of the whole recipe."""
        return sum(phase.epochs for phase in self.settings.phases) * len(self.loader)

    @property
    def n_done(self) -> int:
        """Steps finished."""
        return self._epochs_done() * len(self.loader) + self.state.step

    def run(self, should_stop: Callable[[], bool], tell: Callable[[Progress], None]) -> bool:
        """Train until the recipe is finished, or until told to stop; a checkpoint is written either way.

        Returns:
            Whether the recipe is finished.
        """
        phases, state = self.settings.phases, self.state
        while state.phase < len(phases):
            phase = phases[state.phase]
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
        for batch, labels in self.validation.epoch(0):
            answer, direct = answers(model, batch, phase, training=False)
            errors = residuals(answer, labels, batch)
            all_errors.append(errors)
            losses.append(float(loss(errors, phase)))
            if phase.forces == "both":
                direct_errors.append(residuals(direct, labels, batch))
        metrics = {"valid_loss": float(np.mean(losses))} | summary(all_errors)
        metrics |= {f"direct_{name}": value for name, value in summary(direct_errors).items() if "energy" not in name}
        if self.settings.probe:
            metrics["forces_spread"] = force_spread(potential_of(model, phase), self.valid, self.settings.probe)
        return metrics

    def _epoch(self, phase: Phase, should_stop: Callable[[], bool], tell: Callable[[Progress], None]) -> bool:
        state, steps = self.state, len(self.loader)
        for batch, labels in self.loader.epoch(self._epochs_done(), start=state.step):
            started = time.monotonic()
            set_rates(state.optimizers, phase, (state.epoch * steps + state.step + 1) / (phase.epochs * steps))
            state.losses.append(self._step(batch, labels, phase))
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
            self._record({"train_loss": mean, "rate": rate} | self.validate(phase), phase)
            self.save()
        return True

    def _step(self, batch: Batch, labels: Properties, phase: Phase) -> float:
        state = self.state
        if self.settings.turn:
            where = [self.settings.seed, state.phase, state.epoch, state.step]
            turns = random_turns(batch.n_structures, where).to(batch.positions)
            # Turning back by the inverse is turning.
            batch, labels = turn(batch, turns), turn_back(labels, turns.mT, batch.structure)
        answer, direct = answers(state.model, batch, phase, training=True)
        total = loss(residuals(answer, labels, batch), phase)
        if phase.forces == "both":
            errors = residuals(direct, labels, batch)
            total = total + phase.direct_weight * loss({k: v for k, v in errors.items() if k != "energy"}, phase)
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

    def _record(self, metrics: dict[str, float], phase: Phase) -> None:
        state = self.state
        place = {"phase": state.phase, "epoch": state.epoch, "step": self.n_done, "minutes": round(state.minutes, 3)}
        line: dict[str, Any] = place | {name: float(f"{value:.6g}") for name, value in metrics.items()}
        lines = (self.folder / METRICS).read_text().splitlines()[: state.lines] if state.lines else []
        lines.append(json.dumps(line))
        state.lines = len(lines)
        (self.folder / METRICS).write_text("\n".join(lines) + "\n")
        write_table(self.folder, [json.loads(one) for one in lines])
        if metrics["valid_loss"] < state.best:
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
    return potential.both(batch)


def potential_of(model: PET, phase: Phase) -> Potential:
    """The potential that a phase trains."""
    return Direct(model) if phase.forces == "direct" else Gradient(model)


def random_turns(n: int, seed: list[int]) -> Tensor:
    """Random elements of O(3), (n, 3, 3): rotations, half of them with an inversion."""
    first, second = np.random.SeedSequence(seed).generate_state(2)
    signs = np.random.default_rng(second).choice([-1.0, 1.0], size=n)
    return Rotations.random(n, int(first)).matrices * torch.as_tensor(signs)[:, None, None]


def force_spread(potential: Potential, dataset: Dataset, n: int) -> float:
    """Root-mean-square deviation of force components over orientations, on the first n structures, meV/Å."""
    batch = collate_for(potential.eval(), dataset.atoms[:n])
    rule = Rotations.parse(PROBE_RULE)
    spread = moments_over(potential, batch, rule)[1].forces
    assert spread is not None
    return float(spread.square().mean().div(3).sqrt()) * MEV


def write_table(folder: Path, rows: list[dict[str, Any]]) -> None:
    """The metrics as CSV, one column for every number that ever occurs."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    (folder / TABLE).write_text("\n".join(lines) + "\n")
