"""Rotations: which turns to ask about, with which weights, and up to which angular degree their mean is exact."""

from tumble.rotations.characters import character_sums, find
from tumble.rotations.nodes import GENERIC
from tumble.rotations.rule import ORTHOGONALITY, Rotations
from tumble.rotations.spec import GRAMMAR

__all__ = ["GENERIC", "GRAMMAR", "ORTHOGONALITY", "Rotations", "character_sums", "find"]
