"""Contracts that every Model, Potential and bridge keeps, for your own as for ours.

    from tumble.testing import check_potential
    check_potential(my_potential)          # AssertionError names the contract, the structure and the numbers

Turning a structure is not among them: how the answers change with orientation is what an audit measures.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii
from torch import Tensor

from tumble.batch import Properties, collate, has_volume, split
from tumble.jobs.audit.measures.contracts import Change, doubled, relabelled, shifted, wrapped
from tumble.packs import predict
from tumble.potential import Direct, Gradient, Model, Potential, collate_for

Contract = Callable[[Potential, Sequence[Atoms]], float]
"""The worst violation of one rule over some structures; 0 if it holds exactly, infinite if it makes no sense."""

Structures = Sequence[Atoms]


def structures(species: Sequence[int] = (6,)) -> list[Atoms]:
    """One small structure of every kind: atom, pair, molecule, wire, slab, triclinic crystal, cell with self-images.

    Args:
        species: atomic numbers, used in turn; distances follow their covalent radii.
    """
    d = 1.7 * max(float(covalent_radii[z]) for z in species)
    shear = np.array([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [-0.1, 0.15, 1.0]])
    empty = np.zeros((3, 3))
    return [
        Atoms([species[0]], info={"name": "isolated atom"}),
        Atoms([species[0], species[-1]], [[0, 0, 0], [0.3 * d, 0.6 * d, 0.6 * d]], info={"name": "pair"}),
        _grid("molecule", species, (1, 2, 3), d, empty, False),
        _grid("wire", species, (3, 1, 2), d, np.diag([3.0 * d, 0.0, 0.0]), (True, False, False)),
        _grid("slab", species, (2, 2, 1), d, np.diag([2.0 * d, 2.0 * d, 12.0]) @ shear, (True, True, False)),
        _grid("triclinic crystal", species, (2, 2, 2), d, 2.0 * d * shear, True),
        Atoms([species[0]], cell=1.2 * d * shear, pbc=True, info={"name": "tiny cell"}),
    ]


def check_potential(
    potential: Potential,
    *,
    atoms: Structures | None = None,
    contracts: Mapping[str, Contract] | None = None,
    tolerance: float | None = None,
) -> dict[str, float]:
    """Hold a potential to its contracts.

    Args:
        potential: any Potential.
        atoms: structures to try; those of `structures` for the species of the potential unless given.
        contracts: `POTENTIAL_CONTRACTS` unless given.
        tolerance: of every contract, in units of 1 + the largest number compared; 1e-9 for float64 and 1e-3 for float32
            unless given. Finite differences may deviate a thousand (float32: fifty) times as much.

    Returns:
        The violation found for each contract.

    Raises:
        AssertionError: a contract is violated by more than the tolerance.
    """
    atoms = structures(potential.species or (6,)) if atoms is None else list(atoms)
    is_double = potential.dtype == torch.float64
    allowed = tolerance if tolerance is not None else (1e-9 if is_double else 1e-3)
    found = {}
    for name, contract in (POTENTIAL_CONTRACTS if contracts is None else contracts).items():
        limit = allowed * (
            (1000 if is_double else 50) if contract in (forces_are_the_gradient, stress_is_the_slope) else 1
        )
        found[name] = contract(potential, atoms)
        if not found[name] <= limit:
            guilty = [_name(one) for one in atoms if not contract(potential, [one]) <= limit] or ["all together"]
            raise AssertionError(
                f"{type(potential).__name__}: {name}: violated by {found[name]:.3e}, allowed {limit:.0e}, "
                f"for {', '.join(guilty)}."
            )
    return found


def check_model(model: Model, *, atoms: Structures | None = None, tolerance: float | None = None) -> dict[str, float]:
    """Hold a model to its contracts: its own, and those of the potentials that it can be.

    Args:
        model: any Model.
        atoms: structures to try; see `check_potential`.
        tolerance: see `check_potential`.

    Raises:
        AssertionError: a contract is violated by more than the tolerance.
    """
    atoms = structures(model.species or (6,)) if atoms is None else list(atoms)
    found = {}
    for name, contract in MODEL_CONTRACTS.items():
        found[name] = contract(model, atoms)
        if found[name] != 0:
            raise AssertionError(f"{type(model).__name__}: {name}: violated by {found[name]:.3g}, 0 was expected.")
    found |= check_potential(Gradient(model), atoms=atoms, tolerance=tolerance)
    if model.has_direct_forces:
        direct = check_potential(Direct(model), atoms=atoms, tolerance=tolerance)
        found |= {f"{name} (direct)": value for name, value in direct.items()}
    return found


def check_bridge(
    ask: Callable[[Atoms], Properties],
    potential: Potential,
    *,
    atoms: Structures | None = None,
    tolerance: float | None = None,
) -> float:
    """Ask an engine about structures as a simulation would, and compare with what the potential itself answers.

    Every structure is asked about, moved a little, strained, moved far, and changed for the next one, so that whatever
    the engine keeps between calls (neighbours, results) must be renewed when it is due.

    Args:
        ask: energy (), forces (n, 3) and stress (3, 3) or None of a structure, through the engine.
        potential: what the engine was given.
        atoms: structures to try; see `check_potential`.
        tolerance: in units of 1 + the largest number compared; 1e-9 for float64 and 1e-4 for float32 unless given.

    Returns:
        The largest deviation found.

    Raises:
        AssertionError: it exceeds the tolerance, or one side has a stress and the other has none.
    """
    atoms = structures(potential.species or (6,)) if atoms is None else list(atoms)
    limit = tolerance if tolerance is not None else (1e-9 if potential.dtype == torch.float64 else 1e-4)
    worst = 0.0
    for one in atoms:
        for step, moved in _moves(one):
            engine, own = ask(moved.copy()), predict(potential, moved)[0]
            deviation = _difference(engine, own)
            if not deviation <= limit:
                raise AssertionError(
                    f"{_name(one)}, {step}: the engine deviates by {deviation:.3e}, allowed {limit:.0e}."
                )
            worst = max(worst, deviation)
    return worst


def answers_have_their_shapes(potential: Potential, atoms: Structures) -> float:
    """Energy (S,) float64, forces (N, 3) and stress (S, 3, 3) in the dtype of the batch, finite, without a graph."""
    batch = collate_for(potential, atoms)
    answer = potential(batch)
    shapes = {"energy": (len(atoms),), "forces": (batch.n_atoms, 3), "stress": (len(atoms), 3, 3)}
    for name, value in answer._asdict().items():
        if value is None and name == "stress":
            continue
        dtype = torch.float64 if name == "energy" else batch.positions.dtype
        if value is None or value.shape != shapes[name] or value.dtype != dtype or value.requires_grad:
            return float("inf")
    finite = all(bool(value.isfinite().all()) for value in answer if value is not None)
    spurious = answer.stress is not None and bool(answer.stress[~has_volume(batch)].any())
    return 0.0 if finite and not spurious else float("inf")


def answers_repeat(potential: Potential, atoms: Structures) -> float:
    """The same question has the same answer."""
    return _worst(predict(potential, atoms), predict(potential, atoms))


def atoms_may_be_shifted(potential: Potential, atoms: Structures) -> float:
    """A translation of all atoms changes nothing."""
    return _worst_after(shifted, potential, atoms)


def atoms_may_be_wrapped(potential: Potential, atoms: Structures) -> float:
    """An atom may be represented by any of its periodic images."""
    return _worst_after(wrapped, potential, atoms)


def atoms_may_be_relabelled(potential: Potential, atoms: Structures) -> float:
    """Another order of the atoms permutes the forces and changes nothing else."""
    return _worst_after(relabelled, potential, atoms)


def batches_equal_singles(potential: Potential, atoms: Structures) -> float:
    """A structure's answer does not depend on what else is in the batch."""
    return _worst(predict(potential, atoms), [predict(potential, one)[0] for one in atoms])


