"""Subject: one structure of an audit, and what is known before anything is measured."""

from dataclasses import dataclass

import torch
from ase import Atoms

from tumble.batch import Batch, Properties, has_volume
from tumble.crystal import SpaceGroup
from tumble.jobs.audit.measures.spread import Sizes, difference, sizes
from tumble.potential import Potential


@dataclass(frozen=True)
class Subject:
    """One structure, and what is known of it before it is turned.

    batch: of it alone.
    group: its operations, to the symprec of the settings.
    exact_group: those that hold to rounding, by which answers follow from one another.
    raw:   the answer as it stands.
    seconds_of_call: of that.
    label: reference energy () eV, forces (n, 3) eV/Å, stress (3, 3) eV/Å³; fields may be None.
    """

    potential: Potential
    atoms: Atoms
    batch: Batch
    group: SpaceGroup
    exact_group: SpaceGroup
    raw: Properties
    seconds_of_call: float
    label: Properties | None

    @property
    def has_stress(self) -> bool:
        """Whether the structure has one."""
        return bool(has_volume(self.batch)[0])

    def sized(self, deviation: Properties) -> Sizes:
        """`sizes` for this structure."""
        return sizes(deviation, len(self.atoms), has_stress=self.has_stress)

    def error(self, answer: Properties) -> Sizes | None:
        """Error against the label; None without one, and an energy of NaN where only that is not known."""
        if self.label is None or all(field is None for field in self.label):
            return None
        energy, forces, stress = self.label
        known = Properties(
            None if energy is None else energy.reshape(1), forces, None if stress is None else stress.reshape(1, 3, 3)
        )
        apart = difference(answer, known)
        return self.sized(apart if apart.energy is not None else apart._replace(energy=torch.full((1,), torch.nan)))


def not_finite(answers: Properties) -> str:
    """Which numbers are NaN or infinite, in words; empty if none is."""
    for name, numbers in zip(Properties._fields, answers, strict=True):
        if numbers is not None and not bool(torch.isfinite(numbers).all()):
            return f"{name}: {int((~torch.isfinite(numbers)).sum())} of {numbers.numel()} numbers are not finite"
    return ""
