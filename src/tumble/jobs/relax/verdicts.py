"""Verdicts: whether everything is at rest, whether that means anything, and whether symmetry was lost to physics."""

from collections.abc import Sequence

from tumble.jobs.relax.finding import WORDS, Finding, Symmetry
from tumble.jobs.relax.settings import RelaxSettings
from tumble.results import Verdict, number
from tumble.units import MEV

NAMED = 3
"""Structures that a reason names; of more it says how many."""


def judge(findings: Sequence[Finding], settings: RelaxSettings) -> tuple[Verdict, ...]:
    """One on the forces; one on the symmetry, where it was looked for."""
    sought = [one for one in findings if one.symmetry is not None]
    return (_at_rest(findings, settings), *((_symmetric(sought, settings),) if sought else ()))


def _at_rest(findings: Sequence[Finding], settings: RelaxSettings) -> Verdict:
    """The lowest meaningful fmax, worst structure, against the one that was asked for."""
    task, limit = "Relaxation", MEV * settings.fmax
    moving = sorted((one for one in findings if not one.is_converged), key=lambda one: -one.force)
    if moving:
        reasons = "; ".join(f"{one.name}: {one.final.reason}" for one in moving[:NAMED])
        reason = f"{len(moving)} of {len(findings)} not at rest: {reasons}{_more(len(moving))}"
        remedy = "a larger --fmax, more --steps, another --optimizer, or a closer start"
        floor = max((one.floor.force for one in moving if one.floor is not None), default=0.0)
        if floor > settings.fmax:
            reason += f"; the lowest meaningful fmax is {number(MEV * floor)} meV/Å"
            remedy = f"--fmax {_above(floor)}, or a potential averaged over rotations (tumble symmetrize)"
        return Verdict(task, "unknown", MEV * moving[0].force, limit, "meV/Å", reason, remedy, key="relax")
    floors = [(one.floor.force, one) for one in findings if one.floor is not None]
    if not floors:
        return Verdict(task, "yes", None, limit, "meV/Å", "all at rest; noise was not measured", key="relax")
    force, worst = max(floors, key=lambda one: one[0])
    value, said = MEV * force, f"the lowest meaningful fmax is {number(MEV * force)} meV/Å for {worst.name}"
    if force <= settings.fmax:
        reason = f"all at rest, and {said}, below the {number(limit)} that was asked for"
        return Verdict(task, "yes", value, limit, "meV/Å", reason, key="relax")
    reason = f"all at rest, but {said}: turned structures would come to rest elsewhere"
    remedy = f"ask for --fmax {_above(force)} only, or symmetrize the potential first"
    return Verdict(task, "remedy", value, limit, "meV/Å", reason, remedy, key="relax")


def _symmetric(findings: Sequence[Finding], settings: RelaxSettings) -> Verdict:
    """What was decided about each structure, the doubtful first; the number is that of the worst of them."""
    task = "Symmetry after relaxation"
    order: tuple[Symmetry, ...] = ("undecided", "artefact", "physical", "symmetric", "none")
    kinds = {kind: [one for one in findings if one.symmetry == kind] for kind in order}
    counts = ", ".join(f"{len(ones)} {WORDS[kind]}" for kind, ones in kinds.items() if ones)
    worst = next(ones for ones in kinds.values() if ones)
    worst.sort(key=lambda one: -(one.gain.energy / one.gain.noise if one.gain and one.gain.noise else 0.0))
    first = worst[0]
    value = None if first.gain is None else MEV * first.gain.energy
    limit = None if first.gain is None else settings.physical * MEV * first.gain.noise
    floor = None if first.gain is None else MEV * first.gain.rounding
    if len(findings) == 1:
        assert first.symmetry is not None, "only structures whose symmetry was looked for come here"
        reason = f"{WORDS[first.symmetry]}: {first.why}"
    else:
        shown = worst[:NAMED] if first.symmetry in ("undecided", "artefact", "physical") else worst[:1]
        reasons = "; ".join(f"{one.name}: {one.why}" for one in shown)
        reason = f"{counts}. {reasons}{_more(len(worst)) if len(shown) == NAMED else ''}"
    if first.symmetry == "undecided":
        remedy = "a smaller --fmax, or a potential averaged over rotations (tumble symmetrize)"
        return Verdict(task, "unknown", value, limit, "meV", reason, remedy, floor=floor, key="symmetry")
    if first.symmetry == "artefact":
        remedy, cost = "relaxed again in the group that was found: that is the result", "a second walk"
        return Verdict(task, "remedy", value, limit, "meV", reason, remedy, cost, floor, key="symmetry")
    return Verdict(task, "yes", value, limit, "meV", reason, floor=floor, key="symmetry")


def _above(force: float) -> str:
    """A force a little above one, with two digits."""
    return f"{1.06 * force:.2g}"


def _more(count: int) -> str:
    return f"; and {count - NAMED} more" if count > NAMED else ""
