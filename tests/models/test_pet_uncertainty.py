"""Uncertainties by last-layer features: as metatrain has them, fitted, calibrated, drawn and carried on to forces."""

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from pet_reference import (
    ROUND,
    SMALL,
    SPECIES,
    crystal,
    dataset_info,
    molecule,
    ours_of,
    reference,
    relative,
    system_of,
    triclinic,
)
from tumble.batch import Batch, Properties
from tumble.models.pet import LLPR, PET, engine
from tumble.models.pet.uncertainty import Rows, slopes_of, trained
from tumble.models.pet.uncertainty.slopes import _by_autograd, sums
from tumble.models.pet.uncertainty.training import score, sigma
from tumble.potential import Gradient, collate_for, differentiable


def rattled(atoms: Atoms, seed: int) -> Atoms:
    """Moved and with other elements."""
    atoms = atoms.copy()
    atoms.rattle(0.15, seed=seed)
    atoms.numbers = np.random.default_rng(seed).choice(SPECIES, len(atoms))
    return atoms


TRAINING = [rattled(make(), seed) for make in (molecule, crystal, triclinic) for seed in range(30)]
VALIDATION = [(rattled(make(), 50), energy) for make, energy in ((molecule, -3.0), (crystal, 0.7), (triclinic, 1.9))]


def llpr(n_members: int = 0, **settings: Any) -> LLPR:
    torch.manual_seed(0)
    potential = LLPR(PET(SPECIES, SMALL | settings).double())
    potential.fit([collate_for(potential, TRAINING[k::3]) for k in range(3)])
    potential.calibrate(labelled(potential))
    if n_members:
        potential.draw(n_members)
    return potential


def labelled(potential: LLPR) -> list[tuple[Batch, Properties]]:
    return [
        (collate_for(potential, [atoms]), Properties(torch.tensor([energy], dtype=torch.float64)))
        for atoms, energy in VALIDATION
    ]


def metatrain_llpr(theirs: Any, n_members: int) -> Any:
    """metatrain's wrapper, fitted and calibrated by metatrain on the same structures."""
    from metatensor.torch import Labels, TensorBlock, TensorMap
    from metatrain.llpr import __model__ as theirs_llpr
    from metatrain.utils.data import Dataset

    def frame(atoms: Atoms, energy: float, index: int) -> tuple[Any, Any]:
        system = system_of(theirs, atoms, torch.tensor(atoms.positions), torch.tensor(atoms.cell.array))
        samples, one = Labels(["system"], torch.tensor([[index]])), torch.tensor([[0]])
        block = TensorBlock(torch.tensor([[energy]], dtype=torch.float64), samples, [], Labels(["energy"], one))
        return system, TensorMap(Labels(["_"], one), [block])

    def dataset(pairs: list[tuple[Atoms, float]]) -> Any:
        frames = [frame(atoms, energy, index) for index, (atoms, energy) in enumerate(pairs)]
        return Dataset.from_dict({"system": [f[0] for f in frames], "energy": [f[1] for f in frames]})

    info = dataset_info()
    info.targets = {"energy": info.targets["energy"]}
    wrapped = theirs_llpr({"num_ensemble_members": {"energy": n_members}}, info)
    wrapped.set_wrapped_model(theirs)
    wrapped.to(torch.float64)
    wrapped.compute_covariance([dataset([(atoms, 0.0) for atoms in TRAINING])], 4, False)
    wrapped.outputs_list = ["energy"]
    wrapped.compute_cholesky_decomposition()
    wrapped.calibrate([dataset(VALIDATION)], 1, False, "absolute_residuals")
    wrapped.generate_ensemble()
    return wrapped


def asked(wrapped: Any, atoms: Atoms, **outputs: Any) -> dict[str, Any]:
    """What metatrain's wrapper says about a structure."""
    from metatomic.torch import ModelOutput

    system = system_of(wrapped, atoms, torch.tensor(atoms.positions), torch.tensor(atoms.cell.array))
    wanted = {name: ModelOutput(**options) for name, options in outputs.items()}
    return {name: value.block() for name, value in wrapped([system], wanted).items()}


