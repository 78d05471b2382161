"""TorchSim models as potentials: conventions both ways, one call for many structures, the contracts, clear refusals."""

import sys
import types
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

import tumble
from tumble import checkpoint
from tumble.batch import split
from tumble.bridges.metatomic import Metatomic
from tumble.bridges.torchsim import TorchSim, from_spec
from tumble.models.pair import LennardJones, Morse
from tumble.orbit import Orbit
from tumble.packs import predict
from tumble.potential import Gradient, Potential, collate_for
from tumble.rotations import Rotations
from tumble.symmetry import Symmetrized, symmetrize
from tumble.testing import check_bridge, check_potential, structures

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"`(torch\.jit\.\w+|vesin\.torch)` is deprecated")
    torch_sim = pytest.importorskip("torch_sim", reason="needs torch-sim: pip install 'tumble[torchsim]'")
    from torch_sim.models.interface import ModelInterface
    from torch_sim.models.lennard_jones import LennardJonesModel
    from torch_sim.models.morse import MorseModel

pytestmark = pytest.mark.engine

SHEAR = np.array([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [-0.1, 0.15, 1.0]])


class Mirror(ModelInterface):  # type: ignore[misc]
    """One of our potentials as a TorchSim model, which reads its states as `torch_sim.io` does; it counts its calls."""

    def __init__(self, potential: Potential, *, forces: bool = True, stress: bool = True) -> None:
        super().__init__()
        self.potential = potential
        self._dtype, self._device = potential.dtype, potential.device
        self._compute_forces, self._compute_stress = forces, stress
        self.calls: list[int] = []

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        self.calls.append(state.n_systems)
        answer = self.potential(collate_for(self.potential, torch_sim.io.state_to_atoms(state)))
        energy = answer.energy.to(self.dtype)
        spans = torch.linalg.det(state.cell).abs() > 1e-3
        stress = torch.where(spans[:, None, None], answer.stress, torch.nan)
        return {"energy": energy, "forces": answer.forces, "stress": stress}


class Later(torch_sim.SimState):  # type: ignore[misc, name-defined]
    """A state of the later versions of torch-sim, which keep one pbc for each direction."""

    def __init__(self, *, pbc: bool | list[bool], **fields: Any) -> None:
        each = [pbc] * 3 if isinstance(pbc, bool) else pbc
        super().__init__(pbc=torch.tensor(each), **fields)


def argon(dtype: torch.dtype = torch.float64) -> Gradient:
    return Gradient(LennardJones(0.0104, 3.4, cutoff=7.0, onset=5.0)).to(dtype)


def frames() -> list[Atoms]:
    """Crystals, one of them triclinic, and molecules, in turn; as disordered as they come."""
    cubic = bulk("Ar", "fcc", a=5.2, cubic=True)
    triclinic, cluster = cubic.copy(), cubic.repeat(2)[:9]
    triclinic.set_cell(cubic.cell.array @ SHEAR, scale_atoms=True)
    cluster.set_pbc(False)
    found = [cubic, cluster, triclinic, Atoms("Ar"), bulk("Ar", "hcp", a=3.7)]
    for seed, one in enumerate(found):
        one.rattle(0.1, seed=seed)
    return found


def close(one: tumble.Properties, other: tumble.Properties, within: float) -> None:
    assert (one.stress is None) == (other.stress is None)
    for a, b in zip(one, other, strict=True):
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=within)


# ---------------------------------------------------------------------------------------------------------- conventions


def test_what_goes_there_and_back_is_what_we_know():
    foreign = TorchSim(Mirror(argon()))
    for one, other in zip(predict(foreign, frames()), predict(argon(), frames()), strict=True):
        close(one, other, 1e-13)
    assert isinstance(foreign, Potential)
    assert (foreign.cutoff, foreign.species, foreign.is_conservative) == (0.0, None, True)
    assert TorchSim(Mirror(argon()), conservative=False).is_conservative is False


def test_states_hold_what_torch_sim_itself_would_make_of_the_structures(monkeypatch):
    seen = []
    model = Mirror(argon())
    monkeypatch.setattr(model, "forward", lambda state: seen.append(state) or Mirror.forward(model, state))
    crystals = [frames()[0], frames()[2]]
    crystals[1].numbers[0] = 36
    TorchSim(model)(collate_for(argon(), crystals))
    theirs = torch_sim.io.atoms_to_state(crystals, torch.device("cpu"), torch.float64)
    for name in ("positions", "masses", "cell", "atomic_numbers", "system_idx"):
        given, expected = getattr(seen[0], name), getattr(theirs, name)
        assert given.dtype == expected.dtype, name
        torch.testing.assert_close(given, expected, rtol=0, atol=0)
    assert seen[0].pbc == theirs.pbc


