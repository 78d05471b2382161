"""Export: a potential as a file that other engines run, asked about structures before it is handed over."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii

from tumble.bridges import metatomic
from tumble.potential import Potential

DTYPES = {"float32": torch.float32, "float64": torch.float64}

MOST = 12
"""Elements that are tried."""


def export(
    potential: Potential,
    path: str | Path,
    to: str = "metatomic",
    *,
    minus: Potential | None = None,
    dtype: torch.dtype | str | None = None,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write a potential as an exported model of metatomic, which ASE, LAMMPS, GROMACS, i-PI and TorchSim run.

    The file is a TorchScript program with the weights; it needs no tumble. Before it gets its name it is loaded again
    and asked about a few structures: energies, forces and stress must be those of the potential. An existing file is
    replaced.

    Args:
        potential: made of PET and pair models: Gradient, Direct, LLPR, Sum, or Symmetrized over a rule in the frame of
            the lab. With direct heads the file has them as outputs too.
        path: ends in .pt.
        to: "metatomic".
        minus: another potential, whose energy is subtracted: the slow level of multiple time steps is what averaging
            adds to the raw potential.
        dtype: of the weights in the file and of what engines compute with; that of the potential unless given.
        card: what is known of it: name, authors, description, data, level, use, licence, doi.

    Returns:
        The path.

    Raises:
        ValueError: another format or ending, or a part that cannot be exported; it says why and what to do.
        ImportError: metatomic-torch is not installed.
        RuntimeError: the file does not answer what the potential answers; nothing is left behind.
    """
    path = Path(path)
    if to != "metatomic":
        raise ValueError(f"export to {to!r} is not known; 'metatomic' was expected, the file that all engines take.")
    if path.suffix != ".pt":
        raise ValueError(f"an exported model is a .pt file; {path.name!r} was given. Change the ending.")
    wanted = _dtype(dtype) or potential.dtype
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial.pt")
    try:
        metatomic.write(potential, partial, minus=minus, dtype=wanted, card=card)
        known = potential.species or (minus.species if minus is not None else None)
        off, allowed = metatomic.deviation(partial, potential, minus, tried(known)), metatomic.TOLERANCE[wanted]
        if not off <= allowed:
            raise RuntimeError(
                f"the exported file deviates by {off:.1e} (relative), and at most {allowed:.0e} is allowed: its "
                "numbers are not those of the potential. Nothing was written. Please report this potential."
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def tried(species: Sequence[int] | None = None) -> list[Atoms]:
    """Structures that an exported file is asked about: atom, molecule, slab, triclinic crystal.

    Args:
        species: atomic numbers, one atom of each in the molecule as long as they are not too many; None for any.
    """
    kinds = list(species or (6,))[:MOST]
    d = 1.7 * max(float(covalent_radii[z]) for z in kinds)
    random = np.random.default_rng(3)
    n = max(3, len(kinds))
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n] * d
    places = grid + random.uniform(-0.12, 0.12, grid.shape) * d
    shear = np.array([[1.0, 0.0, 0.0], [0.2, 1.0, 0.0], [-0.1, 0.15, 1.0]])
    numbers = [kinds[k % len(kinds)] for k in range(n)]
    inside = np.array([[0.1, 0.1, 0.1], [0.6, 0.45, 0.55]]) @ (2 * d * shear)
    return [
        Atoms([kinds[0]]),
        Atoms(numbers, places),
        Atoms(numbers[:2], inside, cell=np.diag([2 * d, 2 * d, 12.0]) @ shear, pbc=(True, True, False)),
        Atoms(numbers[:2], inside, cell=2 * d * shear, pbc=True),
    ]


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise ValueError(f"the dtype of an exported file is {dtype!r}; one of {', '.join(DTYPES)} was expected.")
        return DTYPES[dtype]
    return dtype
