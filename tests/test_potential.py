"""What a Potential answers, refuses and adds up."""

import threading
from typing import final

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from torch import nn

from tumble.batch import Batch, Properties, collate
from tumble.models.pair import ZBL, LennardJones, Morse
from tumble.packs import predict, stream
from tumble.potential import Direct, Gradient, Model, Outputs, Potential, Sum, collate_for
from tumble.testing import structures


def argon(dtype=torch.float64):
    return Gradient(LennardJones(0.0104, 3.4, cutoff=7.0)).to(dtype)


@final
class Spring(Model):
    """Half of k r² on either atom of a pair, and a direct head that pulls along x."""

    def __init__(self, k: float = 2.0, head: bool = True):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k, dtype=torch.float64))
        self.cutoff, self.species, self._head = 3.0, (1, 8), head

    @property
    def has_direct_forces(self) -> bool:
        return self._head

    def forward(self, batch: Batch) -> Outputs:
        energies = self.k * batch.vectors.square().sum(1) / 4
        per_atom = torch.zeros(batch.n_atoms, dtype=torch.float64).index_add(0, batch.center, energies)
        pull = self.k * torch.tensor([1.0, 0, 0]).to(batch.positions).expand_as(batch.positions)
        return Outputs(per_atom, pull if self._head else None, torch.zeros_like(batch.cell) if self._head else None)


def test_a_spring_pulls_and_strains_as_hooke_says():
    atoms = Atoms("OH", [[0, 0, 0], [0, 0, 1.5]], cell=[10, 10, 10], pbc=True)
    (answer,) = predict(Gradient(Spring(2.0)), atoms)
    assert answer.energy.item() == pytest.approx(2.25)
    np.testing.assert_allclose(answer.forces, [[0, 0, 3.0], [0, 0, -3.0]])
    np.testing.assert_allclose(answer.stress, np.diag([0, 0, 2.0 * 2.25 / 1000]))


def test_a_compressed_crystal_has_a_negative_stress():
    assert (
        predict(argon(), bulk("Ar", a=4.9))[0].stress.trace()
        < 0
        < predict(argon(), bulk("Ar", a=5.6))[0].stress.trace()
    )


def test_an_isolated_atom_feels_nothing():
    (answer,) = predict(argon(), Atoms("Ar"))
    assert answer.energy == 0
    assert not answer.forces.any()
    assert answer.stress is None


def test_answers_carry_a_graph_only_in_training():
    potential = argon()
    batch = collate_for(potential, [bulk("Ar", cubic=True)])
    assert not potential.training
    assert not any(field.requires_grad for field in potential(batch))
    with torch.no_grad():
        assert potential(batch).forces.shape == (4, 3)
    potential.train()
    assert all(field.requires_grad for field in potential(batch))


def test_both_gives_the_heads_from_the_same_pass():
    potential = Gradient(Spring())
    batch = collate_for(potential, [molecule("H2O")])
    conservative, direct = potential.both(batch)
    assert torch.equal(conservative.energy, direct.energy)
    assert torch.equal(direct.forces, Direct(Spring())(batch).forces)
    assert not torch.equal(direct.forces, conservative.forces)


def test_direct_answers_with_its_heads_and_is_not_conservative():
    potential = Direct(Spring(3.0))
    (answer,) = predict(potential, molecule("H2O"))
    assert answer.forces[:, 0].tolist() == [3.0, 3.0, 3.0]
    assert (potential.is_conservative, Gradient(Spring()).is_conservative) == (False, True)
    potential.train()
    assert potential(collate_for(potential, [molecule("H2O")])).forces.requires_grad
    with pytest.raises(ValueError, match=r"no direct force head.*Use Gradient\(model\)"):
        Direct(Spring(head=False))


def test_a_potential_states_what_batches_must_be():
    single = argon(torch.float32)
    assert (single.dtype, argon().dtype, Gradient(ZBL([18])).dtype) == (torch.float32, torch.float64, torch.float64)
    batch = collate_for(single, [bulk("Ar")])
    assert batch.vectors.dtype == torch.float32
    assert single.device == torch.device("cpu")
    assert batch.vectors.norm(dim=1).max() <= 7.0
    answer = single(batch)
    assert (answer.energy.dtype, answer.forces.dtype, answer.stress.dtype) == (torch.float64, *[torch.float32] * 2)


