"""How sure a trained potential is: fitted on what it was trained on, calibrated and judged on what it was not."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Final

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from tumble.batch import Batch, Properties
from tumble.batch import turn as turned
from tumble.data import Dataset
from tumble.jobs.train.extras import Uncertainty
from tumble.jobs.train.polish import random_turns
from tumble.models.pet import LLPR, PET
from tumble.models.pet.uncertainty import Rows
from tumble.packs import ahead, packed, usual_limit
from tumble.potential import check_species, constant_weights
from tumble.results import Progress

LEARNED_FROM: Final = 20_000
"""Structures, evenly chosen, whose energies an ensemble learns from."""

FORCES_OF: Final = 300
"""Structures, evenly chosen, whose forces an ensemble learns from, and is calibrated and judged by."""

COMPONENTS: Final = 4
"""Components of forces of each of these that an ensemble learns from."""

ORIENTATIONS: Final = 1000
MOST_TURNS: Final = 24
"""How many turned copies a small training set is seen in: about so many in all, at most so many of each structure."""

STEP: Final = 0.01
"""Å by which an atom is moved for the derivative of features."""

MOST: Final = 200_000
"""Components of forces that are kept for pictures."""

Arrays = dict[str, NDArray[np.float64]]
Tell = Callable[[Progress], None]


def fit(
    model: PET,
    train: Dataset,
    valid: Dataset,
    settings: Uncertainty,
    *,
    turn: bool = True,
    seed: int = 0,
    tell: Tell = lambda progress: None,
) -> tuple[LLPR, Arrays]:
    """An LLPR of a trained model, and what it says about the errors on the validation set.

    The training set is streamed; what is kept of it are F x F numbers, and F for each structure that an ensemble learns
    from. It is seen as the training has seen it, in random orientations: an orientation that is new to the features is
    not new to the model. The validation set must not have been trained on, for errors there are smaller. The scale of
    the uncertainties is that of its mean absolute error, known to about 1 / √n for n energies; `ENOUGH` of them or more
    also choose the regularization. Forces are judged if there is an ensemble.

    Args:
        model: the PET, where it is.
        train: what it was trained on.
        valid: what it was not trained on; with energies.
        settings: the kind, the members, and how long they learn.
        turn: whether the training has turned its structures.
        seed: of the orientations and the ensemble.
        tell: called as the work goes on, with the number of structures.

    Returns:
        The potential, and its arrays: uncertainty_energy_sigma and uncertainty_energy_error (n,) eV per atom;
        uncertainty_forces_sigma and uncertainty_forces_error (n,) eV/Å if there is an ensemble; the scales
        uncertainty_alpha (1,) eV, uncertainty_forces_scale (1,); uncertainty_scores, on the validation set before and
        after each epoch, if an ensemble was trained.

    Raises:
        ValueError: no kind, an ensemble of one member, or no energy in the validation set.
    """
    if settings.kind == "none":
        raise ValueError("uncertainty.kind is 'none', which fits nothing; 'llpr' or 'ensemble' was expected.")
    if settings.members == 1 or (settings.kind == "ensemble" and settings.members < 2):
        raise ValueError(
            f"uncertainty.members is {settings.members} with kind {settings.kind!r}; a scatter needs at least 2. "
            "8 are usual, and 0 with kind 'llpr' for energies only."
        )
    potential = LLPR(model)
    batches = _Batches(potential, tell)
    potential.fit(_oriented(batches, train, seed if turn else None))
    potential.calibrate(
        ((batch, _energies(valid.labels, which)) for batch, which in batches(valid.atoms, "calibrating")), ridge=True
    )
    arrays: Arrays = {}
    if settings.members:
        potential.draw(settings.members, seed)
    if settings.kind == "ensemble":
        scores = potential.learn(_rows(batches, train, seed), _rows(batches, valid, seed), settings.epochs, seed)
        arrays["uncertainty_scores"] = np.array(scores)
    arrays |= _judged_energies(batches, valid)
    if settings.members:
        arrays |= _judged_forces(batches, valid.select(_evenly(len(valid), FORCES_OF)))
    return potential, arrays | {"uncertainty_alpha": potential.multiplier.cpu().numpy().reshape(1)}


class _Batches:
    """Structures in batches for one potential, searched ahead, with their places."""

    def __init__(self, potential: LLPR, tell: Tell) -> None:
        self.potential, self.tell = potential, tell

    def __call__(self, atoms: Sequence[Atoms], what: str) -> Iterator[tuple[Batch, range]]:
        one, done = self.potential, 0
        packs = packed(
            atoms,
            one.cutoff,
            dtype=one.dtype,
            limit=usual_limit(one),
            refuse=lambda batch, names: check_species(one.species, batch, names),
        )
        with closing(ahead(packs)) as coming:
            for pack in coming:
                which = range(done, done + len(pack.atoms))
                yield Batch(*(field.to(one.device) for field in pack.batch)), which
                done = which.stop
                self.tell(Progress(done, len(atoms), f"uncertainty: {what}"))


def _oriented(batches: _Batches, dataset: Dataset, seed: int | None) -> Iterator[Batch]:
    """The structures turned by random elements of O(3), several times where there are few; as they are without seed."""
    n_turns = min(MOST_TURNS, math.ceil(ORIENTATIONS / len(dataset)))
    for batch, which in batches(dataset.atoms, "features of the training set"):
        if seed is None:
            yield batch
            continue
        for k in range(n_turns):
            yield turned(batch, random_turns(batch.n_structures, [seed, which.start, k]))


def _energies(labels: Sequence[Properties], which: range) -> Properties:
    known = [labels[k].energy for k in which]
    return Properties(torch.tensor([np.nan if one is None else float(one) for one in known], dtype=torch.float64))


def _evenly(n: int, most: int) -> NDArray[np.int64]:
    """At most so many of n places, evenly chosen."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))


