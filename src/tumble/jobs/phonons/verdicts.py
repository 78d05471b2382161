"""Verdicts: whether frequencies are good enough, whether degenerate modes are, and whether the structure is stable."""

from dataclasses import replace
from typing import Final, Literal, NamedTuple

import numpy as np

from tumble.crystal import RESOLVED, Aligned, parse_rule, resolution, space_group
from tumble.jobs.phonons.constants import AVERAGED, BOTH, PROJECTED, RAW
from tumble.jobs.phonons.crystal import Crystal
from tumble.jobs.phonons.examined import Scanned
from tumble.jobs.phonons.molecule import Molecule
from tumble.jobs.phonons.settings import PhononsSettings
from tumble.jobs.phonons.triage import Kind
from tumble.results import Verdict, number

PROJECT = "use the projected force constants, which are here: they leave nothing of it"
NO_CALL = "no call"
PRECISE = "evaluate in float64; the precision used here cannot tell"
HIDDEN = "reduced displacements hide what symmetry forbids"
ANSWERS: Final[dict[Kind, Literal["no", "unknown", "remedy"]]] = {
    "physical": "no",
    "unconverged": "unknown",
    "noise": "remedy",
}
"""What an imaginary mode says about the structure; the one that decides first."""


class Summary(NamedTuple):
    """The numbers that decide, the same for crystals and molecules, in THz.

    error:     rms error bar of frequencies by what symmetry forbids; None where reduced displacements hide it.
    worst:     the largest.
    floor:     rms of what rounding alone would make of it.
    turned:    rms difference of averaged and projected frequencies; None without an average.
    splitting: key → largest width of degenerate modes.
    lowest:    key → lowest frequency, negative if imaginary.
    cost:      seconds with the average over those without.
    """

    error: float | None
    worst: float | None
    floor: float
    turned: float | None
    splitting: dict[str, float]
    lowest: dict[str, float]
    cost: float | None


def summary_of(found: Crystal | Molecule) -> Summary:
    """What decides."""
    measured = found.measured
    cost = measured[AVERAGED].seconds / max(measured[BOTH].seconds, 1e-9) if AVERAGED in measured else None
    if isinstance(found, Crystal):
        return Summary(
            None if found.sizes is None else found.rms(found.modes.errors_THz),
            None if found.sizes is None else float(max(found.modes.errors_THz.max(), found.bands.errors_THz.max())),
            found.rms(found.modes.noise_THz),
            found.rms(found.difference(AVERAGED)) if AVERAGED in found.constants else None,
            {key: found.splitting_THz(key) for key in found.constants},
            {key: found.lowest_THz(key) for key in found.constants},
            cost,
        )
    exact = found.frequencies_THz[PROJECTED]
    turned = found.frequencies_THz[AVERAGED] - exact if AVERAGED in found.constants else None
    return Summary(
        _rms(found.errors_THz),
        float(found.errors_THz.max()),
        _rms(found.noise_THz),
        None if turned is None else _rms(turned),
        found.splittings_THz,
        {key: float(one[0]) for key, one in found.frequencies_THz.items()},
        cost,
    )


def verdicts_of(found: Crystal | Molecule, scanned: Scanned, settings: PhononsSettings) -> tuple[Verdict, ...]:
    """One on the frequencies, one on stability, one on degenerate modes."""
    summary = summary_of(found)
    return (
        _frequencies(found, summary, settings),
        _stability(summary, scanned, settings),
        _degeneracy(summary, settings),
    )


def is_blind(found: Crystal | Molecule, settings: PhononsSettings) -> bool:
    """Whether the rule of the average sees too few orientations of the structure to say what depends on them."""
    group = found.cells.group if isinstance(found, Crystal) else space_group(found.atoms, settings.symprec)
    rule = parse_rule(settings.average)
    return resolution(rule.of(group.point) if isinstance(rule, Aligned) else rule, group.point).captured < RESOLVED


def _frequencies(found: Crystal | Molecule, summary: Summary, settings: PhononsSettings) -> Verdict:
    limit, task = settings.threshold_THz, "phonon frequencies"
    turned = ""
    if summary.turned is not None:
        turned = f"; averaged over {settings.average}, they move by rms {number(summary.turned)} THz"
        if is_blind(found, settings):
            turned += ", but this rule repeats the symmetry of the structure; another orientation is seen with @generic"
    if summary.error is None or summary.worst is None:
        reason = f"{HIDDEN}{turned}"
        return Verdict(task, "unknown", None, limit, "THz", reason, "set displacements to all", key="phonons")
    value = max(summary.error, summary.turned or 0.0)
    reason = (
        f"what symmetry forbids changes frequencies by rms {number(summary.error)} THz, at most "
        f"{number(summary.worst)}{turned}; the limit is {number(limit)} THz"
    )
    verdict = Verdict(task, "yes", value, limit, "THz", reason, floor=summary.floor, key="phonons")
    if value <= limit:
        return verdict
    if value <= settings.floor_factor * summary.floor:
        return replace(verdict, answer="unknown", remedy=PRECISE)
    if (summary.turned or 0.0) > limit:
        cost = "" if summary.cost is None else f"{number(summary.cost)} × the time"
        return replace(
            verdict, answer="remedy", remedy=f"average over {settings.average}: tumble symmetrize", cost=cost
        )
    return replace(verdict, answer="remedy", remedy=PROJECT, cost=NO_CALL)


def _stability(summary: Summary, scanned: Scanned, settings: PhononsSettings) -> Verdict:
    limit, task, lowest = settings.imaginary_THz, "dynamical stability", summary.lowest[PROJECTED]
    value = max(0.0, -lowest)
    reason = f"the lowest frequency is {number(lowest)} THz; imaginary ones below {number(limit)} THz count as zero"
    verdict = Verdict(task, "yes", value, limit, "THz", reason, floor=summary.floor, key="stability")
    rulings = scanned.rulings
    if rulings:
        first = min(rulings, key=lambda one: list(ANSWERS).index(one.kind))
        words = f"{len(rulings)} imaginary modes, down to {number(lowest)} THz; {first.kind}: {first.reason}"
        return replace(verdict, answer=ANSWERS[first.kind], reason=words, remedy=first.remedy)
    if summary.lowest[BOTH] < -limit:
        words = f"{reason}; before they are projected they go down to {number(summary.lowest[BOTH])} THz"
        return replace(verdict, answer="remedy", remedy=PROJECT, cost=NO_CALL, reason=words)
    return verdict


def _degeneracy(summary: Summary, settings: PhononsSettings) -> Verdict:
    limit, task = settings.threshold_THz, "degenerate modes"
    if summary.error is None:
        return Verdict(task, "unknown", None, limit, "THz", HIDDEN, "set displacements to all", key="degeneracy")
    value = summary.splitting[BOTH]
    reason = (
        f"modes that symmetry makes degenerate split by up to {number(value)} THz ±, {number(summary.splitting[RAW])} "
        f"raw, {number(summary.splitting[PROJECTED])} projected; the limit is {number(limit)} THz"
    )
    verdict = Verdict(task, "yes", value, limit, "THz", reason, floor=summary.floor, key="degeneracy")
    if value <= limit:
        return verdict
    if value <= settings.floor_factor * summary.floor:
        return replace(verdict, answer="unknown", remedy=PRECISE)
    return replace(verdict, answer="remedy", remedy=PROJECT, cost=NO_CALL)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
