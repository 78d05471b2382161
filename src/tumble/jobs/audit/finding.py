"""Finding: everything that was found about one structure, and what went wrong on the way."""

from dataclasses import dataclass, field
from typing import NamedTuple

from ase import Atoms

from tumble.batch import Properties
from tumble.jacobian import Drift, Heating, NonConservation
from tumble.jobs.audit.measures.contracts import Contract
from tumble.jobs.audit.measures.curvature import FrequencyError, FrequencySpread
from tumble.jobs.audit.measures.force_gap import ForceGap
from tumble.jobs.audit.measures.loop import LoopWork
from tumble.jobs.audit.measures.rest import Rest
from tumble.jobs.audit.measures.smoothness import Smoothness
from tumble.jobs.audit.turned import Turned


class Failure(NamedTuple):
    """Something that could not be measured, because the potential failed.

    measure: what was asked.
    message: what happened.
    """

    measure: str
    message: str


class Dynamics(NamedTuple):
    """Whether the forces conserve energy; each is None where it was not measured.

    force_gap:  forces against the slope of the energy.
    jacobian:   how much of their Jacobian is antisymmetric.
    loop:       work around closed paths.
    smoothness: energy that is not the work of the forces, across the cutoff.
    drift:      heating that follows.
    turns:      heating if every step used another random orientation.
    """

    force_gap: ForceGap | None = None
    jacobian: NonConservation | None = None
    loop: LoopWork | None = None
    smoothness: Smoothness | None = None
    drift: Drift | None = None
    turns: Heating | None = None


@dataclass(frozen=True)
class Finding:
    """What was found about one structure; a part is None where it was not measured.

    name:         formula and where it came from.
    atoms:        the structure.
    n_operations: point operations of the structure; None for one with infinitely many.
    raw:          the answer as it stands.
    seconds_of_call: of one raw call.
    turned:       what it shows when it is turned.
    dynamics:     whether forces conserve energy.
    frequencies:  what symmetry forbids of its force constants.
    frequency_spread: how frequencies scatter over orientations.
    rest:         where forbidden forces and stress would take it.
    contracts:    what every potential must keep.
    failures:     what went wrong.
    skipped:      measure → why it was left out.
    """

    name: str
    atoms: Atoms
    n_operations: int | None
    raw: Properties
    seconds_of_call: float | None
    turned: Turned | None = None
    dynamics: Dynamics = field(default_factory=Dynamics)
    frequencies: FrequencyError | None = None
    frequency_spread: FrequencySpread | None = None
    rest: Rest | None = None
    contracts: tuple[Contract, ...] = ()
    failures: tuple[Failure, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def is_repeatable(self) -> bool:
        """Whether the same question gets the same answer."""
        return all(one.passed is not False for one in self.contracts if one.name == "repeatable")

    @property
    def is_molecule(self) -> bool:
        """Whether nothing repeats."""
        return not self.atoms.pbc.any()
