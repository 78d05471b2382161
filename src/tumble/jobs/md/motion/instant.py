"""Instant: what is to be known of a simulation at one moment."""

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.units import fs
from numpy.typing import NDArray

from tumble.jobs.md.settings import MDSettings
from tumble.units import BOLTZMANN, EV_PER_A3_TO_GPa

Floats = NDArray[np.float64]


class Instant(NamedTuple):
    """One moment of a simulation.

    step:             innermost steps since the start.
    time_ps:          ps since the start.
    potential_eV:     energy of the slowest forces.
    kinetic_eV:       kinetic energy of all atoms.
    heat_eV:          energy that thermostat and barostat have given since the start.
    conserved_eV:     potential + kinetic - heat; it would not change if time steps were short, and forces a gradient.
    temperature_K:    of all degrees of freedom that are heated.
    temperatures_K:   of each element.
    momentum:         (3,) eV fs/Å.
    angular_momentum: (3,) eV fs, about the centre of mass; positions are never wrapped.
    volume_A3:        None unless periodic in three directions.
    pressure_GPa:     with the kinetic part; None unless periodic in three directions and stress is known.
    """

    step: int
    time_ps: float
    potential_eV: float
    kinetic_eV: float
    heat_eV: float
    conserved_eV: float
    temperature_K: float
    temperatures_K: dict[str, float]
    momentum: Floats
    angular_momentum: Floats
    volume_A3: float | None
    pressure_GPa: float | None


def kinetic_energy(momenta: Floats, masses: Floats) -> float:
    """Kinetic energy in eV of momenta (N, 3) and masses (N,) in units of ASE."""
    return float(0.5 * np.sum(np.einsum("na,na->n", momenta, momenta) / masses))


def rests(atoms: Atoms, settings: MDSettings) -> bool:
    """Whether the centre of mass does not take part in the heat: all but Langevin's noise leave it alone.

    A single atom is its centre of mass, and takes part.
    """
    is_pushed = settings.ensemble != "nve" and settings.thermostat == "langevin"
    return len(atoms) > 1 and not is_pushed


def degrees_of_freedom(atoms: Atoms, settings: MDSettings) -> int:
    """How many share the heat: 3N, or 3N - 3 where the centre of mass does not take part."""
    return 3 * len(atoms) - (3 if rests(atoms, settings) else 0)


def temperatures(atoms: Atoms, settings: MDSettings) -> tuple[float, dict[str, float]]:
    """K, of everything and of each element, relative to the centre of mass where that does not take part in the heat.

    Atom i then has 3 (1 - m_i/M) degrees of freedom: (2/k) <K_i> = 3 T (1 - m_i/M) in equilibrium.
    """
    masses, momenta = atoms.get_masses(), atoms.get_momenta()
    free = np.full(len(atoms), 3.0)
    if rests(atoms, settings):
        free -= 3 * masses / masses.sum()
        momenta = momenta - masses[:, None] * momenta.sum(0) / masses.sum()
    twice = np.einsum("na,na->n", momenta, momenta) / masses / BOLTZMANN
    numbers = atoms.numbers
    symbols = dict(zip(numbers.tolist(), atoms.get_chemical_symbols(), strict=True))
    by_element = {symbols[z]: float(twice[numbers == z].sum() / free[numbers == z].sum()) for z in sorted(symbols)}
    return float(twice.sum() / free.sum()), by_element


def momenta_of(atoms: Atoms) -> tuple[Floats, Floats]:
    """Momentum (3,) eV fs/Å and angular momentum (3,) eV fs about the centre of mass."""
    momenta = atoms.get_momenta() / fs
    apart = atoms.positions - atoms.get_center_of_mass()
    return momenta.sum(0), np.cross(apart, momenta).sum(0)


def volume_of(atoms: Atoms) -> float | None:
    """Å³; None unless periodic in three directions."""
    return float(atoms.get_volume()) if atoms.pbc.all() else None


def pressure_GPa(atoms: Atoms, stress: Floats | None) -> float | None:
    """Pressure with its kinetic part, GPa; None unless periodic in three directions and stress is known.

    Args:
        atoms: with momenta.
        stress: (6,) eV/Å³, of the potential alone.
    """
    if stress is None or not atoms.pbc.all():
        return None
    kinetic = kinetic_energy(atoms.get_momenta(), atoms.get_masses())
    return float((2 * kinetic / (3 * atoms.get_volume()) - stress[:3].mean()) * EV_PER_A3_TO_GPa)
