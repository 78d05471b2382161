"""One step of the optimizer, over all processes: what is compared with what, and the gradient that follows."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from tumble.batch import Batch, Properties, copies, turn, turn_back
from tumble.data import Part
from tumble.jobs.train.extras import DataSet
from tumble.jobs.train.loss import Errors, errors, known, loss
from tumble.jobs.train.polish import Anchors, orbit_turns, repeated, variance
from tumble.jobs.train.settings import Phase, TrainSettings
from tumble.models.pet import PET
from tumble.potential import Direct, Gradient, Potential


class Share(NamedTuple):
    """A part of a step, in the orientations of that step.

    batch:   turned structures, copy after copy where a phase wants several.
    turns:   (S, 3, 3) how each was turned, or None.
    labels:  what is known of them.
    anchors: what the start says of them in the mean, or None.
    weights: (S,) and (N,) factors in the loss.
    """

    batch: Batch
    turns: Tensor | None
    labels: Properties
    anchors: Properties | None
    weights: tuple[Tensor, Tensor]


def share(part: Part, phase: Phase, turns: Tensor | None, anchors: Anchors | None) -> Share:
    """A part as the phase wants to see it.

    Args:
        part: structures and labels.
        phase: says how many copies there are of each.
        turns: (copies S, 3, 3) how each copy is turned, copy after copy; None leaves them.
        anchors: what to ask for the answers of the start.
    """
    n, batch = phase.orbit.copies, part.batch
    labels = [part.labels, None if anchors is None else anchors(part.members, batch)]
    if n > 1:
        batch = copies(batch, n)
        labels = [None if one is None else repeated(one, n) for one in labels]
    if turns is not None:
        turns = turns.to(batch.positions)
        # Turning back by the inverse is turning.
        labels = [None if one is None else turn_back(one, turns.mT, batch.structure) for one in labels]
        batch = turn(batch, turns)
    assert labels[0] is not None
    weights = part.weights.repeat(n)
    return Share(batch, turns, labels[0], labels[1], (weights, weights[batch.structure]))


def places_of(part: Part, n_structures: int, n_copies: int) -> list[int]:
    """Where the copies of a part's structures are among those of the whole step, copy after copy."""
    return [copy * n_structures + place for copy in range(n_copies) for place in part.places]


def turns_of(phase: Phase, n_structures: int, where: list[int]) -> Tensor:
    """How the copies of all structures of a step are turned, the same in every process, (copies S, 3, 3)."""
    return orbit_turns(n_structures, phase.orbit, where)


def counts_of(shares: Sequence[Share]) -> Tensor:
    """How many numbers the three terms compare, (3, 3) float64: labels, anchor and orbit by energy, forces, stress."""
    counts = torch.zeros(3, 3, dtype=torch.float64)
    for one in shares:
        counts[0] += known(one.labels).cpu()
        if one.anchors is not None:
            counts[1] += known(one.anchors).cpu()
        n, atoms = one.batch.n_structures, one.batch.n_atoms
        counts[2] += torch.tensor([n, 3 * atoms, 9 * n], dtype=torch.float64)
    return counts


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


def objective(model: PET, one: Share, phase: Phase, counts: Tensor) -> Tensor:
    """What a share adds to what a step makes smaller, ().

    Args:
        model: the PET of the share's level of theory.
        one: turned structures.
        phase: what counts how much.
        counts: (3, 3) what `counts_of` gives for all shares of all processes.
    """
    answer, direct = answers(model, one.batch, phase, training=True)
    return combined(answer, direct, model, one, phase, counts)


def combined(answer: Properties, direct: Properties, model: PET, one: Share, phase: Phase, counts: Tensor) -> Tensor:
    """The three terms of a share, each with its factor, ().

    Args:
        answer: of the forces that the phase is about.
        direct: of the direct heads, which counts where forces are "both".
        model: gives the scales of forces.
        one: turned structures with what is known of them.
        phase: what counts how much.
        counts: (3, 3) as in `objective`.
    """
    total = torch.zeros(())
    for factor, labels, count in ((phase.labels, one.labels, counts[0]), (phase.anchor.weight, one.anchors, counts[1])):
        if labels is None or not factor:
            continue
        part = loss(_compared(answer, labels, model, one.batch, phase), phase, count, one.weights)
        if phase.forces == "both":
            beside = _compared(direct._replace(energy=None), labels, model, one.batch, phase)
            part = part + phase.direct_weight * loss(beside, phase, count, one.weights)
        total = total + factor * part
    if phase.orbit.weight:
        assert one.turns is not None
        part = variance(answer, one.turns, one.batch, phase.orbit, counts[2])
        if phase.forces == "both":
            beside_ = direct._replace(energy=None)
            part = part + phase.direct_weight * variance(beside_, one.turns, one.batch, phase.orbit, counts[2])
        total = total + phase.orbit.weight * part
    return total


def _compared(answer: Properties, labels: Properties, model: PET, batch: Batch, phase: Phase) -> Errors:
    found = errors(answer, labels, batch)
    if found.forces is None or not phase.force_per_element:
        return found
    unit = (model.energy_scale / model.force_scale[model.lookup[batch.numbers]]).to(found.forces.dtype)
    return found._replace(forces=found.forces * unit[:, None])


def potential_of(model: PET, phase: Phase) -> Potential:
    """The potential that a phase trains."""
    return Direct(model) if phase.forces == "direct" else Gradient(model)


def heads_of(mixture: Sequence[DataSet]) -> tuple[str, ...]:
    """The heads that the sets of a mixture learn, in their order."""
    return tuple(dict.fromkeys(one.head for one in mixture))


@contextmanager
def precision(settings: TrainSettings) -> Iterator[None]:
    """Matrix products as coarse as the recipe allows, and as they were before afterwards."""
    if settings.matmul == "bf16":
        with torch.autocast(torch.device(settings.device).type, torch.bfloat16), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # of norms: meant so
            yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if settings.matmul == "tf32" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