def supercells_repeat(potential: Potential, atoms: Structures) -> float:
    """Twice the cell: twice the energy, the same forces, the same stress."""
    return _worst_after(doubled, potential, atoms)


def farther_pairs_are_ignored(potential: Potential, atoms: Structures) -> float:
    """A batch may hold pairs beyond the cutoff, for instance because another part of a Sum needs them."""
    longer = collate(atoms, potential.cutoff + 1.5, dtype=potential.dtype, device=potential.device)
    return _worst(split(potential(longer), longer), predict(potential, atoms))


def unknown_elements_are_refused(potential: Potential, atoms: Structures) -> float:
    """An element outside the species is a ValueError, not an answer."""
    if potential.species is None:
        return 0.0
    other = next(z for z in range(1, 119) if z not in potential.species)
    try:
        potential(collate_for(potential, [Atoms([other])]))  # `predict` would refuse it before the potential is asked
    except ValueError:
        return 0.0
    return float("inf")


def forces_are_the_gradient(potential: Potential, atoms: Structures) -> float:
    """Forces of a conservative potential are finite differences of its energy, along random directions."""
    if not potential.is_conservative:
        return 0.0
    worst = 0.0
    for one, answer in zip(atoms, predict(potential, atoms), strict=True):
        direction = np.random.default_rng(5).normal(size=(len(one), 3)) / np.sqrt(3 * len(one))
        slope = _slope(potential, one, partial(_push, direction=direction))
        own = -float((_double(answer.forces) * torch.as_tensor(direction)).sum())
        worst = max(worst, abs(slope - own) / (1 + float(_double(answer.forces).abs().max())))
    return worst


