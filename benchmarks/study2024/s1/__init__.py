"""Experiment S1 of the 2024 study: what an averaging grid leaves of the rotational error."""
