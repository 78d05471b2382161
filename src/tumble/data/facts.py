"""What the info of a structure says besides labels, and which labels a structure has and can have, as numbers."""

from typing import Any

import numpy as np
from ase import Atoms

from tumble.batch import UNCLEAR, Properties

ABLE = 8
"""Bit of a structure that can have a stress."""

BITS = {"energy": 1, "forces": 2, "stress": 4}
"""Bit of each label that is known."""


def known_bits(label: Properties) -> int:
    """Which labels there are, one bit each."""
    return sum(bit for name, bit in BITS.items() if getattr(label, name) is not None)


def able_bits(atoms: Atoms) -> int:
    """`ABLE` for a structure that repeats and whose cell spans a volume."""
    return ABLE if atoms.pbc.any() and abs(np.linalg.det(atoms.cell.array)) > 1e-3 else 0


def weight_of(atoms: Atoms) -> float:
    """Factor of a structure in the loss: "config_weight" or "weight" of its info, else 1.

    Raises:
        ValueError: it is not a finite number >= 0.
    """
    value = atoms.info.get("config_weight", atoms.info.get("weight", 1.0))
    try:
        weight = float(value)
    except (TypeError, ValueError):
        weight = float("nan")
    if not 0 <= weight < float("inf"):
        raise ValueError(f"the weight of a structure is {value!r}; a finite number >= 0 was expected. Repair its info.")
    return weight


def group_of(atoms: Atoms) -> str:
    """The "config_type" of its info, else ""."""
    return str(atoms.info.get("config_type", ""))


def charge_of(atoms: Atoms) -> int:
    """The "charge" of its info, else 0; `UNCLEAR` if it is no whole number."""
    return _whole(atoms.info.get("charge", 0))


def multiplicity_of(atoms: Atoms) -> int:
    """The "spin_multiplicity" or "spin" of its info, else 1; `UNCLEAR` if it is no whole number."""
    return _whole(atoms.info.get("spin_multiplicity", atoms.info.get("spin", 1)))


def _whole(value: Any) -> int:
    try:
        number = float(np.asarray(value).item())
    except (TypeError, ValueError):
        return UNCLEAR
    return int(number) if number.is_integer() and abs(number) < -UNCLEAR else UNCLEAR
