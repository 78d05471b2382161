"""Figures of a relaxation: forces and energies along the walks, and symmetry against tolerance."""

from collections.abc import Sequence

import numpy as np

from tumble.descent import Walk
from tumble.jobs.relax.finding import Finding
from tumble.jobs.relax.settings import RelaxSettings
from tumble.jobs.relax.stairs import SYMPRECS, Stairs
from tumble.results import Curve, Series, number
from tumble.units import MEV

SHOWN = 3
"""Structures of which there are figures."""

DEEP = 1e-3
"""Of fmax: forces that a group makes smaller than that would leave no room for the others."""


def figures(findings: Sequence[Finding], settings: RelaxSettings) -> tuple[Curve, ...]:
    """All figures, of the structures that deserve it most."""
    shown = sorted(findings, key=_concern)[:SHOWN]
    made = [_staircase(one) for one in shown if len(one.walked.start) > 1]
    made += [_forces(shown, settings), _energies(shown), _stresses(shown)]
    return tuple(one for one in made if one is not None and one.series)


def _concern(finding: Finding) -> tuple[bool, int, float]:
    """Not at rest first, then doubtful symmetry, then large forces."""
    order = ("undecided", "artefact", "physical", None, "symmetric", "none")
    return finding.is_converged, order.index(finding.symmetry), -finding.force


def _staircase(finding: Finding) -> Curve:
    first = "in the group of the start" if finding.walked.how == "keep" else "after a free walk"
    parts = {"before": finding.before, first: finding.walked.after}
    if finding.within is not None:
        parts["after a walk in the group"] = finding.within
    series = [Series(name, *_steps(stairs)) for name, stairs in parts.items()]
    note = "A plateau is a symmetry that does not depend on the tolerance."
    if (plateau := finding.walked.plateau) is not None:
        note += f" Found: {plateau.stair.name}, from {plateau.first:.1g} to {plateau.last:.1g} Å."
    return Curve(
        f"Symmetry against tolerance: {finding.name}", "symprec, Å", "operations", series, log_x=True, note=note
    )


def _steps(stairs: Stairs) -> tuple[list[float], list[float]]:
    """Corners of a staircase; it ends where atoms merge."""
    known = [
        (symprec, float(one.n_operations)) for symprec, one in zip(SYMPRECS, stairs, strict=True) if one is not None
    ]
    x: list[float] = []
    y: list[float] = []
    for place, (symprec, count) in enumerate(known):
        if place and count != y[-1]:
            x.append(symprec)
            y.append(y[-1])
        x.append(symprec)
        y.append(count)
    return x, y


def _forces(shown: Sequence[Finding], settings: RelaxSettings) -> Curve:
    lowest = MEV * settings.fmax * DEEP
    series = [Series(name, steps, np.maximum(MEV * walk.forces, lowest)) for name, steps, walk in _walks(shown)]
    longest = max((float(one.x[-1]) for one in series if len(one.x)), default=1.0)  # type: ignore[arg-type,index]
    series.append(Series("fmax", (0.0, max(longest, 1.0)), (MEV * settings.fmax,) * 2))
    for one in shown[:1]:
        if one.floor is not None and one.floor.force > 0:
            name = f"lowest meaningful fmax of {one.name}"
            series.append(Series(name, (0.0, max(longest, 1.0)), (MEV * one.floor.force,) * 2))
    note = f"Smaller ones than {number(lowest)} meV/Å are drawn there."
    if len(shown) == SHOWN:
        note = f"Of the structures that are farthest from rest, or least clear. {note}"
    return Curve("Largest force", "step", "largest force, meV/Å", series, log_y=True, note=note)


def _energies(shown: Sequence[Finding]) -> Curve:
    series = []
    for one in shown:
        walks = [walk for walk in (one.walked.walk, one.walked.again) if walk is not None]
        energies = np.concatenate([walk.energies for walk in walks])
        lowest = float(energies[np.isfinite(energies)].min(initial=np.inf))
        for name, steps, walk in _walks([one]):
            above = MEV * (walk.energies - lowest) / len(walk.atoms)
            is_above = above > 1e-9
            series.append(Series(name, steps[is_above], above[is_above]))
    note = "Above the lowest of each structure; under pressure, enthalpies."
    return Curve("Energy along the walk", "step", "energy, meV/atom", series, log_y=True, note=note)


def _stresses(shown: Sequence[Finding]) -> Curve:
    series = [
        Series(name, steps, np.maximum(walk.stresses, 1e-9))
        for name, steps, walk in _walks(shown)
        if walk.stresses is not None
    ]
    note = "Largest component of stress plus pressure, in as far as the cell may follow."
    return Curve("Largest stress", "step", "largest stress, GPa", series, log_y=True, note=note)


def _walks(shown: Sequence[Finding]) -> list[tuple[str, np.ndarray, Walk]]:
    """Walks with their names and steps, one after the other."""
    walks = []
    for one in shown:
        count = len(one.walked.walk.energies)
        first = "in the group of the start" if one.walked.how == "keep" else "free"
        walks.append((f"{one.name}, {first}", np.arange(count), one.walked.walk))
        if one.walked.again is not None:
            walks.append(
                (f"{one.name}, in the group", np.arange(len(one.walked.again.energies)) + count - 1, one.walked.again)
            )
    return walks
