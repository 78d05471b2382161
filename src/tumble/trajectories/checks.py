"""Checks: whether a simulation samples what it claims, by the package physical-validation."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ase.units
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tumble.extras import required
from tumble.trajectories.molecules import Molecule
from tumble.trajectories.trajectory import Trajectory
from tumble.units import BOLTZMANN, EV_PER_A3_TO_GPa

Floats = NDArray[np.float64]

SEED = 1
"""Of the bootstraps, so that the same trajectory gives the same numbers."""

FS = 1e-3
"""1 fs in ps, the unit of time of physical-validation."""


class Kinetic(NamedTuple):
    """Kinetic energies against the Maxwell–Boltzmann distribution at a temperature.

    mean_K:       K, that their mean says.
    width_K:      K, that their standard deviation says.
    mean_sigmas:  of mean_K from the temperature, in standard errors; more than 3 is no chance.
    width_sigmas: of width_K.
    p_value:      chance of a distribution at least as far off (Kolmogorov and Smirnov), samples that are correlated
                  left out.
    """

    mean_K: float
    width_K: float
    mean_sigmas: float
    width_sigmas: float
    p_value: float


def kinetic(energies_eV: ArrayLike, n_freedoms: float, temperature_K: float) -> Kinetic:
    """Compare kinetic energies with those of a thermostat.

    Args:
        energies_eV: (K,) eV, equally spaced in time.
        n_freedoms: degrees of freedom: 3 N less those that are conserved.
        temperature_K: K, of the thermostat; not one that was measured.

    Raises:
        ValueError: fewer than 20 samples.
        ImportError: no physical-validation.

    Source: P. T. Merz, M. R. Shirts, PLoS ONE 13, e0202764 (2018), doi:10.1371/journal.pone.0202764.
    """
    energies = _enough(energies_eV, "kinetic energies")
    pv = _package()
    data = _data(pv, temperature_K, kinetic_energy=energies)
    data.system = pv.data.SystemData(natoms=1, nconstraints=3 - n_freedoms, ndof_reduction_tra=0, ndof_reduction_rot=0)
    of_mean, of_width = pv.kinetic_energy.distribution(data, verbosity=0, bootstrap_seed=SEED)
    p_value = pv.kinetic_energy.distribution(data, strict=True, verbosity=0)
    return Kinetic(
        float(2 * energies.mean() / (n_freedoms * BOLTZMANN)),
        float(energies.std() * (2 / n_freedoms) ** 0.5 / BOLTZMANN),
        float(of_mean),
        float(of_width),
        float(p_value),
    )


def equipartition(
    trajectory: Trajectory, molecules: Sequence[Molecule], temperature_K: float, *, n_removed: int = 3
) -> dict[str, tuple[float, float]]:
    """Whether translations, rotations and vibrations of molecules are equally hot.

    Args:
        trajectory: with velocities.
        molecules: all of them.
        temperature_K: K, of the thermostat.
        n_removed: degrees of freedom that are conserved: 3 of the centre of mass.

    Returns:
        Kind of motion → deviations of mean and width from the temperature, in standard errors.

    Raises:
        ValueError: no velocities, or fewer than 20 frames.
        ImportError: no physical-validation.
    """
    if trajectory.velocities is None:
        raise ValueError(f"{trajectory.name} has no velocities; equipartition is about them. Write momenta too.")
    _enough(trajectory.times_ps, "frames")
    pv = _package()
    order = np.concatenate([one.members for one in molecules])
    sizes = np.array([len(one.members) for one in molecules])
    data = _data(pv, temperature_K)
    data.system = pv.data.SystemData(
        natoms=len(order),
        nconstraints=0,
        ndof_reduction_tra=n_removed,
        ndof_reduction_rot=0,
        mass=trajectory.masses[order],
        molecule_idx=np.cumsum(sizes) - sizes,
        nconstraints_per_molecule=np.zeros(len(molecules)),
    )
    whole = _whole(trajectory, molecules)
    data.trajectory = pv.data.TrajectoryData(whole, trajectory.velocities[:, order] / float(ase.units.fs))
    found = pv.kinetic_energy.equipartition(data, verbosity=0, bootstrap_seed=SEED)
    names = ("all", "translation", "rotation and vibration", "rotation", "vibration")
    return {name: (float(a), float(b)) for name, (a, b) in zip(names, found, strict=False)}


def ensembles(energies_eV: Mapping[float, ArrayLike]) -> float:
    """Whether two runs at two temperatures sample the canonical ensemble: the ratio of their distributions of energy.

    Args:
        energies_eV: K → (K,) potential energies in eV, of two runs.

    Returns:
        Deviation of the slope of ln [p₁(E) / p₂(E)] from 1/k_BT₂ − 1/k_BT₁, in standard errors; more than 3 is no
        chance.

    Raises:
        ValueError: not two runs, or fewer than 20 samples of one.
        ImportError: no physical-validation.
    """
    if len(energies_eV) != 2:
        raise ValueError(
            f"{len(energies_eV)} temperatures were given; the ensemble was expected to be compared at 2. Give two runs."
        )
    pv = _package()
    runs = [_data(pv, t, potential_energy=_enough(e, "energies")) for t, e in energies_eV.items()]
    return float(np.max(np.abs(pv.ensemble.check(*runs, verbosity=0, bootstrap_seed=SEED))))


def convergence(conserved_eV: Mapping[float, ArrayLike]) -> float:
    """Whether the scatter of the conserved quantity falls with the square of the time step, as it should.

    Args:
        conserved_eV: time step in fs → (K,) conserved quantity in eV, of runs that are otherwise the same.

    Returns:
        Largest relative deviation of a ratio of scatters from the ratio of squared time steps. A scatter that falls as
        the time step itself gives 0.5 where that is halved.

    Raises:
        ValueError: fewer than two runs.
        ImportError: no physical-validation.
    """
    if len(conserved_eV) < 2:
        raise ValueError(
            f"{len(conserved_eV)} run was given; convergence with the time step was expected to be seen in 2 or more."
        )
    pv = _package()
    runs = []
    for step, values in conserved_eV.items():
        data = _data(pv, 300.0, constant_of_motion=_enough(values, "samples"))
        data.dt = step * FS
        runs.append(data)
    return float(pv.integrator.convergence(runs, verbose=False))


def _package() -> Any:
    """physical-validation, without what pymbar, which it stands on, says when it is imported."""
    said = logging.getLogger("pymbar")
    level = said.level
    said.setLevel(logging.ERROR)
    try:
        return required("physical_validation", who="checking a simulation needs", extra="analysis")
    finally:
        said.setLevel(level)


def _data(pv: Any, temperature_K: float, **observables: Floats) -> Any:
    """What physical-validation takes, in eV, Å, ps and K."""
    units = pv.data.UnitData(
        kb=BOLTZMANN,
        energy_str="eV",
        energy_conversion=96.48533212,
        length_str="Å",
        length_conversion=0.1,
        volume_str="Å³",
        volume_conversion=1e-3,
        temperature_str="K",
        temperature_conversion=1,
        pressure_str="eV/Å³",
        pressure_conversion=EV_PER_A3_TO_GPa * 1e4,
        time_str="ps",
        time_conversion=1,
    )
    ensemble = pv.data.EnsembleData("NVT", natoms=1, volume=1, temperature=temperature_K)
    return pv.data.SimulationData(units=units, ensemble=ensemble, observables=pv.data.ObservableData(**observables))


def _enough(values: ArrayLike, what: str) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or len(found) < 20:
        raise ValueError(f"there are {len(found)} {what}; at least 20 were expected to judge them. Run longer.")
    return found


def _whole(trajectory: Trajectory, molecules: Sequence[Molecule]) -> Floats:
    """(K, N, 3) Å, molecule by molecule, each in one piece."""
    pieces = []
    for one in molecules:
        x = trajectory.positions[:, one.members]
        apart = np.array([trajectory.nearest(frame - frame[0], k) for k, frame in enumerate(x)])
        pieces.append(x[:, :1] + apart)
    return np.concatenate(pieces, axis=1)
