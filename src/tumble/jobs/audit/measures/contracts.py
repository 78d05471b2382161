"""Contracts: what any potential owes, whatever it is made of, held against the last digits of its numbers."""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import torch
from ase import Atoms

from tumble.batch import Properties, split
from tumble.jacobian import is_single, rounding_of
from tumble.neighbors import search
from tumble.packs import predict
from tumble.potential import Potential, collate_for
from tumble.rotations import Rotations
from tumble.units import MEV

TOLERANCE: Final = 1e-9
TOLERANCE_SINGLE: Final = 1e-5
"""In units of 1 eV/Å + the largest force, and of 1 eV per atom; the second for float32, and ten times as much for a
black box that computes in it, which may round positions where our models round the vectors between them."""

MOST_ATOMS: Final = 1000
"""Of a supercell."""

N_REPEATS: Final = 2

N_FRAMES: Final = 20

NUDGE: Final = 0.05
"""Å, by which the structures in between differ from the one that is asked about."""


class Contract(NamedTuple):
    """One thing that a potential owes.

    name:      of the contract.
    deviation: the worst that was found; None where there was nothing to ask.
    unit:      of deviation and limit.
    limit:     what rounding may show.
    passed:    whether the deviation is within the limit; None where there was nothing to ask.
    note:      what was done, or why not.
    """

    name: str
    deviation: float | None
    unit: str
    limit: float
    passed: bool | None
    note: str


class Change(NamedTuple):
    """A change of a structure, and what becomes of the answers about it.

    atoms:    the structure after the change.
    expected: answers about it from the answers before: energy () eV, forces (n, 3) eV/Å, stress (3, 3) eV/Å³.
    """

    atoms: Atoms
    expected: Callable[[Properties], Properties]


def shifted(atoms: Atoms) -> Change:
    """All atoms moved together, not by a lattice vector: nothing changes."""
    moved = atoms.copy()
    moved.positions += [3.7, -1.3, 0.9]
    return Change(moved, lambda answer: answer)


def wrapped(atoms: Atoms) -> Change | None:
    """Atoms moved by lattice vectors, each by others: nothing changes. None where nothing repeats."""
    if not atoms.pbc.any():
        return None
    moved = atoms.copy()
    moved.positions += (np.random.default_rng(3).integers(-2, 3, (len(atoms), 3)) * atoms.pbc) @ atoms.cell.array
    return Change(moved, lambda answer: answer)


def relabelled(atoms: Atoms) -> Change:
    """Atoms in another order: forces follow, and nothing else changes."""
    order = np.random.default_rng(4).permutation(len(atoms))
    index = torch.as_tensor(order)
    return Change(
        atoms[order],
        lambda answer: answer._replace(forces=None if answer.forces is None else answer.forces[index]),
    )


def doubled(atoms: Atoms) -> Change | None:
    """Twice the cell along the first direction that repeats: twice the energy, the same forces, the same stress."""
    if not atoms.pbc.any():
        return None
    times = tuple(np.where(np.arange(3) == np.flatnonzero(atoms.pbc)[0], 2, 1).tolist())
    return Change(
        atoms.repeat(times),
        lambda answer: Properties(
            None if answer.energy is None else 2 * answer.energy,
            None if answer.forces is None else answer.forces.repeat(2, 1),
            answer.stress,
        ),
    )


CHANGES: Final[dict[str, Callable[[Atoms], Change | None]]] = {
    "translation": shifted,
    "periodic images": wrapped,
    "permutation": relabelled,
    "supercell": doubled,
}
"""Changes of a structure by the name of the contract."""


def contracts(
    potential: Potential, atoms: Atoms, *, rounding: Properties | None = None, most_atoms: int = MOST_ATOMS
) -> tuple[Contract, ...]:
    """Hold a potential to its contracts on one structure, in the precision that it is used in.

    The changes of `CHANGES`, one call each; the same question `N_REPEATS` times, each time after another structure, so
    that neither a stored answer nor a stale neighbour list goes unnoticed (two calls each); the structure in a batch
    with two or three others (one call); the number of its neighbours in random frames, within the cutoff and within the
    longest pair (no call). Ten calls altogether, one of them about twice the atoms.

    Args:
        potential: any Potential.
        atoms: one structure.
        rounding: the energy (1,) eV and the norms of forces (N,) eV/Å that rounding makes, where it is known to be more
            than the digits show; ten times as much is allowed. A floor that was found from relabelled copies would
            hide the very thing.
        most_atoms: of a supercell; a larger one is left out.

    Returns:
        Two rows for each contract, of the energy (meV/atom) and of the worst force component (meV/Å), and one of
        neighbours. Without forces, rows of the energy.
    """
    rest = predict(potential, atoms)[0]
    limits = _limits(potential, rest, len(atoms), rounding)
    rows: list[Contract] = []

    def compare(name: str, answers: list[tuple[Properties, Properties]], note: str) -> None:
        for (unit, limit), found in zip(limits.items(), _deviations(answers, len(atoms)), strict=False):
            rows.append(Contract(name, found, unit, limit, found <= limit, note))

    again = [answer for seed in range(N_REPEATS) for answer in _asked_again(potential, atoms, seed)]
    compare("repeatable", [(answer, rest) for answer in again], f"{N_REPEATS} times, after another structure each time")
    for name, of in CHANGES.items():
        change = of(atoms)
        is_large = change is not None and len(change.atoms) > max(most_atoms, len(atoms))
        if change is None or is_large:
            reason = f"2 x {len(atoms)} atoms are more than {most_atoms}" if is_large else "nothing repeats"
            rows += [Contract(name, None, unit, limit, None, f"not asked: {reason}") for unit, limit in limits.items()]
            continue
        answer = predict(potential, change.atoms)[0]
        expected = change.expected(rest)
        times = len(change.atoms) // len(atoms)
        energy = None if answer.energy is None else answer.energy / times
        compare(
            name,
            [(answer._replace(energy=energy), expected._replace(energy=rest.energy))],
            (of.__doc__ or name).partition(":")[0],
        )
    # An atom alone tells padding from atoms, and may be more than an engine can answer; it has no batches anyway.
    others = [_nudged(atoms, 0), atoms, *([atoms[:1]] if potential.cutoff > 0 else []), _nudged(atoms, 1)]
    batch = collate_for(potential, others)
    compare("batch = singles", [(split(potential(batch), batch)[1], rest)], f"with {len(others) - 1} others")
    return (*rows, neighbour_counts(potential.cutoff, atoms))