@pytest.mark.engine
@pytest.mark.parametrize("shape", [{"featurizer_type": "residual"}, ROUND], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_llpr_agrees_with_metatrain(shape: dict[str, Any]) -> None:
    theirs = reference({"d_head": 4} | shape)
    wrapped = metatrain_llpr(theirs, 6)
    ours = LLPR(ours_of(theirs), 6)
    ours.fit([collate_for(ours, TRAINING)])
    ours.calibrate(labelled(ours))
    # Two orders of summation, seen through a matrix with a condition number of 1e10.
    assert relative(ours.cholesky, wrapped.cholesky_energy_uncertainty) < 1e-9
    assert relative(ours.multiplier, wrapped.multiplier_energy_uncertainty) < 1e-6
    ours.cholesky.copy_(wrapped.cholesky_energy_uncertainty)
    ours.multiplier.copy_(wrapped.multiplier_energy_uncertainty[0])
    ours.members.copy_(wrapped.llpr_ensemble_layers["energy"].weight)
    for atoms in (molecule(), crystal(), triclinic()):
        batch = collate_for(ours, [atoms])
        gradients = ["positions", "strain"]
        found = asked(
            wrapped,
            atoms,
            energy_uncertainty={"sample_kind": "system"},
            energy_ensemble={"sample_kind": "system", "explicit_gradients": gradients},
            **{"mtt::aux::energy_last_layer_features": {"sample_kind": "system"}},
        )
        by_atom = asked(
            wrapped,
            atoms,
            energy_uncertainty={"sample_kind": "atom"},
            **{"mtt::aux::energy_last_layer_features": {"sample_kind": "atom"}},
        )
        features = ours.model.last_layer_features(batch)
        assert relative(features, by_atom["mtt::aux::energy_last_layer_features"].values) < 1e-12
        assert relative(ours.uncertainty(batch), found["energy_uncertainty"].values[:, 0]) < 1e-9
        assert relative(ours.uncertainty(batch, per_atom=True), by_atom["energy_uncertainty"].values[:, 0]) < 1e-9
        assert relative(ours.ensemble(batch), found["energy_ensemble"].values) < 1e-9
        answers = ours.ensemble_answers(batch)
        slopes = found["energy_ensemble"].gradient("positions").values.permute(2, 0, 1)
        assert relative(answers.forces, -slopes) < 1e-9
        assert relative(ours.forces_uncertainty(batch), slopes.std(0)) < 1e-9
        if atoms.pbc.all():
            virial = found["energy_ensemble"].gradient("strain").values[0].permute(2, 0, 1) / atoms.get_volume()
            assert relative(answers.stress[:, 0], (virial + virial.mT) / 2) < 1e-9


def test_it_answers_as_the_model_that_it_wraps() -> None:
    potential = llpr(4)
    batch = collate_for(potential, [molecule(), crystal()])
    own, plain = potential(batch), Gradient(potential.model)(batch)
    assert all(torch.equal(one, other) for one, other in zip(own, plain, strict=True))


def test_an_ensemble_scatters_as_the_uncertainty_says_about_the_answer_of_the_model() -> None:
    potential = llpr(4000, d_head=4)
    batch = collate_for(potential, [rattled(molecule(), 99), crystal()])
    energies = potential.ensemble(batch)
    assert torch.allclose(energies.mean(1), potential(batch).energy, rtol=1e-12)
    assert torch.allclose(energies.std(1), potential.uncertainty(batch), rtol=0.05)
    potential.draw(5, seed=3)
    answers = potential.ensemble_answers(batch)
    assert torch.allclose(answers.energy.mT, potential.ensemble(batch), rtol=1e-12)
    assert torch.allclose(answers.forces.mean(0), potential(batch).forces, atol=1e-10)
    assert torch.allclose(potential.forces_uncertainty(batch), answers.forces.std(0))
    assert not torch.equal(llpr(5).members, potential.members)


def test_forces_of_a_member_are_the_gradient_of_its_energy() -> None:
    potential = llpr(3, num_neighbors_adaptive=6.0, **ROUND)
    atoms, step = molecule(), 1e-4
    forces = potential.ensemble_answers(collate_for(potential, [atoms])).forces[:, 2, 0]
    moved = [atoms.copy(), atoms.copy()]
    for one, sign in zip(moved, (-1, 1), strict=True):
        one.positions[2, 0] += sign * step
    below, above = potential.ensemble(collate_for(potential, moved))
    assert torch.allclose(forces, (below - above) / (2 * step), rtol=1e-5, atol=1e-7)


def test_what_it_has_seen_is_certain_to_alpha_per_atom_and_what_it_has_not_is_less_so() -> None:
    potential = llpr()

    def per_atom(atoms: Atoms) -> float:
        return float(potential.uncertainty(collate_for(potential, [atoms])) / potential.multiplier) / len(atoms)

    assert max(per_atom(atoms) for atoms in TRAINING) <= 1.0
    assert per_atom(Atoms("O2", [[0, 0, 0], [0, 0, 1.2]])) > 3.0


def test_it_keeps_its_precision_and_its_numbers_in_a_state(tmp_path: Any) -> None:
    potential = llpr(4)
    twin = LLPR(PET(SPECIES, SMALL), 4).double()
    twin.load_state_dict(potential.state_dict())
    batch = collate_for(potential, [molecule()])
    assert torch.equal(twin.ensemble(batch), potential.ensemble(batch))
    single = llpr(4).float()
    assert single.cholesky.dtype == single.members.dtype == torch.float64
    assert single.uncertainty(collate_for(single, [molecule()])) == pytest.approx(
        float(potential.uncertainty(batch)), rel=0.05
    )


def test_an_llpr_says_what_it_lacks() -> None:
    potential = LLPR(PET(SPECIES, SMALL).double())
    batch = collate_for(potential, [molecule()])
    with pytest.raises(ValueError, match=r"this LLPR has not seen its training set: the diagonal of its Cholesky"):
        potential.uncertainty(batch)
    for ask in (potential.ensemble, potential.ensemble_answers, potential.forces_uncertainty):
        with pytest.raises(ValueError, match=r"this LLPR has 0 ensemble members; at least 2 were expected\. Call draw"):
            ask(batch)
    for nothing in (Properties(forces=torch.zeros(6, 3)), Properties(torch.tensor([torch.nan]))):
        with pytest.raises(ValueError, match=r"0 structures with an energy were given to calibrate by; at least 1"):
            potential.calibrate([(batch, nothing)])
    with pytest.raises(ValueError, match=r"this LLPR has not seen its training set"):
        potential.deviations(batch, forces=True)
    torch.nn.init.constant_(potential.model.edge_embedder.weight, torch.nan)
    with pytest.raises(RuntimeError, match=r"the covariance of the features has \d+ entries that are not finite"):
        potential.fit([batch])


def test_an_element_that_the_model_does_not_know_is_refused_everywhere() -> None:
    potential = llpr(2)
    batch = collate_for(potential, [Atoms("He")])
    for ask in (potential, potential.uncertainty, potential.ensemble, potential.ensemble_answers):
        with pytest.raises(ValueError, match=r"element 2 \(He\) in structure 0 is unknown to this model"):
            ask(batch)


def with_ridge(potential: LLPR, ridge: float) -> LLPR:
    """C + ridge, where the ridge is large enough to matter."""
    covariance = potential.cholesky @ potential.cholesky.mT
    potential.cholesky = torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance)))
    return potential


