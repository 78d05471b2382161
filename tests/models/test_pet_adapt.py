"""Changing a trained PET: low-rank changes, more elements, more or fewer direct heads."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ase import Atoms
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from pet_reference import SPECIES, crystal, molecule
from tumble.batch import Properties
from tumble.models.pet import (
    PET,
    PETSettings,
    add_lora,
    engine,
    has_lora,
    merged,
    training,
    with_direct,
    with_species,
    without_direct,
)
from tumble.models.pet.adapt import LowRank
from tumble.potential import Direct, Gradient, collate_for

SHAPE: dict[str, Any] = {"d_pet": 16, "d_head": 16, "d_node": 32, "d_feedforward": 32, "num_heads": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "published": {},
    "nodes as wide as edges": {"d_node": 16},
    "radial functions": {"edge_basis": 2},
    "residual": {"featurizer_type": "residual", "num_gnn_layers": 3},
    "long range": {"long_range": {"enable": True}, "system_conditioning": True},
    "direct": {"direct_forces": True, "direct_stress": True},
}
by_shape = pytest.mark.parametrize("name", SHAPES)


def pet(name: str = "published", dtype: torch.dtype = torch.float64) -> PET:
    if name == "long range":
        pytest.importorskip("torchpme", reason="torch-pme sums over what is far away in a crystal")
    torch.manual_seed(0)
    model = PET(SPECIES, SHAPE | SHAPES[name]).to(dtype)
    model.offsets.copy_(torch.tensor([-0.5, 1.0, -2.0]))
    model.force_scale.copy_(torch.tensor([0.5, 2.0, 1.5]))
    model.energy_scale.fill_(1.7)
    return model


def answers(model: PET, *, training: bool = False, atoms: list[Atoms] | None = None) -> list[Properties]:
    kinds: list[Callable[..., Any]] = [Gradient, Direct] if model.has_direct_forces else [Gradient]
    found = []
    for kind in kinds:
        potential = kind(model).train(training)
        found.append(potential(collate_for(potential, atoms or [molecule(), crystal(), Atoms("O")])))
    return found


def tensors(found: list[Properties]) -> list[Tensor]:
    return [value.detach() for one in found for value in one if value is not None]


def largest_difference(one: list[Properties], other: list[Properties]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(tensors(one), tensors(other), strict=True))


def trained(model: PET) -> PET:
    """Low-rank changes that are no longer zero."""
    with torch.no_grad():
        for one in model.modules():
            if isinstance(one, LowRank):
                one.lora_up.normal_(std=0.2)
    return model


# --------------------------------------------------------------------------------------------------- low-rank changes


@by_shape
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_lora_changes_no_bit_at_first(name: str, dtype: torch.dtype) -> None:
    model = pet(name, dtype)
    expected = [answers(model, training=training) for training in (False, True)]
    add_lora(model, 4, 8.0)
    for training_, known in zip((False, True), expected, strict=True):
        assert largest_difference(answers(model, training=training_), known) == 0.0


def test_a_change_is_the_product_of_two_thin_matrices() -> None:
    change = trained(nn.ModuleList([LowRank(torch.zeros(5, 7), 2, 3.0)]))[0]  # type: ignore[arg-type, index]
    weight = torch.randn(5, 7)
    product = torch.einsum("or,ri->oi", change.lora_up, change.lora_down)
    torch.testing.assert_close(change(weight), weight + 1.5 * product)
    assert torch.linalg.matrix_rank(change(weight) - weight, atol=1e-5) == 2


@by_shape
def test_lora_takes_every_matrix_from_features_to_features_and_no_other(name: str) -> None:
    model = pet(name)
    linear = {n for n, one in model.named_modules() if isinstance(one, nn.Linear)}
    outside = {n for n in linear if n.startswith(("readouts", "system_conditioning", "long_range_featurizer"))}
    first = {n for n in linear if n.endswith("edge_embedder")}  # from vectors to features
    add_lora(model, 4, 8.0)
    changed = {n for n, one in model.named_modules() if isinstance(one, nn.Linear) and parametrize.is_parametrized(one)}
    assert changed == linear - outside - first
    moving = {n for n, one in model.named_parameters() if one.requires_grad}
    assert not any(n.endswith("original") for n in moving)
    assert all(f"{n}.parametrizations.weight.0.lora_{end}" in moving for n in changed for end in ("up", "down"))


@pytest.mark.parametrize("is_compiled", [True, False], ids=["compiled", "eager"])
def test_gradients_of_lora_are_those_of_finite_differences(is_compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_compiled and not engine.is_available():
        pytest.skip("no C++ compiler is at hand to build the training step with")
    if not is_compiled:
        monkeypatch.setattr(training, "fits", lambda *_: False)
    model = pet()
    add_lora(model, 2, 8.0)
    trained(model)

    def loss() -> Tensor:
        (answer,) = answers(model, training=True, atoms=[molecule()])
        assert answer.forces is not None
        return answer.energy.square().sum() + answer.forces.square().sum()  # type: ignore[union-attr]

    loss().backward()
    torch.manual_seed(1)
    for end in ("lora_down", "lora_up"):
        weights = [one for name, one in model.named_parameters() if name.endswith(end)]
        directions, step, values = [torch.randn_like(one) for one in weights], 1e-6, []
        for change in (step, -2 * step):
            with torch.no_grad():
                for one, direction in zip(weights, directions, strict=True):
                    one += change * direction
            values.append(float(loss().detach()))
        slopes = [one.grad * direction for one, direction in zip(weights, directions, strict=True)]  # type: ignore[operator]
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(sum(float(one.sum()) for one in slopes), rel=1e-4)


def test_frozen_matrices_stay_and_changes_are_seen_at_once() -> None:
    model = pet()
    before = answers(model)  # the weights are packed now
    add_lora(model, 4, 8.0)
    frozen = {n: one.clone() for n, one in model.named_parameters() if n.endswith("original")}
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(2):  # A moves as soon as B is no longer zero
        optimizer.zero_grad()
        answers(model, training=True)[0].energy.sum().backward()  # type: ignore[union-attr]
        optimizer.step()
    weights = dict(model.named_parameters())
    assert all(torch.equal(weights[n], one) for n, one in frozen.items())
    assert all(bool(one.any()) for n, one in weights.items() if n.endswith("lora_up"))
    assert largest_difference(answers(model), before) > 1e-2
    assert largest_difference(answers(model), answers(model, training=True)) < 1e-10


@by_shape
def test_merging_gives_the_same_answers_from_a_plain_pet(name: str) -> None:
    model = pet(name)
    plain_names = set(model.state_dict())
    add_lora(model, 4, 8.0)
    trained(model)
    plain = merged(model)
    assert has_lora(model)
    assert not has_lora(plain)
    assert set(plain.state_dict()) == plain_names
    assert all(one.requires_grad for one in plain.parameters())
    assert {type(one) for one in plain.modules()} == {type(one) for one in pet(name).modules()}
    assert largest_difference(answers(plain), answers(model)) < 1e-9
    again = pet(name)
    again.load_state_dict(plain.state_dict())
    assert largest_difference(answers(again), answers(plain)) == 0.0
    assert largest_difference(answers(merged(model)), answers(plain)) == 0.0  # the original still works


def test_a_pet_without_changes_merges_to_a_copy() -> None:
    model = pet()
    plain = merged(model)
    assert plain is not model
    assert largest_difference(answers(plain), answers(model)) == 0.0


def test_copies_averages_and_states_carry_the_changes() -> None:
    model = pet()
    add_lora(model, 4, 8.0)
    average = AveragedModel(model)
    trained(model)
    average.update_parameters(model)
    assert largest_difference(answers(average.module), answers(model)) == 0.0
    assert largest_difference(answers(copy.deepcopy(model)), answers(model)) == 0.0
    again = pet()
    add_lora(again, 4, 8.0)
    again.load_state_dict(model.state_dict())
    assert largest_difference(answers(again), answers(model)) == 0.0


@pytest.mark.parametrize("rank", [0, 16])
def test_a_rank_that_saves_nothing_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"rank of low-rank changes is {rank}; 1 to 15 was expected"):
        add_lora(pet(), rank, 8.0)


def test_changes_of_changes_are_refused() -> None:
    model = pet()
    add_lora(model, 2, 8.0)
    with pytest.raises(ValueError, match=r"has low-rank changes already; a plain one was expected\. Merge them first"):
        add_lora(model, 2, 8.0)


# ------------------------------------------------------------------------------------------------------------- elements


@by_shape
@pytest.mark.parametrize("training_", [False, True], ids=["answering", "training"])
def test_old_answers_stay_when_elements_are_added(name: str, training_: bool) -> None:
    model = pet(name)
    grown = with_species(model, [7, 26, 3])
    assert grown.species == (1, 3, 6, 7, 8, 26)
    assert grown.config()["species"] == [1, 3, 6, 7, 8, 26]
    expected = answers(model, training=training_)
    # Tables are longer, so their products are rounded otherwise.
    assert largest_difference(answers(grown, training=training_), expected) < 1e-12
    assert largest_difference(answers(model, training=training_), expected) == 0.0


@by_shape
def test_every_row_of_a_known_element_stays_to_the_bit(name: str) -> None:
    model = pet(name)
    old, new = model.state_dict(), with_species(model, [2]).state_dict()
    expected = {key: value.shape for key, value in PET([1, 2, 6, 8], model.settings).state_dict().items()}
    assert {key: value.shape for key, value in new.items()} == expected
    for key, value in new.items():
        assert value.dtype == old[key].dtype
        assert torch.equal(value[[0, 2, 3]] if value.shape != old[key].shape else value, old[key]), key
    assert float(new["offsets"][1]) == 0.0
    assert float(new["force_scale"][1]) == 1.0


def test_new_elements_are_told_apart_and_answered_about() -> None:
    grown = with_species(pet(), [7, 9])
    atoms = [Atoms([z, 8], [[0, 0, 0], [0.5, 0.9, 0.4]]) for z in (7, 9)]
    (found,) = answers(grown, atoms=atoms)
    assert found.energy is not None
    assert bool(found.energy.isfinite().all())
    assert abs(float(found.energy[0] - found.energy[1])) > 1e-3


def test_rows_of_new_elements_lie_where_the_known_ones_lie() -> None:
    torch.manual_seed(1)
    model = PET(range(1, 31), {**SHAPE, "d_pet": 64, "num_heads": 4})
    with torch.no_grad():
        model.edge_embedder.weight.mul_(0.3).add_(5.0)
    rows = with_species(model, range(31, 91)).edge_embedder.weight.detach()
    assert float(rows[30:].mean()) == pytest.approx(5.0, abs=0.05)
    assert float((rows[30:] - rows[:30].mean(0)).std()) == pytest.approx(0.3, rel=0.05)


def test_a_model_of_one_element_can_learn_others() -> None:
    model = PET([14], SHAPE)
    rows = with_species(model, [6, 32]).edge_embedder.weight.detach()
    assert torch.equal(rows[1], model.edge_embedder.weight[0])
    assert float(rows[[0, 2]].std()) == pytest.approx(float(rows[1].square().mean().sqrt()), rel=0.5)


def test_elements_that_are_known_change_nothing() -> None:
    model = pet()
    same = with_species(model, [1, 8])
    assert same.species == model.species
    assert all(torch.equal(one, same.state_dict()[key]) for key, one in model.state_dict().items())


def test_elements_can_be_added_under_lora() -> None:
    model = pet()
    add_lora(model, 4, 8.0)
    grown = with_species(trained(model), [7])
    assert largest_difference(answers(grown), answers(model)) < 1e-12
    assert grown.edge_embedder.weight.requires_grad


# --------------------------------------------------------------------------------------------------------- direct heads


def test_dropping_the_direct_heads_leaves_the_energy() -> None:
    model = pet("direct")
    lean = without_direct(model)
    assert set(lean.readouts) == {"energy"}
    assert not lean.has_direct_heads
    assert not lean.has_direct_forces
    assert largest_difference(answers(lean), answers(model)[:1]) < 1e-12
    assert type(lean.settings) is PETSettings
    PET(**lean.config()).load_state_dict(lean.state_dict())  # type: ignore[arg-type]
    assert model.has_direct_forces


@pytest.mark.parametrize("stress", [False, True])
def test_direct_heads_can_be_added(stress: bool) -> None:
    model = pet()
    grown = with_direct(model, stress=stress)
    assert not model.has_direct_forces
    assert largest_difference(answers(grown)[:1], answers(model)) < 1e-12
    direct = answers(grown)[1]
    assert direct.forces is not None
    assert direct.forces.dtype == torch.float64
    assert bool(direct.forces.any())
    assert (direct.stress is not None) == stress
    PET(**grown.config()).load_state_dict(grown.state_dict())  # type: ignore[arg-type]


def test_direct_heads_that_are_there_stay() -> None:
    model = pet("direct")
    assert largest_difference(answers(with_direct(model, stress=False)), answers(model)) == 0.0
