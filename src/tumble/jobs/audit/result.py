"""What an audit found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np
from ase import Atoms
from torch import Tensor

from tumble.batch import Properties
from tumble.jobs.audit.figures import figures
from tumble.jobs.audit.finding import Finding
from tumble.jobs.audit.settings import AUDIT_V1, AuditSettings
from tumble.jobs.audit.tables import tables
from tumble.jobs.audit.verdicts import judge
from tumble.results import Fact, Result, Verdict

CITATIONS = (
    "M. F. Langer, S. N. Pozdnyakov, M. Ceriotti, Probing the effects of broken symmetries in machine learning, "
    "Mach. Learn.: Sci. Technol. 5, 04LT01 (2024), doi:10.1088/2632-2153/ad86a0.",
    "F. Bigi, M. F. Langer, M. Ceriotti, The dark side of the forces: assessing non-conservative force models for "
    "atomistic machine learning, arXiv:2412.11569 (2025).",
)


@final
@dataclass(frozen=True, eq=False)
class AuditResult(Result):
    """How much symmetry a potential breaks on each structure, and for what it is good enough.

    findings:  one per structure, every number that was measured.
    labels:    references of each structure; None where there are none.
    arrays:    of structure k under names that end in _k: its rule, orbit energies, spreads, raw and mean answers.
    subject:   what the potential is, and the digest of its weights.
    atoms:     the structures, with the rotational spread of the force on each atom where it is known.
    """

    title: str
    settings: AuditSettings
    findings: tuple[Finding, ...]
    labels: tuple[Properties | None, ...]
    arrays: dict[str, np.ndarray]
    atoms: list[Atoms]
    subject: dict[str, str]
    job: str = "audit"
    citations: tuple[str, ...] = CITATIONS

    @classmethod
    def of(
        cls,
        settings: AuditSettings,
        subject: dict[str, str],
        findings: Sequence[Finding],
        labels: Sequence[Properties | None],
    ) -> Self:
        """Put findings together."""
        arrays = {"names": np.array([finding.name for finding in findings])}
        for index, finding in enumerate(findings):
            arrays |= {f"{name}_{index}": value for name, value in _arrays(finding).items()}
        atoms = [_with_spread(finding) for finding in findings]
        names = [finding.name for finding in findings]
        on = ", ".join(names) if len(names) <= 3 else f"{len(names)} structures"
        title = f"{subject['name']} on {on}"
        return cls(title, settings, tuple(findings), tuple(labels), arrays, atoms, subject)

    @property
    def protocol(self) -> str:  # type: ignore[override]
        """AUDIT_V1 for its settings, nothing for others."""
        return "AUDIT_V1" if self.settings == AUDIT_V1 else ""

    def verdicts(self) -> tuple[Verdict, ...]:
        """For which tasks the potential is good enough, as it stands or with a remedy."""
        return judge(self.findings, self.settings)

    def facts(self) -> tuple[Fact, ...]:
        """Figures, then tables."""
        return (*figures(self.findings, self.labels, self.settings), *tables(self.findings, self.settings))


def _with_spread(finding: Finding) -> Atoms:
    atoms = finding.atoms.copy()
    atoms.info = {"name": finding.name}
    if finding.turned is not None and (spread := finding.turned.per_atom_meV_per_A) is not None:
        atoms.arrays["force_spread_meV_per_A"] = spread
    return atoms


def _arrays(finding: Finding) -> dict[str, np.ndarray]:
    fields: dict[str, Tensor | None] = {
        "raw_energy": finding.raw.energy,
        "raw_forces": finding.raw.forces,
        "raw_stress": finding.raw.stress,
    }
    arrays: dict[str, np.ndarray] = {}
    if finding.turned is not None:
        orbit, mean = finding.turned.orbit, finding.turned.orbit.mean()
        fields |= {
            "rotations": orbit.rotations.matrices,
            "weights": orbit.rotations.weights,
            "orbit_energy": None if orbit.properties.energy is None else orbit.properties.energy[:, 0],
            "mean_forces": mean.forces,
            "mean_stress": mean.stress,
        }
        fields |= {f"{name}_spectrum": one.fractions for name, one in finding.turned.spectra.items()}
        arrays["torque_meV_per_rad"] = finding.turned.torque_meV_per_rad
        if (spread := finding.turned.per_atom_meV_per_A) is not None:
            arrays["force_spread_meV_per_A"] = spread
    if finding.frequencies is not None:
        arrays["frequencies_THz"] = finding.frequencies.frequencies_THz
        arrays["frequency_shifts_THz"] = finding.frequencies.shifts_THz
    if finding.rest is not None and finding.rest.shift is not None:
        arrays["forbidden_displacements_A"] = finding.rest.shift.displacements
    return arrays | {name: field.detach().cpu().numpy() for name, field in fields.items() if field is not None}
