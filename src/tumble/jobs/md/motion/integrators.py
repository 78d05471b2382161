"""Integrators: the innermost steps, taken by ASE."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final, final

import numpy as np
from ase import Atoms
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT
from ase.md.verlet import VelocityVerlet
from ase.units import fs
from numpy.typing import NDArray

from tumble.jobs.md.motion.baths import Bath, State, bath
from tumble.jobs.md.motion.instant import degrees_of_freedom
from tumble.jobs.md.settings import MDSettings
from tumble.units import EV_PER_A3_TO_GPa


class Integrator(ABC):
    """Takes steps, and knows what the atoms have lost to everything else."""

    @abstractmethod
    def step(self) -> None:
        """One time step of the atoms it was made for."""

    @abstractmethod
    def taken(self) -> float:
        """What thermostat and barostat have taken from the atoms, eV, up to a constant."""

    @abstractmethod
    def state(self) -> State:
        """What `restore` needs to go on to the same bits, besides the atoms."""

    @abstractmethod
    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Be as it was; the atoms are there already."""


@final
class Verlet(Integrator):
    """Constant volume: half a step of the thermostat, if any, one of velocity Verlet, half a step of the thermostat."""

    def __init__(self, atoms: Atoms, settings: MDSettings) -> None:
        """Args:
        atoms: that it moves.
        settings: time step, thermostat.
        """
        self._atoms, self._dynamics = atoms, VelocityVerlet(atoms, settings.timestep_fs * fs)
        self._bath: Bath | None = None
        if settings.ensemble != "nve":
            self._bath = bath(atoms, settings, degrees_of_freedom(atoms, settings))

    def step(self) -> None:
        """One time step."""
        self._heat()
        self._dynamics.step()
        self._heat()

    def taken(self) -> float:
        """What the thermostat has taken, eV."""
        return 0.0 if self._bath is None else self._bath.get_thermostat_energy()

    def state(self) -> State:
        """That of the thermostat."""
        return {} if self._bath is None else self._bath.state()

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """The thermostat as it was."""
        if self._bath is not None:
            self._bath.restore(state)

    def _heat(self) -> None:
        if self._bath is not None:
            self._atoms.set_momenta(self._bath.integrate_nhc(self._atoms.get_momenta(), self._dynamics.dt / 2))


_CELL: Final = {"isotropic": ("_eps", "_p_eps", "_volume0", "_cell0"), "anisotropic": ("_h", "_p_g")}
_CHAIN: Final = ("_xi", "_p_xi")


@final
class Breathing(Integrator):
    """Constant pressure: the barostat of Martyna, Tobias and Klein as ASE has it, with any thermostat on the atoms.

    The cell has a Nosé–Hoover chain of its own.

    Source: G. J. Martyna, D. J. Tobias, M. L. Klein, J. Chem. Phys. 101, 4177 (1994).
    """

    def __init__(self, atoms: Atoms, settings: MDSettings) -> None:
        """Args:
        atoms: that it moves, with their cell.
        settings: time step, thermostat, pressure and barostat.

        Raises:
            ValueError: not periodic in three directions.
        """
        if not atoms.pbc.all():
            raise ValueError(
                f"constant pressure was asked for, and the structure is periodic in {int(atoms.pbc.sum())} directions; "
                "3 are needed. Give it a cell with pbc, or use nvt."
            )
        kind = IsotropicMTKNPT if settings.barostat == "isotropic" else MTKNPT
        self._dynamics: Any = kind(
            atoms,
            settings.timestep_fs * fs,
            temperature_K=settings.temperature_K,
            pressure_au=settings.pressure_GPa / EV_PER_A3_TO_GPa,
            tdamp=settings.thermostat_fs * fs,
            pdamp=settings.barostat_fs * fs,
        )
        self._bath = self._dynamics._thermostat = bath(atoms, settings, degrees_of_freedom(atoms, settings))
        self._atoms, self._names = atoms, (*_CELL[settings.barostat], "_q", "_p")

    def step(self) -> None:
        """One time step."""
        self._dynamics.step()

    def taken(self) -> float:
        """What thermostat, barostat and the outside have, eV."""
        atoms = self._atoms
        return float(self._dynamics.get_conserved_energy() - atoms.get_potential_energy() - atoms.get_kinetic_energy())

    def state(self) -> State:
        """Cell and its momentum, the chain of the cell, the thermostat."""
        kept = {name: np.array(getattr(self._dynamics, name)) for name in self._names}
        kept |= {name: np.array(getattr(self._dynamics._barostat, name)) for name in _CHAIN}
        return kept | self._bath.state()

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """All of it as it was."""
        for name in self._names:
            setattr(self._dynamics, name, _copied(state[name]))
        for name in _CHAIN:
            setattr(self._dynamics._barostat, name, _copied(state[name]))
        self._bath.restore(state)


def _copied(value: NDArray[np.generic]) -> Any:
    """An array of its own, or a number."""
    return np.array(value) if value.ndim else value.item()


def integrator(atoms: Atoms, settings: MDSettings) -> Integrator:
    """What takes the innermost steps of the ensemble that is wanted.

    Args:
        atoms: with a calculator and momenta.
        settings: of the simulation.

    Raises:
        ValueError: constant pressure without a periodic cell; velocities to be rescaled, and all are zero.
    """
    return Breathing(atoms, settings) if settings.ensemble == "npt" else Verlet(atoms, settings)
