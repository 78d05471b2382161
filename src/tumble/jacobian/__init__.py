"""Jacobian: how forces change with positions; its antisymmetric part is what no energy explains."""

from tumble.jacobian.conservation import (
    BY_CONSTRUCTION,
    ByDistance,
    NonConservation,
    frequency_THz,
    jacobian,
    non_conservation,
    of_jacobian,
    parts,
    ratio_of,
)
from tumble.jacobian.displaced import Array, answers_at, in_float64, is_single, precise, rounding_of
from tumble.jacobian.drift import Drift, Heating, drift_of, golden_rule, growth_per_ns, turn_heating
from tumble.jacobian.responses import Differences, Graph, graph_of

__all__ = [
    "BY_CONSTRUCTION",
    "Array",
    "ByDistance",
    "Differences",
    "Drift",
    "Graph",
    "Heating",
    "NonConservation",
    "answers_at",
    "drift_of",
    "frequency_THz",
    "golden_rule",
    "graph_of",
    "growth_per_ns",
    "in_float64",
    "is_single",
    "jacobian",
    "non_conservation",
    "of_jacobian",
    "parts",
    "precise",
    "ratio_of",
    "rounding_of",
    "turn_heating",
]
