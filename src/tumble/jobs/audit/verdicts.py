"""Verdicts: the numbers of all structures against thresholds, task by task, with the cheapest remedy that is enough."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tumble.jobs.audit.measures.spread import Sizes
from tumble.jobs.audit.settings import AuditSettings, Thresholds
from tumble.jobs.audit.survey import Finding
from tumble.results import Verdict, number
from tumble.units import BOLTZMANN, MEV

Quantity = Callable[[Sizes, Finding, AuditSettings], float | None]


@dataclass(frozen=True)
class Task:
    """Something that one does with a potential, and the number that decides whether it works.

    quantity:  of a spread, a floor or what a remedy leaves.
    threshold: the largest value that is good enough.
    field:     name in `Sizes` of the error that the threshold is taken from, where labels are known.
    concerns:  whether a structure takes part.
    meaning:   what the number is.
    """

    name: str
    unit: str
    meaning: str
    quantity: Quantity
    threshold: Callable[[Thresholds], float]
    field: str | None = None
    concerns: Callable[[Finding], bool] = lambda finding: True


def _of_kT(sizes: Sizes, finding: Finding, settings: AuditSettings) -> float:
    return sizes.energy_meV_per_atom * len(finding.atoms) / MEV / (BOLTZMANN * settings.temperature_K)


TASKS = (
    Task(
        "orientation of molecules",
        "k_BT",
        "standard deviation of the orientational free energy",
        _of_kT,
        lambda limits: limits.molecule_kT,
        concerns=lambda finding: finding.is_molecule,
    ),
    Task(
        "energies",
        "meV/atom",
        "rotational spread of the energy",
        lambda sizes, finding, settings: sizes.energy_meV_per_atom,
        lambda limits: limits.energy_meV_per_atom,
        field="energy_meV_per_atom",
    ),
    Task(
        "dynamics with a thermostat",
        "meV/Å",
        "rotational spread of a force component",
        lambda sizes, finding, settings: sizes.force_meV_per_A,
        lambda limits: limits.force_meV_per_A,
        field="force_meV_per_A",
    ),
    Task(
        "relaxation of atoms",
        "meV/Å",
        "rotational spread of the force on the worst atom",
        lambda sizes, finding, settings: sizes.worst_meV_per_A,
        lambda limits: limits.relax_meV_per_A,
    ),
    Task(
        "relaxation of the cell",
        "GPa",
        "rotational spread of a stress component",
        lambda sizes, finding, settings: sizes.stress_GPa,
        lambda limits: limits.stress_GPa,
        concerns=lambda finding: bool(finding.atoms.pbc.all()),
    ),
)


def judge(findings: Sequence[Finding], settings: AuditSettings) -> tuple[Verdict, ...]:
    """One verdict per task that the structures have something to say about."""
    verdicts = [
        _judge(task, concerned, settings)
        for task in TASKS
        if (concerned := [finding for finding in findings if task.concerns(finding)])
    ]
    return (*verdicts, *_constant_energy(findings, settings))


def _judge(task: Task, findings: Sequence[Finding], settings: AuditSettings) -> Verdict:
    rows = [(task.quantity(f.spread, f, settings), task.quantity(f.floor, f, settings), f) for f in findings]
    known = [(value, noise or 0.0, finding) for value, noise, finding in rows if value is not None]
    if not known:
        missing = f"this potential does not give it for any of {len(findings)} structures"
        return Verdict(
            task.name, "unknown", None, task.threshold(settings.thresholds), task.unit, f"{task.meaning}: {missing}"
        )
    value, noise, worst = max(known, key=lambda row: row[0])
    limit, origin = _limit(task, findings, settings)
    reason = f"{task.meaning} is {number(value)} {task.unit} for {worst.name}; the limit is {origin}"
    if value <= settings.floor_factor * noise:
        reason = f"{task.meaning} is at the precision floor ({number(noise)} {task.unit}), for {worst.name}"
        if value > limit:
            remedy = "evaluate in float64; the precision used here cannot tell"
            return Verdict(task.name, "unknown", value, limit, task.unit, reason, remedy)
    if value <= limit:
        return Verdict(task.name, "yes", value, limit, task.unit, reason)
    return _with_remedy(task, findings, settings, Verdict(task.name, "no", value, limit, task.unit, reason))


def _with_remedy(task: Task, findings: Sequence[Finding], settings: AuditSettings, verdict: Verdict) -> Verdict:
    """The verdict with the cheapest rule that leaves less than the limit in every structure; "no" if none does."""
    assert verdict.threshold is not None
    best = float("inf")
    for place, remedy in enumerate(findings[0].remedies):
        sizes = [(f.remedies[place].left, f) for f in findings]
        if any(one is None for one, _ in sizes):
            continue
        left = max(task.quantity(one, f, settings) or 0.0 for one, f in sizes if one is not None)
        best = min(best, left)
        if left <= verdict.threshold:
            times = [f.remedies[place].times for f in findings]
            measured = max(t for t in times if t is not None) if any(t is not None for t in times) else None
            cost = f"{remedy.n_calls} calls" + ("" if measured is None else f", {number(measured)} × the time of one")
            words = f"symmetrize with {remedy.rule}: leaves {number(left)} {verdict.unit}"
            return replace(verdict, answer="remedy", remedy=words, cost=cost)
    if best == float("inf"):
        return replace(verdict, reason=f"{verdict.reason}; what averaging would leave was not measured")
    tried = f"averaging over {', '.join(remedy.rule for remedy in findings[0].remedies)} leaves"
    return replace(verdict, reason=f"{verdict.reason}; {tried} {number(best)} {verdict.unit} at best")


def _limit(task: Task, findings: Sequence[Finding], settings: AuditSettings) -> tuple[float, str]:
    """The threshold, and where it comes from: the model's own error where all that is needed is known."""
    errors = [] if task.field is None else [getattr(f.raw_error, task.field, None) for f in findings]
    known = [error for error in errors if error is not None and error == error]
    if not known:
        limit = task.threshold(settings.thresholds)
        return limit, f"{number(limit)} {task.unit}"
    rms = (sum(error**2 for error in known) / len(known)) ** 0.5
    share = settings.thresholds.share_of_error
    return share * rms, f"{number(share)} of the error against {len(known)} labels, {number(rms)} {task.unit}"


