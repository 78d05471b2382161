"""Contracts: who keeps them is within rounding, who breaks one is found by its name, and nothing stored helps."""

from typing import final

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones as EngineLJ

from analytic import Handed, Recorder
from tumble.batch import Batch, Properties
from tumble.bridges.ase import Foreign
from tumble.jobs.audit.measures import contracts as measure
from tumble.jobs.audit.measures.contracts import CHANGES, contracts, doubled, neighbour_counts, wrapped
from tumble.models.pair import LennardJones
from tumble.models.pet import PET
from tumble.neighbors import keep, search
from tumble.potential import Gradient, Potential
from tumble.symmetry import symmetrize

NAMES = ["repeatable", *CHANGES, "batch = singles", "neighbours in turned frames"]


def argon() -> Atoms:
    atoms = bulk("Ar", "fcc", a=2.1) * (2, 2, 1)
    atoms.rattle(0.05, seed=0)
    return atoms


def pairs() -> Gradient:
    return Gradient(LennardJones(0.1, 1.3, cutoff=3.2))


def pet() -> PET:
    torch.manual_seed(0)
    width = {"d_pet": 8, "d_node": 8, "d_head": 8, "d_feedforward": 8, "num_heads": 2, "num_attention_layers": 1}
    return PET((18,), width | {"cutoff": 3.2})


@final
class Broken(Potential):
    """Pairs with one fault."""

    cutoff, species, is_conservative = 3.2, None, True

    def __init__(self, fault) -> None:
        super().__init__()
        self.fault, self.inner, self.calls, self.last = fault, pairs(), 0, 0.0

    def forward(self, batch: Batch) -> Properties:
        answer = self.fault(self, self.inner(batch), batch)
        self.calls, self.last = self.calls + 1, float(batch.positions.sum())
        return answer


def by_place(potential, good, batch):
    return good._replace(forces=good.forces + 1e-6 * batch.positions)


def by_order(potential, good, batch):
    first = torch.searchsorted(batch.structure, torch.arange(batch.n_structures))
    return good._replace(forces=good.forces.index_add(0, first, torch.full((batch.n_structures, 3), 1e-4).double()))


FAULTS = {
    "repeatable": lambda p, good, batch: good._replace(energy=good.energy + 1e-6 * p.calls),
    "translation": by_place,
    "permutation": by_order,
    "batch = singles": lambda p, good, batch: good._replace(energy=good.energy + 1e-5 * batch.n_structures),
    "supercell": lambda p, good, batch: good._replace(energy=good.energy + 1e-5),
}


@pytest.mark.parametrize(
    "make",
    [
        pairs,
        lambda: Gradient(pet()),
        lambda: symmetrize(pairs(), "i"),
        lambda: Foreign(EngineLJ(epsilon=0.1, sigma=1.3, rc=3.2, smooth=True)),
    ],
    ids=["pairs", "PET in float32", "averaged", "black box"],
)
@pytest.mark.parametrize("atoms", [argon(), Atoms("Ar3", [[0, 0, 0], [0, 0.3, 1.4], [1.3, 0, 0.2]])], ids=repr)
def test_good_potentials_keep_every_contract_within_rounding(make, atoms):
    found = contracts(make(), atoms)
    assert list(dict.fromkeys(one.name for one in found)) == NAMES
    assert {one.passed for one in found} <= {True, None}
    assert all(one.deviation is None or one.deviation <= one.limit for one in found)
    assert all(one.limit < 0.2 for one in found)
    asked = {one.name for one in found if one.passed is not None}
    assert ("supercell" in asked) == ("periodic images" in asked) == bool(atoms.pbc.any())


@pytest.mark.parametrize("name", FAULTS)
def test_who_breaks_a_contract_is_found_by_its_name(name):
    assert all(one.passed for one in contracts(Broken(lambda p, good, batch: good), argon()))
    failed = [one for one in contracts(Broken(FAULTS[name]), argon()) if one.passed is False]
    assert name in {one.name for one in failed}
    assert all(one.deviation > one.limit for one in failed)


def test_deviations_are_in_the_units_of_their_rows():
    found = contracts(Broken(FAULTS["permutation"]), argon())
    force = next(one for one in found if (one.name, one.unit) == ("permutation", "meV/Å"))
    assert force.deviation == pytest.approx(0.1, rel=1e-6)
    found = contracts(Broken(FAULTS["supercell"]), argon())
    energy = next(one for one in found if (one.name, one.unit) == ("supercell", "meV/atom"))
    assert energy.deviation == pytest.approx(1e-5 / 2 * 1000 / 4, rel=1e-4)


