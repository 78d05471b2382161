"""Whether an exported file answers what the potential answers that it was made from."""

import copy
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from tumble.batch import Properties
from tumble.bridges.metatomic.export import direct_of
from tumble.bridges.metatomic.potential import Metatomic, describe, quiet
from tumble.extras import required
from tumble.packs import predict
from tumble.potential import Potential

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""In units of 1 + the largest number of its kind."""


def deviation(path: Path, potential: Potential, minus: Potential | None, structures: Sequence[Atoms]) -> float:
    """How far the answers of a file are from those of the potential, in units of 1 + the largest number of their kind.

    The file is asked through `Metatomic` and, where it is installed, through the ASE calculator of metatomic; about
    energies with their derivatives and, where there are such outputs, with direct forces and stress.

    Args:
        path: of the file.
        potential: what it was made from, in whatever precision.
        minus: what was subtracted.
        structures: to ask about.
    """
    # TorchScript rewrites a program in its first runs, which takes longer than all of these together.
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        return _deviation(path, potential, minus, structures)


def _deviation(path: Path, potential: Potential, minus: Potential | None, structures: Sequence[Atoms]) -> float:
    direct = direct_of(potential, minus)
    every = [potential] if minus is None else [potential, minus]
    worst = 0.0
    for is_direct in (False, True) if direct is not None else (False,):
        if not is_direct and not all(one.is_conservative for one in every):
            continue
        file = Metatomic(path, direct=is_direct)
        asked = every if direct is None or not is_direct else direct
        expected = _expected([copy.deepcopy(one).to(dtype=file.dtype) for one in asked], structures)
        for found in (predict(file, structures), _through_ase(path, is_direct, structures)):
            for one, other, atoms in zip(found, expected, structures, strict=False):
                worst = max(worst, _difference(one, other, atoms, is_direct))
    return worst


def _expected(parts: Sequence[Potential], structures: Sequence[Atoms]) -> list[Properties]:
    """Answers of a potential, or of the difference of two."""
    first, *others = (predict(one.requires_grad_(False), structures) for one in parts)
    if not others:
        return first
    return [
        Properties(*(None if a is None or b is None else a - b for a, b in zip(one, other, strict=True)))
        for one, other in zip(first, others[0], strict=True)
    ]


def _through_ase(path: Path, is_direct: bool, structures: Sequence[Atoms]) -> Iterator[Properties]:
    """The answers of the ASE calculator of metatomic, where there is one; it takes the net direct force away."""
    if find_spec("metatomic_ase") is None:
        return
    with quiet():
        package = required("metatomic_ase", who="this check needs", extra="metatomic")
        has_stress = "non_conservative_stress" in describe(path)["outputs"]
        heads = is_direct and (has_stress or "forces")
        options = {"device": "cpu", "non_conservative": heads, "uncertainty_threshold": None}
        calculator = package.MetatomicCalculator(str(path), **options)
        for atoms in structures:
            asked = atoms.copy()
            asked.calc = calculator
            with np.errstate(invalid="ignore", divide="ignore"):  # it divides by the volume also where there is none
                energy, forces = asked.get_potential_energy(), torch.as_tensor(asked.get_forces())
                stress = torch.as_tensor(asked.get_stress(voigt=False)) if asked.pbc.all() else None
            yield Properties(torch.tensor(energy, dtype=torch.float64), forces, stress)


def _difference(found: Properties, expected: Properties, atoms: Atoms, is_direct: bool) -> float:
    """The largest deviation of any number; infinite if one is not a number."""
    worst = 0.0
    for name, a, b in zip(Properties._fields, found, expected, strict=True):
        # A program cannot know how much vacuum a slab has, which its direct stress is divided by.
        if a is None or b is None or (name == "stress" and is_direct and not atoms.pbc.all()):
            continue
        a, b = a.double(), b.double()
        if name == "forces" and is_direct:
            a, b = a - a.mean(0), b - b.mean(0)
        off = float((a - b).abs().max() / (1 + b.abs().max()))
        worst = max(worst, off if off == off else float("inf"))
    return worst
