"""The compiled training step against the eager double backward."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from torch import Tensor

from pet_reference import SPECIES, crystal, molecule, relative, triclinic
from tumble.jobs.train import TrainSettings, train
from tumble.models.pet import PET, engine, training
from tumble.potential import Gradient, collate_for

if not engine.is_available():
    pytest.skip("no C++ compiler is at hand to build the training step with", allow_module_level=True)

SHAPE: dict[str, Any] = {"d_pet": 16, "d_head": 16, "d_node": 32, "d_feedforward": 32, "num_heads": 4}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "wide nodes": {},
    "nodes as wide as edges": {"d_node": 16},
    "eight heads": {"num_heads": 8, "d_pet": 32, "d_node": 64},
    "radial functions": {"edge_basis": 3, "num_gnn_layers": 1},
    "adaptive cutoff": {"num_neighbors_adaptive": 6.0, "cutoff": 5.5, "attention_temperature": 1.7},
    "cutoffs from a grid": {"num_neighbors_adaptive": 6.0, "adaptive_cutoff_method": "grid", "cutoff": 5.0},
    "charged": {"system_conditioning": True, "num_attention_layers": 1, "num_gnn_layers": 3},
}


def structures() -> list[Atoms]:
    charged = molecule()
    charged.info |= {"charge": 1, "spin": 2}
    return [crystal(), Atoms("H"), charged, triclinic()]


def model_of(changes: dict[str, Any], dtype: torch.dtype = torch.float64) -> PET:
    torch.manual_seed(0)
    model = PET(SPECIES, SHAPE | changes).double()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
        model.energy_scale.fill_(1.7)
    return model.to(dtype)


def loss_of(model: PET, atoms: list[Atoms]) -> Tensor:
    potential = Gradient(model)
    potential.train()
    answer = potential(collate_for(potential, atoms))
    assert answer.forces is not None
    assert answer.stress is not None
    generator = torch.Generator().manual_seed(1)
    terms = [
        (one - torch.randn(one.shape, generator=generator, dtype=torch.float64)).square().sum()
        for one in (answer.energy, answer.forces, 10 * answer.stress)
    ]
    return torch.stack(terms).sum()


def gradients(model: PET, atoms: list[Atoms]) -> dict[str, Tensor]:
    model.zero_grad()
    loss_of(model, atoms).backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "fits", lambda *_: False)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_gradients_of_all_weights_agree_with_the_double_backward(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CONFIGURATIONS[name])
    assert training.fits(model.settings, torch.float64, torch.device("cpu"))
    fast = gradients(model, structures())
    single = gradients(model_of(CONFIGURATIONS[name], torch.float32), structures())
    eager(monkeypatch)
    slow = gradients(model, structures())
    assert {name for name, one in slow.items() if one.any()} <= set(fast) <= {n for n, _ in model.named_parameters()}
    largest = max(float(one.abs().max()) for one in slow.values())
    for weight, expected in slow.items():
        error = (fast[weight] - expected).abs().max()
        assert error < 1e-10 * expected.abs().max() + 1e-13 * largest, (weight, float(error))
        assert (single[weight] - expected).abs().max() < 2e-4 * largest, weight


def test_gradients_are_those_of_finite_differences() -> None:
    model = model_of({})
    found = gradients(model, [crystal()])
    torch.manual_seed(2)
    for name, weight in model.named_parameters():
        if name not in found:
            continue
        direction, step = torch.randn_like(weight), 1e-5
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step * direction
            values.append(float(loss_of(model, [crystal()]).detach()))
            with torch.no_grad():
                weight -= sign * step * direction
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float((found[name] * direction).sum()), rel=1e-5, abs=1e-5), name


def test_second_derivatives_by_the_vectors_are_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> Tensor:
        model = model_of({"edge_basis": 2})
        batch = collate_for(Gradient(model), [crystal()])
        batch = batch._replace(vectors=batch.vectors.detach().requires_grad_())
        known = model.slopes(batch)
        if known is None:
            energies = model(batch).energies
            known = energies, torch.autograd.grad(energies.sum(), batch.vectors, create_graph=True)[0]
        (slope,) = torch.autograd.grad(known[0].square().sum() + known[1].pow(3).sum(), batch.vectors)
        return slope

    fast = found()
    eager(monkeypatch)
    assert relative(fast, found()) < 1e-10


def test_the_same_derivative_may_be_asked_twice_and_a_third_one_is_refused() -> None:
    model = model_of({})
    loss = loss_of(model, [crystal()])
    weights = [one for one in model.parameters() if one.requires_grad]
    first, second = (torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True) for _ in range(2))
    assert all(a is b or bool((a == b).all()) for a, b in zip(first, second, strict=True))
    (once,) = torch.autograd.grad(loss, [weights[-1]], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        once.sum().backward()


def test_training_is_the_same_with_and_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, frames = np.random.default_rng(0), []
    for _ in range(6):
        atoms = crystal()
        atoms.positions += 0.05 * generator.normal(size=(8, 3))
        calculator = SinglePointCalculator(atoms, energy=generator.normal(), forces=generator.normal(size=(8, 3)))
        atoms.calc = calculator
        frames.append(atoms)
    write(tmp_path / "data.xyz", frames, format="extxyz")

    def losses(name: str) -> list[float]:
        phases = ({"epochs": 3, "forces": "gradient"},)
        settings = TrainSettings(
            data=(str(tmp_path / "data.xyz"),), model=SHAPE, phases=phases, atoms_per_batch=16, probe=0, dtype="float64"
        )
        train(settings, tmp_path / name)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [float(line.split('"train_loss": ')[1].split(",")[0]) for line in lines]

    fast = losses("fast")
    eager(monkeypatch)
    assert fast == pytest.approx(losses("slow"), rel=1e-5)