def test_single_precision_agrees_with_double():
    atoms = bulk("Ar", cubic=True)
    atoms.rattle(0.1, seed=0)
    (single,), (double,) = predict(argon(torch.float32), atoms), predict(argon(), atoms)
    assert single.energy.item() == pytest.approx(double.energy.item(), rel=1e-5)
    np.testing.assert_allclose(single.forces, double.forces, atol=1e-6)


def test_predict_answers_in_order_whatever_the_batches():
    frames = structures((18,))
    whole = predict(argon(), frames)
    assert len(whole) == len(frames)
    for limit in (1, 50, 500):
        for one, other in zip(predict(argon(), frames, pairs_per_batch=limit), whole, strict=True):
            assert one.energy.item() == pytest.approx(other.energy.item(), abs=1e-12)
            torch.testing.assert_close(one.forces, other.forces, rtol=0, atol=1e-12)
    assert predict(argon(), []) == []


def test_predict_tells_how_far_it_is():
    told = []
    frames = [bulk("Ar")] * 5
    predict(argon(), frames, pairs_per_batch=1, tell=told.append)
    assert [(one.done, one.total) for one in told] == [(n, 5) for n in range(1, 6)]
    assert "5 structures," in told[-1].message
    predict(argon(), iter(frames), tell=told.append)
    assert (told[-1].done, told[-1].total) == (5, 0)


def test_a_stream_takes_no_more_than_it_needs():
    taken = []

    def endless():
        while True:
            taken.append(bulk("Ar"))
            yield taken[-1]

    answers = stream(argon(), endless(), pairs_per_batch=1)
    atoms, answer = next(answers)
    assert torch.equal(answer.forces, predict(argon(), atoms)[0].forces)
    next(answers)
    answers.close()
    assert len(taken) <= 5
    assert "tumble-ahead" not in [one.name for one in threading.enumerate()]


def test_a_stream_is_not_fooled_by_an_object_that_moves():
    def trajectory():
        atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, 3.5]])
        for _ in range(6):
            yield atoms
            atoms.positions[1, 2] += 0.2

    pairs = list(stream(argon(), trajectory()))
    assert [float(atoms.positions[1, 2]) for atoms, _ in pairs] == pytest.approx([3.5, 3.7, 3.9, 4.1, 4.3, 4.5])
    for atoms, answer in pairs:
        assert torch.equal(answer.energy, predict(argon(), atoms)[0].energy)


@pytest.mark.parametrize("wrong", ["near", "unknown", "empty"])
def test_all_before_a_bad_structure_are_answered_and_it_is_named_by_its_place(wrong):
    good = [Atoms("OH", [[0, 0, 0], [0, 0, 1 + 0.1 * n]]) for n in range(4)]
    bad = {"near": Atoms("OH", [[0, 0, 0], [0, 0, 0.01]]), "unknown": Atoms("Xe"), "empty": Atoms()}[wrong]
    answered = []
    with pytest.raises(ValueError, match="structure 4 "):
        answered.extend(atoms for atoms, _ in stream(Gradient(Spring()), [*good, bad, *good]))
    assert answered == good
    with pytest.raises(ValueError, match="number 40 "):
        list(stream(Gradient(Spring()), [*good, bad], name=lambda index: f"number {10 * index}"))


def test_an_error_of_whoever_makes_the_structures_reaches_the_caller():
    def broken():
        yield bulk("Ar")
        raise KeyError("lost")

    answers = stream(argon(), broken())
    next(answers)
    with pytest.raises(KeyError, match="lost"):
        next(answers)


@final
class Small(Potential):
    """Answers with the numbers of the pairs, and has no memory for many of them."""

    cutoff, species, is_conservative = 5.0, None, True

    def __init__(self, limit: int, error: str = "allocator"):
        super().__init__()
        self.limit, self.error, self.asked = limit, error, []

    def forward(self, batch: Batch) -> Properties:
        self.asked.append(batch.n_pairs)
        if batch.n_pairs > self.limit:
            if self.error == "allocator":
                torch.empty(2**60, dtype=torch.uint8)
            raise {"cuda": torch.OutOfMemoryError("CUDA out of memory"), "other": RuntimeError("broken")}[self.error]
        pairs = torch.bincount(batch.structure[batch.center], minlength=batch.n_structures)
        return Properties(pairs.double(), torch.zeros_like(batch.positions))


