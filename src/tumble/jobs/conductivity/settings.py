"""What may be chosen for thermal conductivity, and what counts as good enough."""

from typing import Final, Literal

from pydantic import Field, field_validator

from tumble.crystal import parse_rule
from tumble.results import Settings

Repair = Literal["raw", "plusminus", "projected", "averaged"]
REPAIRS: Final[tuple[Repair, ...]] = ("raw", "plusminus", "projected", "averaged")
"""From the least to the most: each one does what those before it do, and more."""

Kind = Literal["rta", "wigner", "direct"]


class ConductivitySettings(Settings):
    """How a thermal conductivity is computed. The same names are YAML keys and flags."""

    kind: Kind = Field(
        "rta",
        description="rta: relaxation times; wigner: the same, with the coherence of modes of one wave vector; direct: "
        "the collision matrix of the linearised Boltzmann equation",
    )
    repairs: tuple[Repair, ...] = Field(
        ("raw", "plusminus", "projected"),
        min_length=1,
        description="what is put side by side: raw, plusminus (±), projected, averaged; the last one is the result. "
        "averaged costs as many times the calls of the others as the rule has orientations",
    )
    average: str = Field("O@generic", description="rule over rotations that averaged takes the mean over")
    turns: int = Field(
        1,
        ge=0,
        description="generic orientations of the crystal in which the result is computed again, and where it is "
        "averaged the repair before it too; what they change by is their symmetry error",
    )
    isotopes: bool = Field(False, description="scattering by the natural isotopes too")
    boundary_um: float | None = Field(
        None, gt=0, description="µm, longest mean free path, as boundaries would leave it; none: no boundaries"
    )
    temperatures_K: tuple[float, ...] = Field((100, 200, 300, 400, 500, 600, 700, 800, 900, 1000), description="K")
    mesh: tuple[int, int, int] | None = Field(
        None, description="wave vectors along each reciprocal vector of the primitive cell; none: from the length"
    )
    mesh_A: float = Field(
        40.0, gt=0, description="Å, length of the crystal that the mesh of wave vectors corresponds to"
    )
    half_mesh: bool = Field(True, description="the result once more with about half the mesh, to see what it leaves")
    supercell: tuple[int, int, int] | None = Field(
        None, description="copies of the given cell along each vector, for third order; none: from the width"
    )
    supercell_fc2: tuple[int, int, int] | None = Field(
        None, description="the same for second order; none: that of third order, whose displacements serve both"
    )
    width_A: float | None = Field(
        None, gt=0, description="Å, least width of the supercell; none: 10, or twice the cutoff if that is more"
    )
    max_atoms: int = Field(300, ge=1, description="largest supercell that is chosen from a width")
    force: bool = Field(False, description="accept a supercell that is too small for the cutoff")
    displacement_A: float = Field(0.03, gt=0, description="Å, how far atoms are displaced")
    back: Literal["always", "auto"] = Field(
        "always",
        description="whether atoms are displaced back too for projected and averaged: always, or auto: where symmetry "
        "does not make it equal. plusminus always does, raw never",
    )
    cutoff_pair_A: float | None = Field(
        None, gt=0, description="Å, pairs of atoms farther apart are not displaced together; none: all are"
    )
    solver: Literal["differences", "symfc"] = Field(
        "differences",
        description="projected force constants: finite differences, then projected on what symmetry allows by symfc; "
        "or fitted within that by symfc",
    )
    average_degenerate: bool = Field(
        True,
        description="average weights over degenerate modes, so that the choice of their eigenvectors, which rounding "
        "makes, does not change the conductivity",
    )
    nac: str | None = Field(None, description="BORN file of phonopy: Born charges and dielectric constant")
    fmax: float = Field(
        1e-3,
        gt=0,
        description="eV/Å, largest force that a structure at rest may have, but for what its symmetry forbids",
    )
    symprec: float = Field(1e-3, gt=0, description="Å, tolerance in the search for the symmetry, which is made exact")
    dtype: Literal["float64", "as is"] = Field(
        "float64", description="precision of the forces: a float64 copy of the potential, or the potential as it is"
    )
    imaginary_THz: float = Field(
        0.01, ge=0, description="THz, an imaginary acoustic mode at Γ of less is taken for zero; elsewhere none is"
    )
    reference: str | None = Field(
        None,
        description="conductivities to compare with: JSON (FILE.json, or FILE.json#ENTRY of several), npz or HDF5, "
        "with those of modes for SRME",
    )
    share: float = Field(
        0.05, gt=0, description="largest change of the conductivity by broken symmetry that is good enough"
    )
    floor_factor: float = Field(
        3.0, ge=1, description="a change below this multiple of the precision floor is rounding, not broken symmetry"
    )

    @field_validator("average")
    @classmethod
    def _is_rule(cls, spec: str) -> str:
        parse_rule(spec)
        return spec

    @field_validator("repairs")
    @classmethod
    def _are_ordered(cls, repairs: tuple[Repair, ...]) -> tuple[Repair, ...]:
        return tuple(one for one in REPAIRS if one in repairs)

    @field_validator("mesh", "supercell", "supercell_fc2")
    @classmethod
    def _is_positive(cls, counts: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        if counts is not None and min(counts) < 1:
            raise ValueError(f"{counts} was asked for; three whole numbers, 1 or more, were expected.")
        return counts

    @field_validator("temperatures_K")
    @classmethod
    def _are_temperatures(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if not temperatures or min(temperatures) <= 0 or len(set(temperatures)) < len(temperatures):
            raise ValueError(f"the temperatures are {temperatures} K; different ones above 0 were expected.")
        return tuple(sorted(temperatures))


PHONONDB_V1 = ConductivitySettings(
    kind="wigner",
    repairs=("projected",),
    turns=0,
    isotopes=True,
    boundary_um=1e6,
    temperatures_K=(300.0,),
    half_mesh=False,
    back="auto",
    average_degenerate=False,
    force=True,
    fmax=1e-2,
    symprec=1e-5,
)
"""What matbench-discovery's phonondb benchmark computes; supercells and mesh are those of each entry of it."""
