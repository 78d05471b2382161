"""Training that begins with a trained potential: what is adapted, what stays, and what is forgotten."""

import gzip
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io import write

from metatrain_files import model_of, written
from tumble import checkpoint
from tumble.data import read
from tumble.jobs.train import TrainSettings, train
from tumble.jobs.train.start import trainable
from tumble.models.pair import ZBL, LennardJones
from tumble.models.pet import LLPR, PET, has_lora
from tumble.packs import predict
from tumble.potential import Direct, Gradient, Potential, Sum, collate_for
from tumble.rotations import Rotations
from tumble.symmetry import Projected, Symmetrized

SHAPE: dict[str, Any] = {
    **{"cutoff": 4.0, "d_pet": 16, "d_head": 16, "d_node": 16, "d_feedforward": 16, "num_heads": 2},
    **{"num_gnn_layers": 1, "num_attention_layers": 1},
}
COMPAT = Path(__file__).parents[3] / "shared" / "compat"


def pet(species: Sequence[int] = (6, 8), **changes: Any) -> PET:
    torch.manual_seed(0)
    return PET(species, SHAPE | changes)


def saved(potential: Potential, folder: Path) -> str:
    return str(checkpoint.save(potential, folder / "start.safetensors"))


def started(start: str, species: Sequence[int] = (6, 8), *, needs_direct: bool = False, **changes: Any) -> PET:
    return trainable(TrainSettings(data=("unread",), start=start, **changes), species, needs_direct=needs_direct)


def energies(model: PET, atoms: Sequence[Atoms]) -> torch.Tensor:
    potential = Gradient(model)
    return potential(collate_for(potential, atoms)).energy.detach()


def monoxide() -> Atoms:
    return Atoms([6, 8], [[0, 0, 0], [0.3, 0.7, 0.9]])


# ------------------------------------------------------------------------------------------------------------ the start


