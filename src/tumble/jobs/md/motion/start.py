"""Start: velocities to begin with, and what is to be feared of a time step."""

from typing import Final

import numpy as np
from ase import Atoms
from ase.md.velocitydistribution import ZeroRotation

from tumble.jobs.md.settings import MDSettings
from tumble.units import BOLTZMANN

STRETCH_FS: Final = 9.0
"""fs, period of the fastest vibration of hydrogen: O-H stretches are at 3700 cm⁻¹."""

HYDROGEN: Final = 1.008
"""amu."""

STEPS_PER_PERIOD: Final = 10.0
"""Fewer are warned of: Verlet's energy then oscillates by (π/10)² = 10 % of that of the vibration."""


def start(atoms: Atoms, settings: MDSettings, *, rotating: bool = True) -> Atoms:
    """A copy with velocities: those it has, or drawn from the temperature, with the centre of mass at rest.

    Drawn kinetic energies are distributed as they should be: none is forced. A single atom is not held at rest.

    Args:
        atoms: one structure.
        settings: temperature, seed, and whether velocities are given or drawn.
        rotating: whether drawn velocities of a structure that is not periodic may turn it.

    Raises:
        ValueError: velocities are said to be given, and are not.
    """
    atoms = atoms.copy()
    is_given = bool(atoms.has("momenta"))
    if settings.velocities == "given" and not is_given:
        raise ValueError(
            f"velocities are said to be given, but the structure {atoms.get_chemical_formula()} has none. Write "
            "momenta to its file, or draw them (velocities draw)."
        )
    if settings.velocities == "given" or (settings.velocities == "auto" and is_given and atoms.get_momenta().any()):
        return atoms
    random, masses = np.random.default_rng([settings.seed, 0]), atoms.get_masses()[:, None]
    momenta = random.standard_normal((len(atoms), 3)) * np.sqrt(masses * BOLTZMANN * settings.temperature_K)
    if len(atoms) > 1:
        momenta -= masses * momenta.sum(0) / masses.sum()
    atoms.set_momenta(momenta)
    if not rotating and not atoms.pbc.any() and len(atoms) > 1:
        ZeroRotation(atoms, preserve_temperature=False)
    return atoms


def concerns(atoms: Atoms, settings: MDSettings) -> list[str]:
    """What is to be feared of a time step, as sentences for the user; empty if nothing.

    The fastest vibration is estimated from the lightest atom, as 9 fs for hydrogen times the root of its mass over
    that of hydrogen. Springs may be softer than a bond's, so nothing is refused: Verlet's integrator is unstable
    beyond 1/π of the true shortest period.

    Args:
        atoms: one structure.
        settings: with the time step.
    """
    masses = atoms.get_masses()
    lightest = int(masses.argmin())
    period = STRETCH_FS * float(np.sqrt(masses[lightest] / HYDROGEN))
    step = settings.timestep_fs
    if step <= period / STEPS_PER_PERIOD:
        return []
    told = (
        f"a time step of {step:g} fs is long for {atoms.symbols[lightest]}, whose bonds vibrate in about "
        f"{period:.3g} fs: {period / step:.3g} steps to a period, where at least {STEPS_PER_PERIOD:g} are usual"
    )
    worse = ", and fewer than π are unstable" if step > period / np.pi else ""
    return [f"{told}{worse}. Take {period / STEPS_PER_PERIOD:.2g} fs or less."]
