"""PET against metatrain, on the same random weights, and against what its architecture promises."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from tumble.batch import Properties, collate
from tumble.models.pet import PET, PETSettings
from tumble.models.pet.edges import layout_of
from tumble.models.pet.layers import gather, scatter
from tumble.potential import Direct, Gradient, collate_for, predict
from tumble.testing import check_potential

SPECIES = [1, 6, 8]


def molecule() -> Atoms:
    generator = np.random.default_rng(0)
    positions = np.array([[0, 0, 0], [1.4, 0, 0], [0, 1.3, 0.4], [1.2, 1.5, -0.9], [-0.8, 0.3, 1.2], [0.2, -1.1, -0.3]])
    return Atoms([8, 6, 1, 1, 6, 1], positions + 0.05 * generator.normal(size=(6, 3)))


def crystal() -> Atoms:
    generator = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(*[np.arange(2) * 2.1] * 3, indexing="ij"), -1).reshape(-1, 3)
    return Atoms([8, 6, 1, 1, 6, 1, 8, 8], grid + 0.1 * generator.normal(size=(8, 3)), cell=[4.2] * 3, pbc=True)


def triclinic() -> Atoms:
    cell = [[2.9, 0.1, 0.0], [0.7, 3.2, 0.3], [-0.4, 0.2, 3.6]]
    return Atoms([1, 8, 6], [[0.1, 0.2, 0.3], [1.5, 1.3, 1.1], [2.0, 0.4, 2.6]], cell=cell, pbc=True)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "published defaults": {},
    "nodes as wide as edges": {"d_node": 16},
    "original PET": {
        "featurizer_type": "residual",
        "transformer_type": "PostLN",
        "normalization": "LayerNorm",
        "activation": "SiLU",
        "cutoff_function": "Cosine",
        "d_node": 16,
    },
    "post-normalised with wide nodes": {"transformer_type": "PostLN", "num_attention_layers": 1},
    "adaptive cutoff": {"num_neighbors_adaptive": 6.0, "cutoff": 5.5, "attention_temperature": 1.7},
    "three layers, residual, wide nodes": {"featurizer_type": "residual", "num_gnn_layers": 3},
}
SMALL = {"d_pet": 16, "d_head": 12, "d_node": 24, "d_feedforward": 20, "num_heads": 4}


def reference(changes: dict[str, Any]) -> Any:
    """A random PET of metatrain in float64, with direct heads, composition energies and scales."""
    pytest.importorskip("metatrain", reason="metatrain is not installed; pip install 'tumble[test]'")
    from metatrain.pet import PET as THEIRS
    from metatrain.utils.architectures import get_default_hypers
    from metatrain.utils.data import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info, get_generic_target_info

    hypers = get_default_hypers("pet")["model"] | SMALL | changes

    def cartesian(rank: int, quantity: str, unit: str, per_atom: bool) -> dict[str, Any]:
        return {
            "quantity": quantity, "unit": unit, "type": {"cartesian": {"rank": rank}}, "num_subtargets": 1,
            "sample_kind": "atom" if per_atom else "system", "per_atom": per_atom, "description": "",
        }  # fmt: skip

    energy = {
        "quantity": "energy", "unit": "eV", "type": "scalar", "num_subtargets": 1, "sample_kind": "system",
        "per_atom": False, "description": "",
    }  # fmt: skip
    forces, stress = "non_conservative_forces", "non_conservative_stress"
    targets = {
        "energy": get_energy_target_info("energy", energy),
        forces: get_generic_target_info(forces, cartesian(1, "force", "eV/Angstrom", True)),
        stress: get_generic_target_info(stress, cartesian(2, "pressure", "eV/Angstrom^3", False)),
    }
    torch.manual_seed(3)
    return THEIRS(hypers, DatasetInfo("angstrom", SPECIES, targets)).to(torch.float64).eval()


def answers_of_reference(model: Any, atoms: Atoms) -> tuple[Properties, Properties]:
    """Conservative and direct answers of metatrain's model, with its own neighbour list and autograd."""
    from metatomic.torch import ModelOutput, System
    from metatrain.utils.neighbor_lists import get_system_with_neighbor_lists

    positions = torch.tensor(atoms.positions, requires_grad=True)
    strain = torch.eye(3, dtype=torch.float64, requires_grad=True)
    system = System(
        torch.tensor(atoms.numbers, dtype=torch.int32),
        positions @ strain,
        torch.tensor(atoms.cell.array) @ strain,
        torch.tensor(atoms.pbc),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        system = get_system_with_neighbor_lists(system, model.requested_neighbor_lists())
        names = {"energy": False, "non_conservative_forces": True, "non_conservative_stress": False}
        outputs = {name: ModelOutput(sample_kind="atom" if per_atom else "system") for name, per_atom in names.items()}
        answer = {name: value.block().values for name, value in model([system], outputs).items()}
    slope, virial = torch.autograd.grad(answer["energy"].sum(), [positions, strain])
    energy = answer["energy"].detach()[:, 0]
    # The antisymmetric part of the virial is the torque of a model that is not invariant; a stress has none.
    stress = (virial + virial.mT) / 2 / abs(np.linalg.det(atoms.cell.array)) if atoms.pbc.all() else None
    direct = Properties(
        energy, answer["non_conservative_forces"].detach()[..., 0], answer["non_conservative_stress"].detach()[..., 0]
    )
    return Properties(energy, -slope, stress), direct


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.engine
@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.filterwarnings("ignore")
def test_pet_agrees_with_metatrain(name: str) -> None:
    from tumble.bridges.metatrain import from_state

    theirs = reference(CONFIGURATIONS[name])
    ours = from_state(theirs.state_dict(), theirs.hypers, SPECIES)
    for atoms in (molecule(), crystal(), triclinic()):
        expected, expected_direct = answers_of_reference(theirs, atoms)
        potential = Gradient(ours)
        batch = collate_for(potential, [atoms])
        conservative, direct = potential(batch), Direct(ours)(batch)
        assert relative(conservative.energy, expected.energy) < 1e-9
        assert relative(conservative.forces, expected.forces) < 1e-9
        assert relative(direct.forces, expected_direct.forces) < 1e-9
        if expected.stress is not None:
            assert relative(conservative.stress[0], expected.stress) < 1e-9
            assert relative(direct.stress, expected_direct.stress) < 1e-9


def test_species_and_heads_are_checked() -> None:
    with pytest.raises(ValueError, match="a PET of 0 species"):
        PET([])
    with pytest.raises(ValueError, match="num_heads is 5, which does not divide d_pet = 16"):
        PET([1], {"d_pet": 16, "num_heads": 5})
    with pytest.raises(ValueError, match=r"element 6 \(C\) in structure 0 is unknown to this model \(H, O\)"):
        predict(Gradient(PET([8, 1], SMALL)), molecule())
    assert PET([8, 1, 8]).species == (1, 8)


def test_pet_is_exactly_invariant_to_translations_and_permutations_and_not_to_rotations() -> None:
    torch.manual_seed(0)
    potential = Gradient(PET(SPECIES, SMALL).double())
    atoms = triclinic()
    moved = atoms.copy()
    moved.positions += [0.3, -1.2, 7.0]
    order = [2, 0, 1]
    turned = atoms.copy()
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    one, other, permuted, rotated = predict(potential, [atoms, moved, atoms[order], turned])
    assert relative(one.forces, other.forces) < 1e-12
    assert relative(one.forces[order], permuted.forces) < 1e-12
    assert abs(float(one.energy - rotated.energy)) > 1e-6


def test_a_smooth_cutoff_lets_a_neighbour_leave_without_a_jump() -> None:
    torch.manual_seed(0)
    for adaptive in (None, 4.0):
        potential = Gradient(PET([1, 8], SMALL | {"cutoff": 4.0, "num_neighbors_adaptive": adaptive}).double())
        energies = []
        for x in 4.0 + np.linspace(-1e-6, 1e-6, 5):
            energies.append(float(predict(potential, Atoms("OH2", [[0, 0, 0], [0, 0.9, 0.2], [x, 0, 0]]))[0].energy))
        assert np.ptp(energies) < 1e-8


def test_forces_and_stress_are_derivatives_of_the_energy_also_through_adaptive_cutoffs() -> None:
    torch.manual_seed(0)
    settings = SMALL | {"num_neighbors_adaptive": 6.0, "cutoff": 5.5, "edge_basis": 3}
    check_potential(Gradient(PET(SPECIES, settings).double()))


def test_blocks_of_very_different_lengths_give_the_same_numbers_as_one_structure_at_a_time() -> None:
    torch.manual_seed(0)
    potential = Gradient(PET(SPECIES, SMALL).double())
    structures = [Atoms("H"), *[Atoms("OH", [[0, 0, 0], [0, 0, 0.96]])] * 9, crystal(), triclinic()]
    batch = collate_for(potential, structures)
    assert len(layout_of(batch).blocks) > 1
    together = predict(potential, structures)
    for atoms, answer in zip(structures, together, strict=True):
        alone = predict(potential, atoms)[0]
        assert float(alone.energy) == pytest.approx(float(answer.energy), rel=1e-12)
        assert torch.allclose(alone.forces, answer.forces, atol=1e-12)


def test_gather_and_scatter_are_each_others_derivatives_twice() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([5, 0, 3, 2])
    assert torch.autograd.gradcheck(lambda x: scatter(x, index, 7) ** 2, (x,))
    assert torch.autograd.gradgradcheck(lambda x: scatter(x, index, 7) ** 3, (x,))
    wide = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: gather(x, index) ** 3, (wide,))