@pytest.mark.parametrize("kind", [Gradient, Direct, LLPR])
def test_whatever_answers_with_one_pet_is_a_start(kind: Any, tmp_path: Path) -> None:
    model = pet(direct_forces=True)
    found = started(saved(kind(model), tmp_path))
    assert all(one.requires_grad for one in found.parameters())
    assert all(torch.equal(one, found.state_dict()[name]) for name, one in model.state_dict().items())


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (
            lambda one: Sum(one, Gradient(ZBL([6, 8]))),
            r"is a Sum of PET and ZBL; a single PET was expected.*Save the PET",
        ),
        (lambda one: Symmetrized(one, Rotations.parse("T")), r"is a Symmetrized; .*Save the potential in its inner by"),
        (lambda one: Projected(one, 0.1), r"is a Projected; .*Save the potential in its inner by itself"),
        (lambda one: Gradient(ZBL([6, 8])), r"is a Gradient; a single PET was expected.*Name a file with a PET"),
    ],
    ids=["Sum", "Symmetrized", "Projected", "ZBL"],
)
def test_a_start_that_is_no_single_pet_is_refused_with_what_to_do(wrap: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        started(saved(wrap(Gradient(pet())), tmp_path))


def test_elements_that_the_start_does_not_know_are_refused_unless_they_shall_be_added(tmp_path: Path) -> None:
    start = saved(Gradient(pet()), tmp_path)
    with pytest.raises(ValueError, match=r"data contains H, N, which .* does not know \(C, O\)\. Set add_elements"):
        started(start, [1, 6, 7])
    grown = started(start, [1, 6, 7], add_elements=True)
    assert grown.species == (1, 6, 7, 8)
    torch.testing.assert_close(energies(grown, [monoxide()]), energies(pet(), [monoxide()]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("targets", [("energy", "forces"), ("energy", "forces", "stress")])
def test_direct_heads_are_added_where_a_phase_needs_them(targets: tuple[str, ...], tmp_path: Path) -> None:
    start = saved(Gradient(pet()), tmp_path)
    assert not started(start, targets=targets).has_direct_heads
    grown = started(start, needs_direct=True, targets=targets)
    assert set(grown.readouts) == {"energy", "forces", "stress"} - ({"stress"} - set(targets))
    assert all(one.requires_grad for one in grown.parameters())


def test_low_rank_changes_come_last_so_that_everything_new_moves(tmp_path: Path) -> None:
    model = started(
        saved(Gradient(pet()), tmp_path), [1, 6], needs_direct=True, add_elements=True, lora={"rank": 4}
    )  # fmt: skip
    assert has_lora(model)
    moving = {name for name, one in model.named_parameters() if one.requires_grad}
    assert {name.split(".")[0] for name in moving} >= {"readouts", "node_embedders", "edge_embedder"}
    assert any(name.startswith("readouts.forces") for name in moving)


def unpacked(name: str, folder: Path) -> str:
    path = COMPAT / name
    if not path.is_file():
        pytest.skip(f"there is no {name} at hand")
    content = (gzip if path.suffix == ".gz" else lzma).open(path).read()
    (folder / path.stem).write_bytes(content)
    return str(folder / path.stem)


@pytest.mark.parametrize(
    "name",
    ["eth.ckpt.xz", "fixtures/pet-model-v15_trainer-v13.ckpt.gz", "fixtures/pet-model-v1_trainer-v1.ckpt.gz"],
)
def test_a_checkpoint_of_metatrain_is_a_start(name: str, tmp_path: Path) -> None:
    path = unpacked(name, tmp_path)
    expected = checkpoint.load(path)
    assert isinstance(expected, Gradient)
    found = started(path, expected.species or ())
    batch = collate_for(expected, [Atoms([6, 8, 1], [[0, 0, 0], [1.2, 0, 0.1], [-0.5, 0.9, 0.2]])])
    assert torch.equal(Gradient(found)(batch).energy, expected(batch).energy)  # type: ignore[arg-type]
    assert all(one.requires_grad for one in found.parameters())


def test_the_pet_within_an_uncertainty_of_metatrain_is_a_start(tmp_path: Path) -> None:
    path = unpacked("fixtures/llpr-model-v3_trainer-v5.ckpt.gz", tmp_path)
    assert isinstance(checkpoint.load(path), LLPR)
    assert started(path, [8], needs_direct=True).has_direct_forces


def test_a_checkpoint_of_metatrain_with_a_repulsion_is_refused(tmp_path: Path) -> None:
    path = unpacked("si.ckpt.xz", tmp_path)
    with pytest.raises(ValueError, match=r"si\.ckpt is a Sum of PET and ZBL; a single PET was expected"):
        started(path, [14])


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
def test_a_variant_of_metatrain_is_a_start_once_it_is_converted(tmp_path: Path) -> None:
    path = written(model_of(["energy/pbe", "energy/scan"]), tmp_path / "two.ckpt")
    plain = checkpoint.convert(path, tmp_path / "scan.safetensors", variant="scan")
    found = started(str(plain), [1, 6])
    expected = checkpoint.load(path, variant="scan")
    assert torch.equal(found.offsets, expected.model.offsets)  # type: ignore[union-attr]


# --------------------------------------------------------------------------------------------------------- the training

FAST = {
    **{"probe": 0, "atoms_per_batch": 16, "validate_every": 1000, "ema": 0.0, "turn": False},
    **{"check_units": False, "leaks": "allow"},
    "live": {"raw": False, "curl": False},
}
PHASE = {
    "optimizer": "adam",
    "learning_rate": 2e-3,
    "epochs": 10,
    "warmup": 0.1,
    "energy": {"weight": 1.0, "delta": 0.01},
}


def dimers(path: Path, symbol: str, r0: float, n: int) -> str:
    """Two atoms of an element at n distances, with the energies and forces of its own Lennard-Jones potential."""
    teacher, frames = Gradient(LennardJones(0.5, r0 / 2 ** (1 / 6), cutoff=6.0)), []
    for distance in (0.92 + 0.28 * (np.arange(n) + 0.5) / n) * r0:
        atoms = Atoms([symbol] * 2, [[0, 0, 0], np.array([0.36, 0.48, 0.8]) * distance])
        (answer,) = predict(teacher, [atoms])
        assert answer.energy is not None
        assert answer.forces is not None
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = float(answer.energy) - 12.0, answer.forces.numpy()
        frames.append(atoms)
    write(path, frames, format="extxyz")
    return str(path)


class Desk(NamedTuple):
    """Frames of two elements, each with a potential of its own, and a PET that has learned the first."""

    old: str
    old_valid: str
    new: str
    new_valid: str
    start: str
    errors: dict[str, float]


def trained(folder: Path, phase: dict[str, Any], **settings: Any) -> dict[str, float]:
    """The last line of the metrics of a training."""
    train(TrainSettings(**{"phases": (PHASE | phase,), **FAST, **settings}), folder, overwrite=True)
    row: dict[str, float] = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    return row


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    old, old_valid = (dimers(folder / f"old{n}", "Ar", 3.0, n) for n in (24, 7))
    new, new_valid = (dimers(folder / f"new{n}", "Kr", 3.4, n) for n in (24, 7))
    shape = SHAPE | {"cutoff": 4.9, "edge_basis": 4}
    found = trained(folder / "run", {"epochs": 60, "learning_rate": 5e-3}, data=(old,), valid=(old_valid,), model=shape)
    return Desk(old, old_valid, new, new_valid, str(folder / "run" / "best.safetensors"), found)


def weights(path: str | Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(path).state_dict()


def moved(folder: Path, desk: Desk) -> dict[str, torch.Tensor]:
    """What has been added to the weights of the start, where anything has."""
    before, after = weights(desk.start), weights(folder / "best.safetensors")
    assert set(before) == set(after)
    return {name: after[name] - one for name, one in before.items() if not torch.equal(one, after[name])}


def test_fine_tuning_moves_all_weights_and_needs_fewer_steps(desk: Desk, tmp_path: Path) -> None:
    data, model = {"data": (desk.old,), "valid": (desk.old_valid,)}, SHAPE | {"cutoff": 4.9, "edge_basis": 4}
    found = trained(tmp_path / "on", {"learning_rate": 1e-3}, start=desk.start, **data)
    anew = trained(tmp_path / "anew", {}, model=model, **data)
    assert found["forces_mae"] < 0.3 * anew["forces_mae"]
    assert {name.split(".")[1] for name in moved(tmp_path / "on", desk)} >= {"gnn_layers", "edge_embedder", "readouts"}


def test_training_the_heads_changes_no_bit_of_the_features(desk: Desk, tmp_path: Path) -> None:
    phase = {"layers": "heads", "epochs": 3}
    trained(tmp_path, phase, start=desk.start, data=(desk.old,), valid=(desk.old_valid,))
    found = set(moved(tmp_path, desk))
    assert {name.split(".")[1] for name in found} <= {"readouts", "offsets"}
    assert any("node_heads" in name for name in found)


def test_lora_adds_matrices_of_low_rank_and_trains_the_heads(desk: Desk, tmp_path: Path) -> None:
    phase, rank = {"layers": "lora", "epochs": 3}, 2
    trained(tmp_path, phase, start=desk.start, data=(desk.old,), valid=(desk.old_valid,), lora={"rank": rank})
    found = moved(tmp_path, desk)
    inner = {name: one for name, one in found.items() if "readouts" not in name and "offsets" not in name}
    assert set(found) - set(inner)
    for name, change in inner.items():
        assert name.endswith("weight")
        assert any(part in name for part in ("compress", "attention", "mlp")), name
        sizes = torch.linalg.svdvals(change.double())
        assert sizes[rank] < 1e-4 * sizes[0], name  # merged weights are rounded
    matrices = {name for name, one in weights(desk.start).items() if "attention.input" in name and one.dim() == 2}
    assert matrices
    assert matrices <= set(inner)


def test_lora_continues_to_the_same_bits_after_a_stop(desk: Desk, tmp_path: Path) -> None:
    settings = TrainSettings(
        **{"phases": (PHASE | {"layers": "lora", "epochs": 2},), **FAST, "lora": {"rank": 2}},
        start=desk.start, data=(desk.old,), valid=(desk.old_valid,),
    )  # fmt: skip
    train(settings, tmp_path / "whole")
    train(settings, tmp_path / "parts", max_minutes=0)
    train(settings, tmp_path / "parts", resume=True)
    whole, parts = (weights(tmp_path / name / "best.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one, parts[name]) for name, one in whole.items())


def test_an_element_is_learned_by_a_potential_that_did_not_know_it(desk: Desk, tmp_path: Path) -> None:
    data = {"data": (desk.new,), "valid": (desk.new_valid,)}
    found = trained(tmp_path, {"epochs": 25}, start=desk.start, add_elements=True, **data)
    potential = checkpoint.load(tmp_path / "best.safetensors")
    assert potential.species == (18, 36)
    forces = torch.cat([one.forces for one in read(desk.new_valid).labels if one.forces is not None])
    assert found["forces_mae"] < 0.3 * 1000 * float(forces.abs().mean())
    assert found["energy_mae"] < 20.0


def learn_the_new_element(folder: Path, desk: Desk, *others: dict[str, Any]) -> dict[str, float]:
    new = {"name": "new", "data": (desk.new,), "valid": (desk.new_valid,)}
    follow = {"add_elements": True, "remember": (desk.old_valid,)}
    return trained(folder, {"epochs": 25}, start=desk.start, sets=(new, *others), **follow)


@pytest.fixture(scope="module")
def forgetful(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return learn_the_new_element(tmp_path_factory.mktemp("forgetful"), desk)


@pytest.mark.parametrize("labels", ["own", "start"])
def test_replay_keeps_what_would_be_forgotten(
    labels: str, desk: Desk, forgetful: dict[str, float], tmp_path: Path
) -> None:
    old = {"name": "old", "data": (desk.old,), "valid": (desk.old_valid,), "labels": labels}
    replayed = learn_the_new_element(tmp_path, desk, old)
    assert forgetful["remember_forces_mae"] > 3 * desk.errors["forces_mae"]
    for kind in ("forces_mae", "energy_mae"):
        assert replayed[f"remember_{kind}"] < 0.5 * forgetful[f"remember_{kind}"], kind
    assert replayed["forces_mae"] < 3 * forgetful["forces_mae"]  # and the new element is learned all the same


def test_every_level_of_theory_has_a_head_and_a_file_of_its_own(desk: Desk, tmp_path: Path) -> None:
    new = {"name": "new", "data": (desk.new,), "valid": (desk.new_valid,), "head": "krypton"}
    old = {"name": "old", "data": (desk.old,), "valid": (desk.old_valid,), "head": "argon"}
    sets = (new, old)
    trained(tmp_path, {"epochs": 2, "layers": "lora"}, start=desk.start, add_elements=True, sets=sets, lora={"rank": 2})
    one, other = (weights(tmp_path / name) for name in ("best.safetensors", "best-argon.safetensors"))
    apart = {name.split(".")[1] for name, value in one.items() if not torch.equal(value, other[name])}
    assert "readouts" in apart
    assert apart <= {"readouts", "offsets"}


def test_a_checkpoint_of_metatrain_is_trained_on(tmp_path: Path) -> None:
    path = unpacked("eth.ckpt.xz", tmp_path)
    teacher, frames = checkpoint.load(path), []
    random = np.random.default_rng(0)
    for _ in range(6):
        atoms = molecule("CH3CH2OH")
        atoms.rattle(0.05, rng=random)
        (answer,) = predict(teacher, [atoms])
        atoms.info["REF_energy"] = float(answer.energy) + 100.0  # type: ignore[arg-type]
        atoms.arrays["REF_forces"] = 1.1 * answer.forces.numpy()  # type: ignore[union-attr]
        frames.append(atoms)
    write(tmp_path / "frames.xyz", frames, format="extxyz")
    phase = {"layers": "lora", "epochs": 2, "drop_direct": True, "learning_rate": 1e-4}
    found = trained(tmp_path / "run", phase, start=path, data=(str(tmp_path / "frames.xyz"),), lora={"rank": 4})
    potential = checkpoint.load(tmp_path / "run" / "best.safetensors")
    assert not potential.model.has_direct_heads  # type: ignore[union-attr, operator]
    assert found["energy_mae"] < 50.0  # the offsets have been shifted
