"""Transport: what conducts heat, mode by mode, from force constants."""

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tumble.jobs.conductivity.engine import Constants, quiet, required
from tumble.jobs.conductivity.metrics import by_mode, has_imaginary
from tumble.jobs.conductivity.settings import ConductivitySettings

Floats = NDArray[np.float64]

VOIGT: Final = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
"""In which order phono3py has the components of a tensor."""

IMAGINARY: Final = "there are imaginary modes"
UNSCATTERED: Final = "some modes are scattered by nothing"

ENDLESS: Final = 1e12
"""W/(m K); nothing conducts as much."""


@dataclass(frozen=True, eq=False)
class Transport:
    """Heat conduction by Q irreducible wave vectors of a mesh with B modes each, at T temperatures.

    temperatures_K:   (T,).
    mesh:             (3,) wave vectors along each reciprocal vector.
    qpoints:          (Q, 3) in units of the reciprocal vectors of the primitive cell.
    weights:          (Q,) how many wave vectors of the mesh each stands for.
    frequencies_THz:  (Q, B), negative where imaginary.
    velocities:       (Q, B, 3) Å THz; empty where refused.
    gamma_THz:        (T, Q, B) half the inverse lifetime by other phonons, over 2π.
    gamma_isotope_THz: (Q, B) by isotopes; zero where they were left out.
    kappa:            (T, 3, 3) W/(m K) in all; NaN where refused.
    kappa_coherence:  (T, 3, 3) of it by coherence between modes; zero but for wigner.
    by_mode:          (T, Q, B) mean of its three directions, times the weight.
    refused:          why nothing but frequencies is known: IMAGINARY or UNSCATTERED; empty where all is.
    engine:           phono3py's own calculator; None where refused.
    """

    temperatures_K: Floats
    mesh: tuple[int, ...]
    qpoints: Floats
    weights: NDArray[np.int64]
    frequencies_THz: Floats
    velocities: Floats
    gamma_THz: Floats
    gamma_isotope_THz: Floats
    kappa: Floats
    kappa_coherence: Floats
    by_mode: Floats
    refused: str
    engine: Any

    @property
    def is_refused(self) -> bool:
        """Whether there is no conductivity."""
        return self.refused != ""

    @cached_property
    def lifetimes_ps(self) -> Floats:
        """(T, Q, B) by phonons and isotopes; infinite where nothing scatters."""
        with np.errstate(divide="ignore"):
            return np.asarray(1 / (4 * np.pi * (self.gamma_THz + self.gamma_isotope_THz)))

    @cached_property
    def paths_A(self) -> Floats:
        """(T, Q, B) mean free paths; zero where a mode does not conduct."""
        speeds = np.linalg.norm(self.velocities, axis=-1)
        with np.errstate(invalid="ignore"):
            return np.where((speeds > 0) & (self.by_mode != 0), speeds * self.lifetimes_ps, 0.0)

    @cached_property
    def without_isotopes(self) -> Floats:
        """(T,) W/(m K) of populations, their mean over directions, were there no isotopes."""
        populations = self.populations
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.nan_to_num(1 + self.gamma_isotope_THz / self.gamma_THz, posinf=1.0)
        return np.asarray((populations * ratio).sum((1, 2)) / self.weights.sum())

    @cached_property
    def populations(self) -> Floats:
        """(T, Q, B) by mode, without coherences, mean of the three directions, times the weight."""
        matrix = getattr(self.engine, "mode_kappa_matrix", None)
        if matrix is None:
            return self.by_mode
        return np.asarray(np.einsum("tqiic->tqic", matrix[0])[..., :3].mean(-1))


def transport(engine: Any, constants: Constants, settings: ConductivitySettings) -> Transport:
    """Thermal conductivity on the mesh; refused where there are imaginary modes, or some that nothing scatters."""
    engine.fc2, engine.fc3 = constants
    with quiet():
        engine.init_phph_interaction(average_degenerate_weights=settings.average_degenerate)
        engine.run_phonon_solver()
        frequencies = engine.get_phonon_data()[0]
        grid = engine.grid
        if has_imaginary(frequencies, int(grid.gp_Gamma), settings.imaginary_THz):
            return _refused(engine, frequencies, settings, IMAGINARY)
        engine.run_thermal_conductivity(
            is_LBTE=settings.kind == "direct",
            temperatures=list(settings.temperatures_K),
            is_isotope=settings.isotopes,
            boundary_mfp=settings.boundary_um,
            transport_type="SMM19" if settings.kind == "wigner" else None,
        )
    with np.errstate(over="ignore"):
        found = _read(engine.thermal_conductivity, settings)
    if not np.abs(found.kappa).max() < ENDLESS:
        return _refused(engine, frequencies, settings, UNSCATTERED)
    return found


