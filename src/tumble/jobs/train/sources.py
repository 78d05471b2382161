"""What a training learns from: its sets, read, split and checked before the first step."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tumble import checkpoint
from tumble.data import Dataset, check_units, coverage, leaks, read, split
from tumble.jobs.train.extras import DataSet
from tumble.jobs.train.settings import TrainSettings
from tumble.packs import predict
from tumble.results import Table


class Source(NamedTuple):
    """One set of a mixture: what the recipe says of it, what is trained on, and what is kept apart."""

    recipe: DataSet
    train: Dataset
    valid: Dataset

    @property
    def label(self) -> str:
        """Its name in front of a sentence about it; nothing for the only one."""
        return f"set {self.recipe.name}: " if self.recipe.name else ""


def sources(settings: TrainSettings, show: Callable[[Table], None] = lambda table: None) -> list[Source]:
    """Read every set of a recipe, and refuse what cannot be learned from.

    Args:
        settings: the recipe.
        show: called with the label coverage of every training and validation set.

    Raises:
        ValueError: a file or label that does not fit; structures that are in both sets; labels whose units do not.
    """
    found = [_source(one, settings) for one in settings.mixture]
    for one in found:
        for dataset in (one.train, one.valid):
            show(coverage(dataset))
        _check_leaks(one, settings, show)
        if settings.check_units:
            show(check_units(one.train))
        _check_labels(one, settings)
    if settings.uncertainty.kind != "none" and np.isnan(found[0].valid.energies).all():
        raise ValueError(
            f"uncertainty.kind is {settings.uncertainty.kind}, and none of {len(found[0].valid)} validation structures "
            "has an energy to calibrate by. Give labelled ones, or set uncertainty.kind to none."
        )
    _check_groups(found, settings)
    return found


def _source(recipe: DataSet, settings: TrainSettings) -> Source:
    if recipe.valid:
        train, valid = _read(recipe, recipe.data, settings), _read(recipe, recipe.valid, settings)
    else:
        train, valid = split(_read(recipe, recipe.data, settings), settings.valid_fraction, settings.seed)
    if recipe.labels == "start":
        train, valid = _taught(train, settings), valid if valid.known.any() else _taught(valid, settings)
    return Source(recipe, train, valid)


def _read(recipe: DataSet, files: tuple[str, ...], settings: TrainSettings) -> Dataset:
    is_taught = recipe.labels == "start"
    return read(
        files,
        energy_key=recipe.energy_key or settings.energy_key,
        forces_key=recipe.forces_key or settings.forces_key,
        stress_key=recipe.stress_key or settings.stress_key,
        require=() if is_taught else settings.targets,
        missing="mask" if is_taught else settings.missing,
    )


def _taught(dataset: Dataset, settings: TrainSettings) -> Dataset:
    """The structures with what the start answers about them as labels."""
    assert settings.start is not None
    potential = checkpoint.load(settings.start, device=settings.device)
    answers = [
        one._replace(forces=None if one.forces is None else one.forces.double(), stress=None)
        for one in predict(potential, list(dataset.atoms))
    ]
    return Dataset(dataset.atoms, answers, dataset.sources)


def _check_leaks(one: Source, settings: TrainSettings, show: Callable[[Table], None]) -> None:
    if settings.leaks == "allow":
        return
    table = leaks(one.train, one.valid)
    if not table.rows:
        return
    if settings.leaks == "warn":
        show(table)
        return
    first = table.rows[0]
    raise ValueError(
        f"{one.label}{len(table.rows)} structures of the validation set are in the training set too, the first is "
        f"{' and '.join(str(cell) for cell in first[:2])}; errors on them say nothing. Remove them from one of the "
        "two, or set leaks to warn or allow."
    )


def _check_labels(one: Source, settings: TrainSettings) -> None:
    if one.train.known.any():
        return
    for n, phase in enumerate(settings.phases):
        if not (phase.orbit.weight or phase.anchor.weight):
            raise ValueError(
                f"{one.label}none of {len(one.train)} structures has a label, and phase {n} has neither an orbit term "
                "nor an anchor to learn from. Give labelled files, or set orbit.weight or anchor.weight."
            )


def _check_groups(found: list[Source], settings: TrainSettings) -> None:
    """A weight for a group that no structure is of would be silently without effect."""
    if not settings.config_weights:
        return
    there = {group for one in found for group in set(one.train.groups)}
    if unknown := sorted(set(settings.config_weights) - there):
        raise ValueError(
            f"config_weights names {', '.join(unknown)}, and no training structure has such a config_type; there are "
            f"{', '.join(sorted(there - {''})) or 'none'}. Correct the names, or leave them out."
        )
