"""What a simulation found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, final

import numpy as np
from ase import Atoms

from tumble.jobs.md.figures import figures
from tumble.jobs.md.finding import Finding
from tumble.jobs.md.settings import MDSettings
from tumble.jobs.md.tables import tables
from tumble.jobs.md.verdicts import judge
from tumble.results import Curve, Fact, Heat, Result, Series, Table, Verdict

ASE = (
    "A. Hjorth Larsen et al., The atomic simulation environment, J. Phys.: Condens. Matter 29, 273002 (2017), "
    "doi:10.1088/1361-648X/aa680e."
)
SVR = "G. Bussi, D. Donadio, M. Parrinello, J. Chem. Phys. 126, 014101 (2007), doi:10.1063/1.2408420."
LANGEVIN = "G. Bussi, M. Parrinello, Phys. Rev. E 75, 056707 (2007), doi:10.1103/PhysRevE.75.056707."
CHAINS = "G. J. Martyna, M. L. Klein, M. Tuckerman, J. Chem. Phys. 97, 2635 (1992), doi:10.1063/1.463940."
BAROSTAT = "G. J. Martyna, D. J. Tobias, M. L. Klein, J. Chem. Phys. 101, 4177 (1994), doi:10.1063/1.467468."
MTS = "M. Tuckerman, B. J. Berne, G. J. Martyna, J. Chem. Phys. 97, 1990 (1992), doi:10.1063/1.463137."
DIRECT = "F. Bigi, M. F. Langer, M. Ceriotti, The dark side of the forces, arXiv:2412.11569 (2024)."
TURNS = (
    "M. F. Langer, S. N. Pozdnyakov, M. Ceriotti, Probing the effects of broken symmetries in machine learning, Mach. "
    "Learn.: Sci. Technol. 5, 04LT01 (2024), doi:10.1088/2632-2153/ad86a0."
)


@final
@dataclass(frozen=True, eq=False)
class MDResult(Result):
    """A simulation, and what it says about itself.

    finding: all of it.
    arrays:  columns of series.csv, (K,) each; of several structures, averages over them.
    atoms:   the last frames, with momenta.
    stored:  series.csv and the trajectory, where they were not written into a folder of the user's.
    """

    title: str
    settings: MDSettings
    finding: Finding
    arrays: dict[str, np.ndarray]
    atoms: list[Atoms]
    subject: dict[str, str]
    citations: tuple[str, ...] = ()
    stored: Mapping[str, bytes] = field(default_factory=dict)
    job: str = "md"

    @classmethod
    def of(
        cls,
        settings: MDSettings,
        subject: dict[str, str],
        finding: Finding,
        stored: Mapping[str, bytes] | None = None,
    ) -> Self:
        """Put it together."""
        title = f"{finding.time_ps:.4g} ps of {finding.name} with {subject['name']}, {settings.ensemble.upper()}"
        atoms = []
        for one in finding.atoms:
            atoms.append(one.copy())
            atoms[-1].info = {"time_ps": finding.time_ps}
        cited = _citations(settings, finding)
        return cls(title, settings, finding, finding.series, atoms, subject, cited, dict(stored or {}))

    @property
    def is_converged(self) -> bool:
        """Whether the watch had nothing to say."""
        return self.finding.run.ended != "watch"

    @property
    def is_interrupted(self) -> bool:
        """Whether a signal ended it before its time."""
        return self.finding.run.ended == "interrupted"

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether it went on, what was conserved, and whether all elements are equally hot."""
        return judge(self.finding, self.settings)

    def facts(self) -> tuple[Fact, ...]:
        """Tables, then figures, then how time steps were chosen."""
        return (*tables(self.finding, self.settings), *figures(self.finding, self.settings), *self.finding.choice)

    def files(self) -> Mapping[str, bytes]:
        """The series and the trajectory, where no folder has them yet."""
        return self.stored


def read_facts(stored: Sequence[Mapping[str, Any]]) -> tuple[Fact, ...]:
    """Facts from plain values, as `dataclasses.asdict` made them, with their class under "fact"."""
    kinds: dict[str, Any] = {"Table": Table, "Curve": Curve, "Heat": Heat}
    facts = []
    for one in stored:
        fields = {name: value for name, value in one.items() if name != "fact"}
        if one["fact"] == "Curve":
            fields["series"] = [Series(**series) for series in fields["series"]]
        facts.append(kinds[one["fact"]](**fields))
    return tuple(facts)


def _citations(settings: MDSettings, finding: Finding) -> tuple[str, ...]:
    baths = {"svr": SVR, "langevin": LANGEVIN, "nhc": CHAINS}
    cited = [ASE] if settings.engine == "ase" else []
    cited += [baths[settings.thermostat]] if settings.ensemble != "nve" else []
    cited += [BAROSTAT] if settings.ensemble == "npt" else []
    cited += [MTS] if finding.steps else []
    cited += [DIRECT] if not finding.is_fast_gradient else []
    cited += [TURNS] if settings.turns != "none" or settings.average != "none" else []
    return tuple(cited)
