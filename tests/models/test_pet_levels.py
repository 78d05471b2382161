"""Levels of theory: PETs that share everything but their readouts."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from pet_reference import SPECIES, crystal, molecule
from tumble.models.pet import PET, Levels, add_lora, has_lora
from tumble.models.pet.model import EXACT
from tumble.potential import Gradient, collate_for

SHAPE: dict[str, Any] = {"d_pet": 16, "d_head": 16, "d_node": 32, "d_feedforward": 32, "num_heads": 4}
BUFFERS = ("lookup", *EXACT)


def pet(**changes: Any) -> PET:
    torch.manual_seed(0)
    model = PET(SPECIES, SHAPE | changes)
    model.offsets.copy_(torch.tensor([-13.6, -1030.1, -2041.3]))
    model.energy_scale.fill_(1.7)
    return model


def energies(model: PET, *, training: bool = False) -> Tensor:
    potential = Gradient(model).train(training)
    return potential(collate_for(potential, [crystal(), molecule()])).energy.detach()


def shared_children(one: PET, other: PET) -> set[str]:
    others = dict(other.named_children())
    return {name for name, child in one.named_children() if child is others[name]}


def all_but_readouts(model: PET) -> set[str]:
    return {name for name, _ in model.named_children()} - {"readouts"}


@pytest.mark.parametrize(
    "changes",
    [{}, {"system_conditioning": True}, {"long_range": {"enable": True}}, {"featurizer_type": "residual"}],
    ids=str,
)
def test_two_levels_share_every_module_but_their_readouts(changes: dict[str, Any]) -> None:
    levels = Levels(pet(**changes), ["pbe", "scan"])
    assert shared_children(levels["pbe"], levels["scan"]) == all_but_readouts(levels.first)
    for name in BUFFERS:
        assert getattr(levels["pbe"], name) is not getattr(levels["scan"], name)
        assert torch.equal(getattr(levels["pbe"], name), getattr(levels["scan"], name))


def test_one_level_is_the_pet_itself() -> None:
    model = pet()
    levels = Levels(model, [""])
    assert levels[""] is levels.first is model
    assert levels.names == ("",)
    assert [id(one) for one in levels.parameters()] == [id(one) for one in model.parameters()]


def test_every_level_begins_with_the_answers_of_the_first() -> None:
    model = pet(direct_forces=True)
    expected = energies(model)
    levels = Levels(model, ["a", "b", "c"])
    assert all(torch.equal(energies(levels[name]), expected) for name in levels.names)


def test_every_weight_is_named_once() -> None:
    model = pet()
    levels = Levels(model, ["a", "b", "c"])
    named = dict(levels.named_parameters())
    assert len({id(one) for one in named.values()}) == len(named)
    readouts = sum(one.numel() for one in model.readouts.parameters())
    assert sum(one.numel() for one in named.values()) == sum(one.numel() for one in model.parameters()) + 2 * readouts


def test_what_one_level_learns_about_features_all_have_learned() -> None:
    levels = Levels(pet(), ["a", "b"])
    before = {name: energies(levels[name]) for name in levels.names}
    batch = collate_for(Gradient(levels["a"]), [crystal()])
    optimizer = torch.optim.SGD(levels.parameters(), lr=1e-3)
    Gradient(levels["a"]).train()(batch).energy.sum().backward()
    assert all(one.grad is None for one in levels["b"].readouts.parameters())
    untouched = copy.deepcopy(levels["b"].readouts.state_dict())
    optimizer.step()
    # The packed weights of the second level are renewed although it had no part in the step.
    assert not torch.equal(energies(levels["b"]), before["b"])
    assert not torch.equal(energies(levels["a"]), energies(levels["b"]))
    assert all(torch.equal(one, untouched[name]) for name, one in levels["b"].readouts.state_dict().items())
    torch.testing.assert_close(energies(levels["b"]), energies(levels["b"], training=True), rtol=0, atol=2e-5)


def test_offsets_of_one_level_are_its_own() -> None:
    levels = Levels(pet(), ["a", "b"])
    before = energies(levels["a"])
    levels["b"].offsets += 1.0
    n_atoms = torch.tensor([len(crystal()), len(molecule())])
    assert torch.equal(energies(levels["a"]), before)
    torch.testing.assert_close(energies(levels["b"]) - before, n_atoms.double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_copy_and_an_average_share_as_the_original_does(rank: int) -> None:
    model = pet()
    if rank:
        add_lora(model, rank, 8.0)
    levels = Levels(model, ["a", "b"])
    average = AveragedModel(levels)
    for one in (copy.deepcopy(levels), average.module):
        assert isinstance(one, Levels)
        assert shared_children(one["a"], one["b"]) == all_but_readouts(model)
        assert not shared_children(one["a"], levels["a"])
        assert torch.equal(energies(one["b"]), energies(levels["b"]))
    with torch.no_grad():
        for weight in levels.parameters():
            weight += 0.01
    for _ in range(2):  # the first update is a copy, the second a mean
        average.update_parameters(levels)
    torch.testing.assert_close(energies(average.module["b"]), energies(levels["b"]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_state_goes_round_through_a_file(rank: int, tmp_path: Path) -> None:
    def made() -> Levels:
        model = pet()
        if rank:
            add_lora(model, rank, 8.0)
        return Levels(model, ["a", "b"])

    levels, path = made(), tmp_path / "state.pt"
    with torch.no_grad():
        for weight in levels.parameters():
            weight += 0.1 * torch.randn_like(weight)
    levels["b"].offsets += 1.0
    torch.save(levels.state_dict(), path)
    again = made()
    again.load_state_dict(torch.load(path, weights_only=True))
    assert all(torch.equal(energies(again[name]), energies(levels[name])) for name in levels.names)
    assert shared_children(again["a"], again["b"]) == all_but_readouts(levels.first)
    # Shared weights are written once.
    assert path.stat().st_size < 1.6 * 4 * sum(one.numel() for one in levels.parameters())


def test_a_change_of_precision_leaves_offsets_and_scales_exact() -> None:
    levels = Levels(pet(), ["a", "b"]).double().float()
    for name in levels.names:
        assert all(getattr(levels[name], buffer).dtype == torch.float64 for buffer in EXACT)
    assert {one.dtype for one in levels.parameters()} == {torch.float32}
    assert shared_children(levels["a"], levels["b"]) == all_but_readouts(levels.first)
    assert torch.equal(energies(levels["b"]), energies(pet()))


def test_an_extracted_level_is_a_plain_pet_that_shares_nothing() -> None:
    model = pet()
    add_lora(model, 4, 8.0)
    levels = Levels(model, ["a", "b"])
    with torch.no_grad():
        for weight in levels.parameters():
            weight += 0.02 * torch.randn_like(weight)
    levels["b"].offsets += 1.0
    alone = levels.extracted("b")
    assert type(alone) is PET
    assert not has_lora(alone)
    assert set(alone.state_dict()) == set(pet().state_dict())
    assert not {id(one) for one in alone.parameters()} & {id(one) for one in levels.parameters()}
    torch.testing.assert_close(energies(alone), energies(levels["b"]), rtol=0, atol=1e-4)
    assert not torch.allclose(energies(alone), energies(levels["a"]), rtol=0, atol=0.5)


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_names_that_are_missing_or_come_twice_are_refused(names: list[str]) -> None:
    with pytest.raises(
        ValueError, match=r"levels of theory are called .*at least one name was expected, and none twice"
    ):
        Levels(pet(), names)


def test_an_unknown_level_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no level of theory 'b3lyp'; the names are 'pbe', 'scan'"):
        Levels(pet(), ["pbe", "scan"])["b3lyp"]
