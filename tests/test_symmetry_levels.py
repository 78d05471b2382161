"""Levels: fast and slow forces of one potential."""

import pytest
import torch
from ase.build import bulk, molecule

import tumble
from analytic import Foreigner
from tumble.models.pair import ZBL, LennardJones
from tumble.models.pet import PET, PETSettings
from tumble.potential import Direct, Gradient, Potential, Sum, collate_for
from tumble.symmetry import Projected, Symmetrized, directly, levels, symmetrize


def small(*, direct: bool = True) -> Gradient:
    torch.manual_seed(0)
    sizes = {"cutoff": 3.5, "d_pet": 8, "d_head": 8, "d_node": 8, "d_feedforward": 8, "num_heads": 2}
    heads = {"direct_forces": direct, "direct_stress": direct}
    return Gradient(PET([1, 8], PETSettings(**sizes, **heads)).double())


def forces(potential: Potential) -> torch.Tensor:
    found = potential(collate_for(potential, [molecule("H2O")])).forces
    assert found is not None
    return found


def test_direct_heads_are_faster_than_the_derivative_of_the_same_energy():
    slow = small()
    fast, last = levels(slow)
    assert last is slow
    assert isinstance(fast, Direct)
    assert fast.model is slow.model
    both = slow.both(collate_for(slow, [molecule("H2O")]))
    torch.testing.assert_close(forces(fast), both[1].forces)
    torch.testing.assert_close(forces(last), both[0].forces)


def test_the_raw_potential_is_faster_than_its_average():
    raw = small()
    average = symmetrize(raw, "T")
    assert levels(average) == (raw, average)
    fast, middle, slow = levels(average, 3)
    assert isinstance(fast, Direct)
    assert (middle, slow) == (raw, average)
    assert levels(average, 1) == (average,)


def test_averaged_and_projected_at_once_is_one_level():
    raw = small()
    both = Projected(Symmetrized(raw, symmetrize(raw, "T").rotations))
    assert levels(both) == (raw, both)
    assert len(levels(both, 3)) == 3


def test_a_sum_is_direct_where_it_is_learned():
    learned, repulsion = small(), Gradient(ZBL([1, 8]))
    fast, slow = levels(Sum(learned, repulsion))
    assert isinstance(slow, Sum)
    torch.testing.assert_close(forces(fast), forces(Direct(learned.model)) + forces(repulsion))
    torch.testing.assert_close(forces(slow), forces(learned) + forces(repulsion))


def test_an_average_of_direct_heads_is_what_directly_makes_of_an_average():
    raw = small()
    average = symmetrize(raw, "T")
    torch.testing.assert_close(forces(directly(average)), forces(symmetrize(Direct(raw.model), "T")))
    projected = directly(Projected(raw, 1e-2))
    assert isinstance(projected, Projected)
    assert projected.tolerance == 1e-2
    assert isinstance(projected.inner, Direct)


def test_what_is_direct_already_or_was_never_learned_stays_what_it_is():
    direct, pairs = Direct(small().model), Gradient(LennardJones())
    assert directly(direct) is direct
    assert directly(pairs) is pairs


def test_packaged_water_has_three_levels():
    found = levels(tumble.symmetrize(tumble.load("water"), "O"), 3)
    assert [one.is_conservative for one in found] == [False, True, True]


@pytest.mark.parametrize("n", [0, 3])
def test_more_levels_than_there_are_is_an_error(n):
    with pytest.raises(ValueError, match=f"{n} levels of forces were asked for, and a Gradient"):
        levels(small(), n)


def test_a_potential_without_direct_heads_has_one_level():
    for potential in (Gradient(LennardJones()), small(direct=False)):
        with pytest.raises(ValueError, match="a Gradient without direct heads has 1"):
            levels(potential)
    with pytest.raises(ValueError, match="3 levels of forces were asked for, and a Symmetrized"):
        levels(symmetrize(small(direct=False), "T"), 3)


def test_direct_heads_that_are_not_there_are_missed():
    with pytest.raises(ValueError, match="a Foreigner has no direct heads"):
        directly(Foreigner())
    with pytest.raises(ValueError, match="this model has no direct force head"):
        directly(small(direct=False))


def test_levels_answer_about_crystals_with_a_stress():
    slow = small()
    fast, _ = levels(slow)
    crystal = bulk("O", "sc", a=2.0).repeat(2)
    assert fast(collate_for(fast, [crystal])).stress is not None
