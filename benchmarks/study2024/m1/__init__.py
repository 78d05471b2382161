"""Experiment M1 of the 2024 study: a molecule turning freely, and what turns it."""