def per_atom_features(potential: LLPR, structures: list[Atoms]) -> torch.Tensor:
    rows = [potential.model.last_layer_features(collate_for(potential, [atoms])).mean(0) for atoms in structures]
    return torch.stack(rows).detach()


def test_the_variance_is_that_of_bayesian_linear_regression() -> None:
    # Energies per atom x·w + noise of deviation s, weights w drawn with variance s²/r: a Gaussian process says what is
    # known of f·w after the training set, without ever inverting C.
    noise, ridge = 0.3, 1e-2
    potential = with_ridge(llpr(), ridge)
    potential.multiplier = torch.tensor(noise, dtype=torch.float64)
    x = per_atom_features(potential, TRAINING)
    new = [rattled(molecule(), 99), crystal()]
    f = per_atom_features(potential, new) * torch.tensor([[len(atoms)] for atoms in new])
    prior = noise**2 / ridge
    known = prior * x @ x.mT + noise**2 * torch.eye(len(x))
    variance = prior * (f @ f.mT) - prior**2 * (f @ x.mT) @ torch.linalg.solve(known, x @ f.mT)
    found = potential.uncertainty(collate_for(potential, new))
    assert torch.allclose(found.square(), variance.diagonal(), rtol=1e-6)
    # And the covariance of two energies is that of their deviations, so differences are known better than their terms.
    apart = potential.deviations(collate_for(potential, new)).energy
    assert torch.allclose(apart.mT @ apart, variance, rtol=1e-6, atol=1e-12)


