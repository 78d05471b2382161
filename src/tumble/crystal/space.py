"""SpaceGroup: the operations that map a structure on itself, atom by atom, and what they forbid."""

from dataclasses import dataclass

import numpy as np
import torch

from tumble.crystal import projectors
from tumble.crystal.lattice import Floats, Integers
from tumble.crystal.point import PointGroup

Split = tuple[Floats, Floats]
"""What the symmetry allows, and what it forbids; they add up to what was given."""


@dataclass(frozen=True, eq=False, repr=False)
class SpaceGroup:
    """The operations x_i hᵀ + t = x_g(i) of a structure, up to its lattice translations.

    Turns that map the crystal but not the lattice of a supercell of it count too; for them the images are defined up to
    a translation of the crystal.

    turns:      (H, 3, 3) h, orthogonal and closed to rounding, identity first; for a linear molecule or an atom, one
                for each connected part of the infinite group.
    shifts:     (H, 3) Å t; if the lattice is symmetric within the tolerance only, those of its symmetric average.
    images:     (H, N) int64 g(i), the atom on which atom i lands.
    classes:    (N,) int64, the same for atoms that a pure translation of the crystal maps onto each other.
    axes:       (K, 3) directions about which any turn is a symmetry: none; 1 if all atoms are on a line; 3 for an atom.
    deviation:  Å, no operation puts an atom farther than this from its image.
    tolerance:  Å, how far it was allowed to.
    places:     (N, 3) int64, in which primitive cell of the crystal an atom is.
    supercell:  (3, 3) int64 upper triangular, the structure's lattice in units of that of the crystal.
    is_of_supercell: (H,) whether the structure's own lattice is mapped on itself.
    """

    turns: Floats
    shifts: Floats
    images: Integers
    classes: Integers
    axes: Floats
    deviation: float
    tolerance: float
    places: Integers
    supercell: Integers
    is_of_supercell: np.ndarray

    @property
    def point(self) -> PointGroup:
        """The turns alone."""
        return PointGroup(torch.as_tensor(self.turns), torch.as_tensor(self.axes))

    @property
    def n_atoms(self) -> int:
        """N."""
        return len(self.classes)

    @property
    def n_operations(self) -> int:
        """H, without translations."""
        return len(self.turns)

    @property
    def n_translations(self) -> int:
        """How many pure translations of the crystal the structure holds, the trivial one included."""
        return int(np.prod(np.diag(self.supercell)))

    @property
    def is_trivial(self) -> bool:
        """Whether there is nothing but the identity."""
        return self.n_operations == 1 and self.n_translations == 1 and len(self.axes) == 0

    def __repr__(self) -> str:
        """Counts and what was needed."""
        lines = f", any turn about {len(self.axes)} axes" if len(self.axes) else ""
        return (
            f"SpaceGroup({self.n_operations} point operations{lines}, {self.n_translations} translations, "
            f"{len(self.classes)} atoms in {len(self.representatives())} orbits, deviation {self.deviation:.1e} Å)"
        )

    def orbits(self) -> Integers:
        """(N,) the first atom that is equivalent to each."""
        first = np.unique(self.classes, return_index=True)[1]
        return np.asarray(first[self.classes][self.images].min(axis=0))

    def representatives(self) -> Integers:
        """(K,) one atom, the first, of each set of equivalent ones."""
        return np.unique(self.orbits())

    def site_stabilizer(self, atom: int) -> Integers:
        """(K,) indices of the operations that leave an atom where it is, if need be after a pure translation."""
        return np.flatnonzero(self.classes[self.images[:, atom]] == self.classes[atom])

    def project_forces(self, forces: Floats) -> Split:
        """F_i <- mean over all operations of F_g(i) h.

        Args:
            forces: (N, 3), of any unit.

        Returns:
            What is left of them, and what was removed.
        """
        given = projectors.checked(forces, (self.n_atoms, 3), "forces")
        return _split(projectors.forces(self, given), given)

    def project_stress(self, stress: Floats) -> Split:
        """S <- mean over all operations of hᵀ S h.

        Args:
            stress: (3, 3), of any unit.
        """
        given = projectors.checked(stress, (3, 3), "stress")
        return _split(projectors.stress(self, given), given)

    def project_force_constants(self, constants: Floats) -> Split:
        """Φ_ij <- mean over all operations that map the supercell on itself of hᵀ Φ_g(i)g(j) h.

        Args:
            constants: (N, N, 3, 3), of any unit.
        """
        given = projectors.checked(constants, (*[self.n_atoms] * 2, 3, 3), "force constants")
        return _split(projectors.constants(self, given), given)

    def project_third_order(self, constants: Floats) -> Split:
        """Third-order force constants: Φ_ijk <- mean of Φ_g(i)g(j)g(k), each of its directions turned back.

        Args:
            constants: (N, N, N, 3, 3, 3), of any unit.
        """
        given = projectors.checked(constants, (*[self.n_atoms] * 3, 3, 3, 3), "force constants")
        return _split(projectors.constants(self, given), given)


def _split(allowed: Floats, given: Floats) -> Split:
    return allowed, given - allowed
