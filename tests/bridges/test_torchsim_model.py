"""Our potentials as models of TorchSim: the same answers for whole batches, few searches, its integrators, refusals."""

import sys
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

import tumble
from tumble.batch import MINIMUM_DISTANCE, collate
from tumble.bridges.torchsim import Model, TorchSim, Verlets
from tumble.models.pair import LennardJones, Morse
from tumble.models.pet import PET
from tumble.packs import predict
from tumble.potential import Direct, Gradient, collate_for
from tumble.testing import check_bridge, structures

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"`(torch\.jit\.\w+|vesin\.torch)` is deprecated")
    torch_sim = pytest.importorskip("torch_sim", reason="needs torch-sim: pip install 'tumble[torchsim]'")
    from torch_sim.integrators import nve
    from torch_sim.models.interface import ModelInterface, validate_model_outputs

pytestmark = pytest.mark.engine

SHEAR = np.array([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [-0.1, 0.15, 1.0]])
CPU = torch.device("cpu")


def argon(cutoff: float = 6.0) -> Gradient:
    return Gradient(LennardJones(0.0104, 3.4, cutoff=cutoff, onset=5.0))


def crystals() -> list[Atoms]:
    """Periodic in three directions: cubic, triclinic, and a cell smaller than the cutoff."""
    cubic = bulk("Ar", "fcc", a=5.3, cubic=True)
    triclinic = cubic.copy()
    triclinic.set_cell(cubic.cell.array @ SHEAR, scale_atoms=True)
    found = [cubic.repeat(2), triclinic, bulk("Ar", "hcp", a=3.7)]
    for seed, one in enumerate(found):
        one.rattle(0.1, seed=seed)
    return found


def clusters() -> list[Atoms]:
    """Molecules of several sizes, one of them a single atom."""
    found = [bulk("Ar", "fcc", a=5.3, cubic=True).repeat(2)[:n] for n in (7, 1, 13)]
    for seed, one in enumerate(found):
        one.set_pbc(False)
        one.rattle(0.1, seed=seed)
    return found


def state(atoms: list[Atoms], dtype: torch.dtype = torch.float64):
    return torch_sim.io.atoms_to_state(atoms, CPU, dtype)


def close(found: dict[str, torch.Tensor], atoms: list[Atoms], potential, tolerance: float) -> None:
    own = predict(potential, atoms)
    dtype = found["forces"].dtype
    energies = torch.stack([one.energy for one in own]).to(dtype)
    stresses = [torch.zeros(3, 3) if one.stress is None else one.stress for one in own]
    torch.testing.assert_close(found["energy"], energies, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        found["forces"], torch.cat([one.forces for one in own]).to(dtype), rtol=0, atol=tolerance
    )
    torch.testing.assert_close(found["stress"], torch.stack([s.to(dtype) for s in stresses]), rtol=0, atol=tolerance)


# -------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("atoms", [crystals(), clusters()], ids=["crystals", "clusters"])
def test_one_call_answers_about_all_systems_as_predict_does(atoms):
    close(Model(argon())(state(atoms)), atoms, argon(), 1e-13)


def test_it_is_a_model_of_torch_sim_by_its_own_check():
    carbon = Gradient(LennardJones(0.05, 2.2, cutoff=4.0))
    model = Model(carbon)
    assert isinstance(model, ModelInterface)
    assert (model.device, model.dtype, model.compute_stress, model.compute_forces) == (CPU, torch.float64, True, True)
    assert model.memory_scales_with == "n_atoms_x_density"
    validate_model_outputs(model, CPU, torch.float64)


def test_there_and_back_again_nothing_is_lost():
    model = Model(Gradient(LennardJones(0.05, 1.3, cutoff=4.0)))
    back = TorchSim(model)
    allowed = [one for one in structures() if len(set(one.pbc)) == 1]
    assert check_bridge(lambda atoms: predict(back, atoms)[0], model.potential, atoms=allowed) < 1e-12


