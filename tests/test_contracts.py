"""Every Model, Potential and bridge keeps its contracts; and the contracts notice who does not."""

from typing import final

import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones as EngineLJ

from tumble.batch import Batch, Properties, to_atoms
from tumble.bridges.ase import Calculator, Foreign
from tumble.models.pair import ZBL, LennardJones, Morse
from tumble.models.pet import LLPR, PET
from tumble.packs import predict
from tumble.potential import Gradient, Model, Outputs, Potential, Sum
from tumble.symmetry import symmetrize
from tumble.testing import MODEL_CONTRACTS, POTENTIAL_CONTRACTS, check_bridge, check_model, check_potential, structures


def carbon():
    return Gradient(LennardJones(0.05, 1.3, cutoff=4.0))


def small_pet(**settings):
    """A random PET in float64 that answers fast."""
    torch.manual_seed(0)
    width = {"d_pet": 16, "d_node": 32, "d_head": 16, "d_feedforward": 16, "num_heads": 2, "num_attention_layers": 1}
    return PET((6, 8), width | {"cutoff": 3.5} | settings).double()


MODELS = {
    "LennardJones": lambda: LennardJones(0.05, 1.3),
    "LennardJones of two elements": lambda: LennardJones(0.05, {"O-O": 1.4, "H-O": 1.1, "H-H": 0.8}, cutoff=4.0),
    "LennardJones in float32": lambda: LennardJones(0.05, 1.3).float(),
    "Morse": lambda: Morse(0.2, 1.4, 5.0),
    "ZBL": lambda: ZBL((1, 6, 8)),
    "PET": small_pet,
    "PET with direct heads": lambda: small_pet(direct_forces=True, direct_stress=True, featurizer_type="residual"),
    "PET with an adaptive cutoff": lambda: small_pet(num_neighbors_adaptive=8.0),
    "PET with cutoffs from a grid": lambda: small_pet(num_neighbors_adaptive=8.0, adaptive_cutoff_method="grid"),
    "PET with charge and spin": lambda: small_pet(system_conditioning=True),
    "PET in float32": lambda: small_pet(edge_basis=3).float(),
}

POTENTIALS = {
    "Sum": lambda: Sum(carbon(), Gradient(ZBL([6]))),
    "Symmetrized": lambda: symmetrize(Gradient(small_pet()), "i"),
    "LLPR": lambda: LLPR(small_pet()),
    "Foreign": lambda: Foreign(EngineLJ(epsilon=0.05, sigma=1.3, rc=4.0, smooth=True)),
}


def through_ase(potential):
    """One ASE calculator for all questions, as a simulation has it."""
    calculator = Calculator(potential)

    def ask(atoms):
        atoms.calc = calculator
        energy, forces = (
            torch.tensor(atoms.get_potential_energy(), dtype=torch.float64),
            torch.from_numpy(atoms.get_forces()),
        )
        has_stress = atoms.pbc.any() and atoms.cell.rank == 3
        stress = torch.from_numpy(atoms.get_stress(voigt=False)) if has_stress else None
        return Properties(energy, forces, stress)

    return ask


def there_and_back(potential):
    """Our potential as an ASE calculator as our potential."""
    foreign = Foreign(Calculator(potential))
    return lambda atoms: predict(foreign, atoms)[0]


BRIDGES = {"ase.Calculator": through_ase, "ase.Foreign": there_and_back}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_keeps_every_contract(name):
    found = check_model(MODELS[name]())
    assert set(MODEL_CONTRACTS) | set(POTENTIAL_CONTRACTS) <= set(found)


