"""What may be chosen for an audit, and what counts as good enough."""

from typing import Any

from pydantic import Field, field_validator

from tumble.jobs.audit.tasks import KEYS, parse
from tumble.results import Settings
from tumble.rotations import Rotations

AUTO = "auto"
"""The finest rule of a fixed ladder that the budget allows."""


class Thresholds(Settings):
    """The largest numbers that are good enough, task by task."""

    molecule_kT: float = Field(
        0.1, gt=0, description="standard deviation over orientations of the energy of a molecule, in k_B T"
    )
    energy_meV_per_atom: float = Field(
        1.0, gt=0, description="rotational spread of the energy, meV/atom; used where there are no energy labels"
    )
    force_meV_per_A: float = Field(
        10.0,
        gt=0,
        description="rotational spread of a force component, meV/Å, in dynamics; used where there are no force labels",
    )
    relax_meV_per_A: float = Field(
        5.0, gt=0, description="rotational spread of the force on the worst atom, meV/Å, in a relaxation to 10 meV/Å"
    )
    stress_GPa: float = Field(
        0.1, gt=0, description="rotational spread of a stress component, GPa, in a relaxation of the cell"
    )
    symprec_A: float = Field(
        1e-3,
        gt=0,
        description="Å by which forbidden forces would move an atom of a relaxed crystal, or forbidden stress its cell",
    )
    elastic_share: float = Field(
        0.02, gt=0, description="forbidden part of the elastic constants as a share of them (Frobenius norms)"
    )
    frequency_THz: float = Field(
        0.05,
        gt=0,
        description="shift of a phonon frequency by forbidden force constants, THz, and its scatter over orientations",
    )
    conductivity_share: float = Field(
        0.005, gt=0, description="forbidden part of the force constants as a share of them, for thermal conductivity"
    )
    force_gap: float = Field(1e-3, gt=0, description="rms(F + dE/dx) / rms(dE/dx), in dynamics at constant energy")
    drift_K_per_ns: float = Field(
        10.0, gt=0, description="estimated heating at constant energy by forces that are no gradient, K/ns"
    )
    jump_meV: float = Field(
        1.0, gt=0, description="energy that is not the work of the forces as atoms cross the cutoff, meV"
    )
    share_of_error: float = Field(
        1 / 3, gt=0, description="spread / error against the labels, where there are labels; 1/3 adds 5 % to the error"
    )


class AuditSettings(Settings):
    """How an audit measures. The same names are YAML keys and flags."""

    tasks: tuple[str, ...] = Field(
        (),
        description=f"what the potential is for, and so what is measured: {', '.join(KEYS)}; none: all of them",
        json_schema_extra={"also": "for"},
    )
    rotations: str = Field(
        AUTO, description="measuring rule, such as o3:8@generic; auto: the finest that the budget allows"
    )
    budget: float = Field(
        1e7,
        gt=0,
        description="pair evaluations (pairs × calls) that the measuring rules of all structures together may take, "
        "and as many again for force constants",
    )
    remedies: tuple[str, ...] = Field(
        ("T", "Th", "O", "Oh", "I", "Ih"), description="rules for averaging whose cost and residual are looked at"
    )
    temperature_K: float = Field(300.0, gt=0, description="temperature for orientational free energies and drift")
    symprec: float = Field(1e-3, gt=0, description="Å, tolerance in the search for the symmetry of a structure")
    floor_factor: float = Field(
        3.0, ge=1, description="a spread below this multiple of the precision floor is rounding, not broken symmetry"
    )
    thresholds: Thresholds = Field(Thresholds(), description="what is good enough")

    @field_validator("tasks", mode="before")
    @classmethod
    def _are_tasks(cls, keys: Any) -> Any:
        return parse([keys] if isinstance(keys, str) else list(keys))

    @field_validator("rotations")
    @classmethod
    def _is_rule(cls, spec: str) -> str:
        if spec != AUTO:
            Rotations.parse(spec)
        return spec

    @field_validator("remedies")
    @classmethod
    def _are_rules(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        for spec in specs:
            Rotations.parse(spec)
        return specs


AUDIT_V1 = AuditSettings()
"""The protocol that published numbers cite, with its digest."""