def test_answers_have_the_dtype_of_the_state_and_precision_of_the_potential():
    water, atoms = tumble.load("water"), [molecule("H2O"), molecule("H2O")]
    assert water.dtype == torch.float32
    single = Model(water)(state(atoms, torch.float32))
    double = Model(water)(state(atoms))
    assert {one.dtype for one in single.values()} == {torch.float32}
    assert {one.dtype for one in double.values()} == {torch.float64}
    own = water(collate_for(water, atoms))
    torch.testing.assert_close(double["energy"], own.energy, rtol=0, atol=0)
    torch.testing.assert_close(double["forces"], own.forces.double(), rtol=0, atol=0)
    torch.testing.assert_close(single["forces"], own.forces, rtol=0, atol=2e-5)


def test_a_dictionary_will_do():
    atoms = crystals()[:1]
    whole = state(atoms)
    fields = {name: getattr(whole, name) for name in ("positions", "cell", "pbc", "atomic_numbers", "system_idx")}
    close(Model(argon())(fields), atoms, argon(), 1e-13)


def test_other_systems_are_seen_as_others():
    model, atoms = Model(argon()), crystals()
    close(model(state(atoms)), atoms, argon(), 1e-13)
    close(model(state(atoms[::-1])), atoms[::-1], argon(), 1e-13)
    alone = [one.copy() for one in atoms[:1]]
    close(model(state(alone)), alone, argon(), 1e-13)
    alone[0].numbers[3] = 36
    assert model.n_searches == 7
    close(model(state(alone)), alone, argon(), 1e-13)
    alone[0].set_pbc(False)
    close(model(state(alone)), alone, argon(), 1e-13)


def test_a_potential_without_stress_does_without():
    torch.manual_seed(0)
    width = {"d_pet": 8, "d_head": 8, "d_node": 8, "d_feedforward": 8, "num_heads": 2}
    heads = Direct(PET((18,), width | {"cutoff": 4.0, "direct_forces": True}))
    atoms = crystals()[1:2]
    found = Model(heads, stress=False)(state(atoms))
    assert set(found) == {"energy", "forces"}
    torch.testing.assert_close(found["forces"], predict(heads, atoms)[0].forces.double(), rtol=0, atol=1e-6)
    assert repr(Model(heads, stress=False)).startswith("Model(\n  torch.float64, stress=False")
    with pytest.raises(ValueError, match=r"a Direct without a stress was asked for one\. Give Model stress=False"):
        Model(heads)(state(atoms))


# ----------------------------------------------------------------------------------------------------------- neighbours


def walk(atoms: list[Atoms], steps: int, size: float, *, strain: float = 0.0, wrap: bool = False):
    """The structures as they wander about, sometimes wrapped, their cells too if so asked."""
    random, moved = np.random.default_rng(5), [one.copy() for one in atoms]
    for _ in range(steps):
        for one in moved:
            if strain and one.pbc.any():
                one.set_cell(one.cell.array @ (np.eye(3) + strain * random.normal(size=(3, 3))), scale_atoms=True)
            one.positions += random.normal(scale=size, size=one.positions.shape)
            if wrap:
                one.wrap()
        yield [one.copy() for one in moved]


@pytest.mark.parametrize("strain", [0.0, 3e-4], ids=["fixed cells", "moving cells"])
def test_pairs_are_those_of_a_new_search_to_the_last_bit(strain):
    slab = fcc111("Ar", (2, 2, 2), a=5.3, vacuum=6.0)
    slab.cell[2] = 0.0
    alone = molecule("H2O", cell=30.0 * SHEAR, pbc=True)
    alone.positions += [29.0, 0.0, 3.0]
    halved = alone.copy()
    halved.wrap()
    assert np.ptp(halved.positions[:, 1]) > 10
    atoms = [*crystals(), *clusters(), slab, alone, halved]
    verlets = Verlets(collate(atoms, 6.0), 6.0, skin=0.5)
    for moved in walk(atoms, 25, 0.02, strain=strain):
        found = verlets(np.concatenate([one.positions for one in moved]), np.stack([one.cell.array for one in moved]))
        for name, one, other in zip(found._fields, found, collate(moved, 6.0), strict=True):
            assert torch.equal(one, other), name
    assert len(atoms) < verlets.n_searches < 12 * len(atoms)


