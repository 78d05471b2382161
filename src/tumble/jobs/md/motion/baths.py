"""Baths: thermostats that know how much heat they have taken."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Final, final

import numpy as np
from ase import Atoms
from ase.md.bussi import Bussi
from ase.md.nose_hoover_chain import NoseHooverChainThermostat
from ase.units import fs
from numpy.typing import NDArray

from tumble.jobs.md.motion.instant import kinetic_energy
from tumble.jobs.md.settings import MDSettings
from tumble.units import BOLTZMANN

Floats = NDArray[np.float64]
State = dict[str, NDArray[np.generic]]
Act = Callable[[Floats, float, np.random.Generator], Floats]
"""Momenta (N, 3), a time and random numbers to momenta after that time."""

STREAM: Final = 1
"""Of the random numbers of a seed, those of thermostats; velocities are drawn from stream 0."""


class Bath(ABC):
    """A thermostat, with the names of methods that ASE's integrators call."""

    @abstractmethod
    def integrate_nhc(self, p: Floats, delta: float) -> Floats:
        """Momenta (N, 3) after it has acted for a time, in units of ASE."""

    @abstractmethod
    def get_thermostat_energy(self) -> float:
        """What it has taken from the atoms, eV, up to a constant."""

    @abstractmethod
    def state(self) -> State:
        """What `restore` needs to go on to the same bits."""

    @abstractmethod
    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Be as it was."""


@final
class Stochastic(Bath):
    """Friction and noise, or rescaling by random factors; the heat is the difference of the kinetic energies.

    The random numbers of the n-th action are those of the seed [seed, STREAM, n]: to go on, n is enough.
    """

    def __init__(self, act: Act, masses: Floats, seed: int) -> None:
        """Args:
        act: what it does to momenta.
        masses: (N,) amu.
        seed: of random numbers.
        """
        self._act, self._masses, self._seed = act, masses, seed
        self._n, self._taken = 0, 0.0

    def integrate_nhc(self, p: Floats, delta: float) -> Floats:
        """Momenta after friction and noise."""
        after = self._act(p, delta, np.random.default_rng([self._seed, STREAM, self._n]))
        self._taken += kinetic_energy(p, self._masses) - kinetic_energy(after, self._masses)
        self._n += 1
        return after

    def get_thermostat_energy(self) -> float:
        """Taken from the atoms since the start, eV."""
        return self._taken

    def state(self) -> State:
        """How often it has acted, and what it has taken."""
        return {"n": np.array(self._n), "taken": np.array(self._taken)}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from there."""
        self._n, self._taken = int(state["n"]), float(state["taken"])


@final
class Chain(Bath):
    """A Nosé–Hoover chain of ASE: deterministic, with an energy of its own."""

    def __init__(self, chain: NoseHooverChainThermostat) -> None:
        """Args:
        chain: at its start.
        """
        self._chain = chain

    def integrate_nhc(self, p: Floats, delta: float) -> Floats:
        """Momenta after friction, positive or negative."""
        after: Floats = self._chain.integrate_nhc(p.copy(), delta)
        return after

    def get_thermostat_energy(self) -> float:
        """Energy of the chain, eV."""
        return float(self._chain.get_thermostat_energy())

    def state(self) -> State:
        """Positions and momenta of the chain."""
        return {"eta": self._chain._eta.copy(), "p_eta": self._chain._p_eta.copy()}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from there."""
        self._chain._eta, self._chain._p_eta = np.array(state["eta"]), np.array(state["p_eta"])


def bath(atoms: Atoms, settings: MDSettings, n_free: int) -> Bath:
    """The thermostat of the settings, acting for half a time step at once.

    Langevin and svr are the schemes of Bussi and Parrinello: thermostat, Verlet, thermostat. Positions have the error
    of Verlet's integrator, as at constant energy, and momenta have none, so that temperatures read as they should.

    Args:
        atoms: with momenta.
        settings: which, how hot, how strong.
        n_free: degrees of freedom that it heats.

    Raises:
        ValueError: everything is at rest, and velocities are to be rescaled.

    Source: Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101 (2007); Bussi, Parrinello, Phys. Rev. E 75, 056707
        (2007); Martyna, Klein, Tuckerman, J. Chem. Phys. 97, 2635 (1992).
    """
    masses, tau = atoms.get_masses(), settings.thermostat_fs * fs
    if settings.thermostat == "nhc":
        return Chain(NoseHooverChainThermostat(n_free / 3, masses[:, None], settings.temperature_K, tau))
    if settings.thermostat == "langevin":
        return Stochastic(friction(masses, settings.temperature_K, tau), masses, settings.seed)
    if not atoms.get_momenta().any():
        raise ValueError(
            f"all {len(atoms)} atoms are at rest, and svr rescales velocities, which leaves them at rest. Draw "
            "velocities (velocities draw), or use langevin."
        )
    return Stochastic(rescaling(atoms, settings, n_free), masses, settings.seed)


def friction(masses: Floats, temperature_K: float, tau: float) -> Act:
    """Langevin's friction 1/tau on every atom, with its noise: exact for any time.

    Args:
        masses: (N,) amu.
        temperature_K: of the noise.
        tau: in units of ASE.
    """
    width = np.sqrt(masses * BOLTZMANN * temperature_K)[:, None]

    def act(p: Floats, delta: float, random: np.random.Generator) -> Floats:
        kept = np.exp(-delta / tau)
        return np.asarray(kept * p + np.sqrt(1 - kept**2) * width * random.standard_normal(p.shape))

    return act


def rescaling(atoms: Atoms, settings: MDSettings, n_free: int) -> Act:
    """Stochastic velocity rescaling by ASE, for half a time step.

    Args:
        atoms: with momenta.
        settings: temperature and time constant.
        n_free: degrees of freedom that share the kinetic energy.
    """
    step, tau = settings.timestep_fs * fs / 2, settings.thermostat_fs * fs
    bussi, masses = Bussi(atoms, step, settings.temperature_K, tau), atoms.get_masses()
    # ASE counts those of a centre of mass that does not move, too.
    bussi.ndof, bussi.target_kinetic_energy = n_free, 0.5 * n_free * BOLTZMANN * settings.temperature_K

    def act(p: Floats, delta: float, random: np.random.Generator) -> Floats:
        assert np.isclose(delta, step), "a rescaling is made for half a time step"
        bussi.rng = random
        return np.asarray(p * bussi.calculate_alpha(kinetic_energy(p, masses)))

    return act
