"""Examined: other displacements, another precision, and what imaginary modes are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumble.jacobian.shifts import LEAST_THz, shifts_of
from tumble.jacobian.vibrations import frequencies_of, modes, weighted
from tumble.jobs.phonons.cells import required
from tumble.jobs.phonons.constants import BOTH, PROJECTED, Floats, measured, projected
from tumble.jobs.phonons.crystal import Crystal, is_reduced
from tumble.jobs.phonons.molecule import Molecule, molecule_of
from tumble.jobs.phonons.settings import PhononsSettings
from tumble.jobs.phonons.triage import HALF, TWICE, Candidates, Ruling, Suspect, found_in, ruled, rulings_of
from tumble.jobs.phonons.waves import matrices, noise_of, wave
from tumble.potential import Potential
from tumble.results import Progress

Tell = Callable[[Progress], None]


class Scan(NamedTuple):
    """Projected frequencies with another displacement, against those of the first.

    step_A:     the displacement.
    rms_THz:    over the mesh, or all modes of a molecule.
    worst_THz:  the largest difference.
    lowest_THz: the lowest frequency, negative if imaginary.
    forbidden:  what symmetry forbids of the force constants; None where that is hidden.
    """

    step_A: float
    rms_THz: float
    worst_THz: float
    lowest_THz: float
    forbidden: float | None


class Scanned(NamedTuple):
    """What was looked at beyond the first displacement."""

    scans: tuple[Scan, ...]
    rulings: tuple[Ruling, ...]


def of_crystal(
    found: Crystal, given: Potential, potentials: dict[str, Potential], settings: PhononsSettings, tell: Tell
) -> Scanned:
    """Scan the displacement, and rule on imaginary modes if there are any.

    Args:
        found: the phonons.
        given: the potential as the user gave it, in its own precision.
        potentials: those that were used.
        settings: of the job.
        tell: called with the number of displaced supercells.
    """
    cells, reduced = found.cells, is_reduced(settings, len(found.cells.chosen))

    def again(potential: Potential, step: float) -> tuple[Floats, float]:
        allowed, sizes = projected(measured(potential, cells, step, reduced=reduced, tell=tell).both, cells)
        return allowed, sizes.forbidden

    scans = []
    for step in settings.scan_A:
        constants, forbidden = again(potentials[BOTH], step)
        frequencies = _frequencies(found, constants, found.mesh.q)
        difference = frequencies - found.modes.frequencies_THz[PROJECTED]
        worst, lowest = float(np.abs(difference).max()), float(frequencies.min())
        scans.append(Scan(step, found.rms(difference), worst, lowest, None if reduced else forbidden))
    q = required("phonopy.harmonic.dynmat_to_fc").get_commensurate_points(
        np.rint(np.linalg.inv(cells.engine.primitive.primitive_matrix)).astype(int)
    )
    exact = _matrices(found, found.constants[PROJECTED], q)
    change = matrices(cells, found.constants[BOTH] - found.constants[PROJECTED], q)
    shifts = shifts_of(exact, change)
    if not found_in(shifts.frequencies_THz, settings.imaginary_THz):
        return Scanned(tuple(scans), _interpolated(found, settings.imaginary_THz))
    others = {key: _frequencies(found, one, q) for key, one in found.constants.items() if key != PROJECTED}
    for key, potential, step in _variations(given, potentials[BOTH], settings):
        others[key] = _frequencies(found, again(potential, step)[0], q)
    candidates = Candidates(
        q,
        shifts,
        _noise(found, shifts.frequencies_THz, shifts.vectors, settings.displacement_A),
        lambda k, band: wave(cells, q[k], shifts.vectors[k][:, band]),
        reduced,
    )
    rulings = rulings_of(candidates, others, potentials[BOTH], cells.supercell, settings.imaginary_THz)
    return Scanned(tuple(scans), rulings)


def of_molecule(
    found: Molecule, given: Potential, potentials: dict[str, Potential], settings: PhononsSettings, tell: Tell
) -> Scanned:
    """As `of_crystal`, of a molecule."""

    def again(potential: Potential, step: float) -> Molecule:
        return molecule_of({BOTH: potential}, found.atoms, settings.model_copy(update={"displacement_A": step}), tell)

    exact, scans = found.frequencies_THz[PROJECTED], []
    for step in settings.scan_A:
        other = again(potentials[BOTH], step)
        change = other.frequencies_THz[PROJECTED] - exact
        rms, worst = float(np.sqrt(np.mean(change**2))), float(np.abs(change).max())
        lowest = float(other.frequencies_THz[PROJECTED].min())
        scans.append(Scan(step, rms, worst, lowest, other.sizes.forbidden))
    if not found_in(exact[None], settings.imaginary_THz):
        return Scanned(tuple(scans), ())
    vectors = modes(found.constants[PROJECTED], found.atoms).vectors
    both = (found.constants[BOTH] + found.constants[BOTH].transpose(1, 0, 3, 2)) / 2
    within = np.diag((vectors @ weighted(found.constants[PROJECTED], found.atoms) @ vectors.T).diagonal())
    change = vectors @ weighted(both - found.constants[PROJECTED], found.atoms) @ vectors.T
    others = {key: one[None] for key, one in found.frequencies_THz.items() if key != PROJECTED}
    for key, potential, step in _variations(given, potentials[BOTH], settings):
        others[key] = again(potential, step).frequencies_THz[PROJECTED][None]
    candidates = Candidates(
        np.zeros((1, 3)),
        shifts_of(within[None], change[None]),
        found.noise_THz[None],
        lambda k, band: found.vectors[band],
        False,
    )
    rulings = rulings_of(candidates, others, potentials[BOTH], found.atoms, settings.imaginary_THz)
    return Scanned(tuple(scans), rulings)


def _variations(given: Potential, used: Potential, settings: PhononsSettings) -> list[tuple[str, Potential, float]]:
    """Names, potentials and displacements, Å, of what is done again to see whether an imaginary mode stays."""
    step = settings.displacement_A
    varied = [(HALF, used, step / 2), (TWICE, used, 2 * step)]
    if given.dtype != used.dtype:
        varied.append((str(given.dtype).removeprefix("torch."), given, step))
    return varied


def _interpolated(found: Crystal, tolerance: float) -> tuple[Ruling, ...]:
    """Of imaginary modes between the wave vectors that fit into the supercell, the worst."""
    frequencies = found.modes.frequencies_THz[PROJECTED]
    k, band = np.unravel_index(int(frequencies.argmin()), frequencies.shape)
    q, lowest, where = found.mesh.q[k], float(frequencies[k, band]), found.modes
    along = found.bands.frequencies_THz[PROJECTED]
    if along.min() < lowest:
        k, band = np.unravel_index(int(along.argmin()), along.shape)
        q, lowest, where = np.concatenate([one.q for one in found.segments])[k], float(along[k, band]), found.bands
    if lowest >= -tolerance:
        return ()
    others = {key: float(one[k, band]) for key, one in where.frequencies_THz.items() if key != PROJECTED}
    noise = 2 * abs(lowest) * float(where.noise_THz[k, band])
    error = None if found.sizes is None else 2 * abs(lowest) * float(where.errors_THz[k, band])
    return (ruled(Suspect(q, int(band), lowest, error, noise, others, None), tolerance),)


def _matrices(found: Crystal, constants: Floats, q: Floats) -> NDArray[np.complex128]:
    return matrices(found.cells, constants, q, None if found.charges is None else found.charges.engine)


def _frequencies(found: Crystal, constants: Floats, q: Floats) -> Floats:
    return frequencies_of(np.linalg.eigvalsh(_matrices(found, constants, q)))


def _noise(found: Crystal, frequencies: Floats, vectors: Any, step: float) -> Floats:
    cells = found.cells
    error = found.measured[BOTH].rounding / (np.sqrt(2) * step)
    size = np.maximum(np.abs(frequencies), LEAST_THz)
    return noise_of(size, vectors, cells.primitive.get_masses(), error, len(cells.supercell) // len(cells.chosen))
