"""Asked: a potential as an engine asks it, whose cell has its first vector along x and its second in the xy plane."""

from typing import final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

from tumble.bridges.ase import Calculator
from tumble.potential import Potential

Floats = NDArray[np.float64]


@final
class Asked:
    """Positions and cell in the frame of an engine to energy, forces and virial in that frame.

    The potential itself is asked in the frame of the user: one that is not symmetric knows the difference.

    potential: that answers.
    atoms:     as they were asked about last, in the frame of the user.
    zero_eV:   taken off the energy, for engines that write few digits.
    """

    def __init__(self, potential: Potential, atoms: Atoms, turn: Floats, zero_eV: float = 0.0) -> None:
        """Args:
        potential: that answers.
        atoms: elements, periodicity, charge; what does not repeat keeps its cell.
        turn: Q (3, 3); positions of the engine are x Q.
        zero_eV: taken off the energy.
        """
        self.potential, self.atoms, self.zero_eV, self._turn = potential, atoms.copy(), zero_eV, turn
        self.atoms.calc = Calculator(potential)

    def __call__(self, positions: Floats, cell: Floats) -> tuple[float, Floats, Floats]:
        """Energy eV, forces (N, 3) eV/Å and virial -V σ (3, 3) eV; the virial is zero where there is no stress.

        Args:
            positions: (N, 3) Å, of the engine.
            cell: (3, 3) Å, of the engine; rows are lattice vectors.
        """
        atoms, turn = self.atoms, self._turn
        atoms.positions = positions @ turn.T
        if atoms.pbc.all():
            atoms.cell = cell @ turn.T
        energy, forces = atoms.get_potential_energy() - self.zero_eV, atoms.get_forces() @ turn
        return energy, forces, turn.T @ self._virial() @ turn

    def check(self, ensemble: str) -> None:
        """Refuse what cannot be run.

        Raises:
            ValueError: constant pressure with a potential that gives no stress.
        """
        if ensemble != "npt":
            return
        try:
            self.atoms.get_stress()
        except PropertyNotImplementedError:
            raise ValueError(
                f"constant pressure was asked for, and this {type(self.potential).__name__} gives no stress. Use nvt, "
                "or a potential with stress."
            ) from None

    def _virial(self) -> Floats:
        if not self.atoms.pbc.all():
            return np.zeros((3, 3))
        try:
            stress: Floats = self.atoms.get_stress(voigt=False)
        except PropertyNotImplementedError:
            return np.zeros((3, 3))
        return -self.atoms.get_volume() * stress
