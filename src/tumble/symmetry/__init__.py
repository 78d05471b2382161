"""A potential made symmetric, a Potential again: averaged over rotations, or projected on the space group."""

from tumble.symmetry.averaged import PRUNING_TOLERANCE, Symmetrized
from tumble.symmetry.choice import Candidate, Choice, choose
from tumble.symmetry.levels import directly, levels
from tumble.symmetry.projected import Projected
from tumble.symmetry.tolerance import Tolerance
from tumble.symmetry.turned import Turned
from tumble.symmetry.verb import symmetrize

__all__ = [
    "PRUNING_TOLERANCE",
    "Candidate",
    "Choice",
    "Projected",
    "Symmetrized",
    "Tolerance",
    "Turned",
    "choose",
    "directly",
    "levels",
    "symmetrize",
]
