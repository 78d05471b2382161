"""Engines other than ASE that take the time steps; each leaves the same files."""
