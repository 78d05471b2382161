"""Labels of a structure: found under the names that programs give them, checked, and brought to our units and signs."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray
from torch import Tensor

from tumble.batch import Properties
from tumble.data.dataset import Dataset
from tumble.data.facts import ABLE, BITS, able_bits

Label = Literal["energy", "forces", "stress"]

Keys = Mapping[str, str | None]
"""Name that the user gives to each label; None: one of `PLAIN_KEYS`."""

PLAIN_KEYS: Mapping[str, tuple[str, ...]] = {
    "energy": ("energy", "REF_energy"),
    "forces": ("forces", "REF_forces"),
    "stress": ("stress", "REF_stress", "virial", "virials", "REF_virial", "REF_virials"),
}
"""Where a label is looked for when the user names no key: calculator results, then `info` and `arrays`."""


def check_structure(atoms: Atoms, source: str) -> None:
    """Refuse a structure that is none.

    Raises:
        ValueError: no atoms, NaN or infinite positions or cell.
    """
    if len(atoms) == 0:
        raise ValueError(f"{source} has no atoms; at least one was expected. Remove it from the file.")
    for name, values in (("positions", atoms.positions), ("cell", atoms.cell.array)):
        if bad := int((~np.isfinite(values)).sum()):
            raise ValueError(f"{source} has {bad} NaN or infinite numbers in its {name}. Repair or remove it.")


def labels(atoms: Atoms, keys: Keys, source: str) -> Properties:
    """Labels of one structure, checked.

    Raises:
        ValueError: a label that is no finite number of the right shape, or that two names state differently.
    """
    stored = _stored(atoms)
    found: dict[str, Tensor | None] = {}
    for label, given in keys.items():
        candidates = PLAIN_KEYS[label] if given is None else (given,)
        values = {
            key: _label(label, key, stored[key], atoms, source)
            for key in candidates
            if stored.get(key) is not None and _can_have(label, atoms)
        }
        if len(values) > 1:
            (first, one), *others = values.items()
            for other, two in others:
                if not np.allclose(one, two, rtol=1e-5, atol=1e-6):
                    raise ValueError(
                        f"{source} has {label} both as {first!r} and as {other!r}, and they differ by "
                        f"{np.abs(one - two).max():.3g}. Say which with {label}_key."
                    )
        found[label] = torch.from_numpy(next(iter(values.values()))) if values else None
    return Properties(**found)


def check_present(atoms: Atoms, found: Properties, required: Sequence[str], keys: Keys, source: str) -> None:
    """Refuse a structure without a label that it must and can have.

    Raises:
        ValueError: names the label, and what the file has instead.
    """
    for label in required:
        if getattr(found, label) is None and _can_have(label, atoms):
            tried = keys[label] or ", ".join(PLAIN_KEYS[label])
            there = ", ".join(sorted(_stored(atoms))) or "nothing"
            raise ValueError(
                f"{source} lacks {_article(label)} (looked for {tried}; it has: {there}). "
                f"Give {label}_key, remove the structure, or read with missing='mask'."
            )


def check_some(dataset: Dataset, required: Sequence[str], keys: Keys) -> None:
    """Refuse structures of which none has a label that some could have.

    Raises:
        ValueError: names the label.
    """
    for label in required:
        is_able = dataset.can_have_stress if label == "stress" else np.ones(len(dataset), dtype=bool)
        if is_able.any() and not (dataset.known & BITS[label]).any():
            tried = keys[label] or ", ".join(PLAIN_KEYS[label])
            raise ValueError(
                f"none of {len(dataset)} structures has {_article(label)} (looked for {tried}). "
                f"Give {label}_key, or require only what the files have."
            )


def check_all(dataset: Dataset, required: Sequence[str]) -> None:
    """Refuse the structures of a store, of which one lacks a label that it must and can have.

    Raises:
        ValueError: names the first that lacks it.
    """
    for label in required:
        lacks = dataset.known & BITS[label] == 0
        lacks &= dataset.can_have_stress if label == "stress" else True
        if lacks.any():
            first = dataset.sources[int(np.argmax(lacks))]
            raise ValueError(
                f"{int(lacks.sum())} of {len(dataset)} structures of a store lack {_article(label)}, the first is "
                f"{first}. Require only what the store has, or read with missing='mask'."
            )


def _can_have(label: str, atoms: Atoms) -> bool:
    return label != "stress" or able_bits(atoms) == ABLE


def _stored(atoms: Atoms) -> dict[str, Any]:
    """Everything a file says about a structure, by name; calculator results win over `info` and `arrays`."""
    stored: dict[str, Any] = {key: value for key, value in atoms.arrays.items() if key not in ("numbers", "positions")}
    for extra in ("key_value_pairs", "data"):  # where an ASE database keeps them
        stored |= atoms.info.get(extra, {})
    stored |= atoms.info
    return stored | atoms.calc.results if atoms.calc is not None else stored


def _label(label: str, key: str, value: Any, atoms: Atoms, source: str) -> NDArray[np.float64]:
    """One label as a float64 array of the right shape, finite and, if it is a virial, turned into a stress."""
    shapes = {"energy": "()", "forces": f"({len(atoms)}, 3)", "stress": "(3, 3), (9,) or (6,)"}
    try:
        array = np.array(value, dtype=np.float64)
        if label == "energy":
            array = array.reshape(())
        elif label == "forces":
            if array.shape != (len(atoms), 3):
                raise ValueError
        else:
            array = voigt_6_to_full_3x3_stress(array) if array.shape == (6,) else array.reshape(3, 3)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{source}: {label} {key!r} is {np.shape(value)} {type(value).__name__}, expected numbers of shape "
            f"{shapes[label]}. Repair the file or give {label}_key."
        ) from error
    if bad := int((~np.isfinite(array)).sum()):
        raise ValueError(f"{source}: {label} {key!r} has {bad} NaN or infinite numbers. Repair or remove it.")
    if label == "stress":
        array = -array / atoms.get_volume() if "virial" in key.lower() else array
        if (skew := np.abs(array - array.T).max() / 2) > 1e-4 * np.abs(array).max() + 1e-6:
            raise ValueError(f"{source}: {key!r} is not symmetric, by {skew:.3g} eV/Å³. Check its layout and units.")
        array = (array + array.T) / 2
    return array


def _article(label: str) -> str:
    return {"energy": "an energy", "forces": "forces", "stress": "a stress"}[label]
