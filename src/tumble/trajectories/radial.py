"""Radial: how atoms are distributed about each other, and how molecules turn each other."""

from typing import NamedTuple

import numpy as np
import vesin
from ase.geometry import complete_cell
from numpy.typing import ArrayLike, NDArray

from tumble.trajectories.blocks import cut, standard_error
from tumble.trajectories.trajectory import Trajectory

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FINE = 8
"""Bins to one width of the smoothing kernel."""

REACH = 5.0
"""Widths at which the smoothing kernel ends."""


class Radial(NamedTuple):
    """A radial distribution function; 1 everywhere for an ideal gas.

    r:     (n,) Å.
    g:     (n,) 1.
    error: (n,) standard error of g from blocks of frames; NaN for one block.
    """

    r: Floats
    g: Floats
    error: Floats


class Correlations(NamedTuple):
    """How the axes u of two molecules at a distance r point, given that there are two.

    r:            (n,) Å, between the first atoms of the axes.
    longitudinal: (n,) ⟨(u·r̂)(u'·r̂)⟩, the study's c^L / g.
    transverse:   (n,) ⟨u·u' − (u·r̂)(u'·r̂)⟩, the study's c^T / g; zero, as the other, where nothing is correlated.
    longitudinal_error, transverse_error: (n,) standard errors from blocks of frames.
    """

    r: Floats
    longitudinal: Floats
    transverse: Floats
    longitudinal_error: Floats
    transverse_error: Floats


def radial(
    trajectory: Trajectory,
    first: str = "O",
    second: str | None = None,
    *,
    r_max: float = 8.0,
    points: int = 201,
    smoothing: float = 0.1,
    n_blocks: int = 5,
) -> Radial:
    """Radial distribution function of two elements, all periodic images counted, so that r_max may exceed the box.

    With smoothing, distances are spread by a Gaussian and counted per shell 4πr², on `points` distances from 0 to
    r_max: the study's way. Without, they are counted in `points` shells, at whose middles g is given.

    Args:
        trajectory: of a system that repeats in three directions.
        first: element.
        second: element; None: the same.
        r_max: Å.
        points: of the curve.
        smoothing: Å, standard deviation of the Gaussian; 0: none.
        n_blocks: of frames, for the error.

    Raises:
        ValueError: an element that is not there or alone, a system that does not repeat, or an r_max of zero.
    """
    ones, others = trajectory.where(first), trajectory.where(second or first)
    n_pairs = len(ones) * len(others) - len(np.intersect1d(ones, others))
    if not n_pairs:
        raise ValueError(f"there is one {first} in {trajectory.name}; pairs were expected. Ask for another element.")
    shells, volumes = _Shells(r_max, points, smoothing), trajectory.volumes
    blocks = []
    for block in cut(len(trajectory), n_blocks):
        counts = np.zeros(len(shells.middles))
        for frame in range(len(trajectory))[block]:
            distances = _pairs(trajectory, frame, ones, others, shells.reach)[2]
            counts += shells.count(distances) * (volumes[frame] / n_pairs)
        blocks.append(shells.per_volume(counts / (block.stop - block.start)))
    return Radial(shells.r, np.mean(blocks, axis=0), standard_error(blocks))


def correlations(
    trajectory: Trajectory,
    axes: ArrayLike,
    directions: Floats,
    *,
    r_max: float = 8.0,
    points: int = 201,
    smoothing: float = 0.1,
    n_blocks: int = 5,
) -> Correlations:
    """Longitudinal and transverse correlations of the axes of molecules, against their distance.

    Args:
        trajectory: K frames that repeat in three directions.
        axes: (M, 2 or 3) atoms of the axes; distances are between the first ones.
        directions: (K, M, 3) unit vectors.
        r_max: Å.
        points: of the curves.
        smoothing: Å, standard deviation of the Gaussian that distances are spread by; 0: shells.
        n_blocks: of frames, for the errors.

    Raises:
        ValueError: a system that does not repeat, or an r_max of zero.
    """
    centres = np.asarray(axes)[:, 0]
    shells = _Shells(r_max, points, smoothing)
    blocks = []
    for block in cut(len(trajectory), n_blocks):
        sums = np.zeros((3, len(shells.middles)))
        for frame in range(len(trajectory))[block]:
            i, j, distances, lines = _pairs(trajectory, frame, centres, centres, shells.reach)
            u, v = directions[frame, i], directions[frame, j]
            along = (u * lines).sum(1) * (v * lines).sum(1)
            weights = (np.ones_like(along), along, (u * v).sum(1) - along)
            sums += [shells.count(distances, weight) for weight in weights]
        smooth = np.array([shells.spread(one) for one in sums])
        with np.errstate(invalid="ignore", divide="ignore"):
            blocks.append(np.where(smooth[0] > 0, smooth[1:] / smooth[0], np.nan))
    along, across = np.mean(blocks, axis=0)
    return Correlations(shells.r, along, across, *standard_error(blocks))


