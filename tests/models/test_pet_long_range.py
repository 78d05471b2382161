"""Long-range features: as metatrain has them, with forces that are derivatives, and their limits said."""

import math
import sys
from importlib.util import find_spec

import pytest
import torch
from ase import Atoms

from pet_reference import (
    ROUND,
    SMALL,
    SPECIES,
    answers_of_reference,
    crystal,
    molecule,
    ours_of,
    reference,
    relative,
    slab,
    triclinic,
)
from tumble.batch import collate, turn
from tumble.jobs.audit.measures.torque import by_differences, torque
from tumble.models.pet import PET, PETSettings
from tumble.models.pet.long_range import direct
from tumble.packs import predict
from tumble.potential import Gradient, collate_for
from tumble.rotations import Rotations
from tumble.testing import MODEL_CONTRACTS, POTENTIAL_CONTRACTS, check_potential, structures

LONG = {
    "cutoff": 4.0,
    "long_range": {
        "enable": True, "use_ewald": False, "smearing": 1.4, "kspace_resolution": 1.33, "interpolation_nodes": 5
    },
}  # fmt: skip


needs_torchpme = pytest.mark.skipif(
    find_spec("torchpme") is None, reason="torch-pme is not installed; pip install 'tumble[longrange]'"
)


def potential(**settings: object) -> Gradient:
    torch.manual_seed(0)
    return Gradient(PET(SPECIES, SMALL | LONG | settings).double())


def pair(distance: float) -> Atoms:
    return Atoms("OH", [[0, 0, 0], [0.3 * distance, 0.4 * distance, math.sqrt(0.75) * distance]])


@pytest.mark.engine
@pytest.mark.parametrize("shape", [{"featurizer_type": "residual"}, ROUND], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_long_range_agrees_with_metatrain(shape: dict[str, object]) -> None:
    """On a mesh, and by exact sums as in training. Its slabs cannot be compared: metatomic allows them no vacuum."""
    pytest.importorskip("torchpme", reason="torch-pme is not installed; pip install 'tumble[longrange]'")
    theirs = reference(LONG | shape)
    ours = Gradient(ours_of(theirs))
    for training in (False, True):
        theirs.train(training)
        ours.train(training)
        for atoms in (molecule(), crystal(), triclinic()):
            expected, _ = answers_of_reference(theirs, atoms)
            answer = ours(collate_for(ours, [atoms]))
            assert relative(answer.energy, expected.energy) < 1e-12
            assert relative(answer.forces, expected.forces) < 1e-12
            if expected.stress is not None:
                assert relative(answer.stress[0], expected.stress) < 1e-12
    sums, mesh = (ours.train(mode)(collate_for(ours, [crystal()])).energy.detach() for mode in (True, False))
    assert 1e-9 < relative(sums, mesh) < 1e-3


@needs_torchpme
def test_contracts_hold_beyond_the_cutoff() -> None:
    """But for one: to a mesh, translations are not exactly nothing."""
    asked = potential(num_neighbors_adaptive=5.0, **ROUND)
    frames = [one for one in structures(SPECIES) if one.info["name"] in ("pair", "slab", "triclinic crystal")]
    rough = {name: POTENTIAL_CONTRACTS[name] for name in ("translation", "net force")}
    check_potential(asked, atoms=frames, contracts=rough, tolerance=1e-5)
    check_potential(asked, atoms=frames, contracts={k: v for k, v in POTENTIAL_CONTRACTS.items() if k not in rough})
    assert {contract(asked.model, frames) for contract in MODEL_CONTRACTS.values()} == {0.0}


def test_atoms_far_apart_feel_each_other_and_near_ones_only_through_edges() -> None:
    far, farther = (float(predict(potential(), pair(d))[0].energy) for d in (9.0, 18.0))
    assert abs(far - farther) > 1e-7
    blind = Gradient(PET(SPECIES, SMALL | {"cutoff": 4.0}).double())
    assert float(predict(blind, pair(9.0))[0].energy) == float(predict(blind, pair(18.0))[0].energy)
    distance = torch.tensor([[0.0, 0, 0], [1e-3, 0, 0], [0, 12.0, 0]], dtype=torch.float64)
    potentials = direct(torch.eye(3, dtype=torch.float64), distance, 4.0)
    assert float(potentials[0, 1]) < 1e-3
    assert float(potentials[0, 2]) == pytest.approx(0.5 / 12.0, rel=1e-12)


def test_its_interaction_range_has_no_end() -> None:
    assert potential().model.settings.interaction_range == math.inf
    assert PETSettings(long_range={"smearing": 1.0}).interaction_range < math.inf


@needs_torchpme
def test_sums_do_not_depend_on_how_a_structure_is_turned_and_the_mesh_hardly_does() -> None:
    """The mesh of torch-pme corrects for its spacing along x, y and z, wherever the lattice vectors point."""
    features = potential().model.long_range_featurizer
    batch = collate([molecule(), crystal(), triclinic(), slab()], 4.0)
    nodes = [torch.randn(batch.n_atoms, SMALL["d_node"], dtype=torch.float64, generator=torch.manual_seed(1))]
    for is_exact, limit in ((True, 1e-10), (False, 1e-4)):
        features.train(is_exact)
        expected = features(nodes, batch)[0]
        for matrix in Rotations.random(2, seed=5).matrices:
            assert relative(features(nodes, turn(batch, matrix))[0], expected) < limit


@needs_torchpme
def test_a_slab_does_not_feel_its_vacuum() -> None:
    """Under full periodicity its dipole would."""

    def energy(height: float, pbc: object) -> float:
        atoms = slab()
        atoms.cell[2, 2], atoms.pbc = height, pbc
        return float(predict(potential(), atoms)[0].energy)

    def change(pbc: object) -> float:
        return abs(energy(60.0, pbc) - energy(30.0, pbc))

    assert change([True, True, False]) < 0.02 * change(True)
    with pytest.raises(ValueError, match=r"structure 0 repeats along two directions, and its cell spans no volume"):
        energy(0.0, [True, True, False])
    with pytest.raises(ValueError, match=r"structure 0 repeats along one direction; long-range features exist for"):
        energy(30.0, [True, False, False])


@needs_torchpme
def test_float32_follows_float64() -> None:
    exact, fast = potential(), potential().float()
    for atoms in (molecule(), crystal()):
        assert relative(predict(fast, atoms)[0].forces.double(), predict(exact, atoms)[0].forces) < 1e-3


def test_without_torch_pme_molecules_work_and_crystals_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchpme", None)
    assert predict(potential(), molecule())
    with pytest.raises(ImportError, match=r"torch-pme .* not installed\. Run: pip install 'tumble\[longrange\]'"):
        predict(potential(), crystal())


@needs_torchpme
def test_the_torque_of_an_audit_counts_what_lies_beyond_the_cutoff() -> None:
    asked = potential()
    batch = collate([molecule(), crystal()], 4.0)
    expected = by_differences(asked, batch)
    assert float(expected.abs().max()) > 1e-4
    assert torch.allclose(torque(asked, batch), expected, rtol=1e-4, atol=1e-8)
