"""Units and constants: eV, Å, amu, fs, K; rows of a cell are its lattice vectors; stress = +(1/V) dE/dε.

A quantity in any other unit says so in its name (`pressure_GPa`, `frequency_THz`).
Source: CODATA 2018 (NIST), as exact as the SI definitions allow.
"""

from typing import Final

BOLTZMANN: Final = 8.617333262e-5
"""Boltzmann constant, eV/K."""

EV_PER_A3_TO_GPa: Final = 160.21766208
"""One eV/Å³ in GPa."""

THZ: Final = 15.633304
"""ω/2π in THz of ω² = 1 eV/(Å² amu)."""

MEV: Final = 1000.0
"""One eV in meV; one eV/Å in meV/Å."""
