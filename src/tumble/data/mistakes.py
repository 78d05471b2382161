"""How far labels are from belonging to one another, and which mistake makes it so."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tumble.data.pairwise import Floats
from tumble.results.facts import Cell

ENERGIES = {"meV": 1e3, "Hartree": 1 / 27.2114, "Ry": 1 / 13.6057, "kcal/mol": 23.0605, "kJ/mol": 96.4853}
FORCES = {
    **{"meV/Å": 1e3, "eV/nm": 10.0, "eV/Bohr": 0.529177, "Hartree/Bohr": 1 / 51.4221, "Ry/Bohr": 1 / 25.7110},
    **{"kcal/mol/Å": 23.0605, "kJ/mol/Å": 96.4853, "kJ/mol/nm": 964.853},
}
STRESSES = {"GPa": 160.2177, "kBar": 1602.177, "Hartree/Bohr³": 1 / 183.631, "Ry/Bohr³": 1 / 91.8157}
"""A label in this unit, over the same in eV and Å."""

LOOSE = ((0.7, 4.0), (0.3, 20.0))
USUAL = ((0.8, 4.0), (0.3, 20.0))
SHARP = ((0.95, 1.6), (0.8, 4.0), (0.3, 20.0))
"""From which correlation on which factor is too large. A sign, or a factor of 1, says something to the last but one."""
SIMILAR, AGREE = 1.8, 4.0
"""A factor this close to that of a mistake looks like it; two this close to one another are the same."""


class Slope(NamedTuple):
    """How many times larger one kind of label is than another says, and how sure that is.

    of:          what is compared with what.
    value:       the factor, negative where they point against one another.
    correlation: the sign of the factor is its own.
    n:           numbers that are compared.
    tiers:       from which correlation on which factor is too large.
    """

    of: str
    value: float
    correlation: float
    n: int
    tiers: tuple[tuple[float, float], ...]

    @classmethod
    def of_sizes(
        cls, of: str, known: Floats, guesses: Sequence[Floats], tiers: tuple[tuple[float, float], ...]
    ) -> "Slope":
        """Size of labels over that of a guess. Where several guesses do not agree, there is no correlation.

        Args:
            of: what is compared with what.
            known: (n,) labels.
            guesses: (n,) each.
            tiers: as above.
        """
        correlations = [correlation(known, guess) for guess in guesses]
        sizes = [max(float(np.linalg.norm(known)), 1e-300) / max(float(np.linalg.norm(one)), 1e-300) for one in guesses]
        agree = max(sizes) < AGREE * min(sizes) and len({value > 0 for value in correlations}) == 1
        value = math.exp(sum(map(math.log, sizes)) / len(sizes))
        return cls(
            of, math.copysign(value, correlations[0]), min(correlations, key=abs) if agree else 0.0, len(known), tiers
        )

    @property
    def is_sure(self) -> bool:
        """Whether a sign, or a factor of 1, says anything."""
        return abs(self.correlation) >= self.tiers[-2][0]

    @property
    def is_wrong(self) -> bool:
        """Whether it is far from 1, and sure."""
        off = abs(math.log(abs(self.value)))
        is_far = any(abs(self.correlation) >= needed and off > math.log(allowed) for needed, allowed in self.tiers)
        return is_far or (self.value < 0 and self.is_sure)

    @property
    def row(self) -> tuple[Cell, ...]:
        """Its cells in a table."""
        answer = "wrong" if self.is_wrong else "right" if self.is_sure else "undecided"
        return self.of, self.n, self.correlation, self.value, answer


def correlation(one: Floats, other: Floats) -> float:
    """Cosine of the angle between two vectors of the same length; 0 where one of them is 0."""
    size = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / size if size > 0 else 0.0


def blamed(slope: Slope, stresses: Slope | None) -> tuple[str, ...]:
    """Which labels are wrong where energies and forces disagree: the forces, if stresses disagree with them as much."""
    if stresses is None or not (stresses.is_sure or stresses.is_wrong):
        return "energies", "forces"
    is_alike = 1 / AGREE < stresses.value / slope.value < AGREE
    return ("forces",) if stresses.is_wrong and is_alike else ("energies",)


def explain_energies(slope: Slope, labels: Sequence[str], n_atoms: float) -> str:
    """What is wrong with energies or forces, and which mistake makes it so.

    Args:
        slope: of energies over what forces ask for.
        labels: what may be wrong, energies or forces or both.
        n_atoms: of a structure.
    """
    causes = {f"{' or '.join(labels)} of the other sign" if slope.value < 0 else "": 1.0}
    if "energies" in labels:
        causes |= {f"energies in {unit}": factor for unit, factor in ENERGIES.items()}
        causes |= {"energies per atom": 1 / n_atoms}
    if "forces" in labels:
        causes |= {f"forces in {unit}": 1 / factor for unit, factor in FORCES.items()}
    return _explained(slope, causes)


def explain_stresses(slope: Slope, volume: float) -> str:
    """What is wrong with stresses, and which mistake makes it so.

    Args:
        slope: of stresses over what forces ask for.
        volume: Å³, of a structure.
    """
    causes = {f"stresses in {unit}": factor for unit, factor in STRESSES.items()}
    causes |= {"stresses of the other sign": 1.0, "virials in eV": volume} if slope.value < 0 else {}
    return _explained(slope, causes)


def _explained(slope: Slope, causes: Mapping[str, float]) -> str:
    off = {words: abs(math.log(abs(slope.value) / factor)) for words, factor in causes.items() if words}
    near = sorted((words for words in off if off[words] < math.log(SIMILAR)), key=off.__getitem__)[:3]
    sign = (
        "; the sign is the other one"
        if slope.value < 0 and near and not ("sign" in near[0] or "vir" in near[0])
        else ""
    )
    guess = f"They look like {' or '.join(near)}{sign}." if near else "No usual unit makes this factor."
    return (
        f"{slope.of} by a factor of {slope.value:.3g} (correlation {slope.correlation:.2f}), where 1 was expected. "
        f"{guess}"
    )
