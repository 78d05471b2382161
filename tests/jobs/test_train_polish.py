"""Polishing: turned copies that should agree, an anchor that holds the mean, and a spread at which it ends."""

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

from analytic import PairFunction, lopsided, skewed_dimer
from tumble import checkpoint
from tumble.batch import Batch, Properties, copies, turn
from tumble.data import read
from tumble.jobs.train import Anchor, OrbitTerm, Phase, Target, TrainSettings, train
from tumble.jobs.train.polish import Anchors, deviations, orbit_turns, repeated, variance
from tumble.jobs.train.probe import spreads
from tumble.models.pair import LennardJones
from tumble.models.pet import PET, PETSettings
from tumble.orbit import Orbit
from tumble.packs import predict
from tumble.potential import Gradient, Potential, collate_for
from tumble.rotations import Rotations
from tumble.symmetry import symmetrize

SMALL = PETSettings(
    cutoff=4.0, d_pet=8, d_head=8, d_node=8, d_feedforward=8, num_heads=2, num_attention_layers=1, num_gnn_layers=1,
    edge_basis=4,
)  # fmt: skip
ENERGY = OrbitTerm(weight=1.0, energy=Target(weight=1.0, loss="mse"), force=Target(weight=0.0))
FORCE = OrbitTerm(weight=1.0, energy=Target(weight=0.0), force=Target(weight=1.0, loss="mse"))


