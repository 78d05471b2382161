"""What the study published about its own PET: rotational errors of its grids against its largest one, 3i.

Energies of two of the three sets are in the archive structure by structure, and are compared on the same structures;
the numbers below are what has to be quoted.

Source: M. F. Langer, S. N. Pozdnyakov, M. Ceriotti, Mach. Learn.: Sci. Technol. 5, 04LT01 (2024),
doi:10.1088/2632-2153/ad86a0, with its archive doi:10.24435/materialscloud:kz-3b (CC-BY-4.0). Forces at level 0 are
printed by the archive's notebook; the other levels are read off figure 1 of the supporting information.
"""

from typing import Final

LEVELS: Final = {"0": "none", "i": "i", "2": "euler:2", "2i": "euler:2i", "3": "euler:3", "3i": "euler:3i"}
"""Name of a grid in the study → rule."""

REFERENCE: Final = "3i"

ENERGY_meV: Final = {
    "test": {"0": 5.08540906, "i": 2.56919614, "2": 0.557935116, "2i": 0.284382037, "3": 0.156742526},
    "monomer": {"0": 2.82180478, "i": 1.05786426, "2": 0.083627223, "2i": 0.0453258775, "3": 0.0151455813},
    "bulk": {"0": 7.93826448, "i": 4.87952957, "2": 1.08763102, "2i": 0.683191688, "3": 0.414709605},
}
"""Mean absolute error per structure: 190 of 192 atoms, 1000 of 3, 101 of 1536."""

FORCES_meV_per_A: Final = {
    "test": {"0": 2.03523291, "i": 0.9976, "2": 0.1949, "2i": 0.1012, "3": 0.0524},
    "monomer": {"0": 11.7656494, "i": 3.037, "2": 0.3365, "2i": 0.1457, "3": 0.0632},
    "bulk": {"0": 1.21422439, "i": 0.6466, "2": 0.1407, "2i": 0.0758, "3": 0.04},
}
"""Mean absolute error per Cartesian component."""

FORCE_STRUCTURES: Final = {"monomer": range(1, 400)}
"""The monomers of which the study compared forces: indices 1 to 399. Of the liquid it took all."""