@pytest.mark.parametrize("name", POTENTIALS)
def test_every_potential_keeps_every_contract(name):
    assert set(check_potential(POTENTIALS[name]())) == set(POTENTIAL_CONTRACTS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", BRIDGES)
def test_every_bridge_gives_the_numbers_of_the_potential(name, dtype):
    potential = carbon().to(dtype)
    assert check_bridge(BRIDGES[name](potential), potential) < (1e-12 if dtype == torch.float64 else 1e-6)


def test_the_structures_are_of_every_kind():
    frames = structures((1, 8))
    assert {tuple(one.pbc.tolist()) for one in frames} == {
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (True, True, True),
    }
    assert {len(one) for one in frames} >= {1, 2}
    assert {z for one in frames for z in one.numbers} == {1, 8}


@final
class Broken(Potential):
    """A good potential with one fault."""

    cutoff, species = 4.0, (6,)
    is_conservative = True

    def __init__(self, fault):
        super().__init__()
        self.fault, self.inner, self.calls = fault, carbon(), 0

    def forward(self, batch: Batch) -> Properties:
        self.calls += 1
        return self.fault(self, self.inner(batch), batch)


def field_along_x(potential, good, batch):
    energy = good.energy.index_add(0, batch.structure, batch.positions[:, 0])
    return good._replace(energy=energy, forces=good.forces - torch.tensor([1.0, 0, 0]))


def depends_on_order(potential, good, batch):
    first = torch.searchsorted(batch.structure, torch.arange(batch.n_structures))
    return good._replace(forces=good.forces.index_add(0, first, torch.full((batch.n_structures, 3), 0.1).double()))


FAULTS = {
    "shapes": lambda p, good, batch: good._replace(forces=good.forces.float()),
    "repeatable": lambda p, good, batch: good._replace(energy=good.energy + p.calls * 1e-6),
    "translation": field_along_x,
    "permutation": depends_on_order,
    "batch = singles": lambda p, good, batch: good._replace(energy=good.energy + batch.n_structures),
    "supercell": lambda p, good, batch: good._replace(energy=good.energy + 1.0),
    "longer pair list": lambda p, good, batch: good._replace(energy=good.energy + 1e-3 * batch.n_pairs),
    "forces = -dE/dx": lambda p, good, batch: good._replace(forces=1.001 * good.forces),
    "stress = dE/dε / V": lambda p, good, batch: good._replace(stress=-good.stress),
    "net force": lambda p, good, batch: good._replace(forces=good.forces + 1e-3),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_contract_notices_who_breaks_it(name):
    contracts = {name: POTENTIAL_CONTRACTS[name]}
    check_potential(Broken(lambda p, good, batch: good), contracts=contracts)
    with pytest.raises(AssertionError, match=rf"^Broken: {name}: violated by .*, allowed .*, for \w+"):
        check_potential(Broken(FAULTS[name]), contracts=contracts)


def test_a_contract_notices_positions_taken_for_absolute():
    def by_place(potential, good, batch):
        wrapped = torch.tensor([float((one.get_scaled_positions(wrap=False) > 1).sum()) for one in to_atoms(batch)])
        return good._replace(energy=good.energy + wrapped)

    crystal = [one for one in structures() if one.pbc.all()]
    with pytest.raises(AssertionError, match=r"Broken: periodic images: violated .* for triclinic crystal"):
        check_potential(
            Broken(by_place), atoms=crystal, contracts={"periodic images": POTENTIAL_CONTRACTS["periodic images"]}
        )


def test_a_contract_notices_an_answer_with_a_graph_and_a_missing_field():
    contracts = {"shapes": POTENTIAL_CONTRACTS["shapes"]}
    for fault in (
        lambda p, good, batch: good._replace(energy=good.energy.clone().requires_grad_()),
        lambda p, good, batch: good._replace(forces=None),
        lambda p, good, batch: good._replace(energy=good.energy * torch.nan),
        lambda p, good, batch: good._replace(stress=torch.ones_like(good.stress)),
    ):
        with pytest.raises(AssertionError, match=r"shapes: violated by inf"):
            check_potential(Broken(fault), contracts=contracts)
    with pytest.raises(AssertionError, match=r"gives no energy or no forces; a potential must give both"):
        check_potential(
            Broken(lambda p, good, batch: good._replace(forces=None)),
            contracts={"net force": POTENTIAL_CONTRACTS["net force"]},
        )


@final
class Careless(Potential):
    """Claims to know carbon only, and answers about anything."""

    cutoff, species, is_conservative = 0.0, (6,), False

    def forward(self, batch: Batch) -> Properties:
        return Properties(torch.zeros(batch.n_structures, dtype=torch.float64), torch.zeros_like(batch.positions))


def test_a_contract_notices_answers_about_unknown_elements():
    with pytest.raises(AssertionError, match=r"Careless: unknown elements: violated by inf"):
        check_potential(Careless())


@final
class Forgetful(Model):
    """A config that does not rebuild it, and energies per structure."""

    def __init__(self, k: float = 1.0, energies: str = "per atom"):
        super().__init__()
        self.cutoff, self.species, self._k, self._energies = 3.0, None, k, energies

    def forward(self, batch: Batch) -> Outputs:
        per_pair = self._k * (3 - batch.vectors.norm(dim=1)) ** 4
        per_atom = torch.zeros(batch.n_atoms, dtype=torch.float64).index_add(0, batch.center, per_pair.double())
        return Outputs(per_atom if self._energies == "per atom" else per_atom.sum()[None])

    def config(self) -> dict[str, object]:
        return {}


def test_a_contract_notices_a_config_that_forgets():
    with pytest.raises(AssertionError, match=r"Forgetful: config: violated by .*, 0 was expected"):
        check_model(Forgetful(k=2.0))
    with pytest.raises(AssertionError, match=r"Forgetful: energies per atom: violated by inf, 0 was expected"):
        check_model(Forgetful(energies="per structure"))
    assert check_model(Forgetful(k=1.0), atoms=[Atoms("He2", [[0, 0, 0], [1.1, 0.3, 0.2]])])["trainable forces"] == 0


def test_a_bridge_that_forgets_to_search_again_is_noticed():
    potential = carbon()
    cache = {}

    def stale(atoms):
        return cache.setdefault(str(atoms.symbols), predict(potential, atoms)[0])

    with pytest.raises(AssertionError, match=r"nudged: the engine deviates by .*, allowed 1e-09"):
        check_bridge(stale, potential)
    with pytest.raises(AssertionError, match=r"slab, at rest: the engine deviates by inf"):
        check_bridge(lambda atoms: predict(potential, atoms)[0]._replace(stress=None), potential)
