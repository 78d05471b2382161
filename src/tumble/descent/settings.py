"""What may be chosen for a walk downhill."""

from typing import Literal, final

from ase import Atoms
from pydantic import Field

from tumble.results import Settings


class Downhill(Settings):
    """How structures walk downhill, and when they have arrived. A job that does this and more adds its own settings."""

    fmax: float = Field(1e-4, gt=0, description="eV/Å, the largest force on an atom at which a structure is at rest")
    smax_GPa: float | None = Field(
        None,
        gt=0,
        description="GPa, the largest stress component at which a cell is at rest; null: fmax × 1 Å × atoms / volume",
    )
    cell: Literal["auto", "fixed", "all", "shape", "volume"] = Field(
        "fixed",
        description="what of the cell relaxes: nothing, all of it, its shape at constant volume, or its volume at "
        "constant shape; auto: all of it where it repeats in three directions",
    )
    pressure_GPa: float = Field(0.0, description="GPa, pressure from outside, where the volume relaxes")
    optimizer: Literal["auto", "fire", "lbfgs", "bfgs"] = Field(
        "auto",
        description="of ASE, without a line search; auto: FIRE where forces are not the derivative of the energy, else "
        "BFGS up to 60 atoms and L-BFGS above",
    )
    steps: int = Field(500, ge=0, description="after which a walk ends, at rest or not")
    max_step: float = Field(0.1, gt=0, le=1.0, description="Å, the longest step; of an atom, with FIRE of all together")
    net_force: Literal["keep", "remove"] = Field(
        "keep",
        description="what becomes of a net force and, where nothing repeats, of a torque, which broken symmetry "
        "leaves: remove takes from every atom what moves the whole",
    )
    patience: int = Field(
        40,
        ge=5,
        description="steps without a smaller force, at energies that differ by rounding, after which it is stuck",
    )
    frames: int = Field(100, ge=2, description="of a walk that are kept at most; a longer one is thinned evenly")

    def cell_of(self, atoms: Atoms) -> str:
        """What of the cell of a structure relaxes: "fixed", "all", "shape" or "volume"."""
        if self.cell != "auto":
            return self.cell
        return "all" if atoms.pbc.all() else "fixed"


@final
class Descent(Downhill):
    """The settings of `descend` and nothing else."""
