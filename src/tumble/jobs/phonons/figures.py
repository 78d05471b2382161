"""Figures of phonons: bands and density of states with ribbons, thermodynamics, energies along imaginary modes."""

import numpy as np

from tumble.jobs.phonons.constants import AVERAGED, BOTH, PROJECTED, RAW
from tumble.jobs.phonons.crystal import Crystal
from tumble.jobs.phonons.examined import Scanned
from tumble.jobs.phonons.molecule import PER_CM, Molecule
from tumble.jobs.phonons.path import ticks_of
from tumble.jobs.phonons.triage import Ruling
from tumble.results import Curve, Series

ORDER = (PROJECTED, RAW, AVERAGED, BOTH)
"""What is drawn, the most important first."""

MANY_BRANCHES = 24
"""With more only the projected and the raw bands are drawn."""


def figures(found: Crystal | Molecule, scanned: Scanned) -> tuple[Curve, ...]:
    """All figures, most telling first."""
    made = _of_crystal(found) if isinstance(found, Crystal) else [_lines(found)]
    if any(one.suspect.descent is not None for one in scanned.rulings):
        made.append(_descents(scanned.rulings))
    return tuple(made)


def _of_crystal(found: Crystal) -> list[Curve]:
    return [_bands(found), _states(found), _heat(found), _free_energy(found)]


def _bands(found: Crystal) -> Curve:
    n_branches = found.bands.errors_THz.shape[1]
    shown = [key for key in ORDER if key in found.constants and (n_branches <= MANY_BRANCHES or key in ORDER[:2])]
    series, start = [], 0
    runs: dict[int, list[tuple[slice, np.ndarray]]] = {}
    for one in found.segments:
        runs.setdefault(one.run, []).append((slice(start, start + len(one.x)), one.x))
        start += len(one.x)
    for key in shown:
        frequencies = found.bands.frequencies_THz[key]
        for number, parts in runs.items():
            rows = np.concatenate([np.arange(part.start, part.stop) for part, _ in parts])
            x = np.concatenate([along for _, along in parts])
            for branch in range(n_branches):
                error = found.bands.errors_THz[rows, branch] if key == PROJECTED and found.sizes is not None else None
                name = f"{key}, branch {branch}, part {number}"
                series.append(Series(name, x, frequencies[rows, branch], error, group=key))
    note = (
        "Imaginary frequencies are shown as negative. Ribbon of the projected bands: the first-order shift by what "
        "symmetry forbids of the force constants, or the whole shift where it is larger."
    )
    if found.sizes is None:
        note = "Imaginary frequencies are shown as negative. Reduced displacements hide what symmetry forbids."
    title, ticks = "Phonon bands", ticks_of(found.segments)
    return Curve(title, "wave vector", "frequency, THz", series, note=note, ticks=ticks)


def _states(found: Crystal) -> Curve:
    states = found.states
    series = [
        Series(
            key,
            states.grid_THz,
            states.densities[key],
            states.error if key == PROJECTED and found.sizes is not None else None,
        )
        for key in ORDER
        if key in found.constants
    ]
    counts = " × ".join(map(str, found.mesh.counts))
    note = (
        f"For each primitive cell; {counts} wave vectors, Gaussians of {states.width_THz:.2g} THz. Ribbon: half the "
        "difference between all modes shifted up and all shifted down by their error bars."
    )
    return Curve("Density of states", "frequency, THz", "states per THz", series, note=note)


def _heat(found: Crystal) -> Curve:
    exact, error = found.thermal[PROJECTED], found.thermal_error
    shown = error if found.sizes is not None else None
    series = [
        Series(name.replace("_", " "), exact.temperatures_K, getattr(exact, name), getattr(shown, name, None))
        for name in ("heat_capacity", "entropy")
    ]
    note = "At constant volume, of the projected force constants; ribbons as for the density of states."
    return Curve("Heat capacity and entropy", "temperature, K", "k_B per atom", series, note=note)


def _free_energy(found: Crystal) -> Curve:
    series = [
        Series(
            key,
            one.temperatures_K,
            one.free_energy,
            found.thermal_error.free_energy if key == PROJECTED and found.sizes is not None else None,
        )
        for key in ORDER
        if (one := found.thermal.get(key)) is not None
    ]
    return Curve(
        "Vibrational free energy", "temperature, K", "meV per atom", series, note="Zero-point energy included."
    )


def _lines(found: Molecule) -> Curve:
    exact = PER_CM * found.frequencies_THz[PROJECTED]
    series = [
        Series(key, exact, PER_CM * one - exact, PER_CM * found.errors_THz if key == PROJECTED else None)
        for key in ORDER
        if (one := found.frequencies_THz.get(key)) is not None
    ]
    note = "Whiskers: what symmetry forbids of the force constants. Translations and rotations are left out."
    title = "Frequencies, as they differ from the projected ones"
    return Curve(title, "projected frequency, cm⁻¹", "difference, cm⁻¹", series, kind="scatter", note=note)


def _descents(rulings: tuple[Ruling, ...]) -> Curve:
    series = []
    for one in rulings:
        if one.suspect.descent is not None:
            x = np.append(one.suspect.descent.amplitudes_A, 0.0)
            y = np.append(one.suspect.descent.energies_meV, 0.0)
            order = np.argsort(x)
            name = f"{one.suspect.frequency:.3g} THz, {one.kind}"
            series.append(Series(name, x[order], y[order]))
    note = "Of the whole supercell or molecule. A mode that is imaginary for a reason has lower energies aside of zero."
    return Curve(
        "Energy along imaginary modes", "displacement of the atom that moves most, Å", "meV", series, note=note
    )
