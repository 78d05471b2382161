"""Orientations: where axes of molecules point more often than elsewhere, and what a potential predicts of it."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tumble.rotations import Rotations
from tumble.trajectories.blocks import mean, standard_error
from tumble.units import BOLTZMANN

Floats = NDArray[np.float64]

BINS = (720, 180)
"""Cells of equal area, cosine by azimuth, in which directions are counted before they are smoothed."""

BANDWIDTH = 0.1
"""rad, of the kernel of a density, in the study."""

TINY = 1e-6
"""Of the uniform density: a prediction does not fall below."""


class Vector(NamedTuple):
    """The ℓ = 1 part of a free energy: its coefficients on √3 (x, y, z), functions of unit variance on the sphere.

    F / k_BT = value·√3 u + ... is lowest where u points along −value. It is what the study fits to its maps.

    value:         (3,) k_BT.
    error:         (3,) k_BT, standard error; NaN where it cannot be known.
    n_independent: directions that count as independent, of the component with the fewest.
    """

    value: Floats
    error: Floats
    n_independent: float

    @property
    def amplitude(self) -> float:
        """k_BT, its length: the standard deviation of the ℓ = 1 part over the sphere."""
        return float(np.linalg.norm(self.value))


@dataclass(frozen=True, eq=False)
class SphereMap:
    """Free energy of directions, F = −k_BT ln p, less its mean over the sphere.

    cosines:   (n,) z of the directions: cos θ, equally spaced, so that rows are of equal area.
    azimuths:  (m,) rad, from 0, all around.
    values:    (n, m) k_BT.
    kept:      part of an ℓ = 1 variation that the smoothing has left.
    """

    cosines: Floats
    azimuths: Floats
    values: Floats
    kept: float = 1.0

    @classmethod
    def of(cls, density: Floats, cosines: Floats, azimuths: Floats, kept: float = 1.0) -> Self:
        """Of a density on the grid, in any unit."""
        energy = -np.log(density)
        return cls(cosines, azimuths, energy - energy.mean(), kept)

    @property
    def std(self) -> float:
        """k_BT, over the sphere."""
        return float(self.values.std())

    @property
    def vector(self) -> Floats:
        """(3,) k_BT: coefficients of F on √3 (x, y, z), the smoothing undone."""
        return np.einsum("ij,ijx->x", self.values, 3**0.5 * sphere(self.cosines, self.azimuths)) / (
            self.values.size * self.kept
        )

    @property
    def shares(self) -> Floats:
        """(3,) of the variance in ℓ = 1 and ℓ = 2, and elsewhere."""
        x, y, z = np.moveaxis(sphere(self.cosines, self.azimuths), -1, 0)
        ones = 3**0.5 * np.array([x, y, z])
        twos = 15**0.5 * np.array([x * y, y * z, z * x, (x**2 - y**2) / 2, (3 * z**2 - 1) / 12**0.5])
        variance = float((self.values**2).mean())
        if variance == 0:
            return np.zeros(3)
        first, second = (float(((basis * self.values).mean((1, 2)) ** 2).sum()) / variance for basis in (ones, twos))
        return np.array([first, second, max(0.0, 1 - first - second)])


def sphere(cosines: ArrayLike, azimuths: ArrayLike) -> Floats:
    """(n, m, 3) unit vectors of a grid of (n,) cosines and (m,) azimuths in rad."""
    z, around = np.asarray(cosines, dtype=np.float64), np.asarray(azimuths, dtype=np.float64)
    across = np.sqrt(np.maximum(1 - z**2, 0))
    shape = (len(z), len(around))
    return np.stack(
        [across[:, None] * np.cos(around), across[:, None] * np.sin(around), np.broadcast_to(z[:, None], shape)],
        axis=-1,
    )


def grid(n_cosines: int = 36, n_azimuths: int = 72) -> tuple[Floats, Floats]:
    """Cosines in the middles of rows of equal area, and azimuths in rad."""
    return (2 * np.arange(n_cosines) + 1) / n_cosines - 1, 2 * np.pi * np.arange(n_azimuths) / n_azimuths


def vector(directions: Floats) -> Vector:
    """The ℓ = 1 part of the free energy of directions, from their mean: c = −√3 ⟨u⟩.

    It is exact to first order: of F = a·u alone, ⟨u⟩ is −L(a) with the Langevin function L(a) = coth a − 1/a, and c
    is a / √3 − a³ / (15 √3) + ...; of an amplitude of 0.11, the error is 0.2 %.

    Args:
        directions: (K, M, 3) unit vectors, of M molecules in K frames; errors count how long they stay correlated.
    """
    per_frame = np.asarray(directions, dtype=np.float64).reshape(len(directions), -1, 3).mean(1)
    parts = [mean(per_frame[:, axis]) for axis in range(3)]
    value, error = np.array([one.value for one in parts]), np.array([one.error for one in parts])
    return Vector(-(3**0.5) * value, 3**0.5 * error, min(one.n_independent for one in parts))


def free_energy(
    directions: Floats, *, bandwidth: float = BANDWIDTH, cosines: Floats | None = None, azimuths: Floats | None = None
) -> SphereMap:
    """Free energy of directions, from a kernel density on the sphere.

    The kernel is the Gaussian of the sphere, exp(cos γ / bandwidth²) with the angle γ (von Mises and Fisher).

    Args:
        directions: (..., 3) unit vectors.
        bandwidth: rad; 0.1 in the study.
        cosines: (n,) equally spaced; None: 36 rows.
        azimuths: (m,) rad; None: 72.

    Raises:
        ValueError: no directions, or a bandwidth that is not above 0.04 rad, the width of the cells.
    """
    u = np.asarray(directions, dtype=np.float64).reshape(-1, 3)
    if not len(u) or not bandwidth > 0.04:
        raise ValueError(
            f"a density of {len(u)} directions with a bandwidth of {bandwidth:g} rad was asked for; directions, and "
            "more than 0.04 rad, were expected. Use 0.1, as the study does."
        )
    rows, columns = BINS
    row = np.minimum(((u[:, 2] + 1) / 2 * rows).astype(int), rows - 1)
    azimuth = np.mod(np.arctan2(u[:, 1], u[:, 0]), 2 * np.pi)
    column = np.minimum((azimuth / (2 * np.pi) * columns).astype(int), columns - 1)
    counts = np.bincount(row * columns + column, minlength=rows * columns).reshape(rows, columns)
    given = grid()
    wanted = (given[0] if cosines is None else cosines), (given[1] if azimuths is None else azimuths)
    density = _smooth(counts / len(u), *wanted, 1 / bandwidth**2)
    return SphereMap.of(density, *wanted, 1 / np.tanh(1 / bandwidth**2) - bandwidth**2)


def noise(n_independent: float, bandwidth: float = BANDWIDTH) -> float:
    """Standard error of F / k_BT in one direction, and so the standard deviation of a map of nothing but noise.

        1 / (bandwidth √n): the kernel of `free_energy` averages over a part bandwidth² of the sphere

    Args:
        n_independent: directions that count as independent.
        bandwidth: rad.
    """
    return 1 / (bandwidth * n_independent**0.5)


def predicted(
    energies: ArrayLike,
    rotations: Rotations,
    axis: ArrayLike,
    temperature_K: float,
    *,
    cosines: Floats | None = None,
    azimuths: Floats | None = None,
) -> tuple[SphereMap, Vector]:
    """What the energies of a molecule in every orientation say of where its axis will point: without any dynamics.

        p(u) ∝ Σ_g Σ_r w_r exp(−E_gr / k_BT) δ(u − Q_r b_g), for each g divided by Σ_r w_r exp(−E_gr / k_BT)

    The map has the channels that the rule resolves, ℓ up to half of its degree; the vector needs none of them.

    Args:
        energies: (R,) eV, of one geometry, or (G, R) of G of them, of the molecule turned by each node.
        rotations: R nodes Q; E(Q) is the energy at x Qᵀ. For a chiral molecule without inverting ones.
        axis: (3,) or (G, 3) the axis b of each geometry before it is turned.
        temperature_K: K.
        cosines: of the map, as for `free_energy`.
        azimuths: of the map.

    Returns:
        The map, and the ℓ = 1 vector, whose error is that of the mean over geometries.

    Raises:
        ValueError: energies or axes that do not fit to the rule, a temperature that is not above 0, or a rule that
            cannot see ℓ = 1.
    """
    energy, pointing, weights = _turned(energies, rotations, axis, temperature_K)
    boltzmann = weights * np.exp(-(energy - energy.min(axis=1, keepdims=True)))
    boltzmann /= boltzmann.sum(axis=1, keepdims=True)
    means = np.einsum("gr,grx->gx", boltzmann, pointing)
    found = Vector(-(3**0.5) * means.mean(0), 3**0.5 * standard_error(means), float(len(means)))
    given = grid()
    wanted = (given[0] if cosines is None else cosines), (given[1] if azimuths is None else azimuths)
    points = sphere(*wanted)
    # The rule integrates products of the density, of ℓ up to L, with P_L.
    density = np.zeros(points.shape[:2])
    for of_one, u in zip(boltzmann, pointing, strict=True):
        density += _series(of_one, u, points, rotations.degree // 2)
    return SphereMap.of(np.maximum(density / len(energy), TINY), *wanted), found


def _turned(
    energies: ArrayLike, rotations: Rotations, axis: ArrayLike, temperature_K: float
) -> tuple[Floats, Floats, Floats]:
    """(G, R) energies in k_BT, (G, R, 3) directions of the axis, (R,) weights."""
    energy = np.atleast_2d(np.asarray(energies, dtype=np.float64))
    axes = np.atleast_2d(np.asarray(axis, dtype=np.float64))
    if energy.ndim != 2 or energy.shape[1] != len(rotations) or axes.shape not in ((1, 3), (len(energy), 3)):
        raise ValueError(
            f"energies of shape {energy.shape} and axes of shape {axes.shape} were given for {len(rotations)} "
            f"rotations; (G, {len(rotations)}) and (G, 3) were expected. Give a row of energies and an axis for each "
            "geometry."
        )
    if not temperature_K > 0 or rotations.degree < 2:
        raise ValueError(
            f"{rotations.name} at {temperature_K:g} K cannot say where an axis will point; a temperature above 0 and a "
            "rule of degree 2 or more were expected. Use o3:6, say."
        )
    axes = np.broadcast_to(axes / np.linalg.norm(axes, axis=1, keepdims=True), (len(energy), 3))
    pointing = np.einsum("rxy,gy->grx", rotations.matrices.numpy(), axes)
    return energy / (BOLTZMANN * temperature_K), pointing, rotations.weights.numpy()


def _series(weights: Floats, directions: Floats, points: Floats, l_max: int) -> Floats:
    """Σ_ℓ (2ℓ+1) Σ_r weights_r P_ℓ(u_r · n) on (n, m, 3) points: a density in units of the uniform one."""
    cosine = points @ directions.T
    before, now = np.ones_like(cosine), cosine
    total = before @ weights
    for ell in range(1, l_max + 1):
        total = total + (2 * ell + 1) * (now @ weights)
        before, now = now, ((2 * ell + 1) * cosine * now - ell * before) / (ell + 1)
    return np.asarray(total)


def _smooth(shares: Floats, cosines: Floats, azimuths: Floats, kappa: float) -> Floats:
    """A density in units of the uniform one, on a grid, of shares in cells of equal area."""
    rows, columns = shares.shape
    z, across = (2 * np.arange(rows) + 1) / rows - 1, 2 * np.pi * (np.arange(columns) + 0.5) / columns
    transformed = np.fft.fft(shares, axis=1)
    modes = np.fft.fftfreq(columns, 1 / columns)
    scale = 4 * np.pi * kappa / (2 * np.pi * (1 - np.exp(-2 * kappa)))
    density = np.empty((len(cosines), len(azimuths)))
    offsets = 2 * np.pi * np.arange(columns) / columns
    # Back from the frequencies of the cells to the azimuths that are asked for.
    back = np.exp(1j * np.outer(azimuths - across[0], modes)) / columns
    for place, cosine in enumerate(cosines):
        along, aside = cosine * z[:, None], np.sqrt(np.maximum((1 - cosine**2) * (1 - z[:, None] ** 2), 0))
        kernel = np.exp(kappa * (along + aside * np.cos(offsets) - 1))
        density[place] = (back @ (np.fft.fft(kernel, axis=1) * transformed).sum(0)).real
    return np.asarray(np.maximum(density * scale, 1e-300))
