"""ASE on both sides of a potential."""

import sys
import types
from typing import ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator as Engine
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones as EngineLJ
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from tumble.batch import Properties
from tumble.bridges.ase import Calculator, Foreign, from_spec
from tumble.models.pair import LennardJones
from tumble.packs import predict
from tumble.potential import Gradient, Potential, collate_for


def argon(dtype=torch.float64):
    return Gradient(LennardJones(0.0104, 3.4, cutoff=7.0, onset=5.0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_calculator_answers_what_the_potential_answers(dtype):
    atoms = bulk("Ar", "fcc", a=5.2, cubic=True)
    atoms.rattle(0.1, seed=1)
    (own,) = predict(argon(dtype), atoms)
    atoms.calc = Calculator(argon(dtype))
    assert atoms.get_potential_energy() == float(own.energy)
    assert atoms.get_potential_energy(force_consistent=True) == float(own.energy)
    assert isinstance(atoms.calc.results["energy"], float)
    assert atoms.get_forces().dtype == np.float64
    np.testing.assert_array_equal(atoms.get_forces(), own.forces.double())
    np.testing.assert_array_equal(atoms.get_stress(voigt=False), own.stress.double())
    np.testing.assert_array_equal(
        atoms.get_stress(), own.stress.double().numpy()[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    )


def test_a_stress_that_does_not_exist_says_why():
    atoms = Atoms("Ar2", [[0, 0, 0], [3.6, 0, 0]], calculator=Calculator(argon()))
    with pytest.raises(
        PropertyNotImplementedError, match=r"there is no stress: nothing is periodic or no volume spanned"
    ):
        atoms.get_stress()
    assert atoms.get_potential_energy() < 0
    crystal = bulk("Ar", "fcc", a=5.2)
    crystal.calc = Calculator(Foreign(Half()))
    with pytest.raises(PropertyNotImplementedError, match=r"there is no stress: this potential gives none"):
        crystal.get_stress()


def test_small_moves_reuse_the_neighbours_and_never_change_the_answer():
    atoms = bulk("Ar", "fcc", a=5.2, cubic=True).repeat(2)
    atoms.calc = Calculator(argon(), skin=1.0)
    random = np.random.default_rng(0)
    for _ in range(30):
        atoms.positions += random.uniform(-0.03, 0.03, atoms.positions.shape)
        (fresh,) = predict(argon(), atoms)
        np.testing.assert_allclose(atoms.get_forces(), fresh.forces, atol=1e-13)
    assert 1 <= atoms.calc.n_searches <= 4
    eager = bulk("Ar", "fcc", a=5.2, cubic=True)
    eager.calc = Calculator(argon(), skin=0.0)
    for k in range(3):
        eager.positions[0, 0] += 0.01 * k + 0.01
        eager.get_potential_energy()
    assert eager.calc.n_searches == 3


def test_one_calculator_serves_structures_of_any_size_in_turn():
    calculator = Calculator(argon())
    for atoms in (bulk("Ar", "fcc", a=5.2), Atoms("Ar"), fcc111("Ar", (2, 2, 2), a=5.2, vacuum=6), bulk("Ar", a=5.3)):
        atoms.calc = calculator
        (own,) = predict(argon(), atoms)
        np.testing.assert_allclose(atoms.get_forces(), own.forces, atol=1e-14)
        assert atoms.get_potential_energy() == pytest.approx(float(own.energy), abs=1e-14)


def test_a_crystal_relaxes_to_the_lattice_constant_of_its_potential():
    atoms = bulk("Ar", "fcc", a=5.0)
    atoms.calc = Calculator(argon())
    with BFGS(FrechetCellFilter(atoms), logfile=None) as relaxation:
        assert relaxation.run(fmax=1e-6, steps=60)
    scan = [bulk("Ar", "fcc", a=a) for a in np.linspace(5.0, 5.5, 101)]
    energies = [float(one.energy) for one in predict(argon(), scan)]
    best = np.linspace(5.0, 5.5, 101)[int(np.argmin(energies))]
    assert atoms.cell.lengths()[0] * np.sqrt(2) == pytest.approx(best, abs=0.006)
    assert np.abs(atoms.get_stress()).max() < 1e-6


def test_an_element_that_the_potential_does_not_know_is_refused():
    atoms = bulk("Ne", a=4.4)
    atoms.calc = Calculator(Gradient(LennardJones(0.01, {"Ar-Ar": 3.4})))
    with pytest.raises(ValueError, match=r"element 10 \(Ne\) in structure 0 is unknown to this model \(Ar\)"):
        atoms.get_forces()


class Half(Engine):
    """Energy and forces, no stress."""

    implemented_properties: ClassVar = ["energy", "forces"]
    n_calls = 0

    def calculate(self, atoms=None, properties=None, system_changes=()):
        super().calculate(atoms, properties, system_changes)
        type(self).n_calls += 1
        self.results = {"energy": float(len(atoms)), "forces": atoms.positions.copy()}


class Blind(Engine):
    """Energy only."""

    implemented_properties: ClassVar = ["energy"]


class Crooked(Half):
    """Forces of a wrong shape."""

    def calculate(self, atoms=None, properties=None, system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"] = np.zeros((len(atoms), 2))


class Shy(Half):
    """Promises a stress and does not give it."""

    implemented_properties: ClassVar = ["energy", "forces", "stress"]


def test_a_foreign_calculator_answers_as_itself():
    potential = Foreign(EMT())
    frames = [bulk("Cu", cubic=True), fcc111("Au", (2, 1, 2), vacuum=5.0), molecule("N2"), Atoms("Cu")]
    for one in frames:
        one.rattle(0.05, seed=2)
    for one, answer in zip(frames, predict(potential, frames), strict=True):
        one.calc = EMT()
        assert float(answer.energy) == pytest.approx(one.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(answer.forces, one.get_forces(), atol=1e-12)
        if one.cell.rank == 3:
            np.testing.assert_allclose(answer.stress, one.get_stress(voigt=False), atol=1e-12)
        else:
            assert answer.stress is None
    assert isinstance(potential, Potential)
    assert (potential.cutoff, potential.species, potential.is_conservative) == (0.0, None, True)
    assert Foreign(EMT(), conservative=False).is_conservative is False


def test_a_foreign_lennard_jones_is_ours():
    theirs = Foreign(EngineLJ(epsilon=0.0104, sigma=3.4, rc=7.0, ro=5.0, smooth=True))
    atoms = bulk("Ar", "fcc", a=5.2, cubic=True)
    atoms.rattle(0.1, seed=5)
    for a, b in zip(predict(theirs, atoms)[0], predict(argon(), atoms)[0], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_foreign_calculator_is_called_once_for_each_structure():
    Half.n_calls = 0
    (answer,) = predict(Foreign(Half()), bulk("Cu"))
    assert Half.n_calls == 1
    assert answer.stress is None
    assert isinstance(answer, Properties)


def test_a_promised_stress_that_does_not_come_is_none():
    assert predict(Foreign(Shy()), bulk("Cu"))[0].stress is None


def test_foreign_answers_take_the_dtype_of_the_batch():
    potential = Foreign(EMT())
    batch = collate_for(potential, [bulk("Cu")])
    single = batch._replace(positions=batch.positions.float(), cell=batch.cell.float(), vectors=batch.vectors.float())
    answer = potential(single)
    assert (answer.energy.dtype, answer.forces.dtype) == (torch.float64, torch.float32)


def test_what_cannot_be_a_potential_is_refused():
    with pytest.raises(ValueError, match=r"the calculator Blind gives energy, but not forces; .*Use another"):
        Foreign(Blind())
    with pytest.raises(ValueError, match=r"object is not an ASE calculator"):
        Foreign(object())
    with pytest.raises(RuntimeError, match=r"Crooked returned forces of shape \(2, 2\) for 2 atoms; \(2, 3\) was"):
        predict(Foreign(Crooked()), molecule("N2"))


def test_a_calculator_is_found_by_its_name():
    for spec in ("ase.calculators.emt:EMT", "ase:ase.calculators.emt:EMT"):
        assert isinstance(from_spec(spec).calculator, EMT)


def test_names_that_lead_to_no_calculator_say_what_is_wrong(monkeypatch):
    module = types.ModuleType("made_up")
    module.needy = lambda argument: argument
    module.number = lambda: 3
    monkeypatch.setitem(sys.modules, "made_up", module)
    with pytest.raises(ValueError, match=r"'ase.calculators.emt' does not name a calculator; expected"):
        from_spec("ase.calculators.emt")
    with pytest.raises(ImportError, match=r"cannot import 'no_such_package.emt' .*Install its package"):
        from_spec("no_such_package.emt:EMT")
    with pytest.raises(
        ValueError, match=r"the module .* has nothing called 'ETM', which .* names. Did you mean 'EMT'\?"
    ):
        from_spec("ase.calculators.emt:ETM")
    with pytest.raises(RuntimeError, match=r"called without arguments and failed: TypeError"):
        from_spec("made_up:needy")
    with pytest.raises(ValueError, match=r"int is not an ASE calculator"):
        from_spec("made_up:number")
