"""Figures of an audit: what a person would rather look at than read."""

from collections.abc import Sequence

import numpy as np

from tumble.batch import Properties
from tumble.jobs.audit.finding import Finding
from tumble.jobs.audit.measures.spread import Sizes, Spectrum, is_resolving
from tumble.jobs.audit.settings import AuditSettings
from tumble.jobs.audit.turned import Turned
from tumble.results import Curve, Map, Series, Sketch
from tumble.units import BOLTZMANN, MEV

Floats = np.ndarray
POINTS = 3000
"""Most points of a scatter plot."""

BINS = 30

EQUAL = 1e-4
"""Values that differ by a smaller share of the largest are drawn as one."""


Shown = tuple[Finding, Turned]
"""A structure, and what it shows when it is turned."""


def figures(
    findings: Sequence[Finding], labels: Sequence[Properties | None], settings: AuditSettings
) -> tuple[Curve | Map | Sketch, ...]:
    """All figures, most telling first; those of one structure show the worst."""
    seen = [(finding, finding.turned) for finding in findings if finding.turned is not None]
    made: list[Curve | Map | Sketch | None] = []
    if seen:
        worst = worst_of(seen)
        resolved = worst_of([one for one in seen if one[1].spectra] or seen)
        made += [_histogram(seen), _sketch(worst), _over_sphere(seen, settings), _spectrum(resolved)]
        made += [_convergence(worst)]
    made += [_frequencies(findings), _by_distance(findings), *_parities(findings, labels)]
    return tuple(figure for figure in made if figure is not None)


def worst_of(seen: Sequence[Shown]) -> Shown:
    """The structure with the largest spread of a force component; of the energy where there are no forces."""
    return max(seen, key=lambda one: (one[1].spread.force_meV_per_A or 0.0, one[1].spread.energy_meV_per_atom))


def _histogram(seen: Sequence[Shown]) -> Curve | None:
    known = [(finding.name, spread) for finding, one in seen if (spread := one.per_atom_meV_per_A) is not None]
    if not known:
        return None
    together = np.concatenate([spread for _, spread in known])
    lowest, highest = together.min(), together.max()
    # Equivalent atoms differ by rounding, which is nothing to look at.
    is_one_value = highest - lowest <= EQUAL * highest
    edges = np.linspace(0, 2 * highest or 1, BINS + 1) if is_one_value else np.linspace(lowest, highest, BINS + 1)
    shown = known if len(known) <= 4 else [(f"{len(known)} structures", together)]
    series = tuple(Series(name, edges, np.histogram(spread, edges)[0]) for name, spread in shown)
    return Curve(
        "Rotational spread of the forces",
        "spread of the force on an atom, meV/Å",
        "atoms",
        series,
        kind="histogram",
        note="Norm over components of the deviation of the turned-back force from its mean.",
    )


def _sketch(worst: Shown) -> Sketch | None:
    finding, values = worst[0], worst[1].per_atom_meV_per_A
    if values is None:
        return None
    atoms = finding.atoms
    if np.ptp(values) <= EQUAL * values.max():
        values = np.full_like(values, values.mean())
    return Sketch(
        f"Where the forces depend on orientation: {finding.name}",
        "meV/Å",
        atoms.numbers,
        atoms.positions,
        atoms.cell.array,
        atoms.pbc,
        values,
        note="Rotational spread of the force on each atom, of the structure where it is largest.",
    )


def _over_sphere(seen: Sequence[Shown], settings: AuditSettings) -> Map | None:
    """Of the molecule with the largest variation, in k_B T; where there is none, of the worst structure."""
    molecules = [one for one in seen if one[0].is_molecule and len(one[0].atoms) > 1]
    finding, turned = (
        max(molecules, key=lambda one: one[1].spread.energy_meV_per_atom * len(one[0].atoms))
        if molecules
        else worst_of(seen)
    )
    if not is_resolving(turned.orbit.rotations):
        return None
    l_max = turned.orbit.rotations.degree // 2
    longitude, latitude, values = turned.over_sphere()
    if molecules:
        unit, values = "k_BT", values / (BOLTZMANN * settings.temperature_K)
        title = f"Orientational free energy at {settings.temperature_K:g} K: {finding.name}"
    else:
        unit, values = "meV/atom", values * MEV / len(finding.atoms)
        title = f"Energy over orientations: {finding.name}"
    note = (
        f"Energy less its mean as a function of where {turned.axis[1]} points in the lab (latitude 90: along +z, "
        f"longitude 0: along +x), averaged over turns about it, in channels up to ℓ = {l_max}. One colour is right."
    )
    return Map(title, unit, longitude, latitude, values, note)


