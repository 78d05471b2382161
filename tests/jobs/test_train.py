"""Training on labels of a potential that is known: it learns, it resumes to the same bits, it loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write

import tumble
from tumble import checkpoint
from tumble.batch import Properties
from tumble.jobs.train import Phase, Target, TrainSettings, train
from tumble.jobs.train.loss import loss, residuals, summary
from tumble.jobs.train.polish import random_turns
from tumble.jobs.train.state import set_rates
from tumble.models.pair import LennardJones
from tumble.models.pet import PETSettings
from tumble.packs import predict
from tumble.potential import Gradient, collate_for
from tumble.results import Table

SMALL = PETSettings(
    cutoff=4.0, d_pet=8, d_head=8, d_node=8, d_feedforward=8, num_heads=2, num_attention_layers=1, num_gnn_layers=1,
    edge_basis=4, direct_forces=True,
)  # fmt: skip


def structures(n: int, seed: int = 0) -> list[Atoms]:
    """Rattled argon crystals of eight atoms, labelled by a Lennard-Jones potential."""
    generator = np.random.default_rng(seed)
    truth = Gradient(LennardJones(epsilon=0.3, sigma=3.0, cutoff=4.5))
    frames = []
    for _ in range(n):
        atoms = bulk("Ar", a=4.9 + 0.3 * generator.random()).repeat(2)
        atoms.positions += 0.2 * generator.normal(size=atoms.positions.shape)
        frames.append(atoms)
    for atoms, answer in zip(frames, predict(truth, frames), strict=True):
        atoms.info["REF_energy"] = float(answer.energy)  # type: ignore[arg-type]
        atoms.arrays["REF_forces"] = answer.forces.numpy()  # type: ignore[union-attr]
        atoms.info["REF_stress"] = answer.stress.numpy()  # type: ignore[union-attr]
    return frames


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    write(folder / "train.extxyz", structures(12), format="extxyz")
    write(folder / "valid.extxyz", structures(4, seed=1), format="extxyz")
    return {"data": str(folder / "train.extxyz"), "valid": str(folder / "valid.extxyz")}


def recipe(files: dict[str, str], **changes: Any) -> TrainSettings:
    phases = (Phase(forces="direct", epochs=2), Phase(forces="both", epochs=2))
    plain: dict[str, Any] = {
        "model": SMALL,
        "phases": phases,
        "atoms_per_batch": 16,
        "checkpoint_minutes": 0.0,
    }
    return TrainSettings(data=(files["data"],), valid=(files["valid"],), **(plain | changes))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "last.ckpt", weights_only=True)["average"]
    return state


def test_a_training_learns_energies_forces_and_stresses(files: dict[str, str], tmp_path: Path) -> None:
    phases = (Phase(epochs=50, learning_rate=2e-3, matrix_learning_rate=3e-2),)
    settings = recipe(files, phases=phases, targets=("energy", "forces", "stress"), validate_every=5)
    result = train(settings, tmp_path / "run")
    first, last = result.metrics[0], result.metrics[-1]
    assert result.is_complete
    for name in ("energy_mae", "forces_mae", "stress_mae"):
        assert last[name] < 0.5 * first[name], name
    answers = predict(checkpoint.load(result.potential), structures(4, seed=1))
    labels = result.arrays["forces_label"]
    predicted = np.concatenate([answer.forces.numpy() for answer in answers])  # type: ignore[union-attr]
    assert np.abs(predicted - labels).mean() * 1000 == pytest.approx(last["forces_mae"], rel=0.2)


def test_a_training_writes_a_folder_that_tells_everything(files: dict[str, str], tmp_path: Path) -> None:
    result = train(recipe(files), tmp_path / "run")
    result.save(tmp_path / "run", overwrite=True)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"recipe.yaml", "last.ckpt", "best.safetensors", "metrics.jsonl", "metrics.csv", "result.json"} <= names
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines] == [0, 0, 1, 1]
    assert all(line["forces_spread"] > 0 for line in lines)
    assert "direct_forces_mae" in lines[-1]
    table = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(table) == 5
    assert table[0].startswith("phase,epoch,step")
    kinds = {fact.title for fact in result.facts()}
    assert {"Errors on the validation set", "Loss", "Parity: forces"} <= kinds
    again = TrainSettings.from_yaml(tmp_path / "run" / "recipe.yaml")
    assert again.digest == recipe(files).digest


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_resumed_training_ends_with_the_same_bits(files: dict[str, str], tmp_path: Path, optimizer: str) -> None:
    phases = (
        Phase(forces="direct", epochs=1, optimizer=optimizer),
        Phase(forces="both", epochs=2, optimizer=optimizer),
    )
    settings = recipe(files, phases=phases)
    train(settings, tmp_path / "whole")
    count = 0

    def stop_often(progress: Any) -> None:
        nonlocal count
        count += 1
        if count % 5 == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(20):
        if train(settings, tmp_path / "parts", resume=True, tell=stop_often).is_complete:
            break
    assert count > 15
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    drop = ("minutes",)
    one, other = (
        [{k: v for k, v in json.loads(line).items() if k not in drop} for line in path.read_text().splitlines()]
        for path in (tmp_path / "whole" / "metrics.jsonl", tmp_path / "parts" / "metrics.jsonl")
    )
    assert one == other


def test_a_killed_training_resumes_from_its_last_checkpoint(files: dict[str, str], tmp_path: Path) -> None:
    settings = recipe(files, phases=(Phase(epochs=3),))
    (tmp_path / "recipe.yaml").write_text(settings.to_yaml())
    code = (
        "import sys, torch; torch.set_num_threads(1); from tumble.jobs.train import *; "
        "train(TrainSettings.from_yaml(sys.argv[1]), sys.argv[2], resume=True)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "recipe.yaml"), str(tmp_path / "killed")]
    process = subprocess.Popen(words)
    while not (tmp_path / "killed" / "last.ckpt").exists():
        assert process.poll() is None, "the training ended before it wrote a checkpoint"
        time.sleep(0.05)
    time.sleep(0.3)
    process.kill()
    process.wait()
    subprocess.run(words, check=True)
    words[-1] = str(tmp_path / "whole")
    subprocess.run(words, check=True)
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_a_time_limit_ends_a_training_with_something_to_use(files: dict[str, str], tmp_path: Path) -> None:
    result = train(recipe(files), tmp_path / "run", max_minutes=0.0)
    assert not result.is_complete
    assert checkpoint.load(tmp_path / "run" / "best.safetensors").species == (18,)


def test_a_folder_with_a_training_is_not_overwritten_by_accident(files: dict[str, str], tmp_path: Path) -> None:
    train(recipe(files), tmp_path / "run", max_minutes=0.0)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"already holds a training.*--resume"):
        train(recipe(files), tmp_path / "run")
    with pytest.raises(ValueError, match="other settings"):
        train(recipe(files, seed=1), tmp_path / "run", resume=True)
    train(recipe(files, seed=1), tmp_path / "run", overwrite=True, max_minutes=0.0)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_damaged_checkpoint_is_named(files: dict[str, str], tmp_path: Path) -> None:
    train(recipe(files), tmp_path / "run", max_minutes=0.0)
    path = tmp_path / "run" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last\.ckpt cannot be read"):
        train(recipe(files), tmp_path / "run", resume=True)


def test_a_loss_that_is_not_finite_stops_with_the_batch_saved(files: dict[str, str], tmp_path: Path) -> None:
    settings = recipe(files, phases=(Phase(epochs=3, optimizer="adam", learning_rate=1e30, warmup=0.0),))
    with pytest.raises(RuntimeError, match=r"the loss is (nan|inf).*bad_batch\.extxyz"):
        train(settings, tmp_path / "run")
    assert (tmp_path / "run" / "bad_batch.extxyz").is_file()


def test_direct_forces_need_a_head(files: dict[str, str], tmp_path: Path) -> None:
    shape = SMALL.model_copy(update={"direct_forces": False})
    with pytest.raises(ValueError, match=r"no head for them\. Set model\.direct_forces"):
        train(recipe(files, model=shape), tmp_path / "run")
    done = train(recipe(files, model=shape, phases=(Phase(epochs=1),)), tmp_path / "plain")
    with pytest.raises(ValueError, match="has no head for them"):
        train(recipe(files, start=str(done.potential)), tmp_path / "run")


def test_a_training_can_start_from_a_saved_potential(files: dict[str, str], tmp_path: Path) -> None:
    first = train(recipe(files), tmp_path / "first")
    second = train(recipe(files, start=str(first.potential), phases=(Phase(epochs=1),)), tmp_path / "second")
    assert second.metrics[0]["valid_loss"] < first.metrics[0]["valid_loss"]
    pair = checkpoint.save(Gradient(LennardJones()), tmp_path / "pair.safetensors")
    with pytest.raises(ValueError, match="is not a single PET"):
        train(recipe(files, start=str(pair)), tmp_path / "third")


def test_structures_without_some_labels_or_any_take_part_if_missing_labels_are_masked(
    files: dict[str, str], tmp_path: Path
) -> None:
    frames = structures(6)
    for atoms in frames[2:]:
        del atoms.arrays["REF_forces"]
    for atoms in frames[4:]:
        del atoms.info["REF_energy"]
    write(tmp_path / "some.extxyz", frames, format="extxyz")
    settings = recipe(files | {"data": str(tmp_path / "some.extxyz")}, missing="mask", atoms_per_batch=8)
    assert train(settings, tmp_path / "run").is_complete
    with pytest.raises(ValueError, match="forces"):
        train(recipe(files | {"data": str(tmp_path / "some.extxyz")}), tmp_path / "strict")


def test_without_validation_files_a_fraction_of_the_data_is_kept(files: dict[str, str], tmp_path: Path) -> None:
    shown: list[Table] = []
    settings = recipe(files).model_copy(update={"valid": (), "valid_fraction": 0.25})
    train(settings, tmp_path / "run", max_minutes=0.0, show=shown.append)
    counts = [dict(zip(table.columns, table.rows[0], strict=True))["structures"] for table in shown]
    assert counts == [9, 3]


def test_turns_are_elements_of_o3_fixed_by_their_place() -> None:
    turns = random_turns(200, [0, 1, 2, 3])
    assert torch.allclose(turns @ turns.mT, torch.eye(3, dtype=turns.dtype).expand_as(turns), atol=1e-12)
    assert 60 < int((torch.linalg.det(turns) < 0).sum()) < 140
    assert torch.equal(turns, random_turns(200, [0, 1, 2, 3]))
    assert not torch.equal(turns, random_turns(200, [0, 1, 2, 4]))


def test_losses_and_errors_have_their_closed_forms() -> None:
    batch = collate_for(Gradient(LennardJones()), structures(2))
    energy, forces = torch.zeros(2, dtype=torch.float64), torch.zeros(16, 3, dtype=torch.float64)
    labels = Properties(energy, forces.clone())
    labels.forces[3] = torch.nan  # type: ignore[index]
    errors = residuals(Properties(energy + 0.8, forces + 0.1), labels, batch)
    assert torch.allclose(errors["energy"], torch.full((2,), 0.1, dtype=torch.float64))
    assert errors["forces"].shape == (45,)
    phase = Phase(energy=Target(weight=2.0, loss="mse"), force=Target(weight=3.0, delta=0.05))
    assert float(loss(errors, phase)) == pytest.approx(2.0 * 0.01 + 3.0 * (0.1 - 0.025))
    assert summary([errors, errors])["forces_mae"] == pytest.approx(100.0)


def test_the_rate_rises_and_falls_as_the_phase_says() -> None:
    optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])]
    phase = Phase(warmup=0.1)
    assert set_rates(optimizers, phase, 0.05) == pytest.approx(0.5)
    assert set_rates(optimizers, phase, 0.1) == pytest.approx(1.0)
    assert set_rates(optimizers, phase, 0.55) == pytest.approx(0.5)
    assert set_rates(optimizers, phase, 1.0) == pytest.approx(0.0, abs=1e-12)
    assert set_rates(optimizers, Phase(schedule="constant"), 0.9) == 1.0


def test_a_training_leaves_the_random_state_of_the_process(files: dict[str, str], tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    train(recipe(files), tmp_path / "run", max_minutes=0.0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_unknown_settings_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match="learning_rate"):
        Phase(lerning_rate=1e-3)  # type: ignore[call-arg]
    assert tumble.__version__
