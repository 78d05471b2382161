"""Orbit: answers about every turned copy, and what they say: mean, spread, parity, spectrum, standard error."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tumble.batch import Batch, Properties
from tumble.crystal import SpaceGroup
from tumble.orbit.fields import average, each, scatter, squares
from tumble.orbit.streaming import passes, runs
from tumble.potential import Potential
from tumble.rotations import Rotations, character_sums


@dataclass(frozen=True, eq=False)
class Orbit:
    """Answers about every turned copy of a batch, turned back; for an equivariant potential all are the same.

    rotations:  the rule, R nodes.
    properties: energy (R, S) eV, forces (R, N, 3) eV/Å, stress (R, S, 3, 3) eV/Å³; float64.
    """

    rotations: Rotations
    properties: Properties

    @classmethod
    def of(
        cls,
        potential: Potential,
        batch: Batch,
        rotations: Rotations,
        *,
        chunk: int | None = None,
        groups: Sequence[SpaceGroup | None] | None = None,
    ) -> "Orbit":
        """Ask the potential about every turned copy; the pairs are those of the batch, never searched again.

        Args:
            potential: any Potential.
            batch: S structures with the pairs that the potential needs.
            rotations: what to turn by.
            chunk: turned copies of the whole batch in one call; by default as many as hold `PAIRS_PER_PASS` pairs.
            groups: for each structure its own symmetry, or None. Then only turned copies that it tells apart are asked
                about, and the answers about the others follow; structure by structure, where that spares a call.

        Raises:
            ValueError: a chunk below 1, or not one group for each structure.
        """
        parts = runs(batch, rotations, groups)
        answers = [_whole(passes(potential, one, rotations, chunk, group)) for one, group in parts]
        return cls(rotations, each(lambda *fields: torch.cat(fields, 1), *answers))

    @property
    def resolves(self) -> int:
        """The highest ℓ of a spectrum: half the degree of the rule, for power is a product of two answers."""
        return self.rotations.degree // 2

    def mean(self) -> Properties:
        """Weighted mean over the rule, f̄ = Σ_r w_r f(Q_r): what the symmetrized potential answers.

        Returns:
            energy (S,) eV, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³.
        """
        return each(partial(average, self.rotations.weights), self.properties)

    def spread(self) -> Properties:
        """Root-mean-square deviation of the turned-back answers from their mean.

            spread² = Σ_r w_r |f(Q_r) - f̄|²

        Returns:
            energy (S,) eV, forces (N,) eV/Å, stress (S,) eV/Å³, norms over components. All >= 0; zero for an
            equivariant potential.

        Source: Langer, Pozdnyakov, Ceriotti, Mach. Learn. Sci. Technol. 5, 04LT01 (2024), doi:10.1088/2632-2153/ad86a0.
        """
        return each(torch.sqrt, each(partial(scatter, self.rotations.weights), self.properties, self.mean()))

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
        odd = each(lambda f: (f - f[opposite.to(f.device)]) / 2, self.properties)
        return each(lambda f: average(self.rotations.weights, squares(f, keep=2)).sqrt(), odd)

    def spectrum(self, l_max: int | None = None) -> Properties:
        """Power of the answers in each channel of O(3).

            B_ℓσ = (2ℓ+1) Σ_rs w_r w_s f(Q_r)·f(Q_s) χ_ℓσ(Q_r Q_s⁻¹)

        B_0+ is the square of the mean; the other channels add up to the variance, spread², if l_max reaches far enough.

        Args:
            l_max: the highest ℓ; by default what the rule `resolves`.

        Returns:
            energy (2, l_max + 1, S) eV², forces (2, l_max + 1, N) (eV/Å)², stress (2, l_max + 1, S) (eV/Å³)²; the first
            axis is [0] proper channels, of parity (-1)^ℓ, [1] pseudo channels. A rule of proper rotations only cannot
            tell them apart; then the first axis has length 1 and holds their sum.

        Raises:
            ValueError: l_max is negative or above half the degree, or a rule has inverted nodes without opposites.
        """
        l_max = self.resolves if l_max is None else l_max
        if not 0 <= l_max <= self.resolves:
            raise ValueError(
                f"a spectrum up to l = {l_max} was asked for; {self.rotations.name} is exact to degree "
                f"{self.rotations.degree}, which resolves 0 to {self.resolves}. Use a rule of degree "
                f'{2 * max(l_max, 0)} or more, "o3:{2 * max(l_max, 1)}".'
            )
        self.check_parity()
        return each(lambda f: self._power(f, l_max), self.properties)

    def check_parity(self) -> None:
        """Refuse a rule with which channels cannot be told apart.

        Raises:
            ValueError: it has inverted nodes without opposites.
        """
        if not self.rotations.is_proper and not self.rotations.has_inversion:
            raise ValueError(
                f"the rule {self.rotations.name} mixes proper and inverting nodes without -Q for every Q, so parity "
                "cannot be resolved. Use a rule of proper rotations, or one with inversion such as o3:L."
            )

    def standard_error(self) -> Properties:
        """Standard error of the mean, from the scatter of the means over randomly turned copies of the rule.

            error² = Σ_k |mean_k - mean|² / (n (n - 1)),  k = 1 … n replicas

        It has no part in the channels that every copy averages to zero.

        Returns:
            energy (S,) eV, forces (N,) eV/Å, stress (S,) eV/Å³, norms over components.

        Raises:
            ValueError: the rule has fewer than two replicas.
        """
        n = self.rotations.replicas
        if n < 2:
            raise ValueError(
                f"a standard error needs at least 2 randomly turned copies of one rule; {self.rotations.name} has {n}. "
                'Use a rule such as "random:100" or "T@random:10".'
            )
        weights = n * self.rotations.weights.reshape(n, -1)

        def error(field: Tensor, mean: Tensor) -> Tensor:
            copies = (field - mean).reshape(n, -1, *mean.shape)
            apart = torch.einsum("nr,nr...->n...", weights.to(field.device), copies)
            return (squares(apart, keep=2).sum(0) / (n * (n - 1))).sqrt()

        return each(error, self.properties, self.mean())

    def _power(self, field: Tensor, l_max: int) -> Tensor:
        # The mean is taken out first and put back as B_0+: its square can be 10^15 times the variance.
        mean = average(self.rotations.weights, field)
        weighted = (field - mean).flatten(1).cpu() * self.rotations.weights[:, None]
        sums = character_sums(self.rotations.matrices, weighted, self.rotations.matrices, weighted, l_max)
        sums = sums.reshape(2, l_max + 1, len(mean), -1).sum(3)
        power = ((2 * torch.arange(l_max + 1)[:, None] + 1) * sums).to(field.device)
        power[0, 0] += squares(mean, keep=1)
        return power[:1] if self.rotations.is_proper else power


def _whole(pieces: Iterable[tuple[Tensor, Tensor, Properties]]) -> Properties:
    """All answers, in the order of the rule."""
    places, _, answers = zip(*pieces, strict=True)
    order = torch.argsort(torch.cat(places))
    return each(lambda *fields: torch.cat(fields)[order.to(fields[0].device)], *answers)
