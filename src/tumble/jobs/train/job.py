"""train(): from a recipe to a potential, in one folder that any run can resume."""

import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from tumble import checkpoint
from tumble.data import Dataset, coverage, offsets, read, split
from tumble.jobs.train.loop import BEST, LAST, METRICS, Loop
from tumble.jobs.train.result import TrainResult
from tumble.jobs.train.settings import TrainSettings
from tumble.jobs.train.state import fresh, restore
from tumble.models.pet import PET
from tumble.potential import Gradient
from tumble.results import Progress, Table

RECIPE = "recipe.yaml"


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
    to the same bits (on a CPU with the same number of threads).

    Args:
        settings: the recipe.
        folder: where checkpoints, metrics and the result go.
        resume: continue what the folder holds; start if it holds nothing.
        overwrite: start anew in a folder that holds a training; its checkpoints are replaced.
        max_minutes: stop after so many minutes, whatever the recipe says.
        tell: called after every step, with the steps of the whole recipe.
        show: called before the first step, with the label coverage of the training and of the validation set.

    Returns:
        Learning curves, errors on the validation set, and the path of the best potential.

    Raises:
        ValueError: a file, label or setting that does not fit; names it.
        RuntimeError: the loss is no longer finite.
    """
    started = time.monotonic()
    folder = _prepare(Path(folder), resume=resume, overwrite=overwrite)
    training, validation = _datasets(settings)
    for dataset in (training, validation):
        show(coverage(dataset))
    _check_labels(settings, training)
    with _reproducible(settings.seed):
        model = _model(settings, training)
    model.to(device=settings.device, dtype=getattr(torch, settings.dtype))
    is_resumed = (folder / LAST).is_file()
    state = restore(folder / LAST, model, settings) if is_resumed else fresh(model, settings)
    (folder / RECIPE).write_text(settings.to_yaml())
    loop = Loop(settings, folder, training, validation, state)
    with _stop_signal() as was_told:
        is_complete = loop.run(
            lambda: was_told() or (max_minutes is not None and time.monotonic() - started > 60 * max_minutes), tell
        )
    if not (folder / BEST).is_file():
        # Stopped before the first validation: there is a state to resume, and these are its weights.
        checkpoint.save(Gradient(state.averages), folder / BEST, {"settings": settings.model_dump()})
    return TrainResult.of(settings, folder, (training, validation), is_complete=is_complete)


def _prepare(folder: Path, *, resume: bool, overwrite: bool) -> Path:
    if (folder / LAST).is_file() and not resume:
        if not overwrite:
            raise ValueError(
                f"the folder {folder} already holds a training. Continue it with resume=True (--resume in the shell), "
                "replace it with overwrite=True (--overwrite), or choose another folder."
            )
        for name in (LAST, BEST, METRICS):
            (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < 200e6:
        raise RuntimeError(
            f"{folder} has {free / 1e6:.0f} MB left on its disk; at least 200 MB was expected. Make room first."
        )
    return folder


def _datasets(settings: TrainSettings) -> tuple[Dataset, Dataset]:
    def get(files: tuple[str, ...]) -> Dataset:
        return read(
            files,
            energy_key=settings.energy_key,
            forces_key=settings.forces_key,
            stress_key=settings.stress_key,
            require=settings.targets,
            missing=settings.missing,
        )

    everything = get(settings.data)
    if settings.valid:
        return everything, get(settings.valid)
    return split(everything, settings.valid_fraction, settings.seed)


def _check_labels(settings: TrainSettings, dataset: Dataset) -> None:
    if any(value is not None for label in dataset.labels for value in label):
        return
    for n, phase in enumerate(settings.phases):
        if not (phase.orbit.weight or phase.anchor.weight):
            raise ValueError(
                f"none of {len(dataset)} structures has a label, and phase {n} has neither an orbit term nor an anchor "
                "to learn from. Give labelled files, or set orbit.weight or anchor.weight."
            )


def _model(settings: TrainSettings, dataset: Dataset) -> PET:
    """The untrained model, or the saved one to start from."""
    needs_direct = any(phase.forces != "gradient" for phase in settings.phases)
    if settings.start is not None:
        return _saved_model(settings.start, needs_direct=needs_direct)
    shape = settings.model
    if needs_direct and not shape.direct_forces:
        raise ValueError(
            "a phase learns direct forces, but the model has no head for them. Set model.direct_forces to true."
        )
    species = sorted({int(z) for atoms in dataset.atoms for z in atoms.numbers})
    model = PET(species, shape)
    model.offsets.copy_(offsets(dataset, species))
    forces = [(atoms.numbers, label.forces) for atoms, label in zip(dataset.atoms, dataset.labels, strict=True)]
    known = [(torch.as_tensor(numbers), f) for numbers, f in forces if f is not None]
    if known:
        numbers, values = torch.cat([n for n, _ in known]), torch.cat([f for _, f in known])
        for k, z in enumerate(species):
            model.force_scale[k] = values[numbers == z].square().mean().sqrt().clamp(min=0.01).nan_to_num(1.0)
        # Forces are slopes of the energy over about one Å, so their size is also the scale of the energy.
        model.energy_scale.copy_(values.square().mean().sqrt().clamp(min=0.01))
    stresses = [label.stress for label in dataset.labels if label.stress is not None]
    if stresses:
        # The head speaks for one atom and is divided by the volume of the cell.
        pairs = zip(dataset.atoms, dataset.labels, strict=True)
        volumes = [atoms.get_volume() / len(atoms) for atoms, label in pairs if label.stress is not None]
        model.stress_scale.copy_(torch.stack(stresses).square().mean().sqrt() * (sum(volumes) / len(volumes)))
    return model


def _saved_model(name: str, *, needs_direct: bool) -> PET:
    model = getattr(checkpoint.load(name), "model", None)
    if not isinstance(model, PET):
        raise ValueError(f"start: {name} is not a single PET, so its weights cannot be trained. Give a saved PET.")
    if needs_direct and not model.has_direct_forces:
        raise ValueError(f"a phase learns direct forces, but {name} has no head for them. Use forces: gradient.")
    return model.requires_grad_(True)


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Random initial weights from the seed, without touching the random state of the process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT has come; only the main thread can listen, and a second SIGINT interrupts at once."""
    told = threading.Event()

    def listen(number: int, frame: FrameType | None) -> None:
        if told.is_set():
            raise KeyboardInterrupt
        told.set()
        print("stopping: writing a checkpoint first", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield told.is_set
        return
    old = {number: signal.signal(number, listen) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told.is_set
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