@pytest.mark.parametrize("error", ["allocator", "cuda"])
def test_a_batch_that_does_not_fit_is_split_and_so_are_those_after_it(error):
    frames = [bulk("Cu").repeat((1, 1, 1 + n % 3)) for n in range(40)]
    told, potential = [], Small(300, error)
    answers = predict(potential, frames, pairs_per_batch=1500, tell=told.append)
    assert [float(one.energy) for one in answers] == [collate([one], 5.0).n_pairs for one in frames]
    failed = [n for n in potential.asked if n > 300]
    assert failed == potential.asked[: len(failed)]
    assert 1 < len(failed) <= 3
    assert f"out of memory with {failed[-1]} pairs in a batch, going on with {failed[-1] // 2}" in told[-1].message


def test_a_structure_that_does_not_fit_alone_is_an_error_with_numbers():
    frames = [bulk("Cu"), bulk("Cu"), bulk("Cu").repeat(3)]
    pairs, answered = collate(frames[2:], 5.0).n_pairs, []
    with pytest.raises(RuntimeError, match=rf"structure 2, 27 atoms with {pairs} pairs .*not fit into .*Use float32"):
        answered.extend(stream(Small(300), frames))
    assert len(answered) == 2


def test_another_error_of_a_potential_splits_nothing():
    potential = Small(300, "other")
    with pytest.raises(RuntimeError, match="broken"):
        predict(potential, [bulk("Cu")] * 20)
    assert len(potential.asked) == 1


def test_a_sum_adds_what_its_parts_answer():
    parts = argon(), Gradient(ZBL([18])), Gradient(Morse(0.01, 3.0))
    total = Sum(*parts)
    assert (total.cutoff, total.species, total.is_conservative) == (pytest.approx(8.1), (18,), True)
    atoms = bulk("Ar", a=4.0, cubic=True)
    atoms.rattle(0.1, seed=0)
    (answer,) = predict(total, atoms)
    for name in Properties._fields:
        singles = sum(getattr(predict(part, atoms)[0], name) for part in parts)
        torch.testing.assert_close(getattr(answer, name), singles, rtol=1e-12, atol=1e-12)


@final
class Stressless(Potential):
    """Zero energy and forces, no stress; knows hydrogen and argon."""

    cutoff, species, is_conservative = 0.0, (1, 18), False

    def forward(self, batch: Batch) -> Properties:
        return Properties(torch.zeros(batch.n_structures, dtype=torch.float64), torch.zeros_like(batch.positions))


def test_a_sum_is_no_more_than_its_weakest_part():
    total = Sum(argon(), Stressless(), Gradient(LennardJones(0.01, {"Ar-Ar": 3.0, "Ar-Kr": 3.1, "Kr-Kr": 3.2})))
    assert total.species == (18,)
    assert not total.is_conservative
    assert predict(total, bulk("Ar"))[0].stress is None
    with pytest.raises(ValueError, match=r"Sum of 0 potentials has no answer"):
        Sum()


def test_a_sum_switches_all_its_parts_to_training_and_back():
    total = Sum(argon(), argon())
    total.train()
    assert all(part.training for part in total.parts)
    total.eval()
    assert not any(part.training for part in total.parts)


def test_an_unknown_element_is_named_with_its_structure():
    frames = [molecule("H2O"), bulk("Ar"), Atoms("OU", [[0, 0, 0], [0, 0, 2]])]
    with pytest.raises(ValueError, match=r"element 18 \(Ar\) in structure 1 is unknown to this model \(H, O\)"):
        predict(Gradient(Spring()), frames)
    with pytest.raises(ValueError, match=r"element 92 \(U\) .* Remove the structure or train with U"):
        predict(Direct(Spring()), frames[2:])


def test_an_element_without_a_name_is_refused_too():
    batch = collate([molecule("H2O")], 3.0)
    odd = batch._replace(numbers=torch.full_like(batch.numbers, 200))
    with pytest.raises(ValueError, match=r"element 200 \(\?\) in structure 0"):
        Gradient(Spring())(odd)


def test_a_model_without_a_config_says_so():
    with pytest.raises(NotImplementedError):
        Spring().config()
