"""Elasticity: all elastic constants of a crystal with their symmetry error, and its equation of state."""

from tumble.jobs.elastic.job import elastic
from tumble.jobs.elastic.result import ElasticResult
from tumble.jobs.elastic.settings import ElasticSettings

__all__ = ["ElasticResult", "ElasticSettings", "elastic"]
