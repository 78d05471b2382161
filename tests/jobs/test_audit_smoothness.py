"""Smoothness: a truncated potential jumps by exactly what was cut off, a tapered one does not, forces' kinks aside."""

from typing import final

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones as EngineLJ

from analytic import PairFunction, Recorder
from tumble.batch import Batch, Properties, to_atoms
from tumble.bridges.ase import Foreign
from tumble.jobs.audit.measures.smoothness import LEAST_JUMP, LEAST_WIDTH, MOST_CALLS, REACH, smoothness, ways
from tumble.models.pair import LennardJones
from tumble.models.pet import PET
from tumble.potential import Direct, Gradient, Potential, Sum, collate_for
from tumble.symmetry import symmetrize

EPSILON, SIGMA, CUTOFF = 0.2, 1.5, 4.0


def lj(r):
    c6 = (SIGMA / r) ** 6
    return 4 * EPSILON * (c6 * c6 - c6)


def truncated(shift: float = 0.0) -> Gradient:
    """Lennard-Jones, cut off at once, less a constant."""

    def energy(v, _i, _j):
        r = v.norm(dim=1)
        return torch.where(r < CUTOFF, lj(r) - shift, 0.0)

    return Gradient(PairFunction(energy, CUTOFF + 0.5))


def crystal() -> Atoms:
    atoms = bulk("Ar", "fcc", a=2.7, cubic=True) * (2, 1, 1)
    atoms.rattle(0.05, seed=0)
    return atoms


@final
class Silent(Potential):
    """What says nothing of its cutoff."""

    cutoff, species, is_conservative = 0.0, None, True

    def __init__(self, inner: Potential) -> None:
        super().__init__()
        self.foreign = Recorder(inner)

    def forward(self, batch: Batch) -> Properties:
        return self.foreign(collate_for(self.foreign, to_atoms(batch)))


@pytest.mark.parametrize("atoms", [crystal(), molecule("H2O")], ids=["within a crystal", "two atoms alone"])
def test_a_truncated_potential_jumps_by_what_was_cut_off(atoms):
    found = smoothness(truncated(), atoms, cutoff=CUTOFF)
    assert found.jump_meV == pytest.approx(1000 * abs(lj(CUTOFF)), rel=1e-4)
    assert found.distance_A == pytest.approx(CUTOFF, abs=1e-6)
    assert found.width_A <= LEAST_WIDTH
    assert found.n_jumps >= 1
    assert found.mismatch_meV > 0.5 * found.jump_meV


def test_a_cutoff_that_is_not_known_is_found_by_two_atoms_alone():
    potential = Silent(truncated())
    found = smoothness(potential, molecule("CH3OH"))
    assert found.jump_meV == pytest.approx(1000 * abs(lj(CUTOFF)), rel=1e-4)
    assert found.distance_A == pytest.approx(CUTOFF, abs=1e-6)
    assert found.n_jumps == 3  # H-H, C-H and C-C
    assert sum(n for n, _, _ in potential.foreign.calls) == found.n_calls
    engine = smoothness(Foreign(EngineLJ(sigma=SIGMA, epsilon=EPSILON, rc=CUTOFF, smooth=True)), Atoms("Ar"))
    assert engine.n_jumps == 0
    assert engine.jump_meV <= LEAST_JUMP
    assert engine.how == "two atoms Ar-Ar alone from 2 to 12 Å"


@pytest.mark.parametrize("atoms", [crystal(), molecule("H2O")], ids=["within a crystal", "two atoms alone"])
def test_a_smooth_potential_does_not_jump(atoms):
    recorder = Recorder(Gradient(LennardJones(EPSILON, SIGMA, cutoff=CUTOFF)))
    found = smoothness(recorder, atoms)
    assert found.jump_meV <= LEAST_JUMP
    assert (found.n_jumps, found.distance_A) == (0, None)
    assert sum(n for n, _, _ in recorder.calls) == found.n_calls < 100


