"""What an audit found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

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

    findings:  one per structure, every number that was measured.
    labels:    references of each structure; None where there are none.
    arrays:    of structure k under names that end in _k: its rule, orbit energies, spreads, raw and mean answers.
    atoms:     the structures, with the rotational spread of the force on each atom where it is known.
    """

    title: str
    settings: AuditSettings
    findings: tuple[Finding, ...]
    labels: tuple[Properties | None, ...]
    arrays: dict[str, np.ndarray]
    atoms: list[Atoms]
    job: str = "audit"
    citations: tuple[str, ...] = CITATIONS

    @classmethod
    def of(
        cls,
        settings: AuditSettings,
        potential: str,
        findings: Sequence[Finding],
        labels: Sequence[Properties | None],
    ) -> Self:
        """Put findings together; the potential is given in words."""
        arrays = {"names": np.array([finding.name for finding in findings])}
        for index, finding in enumerate(findings):
            arrays |= {f"{name}_{index}": value for name, value in _arrays(finding).items()}
        atoms = [_with_spread(finding) for finding in findings]
        names = [finding.name for finding in findings]
        on = ", ".join(names) if len(names) <= 3 else f"{len(names)} structures"
        return cls(f"{potential} on {on}", settings, tuple(findings), tuple(labels), arrays, atoms)

    def verdicts(self) -> tuple[Verdict, ...]:
        """For which tasks the potential is good enough, as it stands or with a remedy."""
        return judge(self.findings, self.settings)

    def facts(self) -> tuple[Fact, ...]:
        """Figures, then tables."""
        return (*figures(self.findings, self.labels, self.settings), *tables(self.findings, self.settings))


def _with_spread(finding: Finding) -> Atoms:
    atoms = finding.atoms.copy()
    atoms.info = {"name": finding.name}
    if (spread := finding.per_atom_meV_per_A) is not None:
        atoms.arrays["force_spread_meV_per_A"] = spread
    return atoms


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
    if finding.energy_spectrum is not None:
        arrays["energy_spectrum"] = finding.energy_spectrum.fractions.numpy()
    arrays["torque_meV_per_rad"] = finding.torque_meV_per_rad
    if (spread := finding.per_atom_meV_per_A) is not None:
        arrays["force_spread_meV_per_A"] = spread
    return arrays