def test_only_what_has_moved_far_is_searched_again():
    atoms = crystals()
    model = Model(argon(), skin=1.0)
    model(state(atoms))
    assert model.n_searches == 3
    atoms[1].positions[0] += [0.3, 0.0, 0.0]
    close(model(state(atoms)), atoms, argon(), 1e-13)
    assert model.n_searches == 3
    atoms[1].positions[0] += [0.3, 0.0, 0.0]
    close(model(state(atoms)), atoms, argon(), 1e-13)
    assert model.n_searches == 4


def test_a_cell_that_changes_much_is_searched_again():
    atoms = crystals()[:2]
    model = Model(argon())
    model(state(atoms))
    atoms[0].set_cell(atoms[0].cell.array * 1.6, scale_atoms=True)
    close(model(state(atoms)), atoms, argon(), 1e-13)
    assert model.n_searches == 3


def test_wrapping_costs_no_search():
    model, atoms = Model(argon(), skin=2.0), crystals()
    for one in atoms:
        one.wrap()
    inside = [one.positions.copy() for one in atoms]
    has_jumped = False
    for moved in walk(atoms, 12, 0.03, wrap=True):
        close(model(state(moved)), moved, argon(), 1e-12)
        has_jumped |= any(np.abs(one.positions - old).max() > 2 for one, old in zip(moved, inside, strict=True))
    assert has_jumped
    assert model.n_searches == 3


def test_two_levels_at_the_same_place_share_the_work():
    atoms = crystals()
    verlets = Verlets(collate(atoms, 6.0), 6.0)
    positions, cells = np.concatenate([one.positions for one in atoms]), np.stack([one.cell.array for one in atoms])
    assert verlets(positions, cells) is verlets(positions.copy(), cells.copy())


def test_without_a_cutoff_there_are_no_pairs():
    atoms = crystals()
    verlets = Verlets(collate(atoms, 0.0), 0.0)
    found = verlets(np.concatenate([one.positions for one in atoms]), np.stack([one.cell.array for one in atoms]))
    assert found.n_pairs == 0


# -------------------------------------------------------------------------------------------------------------- engines


def test_its_own_integrator_conserves_energy_though_it_wraps():
    atoms = crystals()[:2]
    model = Model(argon())
    dt, kT = torch.tensor(0.2, dtype=torch.float64), torch.tensor(0.01, dtype=torch.float64)
    begin, step = nve(model, dt=dt, kT=kT, seed=1)
    moving = begin(state(atoms))

    def total():
        return moving.energy + torch_sim.calc_kinetic_energy(
            momenta=moving.momenta, masses=moving.masses, system_idx=moving.system_idx
        )

    first = total()
    for _ in range(50):
        moving = step(moving)
    assert (total() - first).abs().max() < 5e-5
    assert model.n_searches <= 6


def test_its_own_runner_takes_it():
    atoms = crystals()
    found = torch_sim.static(atoms, Model(argon()))
    energies = [float(one["potential_energy"]) for one in found]
    assert energies == pytest.approx([float(one.energy) for one in predict(argon(), atoms)], abs=1e-10)


# --------------------------------------------------------------------------------------------------------------- errors


def test_an_unknown_element_is_refused():
    with pytest.raises(ValueError, match=r"element 18 \(Ar\) in structure 0 is unknown to this model"):
        Model(tumble.load("water"))(state(crystals()))


def test_what_has_flown_apart_is_named():
    whole = state(clusters())
    model = Model(argon())
    model(whole)
    whole.positions[-1, 2] = torch.nan
    with pytest.raises(
        ValueError, match=r"1 of 3 structures have NaN or infinite positions or cells, the first is str"
    ):
        model(whole)


def test_atoms_on_top_of_each_other_are_named():
    atoms = clusters()
    atoms[2].positions[4] = atoms[2].positions[9] + [0.0, 0.0, MINIMUM_DISTANCE / 2]
    with pytest.raises(ValueError, match=r"atoms (4 and 9|9 and 4) of structure 2 are 0\.0500 Å apart; at least 0\.1"):
        Model(argon())(state(atoms))


def test_without_torch_sim_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    with pytest.raises(ImportError, match=r"a TorchSim model needs torch-sim .*pip install 'tumble\[torchsim\]'"):
        Model(Gradient(Morse(1.0, 1.0, 2.0, cutoff=3.0)))
