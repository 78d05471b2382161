"""Orbit: the answers of a potential about every turned copy of a batch, turned back."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from tumble.batch import Batch, Properties, copies, turn, turn_back
from tumble.potential import Potential
from tumble.rotations import Rotations, character_sums

PAIRS_PER_PASS: Final = 30_000
"""Pairs (or atoms, where there are more) in one call of the potential, unless the caller chooses the chunk."""


@dataclass(frozen=True, eq=False)
class Orbit:
    """Answers about every turned copy of a batch, turned back; for an equivariant potential all are the same.

    rotations:  the rule, R nodes.
    properties: energy (R, S) eV, forces (R, N, 3) eV/Å, stress (R, S, 3, 3) eV/Å³; float64.
    """

    rotations: Rotations
    properties: Properties

    @classmethod
    def of(cls, potential: Potential, batch: Batch, rotations: Rotations, *, chunk: int | None = None) -> "Orbit":
        """Ask the potential about every turned copy; the pairs are those of the batch, never searched again.

        Args:
            potential: any Potential.
            batch: S structures with the pairs that the potential needs.
            rotations: what to turn by.
            chunk: turned copies of the whole batch in one call; by default as many as hold `PAIRS_PER_PASS` pairs.

        Raises:
            ValueError: a chunk below 1.
        """
        pieces = [answers for _, answers in passes(potential, batch, rotations, chunk)]
        return cls(rotations, _each(lambda *fields: torch.cat(fields), *pieces))

    def mean(self) -> Properties:
        """Weighted mean over the rule, f̄ = Σ_r w_r f(Q_r): what the symmetrized potential answers.

        Returns:
            energy (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³.
        """
        return _each(partial(_average, self.rotations.weights), self.properties)

    def spread(self) -> Properties:
        """Root-mean-square deviation of the turned-back answers from their mean.

            spread² = Σ_r w_r |f(Q_r) - f̄|²

        Returns:
            energy (S,) eV, forces (N,) eV/Å, stress (S,) eV/Å³, norms over components. All >= 0; zero for an
            equivariant potential.

        Source: Langer, Pozdnyakov, Ceriotti, Mach. Learn. Sci. Technol. 5, 04LT01 (2024), doi:10.1088/2632-2153/ad86a0.
        """
        return _each(torch.sqrt, _each(partial(_scatter, self.rotations.weights), self.properties, self.mean()))

    def parity(self) -> Properties:
        """Root mean square of the parity-odd part, [f(Q) - f(-Q)] / 2.

        It is zero if an inverted copy gets the inverted answer.

        Returns:
            energy (S,) eV, forces (N,) eV/Å, stress (S,) eV/Å³.

        Raises:
            ValueError: the rule lacks the opposite of some node.
        """
        opposite = self.rotations.opposite()
        if opposite is None:
            raise ValueError(
                f"the parity-odd part needs -Q for every node Q, which {self.rotations.name} does not have. "
                "Use a rule with inversion: i, Th, Oh, Ih, o3:L or euler:Li."
            )
        odd = _each(lambda f: (f - f[opposite.to(f.device)]) / 2, self.properties)
        return _each(lambda f: _average(self.rotations.weights, _squares(f, keep=2)).sqrt(), odd)

    def spectrum(self, l_max: int | None = None) -> Properties:
        """Power of the answers in each channel of O(3).

            B_ℓσ = (2ℓ+1) Σ_rs w_r w_s f(Q_r)·f(Q_s) χ_ℓσ(Q_r Q_s⁻¹)

        B_0+ is the square of the mean; the other channels add up to the variance, spread², if l_max reaches far enough.

        Args:
            l_max: the highest ℓ; by default the highest that the rule resolves, half its degree.

        Returns:
            energy (2, l_max + 1, S) eV², forces (2, l_max + 1, N) (eV/Å)², stress (2, l_max + 1, S) (eV/Å³)²; the first
            axis is [0] proper channels, of parity (-1)^ℓ, [1] pseudo channels. A rule of proper rotations only cannot
            tell them apart; then the first axis has length 1 and holds their sum.

        Raises:
            ValueError: l_max is negative or above half the degree, or a rule has inverted nodes without opposites.
        """
        highest = self.rotations.degree // 2
        l_max = highest if l_max is None else l_max
        if not 0 <= l_max <= highest:
            raise ValueError(
                f"a spectrum up to l = {l_max} was asked for; {self.rotations.name} is exact to degree "
                f"{self.rotations.degree}, which resolves 0 to {highest}. Use a rule of degree {2 * max(l_max, 0)} "
                f'or more, "o3:{2 * max(l_max, 1)}".'
            )
        if not self.rotations.is_proper and not self.rotations.has_inversion:
            raise ValueError(
                f"the rule {self.rotations.name} mixes proper and inverting nodes without -Q for every Q, so parity "
                "cannot be resolved. Use a rule of proper rotations, or one with inversion such as o3:L."
            )
        return _each(lambda f: self._power(f, l_max), self.properties)

    def expected_error(self, rotations: Rotations, l_max: int | None = None) -> Properties:
        """What another rule would leave in its mean, from the spectrum of this one: the root mean square over frames.

            error² = Σ_{ℓσ} B_ℓσ residual_ℓσ / (2ℓ+1), without ℓ = 0 proper

        Channels above l_max are not seen, so this is the error of the resolved part. In one frame it can be larger: a
        rule that shares an axis with an anisotropy of the potential leaves all of it, and in other frames less.

        Args:
            rotations: the other rule; see `Rotations.residuals`.
            l_max: as in `spectrum`.

        Returns:
            energy (S,) eV, forces (N,) eV/Å, stress (S,) eV/Å³, norms over components.
        """

        def error(power: Tensor) -> Tensor:
            degrees = torch.arange(power.shape[1])
            share = (rotations.residuals(len(degrees) - 1) / (2 * degrees + 1)).clamp(min=0)
            share[0, 0] = 0
            if len(power) == 1:
                # Parity is not resolved: all power could be in the channel that the other rule leaves more of.
                share[1, 0] = 0
                share = share.amax(0, keepdim=True)
            return torch.einsum("pl,plm->m", share.to(power), power.clamp(min=0)).sqrt()

        return _each(error, self.spectrum(l_max))

    def _power(self, field: Tensor, l_max: int) -> Tensor:
        # The mean is taken out first and put back as B_0+: its square can be 10^15 times the variance.
        mean = _average(self.rotations.weights, field)
        weighted = (field - mean).flatten(1).cpu() * self.rotations.weights[:, None]
        sums = character_sums(self.rotations.matrices, weighted, self.rotations.matrices, weighted, l_max)
        sums = sums.reshape(2, l_max + 1, len(mean), -1).sum(3)
        power = ((2 * torch.arange(l_max + 1)[:, None] + 1) * sums).to(field.device)
        power[0, 0] += _squares(mean, keep=1)
        return power[:1] if self.rotations.is_proper else power


def mean_over(potential: Potential, batch: Batch, rotations: Rotations, chunk: int | None = None) -> Properties:
    """The mean of the orbit without the orbit: memory does not grow with the number of rotations.

    Returns:
        energy (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³; float64.
    """
    return moments_over(potential, batch, rotations, chunk)[0]


def moments_over(
    potential: Potential, batch: Batch, rotations: Rotations, chunk: int | None = None
) -> tuple[Properties, Properties]:
    """Mean and spread of the orbit without the orbit, as `Orbit.mean` and `Orbit.spread` give them.

    Source: the centred update of B. P. Welford, Technometrics 4, 419 (1962), with weights, chunk by chunk.
    """
    total, mean, squares = 0.0, Properties(), Properties()
    for weights, answers in passes(potential, batch, rotations, chunk):
        added = float(weights.sum())
        part = _each(partial(_average, weights / added), answers)
        inside = _each(partial(_scatter, weights), answers, part)
        if total == 0.0:
            mean, squares = part, inside
        else:
            share = added / (total + added)
            apart = _each(torch.sub, part, mean)
            mean = _each(partial(torch.add, alpha=share), mean, apart)
            between = _each(lambda d, factor=total * share: factor * _squares(d, keep=1), apart)
            squares = _each(lambda s, i, b: s + i + b, squares, inside, between)
        total += added
    return mean, _each(torch.sqrt, squares)


def passes(
    potential: Potential, batch: Batch, rotations: Rotations, chunk: int | None = None
) -> Iterator[tuple[Tensor, Properties]]:
    """Weights (r,) and turned-back answers with leading axis r, in float64, chunk by chunk.

    Rotations and structures are packed into one batch per call: r S structures.
    """
    if chunk is None:
        chunk = max(1, PAIRS_PER_PASS // max(batch.n_pairs, batch.n_atoms))
    if chunk < 1:
        raise ValueError(
            f"the chunk is {chunk} copies per call; at least 1 was expected. Leave it out, or give 1 or more."
        )
    for matrices, weights in rotations.chunks(chunk):
        turns = matrices.to(batch.positions.device).repeat_interleave(batch.n_structures, dim=0)
        packed = turn(copies(batch, len(matrices)), turns)
        with torch.set_grad_enabled(potential.training and torch.is_grad_enabled()):
            answers = potential(packed)
        back = turn_back(_each(Tensor.double, answers), turns, packed.structure)
        yield weights, _each(partial(_by_rotation, len(weights)), back)


def _each(function: Callable[..., Tensor], *properties: Properties) -> Properties:
    """The function of each field; None where the field is not known."""
    columns = zip(*properties, strict=True)
    return Properties(*(None if any(f is None for f in column) else function(*column) for column in columns))


def _by_rotation(n: int, field: Tensor) -> Tensor:
    """(n S, ...) of a packed batch as (n, S, ...)."""
    return field.reshape(n, -1, *field.shape[1:])


def _average(weights: Tensor, field: Tensor) -> Tensor:
    """Σ_r w_r f_r over the leading axis."""
    return torch.einsum("r,r...->...", weights.to(field.device), field)


def _scatter(weights: Tensor, field: Tensor, mean: Tensor) -> Tensor:
    """Σ_r w_r |f_r - mean|², per structure or per atom."""
    return _average(weights, _squares(field - mean, keep=2))


def _squares(field: Tensor, keep: int) -> Tensor:
    """Sum of squares over all axes but the first few."""
    return field.square().flatten(keep).sum(keep) if field.dim() > keep else field.square()
