"""LAMMPS: inputs that run exported potentials, and any potential in a LAMMPS with its Python module.

Source: A. P. Thompson et al., Comput. Phys. Commun. 271, 108171 (2022), doi:10.1016/j.cpc.2021.108171; docs.lammps.org;
`pair_style metatomic` of github.com/metatensor/lammps.
"""

from tumble.bridges.lammps.library import library
from tumble.bridges.lammps.session import Ask, Session
from tumble.bridges.lammps.writer import DATA, INPUT, ensemble, fast_steps, turn_of, write_data, write_input

__all__ = [
    "DATA",
    "INPUT",
    "Ask",
    "Session",
    "ensemble",
    "fast_steps",
    "library",
    "turn_of",
    "write_data",
    "write_input",
]
