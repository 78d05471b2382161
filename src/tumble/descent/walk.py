"""descend(): structures walk downhill together, each with an optimizer of its own, all asked about in one call."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms

from tumble.batch import Properties
from tumble.crystal import SpaceGroup
from tumble.descent.settings import Downhill
from tumble.descent.walker import Walker
from tumble.packs import predict
from tumble.potential import Potential
from tumble.results import Progress

Floats = np.ndarray


class Walk(NamedTuple):
    """How a structure has walked.

    atoms:     where it ended, with energy, forces and stress in a calculator: those that it walked by.
    energies:  (K,) eV at each step, the start included; under pressure, enthalpies E + PV.
    forces:    (K,) eV/Å, norm of the force on the atom where it is largest.
    stresses:  (K,) GPa, largest component of stress plus pressure, in as far as the cell may follow; None: it is fixed.
    frames:    structures along the walk, first and last included, as `atoms`; thinned evenly if there are many.
    frame_steps: at which step each of them was.
    is_converged: whether force and stress are below their limits.
    n_calls:   how often the potential was asked.
    reason:    why it ended.
    removed_force: eV/Å, the largest force that the group has removed at the end; zero without a group.
    removed_GPa:   the largest component of stress that it has; both are symmetry errors of the potential.
    """

    atoms: Atoms
    energies: Floats
    forces: Floats
    stresses: Floats | None
    frames: list[Atoms]
    frame_steps: Floats
    is_converged: bool
    n_calls: int
    reason: str
    removed_force: float
    removed_GPa: float


def descend(
    potential: Potential,
    structures: Sequence[Atoms],
    settings: Downhill,
    *,
    groups: Sequence[SpaceGroup | None] | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> list[Walk]:
    """Let structures walk downhill until they are at rest: one batch of all that still walk at every step.

    Each has an optimizer of ASE to itself, as it would alone; nothing is searched along a line. What has arrived is not
    asked about any more. Constraints of the Atoms hold.

    Args:
        potential: any Potential, in the precision that it has.
        structures: not changed.
        settings: a `Descent`, or the settings of a job that are one.
        groups: for each structure a space group that it is to keep, or None. It is made exactly symmetric first (see
            `tumble.crystal.ideal`), and forces and stress are projected on the group at every step. Of the group of a
            supercell, the operations that map the supercell itself are kept.
        tell: called after every step, with the number of structures that have ended.

    Raises:
        ValueError: a cell that is to relax but does not repeat in three directions, a potential without forces or
            without the stress that the cell needs, groups that are not as many as structures.
    """
    groups = [None] * len(structures) if groups is None else groups
    if len(groups) != len(structures):
        raise ValueError(f"{len(groups)} groups were given for {len(structures)} structures; one each, or None.")
    _check_cells(structures, settings)
    walkers = [Walker(*one, settings, potential) for one in zip(structures, groups, strict=True)]
    for step in range(settings.steps + 1):
        walking = [walker for walker in walkers if not walker.reason]
        if not walking:
            break
        answers = predict(potential, [walker.atoms for walker in walking])
        if step == 0:
            _check_answers(answers, walking, potential)
        for walker, answer in zip(walking, answers, strict=True):
            walker.take(answer, step)
        left = sum(not walker.reason for walker in walkers)
        worst = max(walker.forces[-1] for walker in walking)
        message = f"step {step}: {left} of {len(walkers)} walk on, largest force {worst:.3g} eV/Å"
        tell(Progress(len(walkers) - left, len(walkers), message))
    return [_walk(walker) for walker in walkers]


def _walk(walker: Walker) -> Walk:
    return Walk(
        atoms=walker.atoms,
        energies=np.array(walker.energies),
        forces=np.array(walker.forces),
        stresses=np.array(walker.stresses) if walker.moves_cell else None,
        frames=walker.frames,
        frame_steps=np.array(walker.frame_steps),
        is_converged=walker.is_converged,
        n_calls=len(walker.energies),
        reason=walker.reason,
        removed_force=walker.removed_force,
        removed_GPa=walker.removed_GPa,
    )


def _check_cells(structures: Sequence[Atoms], settings: Downhill) -> None:
    for index, atoms in enumerate(structures):
        if settings.cell_of(atoms) != "fixed" and not atoms.pbc.all():
            still = ", ".join(name for name, repeats in zip("abc", atoms.pbc, strict=True) if not repeats)
            raise ValueError(
                f"structure {index} ({atoms.get_chemical_formula()}) does not repeat along {still} (pbc is "
                f"{atoms.pbc.tolist()}), and cell={settings.cell} relaxes cells that repeat in all three. Use "
                "cell=fixed, or cell=auto, which lets the others relax."
            )


def _check_answers(answers: Sequence[Properties], walkers: Sequence[Walker], potential: Potential) -> None:
    kind = type(getattr(potential, "calculator", potential)).__name__
    for index, (answer, walker) in enumerate(zip(answers, walkers, strict=True)):
        if answer.energy is None or answer.forces is None:
            raise ValueError(f"a {kind} gives no energy or no forces; both were expected. Use another potential.")
        if walker.moves_cell and answer.stress is None:
            raise ValueError(
                f"a {kind} gives no stress for structure {index} ({walker.atoms.get_chemical_formula()}), and without "
                "one its cell cannot relax. Use cell=fixed, or another potential."
            )
