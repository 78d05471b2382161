"""Relax: structures at rest, in the symmetry that they have, and whether the potential or physics has broken it."""

from tumble.jobs.relax.job import relax
from tumble.jobs.relax.result import RelaxResult
from tumble.jobs.relax.settings import RelaxSettings

__all__ = ["RelaxResult", "RelaxSettings", "relax"]
