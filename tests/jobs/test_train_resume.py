"""A training that is killed, or whose checkpoint is damaged, ends with the bits of one that was left alone."""

import errno
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from safetensors.torch import load_file

from tumble.jobs.train import Phase, TrainSettings, train
from tumble.models.pair import LennardJones
from tumble.models.pet import PETSettings
from tumble.packs import predict
from tumble.potential import Gradient

SMALL = PETSettings(
    cutoff=3.5, d_pet=4, d_head=4, d_node=4, d_feedforward=4, num_heads=1, num_attention_layers=1, num_gnn_layers=1,
    edge_basis=2, direct_forces=True,
)  # fmt: skip
KILLS = 5
"""Of each of the four recipes: 20 moments."""
PLAIN = "gradient with a plateau, in two parts"
TIMINGS = ("minutes", "waiting", "steps_per_s")
RECIPES: dict[str, dict[str, Any]] = {
    "direct, then both with an orbit term": {
        "phases": (Phase(forces="direct", epochs=1), Phase(forces="both", epochs=2, orbit={"weight": 1.0})),
        "probe": 0,
    },
    PLAIN: {
        "phases": (Phase(epochs=3, optimizer="adamw", weight_decay=0.1, schedule="plateau", plateau_patience=1),),
        "accumulate": 2,
    },
    "heads that are dropped": {
        "phases": (
            Phase(forces="both", epochs=1, optimizer="adam", schedule="linear"),
            Phase(drop_direct=True, epochs=2, patience=1),
        ),
        "validate_every": 2,
    },
    "two sets with a head each": {
        "phases": (Phase(epochs=2), Phase(epochs=1, optimizer="adamw", layers="heads")),
        "sets": True,
    },
}  # fmt: skip


class Run(NamedTuple):
    """What came of a training: the steps done, told after each; the signal that ended it; what it printed."""

    steps: list[int]
    signal: int
    words: str


