"""plan(): what a training would do and cost, from a few real steps that leave nothing behind."""

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tumble.data import Loader, Step
from tumble.data.maker import MAXIMUM_CACHED_PAIRS
from tumble.jobs.train.job import prepared
from tumble.jobs.train.loop import Loop, Place
from tumble.jobs.train.ranks import Ranks
from tumble.jobs.train.rates import set_rates
from tumble.jobs.train.settings import Phase, TrainSettings
from tumble.jobs.train.sources import Source, sources
from tumble.jobs.train.step import answers
from tumble.results import Cell, Progress, Table

LOOKED_AT, TIMED = 40, 4
"""Steps of each set whose pairs are counted, and steps of each phase that are timed."""
MiB = 2**20

Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Plan:
    """What a training would do and cost.

    sets:   rows: set, training and validation structures, steps, and structures, atoms and pairs of a step.
    phases: rows: what is learned, for how long, with which rates and weights.
    times:  rows: how long steps, epochs and phases take, and which part of a step is waiting for data.
    memory: rows: what takes memory, MiB.
    hours:  of the whole recipe, validations included.
    """

    sets: tuple[Row, ...]
    phases: tuple[Row, ...]
    times: tuple[Row, ...]
    memory: tuple[Row, ...]
    hours: float

    def tables(self) -> tuple[Table, ...]:
        """All of it, ready to print."""
        per_step = ("structures per step", "atoms per step", "pairs per step", "most pairs")
        rates = ("learning rate: first", "peak", "half way", "last")
        return (
            Table("Sets", ("set", "training", "validation", "head", "steps per epoch", *per_step), self.sets),
            Table(
                "Phases",
                ("phase", "forces", "layers", "optimizer", "epochs", "steps", "trainable weights", *rates),
                self.phases,
                "half way and last without what validations may lower; with muon, matrices have rates of their own",
            ),
            Table(
                "Time",
                ("phase", "step", "waiting for data", "epoch", "first epoch, besides", "validation", "phase in all"),
                self.times,
                f"{_span(3600 * self.hours)} in all, on this machine as busy as it is now, without the probe",
            ),
            Table(
                "Memory",
                ("what", "MiB"),
                self.memory,
                "activations: what the largest step keeps for its backward pass; a checkpoint is written beside the "
                "one before it",
            ),
        )


def plan(
    settings: TrainSettings,
    *,
    tell: Callable[[Progress], None] = lambda progress: None,
    show: Callable[[Table], None] = lambda table: None,
) -> Plan:
    """Check everything that a training checks, and measure a few of its steps. Nothing is written or changed.

    Memory of the state is counted: weights, as many averages, gradients of the trainable ones, and the optimizer, once
    or twice as much; activations are what autograd keeps in the largest step that was looked at. The peak is measured:
    that of the process on a CPU, that of the allocator on a GPU.

    Args:
        settings: the recipe.
        tell: called after every step.
        show: called with what the sets hold, and whether their labels belong to one another.

    Raises:
        ValueError: whatever a training would refuse, or a step that does not fit into memory.
        RuntimeError: a loss that is not finite.
    """
    quiet = settings.live.model_copy(update={"tensorboard": False, "wandb": None})
    settings = settings.model_copy(update={"live": quiet})
    with tempfile.TemporaryDirectory() as folder, Ranks.start(settings.device) as ranks:
        found = sources(settings, show)
        state = prepared(settings, found, Path(folder), ranks, is_resumed=False)
        loop = Loop(settings, Place(Path(folder), ranks), found, state)
        try:
            steps = [_sized(one, loader) for one, loader in zip(found, loop.mixture.loaders, strict=True)]
            return _measured(loop, steps, tell)
        finally:
            loop.close()


@dataclass(frozen=True)
class _Sized:
    """The steps of a set.

    row:     in the table.
    largest: the step with most pairs, as far as was looked at.
    pairs:   of that step.
    in_all:  pairs of all steps, about.
    """

    row: Row
    largest: int
    pairs: int
    in_all: float


