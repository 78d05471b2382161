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

ICE: Final = {
    "std": 0.320278519,
    "std_raw": 0.325154593,
    "spread": 1.10102634,
    "rmse": 0.00666229539,
    "mae": 0.00535056397,
    "shift": -0.0573798126,
    "pearson": 0.999901046,
}
"""Nine cells, each at rest with the raw potential and with the mean over 2i, meV per H2O: standard deviation, range,
raw minus averaged relative energies (root mean square, mean absolute), their common shift, correlation."""

ICE_START_RMSE_meV: Final = 0.00736984574
"""The root mean square again, in the geometries that the study began with."""

ICE_FORCES_meV_per_A: Final = {"rmse": 0.964326378, "mae": 0.751839801, "rmse_vector": 1.67026228}
"""Raw minus averaged forces in these geometries, per component, per component, per atom."""

ICE_DISPLACEMENT_A: Final = 0.0319252587
"""Root mean square over atoms of how far they move to rest."""

TORQUE_meV: Final = {"0": 5.45, "i": 3.16, "2": 0.407, "2i": 0.243, "3": 0.103, "3i": 0.023}
"""Of one molecule about its centre of mass, root mean square of the vector along a run of 25 ps; read off, 5 %."""

ANGULAR_MOMENTUM_eVfs: Final = 3.27
"""Its norm in the averaged run of 25 ps; read off, 0.03."""

ANGULAR_MOMENTUM_AVERAGED_eVfs: Final = ((3.06, 1.045, -0.338), (2.97, 1.167, -0.618))
"""Its components in this run after 0 and 25 ps; read off, 0.03. In the raw run one component goes from +3 to -3 and
back within 12 ps."""

FREE_ENERGY_kT: Final = {
    "molecule raw": {"std": 0.121823618, "min": -0.237214286, "max": 0.288687192, "l1": 0.1125},
    "molecule averaged": {"std": 0.0240899483, "min": -0.0710246305, "max": 0.0758128079, "l1": 0.0051},
    "bulk raw": {"std": 0.00875441933, "min": -0.0219472422, "max": 0.0191539568, "l1": 0.0077},
    "bulk averaged": {"std": 0.0111873603, "min": -0.0277333333, "max": 0.0219472422, "l1": 0.0104},
    "bulk turned": {"std": 0.0151838533, "min": -0.0403031175, "max": 0.0345170264, "l1": 0.0122},
}
"""Orientational free energies F(cos θ, φ): standard deviation, range, and norm of the coefficients of √3 u; read off
the colours of the maps, 0.003, 0.01 and 0.005. That of the averaged molecule is what the length of the run leaves."""

L1_RUN_kT: Final = (0.104, 0.007, 0.043)
"""Coefficients of √3 (u_x, u_y, u_z) in the free energy of the raw molecule; read off, 0.005."""

L1_STATIC_kT: Final = (0.107991886, -0.00277868619, 0.0460554883)
"""The same from raw minus 3i energies of the study's 1000 molecules, by least squares, at 300 K."""

DRIFT_meV_per_H2O_per_ns: Final = {"raw": 1.99, "averaged": 12.5, "turned": 20.0}
"""Of the conserved quantity of 512 H2O in 500 ps at 300 K; read off, 3 %."""

G_OO: Final = {
    "first maximum": (2.832, 2.235),
    "first minimum": (3.55, 0.92),
    "second maximum": (4.51, 1.088),
    "second minimum": (5.52, 0.904),
    "third maximum": (6.75, 1.072),
}
"""Å and height, of 512 H2O; a kernel of 0.1 Å; raw and averaged cannot be told apart."""

C_LONGITUDINAL: Final = {
    2.4: 0.371, 2.6: 0.354, 2.8: 0.32, 3.0: 0.25, 3.2: 0.146, 3.4: 0.062, 3.6: 0.026, 3.8: 0.016, 4.0: 0.019,
    4.5: 0.04, 5.0: 0.058, 5.5: 0.041, 6.0: 0.014,
}  # fmt: skip
C_TRANSVERSE: Final = {
    2.4: -0.031, 2.8: -0.031, 3.0: -0.031, 3.2: -0.023, 3.4: -0.02, 3.6: -0.029, 3.8: -0.043, 4.0: -0.053, 4.3: -0.058,
    4.5: -0.056, 5.0: -0.039, 5.5: -0.024, 6.0: -0.017,
}  # fmt: skip
"""Orientational correlations c^L(r) / g(r) and c^T(r) / g(r) by distance in Å, of 512 H2O."""

MSD_O_A2: Final = {4.0: 7.08, 5.0: 8.63, 6.0: 10.19, 7.0: 11.73, 8.0: 13.28, 9.0: 14.8, 9.8: 16.06}
"""ps → mean squared displacement of O, Å², of 512 H2O."""

DIFFUSION_A2_per_ps: Final = 0.2571
"""A sixth of the slope from 4.2 to 9.8 ps, without a correction for the size of the box."""

C_UU: Final = {
    0.1: 0.904, 0.2: 0.845, 0.5: 0.757, 1.0: 0.6525, 1.5: 0.5665, 2.0: 0.4936, 3.0: 0.379, 4.0: 0.293, 5.0: 0.2287,
    6.0: 0.1774, 7.0: 0.138, 8.0: 0.1115, 9.0: 0.088, 9.8: 0.073,
}  # fmt: skip
"""ps → ⟨u(t)·u(0)⟩ of 512 H2O, u along the bisector from O."""

TAU_UU_ps: Final = 3.9
"""Its decay time from a line through its logarithm, 2 to 6 ps."""
