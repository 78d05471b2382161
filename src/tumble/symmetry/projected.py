"""Projected: forces and stress that obey the space group of the structure, and what was in the way of it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tumble.batch import Batch, Properties
from tumble.crystal import SpaceGroup
from tumble.potential import Potential
from tumble.symmetry.operations import operations

Floats = NDArray[np.float64]
Project = Callable[[Floats], tuple[Floats, Floats]]


@final
class Projected(Potential):
    """Forces and stress of a potential, projected on the space group of each structure; the energy is left alone.

        F_i <- Σ_g F_g(i) R_g / n,  S <- Σ_g R_gᵀ S R_g / n,  g the n operations

    What the projection removes is what symmetry forbids, hence an error of the potential: `both` returns it with the
    answer, as an error bar. The allowed part of the error remains; that is what `Symmetrized` is for, and
    Projected(Symmetrized(potential)) is both.

    On an exactly symmetric structure the projected forces are the exact gradient of the energy averaged over the point
    group, though not of the energy that is answered, and a relaxation with them keeps the symmetry; `is_conservative`
    is what the inner potential says. On a structure that is symmetric within the tolerance only, they are the force on
    the symmetric structure nearby, and no longer the gradient of anything: the forces that would restore the last
    thousandth of an Å are removed too, and where the group changes they jump. It is for crystals near rest
    (relaxation, elasticity, phonons), not for dynamics; in motion there is no symmetry and nothing is projected.
    """

    def __init__(self, inner: Potential, tolerance: float = 1e-3) -> None:
        """Args:
        inner: any Potential; it is shared, not copied.
        tolerance: Å, how far an atom may be from where an operation puts it.

        Raises:
            ValueError: the tolerance is not positive.
        """
        super().__init__()
        if not tolerance > 0:
            raise ValueError(
                f"the tolerance of a projection is {tolerance} Å; it must be > 0. Use 1e-3 for relaxed structures."
            )
        self.inner = inner
        self.tolerance = tolerance
        self.training = inner.training
        self.cutoff, self.species = inner.cutoff, inner.species
        self.is_conservative, self.is_batched = inner.is_conservative, inner.is_batched

    @property
    def dtype(self) -> torch.dtype:
        """That of the inner potential."""
        return self.inner.dtype

    @property
    def device(self) -> torch.device:
        """That of the inner potential."""
        return self.inner.device

    def forward(self, batch: Batch) -> Properties:
        """Energy as it is, projected forces and stress; in training mode they can be differentiated again."""
        return self.both(batch)[0]

    def removed(self, batch: Batch) -> Properties:
        """The part of forces and stress that symmetry forbids; an energy of zero."""
        return self.both(batch)[1]

    def both(self, batch: Batch) -> tuple[Properties, Properties]:
        """The projected answer, and what the projection removed: together they are the answer of the inner potential.

        Raises:
            ValueError: two atoms are closer than the tolerance.
        """
        energy, forces, stress = self.inner(batch)
        groups = operations(batch, self.tolerance)
        counts = torch.bincount(batch.structure, minlength=batch.n_structures).tolist()
        kept = Properties(
            energy,
            _projected(forces, counts, [None if g.is_trivial else g.project_forces for g in groups]),
            _projected(stress, [1] * len(groups), [None if g.is_trivial else partial(_first, g) for g in groups]),
        )
        pairs = zip((energy, forces, stress), kept, strict=True)
        return kept, Properties(*(None if a is None or b is None else a - b for a, b in pairs))

    def energies_by_atom(self, batch: Batch) -> Tensor:
        """Those of the inner potential: only forces and stress are projected."""
        return self.inner.energies_by_atom(batch)

    @property
    def has_energies_by_atom(self) -> bool:
        """Whether the inner potential has them."""
        return self.inner.has_energies_by_atom

    def extra_repr(self) -> str:
        """How exact a symmetry must be."""
        return f"on the space group of the structure, within {self.tolerance:g} Å"


def _projected(field: Tensor | None, counts: Sequence[int], projectors: Sequence[Project | None]) -> Tensor | None:
    """Rows of each structure projected, one structure after the other; left alone where there is no projector."""
    if field is None:
        return None
    parts = zip(field.split(list(counts)), projectors, strict=True)
    return torch.cat([part if project is None else _Projection.apply(part, project) for part, project in parts])


def _first(group: SpaceGroup, stress: Floats) -> tuple[Floats, Floats]:
    """The stress (1, 3, 3) of one structure projected."""
    kept, removed = group.project_stress(stress[0])
    return kept[None], removed[None]


class _Projection(torch.autograd.Function):
    """An orthogonal projector, written for arrays, as a function of tensors: it is its own transpose."""

    @staticmethod
    def forward(ctx: Any, field: Tensor, project: Project) -> Tensor:
        ctx.project = project
        return torch.as_tensor(project(field.detach().cpu().double().numpy())[0]).to(field)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return _Projection.apply(slope, ctx.project), None
