"""What a relaxation found."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np
from ase import Atoms
from ase.io import write

from tumble.jobs.relax.figures import figures
from tumble.jobs.relax.finding import Finding
from tumble.jobs.relax.settings import RelaxSettings
from tumble.jobs.relax.stairs import SYMPRECS
from tumble.jobs.relax.tables import tables
from tumble.jobs.relax.verdicts import judge
from tumble.results import Fact, Result, Verdict

CITATIONS = (
    "F. Bigi, P. Pegolo, A. Mazitov, J. Schmidt, M. Ceriotti, Pushing the limits of unconstrained machine-learned "
    "interatomic potentials, arXiv:2601.16195 (2026).",
    "A. Hjorth Larsen et al., The atomic simulation environment, J. Phys.: Condens. Matter 29, 273002 (2017), "
    "doi:10.1088/1361-648X/aa680e.",
    "A. Togo, K. Shinohara, I. Tanaka, Spglib: a software library for crystal symmetry search, Sci. Technol. Adv. "
    "Mater.: Methods 4, 2384822 (2024), doi:10.1080/27660400.2024.2384822.",
)


@final
@dataclass(frozen=True, eq=False)
class RelaxResult(Result):
    """Structures at rest, and what became of their symmetry.

    findings: one per structure, with its walks.
    arrays:   of all S structures: energy (S,) eV, volume (S,) Å³, force (S,) eV/Å, is_converged (S,), floor (S,) eV/Å,
              gain and noise (S,) eV, symprec (K,) Å with operations_before, _free and _result (S, K); and of structure
              k energies_k eV and forces_k eV/Å of each step. NaN, and 0 operations: not known.
    atoms:    the results, with energies, forces and stress.
    """

    title: str
    settings: RelaxSettings
    findings: tuple[Finding, ...]
    arrays: dict[str, np.ndarray]
    atoms: list[Atoms]
    subject: dict[str, str]
    job: str = "relax"
    citations: tuple[str, ...] = CITATIONS

    @classmethod
    def of(cls, settings: RelaxSettings, subject: dict[str, str], findings: Sequence[Finding]) -> Self:
        """Put findings together."""
        names = [finding.name for finding in findings]
        on = ", ".join(names) if len(names) <= 3 else f"{len(names)} structures"
        atoms = []
        for finding in findings:
            one = finding.final.atoms.copy()
            one.calc, one.info = finding.final.atoms.calc, {"name": finding.name}
            atoms.append(one)
        return cls(f"{on} relaxed with {subject['name']}", settings, tuple(findings), _arrays(findings), atoms, subject)

    @property
    def is_converged(self) -> bool:
        """Whether every structure is at rest."""
        return all(finding.is_converged for finding in self.findings)

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether everything is at rest and what that means; whether symmetry was lost to physics."""
        return judge(self.findings, self.settings)

    def facts(self) -> tuple[Fact, ...]:
        """Tables, then figures."""
        made = tables(self.findings)
        return (*made[:2], *figures(self.findings, self.settings), *made[2:])

    def files(self) -> dict[str, bytes]:
        """The walks, frame by frame, and the standard cells of the results."""
        frames = [frame for index, finding in enumerate(self.findings) for frame in _frames(index, finding)]
        standards = [finding.standard for finding in self.findings if finding.standard is not None]
        files = {"trajectory.extxyz": _extxyz(frames)}
        return files | ({"standard.extxyz": _extxyz(standards)} if standards else {})


def _frames(index: int, finding: Finding) -> list[Atoms]:
    """Frames of both walks that say where they come from."""
    frames = []
    first = "in the group" if finding.walked.how == "keep" else "free"
    for kind, walk in ((first, finding.walked.walk), ("in the group", finding.walked.again)):
        for step, frame in zip(walk.frame_steps.tolist(), walk.frames, strict=True) if walk is not None else ():
            one = frame.copy()
            one.calc, one.info = frame.calc, {"structure": index, "walk": kind, "step": step}
            frames.append(one)
    return frames


def _extxyz(structures: Sequence[Atoms]) -> bytes:
    text = io.StringIO()
    write(text, list(structures), format="extxyz")
    return text.getvalue().encode()


def _arrays(findings: Sequence[Finding]) -> dict[str, np.ndarray]:
    def column(values: Sequence[float | None]) -> np.ndarray:
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    arrays = {
        "energy": column([float(one.final.atoms.get_potential_energy()) for one in findings]),
        "volume": column([float(one.final.atoms.cell.volume) for one in findings]),
        "force": column([float(one.final.forces[-1]) for one in findings]),
        "is_converged": np.array([one.is_converged for one in findings]),
        "floor": column([None if one.floor is None else one.floor.force for one in findings]),
        "gain": column([None if one.gain is None else one.gain.energy for one in findings]),
        "noise": column([None if one.gain is None else one.gain.noise for one in findings]),
        "symprec": np.array(SYMPRECS),
    }
    for name, rows in (
        ("before", [one.before for one in findings]),
        ("free", [one.walked.after for one in findings]),
        ("result", [one.end for one in findings]),
    ):
        counts = [[0 if stair is None else stair.n_operations for stair in row] for row in rows]
        arrays[f"operations_{name}"] = np.array(counts)
    for index, one in enumerate(findings):
        walks = [walk for walk in (one.walked.walk, one.walked.again) if walk is not None]
        arrays[f"energies_{index}"] = np.concatenate([walk.energies for walk in walks])
        arrays[f"forces_{index}"] = np.concatenate([walk.forces for walk in walks])
    return arrays
