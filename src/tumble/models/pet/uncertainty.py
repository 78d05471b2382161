"""How sure a PET is of its energies and forces, from the features that its last layer sees."""

import math
from collections.abc import Callable, Iterable
from typing import final

import torch
from torch import Tensor

from tumble.batch import Batch, Properties
from tumble.models.pet.model import PET
from tumble.potential import Gradient, Potential, check_species, constant_weights, derivatives, differentiable

EXACT = ("cholesky", "multiplier", "members")
SMALLEST_RIDGE, LARGEST_RIDGE = 1e-20, 1e16


@final
class LLPR(Potential):
    """A PET with uncertainties: the answers of `Gradient(model)`, and how far to trust them.

        sigma² = α² fᵀ (C + r)⁻¹ f,    C = Σ f fᵀ / n²

    f is the sum over a structure of what the last linear layer sees of its n atoms, C runs over the training set, α is
    calibrated on a validation set, and r is the smallest power of ten that makes C positive definite. An ensemble of
    last layers, drawn from the same distribution, carries the uncertainty on to forces, stress and what follows from
    them.

    cholesky:   (F, F) lower triangle L, L Lᵀ = C + r; zero until `fit`. F = `model.n_last_features`.
    multiplier: () α, eV.
    members:    (M, F) last layers of the ensemble, eV; what they share does not matter.

    Source: Bigi, Chong, Ceriotti, Grasselli, Mach. Learn. Sci. Technol. 5, 045018 (2024), doi:10.1088/2632-2153/ad805f.
    """

    is_conservative = True
    cholesky: Tensor
    multiplier: Tensor
    members: Tensor

    def __init__(self, model: PET, n_members: int = 0) -> None:
        """Args:
        model: a trained PET.
        n_members: size of the ensemble that a file will fill in; `draw` makes one.
        """
        super().__init__()
        self.inner = Gradient(model)
        self.cutoff, self.species = model.cutoff, model.species
        size = model.n_last_features
        self.register_buffer("cholesky", torch.zeros(size, size, dtype=torch.float64))
        self.register_buffer("multiplier", torch.ones((), dtype=torch.float64))
        self.register_buffer("members", torch.zeros(n_members, size, dtype=torch.float64))

    @property
    def model(self) -> PET:
        """The PET whose answers these are."""
        model: PET = self.inner.model  # type: ignore[assignment]
        return model

    def forward(self, batch: Batch) -> Properties:
        """Energy, forces and stress, exactly those of `Gradient(model)`."""
        answer: Properties = self.inner(batch)
        return answer

    def uncertainty(self, batch: Batch, *, per_atom: bool = False) -> Tensor:
        """Standard deviation of each energy, (S,) eV.

        Args:
            batch: structures with their pairs.
            per_atom: of each atom's energy instead, (N,) eV. They are correlated: their squares do not add up.

        Raises:
            ValueError: nothing has been fitted.
        """
        check_species(self.species, batch)
        if not bool(self.cholesky.diagonal().all()):
            raise ValueError(
                "this LLPR has not seen its training set: the diagonal of its Cholesky factor holds zeros. "
                "Call fit with batches of the training set, or load a file with uncertainties."
            )
        with torch.no_grad(), constant_weights(True):
            features = self.model.last_layer_features(batch).double()
            rows = features if per_atom else _sums(features, batch)
            scaled = torch.linalg.solve_triangular(self.cholesky, rows.mT, upper=False)
            return self.multiplier * torch.linalg.vector_norm(scaled, dim=0)

    def ensemble(self, batch: Batch) -> Tensor:
        """Energies by every member, (S, M) eV; their mean is the energy of the model.

        Raises:
            ValueError: an ensemble of fewer than two members.
        """
        check_species(self.species, batch)
        with torch.no_grad(), constant_weights(True):
            return self._energies(batch)

    def ensemble_answers(self, batch: Batch) -> Properties:
        """Answers of every member, each with forces and stress that are derivatives of its own energy.

        Returns:
            energy (M, S) eV, forces (M, N, 3) eV/Å, stress (M, S, 3, 3) eV/Å³.

        Raises:
            ValueError: an ensemble of fewer than two members.
        """
        check_species(self.species, batch)
        answers = []
        for member in range(max(len(self.members), 1)):
            # One pass for each: the fast path gives one derivative, and no graph outlives its pass.
            with torch.enable_grad(), constant_weights(True):
                seen = differentiable(batch, positions=self.model.sees_positions)
                energy = self._energies(seen)[:, member]
                answers.append((energy.detach(), *derivatives(energy.sum(), seen)))
        return Properties(*(torch.stack(parts) for parts in zip(*answers, strict=True)))

    def forces_uncertainty(self, batch: Batch) -> Tensor:
        """Standard deviation of each force component over the ensemble, (N, 3) eV/Å.

        Raises:
            ValueError: an ensemble of fewer than two members.
        """
        forces = self.ensemble_answers(batch).forces
        assert forces is not None
        return forces.std(0)

    def _energies(self, batch: Batch) -> Tensor:
        n_members = len(self.members)
        if n_members < 2:
            raise ValueError(
                f"this LLPR has {n_members} ensemble members; at least 2 were expected. "
                "Call draw(n) after fit and calibrate, or load a file with an ensemble."
            )
        by_atom, features = self.model.energies_and_features(batch)
        deviations = self.members - self.members.mean(0)
        return _sums(by_atom[:, None], batch) + _sums(features.double(), batch) @ deviations.mT

    def fit(self, batches: Iterable[Batch]) -> None:
        """Learn where the training set is dense, from all of its structures; labels are not needed.

        Raises:
            RuntimeError: the features are not finite.
        """
        covariance = torch.zeros_like(self.cholesky)
        for batch in batches:
            with torch.no_grad(), constant_weights(True):
                features = _sums(self.model.last_layer_features(batch).double(), batch)
            features = features / torch.bincount(batch.structure, minlength=batch.n_structures)[:, None]
            covariance += features.mT @ features
        ridge, one = SMALLEST_RIDGE, torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        while ridge < LARGEST_RIDGE:
            factor, failure = torch.linalg.cholesky_ex(covariance + ridge * one)
            if not int(failure):
                self.cholesky = factor
                return
            ridge *= 10
        raise RuntimeError(
            f"the covariance of the features has {int((~covariance.isfinite()).sum())} entries that are not finite; "
            "all were expected to be. Check the weights of the model."
        )

    def calibrate(self, batches: Iterable[tuple[Batch, Properties]]) -> None:
        """Set the scale of the uncertainties by energies that were not trained on.

            α = √(π/2) mean(abs(E - E_ref) / sigma)

        Raises:
            ValueError: nothing has been fitted, or there is no energy to compare with.
        """
        self.multiplier = torch.ones_like(self.multiplier)
        ratios = []
        for batch, reference in batches:
            if reference.energy is not None:
                error = self(batch).energy - reference.energy.to(self.multiplier)
                ratios.append(error.abs() / self.uncertainty(batch))
        if not ratios:
            raise ValueError("0 structures with an energy were given to calibrate by; at least 1 was expected.")
        self.multiplier = math.sqrt(math.pi / 2) * torch.cat(ratios).nanmean()

    def draw(self, n_members: int, seed: int = 0) -> None:
        """Make an ensemble: last layers that scatter as the uncertainty says.

        Args:
            n_members: how many; the spread of M members is uncertain by 1 / √(2 M).
            seed: of the random numbers.
        """
        random = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(self.cholesky), n_members, generator=random, dtype=torch.float64)
        scattered = torch.linalg.solve_triangular(self.cholesky.mT, noise.to(self.cholesky.device), upper=True)
        self.members = self.multiplier * scattered.mT

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LLPR":
        # Inverses amplify rounding: these move with the model but never lose precision.
        exact = {name: getattr(self, name) for name in EXACT}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self


def _sums(rows: Tensor, batch: Batch) -> Tensor:
    """Sums over the atoms of each structure, (S, columns)."""
    return rows.new_zeros((batch.n_structures, rows.shape[1])).index_add(0, batch.structure, rows)
