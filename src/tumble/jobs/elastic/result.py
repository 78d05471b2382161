"""What was found about the elasticity of a crystal."""

from dataclasses import dataclass
from typing import Self, final

import numpy as np
from ase import Atoms

from tumble.jobs.elastic.figures import figures
from tumble.jobs.elastic.finding import Finding
from tumble.jobs.elastic.settings import ElasticSettings
from tumble.jobs.elastic.tables import tables
from tumble.jobs.elastic.verdicts import judge
from tumble.results import Fact, Result, Verdict

CITATIONS = (
    "F. Mouhat, F.-X. Coudert, Necessary and sufficient elastic stability conditions in various crystal systems, "
    "Phys. Rev. B 90, 224104 (2014), doi:10.1103/PhysRevB.90.224104.",
    "R. Hill, The elastic behaviour of a crystalline aggregate, Proc. Phys. Soc. A 65, 349 (1952), "
    "doi:10.1088/0370-1298/65/5/307.",
    "S. I. Ranganathan, M. Ostoja-Starzewski, Universal elastic anisotropy index, Phys. Rev. Lett. 101, 055504 (2008), "
    "doi:10.1103/PhysRevLett.101.055504.",
)

CITATIONS_OF_STATE = (
    "F. Birch, Finite elastic strain of cubic crystals, Phys. Rev. 71, 809 (1947), doi:10.1103/PhysRev.71.809.",
    "P. Vinet, J. R. Smith, J. Ferrante, J. H. Rose, Temperature effects on the universal equation of state of solids, "
    "Phys. Rev. B 35, 1945 (1987), doi:10.1103/PhysRevB.35.1945.",
)


@final
@dataclass(frozen=True, eq=False)
class ElasticResult(Result):
    """Elastic constants of a crystal with their symmetry error, and its equation of state.

    finding: every number, by name.
    arrays:  constants_raw, _plusminus, _projected, _averaged, _clamped and what is forbidden of them, (6, 6) GPa.
    atoms:   the crystal.

    Constants are in the axes of the file; the array `axes`, a rotation (3, 3), leads into the standard ones. With an
    equation of state there are also volumes_A3, energies and pressures_GPa.
    """

    title: str
    settings: ElasticSettings
    finding: Finding
    arrays: dict[str, np.ndarray]
    atoms: list[Atoms]
    subject: dict[str, str]
    citations: tuple[str, ...] = CITATIONS
    job: str = "elastic"

    @classmethod
    def of(cls, settings: ElasticSettings, subject: dict[str, str], finding: Finding) -> Self:
        """Put what was found together."""
        title = f"{subject['name']} on {finding.atoms.get_chemical_formula()}, {finding.group}"
        citations = CITATIONS + (CITATIONS_OF_STATE if finding.state is not None else ())
        return cls(title, settings, finding, _arrays(finding), [finding.atoms], subject, citations)

    @property
    def constants_GPa(self) -> np.ndarray:
        """Elastic constants (6, 6) GPa that symmetry allows, in the axes of the file."""
        return self.finding.best.constants

    @property
    def is_converged(self) -> bool:
        """Whether ions are at rest in every cell."""
        return not self.finding.lost

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether the constants are symmetric, the crystal is stable, energies and stress agree."""
        return judge(self.finding, self.settings)

    def facts(self) -> tuple[Fact, ...]:
        """Figures, then tables."""
        return (*figures(self.finding), *tables(self.finding, self.settings))


def _arrays(finding: Finding) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {"axes": finding.axes}
    for way in (*finding.ways, finding.clamped):
        name = "plusminus" if way.name == "±" else way.name
        arrays |= {f"constants_{name}_GPa": way.constants, f"forbidden_{name}_GPa": way.forbidden}
    if finding.state is not None:
        state = finding.state
        arrays |= {"volumes_A3": state.volumes, "energies": state.energies, "pressures_GPa": state.pressures_GPa}
    return arrays