def test_deviations_are_uncertainties_before_the_norm() -> None:
    potential = llpr(5)
    batch = collate_for(potential, [molecule(), crystal()])
    energies, forces = potential.uncertainties(batch), potential.uncertainties(batch, forces=True)
    assert torch.allclose(energies.energy, potential.uncertainty(batch))
    assert torch.allclose(forces.energy, potential.uncertainty(batch))
    assert torch.allclose(forces.forces, potential.forces_uncertainty(batch))
    assert torch.allclose(forces.forces, potential.ensemble_answers(batch).forces.std(0))
    assert torch.allclose(forces.stress, potential.ensemble_answers(batch).stress.std(0))
    assert energies.forces is None
    assert energies.stress is None


@pytest.mark.parametrize(
    "shape", [{}, {"num_neighbors_adaptive": 6.0}, {"edge_basis": 3}, {"system_conditioning": True}]
)
def test_the_engine_and_autograd_agree_about_slopes(shape: dict[str, Any]) -> None:
    potential = llpr(4, **(ROUND | shape))
    atoms = molecule()
    atoms.info["charge"] = 1
    batch = collate_for(potential, [crystal(), atoms, Atoms("O", cell=[20, 20, 20], pbc=True)])
    if not engine.fits(potential.model.settings, batch.vectors.dtype, batch.vectors.device):
        pytest.skip("no C++ compiler")
    fast = slopes_of(potential.model, batch, potential.members)
    slow = _by_autograd(potential.model, differentiable(batch), potential.members)
    for one, other in zip(fast, slow, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-10)
    # What the engine keeps between calls is its own again.
    again = slopes_of(potential.model, batch, potential.members[:1])
    assert torch.equal(again.forces[0], fast.forces[0])


def test_several_members_cost_one_pass_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    potential, passes = llpr(6, **ROUND), []
    batch = collate_for(potential, [crystal()])
    features = PET.features
    monkeypatch.setattr(PET, "features", lambda self, *rest: passes.append(1) or features(self, *rest))
    run = engine._run
    monkeypatch.setattr(engine, "_run", lambda *rest, **options: passes.append(1) or run(*rest, **options))
    potential.uncertainties(batch, forces=True)
    assert len(passes) == 1


def test_directions_that_the_training_set_does_not_vary_in_are_not_taken_for_unknown() -> None:
    # Few structures: C is singular, and with the smallest ridge what is new to it is uncertain without a bound.
    model = llpr().model
    plain, wise = LLPR(model), LLPR(model)
    seen, batch = collate_for(plain, TRAINING[:5]), collate_for(plain, TRAINING[5:45])
    size = sums(model.last_layer_features(batch).detach(), batch).norm(dim=1)
    errors = 0.1 * size * torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = Properties(plain(batch).energy + errors)
    for potential, ridge in ((plain, False), (wise, True)):
        potential.fit([seen])
        potential.calibrate([(batch, label)], ridge=ridge)

    def likelihood(potential: LLPR) -> float:
        sigmas = potential.uncertainty(batch)
        return float((sigmas.log() + (errors / sigmas).square() / 2).mean())

    assert likelihood(wise) < likelihood(plain) - 0.1
    few = LLPR(model)
    few.fit([seen])
    before = few.cholesky.clone()
    few.calibrate([(batch, Properties(torch.where(torch.arange(40) < 9, label.energy, torch.nan)))], ridge=True)
    assert torch.equal(few.cholesky, before)  # nine energies set a scale, and no more


