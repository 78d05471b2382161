"""The state of a training on disk: complete at every instant, checked to the last byte, the same bits again."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tumble.jobs.train import durable, state
from tumble.jobs.train.durable import LAST, PREVIOUS
from tumble.jobs.train.settings import Phase, TrainSettings
from tumble.jobs.train.state import State, forget, fresh, holds_training, restore, write
from tumble.models.pet import PET, Levels, PETSettings, without_direct

SHAPE = PETSettings(
    cutoff=4.0, d_pet=4, d_head=4, d_node=4, d_feedforward=4, num_heads=1, num_attention_layers=1, num_gnn_layers=1,
    edge_basis=2, direct_forces=True,
)  # fmt: skip
DAMAGED = LAST + ".damaged"


class Killed(BaseException):
    """Stands for the end of the process."""


def recipe(**changes: Any) -> TrainSettings:
    return TrainSettings(**({"data": ("a.xyz",)} | changes))


def silent(message: str) -> None:
    raise AssertionError(message)


def model(seed: int = 0) -> Levels:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Levels(PET([1, 8], SHAPE), ["pbe", "scan"])


def trained(settings: TrainSettings, steps: int = 3) -> State:
    """A state whose weights have moved, by gradients that are fixed."""
    found = fresh(model(), settings)
    for _ in range(steps):
        moved(found)
    found.minutes, found.losses, found.lines = 0.1, [0.3, float("nan")], 2
    return found


def moved(found: State) -> None:
    """One step of its optimizers."""
    generator = torch.Generator().manual_seed(found.step)
    for weight in found.model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator) if weight.requires_grad else None
    for optimizer in found.optimizers:
        optimizer.step()
    found.average.update_parameters(found.model)
    found.step += 1


def bits(found: State) -> str:
    """Everything about it, summed up: equal for equal bits."""
    parts = [found.model.state_dict(), found.average.state_dict(), *(one.state_dict() for one in found.optimizers)]
    counters = {name: getattr(found, name) for name in state.COUNTERS}
    return hashlib.sha256(repr((_plain(parts), counters)).encode()).hexdigest()


def files(folder: Path) -> dict[str, str]:
    """What a folder holds, by name, each file summed up."""
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in folder.iterdir()}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def resumed(folder: Path, settings: TrainSettings, warn: Callable[[str], None] = silent) -> State:
    return restore(folder, model(seed=1), settings, warn)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a last checkpoint after 3 steps, and one before after 2."""
    found = trained(recipe(), 2)
    write(tmp_path, found.content(recipe()))
    moved(found)
    write(tmp_path, found.content(recipe()))
    return tmp_path


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
@pytest.mark.parametrize("layers", ["all", "last"])
def test_a_state_is_restored_to_the_same_bits_and_goes_on_with_them(
    tmp_path: Path, optimizer: Any, layers: Any
) -> None:
    phases = (Phase(), Phase(optimizer=optimizer, layers=layers, schedule="plateau", weight_decay=0.1))
    settings = recipe(phases=phases)
    found = trained(settings)
    found.next_phase(phases[1])
    moved(found)
    found.best, found.stalled, found.factor, found.seen = 0.1 + 0.2, 2, 0.25, 10**12
    write(tmp_path, found.content(settings))
    again = resumed(tmp_path, settings)
    assert bits(again) == bits(found)
    for one in (found, again):
        moved(one)
    assert bits(again) == bits(found)


def test_a_new_phase_starts_from_the_averages_with_nothing_remembered() -> None:
    found = trained(recipe())
    found.stalled, found.factor, found.best, found.epoch = 4, 0.5, 0.1, 7
    averages = {name: value.clone() for name, value in found.averages.state_dict().items()}
    found.next_phase(Phase(optimizer="adamw"))
    assert all(torch.equal(value, averages[name]) for name, value in found.model.state_dict().items())
    assert (found.phase, found.epoch, found.step, found.stalled, found.factor) == (1, 0, 0, 0, 1.0)
    assert found.best == float("inf")
    assert [type(one) for one in found.optimizers] == [torch.optim.AdamW]
    assert not found.optimizers[0].state


def test_dropped_heads_stay_dropped_in_weights_averages_and_file(tmp_path: Path) -> None:
    settings = recipe(phases=(Phase(forces="direct"), Phase(drop_direct=True)))
    found = trained(settings)
    raw, mean = (one["pbe"].edge_embedder.weight.clone() for one in (found.model, found.averages))
    found.next_phase(settings.phases[1])
    before = resumed_from(found, tmp_path, settings)
    assert before.model.first.has_direct_forces
    found.change(without_direct, settings.phases[1])
    assert not any("readouts.forces" in name for name, _ in found.model.named_parameters())
    assert found.model["pbe"].edge_embedder is found.model["scan"].edge_embedder
    assert not torch.equal(raw, mean)
    assert torch.equal(found.averages["scan"].edge_embedder.weight, mean)
    moved(found)
    after = resumed_from(found, tmp_path, settings)
    assert bits(after) == bits(found)
    assert not after.model.first.has_direct_forces


