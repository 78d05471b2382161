"""Conductivity: the lattice thermal conductivity of a crystal, raw and repaired."""

from tumble.jobs.conductivity.job import conductivity
from tumble.jobs.conductivity.result import ConductivityResult
from tumble.jobs.conductivity.settings import PHONONDB_V1, ConductivitySettings

__all__ = ["PHONONDB_V1", "ConductivityResult", "ConductivitySettings", "conductivity"]
