"""Charge and spin multiplicity: as metatrain has them, read from the info of a structure, refused where unknown."""

from typing import final

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator

from pet_reference import ROUND, SMALL, answers_of_reference, crystal, molecule, ours_of, reference, relative, triclinic
from tumble.batch import collate, concatenate, copies, to_atoms
from tumble.bridges.ase import Calculator, Foreign
from tumble.models.pet import PET
from tumble.packs import predict
from tumble.potential import Direct, Gradient, collate_for


def charged(atoms: Atoms, **info: object) -> Atoms:
    atoms.info |= info
    return atoms


@pytest.mark.engine
@pytest.mark.parametrize("shape", [{"featurizer_type": "residual"}, {"d_node": 16}, ROUND], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_conditioning_agrees_with_metatrain(shape: dict[str, object]) -> None:
    theirs = reference({"system_conditioning": True, "max_charge": 4} | shape)
    ours = ours_of(theirs)
    structures = [
        molecule(),
        charged(molecule(), charge=-3),
        charged(crystal(), charge=4, spin_multiplicity=5),
        charged(triclinic(), spin_multiplicity=10),
    ]
    together = predict(Gradient(ours), structures)
    for atoms, answer in zip(structures, together, strict=True):
        expected, expected_direct = answers_of_reference(theirs, atoms)
        assert relative(answer.energy, expected.energy) < 1e-9
        assert relative(answer.forces, expected.forces) < 1e-9
        direct = Direct(ours)(collate_for(Direct(ours), [atoms]))
        assert relative(direct.forces, expected_direct.forces) < 1e-9
        assert relative(direct.stress, expected_direct.stress) < 1e-9 or expected.stress is None
    assert abs(float(together[0].energy - together[1].energy)) > 1e-6


def test_an_untrained_model_ignores_the_charge_and_a_trained_one_learns_it() -> None:
    torch.manual_seed(0)
    potential = Gradient(PET([1, 6, 8], SMALL | {"system_conditioning": True}).double())
    ion, neutral = charged(molecule(), charge=1), molecule()
    one, other = predict(potential, [ion, neutral])
    assert float(one.energy) == float(other.energy)
    batch = collate_for(potential, [ion])
    potential.model(batch).energies.sum().backward()
    gate = potential.model.system_conditioning.project[2]
    assert float(gate.weight.grad.abs().max()) > 0


def test_what_the_tables_do_not_hold_is_refused() -> None:
    potential = Gradient(PET([1, 6, 8], SMALL | {"system_conditioning": True, "max_spin_multiplicity": 4}).double())
    for info, message in (
        ({"charge": 11}, r"the charge of structure 1 is 11; this model knows whole numbers from -10 to 10\. Correct"),
        ({"charge": 0.5}, r"the charge of structure 1 is not a whole number; this model knows whole numbers"),
        ({"spin_multiplicity": 0}, r"the spin_multiplicity of structure 1 is 0; this model knows whole .* from 1 to 4"),
        ({"spin": 5}, r"the spin_multiplicity of structure 1 is 5; .* use a model with a larger max_spin_multiplicity"),
        ({"spin": "up"}, r"the spin_multiplicity of structure 1 is not a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(potential, [molecule(), charged(molecule(), **info)])
    assert predict(Gradient(PET([1, 6, 8], SMALL)), charged(molecule(), charge="?"))


def test_charge_and_multiplicity_travel_with_a_batch() -> None:
    one = charged(molecule(), charge=-1.0, spin=2)
    two = charged(crystal(), spin_multiplicity=3, spin=7)
    batch = concatenate([collate([one, molecule()], 3.0), collate([two], 3.0)])
    assert batch.charge.tolist() == [-1, 0, 0]
    assert batch.multiplicity.tolist() == [2, 1, 3]
    assert copies(batch, 2).charge.tolist() == [-1, 0, 0, -1, 0, 0]
    assert copies(batch, 2).multiplicity.tolist() == [2, 1, 3, 2, 1, 3]
    infos = [atoms.info for atoms in to_atoms(batch)]
    assert infos == [{"charge": -1, "spin_multiplicity": 2}, {}, {"spin_multiplicity": 3}]
    unclear = charged(molecule(), charge=float("nan"), spin_multiplicity=None)
    assert to_atoms(collate([unclear], 3.0))[0].info == {}


def test_ase_notices_a_new_charge() -> None:
    torch.manual_seed(0)
    model = PET([1, 6, 8], SMALL | {"system_conditioning": True}).double()
    torch.nn.init.normal_(model.system_conditioning.project[2].weight)
    atoms = molecule()
    atoms.calc = Calculator(Gradient(model))
    energies = [atoms.get_potential_energy()]
    for info in ({"charge": 1}, {"charge": 1, "spin": 3}, {"charge": 1, "spin": 3}, {"spin_multiplicity": 1}):
        atoms.info = info
        energies.append(atoms.get_potential_energy())
    neutral, ion, triplet, again, singlet = energies
    assert len({neutral, ion, triplet}) == 3
    assert (again, singlet) == (triplet, neutral)


@final
class Charged(AseCalculator):
    """Its energy is the charge that it is told."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms: Atoms, properties: object, system_changes: object) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": float(atoms.info.get("charge", 0)), "forces": np.zeros((len(atoms), 3))}


def test_a_foreign_calculator_is_told_the_charge() -> None:
    structures = [molecule(), charged(molecule(), charge=2), charged(molecule(), charge=-1), molecule()]
    answers = predict(Foreign(Charged()), structures)
    assert [float(answer.energy) for answer in answers] == [0.0, 2.0, -1.0, 0.0]