def test_a_stored_state_of_an_earlier_question_is_noticed():
    def remembers(potential, good, batch):
        return good._replace(energy=good.energy + 1e-6 * potential.last)

    failed = {one.name for one in contracts(Broken(remembers), argon()) if one.passed is False}
    assert "repeatable" in failed

    class Warm(EngineLJ):
        """Begins from what it found last, and does not quite forget it; asked about the same again, it answers so."""

        last = 0.0

        def calculate(self, atoms=None, *arguments):
            super().calculate(atoms, *arguments)
            self.results["energy"] += 1e-5 * self.last
            self.last = float(atoms.positions.sum())

    failed = {one.name for one in contracts(Foreign(Warm(epsilon=0.1, sigma=1.3)), argon()) if one.passed is False}
    assert "repeatable" in failed


def test_a_number_that_is_none_is_a_failure():
    def lost(potential, good, batch):
        return good._replace(forces=good.forces * (torch.nan if batch.n_atoms > 4 else 1.0))

    found = {one.name for one in contracts(Broken(lost), argon()) if one.passed is False}
    assert found == {"supercell", "batch = singles"}


def test_the_cost_is_ten_calls_and_a_large_supercell_is_left_out_with_the_reason():
    recorder = Recorder(pairs())
    contracts(recorder, argon())
    assert len(recorder.calls) == 10
    assert [n for n, _, _ in recorder.calls] == [1] * 9 + [4]
    assert max(atoms for n, atoms, _ in recorder.calls if n == 1) == 8
    found = [one for one in contracts(recorder, argon(), most_atoms=7) if one.name == "supercell"]
    assert [one.deviation for one in found] == [None, None]
    assert found[0].note == "not asked: 2 x 4 atoms are more than 7"


def test_limits_follow_the_precision_and_what_is_known_of_rounding():
    atoms = argon()
    tight, loose = contracts(pairs(), atoms)[1], contracts(pairs().float(), atoms)[1]
    assert 1e-6 < tight.limit < 1e-4 < loose.limit < 0.1
    known = Properties(torch.tensor([0.1]), torch.tensor([0.0, 0.2, 0.0, 0.0]))
    energy, forces = contracts(pairs(), atoms, rounding=known)[:2]
    assert (energy.limit, forces.limit) == (pytest.approx(250), pytest.approx(2000))

    @final
    class Single(Potential):
        cutoff, species, is_conservative = 3.2, None, True

        def forward(self, batch: Batch) -> Properties:
            answer = pairs()(batch)
            return Properties(answer.energy.float().double(), answer.forces.float().double())

    assert contracts(Single(), atoms)[1].limit == pytest.approx(10 * loose.limit)


def test_a_potential_without_forces_has_rows_of_energy():
    found = contracts(Handed(), Atoms("He4", np.eye(4, 3)))
    assert {one.unit for one in found} == {"meV/atom", "pairs"}
    assert [one.note for one in found if one.name == "supercell"] == ["not asked: nothing repeats"]
    assert found[-1].note == "not asked: a black box searches its own neighbours"


def test_neighbours_are_as_many_in_every_frame_and_a_search_that_loses_the_edge_is_noticed(monkeypatch):
    atoms = bulk("Ar", "fcc", a=2.1, cubic=True)
    assert neighbour_counts(3.2, atoms).passed
    assert neighbour_counts(2.1, atoms, n_frames=50).deviation == 0
    assert neighbour_counts(0.5, Atoms("He")).passed

    def sharp(positions, cell, pbc, cutoff):
        pairs = search(positions, cell, pbc, cutoff)
        v = positions[pairs.neighbor] - positions[pairs.center] + pairs.shift @ cell
        return keep(pairs, (np.linalg.norm(v, axis=1) <= cutoff))

    monkeypatch.setattr(measure, "search", sharp)
    found = neighbour_counts(3.2, atoms)
    assert not found.passed
    assert found.deviation > 0


def test_changes_leave_the_structure_alone_and_what_does_not_repeat_out():
    atoms = argon()
    before = atoms.positions.copy()
    for change in CHANGES.values():
        assert change(atoms).atoms is not atoms
    np.testing.assert_array_equal(atoms.positions, before)
    assert wrapped(molecule("H2O")) is None
    assert doubled(molecule("H2O")) is None
    scaled = wrapped(atoms).atoms.get_scaled_positions(wrap=False) - atoms.get_scaled_positions(wrap=False)
    assert np.abs(scaled - np.round(scaled)).max() < 1e-9
    assert np.abs(scaled).max() > 0.5
