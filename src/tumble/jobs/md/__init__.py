"""Molecular dynamics: structures moving in time, and what a simulation says about itself."""

from tumble.jobs.md.job import md
from tumble.jobs.md.result import MDResult
from tumble.jobs.md.settings import MDSettings

__all__ = ["MDResult", "MDSettings", "md"]
