"""Force constants of a supercell from displacements, raw and repaired."""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble.crystal import SpaceGroup
from tumble.jacobian import rounding_of
from tumble.jobs.phonons.cells import Cells, required
from tumble.packs import predict
from tumble.potential import Potential
from tumble.results import Progress

Floats = NDArray[np.float64]
Tell = Callable[[Progress], None]

RAW, BOTH, PROJECTED, AVERAGED = "raw", "±", "projected", "averaged"
"""What stands side by side: displaced forth only; forth and back; that projected on the space group; and averaged."""


class Measured(NamedTuple):
    """Force constants Φ_ij = -∂F_j/∂x_i of the atoms i of the primitive cell with all N of the supercell.

    raw:      (n, N, 3, 3) eV/Å², atoms displaced forth only: the force at rest enters, divided by the step.
    both:     (n, N, 3, 3) eV/Å², forth and back.
    rounding: eV/Å, of the forces, as their digits show it.
    n_calls:  displaced supercells.
    seconds:  that they took.
    """

    raw: Floats
    both: Floats
    rounding: float
    n_calls: int
    seconds: float


class Sizes(NamedTuple):
    """What symmetry forbids of force constants.

    forbidden:     ‖Φ - PΦ‖ / ‖PΦ‖; P the space group, the exchange of atoms and the acoustic sum rule.
    by_group:      the same of the space group alone; None where only it was used to make them.
    asymmetry:     ‖Φ - Φᵀ‖ / 2‖PΦ‖: forces that are no slope of an energy.
    sum_violation: eV/Å², largest entry of Σ_j Φ_ij: a force from moving everything.
    """

    forbidden: float
    by_group: float
    asymmetry: float
    sum_violation: float


def measured(potential: Potential, cells: Cells, step: float, *, reduced: bool, tell: Tell) -> Measured:
    """Force constants by displacing atoms of the primitive cell, all displaced supercells in one prediction.

    Args:
        potential: any Potential with forces.
        cells: the crystal.
        step: Å.
        reduced: displace only what symmetry does not make equal, and let phonopy fill in the rest.
        tell: called with the number of supercells.
    """
    if reduced:
        return _by_symmetry(potential, cells, step, tell)
    return differences(potential, cells.supercell, cells.chosen.tolist(), step, tell)


def differences(potential: Potential, atoms: Atoms, chosen: Sequence[int], step: float, tell: Tell) -> Measured:
    """Force constants of some atoms of a structure with all of them, each moved along x, y, z, forth and back."""
    begin, copies = monotonic(), []
    for atom in chosen:
        for axis in range(3):
            for sign in (1, -1):
                copies.append(atoms.copy())
                copies[-1].positions[atom, axis] += sign * step
    forces = forces_at(potential, copies, tell)
    ahead, behind = forces.reshape(len(chosen), 3, 2, -1, 3).transpose(2, 0, 3, 1, 4)
    both = -(ahead - behind) / (2 * step)
    return Measured(-ahead / step, both, rounding_of(forces), len(copies), monotonic() - begin)


def _by_symmetry(potential: Potential, cells: Cells, step: float, tell: Tell) -> Measured:
    begin, engine = monotonic(), _symmetric(cells)
    engine.generate_displacements(distance=step, is_plusminus=True)
    moves = engine.dataset["first_atoms"]
    copies = []
    for move in moves:
        copies.append(cells.supercell.copy())
        copies[-1].positions[move["number"]] += move["displacement"]
    forces = forces_at(potential, copies, tell)
    both = _solved(cells, moves, forces)
    ahead = [k for k in range(len(moves)) if not _is_back(moves, k)]
    raw = _solved(cells, [moves[k] for k in ahead], forces[ahead])
    return Measured(raw, both, rounding_of(forces), len(moves), monotonic() - begin)


def _symmetric(cells: Cells) -> Any:
    """Phonopy of the same cells that uses their symmetry."""
    bare = cells.engine
    return required("phonopy").Phonopy(bare.unitcell, bare.supercell_matrix, primitive_matrix=bare.primitive_matrix)


def _is_back(moves: Sequence[Any], k: int) -> bool:
    """Whether a displacement is the opposite of the one before it."""
    before = moves[k - 1]
    return (
        k > 0
        and bool(before["number"] == moves[k]["number"])
        and np.allclose(np.add(before["displacement"], moves[k]["displacement"]), 0.0)
    )


def _solved(cells: Cells, moves: Sequence[Any], forces: Floats) -> Floats:
    """Force constants (n, N, 3, 3) as phonopy makes them of displacements and forces (K, N, 3), with its symmetry."""
    engine = _symmetric(cells)
    first_atoms = [
        {"number": move["number"], "displacement": move["displacement"], "forces": force}
        for move, force in zip(moves, forces, strict=True)
    ]
    engine.dataset = {"natom": len(cells.supercell), "first_atoms": first_atoms}
    engine.produce_force_constants(calculate_full_force_constants=False, show_drift=False)
    return np.asarray(engine.force_constants)


def forces_at(potential: Potential, copies: Sequence[Atoms], tell: Tell = lambda progress: None) -> Floats:
    """Forces (K, N, 3) eV/Å of K copies of a structure.

    Raises:
        RuntimeError: they are not finite.
    """
    answers = predict(potential, list(copies), tell=tell)
    forces = np.stack([answer.forces.double().numpy() for answer in answers if answer.forces is not None])
    if not np.isfinite(forces).all():
        broken = int((~np.isfinite(forces).all(axis=(1, 2))).sum())
        raise RuntimeError(
            f"the forces of {broken} of {len(copies)} displaced structures are not finite. Ask for an audit of this "
            "potential, or use another one."
        )
    return forces


def projected(both: Floats, cells: Cells) -> tuple[Floats, Sizes]:
    """The part of force constants (n, N, 3, 3) that symmetry allows, and the sizes of what it forbids.

    The means over the space group, over the exchange of both atoms and the acoustic sum rule commute, so one after the
    other is the orthogonal projection on all of them.
    """
    full = required("phonopy.harmonic.force_constants").compact_fc_to_full_fc(cells.engine.primitive, both)
    allowed, sizes = split(full, cells.group)
    return np.ascontiguousarray(allowed[cells.chosen]), sizes


def split(full: Floats, group: SpaceGroup) -> tuple[Floats, Sizes]:
    """As `projected`, of all force constants (N, N, 3, 3) of a structure."""
    even = (full + full.transpose(1, 0, 3, 2)) / 2
    allowed, removed = group.project_force_constants(even)
    allowed = without_net_force(allowed)
    size = max(float(np.linalg.norm(allowed)), 1e-300)
    return allowed, Sizes(
        forbidden=float(np.linalg.norm(full - allowed)) / size,
        by_group=float(np.linalg.norm(removed)) / size,
        asymmetry=float(np.linalg.norm(full - even)) / size,
        sum_violation=float(max(np.abs(full.sum(0)).max(), np.abs(full.sum(1)).max())),
    )


def without_net_force(constants: Floats) -> Floats:
    """The nearest force constants (N, N, 3, 3) that fulfil the acoustic sum rule on both sides."""
    constants = constants - constants.mean(0, keepdims=True)
    return np.asarray(constants - constants.mean(1, keepdims=True))
