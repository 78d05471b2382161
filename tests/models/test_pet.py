"""PET against metatrain, on the same random weights, and against what its architecture promises."""

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT

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
    triclinic,
)
from tumble.batch import collate
from tumble.bridges.ase import Calculator, Foreign
from tumble.jobs.train import TrainSettings
from tumble.models.pair import ZBL
from tumble.models.pet import PET, PETSettings
from tumble.models.pet.edges import layout_of
from tumble.models.pet.layers import gather, scatter
from tumble.packs import predict
from tumble.potential import Direct, Gradient, Sum, atomic_energies, collate_for
from tumble.rotations import Rotations
from tumble.symmetry import Projected, Symmetrized, symmetrize
from tumble.testing import check_potential

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
    "widths that the engine takes": {"num_neighbors_adaptive": 6.0, "cutoff": 5.5, "num_gnn_layers": 3, **ROUND},
    "three layers, residual, wide nodes": {"featurizer_type": "residual", "num_gnn_layers": 3},
    "cutoffs from a grid": {
        "num_neighbors_adaptive": 6.0,
        "adaptive_cutoff_method": "grid",
        "cutoff": 5.5,
        "cutoff_width_adaptive": 0.7,
        **ROUND,
    },
}


@pytest.mark.engine
@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.filterwarnings("ignore")
def test_pet_agrees_with_metatrain(name: str) -> None:
    theirs = reference(CONFIGURATIONS[name])
    ours = ours_of(theirs)
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


PUBLISHED = {"XS": 4.48, "S": 25.90, "M": 108.59, "L": 255.38, "XL": 730.05}
"""Millions of parameters, for 89 elements and heads for energy, forces and stress."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = PET(range(1, 90), PETSettings.preset(name, direct_forces=True, direct_stress=True))
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e6, 2) == PUBLISHED[name]


def test_a_recipe_may_name_a_preset_and_change_it() -> None:
    assert PETSettings(**{"preset": "S", "cutoff": 5.0}) == PETSettings.preset("S", cutoff=5.0)
    recipe = TrainSettings(data=("a.xyz",), model={"preset": "XS", "num_heads": 4})
    expected = PETSettings.preset("XS", num_heads=4, edge_basis=TrainSettings.model_fields["model"].default.edge_basis)
    assert recipe.model == expected
    for name in ("XXL", 3):
        with pytest.raises(ValueError, match=r"there is no preset .* of PET; one of XS, S, M, L, XL was expected"):
            PETSettings(**{"preset": name})
    with pytest.raises(ValueError, match="there is no preset 'tiny' of PET"):
        PETSettings.preset("tiny")


def test_direct_heads_are_evaluated_on_demand_and_the_rest_does_not_change() -> None:
    torch.manual_seed(0)
    model = PET(SPECIES, SMALL | {"direct_forces": True, "direct_stress": True}).double()
    batch = collate([crystal()], model.cutoff)
    calls = []
    for name in ("forces", "stress"):
        model.readouts[name].register_forward_hook(lambda *_: calls.append(1))
    without, with_heads = model(batch, direct=False), model(batch)
    assert without.forces is None
    assert without.stress is None
    assert len(calls) == 2
    assert torch.equal(without.energies, with_heads.energies)


def test_energies_of_atoms_add_up_and_shift_with_their_elements() -> None:
    torch.manual_seed(0)
    model = PET(SPECIES, SMALL).double()
    model.offsets.copy_(torch.tensor([-1.0, -20.0, -300.0]))
    structures = [molecule(), crystal()]
    direct, parts = PET(SPECIES, SMALL | {"direct_forces": True}).double(), Sum(Gradient(model), Gradient(ZBL(SPECIES)))
    averaged = Symmetrized(parts, Rotations.parse("T"), chunk=5)
    aligned = Projected(symmetrize(Gradient(model), "T@crystal"))
    for potential in (Gradient(model), Direct(direct), parts, averaged, aligned):
        assert potential.has_energies_by_atom
        for energies, answer in zip(
            atomic_energies(potential, structures), predict(potential, structures), strict=True
        ):
            assert float(energies.sum()) == pytest.approx(float(answer.energy), rel=1e-12)
    assert [round(float(e), -1) for e in atomic_energies(Gradient(model), molecule())[0][:3]] == [-300.0, -20.0, 0.0]

    def turned(turn: torch.Tensor) -> torch.Tensor:
        atoms = molecule()
        atoms.positions = atoms.positions @ turn.numpy().T
        return atomic_energies(parts, atoms)[0]

    mean = torch.stack([turned(turn) for turn in averaged.rotations.matrices]).mean(0)
    torch.testing.assert_close(atomic_energies(averaged, molecule())[0], mean, rtol=1e-12, atol=1e-12)
    atoms = molecule()
    atoms.calc = Calculator(averaged)
    np.testing.assert_array_equal(atoms.get_potential_energies(), atomic_energies(averaged, molecule())[0])
    foreign = Foreign(EMT())
    assert not foreign.has_energies_by_atom
    with pytest.raises(ValueError, match=r"a Foreign has no energies of atoms; Gradient, Direct, LLPR, a Sum"):
        atomic_energies(foreign, molecule())
