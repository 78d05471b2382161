"""A pair potential that is linear in its coefficients: what forces alone say about energies and stresses."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import complete_cell
from numpy.typing import NDArray

from tumble import neighbors

CUTOFF, NODES = 5.0, 18
"""Å; and radii between 0.7 Å and the cutoff, a constant factor apart, at which the slope of a pair is free."""
MANY = 6
"""Elements from which on they share coefficients by their kind: one pair of kinds has a slope, not one of elements."""

Floats = NDArray[np.float64]
KINDS = {
    1: "Li Na K Rb Cs Fr Be Mg Ca Sr Ba Ra Sc Y La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Ac Th Pa Hf Zr",
    2: "B C Si Ge P As Sb Se Te S I",
    3: "N O F Cl Br",
    4: "H",
}
"""Electropositive, in between, electronegative, hydrogen; 0 are all others, mostly late transition metals."""


class Design(NamedTuple):
    """What a structure answers per coefficient.

    forces: (3 n, K) Å⁻¹ eV per unit, float32, because there are many.
    energy: (K,).
    strain: (9, K) dE/dε.
    """

    forces: NDArray[np.float32]
    energy: Floats
    strain: Floats


class Springs(NamedTuple):
    """The form of the potential for some elements.

    kind:    (119, 119) which curve a pair of atomic numbers has.
    n_kinds: how many there are.
    radii:   (NODES + 1,) Å; the slope is linear in between, and zero at the last.
    """

    kind: NDArray[np.int64]
    n_kinds: int
    radii: Floats

    @classmethod
    def between(cls, species: Sequence[int]) -> "Springs":
        """One curve for every pair of elements, or of kinds of elements where there are many."""
        label = np.zeros(119, dtype=np.int64)
        if len(species) <= MANY:
            label[list(species)] = np.arange(len(species))
        else:
            for kind, symbols in KINDS.items():
                label[[chemical_symbols.index(symbol) for symbol in symbols.split()]] = kind
        n = int(label.max()) + 1
        low, high = np.minimum.outer(label, label), np.maximum.outer(label, label)
        return cls(low * n - low * (low - 1) // 2 + high - low, n * (n + 1) // 2, np.geomspace(0.7, CUTOFF, NODES + 1))

    @property
    def size(self) -> int:
        """K, the number of coefficients: slopes in eV/Å."""
        return self.n_kinds * NODES

    def design(self, atoms: Atoms) -> Design:
        """What a structure answers per coefficient."""
        found = neighbors.candidates(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
        center, neighbor = (found.ends[:, k].astype(np.int64) for k in (0, 1))
        apart = atoms.positions[neighbor] - atoms.positions[center] + found.shift @ complete_cell(atoms.cell.array)
        distance = np.sqrt(np.einsum("pa,pa->p", apart, apart))
        within = (distance < CUTOFF) & (distance > 1e-3)
        center, neighbor, apart, distance = (one[within] for one in (center, neighbor, apart, distance))
        row = self.kind[atoms.numbers[center], atoms.numbers[neighbor]] * (NODES + 1)
        place = np.clip(np.searchsorted(self.radii, distance, side="right") - 1, 0, NODES - 1)
        share = np.clip((distance - self.radii[place]) / np.diff(self.radii)[place], 0, 1)
        ends = ((row + place, 1 - share), (row + place + 1, share))
        toward, n = apart / distance[:, None], self.n_kinds * (NODES + 1)

        def gather(line: NDArray[np.int64], weight: Floats, n_lines: int) -> Floats:
            """(n_lines, K): the two hats that each pair touches, added up line by line."""
            total = sum(np.bincount(line * n + node, part * weight, n_lines * n) for node, part in ends)
            return _without_last(np.asarray(total, dtype=np.float64).reshape(n_lines, self.n_kinds, NODES + 1))

        forces = np.stack([gather(center, toward[:, a], len(atoms)) for a in range(3)], axis=1)
        zero = np.zeros(len(center), dtype=np.int64)
        strain = [gather(zero, 0.5 * toward[:, a] * apart[:, b], 1)[0] for a in range(3) for b in range(3)]
        energy = self._energy(row + place, share, n)
        return Design(forces.reshape(3 * len(atoms), -1).astype(np.float32), energy, np.array(strain))

    def _energy(self, node: NDArray[np.int64], share: Floats, n: int) -> Floats:
        """(K,) minus the integral of every hat from the distance of a pair to the cutoff, half of it per direction."""
        width = np.append(np.diff(self.radii), 0.0)
        place = node % (NODES + 1)
        own = np.bincount(node, width[place] * (1 - share) ** 2 / 2, n)
        own += np.bincount(node + 1, width[place] * (1 - share**2) / 2 + width[place + 1] / 2, n)
        inside = np.cumsum(np.bincount(node, minlength=n).reshape(self.n_kinds, -1), axis=1)
        whole = own.reshape(self.n_kinds, -1)
        whole[:, 2:] += inside[:, :-2] * (width[1:-1] + width[2:]) / 2  # pairs closer than the foot of the hat
        return -_without_last(whole[None])[0] / 2

    def fit(self, designs: Iterable[Design], forces: Iterable[Floats], ridges: Sequence[float]) -> list[Floats]:
        """(K,) coefficients that fit the forces best, for each ridge.

        Args:
            designs: of the structures.
            forces: (3 n,) of each, in any unit: the coefficients are in the same.
            ridges: penalties of a coefficient, relative to a force on every atom. Far pairs pay more: they are many,
                their forces cancel, and what they say about the energy is not to be believed.
        """
        normal, right, n_rows = np.zeros((self.size, self.size)), np.zeros(self.size), 0
        for design, force in zip(designs, forces, strict=True):
            normal += design.forces.T @ design.forces
            right += design.forces.T @ force.astype(np.float32)
            n_rows += len(force)
        penalty = n_rows * np.diag(np.tile((self.radii[:-1] / 2) ** 4, self.n_kinds))
        floor = 1e-10 * np.trace(normal) / self.size * np.eye(self.size)  # for distances that do not occur
        return [np.linalg.solve(normal + ridge * penalty + floor, right) for ridge in ridges]


def _without_last(values: NDArray[Any]) -> Floats:
    """The slope at the cutoff is zero, so its coefficient goes: (lines, kinds, NODES + 1) to (lines, K)."""
    kept: Floats = values[..., :-1].reshape(len(values), -1)
    return kept
