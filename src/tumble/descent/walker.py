"""Walker: one structure with its optimizer, which takes an answer about it and makes a step."""

from dataclasses import replace
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS, FIRE, LBFGS
from ase.stress import full_3x3_to_voigt_6_stress

from tumble.batch import Properties
from tumble.crystal import SpaceGroup, ideal
from tumble.descent.settings import Downhill
from tumble.descent.stretch import Stretched
from tumble.potential import Potential
from tumble.units import EV_PER_A3_TO_GPa

Floats = np.ndarray

SMALL: Final = 60
"""Atoms up to which the whole Hessian of BFGS costs next to nothing. It steps downhill at a saddle point too, where
L-BFGS may walk up."""

RAN_AWAY: Final = 4.0
"""Times larger or smaller than at the start: a cell of such a volume is not relaxing any more."""

ULPS: Final = 4
"""Units in the last place by which energies differ that are the same."""


class Walker:
    """A structure that walks downhill.

    atoms:    where it is, with the latest answer in its calculator.
    energies, forces, stresses: of each step, see `Walk`.
    reason:   why it has ended; empty while it walks.
    """

    def __init__(self, atoms: Atoms, group: SpaceGroup | None, settings: Downhill, potential: Potential) -> None:
        """At the start; exactly symmetric if there is a group."""
        self.atoms: Atoms = atoms.copy() if group is None else ideal(atoms, group)
        self.settings, self.dtype = settings, str(potential.dtype).removeprefix("torch.")
        self.energies: list[float] = []
        self.forces: list[float] = []
        self.stresses: list[float] = []
        self.frames: list[Atoms] = []
        self.frame_steps: list[int] = []
        self.reason, self.is_converged = "", False
        self.removed_force = self.removed_GPa = 0.0
        self._group = None if group is None else of_supercell(group)
        self._stride, self._volume = 1, self.atoms.cell.volume
        kind = settings.cell_of(self.atoms)
        self._pressure = settings.pressure_GPa / EV_PER_A3_TO_GPa if kind in ("all", "volume") else 0.0
        self._cell = None if kind == "fixed" else Stretched(self.atoms, kind, self._pressure)
        self._optimizer = _optimizer(self._cell or self.atoms, settings, potential.is_conservative)

    @property
    def moves_cell(self) -> bool:
        """Whether the cell relaxes."""
        return self._cell is not None

    @property
    def smax_GPa(self) -> float:
        """GPa, the limit of the stress.

        If none was chosen, what ASE makes of fmax: the virial per atom is below fmax × 1 Å.
        """
        if self.settings.smax_GPa is not None:
            return self.settings.smax_GPa
        return EV_PER_A3_TO_GPa * self.settings.fmax * len(self.atoms) / self.atoms.cell.volume

    def take(self, answer: Properties, step: int) -> None:
        """Take the answer about where it is, and make a step unless this is the end."""
        energy, forces, stress = _plain(answer)
        if self.settings.net_force == "remove":
            forces = forces - of_whole(forces, self.atoms)
        if self._group is not None:
            forces, removed = self._group.project_forces(forces)
            self.removed_force = float(np.linalg.norm(removed, axis=1).max())
            if stress is not None:
                stress, removed = self._group.project_stress(stress)
                self.removed_GPa = EV_PER_A3_TO_GPa * float(np.abs(removed).max())
        self._keep(energy, forces, stress, step)
        self.reason = self._end(step)
        if not self.reason:
            self._optimizer.step()
        elif self.frame_steps[-1] != step:
            self._frame(step)

    def _keep(self, energy: float, forces: Floats, stress: Floats | None, step: int) -> None:
        known: dict[str, Any] = {"energy": energy, "forces": forces}
        if stress is not None:
            known["stress"] = full_3x3_to_voigt_6_stress(stress)
        self.atoms.calc = SinglePointCalculator(self.atoms, **known)
        self.energies.append(energy + (self._pressure * self.atoms.cell.volume if self._pressure else 0.0))
        self.forces.append(float(np.linalg.norm(self.atoms.get_forces(), axis=1).max()))
        if self._cell is not None:
            self.stresses.append(EV_PER_A3_TO_GPa * float(np.abs(self._cell.push()).max()))
        if step % self._stride == 0:
            self._frame(step)

    def _frame(self, step: int) -> None:
        if len(self.frames) >= self.settings.frames:
            self.frames, self.frame_steps, self._stride = self.frames[::2], self.frame_steps[::2], 2 * self._stride
            if step % self._stride and not self.reason:
                return
        frame = self.atoms.copy()
        frame.calc = self.atoms.calc
        self.frames.append(frame)
        self.frame_steps.append(step)

    def _end(self, step: int) -> str:
        """Why it ends here; empty if it does not."""
        force, stress = self.forces[-1], self.stresses[-1] if self.moves_cell else 0.0
        if not np.isfinite([self.energies[-1], force, stress]).all():
            return f"not finite: the energy is {self.energies[-1]} eV, the largest force {force} eV/Å"
        self.is_converged = bool(force <= self.settings.fmax and (not self.moves_cell or stress <= self.smax_GPa))
        if self.is_converged:
            return "converged"
        times = self.atoms.cell.volume / self._volume if self.moves_cell else 1.0
        if not 1 / RAN_AWAY < times < RAN_AWAY:
            return f"ran away: the volume is {times:.3g} times that of the start"
        if self._is_stuck():
            return (
                f"stuck at the noise floor: no smaller force in {self.settings.patience} steps, and energies that "
                f"differ by rounding{self._drift()}"
            )
        if step == self.settings.steps:
            return f"not at rest after {step} steps{self._drift()}"
        return ""

    def _is_stuck(self) -> bool:
        """Whether the last steps have brought no smaller force, and their energies differ by rounding only."""
        excess = np.array(self.forces) / self.settings.fmax
        if self.moves_cell:
            excess = np.maximum(excess, np.array(self.stresses) / self.smax_GPa)
        if len(excess) - 1 - int(excess.argmin()) < self.settings.patience:
            return False
        last = np.array(self.energies[-self.settings.patience :])
        # A black box gives float64 whatever it computes in; energies that float32 can hold came from there.
        is_single = self.dtype != "float64" or bool((last.astype(np.float32) == last).all())
        eps = float(np.finfo(np.float32 if is_single else np.float64).eps)
        return bool(np.ptp(last) <= ULPS * eps * np.abs(last).max())

    def _drift(self) -> str:
        """What is wrong with forces that move or turn the whole, on which an energy should not depend."""
        whole = float(np.linalg.norm(of_whole(self.atoms.get_forces(), self.atoms), axis=1).max())
        if self.atoms.constraints or whole <= self.settings.fmax / 2:
            return ""
        return f"; {whole:.2g} eV/Å of the force moves or turns the whole: net_force=remove takes that away"