def test_a_pet_through_torch_sim_is_the_pet_itself(tmp_path: Path):
    exported = pytest.importorskip("test_metatomic").export_pet
    crystal = bulk("C", cubic=True)
    crystal.set_cell(crystal.cell.array @ SHEAR, scale_atoms=True)
    crystal.rattle(0.1, seed=2)
    given = [crystal, molecule("CH3CH2OH"), molecule("CH4", vacuum=3.0), Atoms("O")]
    with warnings.catch_warnings(), torch.jit.optimized_execution(False):
        # What torch, metatomic and vesin tell the authors of torch-sim.
        warnings.filterwarnings("ignore", message=r"`(torch\.jit\.\w+|compute_requested_neighbors)` is deprecated")
        from torch_sim.models.metatomic import MetatomicModel

        file = exported(tmp_path / "pet.pt", ["energy"])
        foreign = TorchSim(MetatomicModel(str(file), device="cpu"))
        batch = collate_for(foreign, given)
        for one, other in zip(split(foreign(batch), batch), predict(Metatomic(file), given), strict=True):
            close(one, other, 1e-12)


PAIRS = {
    "LennardJones": (
        lambda: LennardJonesModel(3.4, 0.0104, dtype=torch.float64, cutoff=7.0, compute_stress=True),
        LennardJones(0.0104, 3.4, cutoff=7.0, onset=7 - 1e-9),
    ),
    "Morse": (
        lambda: MorseModel(3.8, 0.01, 1.5, dtype=torch.float64, cutoff=7.0, compute_forces=True, compute_stress=True),
        Morse(0.01, 3.8, 5.7, cutoff=7.0, onset=7 - 1e-9),
    ),
}
"""Models of torch-sim, and ours with the same parameters: both end abruptly at the cutoff."""


@pytest.mark.parametrize("name", PAIRS)
def test_pair_models_of_torch_sim_have_our_energies(name):
    theirs, ours = PAIRS[name]
    upright = [one for one in frames() if not np.any(one.cell.array - np.diag(np.diag(one.cell.array)))]
    assert len(upright) == 3
    for one, other in zip(predict(TorchSim(theirs()), upright), predict(Gradient(ours), upright), strict=True):
        torch.testing.assert_close(one.energy, other.energy, rtol=0, atol=1e-12)


@pytest.mark.skipif(version("torch-sim-atomistic") != "0.3.0", reason="about one version of torch-sim")
@pytest.mark.parametrize("name", PAIRS)
def test_the_contracts_tell_that_torch_sim_0_3_0_counts_pairs_twice(name):
    theirs, ours = PAIRS[name]
    foreign, crystal = TorchSim(theirs()), frames()[0]
    one, other = predict(foreign, crystal)[0], predict(Gradient(ours), crystal)[0]
    close(one, tumble.Properties(other.energy, 2 * other.forces, 2 * other.stress), 1e-12)
    with pytest.raises(AssertionError, match=r"TorchSim: forces = -dE/dx: violated by"):
        check_potential(foreign, atoms=[crystal])


# ------------------------------------------------------------------------------------------------------------ one call


def test_many_structures_are_one_call():
    foreign = TorchSim(Mirror(argon()))
    crystals = [one for one in frames() if one.pbc.all()]
    foreign(collate_for(foreign, crystals))
    assert foreign.model.calls == [len(crystals)]
    foreign(collate_for(foreign, frames()))
    assert sorted(foreign.model.calls[1:]) == [2, 3]  # molecules and crystals apart
    predict(foreign, crystals, pairs_per_batch=10_000)
    assert foreign.model.calls[3:] == [len(crystals)]


def test_all_orientations_of_all_structures_are_one_call():
    foreign = TorchSim(Mirror(argon()))
    crystals = [one for one in frames() if one.pbc.all()]
    found = Orbit.of(foreign, collate_for(foreign, crystals), Rotations.parse("O"))
    assert foreign.model.calls == [24 * len(crystals)]
    spread = found.spread()
    assert float(spread.energy.max()) < 1e-12
    assert float(spread.forces.max()) < 1e-13
    assert float(spread.stress.max()) < 1e-14


def test_a_batch_is_its_structures_one_by_one():
    foreign = TorchSim(Mirror(argon()))
    batch = collate_for(foreign, frames())
    for together, one in zip(split(foreign(batch), batch), frames(), strict=True):
        close(together, predict(foreign, one)[0], 1e-13)


# ----------------------------------------------------------------------------------------------------------- contracts


def carbon() -> Gradient:
    return Gradient(LennardJones(0.05, 1.3, cutoff=4.0))


def test_it_keeps_every_contract_of_a_potential(monkeypatch):
    allowed = [one for one in structures() if len(set(one.pbc)) == 1]
    check_potential(TorchSim(Mirror(carbon().float())), atoms=allowed)
    monkeypatch.setattr(torch_sim, "SimState", Later)
    check_potential(TorchSim(Mirror(carbon())))
    foreign = TorchSim(Mirror(carbon()))
    check_bridge(lambda atoms: predict(foreign, atoms)[0], carbon())