def resumed_from(found: State, folder: Path, settings: TrainSettings) -> State:
    write(folder, found.content(settings))
    return resumed(folder, settings)


def test_levels_that_share_weights_are_stored_once(tmp_path: Path) -> None:
    def size(names: list[str]) -> int:
        with torch.random.fork_rng(devices=[]):
            shape = SHAPE.model_copy(update={"d_pet": 64, "d_node": 64, "d_feedforward": 64})
            found = fresh(Levels(PET([1], shape), names), recipe())
        write(tmp_path, found.content(recipe()))
        return (tmp_path / LAST).stat().st_size

    assert size(["pbe", "scan"]) < 1.3 * size(["pbe"])


def test_a_checkpoint_is_read_by_torch_too(folder: Path) -> None:
    content = torch.load(folder / LAST, weights_only=True)
    assert content["counters"]["step"] == 3


def test_a_damaged_checkpoint_is_named_and_set_aside_and_the_one_before_is_used(folder: Path) -> None:
    whole, told = (folder / LAST).read_bytes(), list[str]()
    for name in (DAMAGED, DAMAGED + "1"):
        (folder / LAST).write_bytes(whole[:-1])
        assert resumed(folder, recipe(), told.append).step == 2
        assert not (folder / LAST).exists()
        assert (folder / name).stat().st_size == len(whole) - 1
        assert str(folder / LAST) in told[-1]
        assert name in told[-1]
        assert "previous.ckpt is used" in told[-1]
    found = resumed(folder, recipe())
    write(folder, found.content(recipe()))
    assert bits(resumed(folder, recipe())) == bits(found)
    assert {one.name for one in folder.iterdir()} == {LAST, PREVIOUS, DAMAGED, DAMAGED + "1"}


def test_a_file_that_another_process_has_set_aside_already_is_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / LAST).write_bytes(b"")
    told = list[str]()

    def gone(path: Path, target: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "gone", str(path))

    monkeypatch.setattr(Path, "rename", gone)
    assert resumed(folder, recipe(), told.append).step == 2
    assert len(told) == 1


def test_if_both_checkpoints_are_damaged_the_error_says_what_is_left(folder: Path) -> None:
    (folder / LAST).write_bytes(b"PK")
    (folder / PREVIOUS).write_bytes(b"")
    with pytest.raises(ValueError, match=r"Move them away and start again, with start: .*best\.safetensors"):
        resumed(folder, recipe())
    assert {one.name for one in folder.iterdir()} == {LAST, PREVIOUS}


def test_without_a_checkpoint_there_is_nothing_to_continue(tmp_path: Path) -> None:
    assert not holds_training(tmp_path)
    with pytest.raises(ValueError, match=r"holds no checkpoint, neither last\.ckpt nor previous\.ckpt"):
        resumed(tmp_path, recipe())


def test_a_kill_between_the_two_moves_leaves_the_one_before(folder: Path) -> None:
    (folder / LAST).replace(folder / PREVIOUS)
    assert holds_training(folder)
    assert resumed(folder, recipe()).step == 3


def test_forgotten_checkpoints_are_gone(folder: Path) -> None:
    (folder / (LAST + ".partial")).touch()
    forget(folder)
    assert not list(folder.iterdir())
    forget(folder)


def test_checkpoints_of_other_versions_are_named(folder: Path) -> None:
    old = {"digest": "abc", "model": {}, "average": {}, "optimizers": [], "counters": {}}
    torch.save(old, folder / LAST)
    with pytest.raises(ValueError, match=r"last\.ckpt was written by an older version of tumble \(checkpoint format 1"):
        resumed(folder, recipe())
    durable.save(folder / LAST, old | {"version": 99})
    with pytest.raises(ValueError, match=r"by a newer version of tumble \(checkpoint format 99.*best\.safetensors"):
        resumed(folder, recipe())


def test_other_settings_are_refused_and_named_with_both_values(folder: Path) -> None:
    other = recipe(seed=3, phases=(Phase(learning_rate=0.5), Phase()))
    with pytest.raises(ValueError, match="other settings") as caught:
        resumed(folder, other)
    message = str(caught.value)
    assert "phases.0.learning_rate was 0.001 and is now 0.5" in message
    assert "phases.1.forces was None and is now 'gradient'" in message
    assert " more. Resume with the recipe.yaml" in message
    with pytest.raises(ValueError, match=r"other settings: seed was 0 and is now 3\. Resume"):
        resumed(folder, recipe(seed=3))


