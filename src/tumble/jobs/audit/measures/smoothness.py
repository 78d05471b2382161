"""Smoothness: energy that is not the work of the forces as atoms come within the cutoff or leave it."""

import heapq
from collections.abc import Callable, Iterator
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from ase import Atoms

from tumble.jacobian import Array, answers_at, precise, rounding_of
from tumble.neighbors import search, vectors
from tumble.potential import Direct, Gradient, Potential, Sum
from tumble.symmetry import Projected, Symmetrized
from tumble.units import MEV

SIDE = 0.1
"""Å that a pair is taken to either side of the cutoff."""

REACH = 0.5
"""Å that an atom is moved within its structure to get there; farther and it would run into others."""

NEAR, FAR = 2.0, 12.0
"""Å, distances that two atoms alone are taken through where the cutoff is not known."""

LEAST_WIDTH = 1e-6
"""Å. What is still there over such a short way is a jump; a kink of 1 eV/Å in the forces is not."""

PANEL = 0.1
"""Å, width of the intervals that a way is divided into at first."""

LEAST_JUMP = 1e-3
"""meV. Smaller mismatches are not followed."""

MOST_CALLS = 400
"""Points on one way, beyond those of the first intervals."""


class Smoothness(NamedTuple):
    """Largest energy that is not the work of the forces over a very short way.

    jump_meV:    energy gained less work done against the forces, over the interval of `width_A`.
    distance_A:  of the pair that crosses there; None where nothing jumps.
    width_A:     of the interval; above `LEAST_WIDTH` no jump was found, and the number is a bound on one.
    n_jumps:     places that jump, on all ways together.
    mismatch_meV: largest of a whole way; of forces that are no gradient also their gap to the energy.
    noise_meV:   what the rounding of energies alone would show.
    n_calls:     points at which the potential was asked.
    how:         which way.
    """

    jump_meV: float
    distance_A: float | None
    width_A: float
    n_jumps: int
    mismatch_meV: float
    noise_meV: float
    n_calls: int
    how: str


class Way(NamedTuple):
    """A straight line: one atom moves away from another.

    atoms:     the structure at its beginning.
    atom:      index of the one that moves.
    direction: (3,) of unit length.
    length:    Å.
    cutoff:    Å, the distance that pairs are to cross; None where it is not known and there is one pair.
    how:       one phrase.
    """

    atoms: Atoms
    atom: int
    direction: Array
    length: float
    cutoff: float | None
    how: str


class _Panel(NamedTuple):
    """One interval of a way, with its ends and its middle; the one with the largest mismatch comes first.

    rank:     minus the size of the mismatch.
    mismatch: energy gained less work done against the forces, eV, by Simpson's rule.
    start:    Å from the beginning of the way.
    width:    Å.
    energies: (3,) eV.
    forces:   (3,) eV/Å, along the way.
    """

    rank: float
    mismatch: float
    start: float
    width: float
    energies: Array
    forces: Array

    @classmethod
    def of(cls, start: float, width: float, energies: Array, forces: Array) -> "_Panel":
        mismatch = float(energies[2] - energies[0] + width * (forces[0] + 4 * forces[1] + forces[2]) / 6)
        return cls(-abs(mismatch), mismatch, start, width, energies, forces)


def smoothness(
    potential: Potential, atoms: Atoms, *, cutoff: float | None = None, rounding: float = 0.0
) -> Smoothness | None:
    """The largest jump of the energy as atoms cross the cutoff; potentials with weights are measured in float64.

    E - ∫F·dx is followed along a line in intervals, by Simpson's rule. The interval with the largest mismatch is halved
    again and again: what is due to the quadrature, or to forces that are no gradient, falls with its width, and a jump
    stays. It is followed down to `LEAST_WIDTH`. Direct heads are set aside: they say nothing about the energy, whose
    own derivative is at hand. Of an average what it averages is followed. The line:

    - where the cutoff is known and a pair of the structure is within `REACH` of it: one atom of the nearest such pair
      moves along the pair until it has crossed by `SIDE` on either side, and other pairs of that atom with it;
    - where no pair is near: two atoms alone, of the two most frequent elements, across the cutoff;
    - where the cutoff is not known, as that of a black box: two atoms alone from `NEAR` to `FAR`, for each pair of the
      two most frequent elements. A cutoff that depends on what else is around is not seen by them.

    A line costs 5 calls across a cutoff, 201 from near to far, about 40 more for each jump, and `MOST_CALLS` more
    where the mismatch does not come below `LEAST_JUMP`, as with forces that are no gradient.

    Args:
        potential: any Potential.
        atoms: one structure.
        cutoff: Å, where it is not the one that the potential states.
        rounding: eV, of the energy, where it is known to be larger than the last digits show.

    Returns:
        None for a potential without forces.
    """
    exact = _derived(precise(potential))
    cutoff = cutoff if cutoff is not None else exact.cutoff if exact.cutoff > 0 else None
    jumps = [_follow(exact, way, rounding) for way in ways(atoms, cutoff)]
    known = [jump for jump in jumps if jump is not None]
    if len(known) < len(jumps):
        return None
    worst = max(known, key=lambda jump: jump.jump_meV)
    return worst._replace(
        n_jumps=sum(jump.n_jumps for jump in known),
        mismatch_meV=max(jump.mismatch_meV for jump in known),
        noise_meV=max(jump.noise_meV for jump in known),
        n_calls=sum(jump.n_calls for jump in known),
    )