def test_forces_are_calibrated_by_their_errors() -> None:
    potential = llpr(4)
    batch = collate_for(potential, [molecule()])
    before, answers = potential.forces_uncertainty(batch), potential.ensemble_answers(batch)
    random = torch.Generator().manual_seed(0)
    sigmas = torch.rand(20_000, generator=random) + 0.1
    potential.calibrate_forces(0.2 * sigmas * torch.randn(20_000, generator=random), sigmas)
    assert float(potential.forces_multiplier) == pytest.approx(0.2, rel=0.02)
    assert torch.allclose(potential.forces_uncertainty(batch), potential.forces_multiplier * before)
    assert torch.equal(potential.ensemble_answers(batch).forces, answers.forces)  # those of metatrain
    potential.draw(4)
    assert float(potential.forces_multiplier) == 1
    with pytest.raises(ValueError, match=r"0 components of forces were given to calibrate by; at least 1 was expected"):
        potential.calibrate_forces(torch.tensor([torch.nan]), torch.ones(1))


def test_trained_members_find_the_directions_in_which_the_model_is_wrong() -> None:
    # Errors lie along one feature only, and the members start from the same scatter along all of them.
    random = torch.Generator().manual_seed(0)

    def rows(n: int) -> Rows:
        features = torch.randn(n, 3, generator=random, dtype=torch.float64)
        errors = 2.0 * features[:, 0] * torch.randn(n, generator=random, dtype=torch.float64)
        return Rows(features, errors, torch.arange(n) % 2)

    start = torch.randn(8, 3, generator=random, dtype=torch.float64)
    found = trained(start, rows(1000), rows(1000), epochs=30)
    deviations = (found.members - found.members.mean(0)).square().sum(0).div(7).sqrt()
    assert float(deviations[0]) == pytest.approx(2.0, rel=0.1)
    assert float(deviations[1:].max()) < 0.25
    assert min(found.scores) < found.scores[0] - 0.3


def test_the_best_epoch_is_kept_which_may_be_none() -> None:
    random = torch.Generator().manual_seed(0)
    start = torch.randn(4, 6, generator=random, dtype=torch.float64)
    features = torch.randn(400, 6, generator=random, dtype=torch.float64)
    noise = torch.randn(400, generator=random, dtype=torch.float64)
    kinds = torch.zeros(400, dtype=torch.int64)
    valid = Rows(features, noise * sigma(start, features), kinds)
    wrong = Rows(features[:3], torch.tensor([100.0, 0.0, 0.0]).double(), kinds[:3])
    found = trained(start, wrong, valid, epochs=20)
    assert score(found.members, features, valid) == pytest.approx(min(found.scores))
    assert found.scores[-1] > found.scores[0] + 0.02
    apart = start - start.mean(0)
    kept = trained(start, wrong, valid, epochs=0).members / apart
    assert torch.allclose(kept, kept[0, 0])  # what was drawn, but for the scale


def test_trained_members_say_how_uncertain_an_energy_is_and_stay_so_in_a_state() -> None:
    potential = llpr(4)
    batch = collate_for(potential, [molecule(), crystal()])
    features = per_atom_features(potential, TRAINING) * 6
    rows = Rows(features, torch.linspace(-1, 1, len(features)).double(), torch.zeros(len(features), dtype=torch.int64))
    closed = potential.uncertainty(batch)
    assert len(potential.learn(rows, rows, epochs=2)) == 3
    assert torch.allclose(potential.uncertainty(batch), potential.ensemble(batch).std(1))
    assert not torch.allclose(potential.uncertainty(batch), closed)
    twin = LLPR(PET(SPECIES, SMALL), 4).double()
    twin.load_state_dict(potential.state_dict())
    assert torch.allclose(twin.uncertainty(batch), potential.uncertainty(batch), rtol=1e-12)
    potential.draw(4)
    assert not bool(potential.are_trained)


def test_a_state_of_before_ensembles_could_be_trained_is_read() -> None:
    potential = llpr(4)
    older = {
        name: value
        for name, value in potential.state_dict().items()
        if name not in ("are_trained", "forces_multiplier")
    }
    twin = LLPR(PET(SPECIES, SMALL), 4).double()
    twin.load_state_dict(older)
    batch = collate_for(potential, [molecule()])
    assert torch.allclose(twin.uncertainty(batch), potential.uncertainty(batch), rtol=1e-12)
    assert torch.allclose(twin.forces_uncertainty(batch), potential.forces_uncertainty(batch), rtol=1e-9)
