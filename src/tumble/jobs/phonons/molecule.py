"""Molecule: vibrations of a molecule, raw and repaired side by side."""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble.crystal import ideal, space_group
from tumble.jacobian.shifts import LEAST_THz, shifts_of, splittings_of
from tumble.jacobian.vibrations import modes, rigid_THz, weighted
from tumble.jobs.phonons.constants import AVERAGED, BOTH, PROJECTED, RAW, Measured, Sizes, differences, split
from tumble.jobs.phonons.settings import PhononsSettings
from tumble.jobs.phonons.thermal import QUANTUM, Thermal, thermal_of
from tumble.jobs.phonons.waves import noise_of
from tumble.potential import Potential
from tumble.results import Progress
from tumble.units import MEV

Floats = NDArray[np.float64]

PER_CM: Final = 33.3564095
"""cm⁻¹ per THz."""


class Molecule(NamedTuple):
    """Everything about the vibrations of one molecule; M modes, translations and rotations left out.

    atoms:           exactly symmetric.
    n_operations:    of its point group; None where any turn about an axis is one.
    constants:       key → (N, N, 3, 3) eV/Å².
    measured:        the force constants as they came.
    sizes:           what symmetry forbids.
    frequencies_THz: key → (M,) ascending, imaginary ones negative.
    errors_THz:      (M,) error bar of the projected by what symmetry forbids.
    noise_THz:       (M,) what rounding alone would make of it.
    splittings_THz:  key → largest width of a set of modes that symmetry makes degenerate.
    rigid_THz:       key → (5 or 6,) what is left of the motions as a whole before they are projected out.
    zero_point_meV:  key → ½ Σ hν over real modes.
    rows:            key → thermodynamics of the vibrations at the temperatures that were asked for.
    vectors:         (M, N, 3) displacements along the projected modes, the largest of each 1.
    """

    atoms: Atoms
    n_operations: int | None
    constants: dict[str, Floats]
    measured: dict[str, Measured]
    sizes: Sizes
    frequencies_THz: dict[str, Floats]
    errors_THz: Floats
    noise_THz: Floats
    splittings_THz: dict[str, float]
    rigid_THz: dict[str, Floats]
    zero_point_meV: dict[str, float]
    rows: dict[str, Thermal]
    vectors: Floats


def molecule_of(
    potentials: dict[str, Potential], atoms: Atoms, settings: PhononsSettings, tell: Callable[[Progress], None]
) -> Molecule:
    """Vibrations of a molecule.

    Args:
        potentials: the potential as "±"; where it is averaged too, that as "averaged".
        atoms: at rest, not periodic.
        settings: step, symprec, temperatures.
        tell: called with the number of displaced copies.

    Raises:
        ValueError: one atom.
    """
    if len(atoms) < 2:
        raise ValueError("a single atom has no vibrations; at least 2 atoms were expected.")
    group = space_group(atoms, settings.symprec)
    exact = ideal(atoms, group)
    every, step = range(len(atoms)), settings.displacement_A
    measured = {key: differences(one, exact, every, step, tell) for key, one in potentials.items()}
    both = measured[BOTH].both
    allowed, sizes = split(both, group)
    constants = {RAW: measured[BOTH].raw, BOTH: both, PROJECTED: allowed}
    if AVERAGED in measured:
        constants[AVERAGED] = measured[AVERAGED].both
    even = {key: (one + one.transpose(1, 0, 3, 2)) / 2 for key, one in constants.items()}
    found = {key: modes(one, exact) for key, one in even.items()}
    frequencies, vectors = found[PROJECTED]
    random = np.random.default_rng(0).normal(size=allowed.shape)

    def between(given: Floats) -> Floats:
        return np.asarray(vectors @ weighted(given, exact) @ vectors.T)[None]

    shifts, generic = shifts_of(between(allowed), between(even[BOTH] - allowed)), between(split(random, group)[0])
    error = measured[BOTH].rounding / (np.sqrt(2) * step)
    size = np.maximum(np.abs(frequencies), LEAST_THz)[None]
    moves = vectors.reshape(len(vectors), -1, 3) / np.sqrt(exact.get_masses())[:, None]
    known = {key: one.frequencies_THz for key, one in found.items()}
    temperatures = np.array(settings.temperatures_K)
    return Molecule(
        atoms=exact,
        n_operations=None if len(group.axes) else group.n_operations,
        constants=constants,
        measured=measured,
        sizes=sizes,
        frequencies_THz=known,
        errors_THz=shifts.error_THz[0],
        noise_THz=noise_of(size, vectors.T[None], exact.get_masses(), error, 1)[0],
        splittings_THz={key: float(splittings_of(shifts, between(one), generic)[0]) for key, one in even.items()},
        rigid_THz={key: rigid_THz(one, exact) for key, one in even.items()},
        zero_point_meV={key: MEV * QUANTUM * float(one[one > 0].sum()) / 2 for key, one in known.items()},
        rows={key: thermal_of(one[None], np.ones(1), temperatures, len(exact)) for key, one in known.items()},
        vectors=moves / np.linalg.norm(moves, axis=2).max(1)[:, None, None],
    )
