"""The plan of a training: everything checked, a few steps measured, nothing left behind."""

import math
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase.build import molecule
from torch import Tensor, nn

from tumble.jobs.train import TrainSettings
from tumble.jobs.train import plan as planning
from tumble.jobs.train.loop import Loop
from tumble.jobs.train.plan import Plan, _bytes, _kept, _span, plan
from tumble.models.pair import Morse
from tumble.packs import predict
from tumble.potential import Gradient

SHAPE = {"cutoff": 3.0, "d_pet": 8, "d_head": 8, "d_node": 8, "d_feedforward": 8, "num_heads": 2, "edge_basis": 0}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, n in (("train", 12), ("valid", 3)):
        structures = []
        for _ in range(n):
            atoms = molecule("CH3CH2OH")
            atoms.positions += random.normal(scale=0.05, size=atoms.positions.shape)
            structures.append(atoms)
        for atoms, one in zip(structures, predict(Gradient(Morse(1.0, 1.5, 2.0, cutoff=3.0)), structures), strict=True):
            atoms.info["REF_energy"], atoms.arrays["REF_forces"] = float(one.energy), one.forces.numpy()
        ase.io.write(folder / f"{name}.extxyz", structures)
    return {name: [str(folder / f"{name}.extxyz")] for name in ("train", "valid")}


@pytest.fixture
def recipe(files: dict[str, list[str]]) -> TrainSettings:
    return TrainSettings(
        data=files["train"],
        valid=files["valid"],
        model={**SHAPE, "direct_forces": True},
        phases=[
            {"forces": "direct", "epochs": 3, "warmup": 0.5, "learning_rate": 0.002, "optimizer": "adam"},
            {"forces": "gradient", "epochs": 7, "layers": "last", "schedule": "linear"},
        ],
        atoms_per_batch=36,
        probe=0,
    )


@pytest.fixture(scope="module")
def cache() -> dict[str, Plan]:
    return {}


@pytest.fixture
def found(recipe: TrainSettings, cache: dict[str, Plan]) -> Plan:
    if "plan" not in cache:
        cache["plan"] = plan(recipe)
    return cache["plan"]


def columns(found: Plan, table: int) -> dict[str, list[object]]:
    one = found.tables()[table]
    return {name: [row[k] for row in one.rows] for k, name in enumerate(one.columns)}


def test_sets_have_their_sizes_and_steps(found: Plan) -> None:
    sets = columns(found, 0)
    assert sets["training"] == [12]
    assert sets["validation"] == [3]
    assert sets["steps per epoch"] == [3]  # 9 atoms in a molecule, 4 molecules in a step
    assert sets["structures per step"] == [4]
    assert sets["atoms per step"] == [36]
    assert sets["most pairs"][0] >= sets["pairs per step"][0] > 0


def test_phases_have_their_steps_rates_and_weights(found: Plan) -> None:
    phases = columns(found, 1)
    assert phases["steps"] == [9, 21]
    assert phases["learning rate: first"][0] == "0.00044"  # 1/9 of the phase, half of which is warm-up
    assert phases["peak"][0] == "0.002"
    assert [one.split(" and ")[0] for one in phases["last"]] == ["0", "0"]
    assert phases["half way"][1].startswith("0.00051")  # linear: 1 - (0.5 - 0.02) / 0.98
    assert 0 < phases["trainable weights"][1] < phases["trainable weights"][0]


def test_memory_adds_up(found: Plan) -> None:
    memory = dict(found.memory)
    n_weights = columns(found, 1)["trainable weights"][0]
    assert memory["gradients"] == pytest.approx(4 * n_weights / 2**20)
    assert memory["optimizer"] == pytest.approx(2 * 4 * n_weights / 2**20, rel=0.02)
    assert memory["averages"] == pytest.approx(memory["weights"], rel=0.01)
    assert memory["activations"] > 0
    parts = [memory[name] for name in ("weights", "averages", "gradients", "optimizer", "activations")]
    assert memory["together"] <= sum(parts) * (1 + 1e-9)
    assert memory["checkpoint"] == pytest.approx(memory["weights"] + memory["averages"] + memory["optimizer"])
    assert memory["peak of the process with its data, measured"] > memory["together"]


def test_times_are_those_of_steps_times_their_number(found: Plan) -> None:
    assert [row[0] for row in found.times] == [0, 1]
    assert 0 < found.hours < 0.1
    assert found.tables()[2].note.startswith(_span(3600 * found.hours))


def test_nothing_is_written_and_no_one_is_told(
    recipe: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def watchers(live: object, *rest: object, **more: object) -> object:
        told.append(live)
        return type("Nobody", (), {"close": lambda self: None})()

    monkeypatch.setattr("tumble.jobs.train.loop.Watchers", watchers)
    monkeypatch.setattr(planning.tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    state = torch.random.get_rng_state()
    plan(recipe.model_copy(update={"live": recipe.live.model_copy(update={"tensorboard": True, "wandb": "project"})}))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [(one.tensorboard, one.wandb) for one in told] == [(False, None)]
    assert list(tmp_path.iterdir()) == []


def test_every_measured_step_is_told(recipe: TrainSettings) -> None:
    told = []
    plan(recipe.model_copy(update={"phases": recipe.phases[:1]}), tell=told.append)
    assert [one.done for one in told] == list(range(1, told[0].total + 1))


def test_smaller_parts_keep_less_for_their_backward_pass(recipe: TrainSettings) -> None:
    first = recipe.model_copy(update={"phases": recipe.phases[:1]})
    whole, part = (dict(plan(first.model_copy(update={"atoms_per_batch": n})).memory) for n in (36, 9))
    assert part["activations"] < 0.5 * whole["activations"]


def test_what_a_training_refuses_is_refused(recipe: TrainSettings) -> None:
    wrong = recipe.model_copy(update={"model": recipe.model.model_copy(update={"direct_forces": False})})
    with pytest.raises(ValueError, match="model has no head for them"):
        plan(wrong)


def test_a_step_that_does_not_fit_says_what_to_lower(recipe: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 99 GiB.")

    monkeypatch.setattr(Loop, "take", too_large)
    with pytest.raises(ValueError, match=r"4 structures with \d+ pairs does not fit into the memory of cpu in phase 0"):
        plan(recipe)


def test_what_a_backward_pass_keeps_is_counted_once() -> None:
    weight, x = nn.Parameter(torch.ones(8, 8)), torch.ones(16, 8, requires_grad=True)
    with _kept([weight]) as sizes:
        y: Tensor = (x @ weight).exp()
        (y * y).sum().backward()
    # x for the gradient of the weight, and the exponential once, though it is used three times.
    assert sorted(sizes) == [4 * 16 * 8, 4 * 16 * 8]
    assert x.grad is not None
    expected = 2 * math.exp(16) * 8
    torch.testing.assert_close(x.grad, torch.full((16, 8), expected))


def test_bytes_of_shared_storage_are_counted_once() -> None:
    one = torch.zeros(10)
    assert _bytes([one, one.view(2, 5), torch.zeros(3, dtype=torch.float64), "text"]) == 40 + 24


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "12.3 ms"), (45.0, "45 s"), (300.0, "5 min"), (9000.0, "2.5 h"), (4e5, "4.63 d")]
)
def test_a_time_is_said_in_its_unit(seconds: float, text: str) -> None:
    assert _span(seconds) == text
