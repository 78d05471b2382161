"""Verdicts: the numbers of all structures against thresholds, task by task, with the cheapest remedy that is enough."""

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite

from tumble.jobs.audit.criteria import CRITERIA, Criterion
from tumble.jobs.audit.finding import Finding
from tumble.jobs.audit.ladder import Remedy
from tumble.jobs.audit.settings import AuditSettings
from tumble.jobs.audit.tasks import Task, chosen
from tumble.results import Verdict, number

ORDER = ("no", "remedy", "unknown", "yes")
"""Answers, the one that decides first: what fails or must be repaired outweighs what is not known."""

REPEAT = "make it repeatable: fix its seeds, and the order of its sums"


def judge(findings: Sequence[Finding], settings: AuditSettings) -> tuple[Verdict, ...]:
    """One verdict per task that was asked for, or that the structures have something to say about."""
    verdicts = (_judge(task, findings, settings) for task in chosen(settings.tasks))
    return tuple(verdict for verdict in verdicts if verdict is not None)


def _judge(task: Task, findings: Sequence[Finding], settings: AuditSettings) -> Verdict | None:
    parts = []
    for criterion in CRITERIA[task.key]:
        concerned = [finding for finding in findings if criterion.concerns(finding)]
        if concerned and (known := _weigh(task, criterion, concerned, settings)):
            parts.append(known)
    if not parts:
        if not settings.tasks:
            return None
        failed = next((finding for finding in findings if finding.failures), None)
        reason = "none of these structures has anything to say about it" if failed is None else _failure(failed)
        return Verdict(task.name, "unknown", None, None, "", reason, key=task.key)
    parts.sort(key=lambda one: (ORDER.index(one.answer), -_excess(one)))
    measured = [one for one in parts if one.value is not None]
    if measured and not settings.tasks:
        # Nobody asked for this task by name: what was too dear is said, and what is known is judged.
        left_out = "".join(f"; {one.reason}" for one in parts if one.value is None)
        parts = [replace(measured[0], reason=measured[0].reason + left_out), *measured[1:]]
    first, *others = parts
    if first.answer == "yes":
        return first
    same = [one for one in others if one.answer == first.answer]
    # Every criterion must hold, so what cures one of them is not enough where another needs a remedy too.
    return replace(
        first,
        reason="; ".join(one.reason for one in (first, *same)),
        remedy="; and ".join(dict.fromkeys(one.remedy for one in (first, *same) if one.remedy)),
        cost="; ".join(dict.fromkeys(one.cost for one in (first, *same) if one.cost)),
    )


def _weigh(task: Task, criterion: Criterion, findings: Sequence[Finding], settings: AuditSettings) -> Verdict | None:
    """The verdict of one criterion, for the structure where its number is largest; None if nobody asked for it."""
    rows = [(*criterion.number(finding, settings), finding) for finding in findings]
    known = [(value, noise, finding) for value, noise, finding in rows if value is not None and isfinite(value)]
    limit, origin = _limit(criterion, findings, settings)
    if not known:
        reason = f"{criterion.meaning}: {_why_not(criterion, findings)}"
        return Verdict(task.name, "unknown", None, limit, criterion.unit, reason, key=task.key)
    value, noise, worst = max(known, key=lambda row: row[0])
    unit = f" {criterion.unit}" if criterion.unit else ""
    reason = f"{criterion.meaning} is {number(value)}{unit} for {worst.name}; the limit is {origin}"
    verdict = Verdict(task.name, "no", value, limit, criterion.unit, reason, floor=noise, key=task.key)
    if value == 0:
        reason = f"{criterion.meaning} is zero"
    elif value <= settings.floor_factor * noise:
        reason = f"{criterion.meaning} is at the precision floor ({number(noise)}{unit}), for {worst.name}"
        if value > limit:
            remedy = "evaluate in float64; the precision used here cannot tell"
            return replace(verdict, answer="unknown", reason=reason, remedy=remedy)
    if value <= limit:
        return replace(verdict, answer="yes", reason=reason)
    if not worst.is_repeatable:
        reason = f"{reason}; asked again about the same structure, the potential answers otherwise"
        return replace(verdict, answer="unknown", reason=reason, remedy=REPEAT)
    if criterion.cure is not None:
        return replace(verdict, answer="remedy", remedy=criterion.cure[0], cost=criterion.cure[1])
    if criterion.left is None:
        return replace(verdict, remedy=criterion.advice)
    return _with_remedy(criterion, findings, settings, verdict)


