"""Strained copies of a crystal, and the elastic constants that follow from their stress."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble.jacobian import rounding_of
from tumble.jobs.elastic.tensor import projected, to_strain, to_voigt
from tumble.units import EV_PER_A3_TO_GPa

Floats = NDArray[np.float64]


class Stiffness(NamedTuple):
    """Elastic constants, as they came about one way, in the axes of the file.

    name:      raw, ±, projected, averaged; or clamped.
    constants: (6, 6) GPa, dσ/dε in the order of Voigt: rows stress, columns strain.
    forbidden: (6, 6) GPa, the part of what was measured that the point group or an energy forbids: its error bar.
    noise_GPa: of an entry, from rounded stresses and from ions that are not quite at rest.
    """

    name: str
    constants: Floats
    forbidden: Floats
    noise_GPa: float

    @property
    def asymmetry(self) -> Floats:
        """C_ij - C_ji of what was measured, (6, 6) GPa."""
        measured = self.constants if self.name != "projected" else self.constants + self.forbidden
        return np.asarray(measured - measured.T)


class Stresses(NamedTuple):
    """The stress of a crystal at rest and under strains of A amplitudes, GPa in the order of Voigt.

    amplitudes: (A,) ascending.
    rest:       (6,)
    strained:   (A, 6, 2, 6): amplitude, strain, its sign (plus first), component.
    unrest_GPa: what the forces that are left make of an entry of the constants, rms; zero for clamped ions.
    """

    amplitudes: Floats
    rest: Floats
    strained: Floats
    unrest_GPa: float = 0.0


def strained_cells(atoms: Atoms, amplitudes: Sequence[float]) -> list[Atoms]:
    """The crystal itself, then under every amplitude, each of six strains, plus and minus."""
    strains = [sign * size * to_strain(one) for size in amplitudes for one in np.eye(6) for sign in (1, -1)]
    return [atoms.copy(), *(deformed(atoms, np.eye(3) + one) for one in strains)]


def deformed(atoms: Atoms, stretch: Floats) -> Atoms:
    """A copy whose cell and positions are multiplied by a matrix (3, 3)."""
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ stretch)
    moved.positions = atoms.positions @ stretch
    return moved


def stresses_of(amplitudes: Sequence[float], tensors: Floats, unrest_GPa: float = 0.0) -> Stresses:
    """Stresses (1 + 12 A, 3, 3) eV/Å³ in the order of `strained_cells`."""
    found = EV_PER_A3_TO_GPa * to_voigt(tensors)
    return Stresses(np.asarray(amplitudes, dtype=np.float64), found[0], found[1:].reshape(-1, 6, 2, 6), unrest_GPa)


def unrest_GPa(size: float, cells: Sequence[Atoms], relaxed: Sequence[Atoms]) -> float:
    """What is wrong with an entry of ± because ions are not quite at rest, root mean square.

    Forces f that are left are u = H⁻¹ f from rest, with H the force constants, and the stress there is off by

        δσ_i = -Σ f · H⁻¹ (dF / dε_i) / V = -Σ f · (du / dε_i) / V

    so that the displacements by which ions follow each strain say it, and H need not be known.

    Args:
        size: amplitude of the strains.
        cells: `strained_cells`; those of the smallest amplitude count.
        relaxed: the same with ions at rest, and forces in a calculator.
    """
    moved = [after.positions - before.positions for before, after in zip(cells[1:13], relaxed[1:13], strict=True)]
    left = [one.get_forces() for one in relaxed[1:13]]
    follow, push = (
        np.diff(np.reshape([one - one.mean(0) for one in rows], (6, 2, -1)), axis=1)[:, 0] for rows in (moved, left)
    )
    errors = follow @ push.T / ((2 * size) ** 2 * cells[0].cell.volume)
    return EV_PER_A3_TO_GPa * float(np.sqrt(np.mean(errors**2)))


def one_sided(stresses: Stresses, turns: Floats) -> Stiffness:
    """[σ(+δ) - σ(0)] / δ of the smallest amplitude: wrong by what is not linear, to first order in it."""
    size = stresses.amplitudes[0]
    constants = (stresses.strained[0, :, 0] - stresses.rest).T / size
    noise = 2**0.5 * rounding_of(stresses.strained) / size
    noise = float(np.hypot(noise, 2**0.5 * stresses.unrest_GPa))
    return Stiffness("raw", constants, constants - projected(constants, turns), noise)


def two_sided(stresses: Stresses, turns: Floats, name: str = "±") -> Stiffness:
    """[σ(+δ) - σ(-δ)] / 2δ; of several amplitudes the value at zero of a straight line over δ²."""
    sizes = stresses.amplitudes
    each = (stresses.strained[:, :, 0] - stresses.strained[:, :, 1]) / (2 * sizes[:, None, None])
    weights = _at_zero(sizes)
    constants = np.einsum("a,aji->ij", weights, each)
    scale = float(np.sqrt(np.sum((weights / sizes) ** 2)))
    noise = scale * float(np.hypot(rounding_of(stresses.strained) / 2**0.5, sizes[0] * stresses.unrest_GPa))
    return Stiffness(name, constants, constants - projected(constants, turns), noise)


def allowed(measured: Stiffness) -> Stiffness:
    """What symmetry leaves of constants; what it removed remains their error bar."""
    return measured._replace(name="projected", constants=measured.constants - measured.forbidden)


def _at_zero(sizes: Floats) -> Floats:
    """The weights (A,) with which numbers c + k δ² at amplitudes δ give c, by least squares; one number is c."""
    powers = np.stack([np.ones_like(sizes), (sizes / sizes[-1]) ** 2], axis=1)
    return np.asarray(np.linalg.pinv(powers[:, : min(2, len(sizes))])[0])
