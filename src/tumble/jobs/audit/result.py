"""What an audit found."""

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
from ase import Atoms

from tumble.batch import Properties
from tumble.jobs.audit.figures import figures
from tumble.jobs.audit.settings import AuditSettings
from tumble.jobs.audit.survey import Finding
from tumble.jobs.audit.tables import tables
from tumble.jobs.audit.verdicts import judge
from tumble.results import Fact, Result, Verdict

CITATIONS = (
    "M. F. Langer, S. N. Pozdnyakov, M. Ceriotti, Probing the effects of broken symmetries in machine learning, "
    "Mach. Learn.: Sci. Technol. 5, 04LT01 (2024), doi:10.1088/2632-2153/ad86a0.",
    "A. Togo, K. Shinohara, I. Tanaka, Spglib: a software library for crystal symmetry search, "
    "Sci. Technol. Adv. Mater. Meth. 4, 2384822 (2024), doi:10.1080/27660400.2024.2384822.",
)


@final
@dataclass(frozen=True, eq=False)
class AuditResult(Result):
    """How much symmetry a potential breaks on each structure, and for what it is good enough.

    potential: what was audited, in words.
    findings:  one per structure, every number that was measured.
    labels:    references of each structure; None where there are none.
    """

    settings: AuditSettings
    potential: str
    findings: tuple[Finding, ...]
    labels: tuple[Properties | None, ...]
    job: str = "audit"
    citations: tuple[str, ...] = CITATIONS

    @property
    def title(self) -> str:
        """What was audited, on what."""
        names = [finding.name for finding in self.findings]
        on = ", ".join(names) if len(names) <= 3 else f"{len(names)} structures"
        return f"{self.potential} on {on}"

    @property
    def atoms(self) -> list[Atoms]:  # type: ignore[override]
        """The structures, with the rotational spread of the force on each atom where it is known."""
        structures = []
        for finding in self.findings:
            copy = finding.atoms.copy()
            copy.info = {"name": finding.name}
            if (spread := finding.per_atom_meV_per_A) is not None:
                copy.arrays["force_spread_meV_per_A"] = spread
            structures.append(copy)
        return structures

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:  # type: ignore[override]
        """Orbit energies and rules of each structure, per-atom spreads, raw and mean answers; eV and Å unless named."""
        arrays: dict[str, np.ndarray] = {"names": np.array([finding.name for finding in self.findings])}
        for index, finding in enumerate(self.findings):
            arrays |= {f"{name}_{index}": value for name, value in _arrays(finding).items()}
        return arrays

    def verdicts(self) -> tuple[Verdict, ...]:
        """For which tasks the potential is good enough, as it stands or with a remedy."""
        return judge(self.findings, self.settings)

    def facts(self) -> tuple[Fact, ...]:
        """Figures, then tables."""
        return (*figures(self.findings, self.labels, self.settings), *tables(self.findings, self.settings))


def _arrays(finding: Finding) -> dict[str, np.ndarray]:
    orbit, mean = finding.orbit, finding.orbit.mean()
    fields = {
        "rotations": orbit.rotations.matrices,
        "weights": orbit.rotations.weights,
        "orbit_energy": None if orbit.properties.energy is None else orbit.properties.energy[:, 0],
        "mean_forces": mean.forces,
        "mean_stress": mean.stress,
        "raw_energy": finding.raw.energy,
        "raw_forces": finding.raw.forces,
        "raw_stress": finding.raw.stress,
    }
    arrays = {name: field.detach().cpu().numpy() for name, field in fields.items() if field is not None}
    arrays["energy_spectrum"] = finding.energy_spectrum.fractions.numpy()
    arrays["torque_meV_per_rad"] = finding.torque_meV_per_rad
    if (spread := finding.per_atom_meV_per_A) is not None:
        arrays["force_spread_meV_per_A"] = spread
    return arrays
