"""Training on labels of a potential that is known: it learns, it resumes to the same bits, it loses nothing."""

import json
import os
import signal
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
from tumble.data import Loader, read
from tumble.jobs.train import OrbitTerm, Phase, Target, TrainSettings, train
from tumble.jobs.train.initial import initial
from tumble.jobs.train.loss import Errors, errors, known, loss
from tumble.jobs.train.polish import random_turns
from tumble.jobs.train.sources import sources
from tumble.jobs.train.step import counts_of, objective, places_of, precision, share, turns_of
from tumble.models.pair import LennardJones
from tumble.models.pet import PET, PETSettings
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
    drop = ("minutes", "waiting", "steps_per_s")
    one, other = (
        [{k: v for k, v in json.loads(line).items() if k not in drop} for line in path.read_text().splitlines()]
        for path in (tmp_path / "whole" / "metrics.jsonl", tmp_path / "parts" / "metrics.jsonl")
    )
    assert one == other


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


def test_direct_forces_need_a_head(files: dict[str, str], tmp_path: Path) -> None:
    shape = SMALL.model_copy(update={"direct_forces": False})
    with pytest.raises(ValueError, match=r"no head for them\. Set model\.direct_forces"):
        train(recipe(files, model=shape), tmp_path / "run")
    done = train(recipe(files, model=shape, phases=(Phase(epochs=1),)), tmp_path / "plain")
    grown = train(recipe(files, start=str(done.potential)), tmp_path / "run")  # a start gets the head that it lacks
    assert checkpoint.load(grown.potential, direct=True).model.has_direct_forces


def test_a_training_can_start_from_a_saved_potential(files: dict[str, str], tmp_path: Path) -> None:
    first = train(recipe(files), tmp_path / "first")
    second = train(recipe(files, start=str(first.potential), phases=(Phase(epochs=1),)), tmp_path / "second")
    assert second.metrics[0]["valid_loss"] < first.metrics[0]["valid_loss"]
    pair = checkpoint.save(Gradient(LennardJones()), tmp_path / "pair.safetensors")
    with pytest.raises(ValueError, match="a single PET was expected"):
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
    tables = [table for table in shown if "structures" in table.columns]
    counts = [dict(zip(table.columns, table.rows[0], strict=True))["structures"] for table in tables]
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
    found = errors(Properties(energy + 0.8, forces + 0.1), labels, batch)
    assert torch.allclose(found.energy, torch.full((2,), 0.1, dtype=torch.float64))  # type: ignore[arg-type]
    assert known(found).tolist() == [2, 45, 0]
    phase = Phase(energy=Target(weight=2.0, loss="mse"), force=Target(weight=3.0, delta=0.05))
    assert float(loss(found, phase)) == pytest.approx(2.0 * 0.01 + 3.0 * (0.1 - 0.025))
    absolute = Phase(energy=Target(weight=0.0), force=Target(weight=1.0, loss="mae"))
    assert float(loss(found, absolute)) == pytest.approx(0.1)


def test_weights_of_structures_are_factors_of_their_errors() -> None:
    found = Errors(torch.tensor([1.0, 2.0]), torch.ones(4, 3))
    weights = torch.tensor([3.0, 0.0])
    both = weights, weights[torch.tensor([0, 0, 1, 1])]
    energies = Phase(energy=Target(loss="mse"), force=Target(weight=0.0))
    forces = Phase(energy=Target(weight=0.0), force=Target(loss="mse"))
    assert float(loss(found, energies, weights=both)) == pytest.approx(3.0 * 1 / 2)
    assert float(loss(found, forces, weights=both)) == pytest.approx(3.0 * 6 / 12)


def test_nothing_known_is_no_loss() -> None:
    empty = Errors(torch.full((2,), torch.nan), None)
    assert float(loss(empty, Phase())) == 0.0
    assert known(Properties()).tolist() == [0, 0, 0]


