"""Experiment C of the 2024 study: the energies of proton orders in ice."""