def _read(found: Any, settings: ConductivitySettings) -> Transport:
    total = tensors(found.kappa[0])
    coherence = np.zeros_like(total)
    if settings.kind == "wigner":
        coherence = tensors(found.kappa_inter[0])
        modes = by_mode(found.mode_kappa_matrix[0][..., :3].mean(-1), found.mode_heat_capacities)
    else:
        modes = found.mode_kappa[0][..., :3].mean(-1)
    shape = found.frequencies.shape
    isotope = np.zeros(shape) if found.gamma_isotope is None else found.gamma_isotope[0]
    return Transport(
        temperatures_K=np.asarray(settings.temperatures_K, dtype=np.float64),
        mesh=tuple(int(n) for n in found.mesh_numbers),
        qpoints=found.qpoints,
        weights=np.asarray(found.grid_weights),
        frequencies_THz=found.frequencies,
        velocities=found.group_velocities,
        gamma_THz=found.gamma[0],
        gamma_isotope_THz=isotope,
        kappa=total,
        kappa_coherence=coherence,
        by_mode=modes,
        refused="",
        engine=found,
    )


def _refused(engine: Any, frequencies: Floats, settings: ConductivitySettings, reason: str) -> Transport:
    grid = required("phonopy.phonon.grid")
    points, weights, _ = grid.get_ir_grid_points(engine.grid)
    bz_points = engine.grid.grg2bzg[points]
    temperatures = np.asarray(settings.temperatures_K, dtype=np.float64)
    shape = (len(temperatures), len(points), frequencies.shape[1])
    none = np.full((len(temperatures), 3, 3), np.nan)
    return Transport(
        temperatures_K=temperatures,
        mesh=tuple(int(n) for n in engine.mesh_numbers),
        qpoints=np.asarray(grid.get_qpoints_from_bz_grid_points(bz_points, engine.grid)),
        weights=np.asarray(weights),
        frequencies_THz=frequencies[bz_points],
        velocities=np.zeros((*shape[1:], 3)),
        gamma_THz=np.full(shape, np.nan),
        gamma_isotope_THz=np.zeros(shape[1:]),
        kappa=none,
        kappa_coherence=none,
        by_mode=np.full(shape, np.nan),
        refused=reason,
        engine=None,
    )


def tensors(components: Floats) -> Floats:
    """(..., 3, 3) from (..., 6) in the order xx, yy, zz, yz, xz, xy."""
    full = np.zeros((*components.shape[:-1], 3, 3))
    for index, (i, j) in enumerate(VOIGT):
        full[..., i, j] = full[..., j, i] = components[..., index]
    return full


def in_hdf5(found: Transport) -> bytes:
    """What phono3py writes as kappa-m….hdf5, which its own tools read."""
    calculator, buffer = found.engine, io.BytesIO()
    stored = {
        "temperature": found.temperatures_K,
        "mesh": np.asarray(found.mesh),
        "frequency": found.frequencies_THz,
        "group_velocity": found.velocities,
        "gv_by_gv": getattr(calculator, "gv_by_gv", None),
        "heat_capacity": calculator.mode_heat_capacities,
        "kappa": calculator.kappa[0],
        "mode_kappa": None if hasattr(calculator, "mode_kappa_matrix") else calculator.mode_kappa[0],
        "gamma": found.gamma_THz,
        "gamma_isotope": None if calculator.gamma_isotope is None else found.gamma_isotope_THz,
        "qpoint": found.qpoints,
        "weight": found.weights,
    }
    with required("h5py").File(buffer, "w") as file:
        for name, value in stored.items():
            if value is not None:
                file.create_dataset(name, data=value)
    return buffer.getvalue()