def of_whole(forces: Floats, atoms: Atoms) -> Floats:
    """The part of forces (N, 3) that moves all atoms alike or, where nothing repeats, turns them as a rigid body."""
    shift = np.broadcast_to(forces.mean(axis=0), forces.shape)
    if atoms.pbc.any():
        return shift
    arms = atoms.positions - atoms.positions.mean(axis=0)
    inertia = np.sum(arms**2) * np.eye(3) - arms.T @ arms
    turn = np.linalg.pinv(inertia, rcond=1e-9, hermitian=True) @ np.cross(arms, forces).sum(axis=0)
    return np.asarray(shift + np.cross(turn, arms))


def of_supercell(group: SpaceGroup) -> SpaceGroup:
    """Those operations that map the structure's own lattice on itself: the ones that a walk can keep exactly."""
    own = group.is_of_supercell
    if own.all():
        return group
    return replace(
        group, turns=group.turns[own], shifts=group.shifts[own], images=group.images[own], is_of_supercell=own[own]
    )


def _optimizer(target: Any, settings: Downhill, is_conservative: bool) -> Any:
    """An optimizer of ASE that writes nothing."""
    name = settings.optimizer
    if name == "auto":
        name = ("bfgs" if len(target) <= SMALL else "lbfgs") if is_conservative else "fire"
    return {"fire": FIRE, "lbfgs": LBFGS, "bfgs": BFGS}[name](target, logfile=None, maxstep=settings.max_step)


def _plain(answer: Properties) -> tuple[float, Floats, Floats | None]:
    assert answer.energy is not None, "checked after the first step"
    assert answer.forces is not None, "checked after the first step"
    stress = None if answer.stress is None else answer.stress.double().numpy()
    return float(answer.energy), answer.forces.double().numpy(), stress