def argon(n: int, seed: int) -> list[Atoms]:
    """Rattled crystals of eight atoms, labelled by a Lennard-Jones potential."""
    draw = np.random.default_rng(seed)
    frames = [bulk("Ar", a=4.9 + 0.3 * draw.random()).repeat(2) for _ in range(n)]
    for atoms in frames:
        atoms.positions += 0.2 * draw.normal(size=atoms.positions.shape)
    for atoms, answer in zip(frames, predict(Gradient(LennardJones(0.3, 3.0, cutoff=4.5)), frames), strict=True):
        atoms.info["REF_energy"], atoms.arrays["REF_forces"] = float(answer.energy), answer.forces.numpy()  # type: ignore[arg-type,union-attr]
    return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled and unlabelled structures, and a potential that has learned a little."""
    folder = tmp_path_factory.mktemp("polish")
    for name, frames in {"train": argon(12, 0), "valid": argon(4, 1)}.items():
        write(folder / f"{name}.extxyz", frames, format="extxyz")
        bare = [Atoms(one.numbers, one.positions, cell=one.cell, pbc=True) for one in frames]
        write(folder / f"{name}_bare.extxyz", bare, format="extxyz")
    phases = (Phase(epochs=25, learning_rate=2e-3, matrix_learning_rate=3e-2),)
    train(recipe(folder, start=None, phases=phases, validate_every=25), folder / "start")
    return folder


def recipe(folder: Path, bare: str = "", **changes: Any) -> TrainSettings:
    plain: dict[str, Any] = {
        "data": (str(folder / f"train{bare}.extxyz"),),
        "valid": (str(folder / f"valid{bare}.extxyz"),),
        "targets": () if bare else ("energy", "forces"),
        "start": str(folder / "start" / "best.safetensors"),
        "model": SMALL,
        "atoms_per_batch": 16,
        "probe": 4,
    }
    return TrainSettings(**(plain | changes))


def dimer() -> Atoms:
    return Atoms("H2", [[0.0, 0.0, 0.0], [0.7, -0.4, 0.9]])


def answers(potential: Potential, batch: Batch, term: OrbitTerm, seed: int) -> tuple[Properties, torch.Tensor, Batch]:
    turns = orbit_turns(batch.n_structures, term, [seed])
    turned = turn(copies(batch, term.turns), turns)
    return potential.train()(turned), turns, turned


# ------------------------------------------------------------------------------------------------------ the orbit term


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_orbit_term_is_an_unbiased_estimate_of_the_variance(n: int) -> None:
    potential, term = skewed_dimer(0.3), ENERGY.model_copy(update={"turns": n})
    # 2000 structures in one batch: the term is the mean of as many estimates. Var(cos² θ) = 4/45; two atoms.
    batch = collate_for(potential, [dimer()] * 2000)
    found = float(variance(*answers(potential, batch, term, 1), term).detach())
    assert found == pytest.approx(0.3**2 * 4 / 45 / 4, rel=0.06)


def test_the_orbit_term_of_forces_is_the_variance_of_the_orbit() -> None:
    potential = lopsided()
    atoms = Atoms("HO", dimer().positions)
    exact = Orbit.of(potential, collate_for(potential, [atoms]), Rotations.parse("o3:11")).spread().forces
    batch = collate_for(potential, [atoms] * 1500)
    found = float(variance(*answers(potential, batch, FORCE, 2), FORCE).detach())
    assert exact is not None
    assert found == pytest.approx(float(exact.square().mean() / 3), rel=0.06)


def test_copies_of_an_invariant_potential_agree() -> None:
    potential = Gradient(LennardJones(0.3, 3.0, cutoff=4.5))
    answer, turns, turned = answers(potential, collate_for(potential, argon(2, 3)), FORCE, 0)
    assert all(
        float(one.detach().abs().max()) < 1e-12 for one in deviations(answer, turns, turned, 2) if one is not None
    )


def test_a_potential_with_one_anisotropic_number_loses_it() -> None:
    epsilon = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
    potential = Gradient(PairFunction(lambda v, i, j: v.norm(dim=1) + epsilon * v[:, 2] ** 2 / v.square().sum(1)))
    batch, optimizer = collate_for(potential, [dimer()] * 20), torch.optim.SGD([epsilon], lr=1.0)
    term = OrbitTerm(weight=1.0, energy=Target(loss="mse"), force=Target(loss="mse"))
    for seed in range(30):
        optimizer.zero_grad()
        variance(*answers(potential, batch, term, seed), term).backward()
        optimizer.step()
    assert abs(float(epsilon.detach())) < 1e-4


def test_the_gradient_of_the_orbit_term_is_its_slope() -> None:
    torch.manual_seed(0)
    potential = Gradient(PET([18], SMALL).double())
    batch, term = collate_for(potential, argon(2, 3)), FORCE.model_copy(update={"energy": Target(loss="mse")})

    def value() -> torch.Tensor:
        return variance(*answers(potential, batch, term, 0), term)

    weights = [one for one in potential.parameters() if one.requires_grad]
    slopes = torch.autograd.grad(value(), weights, allow_unused=True)
    slopes = [torch.zeros_like(w) if s is None else s for w, s in zip(weights, slopes, strict=True)]
    size = torch.cat([s.flatten() for s in slopes]).norm()
    step, ends = 1e-3, []
    for sign in (1, -2):
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight += sign * step * slope / size
        ends.append(float(value().detach()))
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(size), rel=1e-2)


@pytest.mark.parametrize(("nodes", "n"), [("random", 3), ("opposite", 4), ("tetrahedral", 5), ("tetrahedral", 14)])
def test_turns_are_orthogonal_reproducible_and_as_told(nodes: Any, n: int) -> None:
    term = OrbitTerm(weight=1.0, turns=n, nodes=nodes)
    turns = orbit_turns(3, term, [1, 2])
    assert turns.shape == (3 * n, 3, 3)
    assert torch.allclose(turns @ turns.mT, torch.eye(3, dtype=turns.dtype).expand_as(turns), atol=1e-12)
    assert torch.equal(turns, orbit_turns(3, term, [1, 2]))
    assert not torch.equal(turns, orbit_turns(3, term, [1, 3]))
    by_copy = turns.view(n, 3, 3, 3)
    between = by_copy[1] @ by_copy[0].mT
    if nodes == "opposite":
        assert torch.allclose(between, -torch.eye(3, dtype=turns.dtype).expand_as(between), atol=1e-12)
    if nodes == "tetrahedral":  # a turn by 120 or 180 degrees about an axis of the group, never none
        assert torch.allclose(between.abs().sum(-1), torch.ones(3, 3, dtype=turns.dtype), atol=1e-12)
        assert float(between[0].trace()) < 0.1


def test_labels_are_repeated_copy_after_copy() -> None:
    labels = repeated(Properties(torch.tensor([1.0, 2.0]), torch.arange(9.0).view(3, 3)), 2)
    assert labels.energy is not None
    assert labels.energy.tolist() == [1.0, 2.0, 1.0, 2.0]
    assert labels.forces is not None
    assert labels.forces.shape == (6, 3)
    assert labels.stress is None


def test_an_anchor_is_the_mean_over_its_rule_asked_once(folder: Path) -> None:
    potential, dataset = skewed_dimer(), read(str(folder / "valid.extxyz"))
    calls: list[int] = []
    potential.register_forward_pre_hook(lambda *_: calls.append(1))
    anchors = Anchors(potential, "T", dataset)
    batch = collate_for(potential, [dataset.atoms[2], dataset.atoms[0]])
    mean = Orbit.of(potential, batch, Rotations.parse("T")).mean()
    calls.clear()
    found = anchors([2, 0], batch)
    n_calls = len(calls)
    assert torch.allclose(found.energy, mean.energy, rtol=0, atol=1e-12)  # type: ignore[arg-type]
    assert torch.allclose(found.forces, mean.forces, rtol=0, atol=1e-12)  # type: ignore[arg-type]
    assert found.stress is None
    anchors([0, 2, 0], batch)
    assert len(calls) == n_calls > 0


# ------------------------------------------------------------------------------------------------------------ trainings


def test_polishing_without_labels_takes_the_spread_and_leaves_the_accuracy(folder: Path, tmp_path: Path) -> None:
    polish = Phase(
        epochs=20, labels=0.0, orbit=OrbitTerm(weight=1.0), anchor=Anchor(weight=1.0), matrix_learning_rate=1e-2
    )  # fmt: skip
    result = train(recipe(folder, "_bare", phases=(polish,), validate_every=10), tmp_path / "run")
    before, after = result.metrics[0], result.metrics[-1]
    assert (before["epoch"], before["step"]) == (0, 0)
    assert "train_loss" not in before
    assert after["forces_spread"] < before["forces_spread"] / 8
    assert after["energy_spread"] < before["energy_spread"] / 8
    frames = read(str(folder / "valid.extxyz"))
    errors = []
    for potential in (
        symmetrize(checkpoint.load(folder / "start/best.safetensors"), "T"),
        checkpoint.load(result.potential),
    ):
        pairs = zip(predict(potential, frames.atoms), frames.labels, strict=True)
        errors.append(float(torch.cat([a.forces - b.forces for a, b in pairs]).abs().mean()))  # type: ignore[operator]
    assert errors[1] == pytest.approx(errors[0], rel=0.05)
    [table] = [fact for fact in result.facts() if fact.title == "Errors on the validation set"]
    assert [row[1] for row in table.rows] == [0, 20]  # type: ignore[union-attr]
    assert "epoch 0 is before its first step" in table.note  # type: ignore[union-attr]


def test_numbers_before_the_first_step_are_those_of_the_start(folder: Path, tmp_path: Path) -> None:
    settings = recipe(folder, phases=(Phase(epochs=1, orbit=OrbitTerm(weight=1.0)),))
    before = train(settings, tmp_path / "run").metrics[0]
    found = spreads(checkpoint.load(settings.start), read(settings.valid).atoms)  # type: ignore[arg-type]
    assert before["forces_spread"] == pytest.approx(found["forces_spread"], rel=1e-4)
    assert before["energy_spread"] == pytest.approx(found["energy_spread"], rel=1e-4)


def test_a_phase_ends_where_its_spread_is_reached_and_the_next_one_goes_on(folder: Path, tmp_path: Path) -> None:
    there, next_one = Phase(epochs=30, orbit=OrbitTerm(weight=1.0), until_spread=1e4), Phase(epochs=2)
    result = train(recipe(folder, phases=(there, next_one)), tmp_path / "run")
    assert result.is_complete
    assert [(row["phase"], row["epoch"]) for row in result.metrics] == [(0, 0), (1, 1), (1, 2)]
    assert [row["step"] for row in result.metrics] == [0, 6, 12]
    start, first = (
        checkpoint.load(p) for p in (folder / "start" / "best.safetensors", tmp_path / "run/phase0.safetensors")
    )
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), first.parameters(), strict=True))


@pytest.mark.parametrize("layers", ["last", "heads"])
def test_only_the_chosen_layers_move(folder: Path, tmp_path: Path, layers: Any) -> None:
    settings = recipe(
        folder, phases=(Phase(epochs=1, layers=layers, orbit=OrbitTerm(weight=1.0)),), ema=0.0, fit_offsets=False
    )
    train(settings, tmp_path / "run")
    before = checkpoint.load(settings.start).state_dict()  # type: ignore[arg-type]
    state: dict[str, torch.Tensor] = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["model"]
    moved = {
        name
        for name, value in state.items()
        if not torch.equal(value, before[f"model.{name.removeprefix('potentials.0.')}"])
    }
    assert moved
    parts = ("node_last", "edge_last") if layers == "last" else ("readouts",)
    assert all(any(part in name for part in parts) for name in moved)


def test_a_resumed_polish_ends_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    term, anchor = OrbitTerm(weight=10.0, turns=3, nodes="opposite"), Anchor(weight=1.0, rule="random:2")
    phases = (
        Phase(epochs=3, labels=0.0, orbit=term, anchor=anchor, until_spread=1e4),
        Phase(epochs=2, orbit=term, anchor=anchor, layers="heads"),
        Phase(epochs=1),
    )
    settings = recipe(folder, phases=phases, checkpoint_minutes=0.0)
    train(settings, tmp_path / "whole")
    count = 0

    def stop_often(progress: Any) -> None:
        nonlocal count
        count += 1
        if count % 4 == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(20):
        if train(settings, tmp_path / "parts", resume=True, tell=stop_often).is_complete:
            break
    assert count >= 12
    whole, parts = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "parts"))
    for kind in ("model", "average"):
        assert all(torch.equal(value, parts[kind][name]) for name, value in whole[kind].items())
    one, other = (
        [
            json.loads(line) | {"minutes": 0, "waiting": 0, "steps_per_s": 0}
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "parts")
    )
    assert one == other


@pytest.mark.parametrize("forces", ["direct", "both"])
def test_direct_forces_are_polished_too(folder: Path, tmp_path: Path, forces: Any) -> None:
    shape = SMALL.model_copy(update={"direct_forces": True})
    train(recipe(folder, start=None, model=shape, phases=(Phase(forces="direct", epochs=3),)), tmp_path / "start")
    polish = Phase(forces=forces, epochs=2, labels=0.0, orbit=OrbitTerm(weight=10.0), anchor=Anchor(weight=1.0))
    settings = recipe(folder, start=str(tmp_path / "start" / "best.safetensors"), phases=(polish,), validate_every=2)
    metrics = train(settings, tmp_path / "run").metrics
    assert metrics[-1]["forces_spread"] < metrics[0]["forces_spread"]


# --------------------------------------------------------------------------------------------------------------- errors


def test_one_turn_is_not_an_orbit() -> None:
    with pytest.raises(ValueError, match=r"turns.*greater than or equal to 2"):
        OrbitTerm(turns=1)


def test_a_phase_must_learn_from_something() -> None:
    with pytest.raises(ValueError, match=r"labels, orbit\.weight and anchor\.weight are all 0"):
        Phase(labels=0.0)


def test_copies_that_are_not_turned_say_nothing(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"phase 0 has an orbit term of weight 2, but turn is false"):
        recipe(folder, phases=(Phase(orbit=OrbitTerm(weight=2.0)),), turn=False)


def test_an_anchor_needs_a_start(folder: Path) -> None:
    with pytest.raises(ValueError, match="phase 0 has an anchor of weight 1, but nothing to start from"):
        recipe(folder, phases=(Phase(anchor=Anchor(weight=1.0)),), start=None)


def test_a_target_needs_a_probe(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"phase 0 ends at a spread of 3 meV/Å, but probe is 0"):
        recipe(folder, phases=(Phase(until_spread=3.0),), probe=0)


def test_structures_without_labels_need_an_orbit_term_or_an_anchor(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of 12 structures has a label, and phase 1 has neither"):
        train(recipe(folder, "_bare", phases=(Phase(orbit=OrbitTerm(weight=1.0)), Phase())), tmp_path / "run")


def test_an_unknown_rule_of_an_anchor_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'"Q" (is|are) not in the grammar'):
        train(recipe(folder, phases=(Phase(anchor=Anchor(weight=1.0, rule="Q")),)), tmp_path / "run")
