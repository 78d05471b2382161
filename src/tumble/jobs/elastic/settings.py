"""What may be chosen for elastic constants and an equation of state, and what counts as good enough."""

from typing import Final, Literal

from pydantic import Field, field_validator

from tumble.crystal import parse_rule
from tumble.results import Settings

NONE: Final = "none"
"""The rule that leaves the averaged potential out."""

FEWEST: Final = 6
"""Volumes that an equation of state with four unknowns needs, so that something is left to judge it by."""


class ElasticSettings(Settings):
    """How a crystal is strained. The same names are YAML keys and flags."""

    strains: tuple[float, ...] = Field(
        (0.0025, 0.005),
        min_length=1,
        description="amplitudes of the six strains, both signs; of several the differences are extrapolated to zero, "
        "of one what is not linear is taken for forbidden too",
    )
    average: str = Field(
        "O@generic", description="rule that the potential is also averaged over, such as O or I@crystal; none"
    )
    volumes: int = Field(9, ge=0, description="points of the equation of state; 0 leaves it out")
    volume_change: float = Field(0.06, gt=0, le=0.5, description="largest change of the volume, as a share of it")
    fmax: float = Field(
        0.005, gt=0, description="eV/Å, the largest force that the structure may have, but for what symmetry forbids"
    )
    ions_fmax: float = Field(1e-5, gt=0, description="eV/Å, the force to which ions are relaxed in each strained cell")
    steps: int = Field(500, ge=1, description="most steps of the relaxation of ions in a strained cell")
    optimizer: Literal["auto", "fire", "lbfgs", "bfgs"] = Field(
        "auto", description="of the ions; auto: FIRE where forces are no derivative, else L-BFGS"
    )
    symprec: float = Field(1e-3, gt=0, description="Å, tolerance in the search for the symmetry of the structure")
    dtype: Literal["float64", "as is"] = Field("float64", description="float64 takes a copy of the potential to it")
    floor_factor: float = Field(
        3.0, ge=1, description="what is below this multiple of the noise floor is rounding, not broken symmetry"
    )
    elastic_share: float = Field(
        0.02, gt=0, description="forbidden part of the elastic constants as a share of them (Frobenius norms)"
    )
    fit_share: float = Field(
        0.01, gt=0, description="rms residual of the fitted energies as a share of their range over the volumes"
    )
    bulk_share: float = Field(
        0.05, gt=0, description="bulk modulus of the better fit against that of the constants, as a share of the latter"
    )
    pressure_share: float = Field(
        0.02, gt=0, description="pressure from the stress less that from the energy, rms, as a share of their range"
    )

    @field_validator("strains")
    @classmethod
    def _are_small(cls, strains: tuple[float, ...]) -> tuple[float, ...]:
        if not all(1e-5 <= one <= 0.05 for one in strains) or len(set(strains)) < len(strains):
            raise ValueError(
                f"strains are {', '.join(f'{one:g}' for one in strains)}; different ones from 1e-5 to 0.05 were "
                "expected. Below, rounding decides; above, the answer is far from linear."
            )
        return tuple(sorted(strains))

    @field_validator("average")
    @classmethod
    def _is_rule(cls, spec: str) -> str:
        if spec != NONE:
            parse_rule(spec)
        return spec

    @field_validator("volumes")
    @classmethod
    def _are_enough(cls, volumes: int) -> int:
        if 0 < volumes < FEWEST:
            raise ValueError(
                f"{volumes} volumes cannot judge an equation of state with 4 unknowns; 0 or at least {FEWEST} were "
                "expected."
            )
        return volumes