@pytest.mark.parametrize("forces", ["gradient", "direct", "both"])
def test_the_parts_of_a_step_have_the_gradient_of_the_whole(forces: str, files: dict[str, str]) -> None:
    torch.manual_seed(0)
    model = PET([18], SMALL).double()
    orbit = OrbitTerm(weight=0.3, turns=2)
    phase = Phase(forces=forces, orbit=orbit, force_per_element=True)
    dataset = read(files["data"])
    dataset.labels[2].forces[1] = torch.nan

    def gradient(n_parts: int) -> list[torch.Tensor]:
        loader = Loader(dataset, model.cutoff, atoms_per_batch=64, parts=n_parts)
        step = next(iter(loader.epoch(0)))
        assert len(step.parts) == n_parts
        turns = turns_of(phase, len(step.members), [1, 2])
        places = [places_of(part, len(step.members), 2) for part in step.parts]
        shares = [share(part, phase, turns[at], None) for part, at in zip(step.parts, places, strict=True)]
        model.zero_grad(set_to_none=True)
        for one in shares:
            objective(model, one, phase, counts_of(shares)).backward()
        return [torch.zeros(()) if one.grad is None else one.grad.clone() for one in model.parameters()]

    for whole, parts in zip(gradient(1), gradient(3), strict=True):
        assert torch.allclose(whole, parts, rtol=1e-9, atol=1e-10)


def test_accumulation_changes_nothing_but_rounding(files: dict[str, str], tmp_path: Path) -> None:
    ends = [
        train(recipe(files, dtype="float64", accumulate=n, atoms_per_batch=32), tmp_path / str(n)).metrics[-1]
        for n in (1, 3)
    ]
    assert ends[0]["valid_loss"] == pytest.approx(ends[1]["valid_loss"], rel=1e-5)


def test_activations_can_be_computed_twice(files: dict[str, str]) -> None:
    torch.manual_seed(0)
    model = PET([18], SMALL).double()
    step = next(iter(Loader(read(files["data"]), model.cutoff, atoms_per_batch=64).epoch(0)))
    one = share(step.parts[0], Phase(forces="both"), None, None)

    def gradient(again: bool) -> list[torch.Tensor]:
        model.recompute = again
        model.zero_grad(set_to_none=True)
        objective(model, one, Phase(forces="both"), counts_of([one])).backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(gradient(False), gradient(True), strict=True))


@pytest.mark.parametrize("matmul", ["tf32", "bf16"])
def test_coarser_products_are_coarser_and_stay_within_their_step(matmul: str, files: dict[str, str]) -> None:
    torch.manual_seed(0)
    model = PET([18], SMALL).float()
    step = next(iter(Loader(read(files["data"]), model.cutoff, atoms_per_batch=64, dtype=torch.float32).epoch(0)))
    one, before = share(step.parts[0], Phase(), None, None), torch.get_float32_matmul_precision()
    plain = float(objective(model, one, Phase(), counts_of([one])).detach())
    with precision(recipe(files, matmul=matmul)):
        coarse = float(objective(model, one, Phase(), counts_of([one])).detach())
    assert coarse == pytest.approx(plain, rel=0.05)
    assert (coarse != plain) == (matmul == "bf16")  # a CPU has no tf32
    assert torch.get_float32_matmul_precision() == before


