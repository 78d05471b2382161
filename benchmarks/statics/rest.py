"""The crystal at the potential's own lattice constant: relaxed, strained, compressed."""

import math
from typing import NamedTuple

import numpy as np
from ase import Atoms

from statics.answers import Subject
from statics.compare import Array, Elastic
from tumble.jobs.elastic import ElasticSettings, elastic
from tumble.jobs.relax import RelaxSettings, relax
from tumble.potential import Potential


class AtRest(NamedTuple):
    """Lattice constant in Å, elastic constants, the part of them that symmetry forbids, and B of the volumes in GPa."""

    lattice: float
    elastic: Elastic
    forbidden_GPa: float
    bulk_of_volumes_GPa: float | None


def at_rest(potential: Potential, subject: Subject) -> AtRest:
    """Relax the primitive cell in its space group, then the elastic constants and equation of state there."""

    def compute() -> list[Array]:
        subject.tell("relaxation and elastic constants")
        cell = subject.engine.primitive
        start = Atoms(numbers=cell.numbers, scaled_positions=cell.scaled_positions, cell=cell.cell, pbc=True)
        relaxed = relax(potential, start, RelaxSettings(symmetry="keep", turns="none"))
        [crystal] = relaxed.atoms
        found = elastic(potential, crystal, ElasticSettings(average="none")).finding
        constants = found.standard(found.best.constants)
        state = found.state.best.bulk_GPa if found.state and found.state.fits else math.nan
        of_cell = [math.cbrt(4 * crystal.cell.volume), abs(found.measured.forbidden).max(), state]
        return [np.array([*of_cell, constants[0, 0], constants[0, 1], constants[3, 3]])]

    [numbers] = subject.kept(f"{subject.name}-{subject.weights}-rest", compute)
    lattice, forbidden, state, *three = (float(number) for number in numbers)
    return AtRest(lattice, Elastic(*three), forbidden, None if math.isnan(state) else state)
