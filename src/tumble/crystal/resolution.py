"""What a rule that measures over rotations sees of a structure with a given point group."""

from dataclasses import dataclass
from typing import Final

from tumble.crystal.point import PointGroup
from tumble.rotations import Rotations, character_sums

RESOLVED: Final = 0.5
"""Smallest share of the lowest anisotropic channel's variance that a measuring rule must capture."""


@dataclass(frozen=True)
class Resolution:
    """What a measuring rule sees of a structure.

    n_distinct: orientations of the structure among the nodes, symmetry-equivalent ones counted once.
    lowest:     the lowest ℓ >= 1 that the structure's symmetry allows; None for an isolated atom.
    captured:   expected variance over the nodes / true variance of a function of that channel; it should be 1.
    """

    n_distinct: int
    lowest: int | None
    captured: float


def resolution(rotations: Rotations, group: PointGroup) -> Resolution:
    """What a rule sees of a structure with this point group."""
    n_distinct, lowest = distinct_orientations(rotations, group), group.lowest_channel()
    if lowest is None or rotations.degree >= lowest:
        return Resolution(n_distinct, lowest, 1.0)
    allowed, operations = group.channels(lowest)[:, lowest], group.sampled(lowest)
    # u(Q h) = u(Q), so two nodes see values that correlate as Σ_h χ(Q_r h Q_s⁻¹); their mean is what no spread shows.
    nodes = (rotations.matrices[:, None] @ operations[None]).reshape(-1, 3, 3)
    weights = (rotations.weights / len(operations)).repeat_interleave(len(operations))[:, None]
    common = character_sums(nodes, weights, rotations.matrices, rotations.weights[:, None], lowest)[:, lowest, 0]
    captured = 1 - common[allowed > 0] / allowed[allowed > 0]
    return Resolution(n_distinct, lowest, max(0.0, float(captured.min())))


def check_resolution(rotations: Rotations, group: PointGroup) -> Resolution:
    """The same, refusing a rule that would report a spread where it cannot see one.

    Raises:
        ValueError: the rule captures less than `RESOLVED` of the lowest channel that the structure allows.
    """
    seen = resolution(rotations, group)
    if seen.captured < RESOLVED:
        remedy = f'"{rotations.name}@generic"' if "@" not in rotations.name else f'"o3:{seen.lowest}@generic"'
        raise ValueError(
            f"the rule {rotations.name} ({len(rotations)} rotations) sees only {seen.n_distinct} distinct orientations "
            f"of this structure and captures {100 * seen.captured:.0f} % of its lowest anisotropic channel, "
            f"l = {seen.lowest}; at least {100 * RESOLVED:.0f} % is needed, or the spread is not measured but missed. "
            f"Turn the rule out of the structure's frame: {remedy}, or Rotations.generic()."
        )
    return seen


def distinct_orientations(rotations: Rotations, group: PointGroup) -> int:
    """How many cosets Q P the nodes of a rule fall into: orientations that the structure's symmetry tells apart."""
    left = rotations.matrices
    count = 0
    while len(left):
        left = left[1:][~group.contains(left[0].T @ left[1:])]
        count += 1
    return count
