"""Rules: which one measures, what each remedy costs, and how the mean converges with the number of rotations."""

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import torch

from tumble.batch import Batch, Properties
from tumble.crystal import RESOLVED, SpaceGroup, resolution
from tumble.jobs.audit.measures.spread import Sizes, difference, is_resolving, larger
from tumble.jobs.audit.settings import AUTO, AuditSettings
from tumble.jobs.audit.subject import Subject
from tumble.models.pet import LLPR
from tumble.orbit import Orbit, mean_over, n_calls_for, passes, residual
from tumble.potential import Direct, Gradient, Potential, Sum
from tumble.rotations import Rotations
from tumble.symmetry import Projected, Symmetrized

MEASURING: Final[tuple[str, ...]] = ("o3:10", "o3:8", "o3:6", "Ih", "Oh", "Th", "T")
"""Measuring rules, finest first; the last is taken whatever it costs."""

PAIRS_OF_AN_ATOM: Final = 10
"""Least cost of an atom, in pairs: a black box searches its own, and an isolated atom has none."""

Tick = Callable[[float], None]
"""Told of work done, in pair evaluations."""


def price(potential: Potential, batch: Batch) -> int:
    """Pair evaluations in one call: pairs times the calls that the potential makes itself."""
    return max(batch.n_pairs, PAIRS_OF_AN_ATOM * batch.n_atoms) * _n_calls(potential, batch)


def measuring_rules(settings: AuditSettings, prices: Sequence[int]) -> list[Rotations]:
    """The rule that measures each structure: the one that was asked for, or the finest within its share of the budget.

    The cheapest structure chooses first, and what it does not need goes to the others.

    Args:
        settings: of the audit.
        prices: of one call about each structure, from `price`.
    """
    if settings.rotations != AUTO:
        return [Rotations.parse(settings.rotations)] * len(prices)
    left, chosen = settings.budget, [""] * len(prices)
    order = sorted(range(len(prices)), key=lambda index: prices[index])
    counts = {spec: len(Rotations.parse(spec)) for spec in MEASURING}
    for place, index in enumerate(order):
        share = left / (len(order) - place)
        affordable = (spec for spec in MEASURING if counts[spec] * prices[index] <= share)
        chosen[index] = next(affordable, MEASURING[-1])
        left -= counts[chosen[index]] * prices[index]
    rules = {spec: Rotations.parse(spec).generic() for spec in set(chosen)}
    return [rules[spec] for spec in chosen]


def orbit_of(subject: Subject, rule: Rotations, tick: Tick = lambda work: None) -> Orbit:
    """`Orbit.of` one structure, asked once for what its own symmetry makes equal, telling of every piece."""
    potential, batch = subject.potential, subject.batch
    group = subject.exact_group if n_calls_for(rule, subject.exact_group) < len(rule) else None
    each, places, pieces = price(potential, batch), [], []
    for where, weights, answers in passes(potential, batch, rule, group=group):
        places.append(where)
        pieces.append(answers)
        tick(each * len(weights))
    order = torch.argsort(torch.cat(places))
    columns = zip(*pieces, strict=True)
    fields = ([f for f in column if f is not None] for column in columns)
    whole = (torch.cat(known)[order] if len(known) == len(pieces) else None for known in fields)
    return Orbit(rule, Properties(*whole))


class Remedy(NamedTuple):
    """Averaging over one rule, for one structure.

    spec:      what was asked for.
    rule:      its name; in the generic frame where its own would not see the structure's anisotropy.
    n_calls:   calls of the potential instead of one: distinct orientations of the structure.
    times:     measured time over that of one raw call; None if the rule was not run.
    deviation: of the answers averaged in the frame of the structure from the best known mean; None if it was not run.
    expected:  what it leaves, root mean square over orientations, see `residual`; None if the measuring rule has no
               spectrum.
    """

    spec: str
    rule: str
    n_calls: int
    times: float | None
    deviation: Sizes | None
    expected: Sizes | None

    @property
    def left(self) -> Sizes | None:
        """What remains of each spread: the larger of what was measured and what is expected, or what is known of it."""
        if self.deviation is None or self.expected is None:
            return self.deviation or self.expected
        return larger(self.deviation, self.expected)


def remedies_run(specs: Sequence[str], n_nodes: int, group: SpaceGroup | None = None) -> tuple[list[Rotations], int]:
    """All rules, cheapest first, and how many of them are run: half as many calls as the measuring rule has nodes.

    A rule that sees one orientation of the structure again and again averages nothing; it is taken out of its frame.
    """
    rules = [Rotations.parse(spec) for spec in specs]
    if group is not None:
        rules = [rule if _sees(rule, group) else rule.generic() for rule in rules]
    rules.sort(key=lambda rule: (n_calls_for(rule, group), len(rule)))
    together = itertools.accumulate(n_calls_for(rule, group) for rule in rules)
    return rules, sum(calls <= n_nodes / 2 for calls in together)


def _sees(rule: Rotations, group: SpaceGroup) -> bool:
    return "@" in rule.name or resolution(rule, group.point).captured >= RESOLVED


def remedies(subject: Subject, orbit: Orbit, specs: Sequence[str], tick: Tick = lambda work: None) -> list[Remedy]:
    """Cost and effect of averaging over each rule, cheapest first.

    Args:
        subject: the structure.
        orbit: of it over the measuring rule; its mean is the best known one.
        specs: rules.
        tick: told of work done.
    """
    potential, batch, group = subject.potential, subject.batch, subject.exact_group
    reference, each = orbit.mean(), price(potential, batch)
    rules, n_run = remedies_run(specs, len(orbit.rotations), group)
    found: list[Remedy] = []
    for place, rule in enumerate(rules):
        times = deviation = expected = None
        if place < n_run:
            mean, seconds = _timed(partial(mean_over, potential, batch, rule, groups=[group]))
            times = seconds / subject.seconds_of_call
            tick(len(rule) * each)
            deviation = subject.sized(difference(mean, reference))
        if is_resolving(orbit.rotations):
            expected = subject.sized(residual(orbit, rule))
        found.append(
            Remedy(rule.name.partition("@generic")[0], rule.name, n_calls_for(rule, group), times, deviation, expected)
        )
    return found


def timed_call(potential: Potential, batch: Batch) -> tuple[Properties, float]:
    """The raw answer, and the seconds that it took."""
    return _timed(partial(potential, batch))


def _timed(ask: Callable[[], Properties]) -> tuple[Properties, float]:
    """An answer, and the shortest of up to five times that it took, within about a tenth of a second."""
    seconds: list[float] = []
    while True:
        start = time.perf_counter()
        answer = ask()
        seconds.append(time.perf_counter() - start)
        if len(seconds) == 5 or sum(seconds) > 0.1:
            return answer, min(seconds)


def is_black_box(potential: Potential) -> bool:
    """Whether any part of it is another engine, whose failures are findings."""
    modules = [*potential.children(), *(one for list_ in potential.children() for one in list_.children())]
    parts = [one for one in modules if isinstance(one, Potential)]
    if not parts:
        return not isinstance(potential, Gradient | Direct | LLPR)
    return any(is_black_box(part) for part in parts)


def _n_calls(potential: Potential, batch: Batch) -> int:
    if isinstance(potential, Symmetrized):
        return max(potential.calls(batch)) * _n_calls(potential.inner, batch)
    if isinstance(potential, Projected):
        return _n_calls(potential.inner, batch)
    if isinstance(potential, Sum):
        return max(_n_calls(part, batch) for part in potential.parts)  # type: ignore[arg-type]
    return 1
