"""What may be chosen for phonons."""

from typing import Literal

from pydantic import Field, field_validator

from tumble.crystal import parse_rule
from tumble.results import Settings


class PhononsSettings(Settings):
    """How phonons are computed and judged. The same names are YAML keys and flags."""

    fmax: float = Field(
        1e-3,
        gt=0,
        description="eV/Å, largest force that a structure at rest may have; of a symmetric structure the part that its "
        "symmetry allows, the rest is an error of the potential and is reported",
    )
    symprec: float = Field(1e-3, gt=0, description="Å, tolerance in the search for the symmetry, which is made exact")
    dtype: Literal["float64", "as is"] = Field(
        "float64", description="precision of the forces: a float64 copy of the potential, or the potential as it is"
    )
    displacement_A: float = Field(0.01, gt=0, description="Å, how far atoms are displaced; each one forth and back")
    scan_A: tuple[float, ...] = Field(
        (), description="Å, more displacements whose frequencies are compared with those of the first"
    )
    displacements: Literal["auto", "all", "reduced"] = Field(
        "auto",
        description="all: every atom of the primitive cell along x, y, z, which shows what symmetry forbids; reduced: "
        "those that symmetry does not make equal, which hides it; auto: all if the budget allows",
    )
    budget: int = Field(360, ge=1, description="displaced supercells that all displacements may take")
    supercell: tuple[int, int, int] | None = Field(
        None, description="copies of the given cell along each vector; none: from the width"
    )
    width_A: float | None = Field(
        None, gt=0, description="Å, least width of the supercell; none: 10, or twice the cutoff if that is more"
    )
    max_atoms: int = Field(500, ge=1, description="largest supercell that is chosen; never one below twice the cutoff")
    force: bool = Field(False, description="accept a supercell that is too small for the cutoff")
    average: str = Field(
        "O@generic",
        description="rule over rotations for the averaged potential that is put beside the others; none: leave out",
    )
    path: tuple[str, ...] = Field(
        (),
        description="corners of the path through the Brillouin zone: labels of seekpath, or 'LABEL x y z' in the basis "
        "of the primitive reciprocal lattice; '|' begins anew; none: the whole path of seekpath",
    )
    points: int = Field(200, ge=2, description="wave vectors along the path")
    mesh_A: float = Field(
        60.0, gt=0, description="Å, length of the crystal that the mesh of wave vectors corresponds to"
    )
    smearing_THz: float | None = Field(
        None, gt=0, description="THz, width of the Gaussians of the density of states; none: 1 % of the highest mode"
    )
    temperatures_K: tuple[float, ...] = Field(
        (0.0, 100.0, 200.0, 300.0, 500.0, 1000.0), description="K, rows of the table of thermal properties"
    )
    nac: str | None = Field(
        None,
        description="file with Born charges and dielectric constant: BORN of phonopy, or YAML or JSON with born "
        "(n, 3, 3) and dielectric (3, 3) for the atoms of the primitive cell",
    )
    imaginary_THz: float = Field(0.05, ge=0, description="THz, an imaginary mode of less is taken for zero")
    threshold_THz: float = Field(
        0.05, gt=0, description="THz, largest error of a frequency by forbidden force constants that is good enough"
    )
    floor_factor: float = Field(
        3.0, ge=1, description="an error below this multiple of the precision floor is rounding, not broken symmetry"
    )

    @field_validator("average")
    @classmethod
    def _is_rule(cls, spec: str) -> str:
        if spec != "none":
            parse_rule(spec)
        return spec

    @field_validator("supercell")
    @classmethod
    def _is_positive(cls, counts: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        if counts is not None and min(counts) < 1:
            raise ValueError(f"a supercell of {counts} copies was asked for; at least 1 along each was expected.")
        return counts

    @field_validator("temperatures_K")
    @classmethod
    def _are_temperatures(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if not temperatures or min(temperatures) < 0:
            raise ValueError(f"the temperatures are {temperatures} K; at least one, none below 0, was expected.")
        return temperatures

    @field_validator("scan_A")
    @classmethod
    def _are_displacements(cls, lengths: tuple[float, ...]) -> tuple[float, ...]:
        if lengths and min(lengths) <= 0:
            raise ValueError(f"the displacements to scan are {lengths} Å; lengths above 0 were expected.")
        return lengths
