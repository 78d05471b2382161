"""Trajectories: what atoms in time say, and how far it may be trusted."""

from tumble.trajectories.blocks import Mean, cut, inefficiency, mean, standard_error
from tumble.trajectories.diffusion import (
    Decay,
    Rate,
    correlation_time,
    diffusion,
    displacements,
    reorientation,
    unbounded,
)
from tumble.trajectories.files import read
from tumble.trajectories.molecules import Molecule, axes, directions, molecules
from tumble.trajectories.orientations import SphereMap, Vector, free_energy, noise, predicted, sphere, vector
from tumble.trajectories.radial import Correlations, Radial, correlations, radial
from tumble.trajectories.spectra import Spectrum, dipole_spectrum, velocities, velocity_spectrum
from tumble.trajectories.trajectory import Trajectory

__all__ = [
    "Correlations",
    "Decay",
    "Mean",
    "Molecule",
    "Radial",
    "Rate",
    "Spectrum",
    "SphereMap",
    "Trajectory",
    "Vector",
    "axes",
    "correlation_time",
    "correlations",
    "cut",
    "diffusion",
    "dipole_spectrum",
    "directions",
    "displacements",
    "free_energy",
    "inefficiency",
    "mean",
    "molecules",
    "noise",
    "predicted",
    "radial",
    "read",
    "reorientation",
    "sphere",
    "standard_error",
    "unbounded",
    "vector",
    "velocities",
    "velocity_spectrum",
]