def _sized(one: Source, loader: Loader) -> _Sized:
    plan, n = loader.step_members(0), len(loader)
    looked_at = np.unique(np.linspace(0, n - 1, min(n, LOOKED_AT)).astype(int)).tolist()
    members = [list(plan[step]) for step in looked_at]
    flat = [index for step in members for index in step]
    ends = np.cumsum([0, *(len(step) for step in members)])[:-1]
    pairs = np.add.reduceat(one.train.select(flat).pair_counts(loader.cutoff), ends)
    atoms = np.add.reduceat(one.train.sizes[flat], ends)
    largest = int(np.argmax(pairs))
    counts: list[Cell] = [len(flat) / len(members), float(atoms.mean()), float(pairs.mean()), int(pairs.max())]
    row = (one.recipe.name or "data", len(one.train), len(one.valid), one.recipe.head or "–", n, *counts)
    return _Sized(row, looked_at[largest], int(pairs[largest]), float(pairs.mean()) * n)


def _measured(loop: Loop, sized: Sequence[_Sized], tell: Callable[[Progress], None]) -> Plan:
    phases = loop.settings.phases
    total, done = len(phases) * 2 * (min(TIMED, len(loop.mixture)) + 1), 0
    rows: list[Row] = []
    times: list[Row] = []
    most: dict[str, float] = {}
    hours = 0.0
    # What is searched anew in every epoch has not been kept from the steps before.
    is_kept = loop.settings.workers > 0 or sum(one.in_all for one in sized) <= MAXIMUM_CACHED_PAIRS

    def step(found: Step, phase: Phase) -> None:
        nonlocal done
        _taken(loop, found, phase)
        done += 1
        tell(Progress(done, total, f"phase {loop.state.phase}"))

    for n, phase in enumerate(phases):
        if n:
            for one in loop.state.model.potentials:
                one.__dict__.pop("features", None)  # compiled for the phase before
            loop.state.next_phase(phase)
        loop.state.best = 0.0  # there is nothing to validate before the first step
        loop.begin(phase)
        trainable = [one for one in loop.state.model.parameters() if one.requires_grad]
        n_steps = len(loop.mixture)
        rows.append(_phase_row(n, phase, loop, n_steps, sum(one.numel() for one in trainable)))
        step(largest := _largest(loop, sized), phase)
        peak = _peak(loop)
        with _kept(loop.state.model.parameters()) as activations:
            step(largest, phase)
        for name, value in (_memory(loop, trainable, activations) | peak).items():
            most[name] = max(value, most.get(name, 0.0))
        first, again = (_timed(loop, phase, step) for _ in range(2))
        again = again if is_kept else first
        validation = _validation(loop, phase)
        n_validations = -(-phase.epochs // loop.settings.validate_every)
        extra = n_steps * max(0.0, first[0] - again[0])
        spent = phase.epochs * n_steps * again[0] + extra + n_validations * validation
        hours += spent / 3600
        spans = map(_span, (n_steps * again[0], extra, validation, spent))
        times.append((n, _span(again[0]), f"{100 * again[1] / again[0]:.0f} %", *spans))
    memory = tuple((name, value / MiB) for name, value in most.items())
    return Plan(tuple(one.row for one in sized), tuple(rows), tuple(times), memory, hours)


def _taken(loop: Loop, found: Step, phase: Phase) -> None:
    try:
        loop.take(found, phase, is_told=False)
    except torch.OutOfMemoryError as error:
        n_pairs = sum(part.batch.n_pairs for part in found.parts)
        raise ValueError(
            f"a step of {len(found.members)} structures with {n_pairs} pairs does not fit into the memory of "
            f"{loop.settings.device} in phase {loop.state.phase}: {str(error).splitlines()[0]} Lower atoms_per_batch, "
            "raise accumulate, or set recompute to true."
        ) from None


def _largest(loop: Loop, sized: Sequence[_Sized]) -> Step:
    """The largest step that was looked at, over all sets."""
    k = max(range(len(sized)), key=lambda index: sized[index].pairs)
    return next(iter(loop.mixture.loaders[k].epoch(0, start=sized[k].largest)))._replace(dataset=k)


def _timed(loop: Loop, phase: Phase, step: Callable[[Step, Phase], None]) -> tuple[float, float]:
    """Seconds of a step, and seconds of it that were spent waiting for data; the same steps whenever it is called."""
    waited, taken = loop.mixture.waited_s, 0
    _settle(loop)
    began = time.perf_counter()
    for found in islice(loop.mixture.epoch(0), TIMED):
        step(found, phase)
        taken += 1
    _settle(loop)
    return (time.perf_counter() - began) / taken, (loop.mixture.waited_s - waited) / taken


def _validation(loop: Loop, phase: Phase) -> float:
    """Seconds of a validation, from one step of each set."""
    seconds = 0.0
    for one, loader in zip(loop.found, loop.validation.loaders, strict=True):
        found = next(iter(loader.epoch(0)))
        began = time.perf_counter()
        for part in found.parts:
            answers(loop.state.averages[one.recipe.head], part.batch, phase, training=False)
        _settle(loop)
        seconds += (time.perf_counter() - began) * len(loader)
    return seconds * (2 if loop.settings.live.raw else 1)


def _settle(loop: Loop) -> None:
    if torch.device(loop.settings.device).type == "cuda":
        torch.cuda.synchronize()


def _phase_row(n: int, phase: Phase, loop: Loop, n_steps: int, n_weights: int) -> Row:
    optimizers, steps = loop.state.optimizers, phase.epochs * n_steps

    def rates(progress: float) -> str:
        set_rates(optimizers, phase, progress)
        return " and ".join(f"{one.param_groups[0]['lr']:.2g}" for one in reversed(optimizers))

    places = (1 / steps, max(phase.warmup, 1 / steps), 0.5, 1.0)
    return n, phase.forces, phase.layers, phase.optimizer, phase.epochs, steps, n_weights, *map(rates, places)


def _memory(loop: Loop, trainable: Sequence[Tensor], activations: Sequence[int]) -> dict[str, float]:
    """Bytes of what a phase keeps."""
    state = loop.state
    moments = [one for optimizer in state.optimizers for entry in optimizer.state.values() for one in entry.values()]
    weights, averages = _bytes(state.model.state_dict().values()), _bytes(state.average.state_dict().values())
    optimizer = _bytes(one for one in moments if isinstance(one, Tensor))
    parts = {"weights": weights, "averages": averages, "gradients": _bytes(trainable), "optimizer": optimizer}
    parts["activations"] = float(sum(activations))
    return parts | {"together": sum(parts.values()), "checkpoint": weights + averages + optimizer}


def _bytes(tensors: Iterable[Any]) -> float:
    seen = {one.data_ptr(): one.untyped_storage().nbytes() for one in tensors if isinstance(one, Tensor)}
    return float(sum(seen.values()))


@contextmanager
def _kept(weights: Iterable[Tensor]) -> Iterator[list[int]]:
    """Bytes of everything that autograd keeps for a backward pass, each storage once, but for the weights."""
    sizes: list[int] = []
    seen = {one.untyped_storage().data_ptr() for one in weights}

    def pack(one: Tensor) -> Tensor:
        storage = one.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            sizes.append(storage.nbytes())
        return one.detach()  # the tensor itself would keep its own graph alive

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one):
        yield sizes


def _peak(loop: Loop) -> dict[str, float]:
    """Bytes, measured; what is counted is a part of it."""
    if torch.device(loop.settings.device).type == "cuda":
        return {"peak on the device, measured": float(torch.cuda.max_memory_allocated(loop.ranks.device))}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak of the process with its data, measured": float(peak)}


def _span(seconds: float) -> str:
    """A time as one says it."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= (2 if size > 1 else 1) * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{1e3 * seconds:.3g} ms"
