"""Mixtures: how often each set is seen, in which order, and that a mixture can be resumed anywhere."""

from collections import Counter

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from tumble import data
from tumble.batch import Properties


def loader(n, per_step=1, **choices):
    """Steps of n single atoms."""
    dataset = data.Dataset([Atoms("H") for _ in range(n)], [Properties()] * n, [f"made:{k}" for k in range(n)])
    return data.Loader(dataset, 2.0, atoms_per_batch=per_step, **choices)


def seen(steps):
    """Of each set, the members of its steps."""
    found = {}
    for step in steps:
        found.setdefault(step.dataset, []).append(step.members)
    return found


def test_one_set_of_weight_one_is_its_loader():
    alone, mixture = loader(10, 3, seed=4), data.Mixture([loader(10, 3, seed=4)], [1.0], seed=9)
    assert len(mixture) == len(alone) == 4
    for epoch in (0, 3):
        assert [step.members for step in mixture.epoch(epoch)] == list(alone.step_members(epoch))


def test_a_weight_of_two_shows_every_structure_twice_in_an_epoch():
    mixture = data.Mixture([loader(6, 2), loader(4)], [2.0, 1.0])
    assert len(mixture) == 2 * 3 + 4
    for epoch in range(3):
        twice, once = (
            Counter(i for members in sets for i in members) for _, sets in sorted(seen(mixture.epoch(epoch)).items())
        )
        assert set(twice.values()) == {2}
        assert set(once.values()) == {1}
        assert len(twice) == 6
        assert len(once) == 4


def test_a_weight_of_a_tenth_goes_on_where_it_stopped():
    mixture = data.Mixture([loader(30), loader(40)], [1.0, 0.1])
    assert len(mixture) == 34
    tenths = [[i for members in seen(mixture.epoch(epoch))[1] for i in members] for epoch in range(20)]
    assert all(len(tenth) == 4 for tenth in tenths)
    first, second = ([i for tenth in part for i in tenth] for part in (tenths[:10], tenths[10:]))
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


def test_sets_are_interleaved_and_differently_in_every_epoch():
    mixture = data.Mixture([loader(20), loader(20)], [1.0, 1.0], seed=1)
    orders = [tuple(step.dataset for step in mixture.epoch(epoch)) for epoch in range(4)]
    assert len(set(orders)) == 4
    for order in orders:
        changes = np.count_nonzero(np.diff(order))
        assert 8 <= changes <= 30  # 20 are expected of 39, give or take 3
    others = data.Mixture([loader(20), loader(20)], [1.0, 1.0], seed=2)
    assert tuple(step.dataset for step in others.epoch(0)) != orders[0]


def test_a_mixture_resumes_at_any_epoch_and_step():
    def mixture():
        return data.Mixture([loader(7, 2, seed=1), loader(9, seed=2), loader(3, seed=3)], [0.7, 1.3, 3.0], seed=5)

    whole = [[(step.dataset, step.members) for step in mixture().epoch(epoch)] for epoch in range(4)]
    for epoch in (0, 1, 3):
        for start in range(len(mixture()) + 1):
            rest = [(step.dataset, step.members) for step in mixture().epoch(epoch, start)]
            assert rest == whole[epoch][start:]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.sampled_from([0.01, 0.1, 0.3, 1.0, 2.0, 5.0])), min_size=1, max_size=5),
    st.integers(0, 400),
)
def test_sets_are_seen_as_often_as_their_weights_say(sets, epoch):
    mixture = data.Mixture([loader(n) for n, _ in sets], [weight for _, weight in sets])
    wanted = sum(n * weight for n, weight in sets)
    assert len(mixture) == max(1, round(wanted))
    now, after = mixture.shown(epoch), mixture.shown(epoch + 1)
    assert now.sum() == epoch * len(mixture)
    assert (after >= now).all()
    # How often each structure of a set was seen so far, against its weight: never off by more than a few steps.
    shares = np.array([n * weight for n, weight in sets]) / wanted * len(mixture)
    assert np.abs(now - epoch * shares).max() <= (len(sets) + 1) / 2
    assert [Counter(step.dataset for step in mixture.epoch(epoch))[k] for k in range(len(sets))] == list(after - now)


def test_over_many_epochs_each_structure_is_seen_as_often_as_its_weight_says():
    weights = (1.0, 0.25, 3.0)
    mixture = data.Mixture([loader(n, 2) for n in (8, 16, 4)], weights)
    assert len(mixture) == 4 + 2 + 6
    counts = [Counter(), Counter(), Counter()]
    for epoch in range(20):
        for step in mixture.epoch(epoch):
            counts[step.dataset].update(step.members)
    assert [set(one.values()) for one in counts] == [{20}, {5}, {60}]


def test_every_process_sees_the_same_sets_in_the_same_order():
    mixtures = [
        data.Mixture([loader(12, 4, world=3, rank=rank), loader(5, 2, world=3, rank=rank)], [1.0, 2.0])
        for rank in range(3)
    ]
    for steps in zip(*(one.epoch(1) for one in mixtures), strict=True):
        assert len({(step.dataset, tuple(step.members)) for step in steps}) == 1
        places = [place for step in steps for part in step.parts for place in part.places]
        assert sorted(places) == list(range(len(steps[0].members)))


def test_sets_of_a_mixture_share_their_workers():
    loaders = [loader(6, 2, workers=1), loader(4, seed=3)]
    alone = data.Mixture([loader(6, 2), loader(4, seed=3)], [1.0, 0.5])
    with data.Mixture(loaders, [1.0, 0.5]) as mixture:
        for epoch in range(3):
            for step, other in zip(mixture.epoch(epoch), alone.epoch(epoch), strict=True):
                assert (step.dataset, step.members) == (other.dataset, other.members)
                assert step.parts[0].batch.numbers.tolist() == [1] * len(step.members)
        assert mixture.waited_s > 0
        assert all(one.waited_s == 0 for one in loaders)


@pytest.mark.parametrize(
    ("n", "weights", "message"),
    [
        (0, [], r"0 loaders and 0 weights; one weight for each"),
        (2, [1.0], r"2 loaders and 1 weights"),
        (2, [1.0, 0.0], r"the weights of a mixture are \[1.0, 0.0\]; all must be finite and > 0"),
        (1, [float("nan")], r"the weights of a mixture are \[nan\]"),
    ],
)
def test_a_mixture_refuses_what_makes_no_sense(n, weights, message):
    with pytest.raises(ValueError, match=message):
        data.Mixture([loader(2) for _ in range(n)], weights)