def test_a_kink_of_the_forces_is_no_jump():
    found = smoothness(truncated(shift=lj(CUTOFF)), crystal(), cutoff=CUTOFF)
    assert (found.n_jumps, found.distance_A) == (0, None)
    assert found.jump_meV <= LEAST_JUMP


def test_direct_heads_are_set_aside_and_the_energy_of_their_model_is_followed():
    torch.manual_seed(0)
    width = {"d_pet": 8, "d_node": 8, "d_head": 8, "d_feedforward": 8, "num_heads": 2, "num_attention_layers": 1}
    pet = PET((18,), width | {"cutoff": CUTOFF, "direct_forces": True}).double()
    chain = Atoms("Ar3", [[0, 0, 0], [0, 0, 2.1], [0, 0.3, 4.1]])
    found = smoothness(Sum(Direct(pet), truncated()), chain, cutoff=CUTOFF)
    assert found.jump_meV == pytest.approx(1000 * abs(lj(CUTOFF)), rel=1e-3)
    assert smoothness(Direct(pet), chain) == smoothness(Gradient(pet), chain)
    averaged = (smoothness(symmetrize(make(pet), "i"), chain) for make in (Direct, Gradient))
    assert next(averaged) == next(averaged)


def test_forces_that_are_no_gradient_leave_a_bound_and_a_jump_stands_out_of_them():
    class Leaning(Potential):
        cutoff, species, is_conservative = CUTOFF, None, False

        def __init__(self, inner: Potential) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, batch: Batch) -> Properties:
            answer = self.inner(batch)
            return answer._replace(forces=answer.forces + 0.3)

    tapered = smoothness(Leaning(Gradient(LennardJones(EPSILON, SIGMA, cutoff=CUTOFF))), crystal())
    assert tapered.n_jumps == 0
    assert tapered.width_A > LEAST_WIDTH
    assert tapered.jump_meV < 1
    assert MOST_CALLS < tapered.n_calls < MOST_CALLS + 20
    cut = smoothness(Leaning(truncated()), crystal())
    assert cut.jump_meV == pytest.approx(1000 * abs(lj(CUTOFF)), rel=1e-2)
    assert cut.n_jumps >= 1


def test_the_noise_of_the_energy_is_not_followed():
    found = smoothness(truncated(), crystal(), cutoff=CUTOFF, rounding=0.1)
    assert found.noise_meV == pytest.approx(200)
    assert found.n_jumps == 0


def test_a_line_moves_one_atom_of_the_nearest_pair_across_the_cutoff():
    atoms = crystal()
    (way,) = ways(atoms, CUTOFF)
    changed = np.flatnonzero(np.abs(way.atoms.positions - atoms.positions).max(1))
    assert changed.tolist() == [way.atom]
    assert np.linalg.norm(way.atoms.positions - atoms.positions) <= REACH
    assert np.linalg.norm(way.direction) == pytest.approx(1)
    assert [one.how for one in ways(molecule("H2O"), CUTOFF)] == ["two atoms H-O alone from 3.9 to 4.1 Å"]
    assert len(list(ways(molecule("CH3CH2OH"), None))) == 3


def test_an_averaged_potential_jumps_as_what_it_averages_and_one_without_forces_is_not_followed():
    found = smoothness(symmetrize(truncated(), "i", project="crystal"), Atoms("He"), cutoff=CUTOFF)
    assert found.jump_meV == pytest.approx(1000 * abs(lj(CUTOFF)), rel=1e-4)
    assert found == smoothness(truncated(), Atoms("He"), cutoff=CUTOFF)

    @final
    class Mute(Potential):
        cutoff, species, is_conservative = CUTOFF, None, True

        def forward(self, batch: Batch) -> Properties:
            return Properties(torch.zeros(batch.n_structures, dtype=torch.float64))

    assert smoothness(Mute(), crystal()) is None
