"""Section: structures per second in conservative training, `mtt train` against `tumble.train`.

Same model, data, batch size and threads.
"""

import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import yaml
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from speed import systems
from speed.numbers import megabytes, table
from speed.plan import Plan, say
from speed.processes import start

WIDTH = 64
"""d_pet of the model; everything else is metatrain's default."""

N_VALID = 2
"""Frames to validate on; few, because an epoch is timed with its validation."""


def measure(plan: Plan, keep: Callable[[Any], None]) -> dict[str, Any]:
    """Seconds per epoch and peak memory of both, each alone on the machine, one after the other."""
    folder = plan.folder / "training"
    folder.mkdir(exist_ok=True)
    n_frames = _write_data(plan, folder)
    result: dict[str, Any] = {"frames": n_frames, "batch_size": plan.batch_size, "d_pet": WIDTH}
    say(f"mtt train, {plan.epochs} epochs of {n_frames} frames")
    result["metatrain"] = _metatrain(plan, folder)
    say(f"tumble.train, {plan.epochs} epochs of {n_frames} frames")
    result["tumble"] = _tumble(plan, folder)
    return result


def _write_data(plan: Plan, folder: Path) -> int:
    if plan.data:
        frames = ase.io.read(plan.data, f":{plan.frames}", format="extxyz")
    else:
        say("no --data: frames of jittered water, labelled by the packaged potential")
        frames = _generated(plan.frames)
    plain = []
    for frame in frames:
        one = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=True)
        one.info["energy_label"] = frame.get_potential_energy()
        one.arrays["forces_label"] = frame.get_forces()
        plain.append(one)
    ase.io.write(folder / "train.xyz", plain, format="extxyz")
    ase.io.write(folder / "valid.xyz", plain[:N_VALID], format="extxyz")
    return len(plain)


def _generated(n: int) -> list[Atoms]:
    import tumble

    frames = [systems.water(4, seed) for seed in range(n)]
    for frame, answer in zip(frames, tumble.predict(tumble.load("water"), frames), strict=True):
        forces = np.asarray(answer.forces, dtype=float)
        frame.calc = SinglePointCalculator(frame, energy=float(answer.energy), forces=forces)
    return frames


def options(plan: Plan) -> dict[str, Any]:
    """The options file of `mtt train`: its defaults, but for the width and what must be said."""

    def source(name: str) -> dict[str, Any]:
        forces = {"read_from": f"{name}.xyz", "key": "forces_label"}
        energy = {"quantity": "energy", "unit": "eV", "key": "energy_label", "forces": forces, "stress": False}
        return {"systems": {"read_from": f"{name}.xyz", "length_unit": "angstrom"}, "targets": {"energy": energy}}

    training = {"num_epochs": plan.epochs, "batch_size": plan.batch_size, "log_interval": 1}
    return {
        "seed": 0,
        "device": plan.device,
        "architecture": {"name": "pet", "model": {"d_pet": WIDTH}, "training": training},
        "training_set": source("train"),
        "validation_set": source("valid"),
        "test_set": source("valid"),
    }


def _metatrain(plan: Plan, folder: Path) -> dict[str, Any]:
    (folder / "options.yaml").write_text(yaml.safe_dump(options(plan)))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    with (folder / "mtt.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "metatrain", "train", "options.yaml", "-o", "model.pt"],
            cwd=folder,
            env=os.environ | dict.fromkeys(names, str(plan.threads)),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    text = (folder / "mtt.log").read_text()
    if process.returncode:
        last = (text.strip().splitlines() or ["nothing"])[-1]
        raise RuntimeError(f"mtt train ended with exit code {process.returncode}: {last}. Its log is {log.name}.")
    return {"seconds": epoch_seconds(text), "peak": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)}


def epoch_seconds(log: str) -> list[float]:
    """Seconds between the lines that metatrain writes at the end of every epoch, to the second.

    Raises:
        ValueError: there are fewer than two such lines.
    """
    stamps = re.findall(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\]\[INFO\] - Epoch:\s+\d+", log)
    if len(stamps) < 2:
        raise ValueError(
            f"the log of metatrain has {len(stamps)} epochs; at least 2 were expected, because the first one also "
            "prepares the data. Train for more epochs."
        )
    times = [datetime.fromisoformat(stamp) for stamp in stamps]
    return [(b - a).total_seconds() for a, b in pairwise(times)]


def recipe(plan: Plan, folder: Path) -> dict[str, Any]:
    """The same training for us: the same shape, the same frames per step, plain AdamW, no averaged weights."""
    from speed.shapes import hypers
    from tumble.models.pet import PETSettings

    shape = {name: value for name, value in hypers("default").items() if name in PETSettings.model_fields}
    n_atoms = len(ase.io.read(folder / "train.xyz", 0))
    return {
        "data": [str(folder / "train.xyz")],
        "valid": [str(folder / "valid.xyz")],
        "energy_key": "energy_label",
        "forces_key": "forces_label",
        "model": shape | {"d_pet": WIDTH},
        "phases": [{"forces": "gradient", "epochs": plan.epochs, "optimizer": "adamw", "learning_rate": 1e-4}],
        "atoms_per_batch": plan.batch_size * n_atoms,
        "ema": 0.0,
        "probe": 0,
        "device": plan.device,
    }


def _tumble(plan: Plan, folder: Path) -> dict[str, Any]:
    with start("tumble", plan.threads) as process:
        reply = process.ask("train", recipe=recipe(plan, folder), folder=str(folder / "tumble"))
    return {"seconds": reply["seconds"], "peak": reply["peak"]}


def report(result: dict[str, Any]) -> list[str]:
    """The table of this section."""
    rates = {name: result["frames"] / statistics.median(result[name]["seconds"]) for name in ("metatrain", "tumble")}
    rows = [
        [
            name,
            f"{statistics.median(result[name]['seconds']):.1f}",
            f"{rate:.2f}",
            megabytes(result[name]["peak"]),
            f"{rate / rates['metatrain']:.2f}",
        ]
        for name, rate in rates.items()
    ]
    return [
        f"## Training: energy and forces, d_pet {result['d_pet']}, {result['frames']} frames, "
        f"batches of {result['batch_size']}",
        "",
        *table(["", "s per epoch", "structures/s", "peak RSS, MB", "/ metatrain"], rows),
    ]
