"""The precision floor: how large a spread rounding alone would show."""

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from tumble.batch import Properties, split
from tumble.jacobian import in_float64
from tumble.orbit import Orbit
from tumble.potential import Potential, collate_for
from tumble.rotations import Rotations

N_NODES = 3
"""Orientations at which the float64 answer is looked up; 2 where the measuring rule has fewer than 24."""

N_REPEATS = 4
"""Relabelled copies whose scatter stands for rounding, where there is nothing more precise to compare with."""

LEAST = 1e-13
"""eV, eV/Å, eV/Å³: smaller numbers are what is left when terms of ordinary size cancel in float64."""


def floor(potential: Potential, atoms: Atoms, orbit: Orbit) -> tuple[Properties, str]:
    """The spread that rounding makes, and how it was found.

    Args:
        potential: what the orbit is of.
        atoms: the structure.
        orbit: of this structure alone.

    Returns:
        energy (1,) eV, forces (N,) eV/Å, stress (1,) eV/Å³, norms over components as `Orbit.spread` gives them; and
        one phrase.
    """
    exact = in_float64(potential)
    if exact is None:
        found = scatter(potential, atoms)
        how = f"scatter of {N_REPEATS} relabelled copies, moved by one rounding error"
    else:
        found = against(exact, atoms, orbit)
        how = f"{str(potential.dtype).removeprefix('torch.')} against float64 in {len(_nodes(orbit))} orientations"
    return _at_least_rounding(found, orbit), how


def against(exact: Potential, atoms: Atoms, orbit: Orbit) -> Properties:
    """Root mean square over a few nodes of the difference to a more precise potential, less its mean."""
    chosen = _nodes(orbit)
    weights = torch.full((len(chosen),), 1 / len(chosen), dtype=torch.float64)
    few = Rotations(orbit.rotations.matrices[chosen], weights / weights.sum(), 0, "nodes of the floor")
    better = Orbit.of(exact, collate_for(exact, [atoms]), few).properties
    apart = Properties(
        *(
            None if low is None or high is None else low[chosen.to(low.device)] - high
            for low, high in zip(orbit.properties, better, strict=True)
        )
    )
    # The mean of few differences hides part of their variance: 1/n of it.
    grown = (len(chosen) / max(len(chosen) - 1, 1)) ** 0.5
    spread = Orbit(few, apart).spread()
    return Properties(*(None if field is None else grown * field for field in spread))


def _nodes(orbit: Orbit) -> Tensor:
    """Indices of nodes far from each other and from being opposites, of which rounding would be the same."""
    n = len(orbit.rotations)
    steps = torch.arange(min(n, max(2, min(N_NODES, n // 8)))) * 0.618 + 0.118
    return torch.unique((steps.frac() * n).long())


def scatter(potential: Potential, atoms: Atoms, n: int = N_REPEATS) -> Properties:
    """Root mean square change of the answers when atoms are reordered, shifted together, and moved by an ulp.

    An exact potential in exact arithmetic would not change. The random numbers are fixed.
    """
    random = np.random.default_rng(0)
    ulp = 2 * float(np.finfo(np.float64).eps)
    answers = [_one(potential, atoms)]
    for _ in range(n):
        order = random.permutation(len(atoms))
        other = atoms[order]
        other.info, other.arrays = {}, {name: other.arrays[name] for name in ("numbers", "positions")}
        # A turn rounds every coordinate by itself, and all of them alike where its matrix is rounded.
        alike = np.eye(3) + ulp * random.uniform(-1, 1, size=(3, 3))
        other.set_cell(other.cell.array @ alike)
        other.positions = (other.positions * (1 + ulp * random.choice([-1, 1], size=(len(other), 3)))) @ alike
        other.positions += random.uniform(-1, 1, size=3)
        answer = _one(potential, other)
        back = torch.as_tensor(np.argsort(order))
        answers.append(answer._replace(forces=None if answer.forces is None else answer.forces[back]))

    def rms(*fields: Tensor | None) -> Tensor | None:
        known = [field.double() for field in fields if field is not None]
        if len(known) < len(fields):
            return None
        moved = torch.stack(known[1:]) - known[0]
        squares = moved.square().flatten(2).sum(2) if moved.dim() > 2 else moved.square()
        return squares.mean(0).sqrt()

    return Properties(*(rms(*fields) for fields in zip(*answers, strict=True)))


def _one(potential: Potential, atoms: Atoms) -> Properties:
    batch = collate_for(potential, [atoms])
    answer = split(potential(batch), batch)[0]
    energy, stress = answer.energy, answer.stress
    return Properties(None if energy is None else energy[None], answer.forces, None if stress is None else stress[None])


def _at_least_rounding(found: Properties, orbit: Orbit) -> Properties:
    """Not below the rounding of the numbers themselves, which a lucky scatter can miss, nor below `LEAST`."""

    def raised(field: Tensor | None, answers: Tensor | None) -> Tensor | None:
        if field is None or answers is None:
            return None
        return field.cpu().clamp(min=max(LEAST, 4 * torch.finfo(torch.float64).eps * float(answers.abs().max())))

    return Properties(*(raised(*pair) for pair in zip(found, orbit.properties, strict=True)))
