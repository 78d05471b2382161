"""Rotations: which turns to ask about, with which weights, and up to which angular degree their mean is exact."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from scipy.integrate import lebedev_rule
from torch import Tensor

GRAMMAR: Final = "none, i, T, O, I, Th, Oh, Ih, so3:L, o3:L, euler:L, euler:Li, random:n, random:n:seed"
"""What `Rotations.parse` understands; L, n and seed are integers, and `@generic` may follow for `Rotations.generic`."""

ORTHOGONALITY: Final = 1e-10
"""Largest |R Rᵀ - 1| of a matrix that counts as orthogonal."""

_GROUPS: Final = ("T", "O", "I", "Th", "Oh", "Ih")
_DEGREES: Final = {"T": 2, "O": 3, "I": 5}
# Orders 13, 25 and 27 have negative weights, with which a variance could come out negative.
_LEBEDEV: Final = (3, 5, 7, 9, 11, 15, 17, 19, 21, 23, 29, 31, *range(35, 132, 6))
_BLOCK: Final = 1 << 21


@dataclass(frozen=True, eq=False)
class Rotations:
    """R orthogonal matrices with weights that sum to 1: a rule that averages over orientations.

    matrices: (R, 3, 3) float64, turns x -> x Qᵀ; determinants +1 or -1.
    weights:  (R,) float64, positive, summing to 1.
    degree:   the rule averages every channel 1 <= ℓ <= degree to exactly zero.
    name:     the spec that `parse` turns into this rule, where there is one.
    """

    matrices: Tensor
    weights: Tensor
    degree: int
    name: str

    def __post_init__(self) -> None:
        """Check the rule.

        Raises:
            ValueError: wrong shapes, matrices that are not orthogonal, weights not positive or not summing to 1.
        """
        object.__setattr__(self, "matrices", torch.as_tensor(self.matrices, dtype=torch.float64))
        object.__setattr__(self, "weights", torch.as_tensor(self.weights, dtype=torch.float64))
        n = len(self.weights)
        if n == 0 or self.matrices.shape != (n, 3, 3) or self.weights.dim() != 1:
            raise ValueError(
                f"rotations have matrices of shape {tuple(self.matrices.shape)} and weights of shape "
                f"{tuple(self.weights.shape)}; (R, 3, 3) and (R,), R >= 1, were expected. Give one weight per matrix."
            )
        defect = (self.matrices @ self.matrices.mT - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
        if not bool((defect <= ORTHOGONALITY).all()):
            worst = int(torch.nan_to_num(defect, nan=torch.inf).argmax())
            raise ValueError(
                f"rotations are not orthogonal: worst |R Rᵀ - 1| is {float(defect[worst]):.0e} at index {worst}, "
                f"allowed {ORTHOGONALITY:.0e}. Build them with Rotations.parse, Rotations.grid or Rotations.random."
            )
        total = float(self.weights.sum())
        if not bool((self.weights > 0).all()) or abs(total - 1) > 1e-12:
            raise ValueError(
                f"weights of rotations sum to {total:.15g} and the smallest is {float(self.weights.min()):.3g}; "
                "positive weights that sum to 1 within 1e-12 were expected. Divide them by their sum."
            )

    @classmethod
    def parse(cls, spec: str) -> "Rotations":
        """The rule a spec names: `Ih`, `o3:7`, `euler:3i`, `random:100:1`; in a generic frame with `@generic` after it.

        Raises:
            ValueError: the spec is not in the grammar, with the nearest that is; or a degree out of range.
        """
        rule, at, offset = spec.strip().partition("@")
        if at:
            if offset != "generic":
                raise _unknown(spec, rule + "@generic")
            return cls.parse(rule).generic()
        if rule == "crystal":
            raise ValueError(
                "the rule crystal is the point group of one structure and has no spec. "
                "Use tumble.crystal.point_operations(atoms).rule(), which is a Rotations."
            )
        if rule == "none":
            return _uniform(torch.eye(3, dtype=torch.float64)[None], 0, "none")
        if rule == "i":
            return _with_inversion(cls.parse("none"), "i")
        if rule in _GROUPS:
            return cls.group(rule)
        if found := re.fullmatch(r"(so3|o3):(\d+)", rule):
            return cls.grid(int(found[2]), inversion=found[1] == "o3")
        if found := re.fullmatch(r"euler:(\d+)(i?)", rule):
            return cls.euler(int(found[1]), inversion=found[2] == "i")
        if found := re.fullmatch(r"random:(\d+)(?::(\d+))?", rule):
            return cls.random(int(found[1]), seed=int(found[2] or 0))
        raise _unknown(spec)

    @classmethod
    def group(cls, name: str) -> "Rotations":
        """The elements of a polyhedral group in the lab frame, equally weighted, identity first.

        The axes of T and O are the lab axes; I is the one of the two icosahedral groups that contain this T whose
        five-fold axis is (0, 1, φ). Th, Oh and Ih add the inversion, with which every parity-odd channel vanishes.

        Args:
            name: T, O, I, Th, Oh or Ih.

        Raises:
            ValueError: another name.
        """
        if name not in _GROUPS:
            raise ValueError(f'"{name}" is not a polyhedral group; {", ".join(_GROUPS)} are. Use one of these.')
        proper = _uniform(_elements(name[0]), _DEGREES[name[0]], name[0])
        return _with_inversion(proper, name) if name.endswith("h") else proper

    @classmethod
    def grid(cls, degree: int, *, inversion: bool = False) -> "Rotations":
        """The cheapest known rule that averages every 1 <= ℓ <= degree to zero.

        A polyhedral group up to degree 5, beyond that a Lebedev rule for the direction of one axis times degree + 1
        equal angles about it.

        Args:
            degree: at least 1.
            inversion: add -Q for every Q, so that every parity-odd channel vanishes too.

        Raises:
            ValueError: a degree below 1 or above the largest Lebedev rule.

        Source: V. I. Lebedev and D. N. Laikov, Doklady Mathematics 59, 477 (1999), as tabulated by scipy.
        """
        if not 1 <= degree <= _LEBEDEV[-1]:
            raise ValueError(
                f"rotations of degree {degree} were asked for; 1 to {_LEBEDEV[-1]} can be made. Choose L in that range."
            )
        name = f"{'o3' if inversion else 'so3'}:{degree}"
        group = next((g for g, exact in _DEGREES.items() if exact >= degree), None)
        proper = cls.group(group) if group else _lebedev(degree)
        if inversion:
            return _with_inversion(proper, name)
        return cls(proper.matrices, proper.weights, proper.degree, name)

    @classmethod
    def euler(cls, order: int, *, inversion: bool = False) -> "Rotations":
        """Product rule in zxz Euler angles: uniform in the first and last, Gauss-Legendre in the cosine of the second.

        (2 order - 1)² order nodes, exact for 1 <= ℓ <= 2 order - 2.

        Args:
            order: at least 1.
            inversion: add -Q for every Q.

        Raises:
            ValueError: an order below 1.

        Source: Langer, Pozdnyakov, Ceriotti, Mach. Learn. Sci. Technol. 5, 04LT01 (2024), doi:10.1088/2632-2153/ad86a0.
        """
        if order < 1:
            raise ValueError(f"an Euler rule of order {order} has no nodes; at least 1 was expected. Use euler:2, say.")
        n = 2 * order - 1
        around = torch.arange(n, dtype=torch.float64) * (2 * torch.pi / n)
        cosine, weight = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(order))
        first, second, last = torch.cartesian_prod(around, torch.arccos(cosine), around).unbind(1)
        weights = (weight / weight.sum()).repeat_interleave(n).repeat(n) / n**2
        matrices = _about(2, first) @ _about(0, second) @ _about(2, last)
        rule = cls(matrices, _normalised(weights), n - 1, f"euler:{order}")
        return _with_inversion(rule, f"euler:{order}i") if inversion else rule

    @classmethod
    def random(cls, n: int, seed: int = 0) -> "Rotations":
        """Independent uniformly distributed rotations: unbiased, exact for no channel.

        Args:
            n: at least 1.
            seed: the same seed gives the same rotations, everywhere.

        Raises:
            ValueError: fewer than one rotation.
        """
        if n < 1:
            raise ValueError(f"{n} random rotations were asked for; at least 1 was expected. Use random:100, say.")
        quaternions = torch.as_tensor(np.random.default_rng(seed).standard_normal((n, 4)))
        return _uniform(_from_quaternions(quaternions), 0, f"random:{n}" + (f":{seed}" if seed else ""))

    def __len__(self) -> int:
        """R."""
        return len(self.weights)

    def __repr__(self) -> str:
        """Name, number of nodes, degree."""
        odd = ", no parity-odd" if self.has_inversion else ""
        return f"Rotations({self.name}: {len(self)} nodes, exact to degree {self.degree}{odd})"

    def chunks(self, n: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Matrices (n, 3, 3) and weights (n,) in consecutive pieces of at most n."""
        return zip(torch.split(self.matrices, n), torch.split(self.weights, n), strict=True)

    def offset(self, rotation: Tensor) -> "Rotations":
        """The rule with nodes Q R0: the same degree, other orientations of the structure.

        Args:
            rotation: (3, 3) orthogonal.
        """
        rotation = torch.as_tensor(rotation, dtype=torch.float64)
        return Rotations(self.matrices @ rotation, self.weights, self.degree, f"{self.name}@offset")

    def generic(self) -> "Rotations":
        """The rule with nodes R0ᵀ Q R0, in the frame of the fixed rotation `GENERIC`: what a measuring rule needs.

        R0 on the right takes a crystal out of the rule's frame: of a crystal whose point group holds all nodes an
        aligned rule sees one orientation. R0ᵀ on the left does the same for the lab: of a potential that is symmetric
        under all nodes (x⁴ + y⁴ + z⁴ under the octahedral group) an aligned rule sees one value. The degree, the
        identity and the closure of a group are kept.
        """
        return Rotations(GENERIC.T @ self.matrices @ GENERIC, self.weights, self.degree, f"{self.name}@generic")

    def residuals(self, l_max: int) -> Tensor:
        """What the rule leaves of each channel: Σ_rs w_r w_s χ_ℓσ(Q_r Q_s⁻¹) >= 0; zero if it averages to zero.

        It is the squared norm of the mean Wigner matrix. A function of power B in the channel, randomly oriented,
        leaves B residual / (2ℓ + 1) in the square of its mean.

        Returns:
            (2, l_max + 1): [0] proper channels, of parity (-1)^ℓ; [1] pseudo channels, of parity -(-1)^ℓ.
        """
        weights = self.weights[:, None]
        return character_sums(self.matrices, weights, self.matrices, weights, l_max)[..., 0]

    @property
    def determinants(self) -> Tensor:
        """(R,) +1 for a proper rotation, -1 for one with inversion."""
        return torch.sign(torch.linalg.det(self.matrices))

    @property
    def is_proper(self) -> bool:
        """Whether no node inverts."""
        return bool((self.determinants > 0).all())

    @property
    def has_inversion(self) -> bool:
        """Whether -Q is a node, with the same weight, for every node Q: then no parity-odd part survives the mean."""
        return self.opposite() is not None

    def opposite(self) -> Tensor | None:
        """(R,) index of -Q for each node Q; None if some node has no opposite of the same weight."""
        if self.is_proper or len(self) % 2:
            return None
        half = len(self) // 2
        if torch.equal(self.matrices[:half], -self.matrices[half:]):
            found = torch.arange(len(self)).roll(half)
        else:
            found = find(-self.matrices, self.matrices)
        if bool((found < 0).any()) or not torch.allclose(self.weights[found], self.weights, rtol=1e-9, atol=0):
            return None
        return found

    @property
    def is_group(self) -> bool:
        """Whether the nodes are a group, equally weighted: then every mean is invariant under each of them."""
        if not torch.allclose(self.weights, self.weights[0], rtol=1e-9, atol=0):
            return False
        return all(bool((find(Q @ self.matrices, self.matrices) >= 0).all()) for Q in self.matrices)


