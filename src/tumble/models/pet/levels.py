"""Levels: one PET for each level of theory, with everything in common but what reads the features out."""

import copy
from collections.abc import Sequence
from typing import cast, final

from torch import nn

from tumble.models.pet.adapt import merged
from tumble.models.pet.model import PET


@final
class Levels(nn.Module):
    """Several PETs by name that share every module but `readouts`: what one learns about structures, all have learned.

    Each has readouts, offsets and scales of its own, for energies of two levels of theory differ by more than a
    constant. With one name it is just that PET.
    """

    def __init__(self, first: PET, names: Sequence[str]) -> None:
        """Args:
        first: becomes the PET of the first name; the others begin with copies of its readouts, offsets and scales.
        names: one for each level of theory; the empty one is allowed.

        Raises:
            ValueError: no name, or one that comes twice.
        """
        super().__init__()
        self.names = tuple(names)
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(
                f"the levels of theory are called {list(self.names)}; at least one name was expected, and none twice. "
                "Give each its own."
            )
        self.potentials = nn.ModuleList([first, *(_sibling(first) for _ in self.names[1:])])

    def __getitem__(self, name: str) -> PET:
        """The PET of a level of theory; it shares its weights with the others.

        Raises:
            ValueError: no level has that name.
        """
        if name not in self.names:
            raise ValueError(
                f"there is no level of theory {name!r}; the names are {', '.join(map(repr, self.names))}. Use one."
            )
        return cast(PET, self.potentials[self.names.index(name)])

    @property
    def first(self) -> PET:
        """The PET of the first name."""
        return cast(PET, self.potentials[0])

    def extracted(self, name: str) -> PET:
        """A copy of one PET that shares nothing, with plain weights: low-rank changes are merged into them.

        Raises:
            ValueError: no level has that name.
        """
        return merged(self[name])


def _sibling(first: PET) -> PET:
    """A PET with the modules of the first but for copies of its readouts and buffers."""
    shared = {id(child): child for name, child in first.named_children() if name != "readouts"}
    return copy.deepcopy(first, shared)  # what a memo holds is not copied
