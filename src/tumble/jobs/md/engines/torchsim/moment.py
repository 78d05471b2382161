"""Moment: what is to be known of many structures at once, of each or on average as an `Instant`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from ase.data import chemical_symbols
from ase.units import fs
from numpy.typing import NDArray

from tumble.jobs.md.engines.torchsim.replicas import Replicas
from tumble.jobs.md.motion import Instant
from tumble.jobs.md.settings import MDSettings
from tumble.units import BOLTZMANN, EV_PER_A3_TO_GPa

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class Moment:
    """S structures at one moment: the fields of `Instant`, each with S in front, NaN where there is nothing to know.

    temperatures_K: (S,) of each element.
    """

    step: int
    time_ps: float
    potential_eV: Floats
    kinetic_eV: Floats
    heat_eV: Floats
    temperature_K: Floats
    temperatures_K: dict[str, Floats]
    momentum: Floats
    angular_momentum: Floats
    volume_A3: Floats
    pressure_GPa: Floats

    @classmethod
    def of(cls, replicas: Replicas, settings: MDSettings) -> "Moment":
        """The present moment; nothing is asked of the potential."""
        energy, stress = replicas.answer.energy, replicas.answer.stress
        assert energy is not None, "a potential has an energy"
        kinetic = replicas.kinetic_eV()
        volume = np.array([one.get_volume() if one.pbc.all() else np.nan for one in replicas.atoms])
        pull = volume * np.nan if stress is None else stress.double().cpu().diagonal(dim1=1, dim2=2).mean(1).numpy()
        return cls(
            replicas.n_steps,
            replicas.n_steps * settings.timestep_fs / 1000,
            energy.double().cpu().numpy(),
            kinetic,
            replicas.heat_eV.copy(),
            *_temperatures(replicas, settings),
            *_momenta(replicas),
            volume,
            (2 * kinetic / (3 * volume) - pull) * EV_PER_A3_TO_GPa,
        )

    def at(self, index: int) -> Instant:
        """One of the structures."""
        return self._instant(lambda values: values[index])

    def mean(self) -> Instant:
        """Averages over structures; temperatures of an element over those that have it, a pressure only if all have."""
        return self._instant(lambda values: values.mean(0), lambda values: values[~np.isnan(values)].mean())

    def _instant(self, take: Callable[[Floats], Floats], within: Callable[[Floats], Floats] | None = None) -> Instant:
        within = within or take
        potential, kinetic, heat = (float(take(one)) for one in (self.potential_eV, self.kinetic_eV, self.heat_eV))
        by_element = {symbol: float(within(one)) for symbol, one in self.temperatures_K.items()}
        volume, pressure = float(take(self.volume_A3)), float(take(self.pressure_GPa))
        return Instant(
            self.step,
            self.time_ps,
            potential,
            kinetic,
            heat,
            potential + kinetic - heat,
            float(take(self.temperature_K)),
            {symbol: value for symbol, value in by_element.items() if not np.isnan(value)},
            take(self.momentum),
            take(self.angular_momentum),
            None if np.isnan(volume) else volume,
            None if np.isnan(pressure) else pressure,
        )


def _temperatures(replicas: Replicas, settings: MDSettings) -> tuple[Floats, dict[str, Floats]]:
    """K, (S,) of everything and of each element.

    As for one structure: relative to the centre of mass where that does not take part in the heat, when atom i has
    3 (1 - m_i/M) degrees of freedom; it does under Langevin's noise, and where it is the only atom.
    """
    of, masses, momenta = replicas.structure, replicas.masses, replicas.momenta
    free = np.full(len(of), 3.0)
    if settings.ensemble == "nve":
        share = masses / np.bincount(of, masses)[of]
        rests = np.bincount(of)[of] > 1
        free -= np.where(rests, 3 * share, 0.0)
        momenta = momenta - np.where(rests, share, 0.0)[:, None] * _sums(momenta, of)[of]
    twice = np.einsum("na,na->n", momenta, momenta) / masses / BOLTZMANN
    by_element = {}
    for number in np.unique(replicas.numbers):
        has, n_structures = replicas.numbers == number, len(replicas.atoms)
        heat, shared = (np.bincount(of[has], values[has], n_structures) for values in (twice, free))
        by_element[chemical_symbols[number]] = np.where(shared > 0, heat, np.nan) / np.where(shared > 0, shared, 1.0)
    return np.bincount(of, twice) / np.bincount(of, free), by_element


def _momenta(replicas: Replicas) -> tuple[Floats, Floats]:
    """Momentum (S, 3) eV fs/Å and angular momentum (S, 3) eV fs about the centre of mass."""
    of, masses, momenta = replicas.structure, replicas.masses, replicas.momenta / fs
    centers = _sums(replicas.positions * masses[:, None], of) / np.bincount(of, masses)[:, None]
    return _sums(momenta, of), _sums(np.cross(replicas.positions - centers[of], momenta), of)


def _sums(values: Floats, of: NDArray[np.int64]) -> Floats:
    """Sums (S, 3) of rows (N, 3) by structure."""
    return np.stack([np.bincount(of, column) for column in values.T], 1)
