"""Verdicts: whether broken symmetry changes the conductivity, and whether there is one at all."""

from dataclasses import replace
from math import inf

from tumble.jobs.conductivity.finding import Finding
from tumble.jobs.conductivity.route import LABELS
from tumble.jobs.conductivity.settings import ConductivitySettings
from tumble.jobs.conductivity.transport import IMAGINARY, Transport
from tumble.results import Verdict, number

TASK = "thermal conductivity"
KEY = "conductivity"
PRECISE = "evaluate in float64; the precision used here cannot tell"


def verdict_of(found: Finding, settings: ConductivitySettings) -> Verdict:
    """One verdict: refused, as good as the change by repairs and orientations says, or not known."""
    limit = settings.share
    floor = found.result.floor
    if found.result.transport.is_refused:
        return _refused(found.result.transport, limit, floor)
    changes = {name: inf if one is None else one for name, one in found.by_repair.items()}
    turning = found.by_turning
    value = max([*changes.values(), *turning.values()], default=None)
    if value is None:
        reason = "one repair alone, in one orientation, does not show what broken symmetry changes"
        return Verdict(TASK, "unknown", None, limit, "", reason, "ask for more repairs, or for turns", key=KEY)
    reason = _reason(found, changes)
    verdict = Verdict(TASK, "yes", value if value < inf else None, limit, "", reason, floor=floor, key=KEY)
    if value <= limit:
        return verdict
    if value <= settings.floor_factor * floor:
        return replace(verdict, answer="unknown", remedy=PRECISE)
    is_averaged = found.result.name == LABELS["averaged"]
    if turning.get(found.result.name, 0.0) <= limit:
        average = f"average over {settings.average}: tumble symmetrize"
        remedy = average if is_averaged else f"take the {found.result.name} result"
        return replace(verdict, answer="remedy", remedy=remedy, cost=_cost(found))
    another = "average over a finer rule, or in another frame, such as O@generic" if is_averaged else "add averaged"
    return replace(verdict, answer="no", remedy=f"{another}, and ask again")


def _refused(transport: Transport, limit: float, floor: float) -> Verdict:
    """Imaginary modes speak against the potential or the crystal, modes that nothing scatters against the mesh."""
    mesh = " × ".join(map(str, transport.mesh))
    reason = f"{transport.refused} on the mesh {mesh}, and conductivity was not computed"
    if transport.refused == IMAGINARY:
        reason += f": they go down to {number(float(transport.frequencies_THz.min()))} THz"
        remedy = "tumble phonons tells whether the crystal is not stable or the force constants are not converged"
        return Verdict(TASK, "no", None, limit, "", reason, remedy, floor=floor, key=KEY)
    remedy = "ask for a finer mesh or an odd one, or for isotopes or boundaries"
    return Verdict(TASK, "unknown", None, limit, "", reason, remedy, floor=floor, key=KEY)


def _reason(found: Finding, changes: dict[str, float]) -> str:
    words = []
    if changes:
        worst = max(changes, key=lambda name: changes[name])
        against = f"the {found.result.name} conductivity at {number(found.temperature_K)} K"
        if changes[worst] == inf:
            words.append(f"{worst} has no conductivity, unlike {found.result.name}")
        else:
            words.append(f"{worst} differs by {number(100 * changes[worst])} % from {against}")
    for name, change in found.by_turning.items():
        words.append(f"in another orientation of the crystal, {name} changes by {number(100 * change)} %")
    if found.half is not None and (half := found.change(found.half, found.result.transport)) is not None:
        words.append(f"on half the mesh it changes by {number(100 * half)} %, which is no matter of symmetry")
    return "; ".join(words)


def _cost(found: Finding) -> str:
    first, last = found.routes[0], found.result
    times = last.seconds / max(first.seconds, 1e-9)
    return f"{last.n_calls} calls, {number(times)} × the time of {first.name}"
