"""audit(): how unsymmetric a potential is, in which channels, and whether it matters."""

from collections.abc import Callable, Sequence

from ase import Atoms

from tumble.batch import Properties
from tumble.checkpoint.subject import subject
from tumble.data import Dataset
from tumble.jobs.audit.finding import Finding
from tumble.jobs.audit.ladder import measuring_rules, price, remedies_run
from tumble.jobs.audit.result import AuditResult
from tumble.jobs.audit.settings import AUDIT_V1, AuditSettings
from tumble.jobs.audit.survey import survey
from tumble.jobs.audit.tasks import needed
from tumble.potential import Potential, check_species, collate_for
from tumble.results import Progress
from tumble.rotations import Rotations


def audit(
    potential: Potential,
    atoms_or_structures: Atoms | Sequence[Atoms] | Dataset,
    settings: AuditSettings | None = None,
    *,
    name: str = "",
    labels: Sequence[Properties | None] | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> AuditResult:
    """Measure how much symmetry a potential breaks on structures, and judge whether it matters.

    What a black box does wrong (it fails, gives NaN, no stress, or another answer when asked again) is a finding of
    the result, not an error.

    Args:
        potential: any Potential.
        atoms_or_structures: one structure, many, or a Dataset with its labels.
        settings: None: `AUDIT_V1`.
        name: what cards and certificates call the potential; by default what it is made of.
        labels: reference of each structure, energy () eV, forces (n, 3) eV/Å, stress (3, 3) eV/Å³; fields may be None.
        tell: called as the work goes on, with the pair evaluations of the measuring rules and the remedies.

    Raises:
        ValueError: no structure, a structure that `collate` refuses, an unknown element, labels that do not fit, or a
            measuring rule that cannot see the anisotropy of a structure.
    """
    settings = settings or AUDIT_V1
    atoms, labels, names = _structures(atoms_or_structures, labels)
    check_species(potential.species, collate_for(potential, atoms))
    prices = [price(potential, collate_for(potential, [one])) for one in atoms]
    rules: list[Rotations | None] = [None] * len(atoms)
    if "orbit" in needed(settings.tasks):
        rules = [*measuring_rules(settings, prices)]
    total = sum(each * _n_calls(rule, settings) for each, rule in zip(prices, rules, strict=True))
    findings: list[Finding] = []
    done = 0.0
    for one, label, called, rule in zip(atoms, labels, names, rules, strict=True):

        def tick(work: float, called: str = called) -> None:
            nonlocal done
            done = min(done + work, total)
            tell(Progress(int(done), total, called))

        findings.append(survey(potential, one, called, settings, rule, label=label, tick=tick))
    tell(Progress(total, total, f"{len(findings)} structures done"))
    return AuditResult.of(settings, subject(potential, name), findings, labels)


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


def _n_calls(rule: Rotations | None, settings: AuditSettings) -> int:
    """Calls about one structure: over the measuring rule, and over the remedies that are run."""
    if rule is None:
        return 1
    remedies, n_run = remedies_run(settings.remedies, len(rule))
    return len(rule) + sum(len(one) for one in remedies[:n_run])