def neighbour_counts(cutoff: float, atoms: Atoms, n_frames: int = N_FRAMES) -> Contract:
    """How far the number of pairs differs between random frames; each needs a search within two distances, no call.

    The distances are the cutoff and the longest pair within it, so that pairs sit on the edge.

    Args:
        cutoff: Å; 0 for a black box, which searches by itself.
        atoms: one structure.
        n_frames: random turns of atoms and cell.
    """
    name, unit = "neighbours in turned frames", "pairs"
    if cutoff <= 0:
        return Contract(name, None, unit, 0.0, None, "not asked: a black box searches its own neighbours")
    x, cell = atoms.positions, atoms.cell.array
    pairs = search(x, cell, atoms.pbc, cutoff)
    lengths = np.linalg.norm(x[pairs.neighbor] - x[pairs.center] + pairs.shift @ cell, axis=1)
    worst = 0
    for within in (cutoff, float(lengths.max(initial=cutoff / 2))):
        first = len(search(x, cell, atoms.pbc, within).center)
        for turn in Rotations.parse(f"random:{n_frames}:1").matrices.numpy():
            worst = max(worst, abs(len(search(x @ turn.T, cell @ turn.T, atoms.pbc, within).center) - first))
    return Contract(name, float(worst), unit, 0.0, worst == 0, f"{n_frames} frames, pairs on the edge included")


def _limits(potential: Potential, rest: Properties, n_atoms: int, rounding: Properties | None) -> dict[str, float]:
    """What rounding may show, by unit: meV/atom, and meV/Å where there are forces."""
    assert rest.energy is not None
    energy, known = rest.energy.numpy(), rounding or Properties()
    forces = np.zeros(0) if rest.forces is None else rest.forces.double().numpy()
    tolerance = TOLERANCE if potential.dtype == torch.float64 else TOLERANCE_SINGLE
    if potential.dtype == torch.float64 and is_single(forces):
        tolerance = 10 * TOLERANCE_SINGLE
    # A total is rounded as a whole, and so the more for every atom the larger it is.
    limits = {"meV/atom": max(tolerance, 10 * rounding_of(energy) / n_atoms)}
    if known.energy is not None:
        limits["meV/atom"] = max(limits["meV/atom"], 10 * float(known.energy.max()) / n_atoms)
    if rest.forces is not None:
        limits["meV/Å"] = tolerance * (1 + float(np.abs(forces).max()))
        if known.forces is not None:
            limits["meV/Å"] = max(limits["meV/Å"], 10 * float(known.forces.max()))
    return {unit: MEV * limit for unit, limit in limits.items()}


def _deviations(answers: list[tuple[Properties, Properties]], n_atoms: int) -> list[float]:
    """Worst difference of energy (meV/atom) and of a force component (meV/Å); NaN where a number is."""
    energies, forces = [], []
    for one, other in answers:
        assert one.energy is not None
        assert other.energy is not None
        energies.append(float((one.energy - other.energy).abs()) / n_atoms)
        if one.forces is not None and other.forces is not None:
            forces.append(float((one.forces.double() - other.forces.double()).abs().max()))
    return [MEV * float(np.max(found)) for found in (energies, forces) if found]


def _asked_again(potential: Potential, atoms: Atoms, seed: int) -> list[Properties]:
    """The answer about a structure right after another was asked about."""
    predict(potential, _nudged(atoms, seed))
    return predict(potential, atoms)


def _nudged(atoms: Atoms, seed: int) -> Atoms:
    moved = atoms.copy()
    moved.positions += np.random.default_rng(seed).uniform(-NUDGE, NUDGE, atoms.positions.shape)
    return moved