def test_sets_at_two_levels_of_theory_have_a_head_each(files: dict[str, str], tmp_path: Path) -> None:
    shifted = structures(6, seed=3)
    for atoms in shifted:
        atoms.info["REF_energy"] += 5.0 * len(atoms)
    write(tmp_path / "other.extxyz", shifted[:4], format="extxyz")
    write(tmp_path / "other_valid.extxyz", shifted[4:], format="extxyz")
    sets = (
        {"name": "one", "data": (files["data"],), "valid": (files["valid"],), "head": "low"},
        {"name": "two", "data": (str(tmp_path / "other.extxyz"),), "valid": (str(tmp_path / "other_valid.extxyz"),),
         "head": "high", "weight": 2.0},
    )  # fmt: skip
    settings = recipe(files, phases=(Phase(epochs=3),)).model_dump() | {"data": (), "valid": (), "sets": sets}
    result = train(TrainSettings(**settings), tmp_path / "run")
    low, high = (
        checkpoint.load(tmp_path / "run" / "best.safetensors"),
        checkpoint.load(tmp_path / "run" / "best-high.safetensors"),
    )
    assert torch.equal(low.model.gnn_layers[0].edge_embedder.weight, high.model.gnn_layers[0].edge_embedder.weight)
    assert not torch.equal(
        low.model.readouts["energy"].node_last[0].weight, high.model.readouts["energy"].node_last[0].weight
    )
    assert float(high.model.offsets - low.model.offsets) == pytest.approx(5.0, abs=0.5)
    row = result.metrics[-1]
    assert row["valid_loss"] == pytest.approx((row["one/valid_loss"] + 2 * row["two/valid_loss"]) / 3, rel=1e-4)
    assert row["step"] == 3 * (6 + 2 * 2)


def test_a_start_at_another_level_of_theory_gets_its_constants_shifted(files: dict[str, str], tmp_path: Path) -> None:
    first = train(recipe(files, phases=(Phase(epochs=2),)), tmp_path / "first")
    for name, frames in (("data", structures(12)), ("valid", structures(4, seed=1))):
        for atoms in frames:
            atoms.info["REF_energy"] += 7.0 * len(atoms)
        write(tmp_path / f"{name}.extxyz", frames, format="extxyz")
    moved = {name: str(tmp_path / f"{name}.extxyz") for name in ("data", "valid")}
    still = Phase(epochs=1, learning_rate=1e-9, matrix_learning_rate=1e-9)
    again = recipe(moved, start=str(first.potential), phases=(still,))
    kept = again.model_copy(update={"fit_offsets": False})
    found = [train(one, tmp_path / str(k)).metrics[-1]["energy_mae"] for k, one in enumerate((again, kept))]
    before = first.metrics[-1]["energy_mae"]
    assert found[0] <= before + 1
    assert abs(found[1] - 7000) <= before + 1


def test_structures_in_both_sets_are_refused(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"4 structures of the validation set are in the training set"):
        train(recipe(files | {"data": files["valid"]}), tmp_path / "run")
    tables: list[Table] = []
    leaking = recipe(files | {"data": files["valid"]}, leaks="warn")
    train(leaking, tmp_path / "run", max_minutes=0.0, show=tables.append)
    assert any(len(table.rows) == 4 and "in the training and in" in table.title for table in tables)


