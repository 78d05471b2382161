"""Derivatives of several last layers by the positions, all from one pass through the network."""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from tumble.batch import Batch
from tumble.models.pet import engine
from tumble.models.pet.heads import Readout
from tumble.models.pet.memory import Workspace
from tumble.models.pet.model import PET
from tumble.potential import constant_weights, derivatives, differentiable


class Slopes(NamedTuple):
    """What linear layers make of the features, and its derivatives.

    features: (S, F) sums over the atoms of each structure, float64.
    energies: (M, S) eV.
    forces:   (M, N, 3) eV/Å.
    stress:   (M, S, 3, 3) eV/Å³.
    """

    features: Tensor
    energies: Tensor
    forces: Tensor
    stress: Tensor


def sums(rows: Tensor, batch: Batch) -> Tensor:
    """Sums over the atoms of each structure, (S, columns)."""
    return rows.new_zeros((batch.n_structures, rows.shape[1])).index_add(0, batch.structure, rows)


def slopes_of(model: PET, batch: Batch, layers: Tensor) -> Slopes:
    """Energies, forces and stress by linear layers in the place of the last.

    The network is passed once forwards and once backwards for each layer, which is half of a pass or a little more.

    Args:
        model: the PET whose features they see.
        batch: structures with their pairs.
        layers: (M, F) eV, without constants.
    """
    with torch.enable_grad(), constant_weights(True):
        seen = differentiable(batch, positions=model.sees_positions)
        fits = engine.fits(model.settings, batch.vectors.dtype, batch.vectors.device)
        is_fast = fits and not model.sees_positions
        return _by_engine(model, seen, layers) if is_fast else _by_autograd(model, seen, layers)


def _by_autograd(model: PET, seen: Batch, layers: Tensor) -> Slopes:
    features = sums(model.last_layer_features(seen).double(), seen)
    energies = layers @ features.mT
    leaves = [one for one in (seen.vectors, seen.positions, seen.cell) if one.requires_grad]
    zero = sum(0.0 * one.sum() for one in leaves)  # an isolated atom has no pair
    found = [
        _derivatives(seen, leaves, torch.autograd.grad(total + zero, leaves, retain_graph=True))
        for total in energies.sum(1)
    ]
    return _stacked(features, energies, found, seen)


def _by_engine(model: PET, seen: Batch, layers: Tensor) -> Slopes:
    """The same; the engine's way back, which autograd may take once, is taken for every layer."""
    kind = model.lookup[seen.numbers]
    edges = model._edges(seen, kind)
    assert edges.graph is not None
    weights, inputs = model._packing(model), model._inputs(edges)
    arguments = (inputs.detach(), edges.factor.detach(), model._embedded(kind), model._condition(seen), edges.graph)
    run, outputs = engine._run(*arguments, weights)
    # The way back reads what the way forward has kept, and gives the memory away at its end: not before all are done.
    kept = run._replace(call=run.call._replace(weights=weights._replace(workspace=Workspace())))
    node, pair, factor = leaves = [one.detach().requires_grad_() for one in (*outputs, edges.factor)]
    readout = cast(Readout, model.readouts["energy"])
    rows = readout.last_layer_features([(node, pair)], edges._replace(factor=factor))
    summed = sums(rows.double(), seen)
    energies = layers @ summed.mT
    found = []
    for total in energies.sum(1):
        *of_features, of_factor = torch.autograd.grad(total, leaves, retain_graph=True)
        of_inputs, by_trunk = engine._run_back(kept, of_features)
        above = [of_inputs, by_trunk + of_factor]
        slope = torch.autograd.grad([inputs, edges.factor], [seen.vectors], above, retain_graph=True)
        found.append(_derivatives(seen, [seen.vectors], slope))
    weights.workspace.give(run.call.workspace)
    return _stacked(summed, energies, found, seen)


def _derivatives(seen: Batch, leaves: list[Tensor], slopes: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Forces and stress from the slopes of what the network sees: those of an energy that is linear in it."""
    linear = sum((leaf * slope).sum() for leaf, slope in zip(leaves, slopes, strict=True))
    return derivatives(cast(Tensor, linear), seen)


def _stacked(features: Tensor, energies: Tensor, found: list[tuple[Tensor, Tensor]], batch: Batch) -> Slopes:
    if not found:
        none = batch.positions.detach().new_zeros
        return Slopes(
            features.detach(), energies.detach(), none(0, batch.n_atoms, 3), none(0, batch.n_structures, 3, 3)
        )
    forces, stress = zip(*found, strict=True)
    return Slopes(features.detach(), energies.detach(), torch.stack(forces), torch.stack(stress))