def stress_is_the_slope(potential: Potential, atoms: Structures) -> float:
    """Stress times volume of a conservative potential is the finite difference of its energy under a random strain."""
    if not potential.is_conservative:
        return 0.0
    worst = 0.0
    noise = np.random.default_rng(6).normal(size=(3, 3))
    direction = (noise + noise.T) / np.abs(noise + noise.T).sum()
    for one, answer in zip(atoms, predict(potential, atoms), strict=True):
        if answer.stress is None:
            continue
        virial = one.get_volume() * _double(answer.stress)
        slope = _slope(potential, one, partial(_strain, direction=direction))
        own = float((virial * torch.as_tensor(direction)).sum())
        worst = max(worst, abs(slope - own) / (1 + float(virial.abs().max())), float((virial - virial.mT).abs().max()))
    return worst


def forces_add_up_to_zero(potential: Potential, atoms: Structures) -> float:
    """A conservative potential that knows no place in space exerts no net force."""
    if not potential.is_conservative:
        return 0.0
    forces = [_double(answer.forces) for answer in predict(potential, atoms)]
    return max(float(f.sum(0).abs().max() / (1 + f.abs().max())) for f in forces)


def energies_are_per_atom(model: Model, atoms: Structures) -> float:
    """A model gives (N,) float64 energies."""
    batch = collate_for(Gradient(model), atoms)
    energies = model(batch).energies
    return 0.0 if energies.shape == (batch.n_atoms,) and energies.dtype == torch.float64 else float("inf")


def config_rebuilds_the_model(model: Model, atoms: Structures) -> float:
    """`type(model)(**model.config())` with the weights of the model gives its answers."""
    twin = type(model)(**model.config()).to(Gradient(model).dtype)
    twin.load_state_dict(model.state_dict())
    return _worst(predict(Gradient(twin.eval()), atoms), predict(Gradient(model.eval()), atoms))