def character_sums(left: Tensor, a: Tensor, right: Tensor, b: Tensor, l_max: int) -> Tensor:
    """Double character sums Σ_rs a_r b_s χ_ℓσ(Q_r Q_s⁻¹) over two sets of orthogonal matrices.

    χ_ℓ(ω) = sin((2ℓ+1)ω/2) / sin(ω/2) for a rotation by ω, and χ_ℓσ(-R) = σ (-1)^ℓ χ_ℓ(R).

    Args:
        left: (A, 3, 3), with columns a: (A, M).
        right: (B, 3, 3), with columns b: (B, M).

    Returns:
        (2, l_max + 1, M): [0] proper channels, σ = 1; [1] pseudo channels, σ = -1.
    """
    signs_a, signs_b = torch.linalg.det(left).sign()[:, None], torch.linalg.det(right).sign()[:, None]
    # A channel of even parity sees the columns as they are, one of odd parity sees those of inverting matrices with
    # the opposite sign; both see only the proper part of the turn.
    a, b = torch.cat([a, a * signs_a], dim=1), torch.cat([b, b * signs_b], dim=1)
    proper_a, proper_b = (left.flatten(1) * signs_a), (right.flatten(1) * signs_b).mT
    sums = torch.zeros(l_max + 1, a.shape[1], dtype=torch.float64)
    rows = max(1, _BLOCK // len(right))
    for block, columns in zip(torch.split(proper_a, rows), torch.split(a, rows), strict=True):
        # χ_ℓ = 1 + 2 Σ_m cos mω, and cos mω is a Chebyshev polynomial of cos ω: no angle, no 0/0.
        cosine = ((block @ proper_b - 1) / 2).clamp(-1, 1)
        before, now, character = cosine, torch.ones_like(cosine), torch.ones_like(cosine)
        for ell in range(l_max + 1):
            if ell:
                before, now = now, 2 * cosine * now - before
                character = character + 2 * now
            sums[ell] += (columns * (character @ b)).sum(0)
    even, odd = sums.chunk(2, dim=1)
    alternating = (torch.arange(l_max + 1) % 2 == 0)[:, None]
    return torch.stack([torch.where(alternating, even, odd), torch.where(alternating, odd, even)])


def find(matrices: Tensor, among: Tensor, tolerance: float = 1e-6) -> Tensor:
    """(A,) index of each of A matrices among others (B, 3, 3); -1 where none is equal within the tolerance."""
    found = []
    for block in torch.split(matrices, max(1, _BLOCK // len(among))):
        # For orthogonal matrices |P - Q|² = 6 - 2 tr(P Qᵀ); the trace finds the nearest, the difference decides.
        nearest = (block.flatten(1) @ among.flatten(1).mT).argmax(1)
        equal = (block - among[nearest]).abs().amax((1, 2)) <= tolerance
        found.append(torch.where(equal, nearest, -1))
    return torch.cat(found)


def _elements(name: str) -> Tensor:
    """All elements of T, O or I: products of generators until nothing new appears, identity first."""
    golden = (1 + 5**0.5) / 2
    cycle = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    half = torch.diag(torch.tensor([-1, -1, 1], dtype=torch.float64))
    quarter = torch.tensor([[0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    fifth = torch.tensor([[golden - 1, -golden, 1], [golden, 1, golden - 1], [-1, golden - 1, golden]]).double() / 2
    generators = torch.stack([cycle, half, *{"T": (), "O": (quarter,), "I": (fifth,)}[name]])
    entries = torch.tensor([0, 0.5, 1, golden / 2, (golden - 1) / 2], dtype=torch.float64)
    entries = torch.cat([entries, -entries[1:]])
    group = torch.eye(3, dtype=torch.float64)[None]
    while True:
        products = (generators[:, None] @ group[None]).reshape(-1, 3, 3)
        # Entries are known numbers: the nearest one replaces each product, so that rounding cannot pile up.
        products = entries[(products[..., None] - entries).abs().argmin(-1)]
        fresh = products[find(products, group) < 0]
        if not len(fresh):
            return group
        group = torch.cat([group, torch.unique(fresh, dim=0)])


def _lebedev(degree: int) -> Rotations:
    order = next(o for o in _LEBEDEV if o >= degree)
    points, weights = (torch.as_tensor(np.ascontiguousarray(a)) for a in lebedev_rule(order))
    x, y, z = points.clamp(-1, 1)
    tilt = _about(2, torch.atan2(y, x)) @ _about(1, torch.arccos(z))
    spin = _about(2, torch.arange(degree + 1, dtype=torch.float64) * (2 * torch.pi / (degree + 1)))
    matrices = (tilt[:, None] @ spin[None]).reshape(-1, 3, 3)
    return Rotations(matrices, _normalised(weights.repeat_interleave(degree + 1)), degree, f"so3:{degree}")


def _about(axis: int, angle: Tensor) -> Tensor:
    """Rotations (R, 3, 3) by angles (R,) about one lab axis."""
    after, last = (axis + 1) % 3, (axis + 2) % 3
    matrices = torch.zeros(len(angle), 3, 3, dtype=torch.float64)
    matrices[:, axis, axis] = 1
    matrices[:, after, after] = matrices[:, last, last] = torch.cos(angle)
    matrices[:, last, after] = torch.sin(angle)
    matrices[:, after, last] = -torch.sin(angle)
    return matrices


def _from_quaternions(quaternions: Tensor) -> Tensor:
    """Rotations (R, 3, 3) of quaternions (R, 4), scalar first, of any length."""
    w, x, y, z = (quaternions / quaternions.norm(dim=1, keepdim=True)).unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def _uniform(matrices: Tensor, degree: int, name: str) -> Rotations:
    return Rotations(matrices, torch.full((len(matrices),), 1 / len(matrices), dtype=torch.float64), degree, name)


def _with_inversion(rule: Rotations, name: str) -> Rotations:
    return Rotations(torch.cat([rule.matrices, -rule.matrices]), rule.weights.repeat(2) / 2, rule.degree, name)


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum()


def _unknown(spec: str, nearest: str = "") -> ValueError:
    if not nearest:
        head, _, tail = spec.partition(":")
        heads = ["none", "i", *_GROUPS, "so3", "o3", "euler", "random"]
        close = difflib.get_close_matches(head.lower(), [h.lower() for h in heads], n=1, cutoff=0)[0]
        nearest = next(h for h in heads if h.lower() == close)
        if nearest in heads[-4:]:
            digits = "".join(c for c in tail.partition(":")[0] if c.isdecimal())
            nearest += f":{digits or {'so3': 7, 'o3': 7, 'euler': 3, 'random': 100}[nearest]}"
    return ValueError(
        f'rotations "{spec}" are not in the grammar: {GRAMMAR} (L, n, seed integers; "@generic" may follow). '
        f'Did you mean "{nearest}"?'
    )


GENERIC: Final = _from_quaternions(torch.tensor([[2.0, 3.0, 5.0, 13.0]], dtype=torch.float64).sqrt())[0]
"""(3, 3) the fixed rotation R0 that takes a crystal and the lab out of the frame of a measuring rule.

Of no symmetry with respect to the lab axes: T, O and I turned by it miss less than 8 % of the variance of the lowest
channel of a structure with the same group in the lab frame, of which unturned they miss all.
"""
