"""audit(): how unsymmetric a potential is, in which channels, and whether it matters."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ase import Atoms

from tumble.batch import Properties
from tumble.data import Dataset
from tumble.jobs.audit.ladder import price
from tumble.jobs.audit.result import AuditResult
from tumble.jobs.audit.settings import AUDIT_V1, AuditSettings
from tumble.jobs.audit.survey import Finding, survey
from tumble.potential import Direct, Gradient, Potential, Sum, check_species, collate_for
from tumble.symmetry import Symmetrized


class Progress(NamedTuple):
    """What a caller sees while structures are measured.

    done, total: pair evaluations; the total is an estimate until the end.
    message:     which structure.
    """

    done: int
    total: int
    message: str


def audit(
    potential: Potential,
    atoms_or_structures: Atoms | Sequence[Atoms] | Dataset,
    settings: AuditSettings | None = None,
    *,
    labels: Sequence[Properties | None] | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> AuditResult:
    """Measure how much symmetry a potential breaks on structures, and judge whether it matters.

    Args:
        potential: any Potential.
        atoms_or_structures: one structure, many, or a Dataset with its labels.
        settings: None: `AUDIT_V1`.
        labels: reference of each structure, energy () eV, forces (n, 3) eV/Å, stress (3, 3) eV/Å³; fields may be None.
        tell: called as the work goes on.

    Raises:
        ValueError: no structure, a structure that `collate` refuses, an unknown element, labels that do not fit, or a
            measuring rule that cannot see the anisotropy of a structure.
    """
    settings = settings or AUDIT_V1
    atoms, labels, names = _structures(atoms_or_structures, labels)
    check_species(potential.species, collate_for(potential, atoms))
    share = settings.budget / len(atoms)
    total = sum(_estimate(potential, one, share) for one in atoms)
    findings: list[Finding] = []
    done = 0.0
    for one, label, name in zip(atoms, labels, names, strict=True):

        def tick(work: float, name: str = name) -> None:
            nonlocal done
            done += work
            tell(Progress(int(done), int(max(total, done)), name))

        findings.append(survey(potential, one, name, settings, share, label=label, tick=tick))
    tell(Progress(int(done), int(done), f"{len(findings)} structures done"))
    return AuditResult.of(settings, describe(potential), findings, labels)


def describe(potential: Potential) -> str:
    """A potential in words: its models, how its forces come about, what it is averaged over."""
    if isinstance(potential, Symmetrized):
        return f"{describe(potential.inner)} averaged over {potential.rotations.name}"
    if isinstance(potential, Sum):
        return " + ".join(describe(part) for part in potential.parts)  # type: ignore[arg-type]
    if isinstance(potential, Gradient | Direct):
        direct = " with direct forces" if isinstance(potential, Direct) else ""
        return type(potential.model).__name__ + direct
    return type(getattr(potential, "calculator", potential)).__name__


def _structures(
    given: Atoms | Sequence[Atoms] | Dataset, labels: Sequence[Properties | None] | None
) -> tuple[list[Atoms], list[Properties | None], list[str]]:
    """Structures, their labels and their names."""
    if isinstance(given, Dataset):
        atoms, sources = list(given.atoms), [f" ({source})" for source in given.sources]
        labels = given.labels if labels is None else labels
    else:
        atoms = [given] if isinstance(given, Atoms) else list(given)
        sources = [""] if len(atoms) == 1 else [f" ({index})" for index in range(len(atoms))]
    if labels is None:
        labels = [None] * len(atoms)
    if len(labels) != len(atoms):
        raise ValueError(
            f"{len(labels)} labels were given for {len(atoms)} structures; one each was expected, or None."
        )
    for index, (one, label) in enumerate(zip(atoms, labels, strict=True)):
        if label is not None and label.forces is not None and label.forces.shape != (len(one), 3):
            raise ValueError(
                f"the label of structure {index} has forces of shape {tuple(label.forces.shape)}; ({len(one)}, 3) was "
                "expected. Give labels in the order of the structures."
            )
    names = [one.get_chemical_formula() + source for one, source in zip(atoms, sources, strict=True)]
    return atoms, list(labels), names


def _estimate(potential: Potential, atoms: Atoms, share: float) -> float:
    """Pair evaluations that a structure will take, roughly: its share, or that of the cheapest rule if it is more."""
    each = price(potential, collate_for(potential, [atoms]))
    return max(12 * each, min(share, 2600 * each)) + min(share / 2, 300 * each)
