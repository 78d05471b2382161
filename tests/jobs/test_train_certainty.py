"""Uncertainties fitted to a trained PET, calibrated, and what is said about them."""

from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from scipy.stats import norm

from tumble.batch import Properties
from tumble.data import Dataset
from tumble.jobs.train.certainty import fit
from tumble.jobs.train.extras import Uncertainty
from tumble.jobs.train.reliability import calibration_facts, reliability
from tumble.models.pair import Morse
from tumble.models.pet import LLPR, PET
from tumble.packs import predict
from tumble.potential import Gradient, Potential, collate_for
from tumble.results import Progress

SHAPE: dict[str, Any] = {"cutoff": 3.0, "d_pet": 8, "d_node": 8, "d_head": 4, "d_feedforward": 8, "num_heads": 2}


def labelled(n: int, seed: int, teacher: Potential | None = None) -> Dataset:
    """Shaken water with the energies and forces of a Morse potential, or of another."""
    random, atoms = np.random.default_rng(seed), []
    for _ in range(n):
        one = molecule("H2O")
        one.positions += random.normal(scale=0.1, size=(3, 3))
        atoms.append(one)
    labels = predict(teacher or Gradient(Morse(1.0, 1.5, 3.0, cutoff=3.0)), atoms)
    return Dataset(atoms, labels, [f"shaken:{k}" for k in range(n)])


def pet() -> PET:
    torch.manual_seed(0)
    return PET([1, 8], SHAPE).double()


def noisy(dataset: Dataset, potential: LLPR, size: float, seed: int) -> Dataset:
    """Labels that are off by numbers drawn from the distribution that the potential predicts, times size."""
    random, batch = np.random.default_rng(seed), collate_for(potential, dataset.atoms)
    off = size * potential.uncertainty(batch) * torch.from_numpy(random.normal(size=len(dataset)))
    labels = [Properties(energy) for energy in potential(batch).energy + off]
    return Dataset(dataset.atoms, labels, dataset.sources)


def test_answers_as_wrong_as_they_are_said_to_be_are_reliable() -> None:
    random = np.random.default_rng(0)
    sigma = np.exp(random.normal(size=20_000))
    found = reliability(sigma, sigma * random.normal(size=20_000))
    assert found.within == pytest.approx((0.683, 0.954), abs=0.01)
    assert found.z == pytest.approx(1, abs=0.02)
    assert found.miscalibration < 0.01
    assert found.likelihood < found.constant - 0.4  # they vary by e, and who knows by how much gains
    # The mean of log sigma is 0: the likelihood of a standard normal, 1/2 + log(2 pi)/2.
    assert found.likelihood == pytest.approx(1.419, abs=0.02)


def test_answers_twice_as_wrong_are_seen_to_be() -> None:
    random = np.random.default_rng(1)
    found = reliability(np.full(20_000, 0.5), random.normal(size=20_000))
    assert found.within[0] == pytest.approx(0.383, abs=0.01)  # within half a standard deviation
    assert found.z == pytest.approx(2, abs=0.04)
    z = np.linspace(0, 12, 20_001)
    found_within, expected = 2 * norm.cdf(z / 2) - 1, 2 * norm.cdf(z) - 1
    assert found.miscalibration == pytest.approx(np.trapezoid(expected - found_within, found_within), abs=0.01)
    assert np.isnan(found.correlation)


def test_a_fitted_potential_says_how_wrong_it_is_of_labels_as_wrong_as_it_says() -> None:
    model, train = pet(), labelled(60, 0)
    first, _ = fit(model, train, labelled(20, 1), Uncertainty(kind="llpr"))
    valid = noisy(labelled(300, 2), first, 3.0, 3)
    potential, arrays = fit(model, train, valid, Uncertainty(kind="llpr"))
    found = reliability(arrays["uncertainty_energy_sigma"], arrays["uncertainty_energy_error"])
    assert found.n == 300
    assert found.within == pytest.approx((0.683, 0.954), abs=0.05)
    batch = collate_for(potential, valid.atoms)
    own, theirs = potential.uncertainty(batch), first.uncertainty(batch)
    assert float((own / theirs).mean()) == pytest.approx(3, rel=0.1)
    assert np.allclose(arrays["uncertainty_energy_sigma"] * 3, own)
    assert "uncertainty_forces_sigma" not in arrays