def _spectrum(shown: Shown) -> Curve | None:
    finding, turned = shown
    if not turned.spectra:
        return None
    l_max = turned.spectra["energy"].fractions.shape[1] - 1
    series = [bar for name, spectrum in turned.spectra.items() for bar in _bars(name, spectrum)]
    floor = turned.floor.energy_meV_per_atom
    is_noise = turned.spread.energy_meV_per_atom <= 3 * floor
    note = (
        "Fractions of the variance over orientations. An averaging rule of degree L removes all ℓ ≤ L; pseudo channels "
        f"are removed by any rule with inversion. Above {l_max}: not resolved by {turned.orbit.rotations.name}."
    )
    if is_noise:
        note += f" This is the spectrum of rounding errors: the spread is at the precision floor, {floor:.1e} meV/atom."
    title = f"Spectrum of the anisotropy: {finding.name}"
    return Curve(title, "angular degree ℓ", "fraction of the variance", series, kind="bars", note=note)


def _bars(name: str, spectrum: Spectrum) -> list[Series]:
    l_max = spectrum.fractions.shape[1] - 1
    words = [str(ell) for ell in range(l_max + 1)] + [f"above {l_max}"]
    proper = [*spectrum.fractions[0].tolist(), spectrum.rest]
    if len(spectrum.fractions) == 1:
        return [Series(name, words[1:], proper[1:])]
    series = [Series(f"{name}, proper", words, proper)]
    pseudo = [*spectrum.fractions[1].tolist(), 0.0]
    if max(pseudo) > 1e-3:
        series.append(Series(f"{name}, pseudo", words, pseudo))
    return series


def _convergence(shown: Shown) -> Curve | None:
    finding, turned = shown
    run = [one for one in turned.remedies if one.deviation is not None and one.deviation.force_meV_per_A is not None]
    if not run:
        return None
    most = max(one.n_calls for one in turned.remedies)
    series = [
        Series(
            "measured, as the file is oriented", [one.n_calls for one in run], [_force(one.deviation) for one in run]
        )
    ]
    known = [one for one in turned.remedies if one.expected is not None]
    if known:
        left = [_force(turned.spread), *(_force(one.expected) for one in known)]
        series.append(Series("expected, rms over orientations", [1, *(one.n_calls for one in known)], left))
    series.append(Series("precision floor", [1, most], [_force(turned.floor)] * 2))
    rules = ", ".join(f"{one.rule} {one.n_calls}" for one in turned.remedies)
    return Curve(
        f"Convergence of the average: {finding.name}",
        "calls of the potential, distinct orientations",
        "deviation of a force component, meV/Å",
        series,
        log_x=True,
        log_y=True,
        note=f"Against the mean over {turned.orbit.rotations.name}. Rules: none 1, {rules}.",
    )


def _frequencies(findings: Sequence[Finding]) -> Curve | None:
    known = [(finding.name, found) for finding in findings if (found := finding.frequencies) is not None]
    if not known:
        return None
    return Curve(
        "What forbidden force constants do to frequencies",
        "frequency, THz",
        "shift, THz",
        [Series(name, found.frequencies_THz, found.shifts_THz) for name, found in known[:6]],
        kind="scatter",
        note="Shift of each mode of the cell by what the space group forbids; zero is right.",
    )


def _by_distance(findings: Sequence[Finding]) -> Curve | None:
    known = [(f.name, f.dynamics.jacobian.by_distance) for f in findings if f.dynamics.jacobian is not None]
    shown = [Series(name, one.distance_A, one.ratio) for name, one in known if one is not None and one.ratio.any()]
    if not shown:
        return None
    return Curve(
        "How far from conservative, by distance",
        "distance of two atoms, Å",
        "λ(r)",
        shown[:6],
        note="Antisymmetric part of the Jacobian of the forces over all of it, among pairs of atoms at a distance.",
    )


def _force(sizes: Sizes | None) -> float:
    return 0.0 if sizes is None else sizes.force_meV_per_A or 0.0


def _parities(findings: Sequence[Finding], labels: Sequence[Properties | None]) -> list[Curve]:
    curves = []
    plans = (("energy", "energy, eV/atom"), ("forces", "force component, eV/Å"), ("stress", "stress component, eV/Å³"))
    for name, axis in plans:
        known, said = [], []
        for finding, label in zip(findings, labels, strict=True):
            reference, answer = getattr(label, name, None), getattr(finding.raw, name)
            if reference is None or answer is None:
                continue
            per = len(finding.atoms) if name == "energy" else 1
            known.append(reference.double().cpu().numpy().ravel() / per)
            said.append(answer.double().cpu().numpy().ravel() / per)
        if known:
            x, y = np.concatenate(known), np.concatenate(said)
            chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).astype(int))
            line = Series("as it stands", x[chosen], y[chosen])
            curves.append(Curve(f"Parity: {name}", f"reference {axis}", f"predicted {axis}", (line,), kind="parity"))
    return curves
