"""Several processes: what they tell each other, that they learn what one learns, and what happens when one is lost."""

import copy
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from torch import Tensor

from tumble.batch import collate
from tumble.jobs.train import TrainSettings, durable, ranks, shard, train
from tumble.jobs.train.ranks import Ranks
from tumble.jobs.train.state import averaged
from tumble.models.pair import LennardJones
from tumble.models.pet import PET, Levels
from tumble.packs import predict
from tumble.potential import Direct, Gradient
from tumble.results import Progress

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "slurm" / "train.sbatch"
SHAPE = {
    "cutoff": 4.0, "d_pet": 16, "d_head": 16, "d_node": 16, "d_feedforward": 16, "num_heads": 2,
    "num_attention_layers": 1, "num_gnn_layers": 1, "edge_basis": 2, "direct_forces": True,
}  # fmt: skip
LAST_STEP = 3
"""After which the first process of the killed training dies."""


def clusters(n: int, seed: int = 0) -> list[Atoms]:
    """Two to four argon atoms, labelled by a Lennard-Jones potential."""
    generator = np.random.default_rng(seed)
    corners = 3.6 * np.array([[0, 0, 0], [1, 0, 0], [0.5, 0.9, 0], [0.5, 0.3, 0.8]])
    frames = [Atoms(f"Ar{k}", corners[:k] + 0.2 * generator.normal(size=(k, 3))) for k in (2 + i % 3 for i in range(n))]
    answers = predict(Gradient(LennardJones(epsilon=0.3, sigma=3.0, cutoff=4.5)), frames)
    for atoms, answer in zip(frames, answers, strict=True):
        forces = np.asarray(answer.forces)
        atoms.calc = SinglePointCalculator(atoms, energy=float(answer.energy), forces=forces)  # type: ignore[arg-type]
    return frames


def recipes(folder: Path) -> dict[str, dict[str, Any]]:
    """Trainings of a few steps: all kinds of forces, masked labels, steps of one structure, parts, and two sets."""
    base: dict[str, Any] = {
        "data": [str(folder / "train.xyz")], "valid": [str(folder / "valid.xyz")], "model": SHAPE, "dtype": "float64",
        "atoms_per_batch": 9, "probe": 0, "live": {"raw": False, "curl": False}, "checkpoint_minutes": 0,
    }  # fmt: skip
    short = {"epochs": 1, "optimizer": "adamw", "warmup": 0, "learning_rate": 1e-3}
    kinds = (("direct", "adamw"), ("both", "adamw"), ("gradient", "muon"))
    phases = [{**short, "forces": forces, "optimizer": optimizer} for forces, optimizer in kinds]
    plain, sets = (
        {**base, "phases": phases},
        {key: value for key, value in base.items() if key not in ("data", "valid")},
    )
    mixed = [
        {"name": name, "data": [str(folder / f"{name}.xyz")], "valid": [str(folder / "valid.xyz")], "head": name}
        for name in ("train", "masked")
    ]
    orbit = {**short, "orbit": {"weight": 1.0}}
    return {
        "phases": plain,
        "masked": {**base, "data": [str(folder / "masked.xyz")], "missing": "mask", "phases": [short]},
        "single": {**base, "atoms_per_batch": 2, "phases": [short]},
        "mixture": {**sets, "sets": mixed, "missing": "mask", "accumulate": 2, "phases": [orbit]},
        "sharded": {**base, "shard": True, "phases": [{**short, "forces": "both"}, short]},
    }


def learn(recipe: dict[str, Any], folder: Path, **more: Any) -> None:
    """Train by a recipe."""
    train(TrainSettings(**recipe), folder, **more)


def die(at: Progress) -> None:
    """End this process as nothing can prevent, after a few steps."""
    if at.done == LAST_STEP:
        os.kill(os.getpid(), signal.SIGKILL)


def stop(at: Progress) -> None:
    """End a training in the middle of a step's bookkeeping, after a few steps."""
    if at.done == LAST_STEP:
        raise InterruptedError


