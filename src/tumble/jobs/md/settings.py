"""What may be chosen for a simulation."""

from typing import Final, Literal, final

from pydantic import Field, field_validator, model_validator

from tumble.crystal import parse_rule
from tumble.results import Settings

NONE: Final = "none"
AUTO: Final = "auto"


@final
class MDSettings(Settings):
    """How a structure moves in time, what of it is kept, and when it is stopped."""

    ensemble: Literal["nve", "nvt", "npt"] = Field(
        "nvt", description="constant energy; constant temperature; constant temperature and pressure"
    )
    temperature_K: float = Field(300.0, gt=0, description="K, of the thermostat, and of velocities that are drawn")
    thermostat: Literal["svr", "langevin", "nhc"] = Field(
        "svr",
        description="svr: stochastic velocity rescaling, global, disturbs dynamics least; langevin: friction and noise "
        "on every atom, which direct forces need; nhc: a chain of Nosé–Hoover thermostats, deterministic",
    )
    thermostat_fs: float = Field(100.0, gt=0, description="fs, its time constant")
    pressure_GPa: float = Field(0.0, description="GPa, of the barostat")
    barostat: Literal["isotropic", "anisotropic"] = Field(
        "isotropic", description="whether the cell keeps its shape or every lattice vector moves"
    )
    barostat_fs: float = Field(1000.0, gt=0, description="fs, its time constant")
    timestep_fs: float = Field(
        0.5, gt=0, description="fs, the shortest step; with multiple time steps that of the fastest forces"
    )
    time_ps: float = Field(1.0, gt=0, description="ps, how long it runs in all; --resume with more goes on")
    average: str = Field(
        NONE,
        description="rule over rotations, such as O or I@generic, that the potential is averaged over; none: as it is",
    )
    mts: str = Field(
        NONE,
        description="multiple time steps: none; steps of the fast forces to one of the slow ones, such as 10; two such "
        "numbers, 4,5, for direct heads | raw | averaged; or auto, chosen from how the difference of the two forces "
        "varies in time. Fast is the raw potential where the one given is averaged, else its direct heads",
    )
    mts_heating_K_per_ns: float | None = Field(
        None,
        gt=0,
        description="K/ns, heating that auto may add; null: 5 at constant energy, and with a thermostat as much as one "
        "of its time constant holds within 0.1 K",
    )
    turns: Literal["none", "random"] = Field(
        NONE, description="random: the structure is turned at random at every step; unbiased, but heats: see theory"
    )
    velocities: Literal["auto", "given", "draw"] = Field(
        "auto", description="given: those of the file; draw: from the temperature; auto: given if there are any"
    )
    seed: int = Field(0, ge=0, description="of drawn velocities, thermostats and random turns")
    engine: Literal["ase", "torchsim", "i-pi", "lammps"] = Field(
        "ase",
        description="what takes the time steps: ase, one structure; torchsim, many structures side by side; i-pi, also "
        "ring polymers; lammps, by its Python module",
    )
    beads: int = Field(1, ge=1, description="of a ring polymer per atom, with i-pi; 1: classical nuclei")
    trajectory: Literal["extxyz", "h5md", "none"] = Field(
        "extxyz", description="format of the frames: for everyone, or small and fast (MDAnalysis reads it)"
    )
    frame_fs: float = Field(50.0, gt=0, description="fs between frames of the trajectory")
    log_fs: float = Field(5.0, gt=0, description="fs between lines of series.csv")
    restart_s: float = Field(30.0, gt=0, description="s of real time between restart files; one is written at the end")
    max_temperature_K: float | None = Field(
        None, gt=0, description="K, above which it is stopped as a runaway; null: 10 × the temperature, at least 3000"
    )
    min_distance: float = Field(
        0.5, ge=0, lt=1, description="of the sum of covalent radii, below which two atoms have collided; 0: not watched"
    )
    max_uncertainty: float | None = Field(
        None, gt=0, description="eV per atom, above which it is stopped as an extrapolation; null: not watched"
    )
    control: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="whether the drift is traced to model, integrator and rounding by short runs with half the step "
        "and in float64; auto: where they are a small part of the simulation",
    )
    max_minutes: float | None = Field(
        None, gt=0, description="of real time, after which it stops in good order; --resume goes on"
    )

    @field_validator("average")
    @classmethod
    def _is_rule(cls, spec: str) -> str:
        if spec != NONE:
            parse_rule(spec)
        return spec

    @field_validator("mts")
    @classmethod
    def _is_mts(cls, text: str) -> str:
        words = [word.strip() for word in text.split(",")]
        if text not in (NONE, AUTO) and not (len(words) <= 2 and all(w.isdigit() and int(w) >= 1 for w in words)):
            raise ValueError(
                f"{text!r} does not say how many fast steps there are to a slow one; none, auto, a number such as 10, "
                "or two such as 4,5 were expected. Correct it."
            )
        return ",".join(words)

    @model_validator(mode="after")
    def _fits_together(self) -> "MDSettings":
        if self.turns == "random" and self.mts != NONE:
            raise ValueError("turns are random and mts is set; a step is turned or split, not both. Leave one out.")
        if self.ensemble == "npt" and self.mts != NONE and self.engine != "i-pi":
            raise ValueError(
                f"constant pressure was asked for with mts {self.mts} and the engine {self.engine}, whose impulses "
                "know no pressure. Use nvt, leave mts out, or add --engine i-pi."
            )
        if self.beads > 1 and self.engine != "i-pi":
            raise ValueError(
                f"{self.beads} beads were asked for with the engine {self.engine}; ring polymers run with i-pi. "
                "Add --engine i-pi, or leave beads at 1."
            )
        return self

    @property
    def heating_allowed_K_per_ns(self) -> float:
        """What multiple time steps that are chosen may add."""
        if self.mts_heating_K_per_ns is not None:
            return self.mts_heating_K_per_ns
        return 5.0 if self.ensemble == "nve" else 0.1 * 1e6 / self.thermostat_fs

    @property
    def steps_of_levels(self) -> tuple[int, ...]:
        """Fast steps to one step of the next slower level, from fast to slow; empty without, or with auto."""
        return () if self.mts in (NONE, AUTO) else tuple(int(word) for word in self.mts.split(","))
