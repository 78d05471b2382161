"""Crystal: phonons of a crystal, raw and repaired side by side, with what symmetry forbids as error bars."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble.jacobian.shifts import LEAST_THz, shifts_of, splittings_of
from tumble.jacobian.vibrations import frequencies_of
from tumble.jobs.phonons.cells import Cells, cells_of
from tumble.jobs.phonons.charges import Charges, charges_of
from tumble.jobs.phonons.constants import AVERAGED, BOTH, PROJECTED, RAW, Measured, Sizes, measured, projected
from tumble.jobs.phonons.path import Segment, segments_of
from tumble.jobs.phonons.settings import PhononsSettings
from tumble.jobs.phonons.thermal import Thermal, grid_of, states_of, thermal_of
from tumble.jobs.phonons.waves import AT_ONCE, Mesh, matrices, mesh_of, noise_of
from tumble.potential import Potential
from tumble.results import Progress

Floats = NDArray[np.float64]


class Waves(NamedTuple):
    """Frequencies at Q wave vectors, for each way to make the force constants, and the error bar of the projected.

    frequencies_THz: key → (Q, M) ascending, imaginary ones negative.
    errors_THz:      (Q, M) first-order shift by what symmetry forbids, or the whole one where it is larger.
    first_THz:       (Q, M) the first-order shift alone, with its sign.
    noise_THz:       (Q, M) what rounding alone would make of the errors.
    """

    frequencies_THz: dict[str, Floats]
    errors_THz: Floats
    first_THz: Floats
    noise_THz: Floats


class States(NamedTuple):
    """Density of states.

    grid_THz:  (G,).
    densities: key → (G,) 1/THz for each primitive cell.
    error:     (G,) of the projected one: half the difference between all modes shifted up and down by their errors.
    width_THz: of the Gaussians.
    """

    grid_THz: Floats
    densities: dict[str, Floats]
    error: Floats
    width_THz: float


class Crystal(NamedTuple):
    """Everything about the phonons of one crystal.

    cells:      what it is made of.
    constants:  key → (n, N, 3, 3) eV/Å².
    measured:   the force constants as they came; of the averaged potential too, where there is one.
    sizes:      what symmetry forbids; None where reduced displacements hide it.
    segments:   the path; bands: along it, all segments one after the other.
    mesh:       wave vectors; modes: there.
    states:     their density.
    thermal:    key → on a fine grid of temperatures; error: half the difference of shifted modes, of the projected.
    rows:       key → at the temperatures that were asked for.
    acoustic:   key → (3,) THz, what is left of the translations at Γ.
    splittings: key → (Q + 1,) THz, largest width of modes that symmetry makes degenerate, along the path and at Γ.
    charges:    None without.
    """

    cells: Cells
    constants: dict[str, Floats]
    measured: dict[str, Measured]
    sizes: Sizes | None
    segments: list[Segment]
    bands: Waves
    mesh: Mesh
    modes: Waves
    states: States
    thermal: dict[str, Thermal]
    thermal_error: Thermal
    rows: dict[str, Thermal]
    acoustic: dict[str, Floats]
    splittings: dict[str, Floats]
    charges: Charges | None

    def difference(self, key: str) -> Floats:
        """How frequencies (Q, M) on the mesh differ from the projected ones, THz."""
        return self.modes.frequencies_THz[key] - self.modes.frequencies_THz[PROJECTED]

    def lowest_THz(self, key: str) -> float:
        """The lowest frequency on the mesh and along the path, negative if imaginary."""
        return float(min(one.frequencies_THz[key].min() for one in (self.modes, self.bands)))

    def splitting_THz(self, key: str) -> float:
        """Largest width of modes that symmetry makes degenerate, at Γ and along the path."""
        return float(self.splittings[key].max())

    def rms(self, values: Floats) -> float:
        """Root mean square over the mesh of something (Q, M)."""
        return float(np.sqrt(self.mesh.weights @ np.mean(values**2, axis=1)))


def crystal_of(
    potentials: dict[str, Potential], atoms: Atoms, settings: PhononsSettings, tell: Callable[[Progress], None]
) -> Crystal:
    """Phonons of a crystal.

    Args:
        potentials: the potential as "±"; where it is averaged too, that as "averaged".
        atoms: at rest, periodic in three directions.
        settings: everything that may be chosen.
        tell: called with the number of displaced supercells.
    """
    cells = cells_of(atoms, potentials[BOTH].cutoff, settings)
    # What can be wrong with files and words is found before anything is computed.
    segments = segments_of(cells, settings.path, settings.points)
    charges = None if settings.nac is None else charges_of(settings.nac, cells, settings.symprec)
    reduced = is_reduced(settings, len(cells.chosen))
    step = settings.displacement_A
    known = {key: measured(one, cells, step, reduced=reduced, tell=tell) for key, one in potentials.items()}
    allowed, sizes = projected(known[BOTH].both, cells)
    constants = {RAW: known[BOTH].raw, BOTH: known[BOTH].both, PROJECTED: allowed}
    if AVERAGED in known:
        constants[AVERAGED] = known[AVERAGED].both
    return _analysed(cells, constants, known, None if reduced else sizes, segments, charges, settings)


def is_reduced(settings: PhononsSettings, n_atoms: int) -> bool:
    """Whether only displacements are made that symmetry does not make equal, in a primitive cell of so many atoms."""
    if settings.displacements == "auto":
        return 6 * n_atoms > settings.budget
    return settings.displacements == "reduced"


def _analysed(
    cells: Cells,
    constants: dict[str, Floats],
    known: dict[str, Measured],
    sizes: Sizes | None,
    segments: list[Segment],
    charges: Charges | None,
    settings: PhononsSettings,
) -> Crystal:
    """All that follows from force constants, without another call of the potential."""
    mesh = mesh_of(cells, settings.mesh_A)
    error = known[BOTH].rounding / (np.sqrt(2) * settings.displacement_A)
    how = _How(error, None if charges is None else charges.engine)
    starts = range(0, len(mesh.q), AT_ONCE)
    bands = _joined([_waves(cells, constants, one.q, how, one.q[-1] - one.q[0]) for one in segments])
    modes = _joined([_waves(cells, constants, mesh.q[start : start + AT_ONCE], how, None) for start in starts])
    states = _states(modes, mesh, settings.smearing_THz)
    highest, n_atoms = max(settings.temperatures_K), len(cells.chosen)
    fine, asked = np.linspace(0, highest or 300.0, 61), np.array(settings.temperatures_K)
    thermal = {key: thermal_of(one, mesh.weights, fine, n_atoms) for key, one in modes.frequencies_THz.items()}
    rows = {key: thermal_of(one, mesh.weights, asked, n_atoms) for key, one in modes.frequencies_THz.items()}
    up, down = (thermal_of(one, mesh.weights, fine, n_atoms) for one in shifted(modes))
    half = Thermal(fine, *(np.abs(a - b) / 2 for a, b in zip(up[1:], down[1:], strict=True)))
    acoustic = {key: _acoustic(cells, one) for key, one in constants.items()}
    splittings = _splittings(cells, constants, np.concatenate([*(one.q for one in segments), np.zeros((1, 3))]))
    computed = (segments, bands, mesh, modes, states, thermal, half, rows, acoustic, splittings, charges)
    return Crystal(cells, constants, known, sizes, *computed)


def _acoustic(cells: Cells, constants: Floats) -> Floats:
    """Of the modes at Γ the three that are the most like translations, (3,) THz."""
    values, vectors = np.linalg.eigh(matrices(cells, constants, np.zeros((1, 3)))[0])
    roots = np.sqrt(cells.primitive.get_masses())
    still = np.kron(roots / np.linalg.norm(roots), np.eye(3))
    likeness = np.square(np.abs(still @ vectors)).sum(0)
    return frequencies_of(values[np.sort(np.argsort(-likeness, kind="stable")[:3])])


def shifted(modes: Waves) -> tuple[Floats, Floats]:
    """The projected frequencies, all moved up by their errors, and all moved down."""
    middle = modes.frequencies_THz[PROJECTED]
    # A mode keeps what makes it one: moved down, it does not become imaginary.
    least = np.where(middle > 0, middle / 2, middle)
    return middle + modes.errors_THz, np.maximum(middle - modes.errors_THz, least)


class _How(NamedTuple):
    """What waves are computed with.

    error: eV/Å², of force constants, by rounding.
    nac:   Born charges and dielectric constant for phonopy, or None.
    """

    error: float
    nac: Any


def _waves(cells: Cells, constants: dict[str, Floats], q: Floats, how: _How, direction: Floats | None) -> Waves:
    """Frequencies and errors at wave vectors (Q, 3); Γ is approached from a direction (3,), or not split."""
    exact = matrices(cells, constants[PROJECTED], q, how.nac, direction)
    change = matrices(cells, constants[BOTH] - constants[PROJECTED], q)
    found = shifts_of(exact, change)
    frequencies = {
        key: found.frequencies_THz
        if key == PROJECTED
        else frequencies_of(np.linalg.eigvalsh(matrices(cells, one, q, how.nac, direction)))
        for key, one in constants.items()
    }
    size = np.maximum(np.abs(found.frequencies_THz), LEAST_THz)
    n_cells = len(cells.supercell) // len(cells.chosen)
    noise = noise_of(size, found.vectors, cells.primitive.get_masses(), how.error, n_cells)
    return Waves(frequencies, found.error_THz, found.first_THz, noise)


def _splittings(cells: Cells, constants: dict[str, Floats], q: Floats) -> dict[str, Floats]:
    """Largest width (Q,) THz of modes that symmetry makes degenerate, charges aside."""
    random = np.random.default_rng(0).normal(size=constants[PROJECTED].shape)
    generic = matrices(cells, projected(random, cells)[0], q)
    exact = matrices(cells, constants[PROJECTED], q)
    found = shifts_of(exact, np.zeros_like(exact))
    return {key: splittings_of(found, matrices(cells, one, q), generic) for key, one in constants.items()}


def _joined(parts: list[Waves]) -> Waves:
    """Wave vectors of several parts, one after the other."""
    keys = parts[0].frequencies_THz
    return Waves(
        {key: np.concatenate([one.frequencies_THz[key] for one in parts]) for key in keys},
        np.concatenate([one.errors_THz for one in parts]),
        np.concatenate([one.first_THz for one in parts]),
        np.concatenate([one.noise_THz for one in parts]),
    )


def _states(modes: Waves, mesh: Mesh, width: float | None) -> States:
    up, down = shifted(modes)
    grid, width = grid_of([*modes.frequencies_THz.values(), up, down], width)
    densities = {key: states_of(one, mesh.weights, grid, width) for key, one in modes.frequencies_THz.items()}
    higher, lower = (states_of(one, mesh.weights, grid, width) for one in (up, down))
    return States(grid, densities, np.abs(higher - lower) / 2, width)
