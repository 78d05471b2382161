"""Choice: the cheapest rule whose error is tolerable, from the orbits of some structures."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ase import Atoms

from tumble.batch import Batch, Properties, has_volume
from tumble.crystal import SpaceGroup
from tumble.orbit import Orbit, mean_over, n_calls_for, residual
from tumble.packs import weight
from tumble.potential import Potential, collate_for
from tumble.results import number
from tumble.rotations import Rotations
from tumble.symmetry.averaged import PRUNING_TOLERANCE
from tumble.symmetry.operations import operations
from tumble.symmetry.tolerance import UNITS, Tolerance

CANDIDATES: Final = ("none", "i", "T", "Th", "O", "Oh", "I", "Ih", "so3:6", "o3:6", "so3:7", "o3:7", "so3:8", "o3:8")
"""Rules to choose from; none is finer than what it is verified with."""

LADDER: Final = (("o3:8", "o3:10"), ("o3:6", "o3:8"))
"""Rules that measure and rules that verify, the finer pair first; the last is taken whatever it costs."""

BUDGET: Final = 2e7
"""Pair evaluations (pairs × calls) that measuring and verifying may take, all structures together."""

TURN: Final = Rotations.random(1, seed=11).matrices[0]
"""(3, 3) the second orientation in which a choice is verified, and the frame of the rule that verifies it."""


class Candidate(NamedTuple):
    """A rule that was looked at.

    rule:     what would be averaged over.
    n_calls:  of the potential, for each structure, with what its own symmetry saves.
    left:     what it is predicted to leave, in the unit of the tolerance, of the worst structure: a root mean square
              over orientations.
    verified: largest deviation of its mean from that over the finer rule, in two orientations of each structure; None
              if it was not tried.
    """

    rule: Rotations
    n_calls: tuple[int, ...]
    left: float
    verified: float | None = None


class Choice(NamedTuple):
    """The cheapest rule that is good enough, and why.

    chosen:     the candidate.
    tolerance:  what good enough means.
    before:     what the potential as it is would leave, in the unit of the tolerance.
    measured:   name of the measuring rule.
    verifying:  name of the verifying rule.
    candidates: all rules that were looked at, cheapest first, down to the chosen one.
    """

    chosen: Candidate
    tolerance: Tolerance
    before: float
    measured: str
    verifying: str
    candidates: tuple[Candidate, ...]

    @property
    def rule(self) -> Rotations:
        """What to average over."""
        return self.chosen.rule

    def __str__(self) -> str:
        """One line that says what was found."""
        calls = sorted(set(self.chosen.n_calls))
        many = str(calls[0]) if len(calls) == 1 else f"{calls[0]} to {calls[-1]}"
        left, before, verified = (number(size, 2) for size in (self.chosen.left, self.before, self.chosen.verified))
        return (
            f"{self.rule.name}: {many} {'call' if many == '1' else 'calls'} instead of "
            f"{len(Rotations.parse(self.measured))}, leaves {left} {self.tolerance.unit} of {before} "
            f"(tolerance {self.tolerance}), verified {verified}"
        )


class _Look(NamedTuple):
    """One structure, measured."""

    batch: Batch
    group: SpaceGroup
    orbit: Orbit


def choose(
    potential: Potential,
    structures: Atoms | Sequence[Atoms],
    tolerance: str | Tolerance,
    *,
    tell: Callable[[str], None] = lambda text: None,
) -> Choice:
    """The cheapest rule that leaves no more than a tolerance, measured on some structures and verified on them.

    The orbit of each structure over a measuring rule predicts what each rule would leave. The cheapest that is good
    enough for every structure is then tried: its mean, in two orientations, is compared with that over a finer rule in
    another frame. Where that fails, the next cheapest is tried.

    Args:
        potential: any Potential.
        structures: such as it will be used for; one or several, for a liquid a few frames.
        tolerance: see `Tolerance`; "1 meV/Å" is about the force on the worst atom.
        tell: told of the progress.

    Raises:
        ValueError: no structure, or a tolerance of what the potential or a structure does not have.
        RuntimeError: no rule is good enough.
    """
    limit = Tolerance.parse(tolerance) if isinstance(tolerance, str) else tolerance
    batches = [collate_for(potential, [one]) for one in ([structures] if isinstance(structures, Atoms) else structures)]
    if not batches:
        raise ValueError("a rule is chosen on structures, and 0 were given; at least 1 was expected. Give some.")
    coarse, fine = _rules(batches)
    looks = []
    for index, batch in enumerate(batches):
        [group] = operations(batch, PRUNING_TOLERANCE)
        tell(f"measuring structure {index + 1} of {len(batches)}: {n_calls_for(coarse, group)} calls ({coarse.name})")
        looks.append(_Look(batch, group, Orbit.of(potential, batch, coarse, groups=[group])))
    rules = [Rotations.parse(spec) for spec in CANDIDATES]
    before = max(_size(limit, look.orbit.spread(), look.batch) for look in looks)
    references: list[Properties] = []
    seen: list[Candidate] = []
    for rule in sorted(rules, key=lambda rule: _cost(rule, looks)):
        left = max(_size(limit, residual(look.orbit, rule), look.batch) for look in looks)
        seen.append(Candidate(rule, tuple(n_calls_for(rule, look.group) for look in looks), left))
        if left > limit.limit:
            continue
        if not references:
            tell(f"verifying: {sum(n_calls_for(fine, look.group) for look in looks)} calls ({fine.name})")
            references = [mean_over(potential, look.batch, fine.offset(TURN), groups=[look.group]) for look in looks]
        both = zip(looks, references, strict=True)
        verified = max(_deviation(potential, look, rule, mean, limit) for look, mean in both)
        seen[-1] = seen[-1]._replace(verified=verified)
        if verified <= limit.limit:
            return Choice(seen[-1], limit, before, coarse.name, fine.name, tuple(seen))
        tell(f"{rule.name} was predicted to leave {number(left, 2)} {limit.unit} and leaves {number(verified, 2)}")
    best = min(seen, key=lambda one: max(one.left, one.verified or 0.0))
    least = number(max(best.left, best.verified or 0.0), 2)
    raise RuntimeError(
        f"no rule leaves less than {limit}: of {number(before, 2)} {limit.unit} the best, {best.rule.name} with "
        f"{max(best.n_calls)} calls, leaves {least}. Allow more, or name a finer rule, such as o3:12, and audit "
        "what it leaves."
    )


def _rules(batches: Sequence[Batch]) -> tuple[Rotations, Rotations]:
    """The rule that measures, and the finer one that verifies."""
    for names in LADDER:
        coarse, fine = (Rotations.parse(name).generic() for name in names)
        if (len(coarse) + len(fine)) * sum(map(weight, batches)) <= BUDGET:
            break
    return coarse, fine


def _cost(rule: Rotations, looks: Sequence[_Look]) -> int:
    """Pair evaluations of the mean over a rule, all structures together."""
    return sum(n_calls_for(rule, look.group) * weight(look.batch) for look in looks)


def _deviation(potential: Potential, look: _Look, rule: Rotations, reference: Properties, limit: Tolerance) -> float:
    """Largest deviation of the mean over a rule from the best known one, in two orientations of the structure."""
    found = []
    for nodes in (rule, rule.offset(TURN)):
        mean = mean_over(potential, look.batch, nodes, groups=[look.group])
        pairs = zip(mean, reference, strict=True)
        norms = (None if a is None or b is None else (a - b).reshape(len(a), -1).norm(dim=1) for a, b in pairs)
        found.append(_size(limit, Properties(*norms), look.batch))
    return max(found)


def _size(limit: Tolerance, deviation: Properties, batch: Batch) -> float:
    """In the unit of the tolerance.

    Raises:
        ValueError: the potential or the structure lacks the quantity.
    """
    size = limit.size(deviation, batch.n_atoms)
    if size is None or (UNITS[limit.unit][0] == "stress" and not bool(has_volume(batch).all())):
        raise ValueError(
            f"a tolerance of {limit} is about the {UNITS[limit.unit][0]}, which this potential does not give for a "
            f"structure of {batch.n_atoms} atoms. State it in another unit, {', '.join(UNITS)}."
        )
    return size