def test_constants_keep_their_precision_in_a_float32_model() -> None:
    model = PET([1, 8], SMALL)
    model.offsets.copy_(torch.tensor([-13.587654321098, -2041.123456789012], dtype=torch.float64))
    before = model.offsets.clone()
    assert torch.equal(model.to(torch.float32).double().float().offsets, before)
    assert model.energy_scale.dtype == torch.float64


def test_the_interaction_range_holds() -> None:
    """An atom that moves beyond the declared range changes nothing; one just inside does."""
    torch.manual_seed(0)
    for featurizer in ("feedforward", "residual"):
        settings = PETSettings(**SMALL | {"cutoff": 1.5, "featurizer_type": featurizer, "num_gnn_layers": 2})
        model = PET([1], settings).double()
        chain = Atoms("H12", [[0.9 * k, 0.1 * (k % 2), 0.0] for k in range(12)])
        moved = chain.copy()
        moved.positions[-1, 1] += 0.2
        one, other = (model(collate([atoms], model.cutoff)).energies.detach() for atoms in (chain, moved))
        change = (one - other).abs().numpy()
        apart = np.linalg.norm(chain.positions - chain.positions[-1], axis=1)
        assert change[apart > settings.interaction_range + 0.3].max() == 0.0
        assert change[apart < settings.interaction_range / 2].min() > 0.0
