"""Figures of an audit: what a person would rather look at than read."""

from collections.abc import Sequence

import numpy as np

from tumble.batch import Properties
from tumble.jobs.audit.measures.spread import Sizes, Spectrum, is_resolving
from tumble.jobs.audit.settings import AuditSettings
from tumble.jobs.audit.survey import Finding
from tumble.results import Curve, Map, Series, Sketch
from tumble.units import BOLTZMANN, MEV

Floats = np.ndarray
POINTS = 3000
"""Most points of a scatter plot."""

BINS = 30


def figures(
    findings: Sequence[Finding], labels: Sequence[Properties | None], settings: AuditSettings
) -> tuple[Curve | Map | Sketch, ...]:
    """All figures, most telling first; those of one structure show the worst."""
    worst = worst_of(findings)
    resolved = worst_of([finding for finding in findings if finding.energy_spectrum is not None] or findings)
    made: list[Curve | Map | Sketch | None] = [
        _histogram(findings),
        _sketch(worst),
        _over_sphere(findings, settings),
        _spectrum(resolved),
        _convergence(worst),
        *_parities(findings, labels),
    ]
    return tuple(figure for figure in made if figure is not None)


def worst_of(findings: Sequence[Finding]) -> Finding:
    """The structure with the largest spread of a force component; of the energy where there are no forces."""
    return max(findings, key=lambda f: (f.spread.force_meV_per_A or 0.0, f.spread.energy_meV_per_atom))


def _histogram(findings: Sequence[Finding]) -> Curve | None:
    known = [(finding.name, spread) for finding in findings if (spread := finding.per_atom_meV_per_A) is not None]
    if not known:
        return None
    together = np.concatenate([spread for _, spread in known])
    lowest, highest = together.min(), together.max()
    # Rounding errors of many orders, or one value: bins of equal width would show nothing.
    edges = np.linspace(lowest, highest, BINS + 1) if highest > lowest else np.linspace(0, 2 * highest or 1, BINS + 1)
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


def _sketch(finding: Finding) -> Sketch | None:
    values = finding.per_atom_meV_per_A
    if values is None:
        return None
    atoms = finding.atoms
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


def _over_sphere(findings: Sequence[Finding], settings: AuditSettings) -> Map | None:
    """Of the molecule with the largest variation, in k_B T; where there is none, of the worst structure."""
    molecules = [finding for finding in findings if finding.is_molecule and len(finding.atoms) > 1]
    finding = (
        max(molecules, key=lambda f: f.spread.energy_meV_per_atom * len(f.atoms)) if molecules else worst_of(findings)
    )
    if not is_resolving(finding.orbit.rotations):
        return None
    l_max = finding.orbit.rotations.degree // 2
    longitude, latitude, values = finding.over_sphere()
    if molecules:
        unit, values = "k_BT", values / (BOLTZMANN * settings.temperature_K)
        title = f"Orientational free energy at {settings.temperature_K:g} K: {finding.name}"
    else:
        unit, values = "meV/atom", values * MEV / len(finding.atoms)
        title = f"Energy over orientations: {finding.name}"
    note = (
        f"Energy less its mean as a function of where {finding.axis[1]} points in the lab (latitude 90: along +z, "
        f"longitude 0: along +x), averaged over turns about it, in channels up to ℓ = {l_max}. One colour is right."
    )
    return Map(title, unit, longitude, latitude, values, note)


def _spectrum(finding: Finding) -> Curve | None:
    energy, forces = finding.energy_spectrum, finding.force_spectrum
    if energy is None:
        return None
    l_max = energy.fractions.shape[1] - 1
    series = [*_bars("energy", energy), *([] if forces is None else _bars("forces", forces))]
    floor = finding.floor.energy_meV_per_atom
    is_noise = finding.spread.energy_meV_per_atom <= 3 * floor
    note = (
        "Fractions of the variance over orientations. An averaging rule of degree L removes all ℓ ≤ L; pseudo channels "
        f"are removed by any rule with inversion. Above {l_max}: not resolved by {finding.orbit.rotations.name}."
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


def _convergence(finding: Finding) -> Curve | None:
    run = [one for one in finding.remedies if one.deviation is not None and one.deviation.force_meV_per_A is not None]
    if not run:
        return None
    most = max(one.n_calls for one in finding.remedies)
    series = [
        Series(
            "measured, as the file is oriented", [one.n_calls for one in run], [_force(one.deviation) for one in run]
        )
    ]
    known = [one for one in finding.remedies if one.expected is not None]
    if known:
        left = [_force(finding.spread), *(_force(one.expected) for one in known)]
        series.append(Series("expected, rms over orientations", [1, *(one.n_calls for one in known)], left))
    series.append(Series("precision floor", [1, most], [_force(finding.floor)] * 2))
    rules = ", ".join(f"{one.rule} {one.n_calls}" for one in finding.remedies)
    return Curve(
        f"Convergence with the number of rotations: {finding.name}",
        "rotations in the average",
        "deviation of a force component, meV/Å",
        series,
        log_x=True,
        log_y=True,
        note=f"Against the mean over {finding.orbit.rotations.name}. Rules: none 1, {rules}.",
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
