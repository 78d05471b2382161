"""Exact symmetry of a structure: its space group, what that forbids, and what it means for rules over rotations."""

from tumble.crystal.point import SAME_ORIENTATION, PointGroup
from tumble.crystal.resolution import RESOLVED, Resolution, check_resolution, distinct_orientations, resolution
from tumble.crystal.rules import Aligned, cosets, parse_rule
from tumble.crystal.search import find_operations, point_operations, space_group
from tumble.crystal.space import SpaceGroup

__all__ = [
    "RESOLVED",
    "SAME_ORIENTATION",
    "Aligned",
    "PointGroup",
    "Resolution",
    "SpaceGroup",
    "check_resolution",
    "cosets",
    "distinct_orientations",
    "find_operations",
    "parse_rule",
    "point_operations",
    "resolution",
    "space_group",
]
