"""Stretched: the atoms of a crystal and the stretch of its cell, as coordinates of one of ASE's optimizers."""

from typing import Any, final

import numpy as np
from ase import Atoms
from ase.filters import Filter

Floats = np.ndarray


@final
class Stretched(Filter):  # type: ignore[misc]  # ASE has no types
    """Places z (N, 3) of the atoms in the cell they started in, and N times the logarithm U (3, 3) of its stretch.

        x = z exp(U),  cell = cell_0 exp(U),  U symmetric

    The coordinates of `ase.filters.FrechetCellFilter` but for one thing: the stretch is symmetric, so the cell does not
    turn, and its logarithm is kept instead of found again from the cell, which takes longer than a small potential.

    Source: the gradient is -V (S + P) in the frame of U, times sinh(d) / d with the difference d of eigenvalues of U;
        from the derivative of a matrix function, N. J. Higham, Functions of Matrices, SIAM (2008), theorem 3.11.
    """

    def __init__(self, atoms: Atoms, kind: str, pressure: float) -> None:
        """Where it starts.

        Args:
            atoms: they move with it.
            kind: "all", "shape" or "volume", see `Downhill.cell`.
            pressure: eV/Å³.
        """
        super().__init__(atoms, indices=range(len(atoms)))
        self._kind, self._pressure = kind, pressure
        self._start = atoms.cell.array.copy()
        self._log = np.zeros((3, 3))

    def __len__(self) -> int:
        """Rows of coordinates."""
        return len(self.atoms) + 3

    def get_positions(self) -> Floats:
        """(N + 3, 3) Å."""
        return np.vstack([self.atoms.positions @ self._exp(-1), len(self.atoms) * self._log])

    def set_positions(self, new: Floats, **options: Any) -> None:
        """Move atoms and cell."""
        log = new[-3:] / len(self.atoms)
        self._log = (log + log.T) / 2
        stretch = self._exp()
        # Atoms that are held follow the cell.
        self.atoms.set_cell(self._start @ stretch, scale_atoms=True)
        self.atoms.set_positions(new[:-3] @ stretch, **options)

    def get_forces(self, **options: Any) -> Floats:
        """Minus the gradient, (N + 3, 3) eV/Å."""
        push = -self.atoms.cell.volume * self.push()
        values, axes = np.linalg.eigh(self._log)
        apart = values[:, None] - values
        grown = np.where(apart == 0, 1.0, np.sinh(apart) / np.where(apart == 0, 1.0, apart))
        push = axes @ (axes.T @ push @ axes * grown) @ axes.T
        return np.vstack([self.atoms.get_forces(**options) @ self._exp(), push / len(self.atoms)])

    def get_potential_energy(self, force_consistent: bool = False) -> float:
        """E + PV, eV."""
        return float(self.atoms.get_potential_energy() + self._pressure * self.atoms.cell.volume)

    def push(self) -> Floats:
        """Stress plus pressure (3, 3) eV/Å³, in as far as the cell may follow."""
        push = self.atoms.get_stress(voigt=False) + self._pressure * np.eye(3)
        mean = np.trace(push) / 3 * np.eye(3)
        return np.asarray({"all": push, "shape": push - mean, "volume": mean}[self._kind])

    def _exp(self, sign: float = 1.0) -> Floats:
        values, axes = np.linalg.eigh(self._log)
        return np.asarray((axes * np.exp(sign * values)) @ axes.T)