def forces_can_be_trained(model: Model, atoms: Structures) -> float:
    """In training mode, weights have finite gradients of a loss of the forces; a model without weights passes."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    was_training = model.training
    potential = Gradient(model)
    potential.train()
    try:
        answer = potential(collate_for(potential, atoms))
        if not weights:
            return 0.0
        loss = answer.energy.square().sum() + answer.forces.square().sum()
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    finally:
        model.train(was_training)
    given = [gradient for gradient in gradients if gradient is not None]
    return 0.0 if given and all(bool(gradient.isfinite().all()) for gradient in given) else float("inf")


POTENTIAL_CONTRACTS: dict[str, Contract] = {
    "shapes": answers_have_their_shapes,
    "repeatable": answers_repeat,
    "translation": atoms_may_be_shifted,
    "periodic images": atoms_may_be_wrapped,
    "permutation": atoms_may_be_relabelled,
    "batch = singles": batches_equal_singles,
    "supercell": supercells_repeat,
    "longer pair list": farther_pairs_are_ignored,
    "unknown elements": unknown_elements_are_refused,
    "forces = -dE/dx": forces_are_the_gradient,
    "stress = dE/dε / V": stress_is_the_slope,
    "net force": forces_add_up_to_zero,
}
"""What `check_potential` checks, by the name shown when it fails."""

MODEL_CONTRACTS: dict[str, Callable[[Model, Structures], float]] = {
    "energies per atom": energies_are_per_atom,
    "config": config_rebuilds_the_model,
    "trainable forces": forces_can_be_trained,
}
"""What `check_model` checks besides the contracts of the potentials that the model can be."""


def _name(atoms: Atoms) -> str:
    return str(atoms.info.get("name", atoms.symbols))


def _grid(
    name: str, species: Sequence[int], counts: tuple[int, int, int], d: float, cell: np.ndarray, pbc: Any
) -> Atoms:
    """Atoms near the points of a grid with spacing d, following the shear of the cell."""
    places = np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), -1).reshape(-1, 3) * d
    places = places + np.random.default_rng(2).uniform(-0.12, 0.12, places.shape) * d
    shear = cell / (np.array(counts)[:, None] * d) if np.all(pbc) else np.eye(3)
    numbers = [species[k % len(species)] for k in range(len(places))]
    return Atoms(numbers, places @ shear, cell=cell, pbc=pbc, info={"name": name})


def _moves(atoms: Atoms) -> list[tuple[str, Atoms]]:
    """The structure at rest and after the changes that a simulation makes, small ones first."""
    nudged, strained, far = atoms.copy(), atoms.copy(), atoms.copy()
    random = np.random.default_rng(8)
    nudged.positions += random.uniform(-0.02, 0.02, atoms.positions.shape)
    _strain(strained, 1.0, np.array([[0.02, 0.005, 0.0], [0.005, -0.01, 0.0], [0.0, 0.0, 0.015]]))
    far.positions += random.uniform(-0.15, 0.15, atoms.positions.shape)
    if atoms.pbc.any():
        far.positions[0] += atoms.pbc @ atoms.cell.array
    return [("at rest", atoms), ("nudged", nudged), ("strained", strained), ("moved far", far), ("back at rest", atoms)]


def _push(atoms: Atoms, h: float, direction: np.ndarray) -> None:
    atoms.positions += h * direction


def _strain(atoms: Atoms, h: float, direction: np.ndarray) -> None:
    deform = np.eye(3) + h * direction
    atoms.set_cell(atoms.cell.array @ deform, scale_atoms=False)
    atoms.positions = atoms.positions @ deform


def _slope(potential: Potential, atoms: Atoms, move: Callable[[Atoms, float], None]) -> float:
    """dE/dh by central differences of fourth order."""
    h = 1e-3 if potential.dtype == torch.float64 else 2e-2
    copies = []
    for k in (-2, -1, 1, 2):
        copies.append(atoms.copy())
        move(copies[-1], k * h)
    energies = [float(_double(answer.energy)) for answer in predict(potential, copies)]
    return (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * h)


def _double(value: Tensor | None) -> Tensor:
    if value is None:
        raise AssertionError("the potential gives no energy or no forces; a potential must give both.")
    return value.double()


def _worst_after(change: Callable[[Atoms], Change | None], potential: Potential, atoms: Structures) -> float:
    """The worst deviation from what a change should make of the answers; structures that it leaves out have none."""
    changes = [(one, changed) for one in atoms if (changed := change(one)) is not None]
    if not changes:
        return 0.0
    answers = predict(potential, [one for one, _ in changes])
    before = [p._replace(energy=_double(p.energy), forces=_double(p.forces)) for p in answers]
    after = predict(potential, [changed.atoms for _, changed in changes])
    return _worst(after, [changed.expected(answer) for (_, changed), answer in zip(changes, before, strict=True)])


def _worst(answers: Sequence[Properties], expected: Sequence[Properties]) -> float:
    return max(_difference(one, other) for one, other in zip(answers, expected, strict=True))


def _difference(one: Properties, other: Properties) -> float:
    """Largest deviation of any number, in units of 1 + the largest number of its kind; NaN if any number is NaN."""
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        if (a is None) != (b is None):
            return float("inf")
        if a is not None and b is not None and a.numel():
            deviation = float((a.double() - b.double()).abs().max() / (1 + b.double().abs().max()))
            worst = deviation if deviation != deviation else max(worst, deviation)
    return worst
