"""Non-conservation: how far the Jacobian of the forces is from symmetric, as that of a gradient would be."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from numpy.typing import NDArray

from tumble.jacobian.displaced import Array, precise
from tumble.jacobian.responses import Differences, Graph, graph_of
from tumble.potential import Potential, collate_for
from tumble.units import THZ

Indices = NDArray[np.int64]

EXACT = 30
"""Atoms up to which the whole Jacobian is computed."""

N_PROBES = 8
"""Random displacements of larger structures where autograd gives J v and vᵀ J."""

N_DIRECTIONS = 12
"""Random displacements of larger structures where differences give J v alone."""

N_SAMPLED = 4
"""Atoms of larger structures whose rows and columns of the Jacobian show how λ depends on distance."""

BIN = 0.5
"""Å, width of a bin of distances."""


class ByDistance(NamedTuple):
    """Non-conservation of pairs of atoms by their minimum-image distance; bins without a pair are left out.

    distance_A: (B,) middle of a bin of width `BIN`; the first holds atoms with themselves.
    ratio:      (B,) λ(r) = ‖J_a‖/‖J‖ over the 3 x 3 blocks in the bin, J_a,ij = (J_ij - J_jiᵀ)/2.
    share:      (B,) of ‖J_a‖² that is in the bin; they add up to 1, or are 0 if there is none.
    """

    distance_A: Array
    ratio: Array
    share: Array


class NonConservation(NamedTuple):
    """The antisymmetric part of J = ∂F/∂x of one structure: zero for forces that are the gradient of any energy.

    ratio:         λ = ‖J_a‖/‖J‖, Frobenius norms, between 0 and 1.
    error:         standard error of λ; 0 where the whole Jacobian was computed.
    noise:         the λ that the rounding of forces alone would show.
    frequency_THz: root mean square, √(-tr(M⁻¹ J)/3N)/2π; negative where the mean square is; None if not asked for.
    by_distance:   λ(r); None for a large black box.
    how:           one phrase.
    """

    ratio: float
    error: float
    noise: float
    frequency_THz: float | None
    by_distance: ByDistance | None
    how: str


BY_CONSTRUCTION = NonConservation(0.0, 0.0, 0.0, None, None, "forces are the derivative of the energy by construction")
"""Of forces that need no measurement."""


def non_conservation(
    potential: Potential, atoms: Atoms, *, rounding: float = 0.0, exact_below: int = EXACT, seed: int = 0
) -> NonConservation | None:
    """λ of the forces about a structure; potentials with weights are measured in float64.

    Direct heads and gradients, alone or in a Sum, are differentiated by autograd, everything else by central
    differences:

    - up to `exact_below` atoms: the whole of J, by 3N backward passes or 6N calls;
    - above, with autograd: for probes v of random signs, J_s v = (Jv + vᵀJ)/2 and J_a v = (Jv - vᵀJ)/2, whose squares
      are unbiased estimates of ‖J_s‖² and ‖J_a‖². Two or three backward passes a probe, and as many for each row or
      column of λ(r);
    - above, by differences along K random u: with M_ab = u_aᵀ J u_b, (M_ab - M_ba)²/4 is an unbiased estimate of
      ‖J_a‖² for every a < b, and |J u_b|² of ‖J‖², so that no transpose is needed. 2K calls; the relative error of λ
      is about 1/K.

    λ is the root of the ratio of two means; its error is that of leaving out one probe at a time (jackknife), which
    is up to √2 too large for pairs of directions.

    Args:
        potential: any Potential.
        atoms: one structure.
        rounding: eV/Å, of a force component, where it is known to be larger than the last digits show.
        exact_below: atoms up to which the whole Jacobian is computed.
        seed: of the random displacements.

    Returns:
        None for a potential without forces.

    Source: λ: Bigi, Langer, Ceriotti, The dark side of the forces (2025), arXiv:2412.11569.
    """
    exact = precise(potential)
    graph = graph_of(exact, collate_for(exact, [atoms]))
    small = len(atoms) <= exact_below
    if graph is not None:
        return _whole(graph.jacobian(), atoms, 0.0, "all of J by autograd") if small else _paired(graph, atoms, seed)
    differences = Differences(exact, atoms, rounding)
    if not differences.has_forces:
        return None
    return _by_differences(differences, atoms, seed, small=small)


def jacobian(potential: Potential, atoms: Atoms) -> Array | None:
    """J = ∂F/∂x (3N, 3N) eV/Å², row 3i + a the force on atom i along a; None for a potential without forces.

    3N backward passes for direct heads, 6N calls otherwise.
    """
    exact = precise(potential)
    graph = graph_of(exact, collate_for(exact, [atoms]))
    if graph is not None:
        return graph.jacobian()
    differences = Differences(exact, atoms)
    return differences.jacobian() if differences.has_forces else None


def of_jacobian(jacobian: Array) -> float:
    """λ = ‖J_a‖/‖J‖ of a Jacobian (3N, 3N); 0 where all of it is zero."""
    return ratio_of(np.sum(np.square(jacobian - jacobian.T)) / 4, np.sum(np.square(jacobian)))


def parts(along: Array, against: Array) -> tuple[float, float]:
    """|J_a v|² and |J_s v|² from J v and vᵀ J, each (N, 3); for random signs v unbiased, of ‖J_a‖² and ‖J_s‖²."""
    return float(np.sum(np.square(along - against))) / 4, float(np.sum(np.square(along + against))) / 4


def frequency_THz(mean_square: float) -> float:
    """ω/2π of ω² in eV/(Å² amu); negative where ω² is."""
    return float(np.sign(mean_square) * np.sqrt(abs(mean_square)) * THZ)


def _whole(found: Array, atoms: Atoms, rounding: float, how: str) -> NonConservation:
    """All from the whole Jacobian; `rounding` is that of its entries, eV/Å²."""
    n = len(atoms)
    norm = float(np.linalg.norm(found))
    mean_square = -float((np.diag(found) / _masses(atoms).ravel()).mean())
    blocks = found.reshape(n, 3, n, 3).transpose(0, 2, 1, 3)
    distances = np.stack([_distances(atoms, i) for i in range(n)])
    return NonConservation(
        of_jacobian(found),
        0.0,
        3 * n * rounding / 2**0.5 / norm if norm else 0.0,
        frequency_THz(mean_square),
        _by_distance(distances, blocks, blocks.transpose(1, 0, 2, 3)),
        how,
    )


def _paired(graph: Graph, atoms: Atoms, seed: int) -> NonConservation:
    """From probes v: J v together with vᵀ J."""
    random = np.random.default_rng(seed)
    masses, rows = _masses(atoms), []
    for _ in range(N_PROBES):
        v = random.choice([-1.0, 1.0], size=(len(atoms), 3))
        along, against = graph.along(v), graph.against(v)
        rows.append((*parts(along, against), np.sum(v / masses * along)))
    anti, even, trace = np.array(rows).T
    ratio, error = _jackknife(lambda kept: ratio_of(anti[kept].sum(), (anti + even)[kept].sum()), N_PROBES)
    mean_square = -trace.mean() / (3 * len(atoms))
    how = f"J v and vᵀ J of {N_PROBES} random displacements by autograd"
    sampled = random.permutation(len(atoms))[:N_SAMPLED]
    by_distance = _sampled(graph, atoms, sampled)
    return NonConservation(ratio, error, 0.0, frequency_THz(mean_square), by_distance, how)


def _by_differences(differences: Differences, atoms: Atoms, seed: int, *, small: bool) -> NonConservation:
    """The whole Jacobian, or M_ab = u_aᵀ J u_b and |J u_b|² of random directions."""
    step = f"differences of {differences.step:.1g} Å"
    if small:
        return _whole(differences.jacobian(), atoms, differences.noise, f"all of J by {step}")
    random = np.random.default_rng(seed)
    u = random.standard_normal((N_DIRECTIONS, len(atoms), 3))
    pushed = differences.along(u)
    between = np.einsum("aix,bix->ab", u, pushed)
    anti, squares = np.square(between - between.T) / 4, np.square(pushed).sum((1, 2))

    def estimate(kept: Indices) -> float:
        n = len(kept)
        return ratio_of(anti[np.ix_(kept, kept)].sum() / (n * (n - 1)), squares[kept].mean())

    ratio, error = _jackknife(estimate, N_DIRECTIONS)
    mean_square = -np.sum(u / _masses(atoms) * pushed) / N_DIRECTIONS / (3 * len(atoms))
    scale = np.sqrt(squares.mean())
    noise = float(np.sqrt(3 * len(atoms) / 2) * differences.noise / scale) if scale else 0.0
    how = f"{step} along {N_DIRECTIONS} random displacements"
    return NonConservation(ratio, error, noise, frequency_THz(mean_square), None, how)


def _sampled(graph: Graph, atoms: Atoms, sampled: Indices) -> ByDistance:
    """λ(r) from the rows and columns of some atoms."""
    rows, columns, distances = [], [], []
    for i in map(int, sampled):
        units = np.zeros((3, len(atoms), 3))
        units[np.arange(3), i, np.arange(3)] = 1.0
        rows.append(np.stack([graph.against(unit) for unit in units]).transpose(1, 0, 2))  # J_ij
        columns.append(np.stack([graph.along(unit) for unit in units]).transpose(1, 2, 0))  # J_ji
        distances.append(_distances(atoms, i))
    return _by_distance(np.stack(distances), np.stack(rows), np.stack(columns))


def _by_distance(distances: Array, blocks: Array, opposite: Array) -> ByDistance:
    """λ(r) from distances (K, N) Å and the blocks J_ij and J_ji (K, N, 3, 3) eV/Å²."""
    anti = np.square(blocks - opposite.swapaxes(2, 3)).sum((2, 3)).ravel() / 4
    full = (np.square(blocks) + np.square(opposite)).sum((2, 3)).ravel() / 2
    bins, place = np.unique((distances / BIN).astype(int).ravel(), return_inverse=True)
    of_anti, of_full = np.bincount(place.ravel(), anti), np.bincount(place.ravel(), full)
    ratio = np.sqrt(of_anti / np.where(of_full > 0, of_full, 1.0))
    return ByDistance((bins + 0.5) * BIN, ratio, of_anti / (anti.sum() or 1.0))


def _distances(atoms: Atoms, i: int) -> Array:
    """(N,) Å from atom i to the nearest image of each."""
    return np.asarray(find_mic(atoms.positions - atoms.positions[i], atoms.cell, atoms.pbc)[1])


def _masses(atoms: Atoms) -> Array:
    return np.broadcast_to(atoms.get_masses()[:, None], (len(atoms), 3))


def ratio_of(anti: float, full: float) -> float:
    """λ from ‖J_a‖² and ‖J‖²; 0 where all of J is zero."""
    return float(np.sqrt(anti / full)) if full > 0 else 0.0


def _jackknife(estimate: Callable[[Indices], float], n: int) -> tuple[float, float]:
    """An estimate from all of n probes, and its standard error from leaving out one at a time."""
    everything = np.arange(n)
    without = np.array([estimate(np.delete(everything, k)) for k in range(n)])
    return estimate(everything), float(np.sqrt((n - 1) * without.var()))
