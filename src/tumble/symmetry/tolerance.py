"""Tolerance: how large an error may be, in words such as "1 meV/Å"."""

import re
import unicodedata
from difflib import get_close_matches
from typing import Final, NamedTuple

from tumble.batch import Properties
from tumble.units import MEV, EV_PER_A3_TO_GPa

UNITS: Final = {
    "meV/Å": ("force", MEV),
    "eV/Å": ("force", 1.0),
    "meV/atom": ("energy per atom", MEV),
    "eV/atom": ("energy per atom", 1.0),
    "meV": ("energy", MEV),
    "eV": ("energy", 1.0),
    "GPa": ("stress", EV_PER_A3_TO_GPa),
    "kbar": ("stress", 10 * EV_PER_A3_TO_GPa),
}
"""What is limited, and what one eV, eV/Å or eV/Å³ is in the unit."""


class Tolerance(NamedTuple):
    """How large an error may be.

    limit: in the unit.
    unit:  one of `UNITS`: of the force on the worst atom, of the energy, of the energy divided by the number of atoms,
           or of a component of the stress (root mean square over the nine).
    """

    limit: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> "Tolerance":
        """The tolerance that a text states: a number and a unit; "A" will do for "Å".

        Raises:
            ValueError: not a positive number, or another unit.
        """
        found = re.fullmatch(r"\s*([0-9.]+(?:[eE][-+]?\d+)?)\s*(\S+)\s*", unicodedata.normalize("NFC", text))
        unit = "" if found is None else re.sub(r"/(A|Ang|Angstrom|angstrom)$", "/Å", found[2])
        if found is None or unit not in UNITS:
            near = get_close_matches(unit, UNITS, 1) or ["meV/Å"]
            raise ValueError(
                f"the tolerance {text!r} was given; a number and one of the units {', '.join(UNITS)} were expected, "
                f'such as "1 {near[0]}".'
            )
        try:
            limit = float(found[1])
        except ValueError:
            limit = 0.0
        if not 0 < limit < float("inf"):
            raise ValueError(f"the tolerance {text!r} is not a positive number of {unit}. Give one, such as 1 {unit}.")
        return cls(limit, unit)

    def __str__(self) -> str:
        """As it would be written."""
        return f"{self.limit:g} {self.unit}"

    def size(self, deviation: Properties, n_atoms: int) -> float | None:
        """A deviation of the answers about one structure, in the unit; None where the quantity is not known.

        Args:
            deviation: norms, energy (1,) eV, forces (N,) eV/Å, stress (1,) eV/Å³.
            n_atoms: N.
        """
        quantity, factor = UNITS[self.unit]
        field = {"force": deviation.forces, "stress": deviation.stress}.get(quantity, deviation.energy)
        if field is None:
            return None
        share = {"energy per atom": n_atoms, "stress": 3}.get(quantity, 1)
        return factor * float(field.max()) / share