def numbers(this: Ranks) -> dict[str, Any]:
    """What this process finds out about all."""
    ranks.BUCKET = 64
    tensors = [torch.full((k, 2), float(this.rank + k), dtype=kind) for k in (1, 2, 3) for kind in FLOATS]
    this.sum_(tensors)
    weights = [torch.zeros(2, requires_grad=True) for _ in range(3)]
    weights[0].grad = torch.ones(2)
    if this.rank:
        weights[1].grad = torch.full((2,), 5.0)
    this.sum_gradients_(weights)
    ranks.BUCKET = 25_000_000
    return {
        "sums": [one.tolist() for one in tensors],
        "gradients": [None if one.grad is None else one.grad.tolist() for one in weights],
        "sum": this.sum(0.1 + this.rank),
        "any": [this.any(this.rank == 1), this.any(False)],
        "gathered": this.gather([this.rank] * (this.rank + 1)),
    }


FLOATS = (torch.float32, torch.float64)


def sharded(this: Ranks) -> dict[str, float]:
    """Largest differences of weights after three steps of AdamW, sharded against whole, for every kind of forces."""
    return {forces: _sharded(this, forces) for forces in ("direct", "gradient", "both")}


def _sharded(this: Ranks, forces: str) -> float:
    torch.manual_seed(0)
    plain = Levels(PET([18], SHAPE).double(), ["", "other"])
    cut = copy.deepcopy(plain)
    means, cut_means = averaged(plain, 0.9), averaged(cut, 0.9)
    for one in (cut, cut_means.module):
        shard.shard(one, this)
    models = (plain, cut)
    optimizers = [torch.optim.AdamW(one.parameters(), lr=1e-3) for one in models]
    frames = clusters(3)
    for step in range(3):
        level = ("", "other")[step % 2]
        optimizers[0].zero_grad()
        objective(plain[level], frames, forces).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizers[1].zero_grad()
        with shard.gathered(cut):
            if this.rank or step != 1:  # a process without structures of its own
                objective(cut[level], frames[this.rank :: this.size] if step != 1 else frames, forces).backward()
            this.sum_gradients_(cut.parameters())
            torch.nn.utils.clip_grad_norm_(cut.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        means.update_parameters(plain)
        cut_means.update_parameters(cut)
        if step == 1:  # as after a restart, with the moments that were saved
            saved = shard.whole(optimizers[1].state_dict())
            optimizers[1] = torch.optim.AdamW(cut.parameters(), lr=1e-3)
            shard.restore_optimizer(optimizers[1], saved)
    pairs = ((plain, shard.complete(cut)), (means.module, shard.complete(cut_means.module)))
    cut.load_state_dict(cut_means.module.state_dict())  # as at the end of a phase
    pairs = (*pairs, (means.module, shard.complete(cut)))
    return max(difference(dict(a.state_dict()), dict(b.state_dict())) for a, b in pairs)


def objective(model: PET, frames: list[Atoms], forces: str) -> Tensor:
    """A sum over structures, so that parts of it add up."""
    batch = collate(frames, model.cutoff)
    if forces == "both":
        first, second = Gradient(model).train().both(batch)
        return _squares(first) + _squares(second)
    return _squares((Direct(model) if forces == "direct" else Gradient(model)).train()(batch))


def _squares(answer: Any) -> Tensor:
    return answer.energy.square().sum() + answer.forces.square().sum()


def difference(one: Any, other: Any) -> float:
    """Largest difference of two nests of tensors and numbers, in units of the largest number of each tensor."""
    if isinstance(one, Tensor):
        scale = float(one.detach().abs().max()) if one.numel() else 0.0
        return float((one - other).detach().abs().max()) / max(scale, 1e-8) if scale else float(other.abs().sum())
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return max((difference(value, other[key]) for key, value in one.items()), default=0.0)
    if isinstance(one, list | tuple):
        return max((difference(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    return 0.0 if one == other else float(not isinstance(one, str))


def learned(folder: Path) -> dict[str, Any]:
    """Weights, averages and moments of a training; the moments hold the gradients of its steps."""
    content = durable.load(folder / durable.LAST, torch.device("cpu"))
    return {name: content[name] for name in ("model", "average", "optimizers")}


def states(content: dict[str, Any]) -> list[dict[str, Tensor]]:
    """The moments of every weight."""
    return [entry for one in content["optimizers"] for entry in one["state"].values() if "exp_avg" in entry]


def as_one_of_two(folder: Path) -> None:
    """What each of the two processes does; the first one writes down what it found."""
    torch.set_num_threads(1)
    with Ranks.start() as this:
        found: dict[str, Any] = {"numbers": numbers(this), "is_first": this.is_first, "sharded": sharded(this)}
    (folder / f"found{this.rank}.json").write_text(json.dumps(found))
    for name, recipe in recipes(folder).items():
        learn(recipe, folder / f"two-{name}")
    learn(recipes(folder)["phases"], folder / "one-then-two", resume=True)
    try:
        learn(recipes(folder)["phases"], folder / "two-then-one", tell=die)
    except RuntimeError as error:
        (folder / "lost.txt").write_text(str(error))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one process and two have done the same trainings."""
    folder = tmp_path_factory.mktemp("ranks")
    frames = clusters(9)
    write(folder / "train.xyz", frames)
    write(folder / "valid.xyz", clusters(3, seed=1))
    for atoms in frames[::2]:  # energies of some, forces of others
        atoms.calc.results.pop("forces")
    for atoms in frames[1:4:2]:
        atoms.calc.results.pop("energy")
    write(folder / "masked.xyz", frames)
    for name, recipe in recipes(folder).items():
        learn(recipe, folder / f"one-{name}")
    with pytest.raises(InterruptedError):
        learn(recipes(folder)["phases"], folder / "one-then-two", tell=stop)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"import sys; sys.path += {sys.path!r}; import {__name__} as t; t.as_one_of_two(t.Path(sys.argv[1]))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment(rank, port), stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=170)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [-signal.SIGKILL, 0], "\n".join(errors)
    learn(recipes(folder)["phases"], folder / "two-then-one", resume=True)
    return folder


def environment(rank: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return os.environ | {name: str(value) for name, value in told.items()} | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What the two processes wrote down."""
    return [json.loads((folder / f"found{rank}.json").read_text()) for rank in range(2)]


# --------------------------------------------------------------------------------------------------------- one process


def test_one_process_sends_nothing_and_changes_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with Ranks.start() as this:
        weight, tensor = torch.ones(2, requires_grad=True), torch.arange(3.0)
        weight.grad = torch.full((2,), 2.0)
        this.sum_([tensor])
        this.sum_gradients_([weight])
        this.barrier()
        assert this.is_first
        assert (this.rank, this.size, this.device) == (0, 1, torch.device("cpu"))
        assert tensor.tolist() == [0, 1, 2]
        assert weight.grad.tolist() == [2, 2]
        assert this.sum(0.1) == 0.1
        assert this.gather(["a", 2]) == ["a", 2]
        assert (this.any(True), this.any(False)) == (True, False)
    assert not torch.distributed.is_initialized()


def test_a_world_size_without_addresses_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ranks.NEEDED:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="are not set, by which 2 processes find each other"):
        Ranks.start()


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_several_processes_find_their_own_device(monkeypatch, device):
    for name, value in environment(1, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"device is {device}, and there are several processes: they train on cpu or"):
        Ranks.start(device)


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    for name, value in environment(1, 1).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="process 1 of this machine has no GPU of its own: 1 were found"):
        Ranks.start("cuda")


def test_buckets_hold_one_type_and_break_at_their_size(monkeypatch):
    monkeypatch.setattr(ranks, "BUCKET", 16)
    sizes = [(2, torch.float32), (1, torch.float64), (2, torch.float32), (9, torch.float32), (1, torch.float64)]
    tensors = [torch.zeros(n, dtype=kind) for n, kind in sizes]
    shapes = [[len(one) for one in bucket] for bucket in ranks._buckets(tensors)]
    assert shapes == [[2, 2], [9], [1, 1]]


# -------------------------------------------------------------------------------------------------------- two processes


def test_two_processes_add_up_and_get_the_same_bits(found):
    first, second = (one["numbers"] for one in found)
    assert {**first, "gathered": 0} == {**second, "gathered": 0}
    assert first["sums"] == [[[2.0 * k + 1] * 2] * k for k in (1, 2, 3) for _ in FLOATS]
    assert first["sum"] == pytest.approx(1.2, abs=1e-15)
    assert first["any"] == [True, False]
    assert first["gathered"] == second["gathered"] == [0, 1, 1]
    assert [one["is_first"] for one in found] == [True, False]


def test_gradients_add_up_where_any_process_has_one(found):
    assert found[0]["numbers"]["gradients"] == [[2, 2], [5, 5], None]


@pytest.mark.parametrize("name", ["phases", "masked", "single", "mixture", "sharded"])
def test_two_processes_learn_what_one_learns(folder, name):
    one, two = learned(folder / f"one-{name}"), learned(folder / f"two-{name}")
    assert max(float(moments["exp_avg"].abs().max()) for moments in states(one)) > 1e-3  # there was something to learn
    assert difference(one["optimizers"], two["optimizers"]) < 1e-12  # means of gradients and of their squares
    # Adam makes the rounding of a gradient that is zero, over 1e-8, a step.
    assert difference(one["model"], two["model"]) < 1e-9
    assert difference(one["average"], two["average"]) < 1e-9


def test_the_loss_of_every_step_is_that_of_one_process(folder):
    rows = [(folder / f"{n}-phases" / "metrics.jsonl").read_text().splitlines() for n in ("one", "two")]
    curves = [[(row["train_loss"], row["valid_loss"]) for row in map(json.loads, lines)] for lines in rows]
    assert len(curves[0]) == 3
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)  # they are written with six digits


@pytest.mark.parametrize("name", ["two-then-one", "one-then-two"])
def test_a_killed_training_goes_on_with_another_number_of_processes(folder, name):
    assert difference(learned(folder / "one-phases")["model"], learned(folder / name)["model"]) < 1e-9


def test_the_others_notice_that_a_process_is_gone(folder):
    text = (folder / "lost.txt").read_text()
    assert re.match(r"process 1 of 2 has lost the others \(.+\). One of them has ended, and its own message says", text)


def test_a_silent_process_is_given_up(folder):
    with pytest.raises(RuntimeError, match="process 0 of 2 has lost the others"), Ranks(0, 2)._talking():
        raise RuntimeError("[somewhere.cc:12] Timed out waiting")


# -------------------------------------------------------------------------------------------------------------- sharded


@pytest.mark.parametrize("forces", ["direct", "gradient", "both"])
def test_sharded_weights_learn_what_whole_ones_learn(found, forces):
    assert all(one["sharded"][forces] < 1e-11 for one in found)


def test_one_process_has_nothing_to_shard():
    model = Levels(PET([18], SHAPE), [""])
    shard.shard(model, Ranks())
    with shard.gathered(model):
        assert shard.complete(model) is model
    assert type(model) is Levels


@pytest.mark.parametrize(
    ("phase", "more", "reason"),
    [
        ({"optimizer": "muon"}, {}, "phase 0 does not allow it: its optimizer is muon, which needs whole matrices"),
        ({"drop_direct": True, "optimizer": "adamw"}, {}, "phase 0 does not allow it: it drops the direct heads"),
        (
            {"optimizer": "adam", "forces": "direct"},
            {"compile": True},
            "shard and compile are both true; one of them was expected",
        ),
    ],
)
def test_what_does_not_go_with_shards_is_refused(phase, more, reason):
    settings = TrainSettings(data=("a.xyz",), shard=True, phases=(phase,), **more)
    with pytest.raises(ValueError, match=reason):
        shard.check_shard(settings)
    shard.check_shard(settings.model_copy(update={"shard": False}))


# ---------------------------------------------------------------------------------------------------------------- SLURM


def test_the_batch_script_is_valid_shell():
    done = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_torchrun_line_names_flags_that_exist(capsys):
    from torch.distributed.run import get_args_parser

    from tumble.cli import main

    main(["train", "--help"])
    known = capsys.readouterr().out
    found = [line for path in (SCRIPT, ROOT / "docs" / "scale.md") for line in launches(path.read_text())]
    assert len(found) == 3
    for line in found:
        options = get_args_parser().parse_args(shlex.split(line)[1:])
        assert options.module
        assert (options.training_script, options.training_script_args[0]) == ("tumble", "train")
        assert [one for one in options.training_script_args if one.startswith("--") and one not in known] == []


def launches(text: str) -> list[str]:
    """The commands of a text that begin with torchrun, alone or under srun."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line[line.index("torchrun") :] for line in lines if re.match(r"(srun \S+ )?torchrun +--", line)]


# ------------------------------------------------------------------------------------------------------------ benchmark


def test_efficiency_is_one_where_twice_the_processes_do_twice_the_work():
    import training as benchmark

    step = {"total": 0.5, "cpu": 0.4, "forward and backward": 0.4, "all-reduce": 0.1}
    lines = benchmark.report({("weak", 1): [[[step]]], ("weak", 2): [[[step], [step]]]}, atoms=24, batch_size=4)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[2] == ["1", "–", "4", "1", "8.00", "192", "1.00", "100", "1.00"]
    assert rows[3] == ["2", "weak", "8", "1", "16.00", "384", "1.00", "100", "1.00"]
    assert rows[-1][3:6] == ["0 (0.0 %)", "400 (80.0 %)", "100 (20.0 %)"]
