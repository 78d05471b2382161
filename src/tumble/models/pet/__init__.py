"""PET, the Point Edge Transformer: unconstrained, exactly invariant to translations and permutations, not to rotations.

Source: Pozdnyakov, Ceriotti, NeurIPS 36 (2023), arXiv:2305.19302; Bigi et al. (2026), arXiv:2601.16195.
"""

from tumble.models.pet.adapt import add_lora, has_lora, merged, with_direct, with_species, without_direct
from tumble.models.pet.edges import Edges, adaptive_cutoffs, bump, cosine, edges_of
from tumble.models.pet.levels import Levels
from tumble.models.pet.model import PET
from tumble.models.pet.settings import LongRange, PETSettings
from tumble.models.pet.uncertainty import LLPR

__all__ = [
    "LLPR",
    "PET",
    "Edges",
    "Levels",
    "LongRange",
    "PETSettings",
    "adaptive_cutoffs",
    "add_lora",
    "bump",
    "cosine",
    "edges_of",
    "has_lora",
    "merged",
    "with_direct",
    "with_species",
    "without_direct",
]