def _why_not(criterion: Criterion, findings: Sequence[Finding]) -> str:
    """Why a number is not known for any of these structures."""
    for finding in findings:
        if finding.failures:
            return _failure(finding)
        if criterion.measure in finding.skipped:
            return f"not measured for {finding.name}: {finding.skipped[criterion.measure]}"
    return f"this potential does not give it for any of {len(findings)} structures"


def _failure(finding: Finding) -> str:
    first = finding.failures[0]
    return f"{first.measure} of {finding.name} failed: {first.message}"


def _with_remedy(
    criterion: Criterion, findings: Sequence[Finding], settings: AuditSettings, verdict: Verdict
) -> Verdict:
    """The verdict with the cheapest rule that leaves less than the limit in every structure; "no" if none does."""
    assert verdict.threshold is not None
    assert criterion.left is not None
    best, tried = float("inf"), []
    for remedies in _by_cost(findings):
        lefts = [criterion.left(finding, remedy, settings) for finding, remedy in remedies if remedy.left is not None]
        if len(lefts) < len(remedies):
            continue
        # In one frame for all: a rule that one structure needs in the generic frame does there for the others too.
        rule = max((remedy.rule for _, remedy in remedies), key=len)
        left = max(one or 0.0 for one in lefts)
        tried.append(rule)
        best = min(best, left)
        if left <= verdict.threshold:
            times = [remedy.times for _, remedy in remedies if remedy.times is not None]
            calls = max(remedy.n_calls for _, remedy in remedies)
            cost = f"{calls} calls" + (f", {number(max(times))} × the time of one" if times else "")
            words = f"symmetrize with {rule}: leaves {number(left)} {verdict.unit}"
            return replace(verdict, answer="remedy", remedy=words, cost=cost)
    if not tried:
        return replace(verdict, reason=f"{verdict.reason}; what averaging would leave was not measured")
    reason = f"{verdict.reason}; averaging over {', '.join(tried)} leaves {number(best)} {verdict.unit} at best"
    return replace(verdict, reason=reason)


def _by_cost(findings: Sequence[Finding]) -> list[list[tuple[Finding, Remedy]]]:
    """Each remedy for every structure that was turned, the cheapest first."""
    together: dict[str, list[tuple[Finding, Remedy]]] = {}
    for finding in findings:
        for remedy in finding.turned.remedies if finding.turned is not None else ():
            together.setdefault(remedy.spec, []).append((finding, remedy))
    return sorted(together.values(), key=lambda ones: max(remedy.n_calls for _, remedy in ones))


def _limit(criterion: Criterion, findings: Sequence[Finding], settings: AuditSettings) -> tuple[float, str]:
    """The threshold, and where it comes from: the model's own error where all that is needed is known."""
    unit = f" {criterion.unit}" if criterion.unit else ""
    errors = [
        getattr(finding.turned.raw_error, criterion.field, None)
        for finding in findings
        if criterion.field is not None and finding.turned is not None
    ]
    known = [error for error in errors if error is not None and error == error]
    if not known:
        limit = criterion.threshold(settings.thresholds)
        return limit, f"{number(limit)}{unit}"
    rms = (sum(error**2 for error in known) / len(known)) ** 0.5
    share = settings.thresholds.share_of_error
    return share * rms, f"{number(share)} of the error against {len(known)} labels, {number(rms)}{unit}"


def _excess(verdict: Verdict) -> float:
    """How many times the threshold."""
    return 0.0 if verdict.value is None or not verdict.threshold else verdict.value / verdict.threshold
