"""Optimizers and learning rates of a phase: what moves, what decays, and how validations lower the rates."""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest
import torch
from torch import nn

from tumble.jobs.train.rates import after_validation, optimizers_of, set_rates
from tumble.jobs.train.settings import Phase
from tumble.models.pet import PET, Levels, PETSettings, add_lora

SHAPE = PETSettings(
    cutoff=4.0, d_pet=8, d_head=8, d_node=16, d_feedforward=8, num_heads=2, num_attention_layers=1, num_gnn_layers=2,
    edge_basis=4, direct_forces=True,
)  # fmt: skip
RATE = [torch.optim.SGD([nn.Parameter(torch.zeros(1))])]


@dataclass
class Standing:
    best: float = math.inf
    stalled: int = 0
    factor: float = 1.0


def moved(optimizers: list[torch.optim.Optimizer]) -> list[torch.Tensor]:
    return list(chain.from_iterable(group["params"] for one in optimizers for group in one.param_groups))


def kinds(model: nn.Module) -> dict[str, set[str]]:
    """Names of the weights by what they are: tables of embeddings, vectors, matrices."""
    tables = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    vectors = {name for name, weight in model.named_parameters() if weight.dim() < 2}
    names = {name for name, _ in model.named_parameters()}
    return {"tables": tables, "vectors": vectors, "matrices": names - tables - vectors}


@pytest.mark.parametrize(("schedule", "half"), [("cosine", 0.5), ("linear", 0.5), ("constant", 1.0), ("plateau", 1.0)])
def test_after_the_warm_up_a_rate_goes_where_its_schedule_says(schedule: Any, half: float) -> None:
    phase = Phase(warmup=0.2, schedule=schedule, learning_rate=0.01)
    assert set_rates(RATE, phase, 0.05) == pytest.approx(0.25)
    assert set_rates(RATE, phase, 0.2) == pytest.approx(1.0)
    assert set_rates(RATE, phase, 0.6) == pytest.approx(half)
    assert RATE[0].param_groups[0]["lr"] == pytest.approx(0.01 * half)
    assert set_rates(RATE, phase, 1.0) == pytest.approx(2 * half - 1 if half < 1 else 1.0, abs=1e-12)


def test_a_quarter_of_the_way_the_cosine_is_above_the_line() -> None:
    assert set_rates(RATE, Phase(warmup=0.0), 0.25) == pytest.approx((2 + math.sqrt(2)) / 4)
    assert set_rates(RATE, Phase(warmup=0.0, schedule="linear"), 0.25) == pytest.approx(0.75)


def test_a_phase_that_is_all_warm_up_ends_at_the_peak() -> None:
    assert set_rates(RATE, Phase(warmup=1.0), 0.5) == pytest.approx(0.5)
    assert set_rates(RATE, Phase(warmup=1.0), 1.0) == pytest.approx(1.0)


def test_what_a_plateau_has_lowered_stays_lowered_during_the_warm_up_too() -> None:
    phase = Phase(schedule="plateau", warmup=0.5)
    assert set_rates(RATE, phase, 0.25, 0.1) == pytest.approx(0.05)
    assert set_rates(RATE, phase, 0.75, 0.1) == pytest.approx(0.1)


def test_muon_has_a_peak_of_its_own() -> None:
    phase = Phase(warmup=0.0, schedule="constant", learning_rate=0.1, matrix_learning_rate=0.2)
    muon, adam = optimizers_of(PET([1], SHAPE), phase)
    set_rates([muon, adam], phase, 0.5)
    assert {group["lr"] for group in muon.param_groups} == {0.2}
    assert {group["lr"] for group in adam.param_groups} == {0.1}


def test_muon_takes_inner_matrices_only_and_everything_moves_once() -> None:
    model = PET([1, 8], SHAPE)
    muon, adam = optimizers_of(model, Phase())
    names = {id(weight): name for name, weight in model.named_parameters()}
    assert sorted(names[id(one)] for one in moved([muon, adam])) == sorted(names.values())
    inner = {names[id(one)] for one in moved([muon])}
    assert inner <= kinds(model)["matrices"]
    assert "gnn_layers.0.layers.0.attention.input_linear.weight" in inner
    assert not [name for name in inner if "embedder" in name or "last" in name]


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "muon"])
def test_decay_shrinks_matrices_by_its_closed_form_and_nothing_else(optimizer: Any) -> None:
    phase = Phase(optimizer=optimizer, weight_decay=0.1, learning_rate=0.01, matrix_learning_rate=0.02)
    model = PET([1, 8], SHAPE)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizers = optimizers_of(model, phase)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    for one in optimizers:
        one.step()
    at = {id(weight): group["lr"] for one in optimizers for group in one.param_groups for weight in group["params"]}
    shrunk = kinds(model)["matrices"]
    for name, weight in model.named_parameters():
        factor = 1 - 0.1 * at[id(weight)] if name in shrunk else 1.0
        assert torch.allclose(weight, factor * before[name], rtol=1e-6, atol=0.0), name


@pytest.mark.parametrize(("layers", "parts"), [("heads", ("readouts",)), ("last", ("node_last", "edge_last"))])
def test_a_phase_moves_the_layers_it_names(layers: Any, parts: tuple[str, ...]) -> None:
    model = Levels(PET([1], SHAPE), ["a", "b"])
    taken = {id(one) for one in moved(optimizers_of(model, Phase(layers=layers)))}
    for name, weight in model.named_parameters():
        expected = any(part in name for part in parts)
        assert (id(weight) in taken, weight.requires_grad) == (expected, expected), name
    again = optimizers_of(model, Phase())
    assert len(moved(again)) == len(list(model.parameters()))


def test_with_lora_the_factors_and_the_heads_move_and_muon_leaves_the_factors_alone() -> None:
    model = PET([1], SHAPE)
    add_lora(model, 2, 4.0)
    muon, adam = optimizers_of(model, Phase(layers="lora"))
    names = {id(weight): name for name, weight in model.named_parameters()}
    taken = {names[id(one)] for one in moved([muon, adam])}
    factors = {name for name in names.values() if "parametrizations" in name and "original" not in name}
    heads = {name for name in names.values() if name.startswith("readouts")}
    assert factors
    assert taken == factors | heads
    assert {names[id(one)] for one in moved([muon])} <= heads


def test_weights_that_levels_share_are_moved_once() -> None:
    model = Levels(PET([1], SHAPE), ["pbe", "scan"])
    taken = [id(one) for one in moved(optimizers_of(model, Phase()))]
    assert len(taken) == len(set(taken)) == len(list(model.parameters()))
    assert id(model["pbe"].edge_embedder.weight) == id(model["scan"].edge_embedder.weight)
    assert id(model["pbe"].edge_embedder.weight) in taken


def test_a_plateau_lowers_the_rate_each_time_its_patience_is_gone() -> None:
    state, phase = Standing(), Phase(schedule="plateau", plateau_patience=2, plateau_factor=0.5)
    values = [1.0, 1.1, 1.0, 0.9, 0.9, 0.95, 0.91, 0.92, 0.93]
    factors = []
    for value in values:
        assert not after_validation(state, phase, value)
        factors.append(state.factor)
    assert factors == [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert (state.best, state.stalled) == (0.9, 5)


def test_a_phase_ends_when_its_patience_is_gone_and_numbers_that_are_none_are_no_gain() -> None:
    state, phase = Standing(), Phase(patience=2)
    found = [after_validation(state, phase, value) for value in (2.0, math.nan, 1.0, 1.0, math.nan)]
    assert found == [False, False, False, False, True]
    assert (state.best, state.stalled, state.factor) == (1.0, 2, 1.0)