def _judged_energies(batches: _Batches, valid: Dataset) -> Arrays:
    """Uncertainties and errors of energies per atom."""
    sigmas, errors = [], []
    for batch, which in batches(valid.atoms, "errors of energies"):
        n_atoms = torch.bincount(batch.structure, minlength=batch.n_structures).cpu()
        known = batches.potential.uncertainties(batch).energy
        assert known is not None
        sigmas.append(known.cpu() / n_atoms)
        with torch.no_grad(), constant_weights(True):
            said = _total(batches.potential.model(batch, direct=False).energies, batch).cpu()
        reference = _energies(valid.labels, which).energy
        assert reference is not None
        errors.append((said - reference) / n_atoms)
    sigma, error = torch.cat(sigmas), torch.cat(errors)
    kept = error.isfinite()
    return {"uncertainty_energy_sigma": sigma[kept].numpy(), "uncertainty_energy_error": error[kept].numpy()}


def _judged_forces(batches: _Batches, valid: Dataset) -> Arrays:
    """Calibrates forces, and gives their uncertainties and errors; nothing where there are no forces."""
    potential, sigmas, errors = batches.potential, list[Tensor](), list[Tensor]()
    for batch, which in batches(valid.atoms, "errors of forces"):
        reference = [valid.labels[k].forces for k in which]
        if any(one is not None for one in reference):
            known = zip(reference, valid.sizes[which.start : which.stop], strict=True)
            filled = [torch.full((n, 3), torch.nan, dtype=torch.float64) if f is None else f for f, n in known]
            said = potential(batch).forces
            assert said is not None
            errors.append((said.cpu().double() - torch.cat(filled)).flatten())
            sigmas.append(potential.forces_uncertainty(batch).cpu().double().flatten())
    if not errors or not bool((kept := torch.cat(errors).isfinite()).any()):
        return {}
    error, sigma = torch.cat(errors)[kept], torch.cat(sigmas)[kept]
    potential.calibrate_forces(error, sigma)
    scale = float(potential.forces_multiplier)
    some = _evenly(len(error), MOST)
    return {
        "uncertainty_forces_sigma": scale * sigma.numpy()[some],
        "uncertainty_forces_error": error.numpy()[some],
        "uncertainty_forces_scale": np.array([scale]),
    }