@pytest.mark.parametrize("changes", [
    {"checkpoint_minutes": 7.0}, {"workers": 3}, {"live": {"tensorboard": True}}, {"device": "meta"},
    {"accumulate": 4}, {"validate_every": 3, "probe": 0}, {"uncertainty": {"kind": "llpr"}}, {"leaks": "allow"},
])  # fmt: skip
def test_settings_that_do_not_change_the_weights_are_free(folder: Path, changes: dict[str, Any]) -> None:
    assert resumed(folder, recipe(**changes)).step == 3


@pytest.mark.parametrize("deciding", [
    {"schedule": "plateau"}, {"patience": 3}, {"until_spread": 1.0},
])  # fmt: skip
def test_where_validations_decide_they_are_not_free(tmp_path: Path, deciding: dict[str, Any]) -> None:
    phases = (Phase(**deciding),)
    write(tmp_path, trained(recipe(phases=phases)).content(recipe(phases=phases)))
    with pytest.raises(ValueError, match="validate_every was 1 and is now 2"):
        resumed(tmp_path, recipe(phases=phases, validate_every=2))


class Interrupted:
    """Stands between a write and the operating system: ends it, or fails it, at a chosen call."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.calls, self.at, self.error, self.patch = 0, at, error, pytest.MonkeyPatch()

    def __enter__(self) -> "Interrupted":
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "open")):
            self.patch.setattr(owner, name, self._counted(getattr(owner, name)))
        return self

    def __exit__(self, *raised: object) -> None:
        self.patch.undo()

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.strike()
            found = call(*arguments, **options)
            return _Writing(found, self.strike) if hasattr(found, "write") else found

        return counted

    def strike(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise self.error


def failing(at: int, number: int) -> Interrupted:
    return Interrupted(at, OSError(number, os.strerror(number)))


class _Writing:
    """A file that asks before each write."""

    def __init__(self, file: Any, ask: Callable[[], None]) -> None:
        self.file, self.ask = file, ask

    def write(self, data: Any) -> int:
        self.ask()
        return cast(int, self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "_Writing":
        return self

    def __exit__(self, *raised: object) -> None:
        self.file.close()


def calls(folder: Path, found: State) -> list[int]:
    """Some of the calls of the operating system that writing a state takes, counted from 1, with the first and last."""
    with Interrupted(-1, Killed()) as watched:
        write(folder, found.content(recipe()))
    return [1, 2, 3, *range(4, watched.calls - 6, watched.calls // 6), *range(watched.calls - 6, watched.calls + 1)]


def test_wherever_a_write_is_killed_a_complete_checkpoint_remains(tmp_path: Path) -> None:
    found = trained(recipe(), 1)
    write(tmp_path, found.content(recipe()))
    for at in calls(tmp_path, found):
        moved(found)
        with Interrupted(at, Killed()), pytest.raises((Killed, RuntimeError)):
            write(tmp_path, found.content(recipe()))
        again = resumed(tmp_path, recipe())
        assert again.step in (found.step - 1, found.step)
        write(tmp_path, found.content(recipe()))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_wherever_the_disk_is_full_the_error_says_so_and_nothing_older_is_lost(folder: Path, number: int) -> None:
    found = resumed(folder, recipe())
    places = calls(folder, found)[:-4]  # after these all bytes are on the disk: two moves and the folder remain
    before = files(folder)
    moved(found)
    pattern = r"last\.ckpt could not be written \(.*: [\d.]+ MB are free, 0\.\d MB are needed\)\. .*last\.ckpt is compl"
    for at in places:
        with failing(at, number), pytest.raises(RuntimeError, match=pattern) as caught:
            write(folder, found.content(recipe()))
        assert str(caught.value).endswith("make room, then continue from it with --resume.")
        assert files(folder) == before, at


def test_a_read_only_folder_is_named(folder: Path) -> None:
    found = resumed(folder, recipe())
    before = files(folder)
    pattern = r"last\.ckpt could not be written \(Read-only file system\).*is complete: make the folder writable, then"
    with failing(1, errno.EROFS), pytest.raises(RuntimeError, match=pattern):
        write(folder, found.content(recipe()))
    assert files(folder) == before


def test_without_an_older_checkpoint_the_error_promises_none(tmp_path: Path) -> None:
    found = trained(recipe())
    with failing(2, errno.EIO), pytest.raises(RuntimeError, match=r"No checkpoint was .*Remove the ca"):
        write(tmp_path, found.content(recipe()))
    assert not list(tmp_path.iterdir())


def test_the_settings_in_a_checkpoint_are_those_that_decide(folder: Path) -> None:
    stored = json.loads(torch.load(folder / LAST, weights_only=True)["settings"])
    assert {"data", "phases", "seed", "ema", "dtype"} <= stored.keys()
    assert not {"workers", "device", "validate_every"} & stored.keys()