def _constant_energy(findings: Sequence[Finding], settings: AuditSettings) -> tuple[Verdict, ...]:
    """Dynamics without a thermostat: the forces must be the slope of the energy."""
    known = [(finding.force_gap, finding) for finding in findings if finding.force_gap is not None]
    if not known:
        return ()
    worst, finding = max(known, key=lambda pair: pair[0].gap)
    limit = settings.thresholds.force_gap
    reason = f"force gap {number(worst.gap)} for {finding.name}: {worst.how}"
    torques = [(f.rms_torque_meV_per_rad, f.name) for f in findings if f.is_molecule]
    known_torques = [(torque, name) for torque, name in torques if torque is not None]
    if known_torques:
        most, name = max(known_torques)
        reason += f"; angular momentum feels a torque of {number(most)} meV/rad (rms, {name})"
    if worst.gap <= limit:
        return (Verdict("dynamics at constant energy", "yes", worst.gap, limit, "", reason),)
    if worst.gap <= settings.floor_factor * worst.noise:
        reason += f"; rounding alone would make {number(worst.noise)}"
        remedy = "use an engine in float64; the precision of this one cannot tell"
        return (Verdict("dynamics at constant energy", "unknown", worst.gap, limit, "", reason, remedy),)
    remedy = "use forces that are the derivative of the energy, or a thermostat; averaging over rotations does not help"
    return (Verdict("dynamics at constant energy", "no", worst.gap, limit, "", reason, remedy),)
