"""LLPR: a PET with uncertainties of its energies in closed form, and of its forces by an ensemble of last layers."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Final, final

import torch
from torch import Tensor

from tumble.batch import Batch, Properties
from tumble.models.pet.model import PET
from tumble.models.pet.uncertainty.slopes import Slopes, slopes_of, sums
from tumble.models.pet.uncertainty.training import Rows, trained
from tumble.potential import Gradient, Potential, check_species, constant_weights

EXACT: Final = ("cholesky", "multiplier", "members", "forces_multiplier")
SMALLEST_RIDGE, LARGEST_RIDGE = 1e-20, 1e16

ENOUGH: Final = 10
"""Energies by which more than the scale of the uncertainties may be chosen."""


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
    are_trained: () bool, whether the members were trained; the uncertainty of an energy is then theirs.
    forces_multiplier: () factor on the scatter of the members' forces: energies hardly test what forces depend on.

    Source: Bigi, Chong, Ceriotti, Grasselli, Mach. Learn. Sci. Technol. 5, 045018 (2024), doi:10.1088/2632-2153/ad805f.
    """

    is_conservative = True
    cholesky: Tensor
    multiplier: Tensor
    members: Tensor
    are_trained: Tensor
    forces_multiplier: Tensor

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
        self.register_buffer("are_trained", torch.zeros((), dtype=torch.bool))
        self.register_buffer("forces_multiplier", torch.ones((), dtype=torch.float64))

    @property
    def model(self) -> PET:
        """The PET whose answers these are."""
        model: PET = self.inner.model  # type: ignore[assignment]
        return model

    def forward(self, batch: Batch) -> Properties:
        """Energy, forces and stress, exactly those of `Gradient(model)`."""
        answer: Properties = self.inner(batch)
        return answer

    @property
    def has_uncertainty(self) -> bool:
        """Whether it was fitted."""
        return bool(self.cholesky.diagonal().all())

    @property
    def has_forces_uncertainty(self) -> bool:
        """Whether it has an ensemble."""
        return self.has_uncertainty and len(self.members) > 1

    def uncertainty(self, batch: Batch, *, per_atom: bool = False) -> Tensor:
        """Standard deviation of each energy, (S,) eV.

        Args:
            batch: structures with their pairs.
            per_atom: of each atom's energy instead, (N,) eV. They are correlated: their squares do not add up.

        Raises:
            ValueError: nothing has been fitted.
        """
        return torch.linalg.vector_norm(self._spread(self._features(batch, per_atom=per_atom)), dim=0)

    def deviations(self, batch: Batch, *, forces: bool = False) -> Properties:
        """What answers may be off by, in independent directions: its norm over the leading axis is the uncertainty.

        It is linear in the answers: the deviations of a mean or a difference are the mean or the difference of theirs,
        which is not so for uncertainties.

        Args:
            batch: structures with their pairs.
            forces: of forces and stress too; half a pass or a little more for each member but one.

        Returns:
            energy (F, S) eV, or (M, S) if the members were trained; forces (M, N, 3) eV/Å, stress (M, S, 3, 3) eV/Å³.

        Raises:
            ValueError: nothing has been fitted; or, with forces, an ensemble of fewer than two members.
        """
        if not forces:
            return Properties(self._spread(self._features(batch)))
        self._check_fitted()
        features, _, *derived = self._slopes(batch)
        scale = self.forces_multiplier.to(derived[0].dtype) / math.sqrt(len(self.members) - 1)
        return Properties(self._spread(features), *(scale * one for one in derived))

    def ensemble(self, batch: Batch) -> Tensor:
        """Energies by every member, (S, M) eV; their mean is the energy of the model.

        Raises:
            ValueError: an ensemble of fewer than two members.
        """
        layers = self._layers()
        check_species(self.species, batch)
        with torch.no_grad(), constant_weights(True):
            by_atom, features = self.model.energies_and_features(batch)
            return sums(by_atom[:, None], batch) + sums(features.double(), batch) @ layers.mT

    def ensemble_answers(self, batch: Batch) -> Properties:
        """Answers of every member, each with forces and stress that are derivatives of its own energy.

        Returns:
            energy (M, S) eV, forces (M, N, 3) eV/Å, stress (M, S, 3, 3) eV/Å³.

        Raises:
            ValueError: an ensemble of fewer than two members.
        """
        apart, mean = self._slopes(batch), self(batch)
        return Properties(mean.energy + apart.energies, mean.forces + apart.forces, mean.stress + apart.stress)

    def forces_uncertainty(self, batch: Batch) -> Tensor:
        """Standard deviation of each force component, (N, 3) eV/Å: of the ensemble, times `forces_multiplier`.

        Raises:
            ValueError: an ensemble of fewer than two members.
        """
        return self.forces_multiplier.to(batch.positions.dtype) * self._slopes(batch).forces.std(0)

    def _spread(self, rows: Tensor) -> Tensor:
        """Deviations of energies with these features (n, F): (F, n), or (M, n) of trained members."""
        if bool(self.are_trained):
            return self._layers() @ rows.mT / math.sqrt(len(self.members) - 1)
        return self.multiplier * torch.linalg.solve_triangular(self.cholesky, rows.mT, upper=False)

    def _features(self, batch: Batch, *, per_atom: bool = False) -> Tensor:
        self._check_fitted()
        check_species(self.species, batch)
        with torch.no_grad(), constant_weights(True):
            features = self.model.last_layer_features(batch).double()
        return features if per_atom else sums(features, batch)

    def _slopes(self, batch: Batch) -> Slopes:
        """What the members are off by from their mean; the last one follows from the others."""
        layers = self._layers()
        check_species(self.species, batch)
        features, *known = slopes_of(self.model, batch, layers[:-1])
        return Slopes(features, *(torch.cat([one, -one.sum(0, keepdim=True)]) for one in known))

    def _layers(self) -> Tensor:
        """The members less their mean, (M, F)."""
        n_members = len(self.members)
        if n_members < 2:
            raise ValueError(
                f"this LLPR has {n_members} ensemble members; at least 2 were expected. "
                "Call draw(n) after fit and calibrate, or load a file with an ensemble."
            )
        return self.members - self.members.mean(0)

    def _check_fitted(self) -> None:
        if not self.has_uncertainty:
            raise ValueError(
                "this LLPR has not seen its training set: the diagonal of its Cholesky factor holds zeros. "
                "Call fit with batches of the training set, or load a file with uncertainties."
            )

    def fit(self, batches: Iterable[Batch]) -> None:
        """Learn where the training set is dense, from all of its structures; labels are not needed.

        Raises:
            RuntimeError: the features are not finite.
        """
        covariance = torch.zeros_like(self.cholesky)
        for batch in batches:
            check_species(self.species, batch)
            with torch.no_grad(), constant_weights(True):
                features = sums(self.model.last_layer_features(batch).double(), batch)
            features = features / torch.bincount(batch.structure, minlength=batch.n_structures)[:, None]
            covariance += features.mT @ features
        self._factorize(covariance)
        self.are_trained = torch.zeros_like(self.are_trained)

    def _factorize(self, covariance: Tensor) -> None:
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

    def calibrate(self, batches: Iterable[tuple[Batch, Properties]], *, ridge: bool = False) -> None:
        """Set the scale of the uncertainties by energies that were not trained on.

            α = √(π/2) mean(abs(E - E_ref) / sigma)

        Args:
            batches: structures with their energies; one that is NaN is not known.
            ridge: also add to C the power of ten that makes the errors most likely, where there are `ENOUGH` of them.
                The smallest that makes C positive definite takes directions in which the training set does not vary
                for almost unknown, however little the energy changes along them.

        Raises:
            ValueError: nothing has been fitted, or there is no energy to compare with.
        """
        rows, errors = [], []
        for batch, reference in batches:
            if reference.energy is not None:
                with torch.no_grad(), constant_weights(True):
                    energies, features = self.model.energies_and_features(batch)
                rows.append(sums(features.double(), batch))
                errors.append(sums(energies[:, None], batch)[:, 0] - reference.energy.to(self.multiplier))
        known = torch.cat(errors).isfinite() if errors else torch.zeros(0, dtype=torch.bool)
        if not bool(known.any()):
            raise ValueError("0 structures with an energy were given to calibrate by; at least 1 was expected.")
        self._check_fitted()
        seen, missed = torch.cat(rows)[known], torch.cat(errors)[known]
        if ridge and len(missed) >= ENOUGH:
            self._add_ridge(seen, missed)
        scaled = torch.linalg.solve_triangular(self.cholesky, seen.mT, upper=False)
        ratios = missed.abs() / torch.linalg.vector_norm(scaled, dim=0)
        self.multiplier = math.sqrt(math.pi / 2) * ratios.nanmean()

    def _add_ridge(self, rows: Tensor, errors: Tensor) -> None:
        """Add to C the power of ten for which these errors are likeliest, each scaled as suits it best."""
        covariance = self.cholesky @ self.cholesky.mT
        values, vectors = torch.linalg.eigh(covariance)
        squares, values = (rows @ vectors).square(), values.clamp(min=0)
        highest = math.ceil(math.log10(float(values.max())))
        added = torch.tensor([0.0, *(10.0**power for power in range(highest - 16, highest + 1))]).to(values)
        sigmas = [(squares / (values + one).clamp(min=SMALLEST_RIDGE)).sum(1).sqrt() for one in added]
        scores = torch.stack([s.log().mean() + (errors / s).square().mean().log() / 2 for s in sigmas])
        best = float(added[scores.nan_to_num(torch.inf).argmin()])
        if best > 0:
            self._factorize(covariance + best * torch.eye(len(covariance)).to(covariance))

    def draw(self, n_members: int, seed: int = 0) -> None:
        """Make an ensemble: last layers that scatter as the uncertainty says.

        Args:
            n_members: how many; the spread of M members is uncertain by 1 / √(2 M).
            seed: of the random numbers.
        """
        random = torch.Generator().manual_seed(seed)
        noise = torch.randn(len(self.cholesky), n_members, generator=random, dtype=torch.float64)
        scattered = torch.linalg.solve_triangular(self.cholesky.mT, noise.to(self.cholesky.device), upper=True)
        self._take_members(self.multiplier * scattered.mT)

    def learn(self, rows: Rows, valid: Rows, epochs: int, seed: int = 0) -> list[float]:
        """Train the members, from where they are, to scatter as much as the answers are wrong.

        Args:
            rows: of the training set.
            valid: of a validation set, which chooses the epoch and the scale.
            epochs: passes over the rows.
            seed: of their order.

        Returns:
            The mean score on the validation set before the first and after each epoch; the best is kept.

        Raises:
            ValueError: an ensemble of fewer than two members.
        """
        found = trained(self._layers(), rows, valid, epochs, seed)
        self._take_members(found.members, are_trained=True)
        return found.scores

    def calibrate_forces(self, errors: Tensor, sigmas: Tensor) -> None:
        """Set the scale of the uncertainties of forces, as `calibrate` does for energies.

        Args:
            errors: any shape, eV/Å, of components that were not trained on.
            sigmas: the same shape, what `forces_uncertainty` said about them.

        Raises:
            ValueError: there is nothing to compare with.
        """
        ratio = (errors.abs() / sigmas).double()
        ratio = ratio[ratio.isfinite()]
        if not len(ratio):
            raise ValueError("0 components of forces were given to calibrate by; at least 1 was expected.")
        self.forces_multiplier = self.forces_multiplier * (math.sqrt(math.pi / 2) * ratio.mean()).to(self.multiplier)

    def _take_members(self, members: Tensor, *, are_trained: bool = False) -> None:
        self.members = members
        self.are_trained = torch.full_like(self.are_trained, are_trained)
        self.forces_multiplier = torch.ones_like(self.forces_multiplier)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # Files of tumble 0.1.0 and what is made of metatrain's know neither.
        for name in ("are_trained", "forces_multiplier"):
            state_dict.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LLPR":
        # Inverses amplify rounding: these move with the model but never lose precision.
        exact = {name: getattr(self, name) for name in EXACT}
        super()._apply(fn, recurse)
        for name, value in exact.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self
