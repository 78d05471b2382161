"""Symmetrized: a potential averaged over rotations, a Potential again."""

from typing import final

import torch

from tumble.batch import Batch, Properties
from tumble.orbit import mean_over
from tumble.potential import Potential
from tumble.rotations import Rotations


@final
class Symmetrized(Potential):
    """The mean of a potential's turned-back answers over a rule.

    Energy, forces and stress are averaged over the same rule in the same pass, so the forces of a conservative
    potential remain the exact gradient of the averaged energy. Of the symmetry error, every channel 1 <= ℓ <= degree of
    the rule is removed, and what lies above it remains. Memory does not grow with the number of rotations, except in
    training mode, where answers carry the graph of every copy.
    """

    def __init__(self, inner: Potential, rotations: Rotations, *, chunk: int | None = None) -> None:
        """Args:
        inner: any Potential; it is shared, not copied.
        rotations: the rule to average over.
        chunk: turned copies in one call of the inner potential; by default chosen from the number of pairs.
        """
        super().__init__()
        self.inner = inner
        self.rotations = rotations
        self.chunk = chunk
        self.training = inner.training
        self.cutoff, self.species = inner.cutoff, inner.species
        self.is_conservative = inner.is_conservative

    @property
    def dtype(self) -> torch.dtype:
        """That of the inner potential."""
        return self.inner.dtype

    @property
    def device(self) -> torch.device:
        """That of the inner potential."""
        return self.inner.device

    def forward(self, batch: Batch) -> Properties:
        """Mean energy, forces and stress; in training mode they can be differentiated again."""
        energy, forces, stress = mean_over(self.inner, batch, self.rotations, self.chunk)
        dtype = batch.positions.dtype
        return Properties(
            energy, None if forces is None else forces.to(dtype), None if stress is None else stress.to(dtype)
        )

    def extra_repr(self) -> str:
        """Rule, number of nodes, degree."""
        odd = ", no parity-odd part" if self.rotations.has_inversion else ""
        return f"{self.rotations.name}: {len(self.rotations)} rotations, exact to degree {self.rotations.degree}{odd}"


def symmetrize(
    potential: Potential,
    rotations: str | Rotations = "Ih",
    *,
    project: str | None = None,
    tolerance: float | None = None,
) -> Potential:
    """A potential averaged over rotations.

    Args:
        potential: any Potential.
        rotations: a rule, or the spec of one for `Rotations.parse`.
        project: None; projection on a space group is not part of this version.
        tolerance: None; the choice of a rule by its error is not part of this version.

    Raises:
        ValueError: an unknown spec, or a project or tolerance other than None.
    """
    if project is not None or tolerance is not None:
        raise ValueError(
            f"symmetrize was given project={project!r} and tolerance={tolerance!r}; this version averages over a rule "
            "that you name and supports None for both. Choose the rule from Orbit.expected_error."
        )
    return Symmetrized(potential, Rotations.parse(rotations) if isinstance(rotations, str) else rotations)
