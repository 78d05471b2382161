"""What may be chosen for a relaxation."""

from typing import Literal, final

from ase import Atoms
from pydantic import Field, field_validator

from tumble.descent import Downhill
from tumble.rotations import Rotations

NO_TURNS = "none"


@final
class RelaxSettings(Downhill):
    """How structures are relaxed, and what becomes of their symmetry."""

    cell: Literal["auto", "fixed", "all", "shape", "volume"] = Field(
        "auto",
        description="what of the cell relaxes: nothing, all of it, its shape at constant volume, or its volume at "
        "constant shape; auto: all of it where it repeats in three directions",
    )
    symmetry: Literal["auto", "free", "keep", "find"] = Field(
        "auto",
        description="free: as the forces go; keep: in the space group of the start; find: free, then again in the "
        "group that is found, and a verdict on which of the two is right; auto: find for crystals, free for the rest",
    )
    symprec: float = Field(1e-2, gt=0, description="Å, tolerance of the group that keep keeps")
    standard_A: float = Field(1e-3, gt=0, description="Å, tolerance of the standard cell of the result")
    plateau: float = Field(
        4.0,
        gt=1,
        description="times by which the tolerance may grow without another group being found, for find to take a group "
        "seriously",
    )
    physical: float = Field(
        3.0, ge=1, description="E(symmetric) − E(free) above this multiple of its noise is a physical distortion"
    )
    artefact: float = Field(
        1.0, ge=0, description="E(symmetric) − E(free) below this multiple of its noise is an artefact of the potential"
    )
    turns: str = Field(
        "T@generic", description="rule over rotations by which noise is measured; none: it is not measured"
    )
    dtype: Literal["float64", "as is"] = Field(
        "float64", description="precision of the answers; as is: that of the potential"
    )

    @field_validator("turns")
    @classmethod
    def _is_rule(cls, spec: str) -> str:
        if spec != NO_TURNS:
            Rotations.parse(spec)
        return spec

    def symmetry_of(self, atoms: Atoms) -> str:
        """What becomes of the symmetry of a structure: "free", "keep" or "find"."""
        if self.symmetry != "auto":
            return self.symmetry
        return "find" if atoms.pbc.all() else "free"