def _derived(potential: Potential) -> Potential:
    """What is followed: the derivative of the energy instead of direct heads, and what is averaged for its average.

    An average jumps by the mean of what its turned copies jump, so by no more than they do.
    """
    if isinstance(potential, Sum):
        return Sum(*(_derived(part) for part in potential.parts))  # type: ignore[arg-type]
    if isinstance(potential, Symmetrized | Projected):
        return _derived(potential.inner)
    return Gradient(potential.model) if isinstance(potential, Direct) else potential


def ways(atoms: Atoms, cutoff: float | None) -> Iterator[Way]:
    """The lines that `smoothness` follows.

    Args:
        atoms: one structure.
        cutoff: Å; None if it is not known.
    """
    numbers, counts = np.unique(atoms.numbers, return_counts=True)
    elements = [int(z) for z in numbers[np.argsort(-counts, kind="stable")][:2]]
    if cutoff is None:
        for pair in combinations_with_replacement(elements, 2):
            yield _apart(pair, NEAR, FAR, None)
        return
    yield _within(atoms, cutoff) or _apart((elements[0], elements[-1]), cutoff - SIDE, cutoff + SIDE, cutoff)


def _within(atoms: Atoms, cutoff: float) -> Way | None:
    """Along the pair that is nearest to the cutoff, between different atoms."""
    pairs = search(atoms.positions, atoms.cell.array, atoms.pbc, cutoff + REACH)
    apart = vectors(pairs, atoms.positions, atoms.cell.array)
    lengths = np.linalg.norm(apart, axis=1)
    off = np.where(pairs.center == pairs.neighbor, np.inf, np.abs(lengths - cutoff))
    if not len(off) or off.min() > REACH:
        return None
    p = int(off.argmin())
    atom, direction = int(pairs.center[p]), -apart[p] / lengths[p]
    moved = atoms.copy()
    moved.positions[atom] += (cutoff - SIDE - lengths[p]) * direction
    symbols = "-".join(atoms.symbols[[atom, int(pairs.neighbor[p])]])
    return Way(moved, atom, direction, 2 * SIDE, cutoff, f"a pair {symbols} of the structure across {cutoff:g} Å")


def _apart(elements: tuple[int, int], start: float, end: float, cutoff: float | None) -> Way:
    """Two atoms alone, from one distance to another."""
    direction = np.array([0.36, 0.48, 0.8])
    start = max(start, 0.5)
    pair = Atoms(elements, [np.zeros(3), start * direction])
    how = f"two atoms {'-'.join(pair.symbols)} alone from {start:g} to {end:g} Å"
    return Way(pair, 1, direction, end - start, cutoff, how)


def _follow(potential: Potential, way: Way, rounding: float) -> Smoothness | None:
    """The largest jump on one way."""

    def ask(places: Array) -> tuple[Array, Array | None]:
        moves = np.zeros((len(places), len(way.atoms), 3))
        moves[:, way.atom] = places[:, None] * way.direction
        energies, forces = answers_at(potential, way.atoms, moves)
        return energies, None if forces is None else forces[:, way.atom] @ way.direction

    n = max(2, round(way.length / PANEL))
    energies, forces = ask(np.linspace(0, way.length, 2 * n + 1))
    if forces is None:
        return None
    width = way.length / n
    spans = [slice(2 * k, 2 * k + 3) for k in range(n)]
    panels = [_Panel.of(k * width, width, energies[span], forces[span]) for k, span in enumerate(spans)]
    total = sum(panel.mismatch for panel in panels)
    noise = 2 * max(rounding, rounding_of(energies))
    enough = max(noise, LEAST_JUMP / MEV)
    ends, n_calls = _halved(panels, ask, enough)
    largest = min(ends)
    n_jumps = sum(-panel.rank > enough and panel.width <= LEAST_WIDTH for panel in ends)
    return Smoothness(
        -MEV * largest.rank,
        _crossing(way, largest.start + largest.width / 2) if largest.width <= LEAST_WIDTH else None,
        largest.width,
        n_jumps,
        MEV * abs(total),
        MEV * noise,
        2 * n + 1 + n_calls,
        way.how,
    )


def _halved(
    panels: list[_Panel], ask: Callable[[Array], tuple[Array, Array | None]], enough: float
) -> tuple[list[_Panel], int]:
    """Intervals that are as short as can be, with the largest of the others; and the calls that it took."""
    heapq.heapify(panels)
    ends, n_calls = list[_Panel](), 0
    while panels and -panels[0].rank > enough and n_calls < MOST_CALLS:
        panel = heapq.heappop(panels)
        if panel.width <= LEAST_WIDTH:
            ends.append(panel)
            continue
        half = panel.width / 2
        energies, forces = ask(panel.start + half * np.array([0.5, 1.5]))
        assert forces is not None
        n_calls += 2
        for k, start in enumerate((panel.start, panel.start + half)):
            e = np.array([panel.energies[k], energies[k], panel.energies[k + 1]])
            f = np.array([panel.forces[k], forces[k], panel.forces[k + 1]])
            heapq.heappush(panels, _Panel.of(start, half, e, f))
    return [*ends, *panels[:1]], n_calls


def _crossing(way: Way, place: float) -> float:
    """The distance of the moving atom to whichever is nearest to the cutoff, Å."""
    atoms = way.atoms.copy()
    atoms.positions[way.atom] += place * way.direction
    if way.cutoff is None:
        return float(atoms.get_distance(0, 1))
    pairs = search(atoms.positions, atoms.cell.array, atoms.pbc, way.cutoff + SIDE)
    of_atom = np.linalg.norm(vectors(pairs, atoms.positions, atoms.cell.array)[pairs.center == way.atom], axis=1)
    return float(of_atom[np.abs(of_atom - way.cutoff).argmin()])
