"""Route: from one set of displaced supercells to a conductivity, with one repair, and what it cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble.crystal import SpaceGroup, space_group
from tumble.jacobian import rounding_of
from tumble.jobs.conductivity.engine import Constants, Displaced, allowed, differences, give
from tumble.jobs.conductivity.settings import ConductivitySettings, Repair
from tumble.jobs.conductivity.transport import Transport, transport
from tumble.packs import predict
from tumble.potential import Potential, collate_for
from tumble.results import Progress
from tumble.symmetry import Symmetrized

Floats = NDArray[np.float64]

LABELS: Final[dict[Repair, str]] = {
    "raw": "raw",
    "plusminus": "±",
    "projected": "projected",
    "averaged": "averaged",
}

VANISHING: Final = 1e-7
"""Part of the forces that third order must have, or nothing but rounding is left of it."""

SAMPLE: Final = 24
"""Displaced supercells whose own symmetry is looked at: single displacements and the nearest pairs come first."""


@dataclass(frozen=True, eq=False)
class Route:
    """A conductivity with one repair.

    name:          as it is called beside the others.
    constants:     what it was computed from.
    transport:     the conductivity.
    removed:       share of the force constants of second and third order that the projection took out; None without.
    forbidden:     share of the tensor, at each temperature (T,), that the point group forbids.
    n_supercells:  how many were asked about.
    n_calls:       of the potential, all orientations.
    seconds_forces: time of the calls.
    seconds:       of everything.
    floor:         share by which rounding of the forces may change the third-order force constants.
    """

    name: str
    constants: Constants
    transport: Transport
    removed: tuple[float, float] | None
    forbidden: Floats
    n_supercells: int
    n_calls: int
    seconds_forces: float
    seconds: float
    floor: float


class Answers(NamedTuple):
    """Forces on displaced supercells.

    forces:  eV/Å (N, 3) each, by the key of the supercell.
    calls:   of the potential, by the same key.
    seconds: of all of them.
    """

    forces: dict[bytes, Floats]
    calls: dict[bytes, int]
    seconds: float

    def of(self, cells: Displaced) -> list[Floats]:
        """In the order of these cells."""
        return [self.forces[_key(one)] for one in cells.structures]


def asked(potential: Potential, sets: Sequence[Displaced], tell: Callable[[Progress], None]) -> Answers:
    """Forces on all supercells of some sets, each asked about once, in one packed prediction.

    Raises:
        RuntimeError: a force is not finite.
    """
    structures = {_key(one): one for cells in sets for one in cells.structures}
    start = monotonic()
    answers = predict(potential, list(structures.values()), tell=tell)
    seconds = monotonic() - start
    forces = {}
    for index, (key, answer) in enumerate(zip(structures, answers, strict=True)):
        assert answer.forces is not None, "the structure at rest had forces"
        forces[key] = answer.forces.double().numpy()
        if not np.isfinite(forces[key]).all():
            raise RuntimeError(
                f"forces on displaced supercell {index} of {len(structures)} are not finite; numbers were expected. "
                "Check the potential on this crystal, or use a smaller displacement."
            )
    calls = dict.fromkeys(structures, 1)
    if isinstance(potential, Symmetrized):
        counts = (potential.calls(collate_for(potential, [one]))[0] for one in structures.values())
        calls = dict(zip(structures, counts, strict=True))
    return Answers(forces, calls, seconds)


def route_of(
    engine: Any,
    group: SpaceGroup,
    cells: Displaced,
    answers: Answers,
    repair: Repair,
    settings: ConductivitySettings,
) -> Route:
    """One repair, from forces to a conductivity.

    Raises:
        ValueError: third-order force constants vanish.
    """
    start = monotonic()
    forces = answers.of(cells)
    give(engine, cells, forces)
    constants = differences(engine)
    _check_third(constants, len(engine.supercell), settings.displacement_A)
    removed = None
    if repair in ("projected", "averaged"):
        free, constants = constants, allowed(engine, settings)
        second, third = (_share(a - b, b) for a, b in zip(constants, free, strict=True))
        removed = (second, third)
    found = transport(engine, constants, settings)
    split = [group.project_stress(tensor) for tensor in found.kappa] if not found.is_refused else []
    forbidden = [_share(outside, tensor) for (_, outside), tensor in zip(split, found.kappa, strict=False)]
    seconds = answers.seconds * len(forces) / len(answers.forces)
    return Route(
        name=LABELS[repair],
        constants=constants,
        transport=found,
        removed=removed,
        forbidden=np.asarray(forbidden),
        n_supercells=len(forces),
        n_calls=sum(answers.calls[_key(one)] for one in cells.structures),
        seconds_forces=seconds,
        seconds=seconds + monotonic() - start,
        floor=_floor(constants, forces, settings.displacement_A),
    )


def forbidden_forces(cells: Displaced, answers: Answers, symprec: float) -> tuple[float, float]:
    """Share of the forces that the symmetry of the displaced supercells themselves forbids, and that of rounding."""
    removed, given, noise, count = 0.0, 0.0, 0.0, 0
    for one in cells.structures[:SAMPLE]:
        forces = answers.forces[_key(one)]
        removed += float((space_group(one, symprec).project_forces(forces)[1] ** 2).sum())
        given += float((forces**2).sum())
        noise, count = max(noise, rounding_of(forces)), count + forces.size
    return (removed / given) ** 0.5, noise * (count / given) ** 0.5


def _check_third(constants: Constants, n_atoms: int, displacement: float) -> None:
    """Refuse a supercell in which every displacement has an image at its inverse, and heat would flow for ever."""
    ratio = displacement * np.linalg.norm(constants.third) / np.linalg.norm(constants.second)
    if ratio < VANISHING:
        raise ValueError(
            f"the third-order force constants vanish in a supercell of {n_atoms} atoms: they are {ratio:.1g} of those "
            "of second order over the displacement. Either it is too small to hold them, or forces are harmonic. Use a "
            "larger supercell."
        )


def _floor(constants: Constants, forces: Sequence[Floats], displacement: float) -> float:
    """Rounding of a force is divided by the displacement twice; finite differences take two forces."""
    noise = 2 * max(rounding_of(one) for one in forces) / displacement**2
    return float(noise * np.sqrt(constants.third.size) / np.linalg.norm(constants.third))


def _share(part: Floats, whole: Floats) -> float:
    return float(np.linalg.norm(part) / np.linalg.norm(whole))


def _key(atoms: Atoms) -> bytes:
    return np.asarray(np.round(atoms.positions, 8) + 0.0).tobytes()
