"""Observe: what trajectories say, with error bars, and whether they are long enough and warm enough to say it."""

from tumble.jobs.observe.job import observe
from tumble.jobs.observe.result import ObserveResult
from tumble.jobs.observe.settings import ObserveSettings

__all__ = ["ObserveResult", "ObserveSettings", "observe"]
