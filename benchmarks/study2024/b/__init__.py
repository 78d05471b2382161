"""Experiments B1, B2 and B3 of the 2024 study: liquid water, its structure, its dynamics, and the drift."""
