"""Curves of a training from its metrics: how errors fell, and what became of symmetry and conservation meanwhile."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from tumble.results import Curve, Series, number

Rows = Sequence[Mapping[str, Any]]

KINDS: Final = {"energy": ("Energy", "meV/atom"), "forces": ("Force", "meV/Å"), "stress": ("Stress", "meV/Å³")}

WEIGHTS: Final = {"averaged weights": "{}_mae", "raw weights": "raw_{}_mae", "direct heads": "direct_{}_mae"}
"""Series of the learning curves of one set, and their names in the metrics."""

MOST_SETS: Final = 6
"""Sets of a mixture that a figure has colours for."""


def curves(rows: Rows, sets: Sequence[str]) -> tuple[Curve, ...]:
    """All figures that the metrics hold numbers for.

    Args:
        rows: of metrics.jsonl.
        sets: names of the sets of a mixture; empty for a single one.
    """
    rows = with_epochs(rows)
    return (*learning(rows, sets), *symmetry(rows, sets), *memory(rows), *course(rows))


def with_epochs(rows: Rows) -> list[dict[str, Any]]:
    """The rows with "epochs", counted on from phase to phase, as many as there really were."""
    found, ended, last = [], 0, 0
    phase = rows[0]["phase"] if rows else 0
    for row in rows:
        if row["phase"] != phase:
            phase, ended, last = row["phase"], ended + last, 0
        last = row["epoch"]
        found.append({**row, "epochs": ended + last})
    return found


def learning(rows: Rows, sets: Sequence[str]) -> Iterator[Curve]:
    """Mean absolute errors against minutes and against steps."""
    for kind, (word, unit) in KINDS.items():
        labels = {label: name.format(kind) for label, name in WEIGHTS.items()}
        names = _named(sets, {"": f"{kind}_mae"}) if sets else labels
        note = f"{MOST_SETS} of {len(sets)} sets" if len(sets) > MOST_SETS else ""
        for title, x, axis, log in (
            (f"{word} error against time", "minutes", "minutes of training", False),
            (f"{word} error against steps", "step", "steps of the optimizer", True),
        ):
            said = "; ".join(filter(None, (note, begins(rows, x, axis.split()[0]))))
            yield from _curve(title, (axis, f"MAE, {unit}"), _series(rows, x, names), log_x=log, log_y=True, note=said)


def symmetry(rows: Rows, sets: Sequence[str]) -> Iterator[Curve]:
    """Rotational spread of the probe, its part of the error, λ and force gap."""
    for kind, word in (("forces", "forces"), ("energy", "the energy")):
        names = _named(sets, {"rotational spread": f"{kind}_spread"})
        if found := _series(rows, "epochs", names):
            if not sets:
                found += _series(rows, "epochs", {"RMSE, all of the validation set": f"{kind}_rmse"})
            yield from _curve(f"Rotational spread of {word}", ("epochs", f"rms, {KINDS[kind][1]}"), found, log_y=True)
    shares = {"forces": "spread_over_error", "energy": "energy_spread_over_error"}
    note = "its square is the part of the mean square error that averaging over orientations would remove"
    for title, names in _together("Rotational spread, as a part of the error", sets, shares):
        yield from _curve(title, ("epochs", "%"), _series(rows, "epochs", names, 100), note=note)
    broken = {"λ, antisymmetric part of the Jacobian": "curl", "force gap, direct against conservative": "force_gap"}
    for title, names in _together("Conservation of the direct forces", sets, broken):
        yield from _curve(title, ("epochs", "ratio"), _series(rows, "epochs", names), log_y=True)


def memory(rows: Rows) -> Iterator[Curve]:
    """What the training forgets of the files that it was to remember."""
    for kind, (word, unit) in KINDS.items():
        there = _series(rows, "epochs", {"to be remembered": f"remember_{kind}_mae"})
        if there:
            here = _series(rows, "epochs", {"what is learned": f"{kind}_mae"})
            yield from _curve(f"{word} error, old and new", ("epochs", f"MAE, {unit}"), (*there, *here), log_y=True)


def course(rows: Rows) -> Iterator[Curve]:
    """Loss, learning rate, speed, and time lost to waiting."""
    losses = {"training": "train_loss", "validation": "valid_loss"}
    note = begins(rows, "epochs", "epochs")
    yield from _curve("Loss", ("epochs", "loss"), _series(rows, "epochs", losses), log_y=True, note=note)
    rate = _series(rows, "epochs", {"learning rate": "rate"}, 100)
    yield from _curve("Learning rate", ("epochs", "% of its peak"), rate)
    speed = _series(rows, "epochs", {"speed": "steps_per_s"})
    yield from _curve("Speed", ("epochs", "steps per second"), speed)
    waited = _series(rows, "epochs", {"waiting": "waiting"}, 100)
    yield from _curve("Time spent waiting for data", ("epochs", "% of the time of steps"), waited)


def _named(sets: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """Labels and metrics of one number for a single set, or for each set of a mixture under its own name."""
    if not sets:
        return dict(names)
    return {one: f"{one}/{name}" for one in sets[:MOST_SETS] for name in names.values()}


def _together(title: str, sets: Sequence[str], names: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Several numbers in one figure for a single set, in one figure each for a mixture."""
    if not sets:
        yield title, dict(names)
    else:
        yield from ((f"{title}: {label}", _named(sets, {label: name})) for label, name in names.items())


def begins(rows: Rows, x: str, unit: str) -> str:
    """Where phases after the first begin, in words; nothing if there is but one."""
    ends = [number(one[x]) for one, other in pairwise(rows) if one["phase"] != other["phase"]]
    return f"a new phase begins after {' and '.join(ends)} {unit}" if ends else ""


def _series(rows: Rows, x: str, names: Mapping[str, str], factor: float = 1.0) -> tuple[Series, ...]:
    """A line for each name that the rows know."""
    found = []
    for label, name in names.items():
        known = [(row[x], factor * row[name]) for row in rows if row.get(name) is not None]
        if known:
            along, up = zip(*known, strict=True)
            found.append(Series(label, along, up))
    return tuple(found)


def _curve(title: str, axes: tuple[str, str], series: Iterable[Series], **how: Any) -> Iterator[Curve]:
    """The figure, if there is anything on it."""
    if lines := tuple(series):
        yield Curve(title, *axes, lines, **how)
