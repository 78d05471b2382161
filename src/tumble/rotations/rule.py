"""Rotations: the nodes of a rule, their weights, and what their mean removes."""

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from tumble.rotations import nodes
from tumble.rotations.characters import character_sums, find
from tumble.rotations.nodes import GENERIC
from tumble.rotations.spec import GROUPS, Part, read

ORTHOGONALITY: Final = 1e-10
"""Largest |R Rᵀ - 1| of a matrix that counts as orthogonal."""

_DEGREES: Final = {"T": 2, "O": 3, "I": 5}


@dataclass(frozen=True, eq=False)
class Rotations:
    """R orthogonal matrices with weights that sum to 1: a rule that averages over orientations.

    matrices: (R, 3, 3) float64, turns x -> x Qᵀ; determinants +1 or -1.
    weights:  (R,) float64, positive, summing to 1.
    degree:   the rule averages every channel 1 <= ℓ <= degree to exactly zero.
    name:     the spec that `parse` turns into this rule, where there is one.
    replicas: the nodes are so many consecutive blocks of equal length, independent randomly turned copies of one rule,
              of which a mean has a standard error; 1 for a rule without chance.
    """

    matrices: Tensor
    weights: Tensor
    degree: int
    name: str
    replicas: int = 1

    def __post_init__(self) -> None:
        """Check the rule.

        Raises:
            ValueError: wrong shapes, matrices that are not orthogonal, weights not positive or not summing to 1, or
                replicas that are not blocks of equal length and weight.
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
        self._check_replicas()

    def _check_replicas(self) -> None:
        if self.replicas < 1 or len(self) % self.replicas:
            raise ValueError(
                f"{len(self)} rotations cannot be {self.replicas} replicas of one rule; at least 1 was expected, all "
                "of the same length. Give a number of replicas that divides the number of rotations."
            )
        shares = self.weights.reshape(self.replicas, -1).sum(1)
        if float((shares - 1 / self.replicas).abs().max()) > 1e-12:
            raise ValueError(
                f"replicas have weights from {float(shares.min()):.6g} to {float(shares.max()):.6g}; each of "
                f"{self.replicas} was expected to have {1 / self.replicas:.6g}. Give every copy the same weights."
            )

    @classmethod
    def parse(cls, spec: str) -> "Rotations":
        """The rule a spec names, see `GRAMMAR`: `Ih`, `o3:7`, `euler:3i`, `random:100:1`.

        A frame may follow: `@lab`, the same as none; `@generic`, see `generic`; `@random:n[:seed]`, see `randomized`.

        Raises:
            ValueError: the spec is not in the grammar, with the nearest that is; a number out of range; or a spec that
                needs a structure, which `tumble.crystal.parse_rule` reads.
        """
        rule, frame = read(spec)
        found = cls._named(rule)
        if frame.head == "random":
            return found.randomized(frame.number, frame.seed)
        return found.generic() if frame.head == "generic" else found

    @classmethod
    def _named(cls, rule: Part) -> "Rotations":
        match rule.head:
            case "none":
                return _uniform(torch.eye(3, dtype=torch.float64)[None], 0, "none")
            case "i":
                return _with_inversion(cls.parse("none"), "i")
            case "so3" | "o3":
                return cls.grid(rule.number, inversion=rule.head == "o3")
            case "euler":
                return cls.euler(rule.number, inversion=rule.inversion)
            case "random":
                return cls.random(rule.number, rule.seed)
        return cls.group(rule.head)

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
        if name not in GROUPS:
            raise ValueError(f'"{name}" is not a polyhedral group; {", ".join(GROUPS)} are. Use one of these.')
        proper = _uniform(nodes.elements(name[0]), _DEGREES[name[0]], name[0])
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
        if not 1 <= degree <= nodes.HIGHEST:
            raise ValueError(
                f"rotations of degree {degree} were asked for; 1 to {nodes.HIGHEST} can be made. "
                "Choose L in that range."
            )
        name = f"{'o3' if inversion else 'so3'}:{degree}"
        group = next((g for g, exact in _DEGREES.items() if exact >= degree), None)
        proper = cls.group(group) if group else cls(*nodes.lebedev(degree), degree, name)
        return _with_inversion(proper, name) if inversion else replace(proper, name=name)

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
        rule = cls(*nodes.euler(order), 2 * order - 2, f"euler:{order}")
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
        return replace(_uniform(nodes.haar(n, seed), 0, _random_name(n, seed)), replicas=n)

    def __len__(self) -> int:
        """R."""
        return len(self.weights)

    def __repr__(self) -> str:
        """Name, number of nodes, degree, parity, replicas."""
        odd = ", no parity-odd" if self.has_inversion else ""
        copies = f" in {self.replicas} replicas" if self.replicas > 1 else ""
        return f"Rotations({self.name}: {len(self)} nodes{copies}, exact to degree {self.degree}{odd})"

    def offset(self, rotation: Tensor) -> "Rotations":
        """The rule with nodes Q R0: the same degree, other orientations of the structure.

        Args:
            rotation: (3, 3) orthogonal.
        """
        rotation = torch.as_tensor(rotation, dtype=torch.float64)
        return replace(self, matrices=self.matrices @ rotation, name=f"{self.name}@offset")

    def generic(self) -> "Rotations":
        """The rule with nodes R0ᵀ Q R0, in the frame of the fixed rotation `GENERIC`: what a measuring rule needs.

        R0 on the right takes a crystal out of the rule's frame: of a crystal whose point group holds all nodes an
        aligned rule sees one orientation. R0ᵀ on the left does the same for the lab: of a potential that is symmetric
        under all nodes (x⁴ + y⁴ + z⁴ under the octahedral group) an aligned rule sees one value. The degree, the
        identity and the closure of a group are kept.

        Raises:
            ValueError: the rule is in a frame already.
        """
        return replace(self, matrices=GENERIC.T @ self.matrices @ GENERIC, name=self._framed("generic"))

    def randomized(self, n: int, seed: int = 0) -> "Rotations":
        """Randomly turned copies of the rule, with nodes Q U_k, U_k independent and uniformly distributed.

        The mean of each copy, and so that of all, is unbiased; their scatter is its standard error. The degree is kept.

        Args:
            n: copies, at least 1.
            seed: the same seed gives the same copies, everywhere.

        Raises:
            ValueError: fewer than one copy, or the rule is in a frame already.
        """
        if n < 1:
            raise ValueError(
                f"{n} randomly turned copies of {self.name} were asked for; at least 1 was expected. Use "
                f"{self._framed('random:10')}, say."
            )
        matrices = (self.matrices[None] @ nodes.haar(n, seed)[:, None]).reshape(-1, 3, 3)
        name = self._framed(_random_name(n, seed))
        return Rotations(matrices, self.weights.repeat(n) / n, self.degree, name, replicas=n)

    def _framed(self, frame: str) -> str:
        rule, at, there = self.name.partition("@")
        if at:
            raise ValueError(
                f"the rule {self.name} cannot be put into the frame {frame}: it is in the frame {there} already. "
                f"Start from {rule}."
            )
        return f"{rule}@{frame}"

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
        copies = self.matrices.reshape(self.replicas, -1, 3, 3)
        half = copies.shape[1] // 2
        if torch.equal(copies[:, :half], -copies[:, half:]):
            found = torch.arange(len(self)).reshape(self.replicas, -1).roll(half, 1).flatten()
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


def _uniform(matrices: Tensor, degree: int, name: str) -> Rotations:
    return Rotations(matrices, torch.full((len(matrices),), 1 / len(matrices), dtype=torch.float64), degree, name)


def _random_name(n: int, seed: int) -> str:
    return f"random:{n}" + (f":{seed}" if seed else "")


def _with_inversion(rule: Rotations, name: str) -> Rotations:
    return Rotations(torch.cat([rule.matrices, -rule.matrices]), rule.weights.repeat(2) / 2, rule.degree, name)