class _Shells:
    """Where distances are counted, and what becomes of the counts."""

    def __init__(self, r_max: float, points: int, smoothing: float) -> None:
        if not r_max > 0 or points < 2 or smoothing < 0:
            raise ValueError(
                f"distances up to {r_max:g} Å on {points} points, smoothed by {smoothing:g} Å, were asked for; r_max "
                "above 0, at least 2 points and a smoothing of 0 or more were expected."
            )
        self.smoothing = smoothing
        self.reach = r_max + REACH * smoothing
        n = points if smoothing == 0 else max(points, int(np.ceil(FINE * self.reach / smoothing)))
        self.edges = np.linspace(0.0, self.reach, n + 1)
        self.middles = (self.edges[1:] + self.edges[:-1]) / 2
        self.r = self.middles if smoothing == 0 else np.linspace(0.0, r_max, points)
        self.kernel = np.exp(-0.5 * ((self.r[:, None] - self.middles) / (smoothing or 1)) ** 2)
        self.kernel /= smoothing * (2 * np.pi) ** 0.5 if smoothing else 1.0

    def count(self, distances: Floats, weights: Floats | None = None) -> Floats:
        """Sums of weights in each shell."""
        places = np.minimum((distances / self.edges[1]).astype(np.int64), len(self.middles) - 1)
        return np.bincount(places, weights, len(self.middles)).astype(np.float64)

    def spread(self, counts: Floats) -> Floats:
        """Counts at the points of the curve, per Å where they are smoothed."""
        return counts if self.smoothing == 0 else np.asarray(self.kernel @ counts)

    def per_volume(self, counts: Floats) -> Floats:
        """Counts at the points of the curve, per volume of their shells."""
        if self.smoothing == 0:
            return np.asarray(counts / (4 / 3 * np.pi * np.diff(self.edges**3)))
        surface = 4 * np.pi * self.r**2
        return np.divide(self.spread(counts), surface, out=np.zeros(len(self.r)), where=surface > 0)


def _pairs(
    trajectory: Trajectory, frame: int, ones: Integers, others: Integers, reach: float
) -> tuple[Integers, Integers, Floats, Floats]:
    """Ordered pairs of different atoms: places in the two lists, distances, and unit vectors from one to the other."""
    if not trajectory.pbc.all():
        raise ValueError(
            f"{trajectory.name} repeats in {int(trajectory.pbc.sum())} directions; 3 were expected, for without a "
            "volume there is no density to compare with. Leave distributions out."
        )
    same = len(ones) == len(others) and bool((ones == others).all())
    atoms = ones if same else np.concatenate([ones, others])
    found = vesin.NeighborList(cutoff=reach, full_list=True, sorted=False).compute(
        points=trajectory.positions[frame, atoms],
        box=complete_cell(trajectory.cells[frame]),
        periodic=True,
        quantities="ijdD",
    )
    i, j, distances = (np.asarray(part) for part in found[:3])
    is_pair = atoms[i.astype(np.int64)] != atoms[j.astype(np.int64)]
    if not same:
        is_pair &= (i < len(ones)) & (j >= len(ones))
    i, j, distances, vectors = i[is_pair], j[is_pair], distances[is_pair], np.asarray(found[3])[is_pair]
    offset = 0 if same else len(ones)
    return i.astype(np.int64), j.astype(np.int64) - offset, distances, vectors / distances[:, None]
