"""The weights before the first step, with scales and constants from the data."""

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import torch

from tumble.batch import Properties
from tumble.data import Dataset, joined, offsets
from tumble.jobs.train.settings import TrainSettings
from tumble.jobs.train.sources import Source
from tumble.jobs.train.start import trainable
from tumble.jobs.train.step import heads_of
from tumble.models.pet import PET, Levels
from tumble.models.pet.layers import MessagePassing
from tumble.packs import predict
from tumble.potential import Gradient

SAMPLE = 10_000
"""Structures that scales and constants are taken from, drawn at random where there are more."""
ASKED = 256
"""Structures that a start is asked about, to shift its constants."""


def initial(settings: TrainSettings, found: Sequence[Source]) -> Levels:
    """The model before the first step, in float64 on the CPU: new, or with the weights to start from.

    Every head has the constants of its own level of theory: energies of the elements and scales.

    Raises:
        ValueError: a phase learns direct forces without a head for them; a start that cannot be trained.
    """
    heads, first = heads_of(settings.mixture), _first(settings, found)
    holds_on = any(phase.anchor.weight for phase in settings.phases) or not settings.phases[0].labels
    levels = Levels(first, heads)
    for head in heads:
        n = SAMPLE if settings.start is None else ASKED
        sample = _sample([one.train for one in found if one.recipe.head == head], n, settings.seed)
        if settings.start is None:
            fit_constants(levels[head], sample)
        elif settings.fit_offsets and not holds_on:
            shift_offsets(levels[head], sample)
    return levels


def _first(settings: TrainSettings, found: Sequence[Source]) -> PET:
    species = sorted({z for one in found for part in (one.train, one.valid) for z in part.elements})
    needs_direct = any(phase.forces != "gradient" for phase in settings.phases)
    if settings.start is not None:
        return trainable(settings, species, needs_direct=needs_direct)
    if needs_direct and not settings.model.direct_forces:
        raise ValueError(
            "a phase learns direct forces, but the model has no head for them. Set model.direct_forces to true."
        )
    model = PET(species, settings.model)
    with torch.no_grad():
        for layer in cast(Iterable[MessagePassing], model.gnn_layers):
            # With the usual weights a pair's vector is lost beside embeddings, and long plateaus precede any learning.
            layer.edge_embedder.weight *= settings.edge_gain
    return model


def _sample(parts: Sequence[Dataset], most: int, seed: int) -> Dataset:
    """Up to so many structures of several sets, as one."""
    drawn = []
    for part in parts:
        n = max(1, most // len(parts))
        chosen = np.arange(len(part)) if len(part) <= n else np.random.default_rng(seed).choice(len(part), n, False)
        drawn.append(part.select(np.sort(chosen).tolist()))
    return joined(drawn)


def fit_constants(model: PET, dataset: Dataset) -> None:
    """Set the energies of the elements and the scales of a new model from labelled structures."""
    labels: list[Properties] = list(dataset.labels)
    if not np.isnan(dataset.energies).all():
        model.offsets.copy_(offsets(dataset, model.species))
    forces = [(atoms.numbers, label.forces) for atoms, label in zip(dataset.atoms, labels, strict=True)]
    known = [(torch.as_tensor(numbers), f) for numbers, f in forces if f is not None]
    if known:
        numbers, values = torch.cat([n for n, _ in known]), torch.cat([f for _, f in known])
        for k, z in enumerate(model.species):
            model.force_scale[k] = values[numbers == z].square().mean().sqrt().clamp(min=0.01).nan_to_num(1.0)
        # Forces are slopes of the energy over about one Å, so their size is also the scale of the energy.
        model.energy_scale.copy_(values.square().mean().sqrt().clamp(min=0.01))
    stresses = [(atoms, label.stress) for atoms, label in zip(dataset.atoms, labels, strict=True)]
    of_cells = [(atoms.get_volume() / len(atoms), stress) for atoms, stress in stresses if stress is not None]
    if of_cells:
        # The head speaks for one atom and is divided by the volume of the cell.
        volume = sum(size for size, _ in of_cells) / len(of_cells)
        model.stress_scale.copy_(torch.stack([one for _, one in of_cells]).square().mean().sqrt() * volume)


def shift_offsets(model: PET, dataset: Dataset) -> None:
    """Shift the energies of the elements so that a model fits the labels of another level of theory best.

    The shift of smallest norm is taken. Differences between structures of one composition are left as they are.
    """
    labelled = dataset.select(np.flatnonzero(~np.isnan(dataset.energies)))
    if not len(labelled):
        return
    answers = predict(Gradient(model), labelled.atoms)
    apart = [
        Properties(label.energy - answer.energy)  # type: ignore[operator]
        for label, answer in zip(labelled.labels, answers, strict=True)
    ]
    model.offsets += offsets(Dataset(labelled.atoms, apart, labelled.sources), model.species)
