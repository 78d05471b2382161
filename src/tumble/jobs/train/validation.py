"""What is measured at every validation: errors of all kinds on the sets kept apart, and the symmetry of the probe."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from tumble import checkpoint
from tumble.batch import Properties
from tumble.data import Dataset, Loader, Part, Step, read
from tumble.jobs.train.loss import errors
from tumble.jobs.train.polish import Anchors
from tumble.jobs.train.probe import Residuals, symmetry_of
from tumble.jobs.train.ranks import Ranks
from tumble.jobs.train.settings import Phase, TrainSettings
from tumble.jobs.train.sources import Source
from tumble.jobs.train.step import Share, answers, combined, counts_of, places_of, potential_of, share, turns_of
from tumble.models.pet import PET, Levels

Found = tuple[Properties, Properties, Part]
"""The main answer about a part, and that of the direct heads."""


class Validation:
    """The validation sets of a recipe, dealt out over the processes, and files that shall not be forgotten."""

    def __init__(
        self, settings: TrainSettings, found: Sequence[Source], loaders: Sequence[Loader], ranks: Ranks
    ) -> None:
        """Args:
        settings: the recipe.
        found: its sets.
        loaders: of the validation structures of each, in their order.
        ranks: this process among all.
        """
        self.settings, self.found, self.loaders, self.ranks = settings, found, loaders, ranks
        self.anchors: list[Anchors] = []
        self.remembered = _remembered(settings, loaders[0])

    def begin(self, phase: Phase, training: Sequence[Loader]) -> list[Anchors]:
        """Prepare for a phase; returns what its start says about the training sets, where it wants to know."""
        self.anchors, found = [], []
        if phase.anchor.weight:
            assert self.settings.start is not None
            start = checkpoint.load(self.settings.start, device=self.ranks.device, dtype=self.settings.dtype)
            potential = potential_of(cast(PET, start.model), phase)
            self.anchors = [Anchors(potential, phase.anchor.rule, one.dataset) for one in self.loaders]
            found = [Anchors(potential, phase.anchor.rule, one.dataset) for one in training]
        return found

    def of(self, levels: Levels, phase: Phase) -> dict[str, float]:
        """All there is to know about a model: errors, loss, and symmetry of the probe."""
        metrics: dict[str, float] = {}
        losses, weights = [], []
        for index, source in enumerate(self.found):
            model = levels[source.recipe.head]
            one = self._set(model, phase, index)
            if self.settings.probe:
                probe = source.valid.select(range(min(self.settings.probe, len(source.valid))))
                one |= symmetry_of(model, phase, probe, self.settings)
            metrics |= one if index == 0 else {}
            if len(self.found) > 1:
                metrics |= {f"{source.recipe.name}/{name}": value for name, value in one.items()}
            losses.append(one["valid_loss"])
            weights.append(source.recipe.weight)
        metrics["valid_loss"] = sum(map(float.__mul__, losses, weights)) / sum(weights)
        if self.remembered is not None:
            # What the start knew is at its own level of theory, which a set of its own answers may have kept.
            heads = [one.recipe.head for one in self.found if one.recipe.labels == "start"]
            model = levels[heads[0]] if heads else levels.first
            kept = self._residuals(model, phase, self.remembered)[0].summary()
            metrics |= {f"remember_{name}": value for name, value in kept.items() if name.endswith("_mae")}
        return metrics

    def errors_of(self, levels: Levels, phase: Phase) -> dict[str, float]:
        """Errors on the first validation set alone."""
        model = levels[self.found[0].recipe.head]
        return self._residuals(model, phase, self.loaders[0])[0].summary()

    def _set(self, model: PET, phase: Phase, index: int) -> dict[str, float]:
        source = self.found[index]
        residuals, direct, value = self._residuals(model, phase, self.loaders[index], index)
        metrics = {"valid_loss": value} | residuals.summary() | residuals.by_element()
        metrics |= residuals.by_group(source.valid.groups)
        if direct is not None:
            beside = direct.summary()
            metrics |= {f"direct_{name}": error for name, error in beside.items() if "energy" not in name}
        return metrics

    def _residuals(
        self, model: PET, phase: Phase, loader: Loader, index: int | None = None
    ) -> tuple[Residuals, Residuals | None, float]:
        """Errors of the main answer, of the direct heads, and the mean loss of the steps.

        Args:
            model: what is measured.
            phase: what it answers, and what counts in the loss.
            loader: structures.
            index: of the set whose loss is wanted; None for errors alone.
        """
        main, beside, total, n_steps = [], [], 0.0, 0
        for n_steps, step in enumerate(loader.epoch(0), start=1):
            found = [(*answers(model, part.batch, phase, training=False), part) for part in step.parts]
            for answer, direct, part in found:
                main.append(Residuals.of(errors(answer, part.labels, part.batch), part.batch, part.members))
                if phase.forces == "both":
                    beside.append(Residuals.of(errors(direct, part.labels, part.batch), part.batch, part.members))
            if index is not None:
                turns = turns_of(phase, len(step.members), [self.settings.seed, n_steps - 1])
                total += self._loss(model, phase, found, self._shares(phase, step, turns, index))
        also = Residuals.join(self.ranks.gather(beside)) if phase.forces == "both" else None
        return Residuals.join(self.ranks.gather(main)), also, self.ranks.sum(total) / n_steps

    def _shares(self, phase: Phase, step: Step, turns: Tensor, index: int) -> list[Share]:
        """The parts as they are, or for an orbit term in copies that are always turned the same way."""
        held, n = self.anchors[index] if self.anchors else None, len(step.members)
        if not phase.orbit.weight:
            return [share(part, phase, None, held) for part in step.parts]
        return [share(part, phase, turns[places_of(part, n, phase.orbit.copies)], held) for part in step.parts]

    def _loss(self, model: PET, phase: Phase, found: Sequence[Found], shares: Sequence[Share]) -> float:
        counts = torch.tensor(self.ranks.sums(counts_of(shares).flatten().tolist()), dtype=torch.float64).view(3, 3)
        total = 0.0
        for (answer, direct, _), one in zip(found, shares, strict=True):
            if phase.orbit.weight:  # answers about the copies are wanted instead
                answer, direct = answers(model, one.batch, phase, training=False)
            value = combined(answer, direct, model, one, phase, counts.to(one.batch.positions.device))
            total += float(value.detach())
        return total


def _remembered(settings: TrainSettings, like: Loader) -> Loader | None:
    """Structures on which the start is good."""
    if not settings.remember:
        return None
    dataset: Dataset = read(settings.remember, require=(), missing="mask")
    return Loader(
        dataset, like.cutoff, atoms_per_batch=settings.atoms_per_batch, dtype=like.dtype, device=like.device,
        shuffle=False, rank=like.rank, world=like.world,
    )  # fmt: skip