def test_forces_are_calibrated_with_an_ensemble() -> None:
    potential, arrays = fit(pet(), labelled(40, 0), labelled(30, 1), Uncertainty(kind="llpr", members=16))
    sigma, error = arrays["uncertainty_forces_sigma"], arrays["uncertainty_forces_error"]
    assert sigma.shape == error.shape == (30 * 9,)
    assert np.sqrt(np.pi / 2) * np.abs(error / sigma).mean() == pytest.approx(1)
    batch = collate_for(potential, list(labelled(30, 1).atoms[:1]))
    assert np.allclose(potential.forces_uncertainty(batch).flatten(), sigma[:9])
    titles = [fact.title for fact in calibration_facts(arrays)]
    assert titles == [
        "How sure: uncertainties against errors",
        "Reliability: energies",
        "Leaving out the least certain: energies",
        "Reliability: forces",
        "Leaving out the least certain: forces",
        "Errors in units of the predicted uncertainty",
    ]
    assert calibration_facts({}) == ()


def off_along_a_feature(dataset: Dataset, model: PET, seed: int) -> Dataset:
    """Energies that are off, to either side, along one direction of the features alone."""
    random, batch = np.random.default_rng(seed), collate_for(LLPR(model), dataset.atoms)
    by_atom = model.last_layer_features(batch).detach().double()
    sums = by_atom.new_zeros(len(dataset), by_atom.shape[1]).index_add(0, batch.structure, by_atom)
    sums = sums - sums.mean(0)
    direction = torch.linalg.svd(sums, full_matrices=False)[2][1]
    off = torch.from_numpy(random.choice([-3.0, 3.0], size=len(dataset))) * (sums @ direction)
    energies = LLPR(model)(batch).energy.detach() + off
    return Dataset(dataset.atoms, [Properties(energy) for energy in energies], dataset.sources)


def test_an_ensemble_learns_errors_of_a_kind_that_it_was_not_drawn_for() -> None:
    model = pet()
    train, valid = (off_along_a_feature(labelled(n, seed), model, seed) for n, seed in ((60, 0), (30, 1)))
    potential, arrays = fit(model, train, valid, Uncertainty(kind="ensemble", members=4, epochs=5))
    scores = arrays["uncertainty_scores"]
    assert len(scores) == 6
    assert scores.min() < scores[0] - 0.1
    assert bool(potential.are_trained)
    assert potential.has_forces_uncertainty
    batch = collate_for(potential, labelled(20, 1).atoms)
    assert torch.allclose(potential.uncertainty(batch), potential.ensemble(batch).std(1), rtol=1e-6)
    ratios = np.abs(arrays["uncertainty_energy_error"] / arrays["uncertainty_energy_sigma"])
    assert np.sqrt(np.pi / 2) * ratios.mean() == pytest.approx(1)
    assert "Training of the ensemble" in [fact.title for fact in calibration_facts(arrays)]


def test_progress_is_told_and_labels_that_are_missing_are_passed_over() -> None:
    valid = labelled(6, 1)
    valid.labels[2] = Properties()
    valid.labels[3] = valid.labels[3]._replace(forces=None)
    told: list[Progress] = []
    _, arrays = fit(pet(), labelled(8, 0), valid, Uncertainty(kind="llpr", members=2), tell=told.append)
    assert arrays["uncertainty_energy_sigma"].shape == (5,)
    assert arrays["uncertainty_forces_sigma"].shape == (4 * 9,)
    assert {one.message for one in told} == {
        f"uncertainty: {what}"
        for what in ("features of the training set", "calibrating", "errors of energies", "errors of forces")
    }
    assert all(one.done <= one.total for one in told)


def test_what_cannot_be_fitted_is_refused() -> None:
    data = labelled(3, 0)
    with pytest.raises(ValueError, match=r"uncertainty\.kind is 'none', which fits nothing"):
        fit(pet(), data, data, Uncertainty())
    with pytest.raises(ValueError, match=r"uncertainty\.members is 0 with kind 'ensemble'; a scatter needs at least 2"):
        fit(pet(), data, data, Uncertainty(kind="ensemble"))
    other = Dataset([data.atoms[0], Atoms("He")], data.labels[:2], data.sources[:2])
    with pytest.raises(ValueError, match=r"element 2 \(He\) in structure 1 is unknown to this model"):
        fit(pet(), other, data, Uncertainty(kind="llpr"))


def test_orientations_are_as_familiar_as_the_training_has_made_them() -> None:
    train, valid = labelled(30, 0), labelled(8, 1)
    turned = [one.copy() for one in valid.atoms]
    for one in turned:
        one.rotate(110, (0.3, -0.5, 0.8))

    def factor(turn: bool) -> float:
        """How much less certain turned structures are than those in the orientation of the training set."""
        potential, _ = fit(pet(), train, valid, Uncertainty(kind="llpr"), turn=turn)
        sigmas = [potential.uncertainty(collate_for(potential, list(some))).mean() for some in (turned, valid.atoms)]
        return float(sigmas[0] / sigmas[1])

    assert factor(True) == pytest.approx(1, abs=0.3)
    assert factor(False) > 2
