"""Motion: one structure that moves, with one or several time steps."""

from collections.abc import Mapping
from math import prod
from typing import final

import numpy as np
from ase import Atoms
from ase.units import fs
from numpy.typing import NDArray

from tumble.bridges.ase import Calculator
from tumble.jobs.md.motion.baths import State
from tumble.jobs.md.motion.instant import (
    Instant,
    kinetic_energy,
    momenta_of,
    pressure_GPa,
    temperatures,
    volume_of,
)
from tumble.jobs.md.motion.integrators import integrator
from tumble.jobs.md.settings import MDSettings
from tumble.potential import Potential
from tumble.symmetry import levels
from tumble.symmetry.turned import Turned

Floats = NDArray[np.float64]


@final
class Motion:
    """A structure that moves: ASE's integrators within, and around them impulses of forces that vary slowly.

    With levels of forces f_0, f_1, ... from fast to slow, a step of level k is half a kick with f_k - f_(k-1), so many
    steps of level k - 1, and half a kick; level 0 is ASE's, with the thermostat. No level is ever asked twice about the
    same positions.

    Where turns are random, energies are those of the turned copies: what is conserved is so up to their scatter.

    atoms:       positions, momenta and cell, now.
    calculators: of the levels, fast to slow; each knows its answer about the atoms as they are now.
    steps:       of each level to one of the next.
    stride:      innermost steps that `advance` takes.

    Source: M. Tuckerman, B. J. Berne, G. J. Martyna, J. Chem. Phys. 97, 1990 (1992).
    """

    def __init__(self, potentials: tuple[Potential, ...], atoms: Atoms, settings: MDSettings, steps: tuple[int, ...]):
        """`Motion.of` chooses the levels; here they are given.

        Args:
            potentials: fast to slow, one more than steps.
            atoms: with momenta.
            settings: of the simulation.
            steps: of each level to one of the next.

        Raises:
            ValueError: constant pressure with several time steps or without a cell or a stress; atoms that are held;
                velocities to be rescaled, and all are zero; a structure that a potential refuses.
        """
        _check(atoms, settings, steps)
        self.atoms, self.steps, self.stride = atoms.copy(), steps, prod(steps)
        self.calculators = tuple(Calculator(one) for one in potentials)
        self.atoms.calc = self.calculators[0]
        self._settings, self._step = settings, 0
        self._excess = [self._difference(level) for level in range(len(potentials))]
        self._integrator = integrator(self.atoms, settings)
        if settings.ensemble == "npt" and "stress" not in self.calculators[0].results:
            raise ValueError(
                f"constant pressure was asked for, and this {type(potentials[0]).__name__} gives no stress. Use "
                "nvt, or a potential with stress."
            )
        self._taken = self._integrator.taken()

    @classmethod
    def of(cls, potential: Potential, atoms: Atoms, settings: MDSettings, steps: tuple[int, ...] = ()) -> "Motion":
        """A structure at its start.

        Args:
            potential: of the slowest forces, averaged already where it should be.
            atoms: with momenta, see `start`; they are copied.
            settings: ensemble, thermostat, time step, turns, seed.
            steps: fast steps to a slow one, from fast to slow; none for one level of forces.

        Raises:
            ValueError: as for `Motion`, or the potential is not made of so many levels.
        """
        if settings.turns == "random":
            potential = Turned(potential, settings.seed)
        return cls(levels(potential, len(steps) + 1), atoms, settings, steps)

    def advance(self) -> None:
        """One step of the slowest level."""
        self._climb(len(self.steps))

    def now(self) -> Instant:
        """What is to be known of the present moment; nothing is computed anew."""
        atoms, slowest = self.atoms, self.calculators[-1]
        potential = float(slowest.results["energy"])
        kinetic = kinetic_energy(atoms.get_momenta(), atoms.get_masses())
        heat = self._taken - self._integrator.taken()
        return Instant(
            self._step,
            self._step * self._settings.timestep_fs / 1000,
            potential,
            kinetic,
            heat,
            potential + kinetic - heat,
            *temperatures(atoms, self._settings),
            *momenta_of(atoms),
            volume_of(atoms),
            pressure_GPa(atoms, slowest.results.get("stress")),
        )

    def state(self) -> State:
        """All that a restart to the same bits needs; nothing of it is asked of the potential again."""
        atoms = self.atoms
        kept: State = {
            "numbers": atoms.numbers.copy(),
            "steps": np.array(self.steps, dtype=np.int64),
            "positions": atoms.positions.copy(),
            "momenta": atoms.get_momenta(),
            "cell": atoms.cell.array.copy(),
            "step": np.array(self._step),
            "taken_at_start": np.array(self._taken),
        }
        kept |= {f"integrator.{name}": value for name, value in self._integrator.state().items()}
        for level, one in enumerate(self.calculators):
            kept |= {f"level{level}.{name}": np.array(value) for name, value in one.results.items()}
            if isinstance(one.potential, Turned):
                kept |= {f"turns{level}.{name}": value for name, value in one.potential.state().items()}
        return kept

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from a state of a Motion with the same potential and settings.

        Args:
            state: what `state` returned, or what was read from a file of it.

        Raises:
            ValueError: of another structure, or of other time steps.
        """
        self._check_restart(state)
        atoms = self.atoms
        atoms.set_cell(state["cell"])
        atoms.set_positions(state["positions"])
        atoms.set_momenta(state["momenta"])
        self._step, self._taken = int(state["step"]), float(state["taken_at_start"])
        self._integrator.restore(_within("integrator.", state))
        for level, one in enumerate(self.calculators):
            known = _within(f"level{level}.", state)
            one.atoms, one.results = atoms.copy(), {k: np.array(v) if v.ndim else v.item() for k, v in known.items()}
            if isinstance(one.potential, Turned):
                one.potential.restore(_within(f"turns{level}.", state))
        self._excess = [self._difference(level) for level in range(len(self.calculators))]

    def _climb(self, level: int) -> None:
        """One step of a level."""
        if level == 0:
            self._integrator.step()
            self._step += 1
            return
        self._kick(level)
        for _ in range(self.steps[level - 1]):
            self._climb(level - 1)
        self._excess[level] = self._difference(level)
        self._kick(level)

    def _kick(self, level: int) -> None:
        """Half an impulse of what a level has more than the one below it."""
        time = prod(self.steps[:level]) * self._settings.timestep_fs * fs
        self.atoms.set_momenta(self.atoms.get_momenta() + time / 2 * self._excess[level])

    def _difference(self, level: int) -> Floats:
        """Forces (N, 3) eV/Å that a level has more than the one below it; what is known is not asked again."""
        forces: Floats = self.calculators[level].get_property("forces", self.atoms)
        return forces if level == 0 else forces - self.calculators[level - 1].get_property("forces", self.atoms)

    def _check_restart(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        if not np.array_equal(state["numbers"], self.atoms.numbers):
            raise ValueError(
                f"the restart is of {len(state['numbers'])} atoms, and this structure has {len(self.atoms)}, or "
                "others, or in another order. Give the structure that the simulation was started with."
            )
        if tuple(state["steps"].tolist()) != self.steps:
            raise ValueError(
                f"the restart has {tuple(state['steps'].tolist())} fast steps to a slow one, and {self.steps} were "
                "asked for. Go on with the same ones."
            )


def _within(prefix: str, state: Mapping[str, NDArray[np.generic]]) -> State:
    """The part of a state under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _check(atoms: Atoms, settings: MDSettings, steps: tuple[int, ...]) -> None:
    if settings.ensemble == "npt" and steps:
        raise ValueError(
            f"constant pressure was asked for with multiple time steps {steps}; impulses know no pressure here. Use "
            "nvt, or the engine i-pi."
        )
    if atoms.constraints:
        kinds = ", ".join(sorted({type(one).__name__ for one in atoms.constraints}))
        raise ValueError(
            f"the structure has atoms that are held ({kinds}); a simulation moves all of them. Remove it with "
            "atoms.set_constraint()."
        )
