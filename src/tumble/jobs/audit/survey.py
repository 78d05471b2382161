"""Survey: the measures of one structure that the tasks need, whatever the potential does on the way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from ase import Atoms

from tumble.batch import Batch, Properties, has_volume
from tumble.crystal import Resolution, check_resolution, space_group
from tumble.jacobian import BY_CONSTRUCTION, NonConservation, drift_of, non_conservation, turn_heating
from tumble.jobs.audit.finding import Dynamics, Failure, Finding
from tumble.jobs.audit.ladder import Tick, is_black_box, orbit_of, price, timed_call
from tumble.jobs.audit.measures.contracts import contracts
from tumble.jobs.audit.measures.curvature import (
    Curvature,
    FrequencyError,
    FrequencySpread,
    curvature,
    frequency_error,
    frequency_spread,
    n_calls_needed,
    usual_step,
)
from tumble.jobs.audit.measures.floor import scatter
from tumble.jobs.audit.measures.force_gap import force_gap, is_gradient
from tumble.jobs.audit.measures.loop import loop_work
from tumble.jobs.audit.measures.rest import Rest, forbidden_at_rest
from tumble.jobs.audit.measures.smoothness import smoothness
from tumble.jobs.audit.settings import AuditSettings
from tumble.jobs.audit.subject import Subject, not_finite
from tumble.jobs.audit.tasks import needed
from tumble.jobs.audit.turned import Turned, turned
from tumble.potential import Potential, collate_for
from tumble.rotations import Rotations
from tumble.units import MEV

AS_IT_STANDS: Final = "the answer as it stands"

EXACT_A: Final = 1e-6
"""Å. Answers about orientations that are equivalent to this are taken from one another."""

FREQUENCIES: Final = Rotations.parse("T").generic()
"""Orientations in which force constants are computed; their scatter needs no high degree."""

T = TypeVar("T")


class Rounding(NamedTuple):
    """Rounding errors of a black box; zero for a potential with weights, which is asked in float64 where it matters."""

    energy_eV: float = 0.0
    force_eV_per_A: float = 0.0


@dataclass
class Attempts:
    """Runs measures one after the other; what a black box does to one of them is noted, not raised.

    is_tolerant: whether any error of a measure is taken for one of the potential's; ours have none, and must not hide.
    """

    is_tolerant: bool
    failures: list[Failure] = field(default_factory=list)

    def __call__(self, measure: str, function: Callable[[], T]) -> T | None:
        """What the function returns; None if it failed."""
        try:
            return function()
        except Exception as error:
            if not self.is_tolerant:
                raise
            self.note(measure, f"{type(error).__name__}: {error}")
        return None

    def note(self, measure: str, message: str) -> None:
        """Note a failure, if there is anything to say."""
        if message:
            self.failures.append(Failure(measure, message))


def survey(
    potential: Potential,
    atoms: Atoms,
    name: str,
    settings: AuditSettings,
    rule: Rotations | None,
    *,
    label: Properties | None = None,
    tick: Tick = lambda work: None,
) -> Finding:
    """Measure one structure.

    Args:
        potential: any Potential.
        atoms: one structure.
        name: what to call it.
        settings: of the audit.
        rule: that measures over orientations; None if no task needs it.
        label: reference energy () eV, forces (n, 3) eV/Å, stress (3, 3) eV/Å³, each or all None.
        tick: told of work done.

    Raises:
        ValueError: the rule that was asked for cannot see the anisotropy of this structure.
    """
    group, exact_group = space_group(atoms, settings.symprec), space_group(atoms, EXACT_A)
    seen = None if rule is None else check_resolution(rule, group.point)
    batch = collate_for(potential, [atoms])
    attempt = Attempts(is_black_box(potential))
    n_operations = len(group.turns) if group.point.is_finite else None
    raw, seconds = attempt(AS_IT_STANDS, lambda: timed_call(potential, batch)) or (Properties(), None)
    if seconds is not None:
        attempt.note(AS_IT_STANDS, not_finite(raw) or ("there is no energy" if raw.energy is None else ""))
    if seconds is None or attempt.failures:
        return Finding(name, atoms, n_operations, raw, seconds, failures=tuple(attempt.failures))
    _note_missing(raw, batch, attempt)
    promises = attempt("contracts", lambda: contracts(potential, atoms)) or ()
    subject = Subject(potential, atoms, batch, group, exact_group, raw, seconds, label)
    orbit = None
    if rule is not None and seen is not None:
        orbit = _turned(subject, rule, seen, settings, attempt, tick)
    rounding = _rounding(subject, orbit, attempt)
    crystal = _crystal(subject, rounding, settings, attempt, tick)
    return Finding(
        name=name,
        atoms=atoms,
        n_operations=n_operations,
        raw=raw,
        seconds_of_call=seconds,
        turned=orbit,
        dynamics=_dynamics(subject, orbit, rounding, settings, attempt),
        frequencies=crystal.frequencies,
        frequency_spread=crystal.frequency_spread,
        rest=crystal.rest,
        contracts=promises,
        failures=tuple(attempt.failures),
        skipped=crystal.skipped,
    )


def _turned(
    subject: Subject, rule: Rotations, seen: Resolution, settings: AuditSettings, attempt: Attempts, tick: Tick
) -> Turned | None:
    orbit = attempt("orientations", lambda: orbit_of(subject, rule, tick))
    if orbit is None or (problem := not_finite(orbit.properties)):
        attempt.note("orientations", "" if orbit is None else problem)
        return None
    return attempt("orientations", lambda: turned(subject, orbit, seen, settings, tick))


@dataclass(frozen=True)
class _Crystal:
    """What the symmetry of a structure forbids, and why that was not looked at."""

    frequencies: FrequencyError | None = None
    frequency_spread: FrequencySpread | None = None
    rest: Rest | None = None
    skipped: dict[str, str] = field(default_factory=dict)


def _crystal(subject: Subject, rounding: Rounding, settings: AuditSettings, attempt: Attempts, tick: Tick) -> _Crystal:
    """Force constants and what hangs on them, where a task needs them and the symmetry can forbid something."""
    asked = [name for name in ("curvature", "rest") if name in needed(settings.tasks)]
    if not asked or subject.raw.forces is None:
        return _Crystal()
    group = subject.group
    if len(group.turns) == 1 and group.point.is_finite:
        reason = "it has no symmetry that could forbid anything"
        return _Crystal(skipped=dict.fromkeys(asked, reason) if settings.tasks else {})
    calls, each = n_calls_needed(group), _price_displaced(subject)
    if calls * each > settings.budget:
        reason = f"its force constants take {calls} calls, more than the budget of {settings.budget:.0g} allows"
        return _Crystal(skipped=dict.fromkeys(asked, reason))
    potential, atoms, noise = subject.potential, subject.atoms, rounding.force_eV_per_A

    step = usual_step(potential, noise)

    def constants() -> tuple[Curvature, FrequencyError | None] | None:
        found = curvature(potential, atoms, group, step=step)
        return None if found is None else (found, frequency_error(found, atoms, rounding=noise))

    known = attempt("force constants", constants)
    tick(calls * each)
    if known is None:
        return _Crystal()
    rest = spread = None
    skipped = {}
    if "rest" in asked:
        rest = attempt("forbidden forces", lambda: forbidden_at_rest(potential, atoms, group, known[0]))
    if "curvature" in asked and (len(FREQUENCIES) + 1) * calls * each > settings.budget:
        skipped = {"frequencies over orientations": f"{len(FREQUENCIES) * calls} calls exceed the budget"}
    elif "curvature" in asked:
        spread = attempt(
            "frequencies over orientations",
            lambda: frequency_spread(potential, atoms, group, FREQUENCIES, step=step),
        )
        tick(len(FREQUENCIES) * calls * each)
    return _Crystal(known[1] if "curvature" in asked else None, spread, rest, skipped)


def _price_displaced(subject: Subject) -> int:
    """Of one call about the structure with an atom displaced, which has less symmetry to spare calls."""
    moved = subject.atoms.copy()
    moved.positions[0] += [0.011, 0.007, 0.003]
    return price(subject.potential, collate_for(subject.potential, [moved]))


def _dynamics(
    subject: Subject, orbit: Turned | None, rounding: Rounding, settings: AuditSettings, attempt: Attempts
) -> Dynamics:
    """Force gap, λ, loops, smoothness and the heating that follows."""
    if "dynamics" not in needed(settings.tasks) or subject.raw.forces is None:
        return Dynamics()
    potential, atoms, noise = subject.potential, subject.atoms, rounding.force_eV_per_A
    lam = attempt("Jacobian", lambda: _non_conservation(potential, atoms, noise))
    spread = None if orbit is None else orbit.orbit.spread().forces
    return Dynamics(
        force_gap=attempt("force gap", lambda: force_gap(potential, atoms, rounding=rounding.energy_eV)),
        jacobian=lam,
        loop=attempt("work around loops", lambda: loop_work(potential, atoms, rounding=noise)),
        smoothness=attempt("smoothness at the cutoff", lambda: smoothness(potential, atoms)),
        drift=None if lam is None else drift_of(lam, settings.temperature_K),
        turns=None if spread is None else turn_heating(spread.cpu().numpy(), atoms),
    )


def _non_conservation(potential: Potential, atoms: Atoms, rounding: float) -> NonConservation | None:
    """λ, measured unless it is zero by construction."""
    return BY_CONSTRUCTION if is_gradient(potential) else non_conservation(potential, atoms, rounding=rounding)


def _rounding(subject: Subject, orbit: Turned | None, attempt: Attempts) -> Rounding:
    """From the floor of the orbit where there is one; else from relabelled copies."""
    if next(subject.potential.parameters(), None) is not None:
        return Rounding()
    if orbit is not None:
        floor = orbit.floor
    else:
        noise = attempt("precision floor", lambda: scatter(subject.potential, subject.atoms))
        if noise is None:
            return Rounding()
        floor = subject.sized(noise)
    return Rounding(floor.energy_meV_per_atom * len(subject.atoms) / MEV, (floor.force_meV_per_A or 0.0) / MEV)


def _note_missing(raw: Properties, batch: Batch, attempt: Attempts) -> None:
    """Forces or stress that the potential does not give."""
    if raw.forces is None:
        attempt.note("forces", "this potential gives none")
    if raw.stress is None and bool(has_volume(batch)[0]):
        attempt.note("stress", "this potential gives none")
