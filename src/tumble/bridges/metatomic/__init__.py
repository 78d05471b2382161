"""metatomic, to and fro: an exported model as a Potential, and a potential of ours as an exported model."""

from tumble.bridges.metatomic.export import interaction_range, write
from tumble.bridges.metatomic.potential import Metatomic, describe, digest, from_reference
from tumble.bridges.metatomic.verified import TOLERANCE, deviation

__all__ = [
    "TOLERANCE",
    "Metatomic",
    "describe",
    "deviation",
    "digest",
    "from_reference",
    "interaction_range",
    "write",
]
