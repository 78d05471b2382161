"""Finding: what a relaxation found about one structure."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from ase import Atoms

from tumble.descent import Walk
from tumble.jobs.relax.noise import Floor, Gain
from tumble.jobs.relax.stairs import Plateau, Stairs

Symmetry = Literal["none", "symmetric", "physical", "artefact", "undecided"]

WORDS: dict[Symmetry, str] = {
    "none": "no symmetry found",
    "symmetric": "symmetric",
    "physical": "physical distortion",
    "artefact": "model artefact",
    "undecided": "undecided",
}


class Walked(NamedTuple):
    """A structure that has walked once, and perhaps again in the group that was found.

    start:   as it was given.
    how:     what became of its symmetry: "free", "keep" or "find".
    walk:    the first walk: free, or in the group of the start if that is kept.
    after:   the symmetry at every tolerance after it.
    plateau: the symmetry that was found; None if it was not looked for, or there is none.
    again:   the walk in it, or None.
    """

    start: Atoms
    how: str
    walk: Walk
    after: Stairs
    plateau: Plateau | None
    again: Walk | None = None


@dataclass(frozen=True, eq=False)
class Finding:
    """One structure before and after.

    name:     what tables call it.
    walked:   its walks.
    final:    the one whose end is the result: the symmetric one unless the free one is lower by more than noise.
    symmetry: whether the first walk has lost symmetry, and to what; None if it was not looked for.
    why:      the reason in words.
    gain:     E(symmetric) − E(free) and its noise; None without a second walk.
    floor:    what forces mean at all; None if it was not measured.
    before:   symmetry at every tolerance, of the start.
    within:   the same after the walk in the group that was found; None without one.
    standard: the standard cell of the result; None where there is none.
    n_calls:  of the potential, all together.
    """

    name: str
    walked: Walked
    final: Walk
    symmetry: Symmetry | None
    why: str
    gain: Gain | None
    floor: Floor | None
    before: Stairs
    within: Stairs | None
    standard: Atoms | None
    n_calls: int

    @property
    def end(self) -> Stairs:
        """Symmetry at every tolerance, of the result."""
        return self.walked.after if self.within is None or self.final is self.walked.walk else self.within

    @property
    def is_converged(self) -> bool:
        """Whether the result is at rest."""
        return self.final.is_converged

    @property
    def force(self) -> float:
        """eV/Å, the largest at the end; inf if it is not a number."""
        force = float(self.final.forces[-1])
        return force if np.isfinite(force) else float("inf")