def test_an_audit_finds_nothing_and_symmetrizing_changes_nothing():
    foreign, crystal = TorchSim(Mirror(argon())), frames()[-1]
    card = tumble.audit(foreign, [crystal], tumble.AuditSettings(tasks=("energies", "nvt"), budget=1e4))
    assert [verdict for verdict in card.verdicts() if verdict.answer != "yes"] == []
    symmetric = symmetrize(foreign, "O")
    close(predict(symmetric, crystal)[0], predict(argon(), crystal)[0], 1e-13)


def test_no_stress_is_none_and_precision_is_that_of_the_model():
    foreign = TorchSim(Mirror(argon(torch.float32), stress=False))
    assert (foreign.dtype, foreign.device) == (torch.float32, torch.device("cpu"))
    batch = collate_for(foreign, frames())
    answer = foreign(batch)
    assert answer.stress is None
    assert (answer.energy.dtype, answer.forces.dtype) == (torch.float64, torch.float32)
    double = foreign(collate_for(argon(), frames()))
    assert double.forces.dtype == torch.float64
    torch.testing.assert_close(double.forces, answer.forces.double(), rtol=0, atol=1e-6)
    assert foreign.double().dtype == torch.float32


# ------------------------------------------------------------------------------------------------- names, files, errors


@pytest.fixture
def factories(monkeypatch):
    module = types.ModuleType("made_up")
    module.argon = lambda: Mirror(argon())
    module.number = lambda: 3
    module.blind = lambda: Mirror(argon(), forces=False)
    module.needy = lambda argument: argument
    monkeypatch.setitem(sys.modules, "made_up", module)


@pytest.mark.usefixtures("factories")
def test_a_model_is_found_by_its_name_and_saved_by_it(tmp_path):
    potential = tumble.load("torchsim:made_up:argon")
    assert isinstance(potential, TorchSim)
    assert potential.extra_repr() == "Mirror of made_up:argon"
    whole = Symmetrized(TorchSim(potential.model, conservative=False, spec="made_up:argon"), Rotations.parse("T"))
    again = tumble.load(checkpoint.save(whole, tmp_path / "sym.safetensors"))
    assert isinstance(again.inner, TorchSim)
    assert (again.inner.spec, again.is_conservative) == ("made_up:argon", False)
    close(predict(again, frames()[2])[0], predict(whole, frames()[2])[0], 0.0)
    with pytest.raises(ValueError, match=r"the variant 'pbe' was asked for, and torchsim:made_up:argon holds one set"):
        tumble.load("torchsim:made_up:argon", variant="pbe")


@pytest.mark.usefixtures("factories")
def test_names_that_lead_to_no_model_say_what_is_wrong():
    with pytest.raises(
        ValueError, match=r"'made_up' does not name a TorchSim model; expected 'package.module:factory'"
    ):
        from_spec("torchsim:made_up")
    with pytest.raises(ValueError, match=r"int is not a TorchSim model\. Give a torch_sim"):
        from_spec("made_up:number")
    with pytest.raises(ValueError, match=r"the TorchSim model Mirror computes no forces; .* with compute_forces=True"):
        from_spec("made_up:blind")
    with pytest.raises(RuntimeError, match=r"without arguments and failed: TypeError: .* makes the TorchSim model"):
        from_spec("made_up:needy")


def test_without_torch_sim_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    with pytest.raises(ImportError, match=r"a TorchSim model needs torch-sim .*pip install 'tumble\[torchsim\]'"):
        tumble.load("torchsim:made_up:argon")


def test_a_slab_needs_a_version_that_knows_each_direction(monkeypatch):
    foreign, slab = TorchSim(Mirror(argon())), fcc111("Ar", (2, 2, 2), a=5.2, vacuum=6.0)
    slab.rattle(0.1, seed=1)
    batch = collate_for(argon(), [frames()[0], slab, slab])
    with monkeypatch.context() as patch:
        patch.setattr(torch_sim, "SimState", Later)
        close(foreign(batch), argon()(batch), 1e-12)
        assert sorted(foreign.model.calls) == [1, 2]
    if isinstance(torch_sim.io.atoms_to_state([slab], torch.device("cpu"), torch.float64).pbc, bool):
        with pytest.raises(
            ValueError, match=r"structure 1 repeats along a and b only, and the torch-sim that is insta"
        ):
            foreign(batch)


@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
def test_a_model_that_breaks_its_promise_is_refused(name, monkeypatch):
    foreign = TorchSim(Mirror(argon()))
    whole = foreign.model.forward

    def lacking(state):
        return {key: value for key, value in whole(state).items() if key != name}

    monkeypatch.setattr(foreign.model, "forward", lacking)
    with pytest.raises(
        RuntimeError, match=rf"the TorchSim model Mirror returned {name} of shape None for 1 structures"
    ):
        predict(foreign, frames()[0])
