"""Triage: whether an imaginary mode is a property of the crystal, noise, or a computation that has not converged."""

from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble.jacobian import rounding_of
from tumble.jacobian.shifts import Shifts
from tumble.jobs.phonons.constants import AVERAGED
from tumble.packs import predict
from tumble.potential import Potential
from tumble.results import number
from tumble.units import MEV

Floats = NDArray[np.float64]

AMPLITUDES: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Å, of the atom that moves farthest along a mode."""

MOST = 6
"""Imaginary modes that are looked at, the most imaginary first."""

HALF, TWICE = "half the displacement", "twice the displacement"

ALIKE_THz = 1e-3
"""Imaginary modes that differ by less are those of equivalent wave vectors, or degenerate."""

Kind = Literal["physical", "noise", "unconverged"]


class Descent(NamedTuple):
    """Energies along a mode.

    amplitudes_A: (K,) of the atom that moves farthest, both ways, without 0.
    energies_meV: (K,) relative to the structure at rest, of the supercell.
    noise_meV:    of an energy difference, as the digits of the energies show it.
    """

    amplitudes_A: Floats
    energies_meV: Floats
    noise_meV: float

    @property
    def depth_meV(self) -> float:
        """How far the energy falls; 0 where it only rises."""
        return max(0.0, -float(self.energies_meV.min()))

    @property
    def falls(self) -> bool:
        """Whether it falls by more than its noise."""
        return self.depth_meV > 3 * self.noise_meV


class Suspect(NamedTuple):
    """What is known about one imaginary mode of the projected force constants, frequencies in THz.

    q:           (3,) wave vector in the basis of the primitive reciprocal lattice; zeros for a molecule.
    band:        rank of the mode.
    frequency:   negative.
    error:       of ω², in THz², by what symmetry forbids; None where that is hidden.
    noise:       of ω², in THz², by rounding.
    others:      key → frequency of the same rank: raw, ±, averaged, other displacements, another precision.
    descent:     energies along the mode; None where the wave vector does not fit into the supercell.
    """

    q: Floats
    band: int
    frequency: float
    error: float | None
    noise: float
    others: dict[str, float]
    descent: Descent | None


class Ruling(NamedTuple):
    """What an imaginary mode is, and why."""

    suspect: Suspect
    kind: Kind
    reason: str
    remedy: str


class Candidates(NamedTuple):
    """Modes of the projected force constants at wave vectors that fit into the supercell.

    q:         (Q, 3) in the basis of the primitive reciprocal lattice.
    shifts:    (Q, M) frequencies, and what forbidden force constants do to them.
    noise:     (Q, M) THz, what rounding does to frequencies.
    direction: displacements (N, 3) along the mode of a wave vector and a rank, the largest of them 1.
    is_hidden: whether reduced displacements hide what symmetry forbids.
    """

    q: Floats
    shifts: Shifts
    noise: Floats
    direction: Callable[[int, int], Floats]
    is_hidden: bool


def descent_of(potential: Potential, atoms: Atoms, direction: Floats) -> Descent:
    """Energies of a structure displaced along a direction (N, 3) whose largest displacement is 1."""
    amplitudes = np.array([sign * one for one in AMPLITUDES for sign in (1, -1)])
    copies = [atoms.copy()]
    for amplitude in amplitudes:
        copies.append(atoms.copy())
        copies[-1].positions += amplitude * direction
    answers = predict(potential, copies)
    energies = np.array([float(one.energy) for one in answers if one.energy is not None])
    noise = np.sqrt(2) * MEV * rounding_of(energies)
    return Descent(amplitudes, MEV * (energies[1:] - energies[0]), float(noise))


def rulings_of(
    candidates: Candidates, others: Mapping[str, Floats], potential: Potential, atoms: Atoms, tolerance: float
) -> tuple[Ruling, ...]:
    """What is said of each imaginary mode, the most imaginary first; of those alike, one.

    Args:
        candidates: where to look.
        others: key → (Q, M) THz, what other force constants give.
        potential: that knows the energy.
        atoms: N of them, at rest.
        tolerance: THz, below which an imaginary mode is taken for zero.
    """
    frequencies = candidates.shifts.frequencies_THz
    rulings = []
    for k, band in found_in(frequencies, tolerance):
        frequency = float(frequencies[k, band])
        suspect = Suspect(
            q=candidates.q[k],
            band=band,
            frequency=frequency,
            error=None if candidates.is_hidden else float(_change_of_square(candidates.shifts)[k, band]),
            noise=2 * abs(frequency) * float(candidates.noise[k, band]),
            others={key: float(one[k, band]) for key, one in others.items()},
            descent=descent_of(potential, atoms, candidates.direction(k, band)),
        )
        rulings.append(ruled(suspect, tolerance))
    return tuple(rulings)


def found_in(frequencies: Floats, tolerance: float) -> list[tuple[int, int]]:
    """Wave vector and rank of the imaginary modes among frequencies (Q, M) THz; at most `MOST`."""
    found: list[tuple[int, int]] = []
    for place in np.argsort(frequencies, axis=None, kind="stable"):
        k, band = divmod(int(place), frequencies.shape[1])
        if frequencies[k, band] >= -tolerance or len(found) == MOST:
            break
        if all(abs(frequencies[k, band] - frequencies[one]) > ALIKE_THz for one in found):
            found.append((k, band))
    return found


def _change_of_square(shifts: Shifts) -> Floats:
    """Size (Q, M) THz² of what a change does to ω²."""
    before, after = shifts.frequencies_THz, shifts.frequencies_THz + shifts.full_THz
    full = np.sign(after) * after**2 - np.sign(before) * before**2
    return np.asarray(np.maximum(np.abs(full), np.abs(2 * before * shifts.first_THz)))


def ruled(suspect: Suspect, tolerance: float) -> Ruling:
    """What is said of an imaginary mode. What makes it a mistake is looked for first, in the order of its cost."""
    square, others = suspect.frequency**2, suspect.others
    shown = f"ω² = −{number(square)} THz²"

    def ruling(kind: Kind, reason: str, remedy: str) -> Ruling:
        return Ruling(suspect, kind, reason, remedy)

    if square <= 3 * suspect.noise:
        return ruling("noise", f"{shown} is within the rounding of forces, {number(suspect.noise)}", "use float64")
    if suspect.error is not None and square <= suspect.error:
        reason = f"{shown} is within what forbidden force constants change it by, {number(suspect.error)}"
        return ruling("noise", reason, "average the potential over rotations, or train it longer")
    if suspect.descent is None:
        reason = "no wave vector that fits into the supercell is imaginary, only what is interpolated between them"
        return ruling("unconverged", reason, "use a larger supercell")
    if others.get(AVERAGED, suspect.frequency) > -tolerance:
        reason = f"the mode is real when the potential is averaged over rotations, {number(others[AVERAGED])} THz"
        return ruling("noise", reason, "average the potential over rotations")
    real = [key for key in (HALF, TWICE) if others.get(key, suspect.frequency) > -tolerance]
    if real:
        reason = f"with {real[0]} it is real, {number(others[real[0]])} THz"
        return ruling("unconverged", reason, "use a smaller displacement, in float64")
    if not suspect.descent.falls:
        reason = (
            f"along the mode the energy does not fall, up to {max(AMPLITUDES)} Å, by more than its noise of "
            f"{number(suspect.descent.noise_meV)} meV: forces and energy do not agree"
        )
        return ruling("noise", reason, "use forces that are the derivative of the energy, or a larger supercell")
    at = float(abs(suspect.descent.amplitudes_A[suspect.descent.energies_meV.argmin()]))
    reason = (
        f"along the mode the energy falls by {number(suspect.descent.depth_meV)} meV in the supercell, lowest at "
        f"{number(at)} Å of those tried; displacements and averages agree"
    )
    return ruling("physical", reason, "follow the mode and relax, or heat the crystal: it is not stable in this form")
