"""What is watched: errors by element and group, rotational spread and its part of the error, λ and force gap."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from analytic import lopsided, skewed_dimer
from tumble import predict
from tumble.batch import Properties
from tumble.data import Dataset
from tumble.jacobian import jacobian, of_jacobian
from tumble.jobs.train.extras import Live
from tumble.jobs.train.loss import Errors, errors
from tumble.jobs.train.probe import MOST_GROUPS, Residuals, curl, force_gap, spreads, symmetry_of
from tumble.jobs.train.settings import Phase, TrainSettings
from tumble.models.pet import PET
from tumble.orbit import Orbit
from tumble.potential import Direct, Gradient, Potential, collate_for
from tumble.rotations import Rotations

WIDTH = {"d_pet": 8, "d_node": 16, "d_head": 8, "d_feedforward": 8, "num_heads": 2, "num_attention_layers": 1}


def small_pet(*, direct: bool = True) -> PET:
    torch.manual_seed(0)
    return PET((1, 6, 8), WIDTH | {"cutoff": 3.5, "direct_forces": direct}).double()


def frames() -> list[Atoms]:
    return [molecule("H2O"), molecule("CH3OH"), molecule("H2O2")]


def rows(energy: list[float], members: list[int], sizes: list[int], numbers: list[int]) -> Residuals:
    """Forces off by 1, 2, 3 … meV/Å in every component, atom after atom."""
    n = len(numbers)
    forces = np.repeat(1e-3 * np.arange(1, n + 1)[:, None], 3, axis=1)
    structure = np.repeat(np.arange(len(sizes)), sizes)
    stress = np.full((len(sizes), 3, 3), np.nan)
    return Residuals(np.array(energy), forces, stress, np.array(numbers), structure, np.array(members))


# ------------------------------------------------------------------------------------------------------------- errors


def test_errors_are_those_of_numbers_that_one_can_add_up() -> None:
    found = rows([1e-3, -3e-3], [0, 1], [1, 2], [8, 1, 1]).summary()
    expected = {"energy_mae": 2, "energy_rmse": math.sqrt(5), "forces_mae": 2, "forces_rmse": math.sqrt(14 / 3)}
    assert found == pytest.approx(expected)


def test_unknown_labels_do_not_count() -> None:
    one = rows([1e-3, np.nan], [0, 1], [1, 2], [8, 1, 1])
    one.forces[2] = np.nan
    assert one.summary()["energy_mae"] == pytest.approx(1)
    assert one.summary()["forces_mae"] == pytest.approx(1.5)
    assert one.by_element() == pytest.approx({"forces_mae_O": 1, "forces_mae_H": 2})
    one.forces[0] = np.nan
    assert one.by_element() == pytest.approx({"forces_mae_H": 2})
    one.energy[:], one.forces[:] = np.nan, np.nan
    assert one.summary() == one.by_element() == one.by_group(["a", "b"]) == {}


def test_one_element_is_not_told_apart() -> None:
    assert rows([0.0], [0], [2], [1, 1]).by_element() == {}


def test_groups_are_those_of_the_members() -> None:
    groups = ["", "slab", "slab", "gas"]
    found = rows([1e-3, 2e-3, 3e-3], [3, 0, 1], [1, 1, 2], [1, 1, 1, 1]).by_group(groups)
    assert found == pytest.approx(
        {
            "forces_mae@gas": 1, "energy_mae@gas": 1, "forces_mae@other": 2, "energy_mae@other": 2,
            "forces_mae@slab": 3.5, "energy_mae@slab": 3,
        }
    )  # fmt: skip
    assert rows([1e-3, 2e-3], [1, 2], [1, 1], [1, 1]).by_group(groups) == {}


def test_only_the_largest_groups_are_followed() -> None:
    names = [f"g{k}" for k in range(40)] + ["large"] * 5
    found = rows([1e-3] * 45, list(range(45)), [1] * 45, [1] * 45).by_group(names)
    assert len(found) == 2 * MOST_GROUPS
    assert "forces_mae@large" in found


def test_joined_residuals_are_those_of_one_batch() -> None:
    potential = lopsided()
    atoms = frames()
    dataset = labelled(atoms)

    def of(members: list[int]) -> Residuals:
        batch = collate_for(potential, [atoms[k] for k in members])
        energy, forces = (torch.tensor([float(dataset.labels[k].energy) for k in members]), None)
        forces = torch.cat([dataset.labels[k].forces for k in members])  # type: ignore[misc]
        return Residuals.of(errors(potential(batch), Properties(energy.double(), forces), batch), batch, members)

    whole, joined = of([0, 1, 2]), Residuals.join([of([0]), of([1, 2])])
    for one, other in zip(whole, joined, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    assert whole.summary() == pytest.approx(joined.summary())
    assert set(whole.summary()) == {"energy_mae", "energy_rmse", "forces_mae", "forces_rmse"}


def test_nothing_joined_is_nothing() -> None:
    nothing = Residuals.join([])
    assert len(nothing.members) == len(nothing.forces) == 0
    assert nothing.summary() == nothing.by_element() == nothing.by_group([]) == {}
    one = rows([1e-3], [7], [2], [8, 1])
    again = Residuals.join([nothing, one, nothing])
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(again, one, strict=True))


def test_what_is_not_compared_is_unknown() -> None:
    potential = lopsided()
    batch = collate_for(potential, frames())
    one = Residuals.of(Errors(energy=torch.ones(3)), batch, [4, 5, 6])
    assert np.isnan(one.forces).all()
    assert np.isnan(one.stress).all()
    assert one.summary() == {"energy_mae": 1000, "energy_rmse": 1000}


# ------------------------------------------------------------------------------------------------------------- symmetry


def labelled(atoms: list[Atoms], off: float = 0.03) -> Dataset:
    """Labels that a potential misses by random numbers."""
    draw = np.random.default_rng(0)
    labels = []
    for one, answer in zip(atoms, predict(lopsided(), atoms), strict=True):
        assert answer.forces is not None
        noise = torch.as_tensor(draw.normal(scale=off, size=(len(one), 3)))
        labels.append(Properties(answer.energy + off * len(one) * draw.normal(), answer.forces.double() + noise))
    return Dataset(atoms, labels, [f"made:{k}" for k in range(len(atoms))])


def test_the_spread_of_a_skewed_dimer_is_its_closed_form() -> None:
    found = spreads(skewed_dimer(0.3), [Atoms("H2", [[0.0, 0.0, 0.0], [0.7, -0.4, 0.9]])])
    assert found["energy_spread"] == pytest.approx(1000 * 0.3 * math.sqrt(4 / 45) / 2, rel=0.2)  # T is of degree 2 only
    assert set(found) == {"forces_spread", "energy_spread"}


def test_the_ratio_to_the_error_is_that_of_all_turned_answers() -> None:
    potential, data = lopsided(), labelled(frames())
    found = spreads(potential, data.atoms, data.labels)
    turned = Orbit.of(potential, collate_for(potential, data.atoms), Rotations.parse("T@generic")).properties
    known = torch.cat([one.forces for one in data.labels])  # type: ignore[misc]
    assert turned.forces is not None
    rmse = 1000 * float((turned.forces - known).square().mean().sqrt())
    assert found["spread_over_error"] == pytest.approx(found["forces_spread"] / rmse, rel=1e-9)
    assert 0 < found["energy_spread_over_error"] < 1


def test_the_ratio_is_one_where_the_mean_is_right_and_missing_without_labels() -> None:
    potential, atoms = skewed_dimer(0.3), [Atoms("H2", [[0.0, 0.0, 0.0], [0.7, -0.4, 0.9]])]
    mean = Orbit.of(potential, collate_for(potential, atoms), Rotations.parse("T@generic")).mean()
    assert mean.energy is not None
    found = spreads(potential, atoms, [Properties(mean.energy[0], mean.forces)])
    assert found["spread_over_error"] == pytest.approx(1)
    assert found["energy_spread_over_error"] == pytest.approx(1)
    assert "spread_over_error" not in spreads(potential, atoms, [Properties(mean.energy[0])])
    assert "energy_spread_over_error" not in spreads(potential, atoms, [Properties(forces=mean.forces)])


def test_atoms_without_a_label_are_not_in_the_ratio() -> None:
    potential, data = lopsided(), labelled(frames())
    bare = data.labels[1]._replace(forces=torch.full_like(data.labels[1].forces, torch.nan))  # type: ignore[arg-type]
    some = spreads(potential, data.atoms, [data.labels[0], bare, data.labels[2]])
    rest = spreads(potential, [data.atoms[0], data.atoms[2]], [data.labels[0], data.labels[2]])
    assert some["spread_over_error"] == pytest.approx(rest["spread_over_error"])


def test_lambda_is_close_to_that_of_the_whole_jacobian() -> None:
    model = small_pet()
    exact = of_jacobian(jacobian(Direct(model), molecule("CH3CH2OH")))
    assert curl(model, [molecule("CH3CH2OH")] * 4) == pytest.approx(exact, rel=0.2)
    assert curl(model, [molecule("CH3CH2OH")]) == curl(model, [molecule("CH3CH2OH")])


def test_lambda_leaves_no_gradient_behind_and_needs_few_passes() -> None:
    model, calls = small_pet(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    curl(model, frames())
    assert len(calls) == 3
    assert all(weight.grad is None for weight in model.parameters())


def test_the_force_gap_compares_the_two_kinds_of_forces() -> None:
    model = small_pet()
    batch = collate_for(Gradient(model), frames())
    derived, direct = Gradient(model).eval()(batch).forces, Direct(model).eval()(batch).forces
    assert derived is not None
    assert direct is not None
    expected = float((direct - derived).norm() / derived.norm())
    assert force_gap(model, frames()) == pytest.approx(expected)
    assert force_gap(model, [Atoms("O")]) == 0.0


@pytest.mark.parametrize("forces", ["gradient", "direct"])
def test_what_is_followed_depends_on_the_model_and_on_what_is_asked_for(forces: str) -> None:
    data, phase = labelled(frames()), Phase(forces=forces)  # type: ignore[arg-type]

    def names(model: PET, **changes: object) -> set[str]:
        return set(symmetry_of(model, phase, data, TrainSettings(data=("x",), **changes)))  # type: ignore[arg-type]

    plain = {"forces_spread", "energy_spread", "spread_over_error", "energy_spread_over_error"}
    assert names(small_pet(), probe=2) == plain | {"curl", "force_gap"}
    assert names(small_pet(), probe=2, live=Live(curl=False)) == plain | {"force_gap"}
    assert names(small_pet(), probe=0) == set()
    if forces == "gradient":
        assert names(small_pet(direct=False), probe=2) == plain


def test_the_probe_are_the_first_structures() -> None:
    model, data = small_pet(), labelled(frames())
    potential: Potential = Gradient(model)
    found = symmetry_of(model, Phase(), data, TrainSettings(data=("x",), probe=2))
    assert found["forces_spread"] == pytest.approx(spreads(potential, data.atoms[:2])["forces_spread"])
    everything = symmetry_of(model, Phase(), data, TrainSettings(data=("x",), probe=99))
    assert everything["forces_spread"] == pytest.approx(spreads(potential, data.atoms)["forces_spread"])
