"""Structures to tensors and back; turning, straining, copying and selecting them."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from tumble import neighbors
from tumble.batch import (
    Batch,
    Properties,
    collate,
    concatenate,
    copies,
    has_volume,
    select,
    split,
    strain,
    to_atoms,
    turn,
    turn_back,
    volume,
)
from tumble.testing import structures

CUTOFF = 4.0


def rotation(seed=0, parity=1):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return torch.from_numpy(q * np.linalg.det(q) * parity)


def random_answers(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    stress = make(batch.n_structures, 3, 3)
    return Properties(make(batch.n_structures), make(batch.n_atoms, 3), stress + stress.mT)


def equal(one, other, atol=0.0):
    for name, a, b in zip(type(one)._fields, one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def remade_vectors(batch: Batch):
    """x_j - x_i + S @ cell, from the other fields."""
    ends = batch.positions[batch.neighbor] - batch.positions[batch.center]
    return ends + torch.einsum("pa,pab->pb", batch.shift, batch.cell[batch.structure[batch.center]])


def check_consistency(batch: Batch, atol=1e-12):
    torch.testing.assert_close(batch.vectors, remade_vectors(batch), rtol=0, atol=atol)
    assert torch.equal(batch.center[batch.reverse], batch.neighbor)
    assert torch.equal(batch.neighbor[batch.reverse], batch.center)
    assert torch.equal(batch.vectors[batch.reverse], -batch.vectors)
    assert torch.equal(batch.structure[batch.center], batch.structure[batch.neighbor])
    assert bool((batch.center.diff() >= 0).all())
    assert bool((batch.structure.diff() >= 0).all())


def test_a_batch_holds_what_the_structures_hold():
    frames = structures((6, 8))
    batch = collate(frames, CUTOFF)
    check_consistency(batch)
    assert (batch.n_structures, batch.n_atoms) == (7, sum(len(one) for one in frames))
    assert batch.n_pairs == len(batch.center)
    assert torch.bincount(batch.structure).tolist() == [len(one) for one in frames]
    for s, one in enumerate(frames):
        np.testing.assert_array_equal(batch.positions[batch.structure == s], one.positions)
        np.testing.assert_array_equal(batch.numbers[batch.structure == s], one.numbers)
        np.testing.assert_array_equal(batch.cell[s], one.cell.array)
        np.testing.assert_array_equal(batch.pbc[s], one.pbc)
        pairs = neighbors.search(one.positions, one.cell.array, one.pbc, CUTOFF)
        assert int((batch.structure[batch.center] == s).sum()) == len(pairs.center)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floats_take_the_dtype_and_vectors_are_formed_before_rounding(dtype):
    far = bulk("Cu", cubic=True)
    far.positions += 1e4
    batch = collate([far], CUTOFF, dtype=dtype)
    assert {batch.positions.dtype, batch.cell.dtype, batch.vectors.dtype, batch.shift.dtype} == {dtype}
    assert batch.center.dtype == batch.neighbor.dtype == batch.reverse.dtype == batch.structure.dtype == torch.int64
    nearest = batch.vectors.norm(dim=1).min().item()
    assert nearest == pytest.approx(3.61 / np.sqrt(2), rel=1e-6)


def test_a_lone_atom_makes_a_batch_without_pairs():
    batch = collate([Atoms("He")], CUTOFF)
    assert (batch.n_structures, batch.n_atoms, batch.n_pairs) == (1, 1, 0)
    assert batch.vectors.shape == (0, 3)
    equal(turn(batch, rotation()), batch._replace(positions=batch.positions, cell=batch.cell))


def overlapping():
    atoms = bulk("Cu", cubic=True)
    atoms.positions[1] = atoms.positions[0] + atoms.cell.array[0] + [0, 0, 0.05]
    return atoms


def with_nan(field):
    atoms = bulk("Cu", cubic=True)
    getattr(atoms, field)[1, 2] = np.nan
    return atoms


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], r"0 structures were given, at least 1 was expected"),
        ([bulk("Cu"), Atoms()], r"structure 1 has no atoms; at least one was expected"),
        ([with_nan("positions")], r"structure 0 has 1 atoms with NaN or infinite positions, the first is atom 1 at"),
        ([with_nan("cell")], r"structure 0 has a cell with NaN or infinite entries"),
        ([Atoms("Cu", pbc=True)], r"structure 0 is periodic along abc, but its cell .* has no volume there"),
        (
            [Atoms("Cu", pbc=(0, 1, 0), cell=[3, 0, 3])],
            r"is periodic along b, but .*Give it a cell, or set pbc to False",
        ),
        ([bulk("Cu"), overlapping()], r"atoms 0 and 1 of structure 1 are 0.0500 Å apart; at least 0.1 Å"),
    ],
)
def test_structures_that_make_no_sense_are_refused(frames, message):
    with pytest.raises(ValueError, match=message):
        collate(frames, CUTOFF)


def test_split_gives_every_structure_its_own_answers():
    frames = structures((6, 8))
    batch = collate(frames, CUTOFF)
    answers = random_answers(batch)
    parts = split(answers, batch)
    assert [tuple(part.forces.shape) for part in parts] == [(len(one), 3) for one in frames]
    assert torch.equal(torch.stack([part.energy for part in parts]), answers.energy)
    assert torch.equal(torch.cat([part.forces for part in parts]), answers.forces)
    for s, (part, one) in enumerate(zip(parts, frames, strict=True)):
        if one.pbc.any() and one.cell.rank == 3:
            assert torch.equal(part.stress, answers.stress[s])
        else:
            assert part.stress is None
    assert split(Properties(), batch) == [Properties()] * len(frames)


def test_split_carries_no_graph():
    batch = collate([molecule("H2O")], CUTOFF)
    answers = Properties(*(field.requires_grad_() for field in random_answers(batch)))
    assert not split(answers, batch)[0].forces.requires_grad


def test_to_atoms_is_the_inverse_of_collate():
    frames = structures((6, 8))
    for one, back in zip(frames, to_atoms(collate(frames, CUTOFF)), strict=True):
        np.testing.assert_array_equal(back.positions, one.positions)
        np.testing.assert_array_equal(back.numbers, one.numbers)
        np.testing.assert_array_equal(back.cell.array, one.cell.array)
        np.testing.assert_array_equal(back.pbc, one.pbc)


def test_concatenated_batches_are_the_batch_of_everything():
    frames = structures((6, 8))
    singles = [collate([one], CUTOFF) for one in frames]
    equal(concatenate(singles), collate(frames, CUTOFF))
    equal(concatenate([collate(frames[:3], CUTOFF), collate(frames[3:], CUTOFF)]), collate(frames, CUTOFF))


@pytest.mark.parametrize("n", [1, 3])
def test_copies_are_the_batch_of_repeated_structures(n):
    frames = structures((6, 8))
    equal(copies(collate(frames, CUTOFF), n), collate(frames * n, CUTOFF))


def test_a_turned_batch_is_the_batch_of_turned_structures():
    frames, q = structures((6, 8)), rotation()
    turned = [one.copy() for one in frames]
    for one in turned:
        one.set_cell(one.cell.array @ q.numpy().T, scale_atoms=False)
        one.positions = one.positions @ q.numpy().T
    batch = turn(collate(frames, CUTOFF), q)
    equal(batch, collate(turned, CUTOFF), atol=1e-12)
    check_consistency(batch)


def test_each_structure_may_have_its_own_turn():
    frames = structures((6, 8))
    turns = torch.stack([rotation(seed, parity=(-1) ** seed) for seed in range(len(frames))])
    singles = [turn(collate([one], CUTOFF), q) for one, q in zip(frames, turns, strict=True)]
    batch = turn(collate(frames, CUTOFF), turns)
    equal(batch, concatenate(singles), atol=1e-12)
    answers = random_answers(batch)
    back = split(turn_back(answers, turns, batch.structure), batch)
    for s, (part, one) in enumerate(zip(back, split(answers, batch), strict=True)):
        torch.testing.assert_close(part.forces, one.forces @ turns[s], rtol=0, atol=1e-14)
        if part.stress is not None:
            torch.testing.assert_close(part.stress, turns[s].T @ one.stress @ turns[s], rtol=0, atol=1e-14)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, -1]))
def test_turning_back_undoes_the_turn_of_answers_that_turn_along(seed, parity):
    q = rotation(seed, parity)
    batch = collate([bulk("NaCl", "rocksalt", a=5.6), molecule("H2O")], CUTOFF)
    answers = random_answers(batch, seed)
    along = Properties(answers.energy, answers.forces @ q.T, q @ answers.stress @ q.T)
    equal(turn_back(along, q, batch.structure), answers, atol=1e-13)


def test_fields_that_are_not_known_stay_unknown_when_turned_back():
    batch = collate([molecule("H2O")], CUTOFF)
    assert turn_back(Properties(), rotation(), batch.structure) == Properties()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, -1]))
def test_a_turn_keeps_every_distance_and_every_pair(seed, parity):
    batch = collate(structures((6, 8)), CUTOFF)
    turned = turn(batch, rotation(seed, parity))
    torch.testing.assert_close(turned.vectors.norm(dim=1), batch.vectors.norm(dim=1), rtol=0, atol=1e-12)
    torch.testing.assert_close(volume(turned), volume(batch), rtol=1e-12, atol=1e-12)
    for name in ("pbc", "numbers", "structure", "center", "neighbor", "shift", "reverse"):
        assert torch.equal(getattr(turned, name), getattr(batch, name))


def test_a_strained_batch_is_the_batch_of_strained_structures():
    frames = structures((6, 8))
    epsilon = 0.01 * torch.randn(len(frames), 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch = strain(collate(frames, CUTOFF), epsilon)
    check_consistency(batch)
    for one, deform, back in zip(frames, epsilon.numpy() + np.eye(3), to_atoms(batch), strict=True):
        np.testing.assert_allclose(back.positions, one.positions @ deform, atol=1e-14)
        np.testing.assert_allclose(back.cell.array, one.cell.array @ deform, atol=1e-14)
    equal(strain(batch, torch.zeros(3, 3)), batch)


def test_selected_pairs_are_those_of_a_shorter_cutoff():
    frames = structures((6, 8))
    batch = collate(frames, CUTOFF)
    shorter = select(batch, batch.vectors.norm(dim=1) <= 2.0)
    equal(shorter, collate(frames, 2.0))
    check_consistency(shorter)
    assert 0 < shorter.n_pairs < batch.n_pairs


def test_volume_and_whether_there_is_one():
    frames = [
        bulk("Cu", a=3.6, cubic=True),
        fcc111("Cu", (1, 1, 2), a=3.6, vacuum=5.0),
        Atoms("He", cell=[0, 0, 2], pbc=(False, False, True)),
        molecule("H2O"),
        Atoms("He", cell=[9, 9, 9]),
    ]
    batch = collate(frames, CUTOFF)
    assert volume(batch)[0].item() == pytest.approx(3.6**3)
    assert volume(batch)[2:4].tolist() == [0, 0]
    assert has_volume(batch).tolist() == [True, frames[1].cell.rank == 3, False, False, False]


def test_a_left_handed_cell_has_a_positive_volume():
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array[[1, 0, 2]], scale_atoms=False)
    assert volume(collate([atoms], CUTOFF)).item() == pytest.approx(atoms.get_volume())
