"""train(): from a recipe to a potential, in one folder that any run can resume."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from numpy.typing import NDArray

from tumble import checkpoint
from tumble.endings import stop_signal
from tumble.jobs.train import certainty, durable
from tumble.jobs.train.initial import initial
from tumble.jobs.train.loop import BEST, METRICS, Loop, Place
from tumble.jobs.train.ranks import Ranks
from tumble.jobs.train.result import TrainResult
from tumble.jobs.train.settings import TrainSettings
from tumble.jobs.train.shard import check_shard, shard_state
from tumble.jobs.train.sources import Source, sources
from tumble.jobs.train.state import State, forget, fresh, holds_training, restore
from tumble.models.pet import PET
from tumble.results import Progress, Table

RECIPE, CALIBRATED = "recipe.yaml", "calibrated.safetensors"


def train(
    settings: TrainSettings,
    folder: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    max_minutes: float | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
    show: Callable[[Table], None] = lambda table: None,
) -> TrainResult:
    """Train a potential.

    SIGTERM and SIGINT end it like the time limit does: a checkpoint is written first, and `resume` continues from there
    to the same bits (on a CPU with the same number of threads). Under torchrun all processes share every step, and the
    gradient is that of one process to rounding, whatever their number; the first one writes and tells.

    Args:
        settings: the recipe.
        folder: where checkpoints, metrics and the result go.
        resume: continue what the folder holds; start if it holds nothing.
        overwrite: start anew in a folder that holds a training; its checkpoints are replaced.
        max_minutes: stop after so many minutes, whatever the recipe says.
        tell: called after every step, with the steps of the whole recipe.
        show: called before the first step, with the label coverage of the training and of the validation sets.

    Returns:
        Learning curves, errors on the validation sets, and the path of the best potential.

    Raises:
        ValueError: a file, label or setting that does not fit; names it.
        RuntimeError: the loss is no longer finite, a file cannot be written, or another process is lost.
    """
    started, folder = time.monotonic(), Path(folder)
    check_shard(settings)
    with Ranks.start(settings.device) as ranks:
        if ranks.is_first:
            _prepare(folder, resume=resume, overwrite=overwrite)
        ranks.barrier()
        found = sources(settings, show if ranks.is_first else lambda table: None)
        state = prepared(settings, found, folder, ranks, is_resumed=resume)
        if ranks.is_first:
            durable.replace_text(folder / RECIPE, settings.to_yaml())
        loop = Loop(settings, Place(folder, ranks), found, state)
        with stop_signal("checkpoint") as was_told:
            is_complete = loop.run(
                lambda: was_told() or (max_minutes is not None and time.monotonic() - started > 60 * max_minutes),
                tell if ranks.is_first else lambda progress: None,
            )
        loop.close()
        if ranks.any(ranks.is_first and not (folder / BEST).is_file()):
            loop.keep()  # stopped before the first validation: these are the weights of the state to resume
        ranks.barrier()
        arrays = _calibrated(settings, folder, found, tell) if is_complete and ranks.is_first else {}
        return TrainResult.of(settings, folder, found, is_complete=is_complete, extra=arrays)


def _calibrated(
    settings: TrainSettings, folder: Path, found: Sequence[Source], tell: Callable[[Progress], None]
) -> Mapping[str, NDArray[Any]]:
    """Fit the uncertainty that the recipe wants to the best potential, and save it beside it."""
    if settings.uncertainty.kind == "none":
        return {}
    train, valid = found[0].train, found[0].valid
    model = cast(PET, checkpoint.load(folder / BEST, device=settings.device).model)
    how = settings.uncertainty
    potential, arrays = certainty.fit(model, train, valid, how, turn=settings.turn, seed=settings.seed, tell=tell)
    with durable.writing(folder / CALIBRATED):
        checkpoint.save(potential, folder / CALIBRATED, {"settings": settings.model_dump()})
    return arrays


def _prepare(folder: Path, *, resume: bool, overwrite: bool) -> None:
    if holds_training(folder) and not resume:
        if not overwrite:
            raise ValueError(
                f"the folder {folder} already holds a training. Continue it with resume=True (--resume in the shell), "
                "replace it with overwrite=True (--overwrite), or choose another folder."
            )
        forget(folder)
        for name in (BEST, METRICS):
            (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < 200e6:
        raise RuntimeError(
            f"{folder} has {free / 1e6:.0f} MB left on its disk; at least 200 MB was expected. Make room first."
        )


def prepared(
    settings: TrainSettings, found: Sequence[Source], folder: Path, ranks: Ranks, *, is_resumed: bool
) -> State:
    """The state at the first step, or the one to resume: weights on their device, in the precision of the recipe."""
    with _reproducible(settings.seed):
        levels = initial(settings, found)
    levels.to(device=ranks.device, dtype=getattr(torch, settings.dtype))
    for name in levels.names:
        levels[name].recompute = settings.recompute
    if is_resumed and holds_training(folder):
        warn = partial(print, file=sys.stderr) if ranks.is_first else lambda text: None
        state = restore(folder, levels, settings, warn)
        ranks.barrier()  # the first process may write once all have read
    else:
        state = fresh(levels, settings)
    if settings.shard:
        shard_state(state, settings.phases[min(state.phase, len(settings.phases) - 1)], ranks)
    return state


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Random initial weights from the seed, without touching the random state of the process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
