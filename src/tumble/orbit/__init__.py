"""Orbit: the answers of a potential about every turned copy of a batch, turned back."""

from tumble.orbit.orbit import Orbit
from tumble.orbit.residual import UNSEEN, residual
from tumble.orbit.streaming import PAIRS_PER_PASS, mean_over, moments_over, n_calls_for, passes

__all__ = [
    "PAIRS_PER_PASS",
    "UNSEEN",
    "Orbit",
    "mean_over",
    "moments_over",
    "n_calls_for",
    "passes",
    "residual",
]