def test_weights_of_groups_that_are_not_there_are_refused(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config_weights names surface, and no training structure has such"):
        train(recipe(files, config_weights={"surface": 0.1}), tmp_path / "run")
    frames = structures(6)
    for k, atoms in enumerate(frames):
        atoms.info["config_type"] = "surface" if k % 2 else "bulk"
    write(tmp_path / "grouped.extxyz", frames, format="extxyz")
    settings = recipe(files | {"data": str(tmp_path / "grouped.extxyz")}, config_weights={"surface": 0.0})
    assert train(settings, tmp_path / "run", max_minutes=0.0).title


def test_an_uncertainty_needs_energies_to_calibrate_by(files: dict[str, str], tmp_path: Path) -> None:
    frames = structures(2, seed=7)
    for atoms in frames:
        del atoms.info["REF_energy"]
    write(tmp_path / "forces.extxyz", frames, format="extxyz")
    changed = files | {"valid": str(tmp_path / "forces.extxyz")}
    settings = recipe(changed, targets=("forces",), uncertainty={"kind": "llpr"})
    with pytest.raises(ValueError, match=r"none of 2 validation structures has an energy to calibrate by"):
        train(settings, tmp_path / "run")


def test_a_finished_training_knows_its_uncertainty(files: dict[str, str], tmp_path: Path) -> None:
    result = train(
        recipe(files, phases=(Phase(epochs=1),), uncertainty={"kind": "llpr", "members": 2}), tmp_path / "run"
    )
    assert len(result.arrays["uncertainty_energy_sigma"]) == 4
    assert checkpoint.load(tmp_path / "run" / "calibrated.safetensors").has_forces_uncertainty


def test_direct_heads_are_dropped_where_a_phase_says_so(files: dict[str, str], tmp_path: Path) -> None:
    phases = (Phase(forces="direct", epochs=1), Phase(epochs=2, drop_direct=True))
    result = train(recipe(files, phases=phases), tmp_path / "run")
    assert not checkpoint.load(result.potential).model.has_direct_heads
    assert checkpoint.load(tmp_path / "run" / "phase0.safetensors").model.has_direct_forces
    assert "curl" not in result.metrics[-1]


def test_a_phase_ends_when_its_patience_does(files: dict[str, str], tmp_path: Path) -> None:
    still = Phase(epochs=50, learning_rate=1e-12, matrix_learning_rate=1e-12, patience=2, schedule="constant")
    result = train(recipe(files, phases=(still,), ema=0.0), tmp_path / "run")
    assert result.is_complete
    assert len(result.metrics) < 20


def test_what_a_start_knew_is_followed(files: dict[str, str], tmp_path: Path) -> None:
    first = train(recipe(files, phases=(Phase(epochs=2),)), tmp_path / "first")
    again = recipe(files, start=str(first.potential), phases=(Phase(epochs=1),), remember=(files["valid"],))
    row = train(again, tmp_path / "again").metrics[-1]
    assert row["remember_forces_mae"] == row["forces_mae"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, r"neither is given, exactly one was expected"),
        ({"sets": ({"name": "a", "data": ("x",)},)}, r"both are given"),
        ({"data": (), "valid": (), "sets": ({"name": "a", "data": ("x",)},) * 2}, r"two sets are called 'a'"),
        ({"data": (), "sets": ({"name": "a", "data": ("x",)},)}, r"valid goes with data"),
        ({"data": (), "valid": (), "sets": ({"name": "a", "data": ("x",), "labels": "start"},)}, r"start is not set"),
        ({"phases": ({"layers": "lora"},)}, r"phase 0 trains LoRA, and lora\.rank is 0"),
        ({"lora": {"rank": 4}}, r"there is nothing to adapt"),
        ({"compile": True}, r"no phase has forces: direct"),
        ({"uncertainty": {"kind": "ensemble"}}, r"ensemble with 0 members; at least 2"),
        ({"phases": ({"forces": "both", "drop_direct": True},)}, r"drop_direct removes the direct heads"),
    ],
)
def test_settings_that_do_not_fit_are_refused(files: dict[str, str], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainSettings(**{"data": (files["data"],), "valid": (files["valid"],), **changes})


def test_a_new_model_hears_its_edges_louder(files: dict[str, str]) -> None:
    loud, plain = (recipe(files, edge_gain=gain) for gain in (4.0, 1.0))
    torch.manual_seed(0)
    first = initial(loud, sources(loud)).first.gnn_layers[0].edge_embedder
    torch.manual_seed(0)
    second = initial(plain, sources(plain)).first.gnn_layers[0].edge_embedder
    assert torch.equal(first.weight, 4.0 * second.weight)
    assert torch.equal(first.bias, second.bias)


def test_a_training_leaves_the_random_state_of_the_process(files: dict[str, str], tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    train(recipe(files), tmp_path / "run", max_minutes=0.0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_unknown_settings_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match="learning_rate"):
        Phase(lerning_rate=1e-3)  # type: ignore[call-arg]
    assert tumble.__version__