def _rows(batches: _Batches, dataset: Dataset, seed: int) -> Rows:
    """What an ensemble learns from: energies, and some components of forces."""
    of_energies = dataset.select(_evenly(len(dataset), LEARNED_FROM))
    of_forces = dataset.select(_evenly(len(dataset), FORCES_OF))
    random = torch.Generator().manual_seed(seed)
    parts = [_energy_rows(batches, of_energies)]
    if any(label.forces is not None for label in of_forces.labels):
        parts += [_force_rows(batches, of_forces, random) for _ in range(COMPONENTS)]
    rows = Rows(*(torch.cat(column) for column in zip(*parts, strict=True)))
    known = rows.errors.isfinite()
    return Rows(*(column[known] for column in rows))


def _energy_rows(batches: _Batches, dataset: Dataset) -> Rows:
    features, errors = [], []
    for batch, which in batches(dataset.atoms, "energies to learn from"):
        with torch.no_grad(), constant_weights(True):
            energies, by_atom = batches.potential.model.energies_and_features(batch)
        reference = _energies(dataset.labels, which).energy
        assert reference is not None
        features.append(_total(by_atom.double(), batch))
        errors.append(_total(energies, batch) - reference.to(energies))
    error = torch.cat(errors)
    return Rows(torch.cat(features), error, torch.zeros(len(error), dtype=torch.int64, device=error.device))


def _force_rows(batches: _Batches, dataset: Dataset, random: torch.Generator) -> Rows:
    """One component of a force of each structure, drawn at random; features by moving its atom to and fro."""
    features, errors = [], []
    for batch, which in batches(dataset.atoms, "forces to learn from"):
        counts = torch.bincount(batch.structure, minlength=batch.n_structures).cpu()
        own = (torch.rand(len(counts), generator=random) * counts).long()
        axis = torch.randint(3, (len(counts),), generator=random)
        atom = own + counts.cumsum(0) - counts
        step = torch.zeros(batch.n_atoms, 3)
        step[atom, axis] = STEP
        forth, back = (moved(batch, sign * step.to(batch.positions)) for sign in (1, -1))
        with torch.no_grad(), constant_weights(True):
            e_forth, f_forth = batches.potential.model.energies_and_features(forth)
            e_back, f_back = batches.potential.model.energies_and_features(back)
        # Atom by atom first: most do not change, and the sums are large.
        features.append(_total((f_back - f_forth).double(), batch) / (2 * STEP))
        said = _total(e_back - e_forth, batch) / (2 * STEP)
        labels = [dataset.labels[k].forces for k in which]
        places = zip(labels, own.tolist(), axis.tolist(), strict=True)
        reference = [torch.nan if f is None else float(f[i, a]) for f, i, a in places]
        errors.append(said - torch.tensor(reference, dtype=torch.float64).to(said))
    error = torch.cat(errors)
    return Rows(torch.cat(features), error, torch.ones(len(error), dtype=torch.int64, device=error.device))


def moved(batch: Batch, step: Tensor) -> Batch:
    """The batch with atoms moved a little; pairs stay what they are.

    Args:
        step: (N, 3) Å.
    """
    vectors = batch.vectors + step[batch.neighbor] - step[batch.center]
    return batch._replace(positions=batch.positions + step, vectors=vectors)


def _total(rows: Tensor, batch: Batch) -> Tensor:
    """Sums over the atoms of each structure."""
    return rows.new_zeros((batch.n_structures, *rows.shape[1:])).index_add(0, batch.structure, rows)
