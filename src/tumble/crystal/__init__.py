"""Exact symmetry of a structure: its space group, what that forbids, and what it means for rules over rotations."""

from tumble.crystal.ideal import ideal
from tumble.crystal.point import SAME_ORIENTATION, PointGroup
from tumble.crystal.resolution import RESOLVED, Resolution, check_resolution, distinct_orientations, resolution
from tumble.crystal.rules import Aligned, cosets, parse_rule
from tumble.crystal.search import find_operations, point_operations, space_group
from tumble.crystal.space import SpaceGroup
from tumble.crystal.standard import Group, group_of, groups_at, standardised
from tumble.crystal.supercell import check_width, multiples_for, widths

__all__ = [
    "RESOLVED",
    "SAME_ORIENTATION",
    "Aligned",
    "Group",
    "PointGroup",
    "Resolution",
    "SpaceGroup",
    "check_resolution",
    "check_width",
    "cosets",
    "distinct_orientations",
    "find_operations",
    "group_of",
    "ideal",
    "multiples_for",
    "parse_rule",
    "point_operations",
    "resolution",
    "groups_at",
    "space_group",
    "standardised",
    "widths",
]