def structures(n: int, seed: int) -> list[Atoms]:
    """Rattled argon crystals of four atoms, labelled by a Lennard-Jones potential."""
    generator = np.random.default_rng(seed)
    frames = [bulk("Ar", a=4.4 + 0.3 * generator.random(), cubic=True) for _ in range(n)]
    for atoms in frames:
        atoms.positions += 0.15 * generator.normal(size=atoms.positions.shape)
    truth = Gradient(LennardJones(epsilon=0.3, sigma=2.8, cutoff=3.5))
    for atoms, answer in zip(frames, predict(truth, frames), strict=True):
        assert answer.energy is not None
        assert answer.forces is not None
        atoms.info["REF_energy"] = float(answer.energy)
        atoms.arrays["REF_forces"] = answer.forces.numpy()
    return frames


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files by name; and a first training, so that whatever is imported on demand is there for all copies."""
    folder = tmp_path_factory.mktemp("data")
    sizes = {"train": 8, "valid": 2, "other": 4}
    for seed, (name, size) in enumerate(sizes.items()):
        write(folder / f"{name}.extxyz", structures(size, seed), format="extxyz")
    found = {name: str(folder / f"{name}.extxyz") for name in sizes}
    train(recipe(found, phases=(Phase(epochs=1),)), folder / "run")
    return found


def recipe(data: Mapping[str, str], **changes: Any) -> TrainSettings:
    plain: dict[str, Any] = {
        "data": (data["train"],),
        "valid": (data["valid"],),
        "model": SMALL,
        "atoms_per_batch": 8,
        "checkpoint_minutes": 0.0,
    }
    if changes.pop("sets", False):
        del plain["data"], plain["valid"]
        first = {"name": "first", "data": (data["train"],), "valid": (data["valid"],), "head": "a"}
        other = {"name": "other", "data": (data["other"],), "valid": (data["valid"],), "head": "b", "weight": 2.0}
        plain["sets"], plain["leaks"] = (first, other), "allow"
    return TrainSettings(**(plain | changes))


def run(settings: TrainSettings, folder: Path, *, stop: int | None = None, after: int = 0, wait: float = 0.0) -> Run:
    """Train in a process of its own, which begins as a copy of this one: importing torch 40 times would take minutes.

    Args:
        stop: a signal to send it, if it lives that long.
        after: steps before that.
        wait: s, further time before that.
    """
    reading, writing = os.pipe()
    words = folder.with_suffix(".words")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside idle threads
        child = os.fork()
    if not child:
        _train(settings, folder, writing, words)
    os.close(writing)
    steps: list[int] = []
    with os.fdopen(reading) as told:
        if stop is not None:
            while len(steps) < after and (line := told.readline()):
                steps.append(int(line))
            time.sleep(wait)
            os.kill(child, stop)
        steps += [int(line) for line in told if line.endswith("\n")]
    status = os.waitpid(child, 0)[1]
    said = words.read_text() if words.is_file() else ""
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, said
    return Run(steps, os.WTERMSIG(status), said)


def _train(settings: TrainSettings, folder: Path, pipe: int, words: Path) -> None:
    """Never returns; tells the steps done through the pipe."""
    code = 1
    try:
        sys.stdout = sys.stderr = words.open("w", buffering=1)
        train(settings, folder, resume=True, tell=lambda progress: os.write(pipe, f"{progress.done}\n".encode()))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def position(folder: Path, steps: int) -> int:
    """Steps of the whole recipe that the last complete checkpoint knows of, for so many in an epoch."""
    names = [name for name in ("last.ckpt", "previous.ckpt") if (folder / name).is_file()]
    if not names:
        return 0
    content = torch.load(folder / names[0], weights_only=True)
    counters, phases = content["counters"], json.loads(content["settings"])["phases"]
    epochs = sum(phase["epochs"] for phase in phases[: counters["phase"]]) + counters["epoch"] - counters["skipped"]
    return int(epochs * steps + counters["step"])


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a training leaves behind but times and dates."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    content = torch.load(folder / "last.ckpt", weights_only=True)
    del content["counters"]["minutes"]
    potentials = {path.name: _bits(load_file(path)) for path in sorted(folder.glob("*.safetensors"))}
    return {
        "metrics": [{key: value for key, value in row.items() if key not in TIMINGS} for row in rows],
        "checkpoint": _bits(content),
        "potentials": potentials,
    }


def _bits(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return hash(value.numpy().tobytes())
    if isinstance(value, dict):
        return {key: _bits(one) for key, one in value.items()}
    return [_bits(one) for one in value] if isinstance(value, list | tuple) else repr(value)


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["metrics"] == other["metrics"]
    assert one["potentials"].keys() == other["potentials"].keys()
    differing = [name for name in one["potentials"] if one["potentials"][name] != other["potentials"][name]]
    assert not differing
    for name, value in one["checkpoint"].items():
        assert (value == other["checkpoint"][name]) is True, f"{name} of last.ckpt"


@pytest.fixture(scope="module")
def whole(data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainSettings, Path]:
    """A recipe, and the folder of a training by it that was left alone."""
    settings, folder = recipe(data, **RECIPES[PLAIN]), tmp_path_factory.mktemp("whole")
    assert len(run(settings, folder).steps) == 12
    return settings, folder


@pytest.fixture(scope="module")
def stopped(whole: tuple[TrainSettings, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training by the same recipe that was told to stop, in its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    found = run(whole[0], folder, stop=signal.SIGTERM, after=5)
    assert found.signal == 0
    assert "writing a checkpoint first" in found.words
    assert position(folder, 4) == found.steps[-1] < 12
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_killed_at_random_moments_ends_with_the_same_bits(
    data: dict[str, str], tmp_path: Path, name: str
) -> None:
    settings, started = recipe(data, **RECIPES[name]), time.monotonic()
    n = len(run(settings, tmp_path / "whole").steps)
    duration, expected = time.monotonic() - started, outcome(tmp_path / "whole")
    per_epoch = expected["metrics"][-1]["step"] // sum(phase.epochs for phase in settings.phases)
    chance, killed, done, folder = random.Random(name), 0, 0, tmp_path / "killed0"
    while killed < KILLS:
        after = chance.randrange(max(1, (n - done) // 3))
        wait = chance.random() * (1.5 * duration / n if after else duration / 4)
        found = run(settings, folder, stop=signal.SIGKILL, after=after, wait=wait)
        assert found.steps == list(range(done + 1, done + 1 + len(found.steps)))
        if not found.signal:  # it was finished before the signal came; the next one starts anew
            assert_same(outcome(folder), expected)
            folder, done = tmp_path / f"killed{killed}", 0
            continue
        killed, told = killed + 1, done + len(found.steps)
        done = position(folder, per_epoch)
        assert told - 1 <= done <= told + 1
    assert run(settings, folder).steps == list(range(done + 1, n + 1))
    assert_same(outcome(folder), expected)


def test_a_training_told_to_stop_goes_on_with_the_same_bits(
    whole: tuple[TrainSettings, Path], stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    assert run(whole[0], tmp_path / "run").steps == list(range(position(stopped, 4) + 1, 13))
    assert_same(outcome(tmp_path / "run"), outcome(whole[1]))


@pytest.mark.parametrize("damage", ["a flipped byte", "half of it", "nothing of it"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_ends_with_the_same_bits(
    whole: tuple[TrainSettings, Path], stopped: Path, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    content = bytearray((folder / "last.ckpt").read_bytes())
    if damage == "a flipped byte":
        content[len(content) // 3] ^= 1
    (folder / "last.ckpt").write_bytes(content[: {"half of it": len(content) // 2, "nothing of it": 0}.get(damage)])
    found = run(whole[0], folder)
    assert f"{folder / 'last.ckpt'} is damaged" in found.words
    assert (folder / "last.ckpt.damaged").is_file()
    assert found.steps == list(range(position(stopped, 4), 13))
    assert_same(outcome(folder), outcome(whole[1]))


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv", "last.ckpt", "best.safetensors"])
def test_a_full_disk_ends_a_training_that_goes_on_with_the_same_bits(
    whole: tuple[TrainSettings, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    replace, asked = Path.replace, []

    def full(path: Path, target: Path) -> Path:
        asked.append(path.name)
        if asked.count(f"{name}.partial") == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RuntimeError, match=rf"{name} could not be written.*\w\.ckpt is complete: make room.*--resume"):
        train(whole[0], tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.partial"))
    monkeypatch.undo()
    assert run(whole[0], tmp_path / "run").steps
    assert_same(outcome(tmp_path / "run"), outcome(whole[1]))


def test_a_loss_that_is_not_finite_leaves_labelled_structures_and_a_good_state(
    data: dict[str, str], tmp_path: Path
) -> None:
    phases = (Phase(epochs=9, optimizer="adam", learning_rate=1e30, warmup=0.0, schedule="constant"),)
    with pytest.raises(RuntimeError, match=r"loss is .*bad_batch\.extxyz; the last good state is .*last\.ckpt"):
        train(recipe(data, phases=phases), tmp_path / "run")
    known = read(data["train"], ":")
    found = read(tmp_path / "run" / "bad_batch.extxyz", ":")
    assert len(found) == 2
    for atoms in found:
        same = [one for one in known if np.allclose(one.positions, atoms.positions, atol=1e-7)]
        assert len(same) == 1
        assert atoms.info["REF_energy"] == pytest.approx(same[0].info["REF_energy"])
        assert np.allclose(atoms.arrays["REF_forces"], same[0].arrays["REF_forces"], atol=1e-6)
        assert data["train"] in atoms.info["source"]
    content = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert all(bool(torch.isfinite(value).all()) for value in content["model"].values())
