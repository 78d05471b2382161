"""Verdicts: the numbers of all structures against thresholds, task by task, with the cheapest remedy that is enough."""

from collections.abc import Sequence
from dataclasses import replace

from tumble.jobs.audit.criteria import CRITERIA, Criterion
from tumble.jobs.audit.finding import Finding
from tumble.jobs.audit.settings import AuditSettings
from tumble.jobs.audit.tasks import Task, chosen
from tumble.results import Verdict, number

ORDER = ("no", "remedy", "unknown", "yes")
"""Answers, the one that decides first: what fails or must be repaired outweighs what is not known."""


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
        reason = "none of these structures has anything to say about it"
        return Verdict(task.name, "unknown", None, None, "", reason, key=task.key)
    parts.sort(key=lambda one: (ORDER.index(one.answer), -_excess(one)))
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
    known = [(value, noise, finding) for value, noise, finding in rows if value is not None]
    limit, origin = _limit(criterion, findings, settings)
    if not known:
        reason = f"{criterion.meaning}: {_why_not(criterion, findings)}"
        return Verdict(task.name, "unknown", None, limit, criterion.unit, reason, key=task.key)
    value, noise, worst = max(known, key=lambda row: row[0])
    unit = f" {criterion.unit}" if criterion.unit else ""
    reason = f"{criterion.meaning} is {number(value)}{unit} for {worst.name}; the limit is {origin}"
    verdict = Verdict(task.name, "no", value, limit, criterion.unit, reason, key=task.key)
    if value <= settings.floor_factor * noise:
        reason = f"{criterion.meaning} is at the precision floor ({number(noise)}{unit}), for {worst.name}"
        if value > limit:
            remedy = "evaluate in float64; the precision used here cannot tell"
            return replace(verdict, answer="unknown", reason=reason, remedy=remedy)
    if value <= limit:
        return replace(verdict, answer="yes", reason=reason)
    if criterion.cure is not None:
        return replace(verdict, answer="remedy", remedy=criterion.cure[0], cost=criterion.cure[1])
    if criterion.left is None:
        return replace(verdict, remedy=criterion.advice)
    return _with_remedy(criterion, findings, settings, verdict)


def _why_not(criterion: Criterion, findings: Sequence[Finding]) -> str:
    """Why a number is not known for any of these structures."""
    for finding in findings:
        if finding.failures:
            failure = finding.failures[0]
            return f"{failure.measure} of {finding.name} failed: {failure.message}"
        if criterion.measure in finding.skipped:
            return f"not measured for {finding.name}: {finding.skipped[criterion.measure]}"
    return f"this potential does not give it for any of {len(findings)} structures"


def _with_remedy(
    criterion: Criterion, findings: Sequence[Finding], settings: AuditSettings, verdict: Verdict
) -> Verdict:
    """The verdict with the cheapest rule that leaves less than the limit in every structure; "no" if none does."""
    assert verdict.threshold is not None
    assert criterion.left is not None
    shown = [(finding, finding.turned) for finding in findings if finding.turned is not None]
    best = float("inf")
    for place, remedy in enumerate(shown[0][1].remedies):
        here = [turned.remedies[place] for _, turned in shown]
        lefts = [criterion.left(f, one, settings) for (f, _), one in zip(shown, here, strict=True)]
        if any(one.left is None for one in here):
            continue
        left = max(one or 0.0 for one in lefts)
        best = min(best, left)
        if left <= verdict.threshold:
            times = [one.times for one in here if one.times is not None]
            calls = max(one.n_calls for one in here)
            cost = f"{calls} calls" + (f", {number(max(times))} × the time of one" if times else "")
            words = f"symmetrize with {remedy.rule}: leaves {number(left)} {verdict.unit}"
            return replace(verdict, answer="remedy", remedy=words, cost=cost)
    if best == float("inf"):
        return replace(verdict, reason=f"{verdict.reason}; what averaging would leave was not measured")
    tried = f"averaging over {', '.join(remedy.rule for remedy in shown[0][1].remedies)} leaves"
    return replace(verdict, reason=f"{verdict.reason}; {tried} {number(best)} {verdict.unit} at best")


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
