"""Experiment M2 of the 2024 study: where a molecule in the gas phase points."""
