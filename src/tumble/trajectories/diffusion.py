"""Diffusion: how far atoms go, how fast molecules forget where they pointed, and the rates that follow."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumble.trajectories.blocks import cut, products, standard_error
from tumble.trajectories.trajectory import Trajectory
from tumble.units import BOLTZMANN

Floats = NDArray[np.float64]
Origins = Literal["all", "first"]

XI = 2.837297
"""Of a cubic box: what periodic images do to a particle that drags a fluid along."""

PA = 6.241509074e-12
"""One Pa = J/m³ in eV/Å³."""


class Decay(NamedTuple):
    """A function of the time between two moments, averaged over moments, atoms or molecules, and blocks of frames.

    times_ps: (n,) ps, from 0.
    values:   (n,) of a mean square displacement Å², of a correlation 1.
    error:    (n,) standard error from the blocks; NaN for one block.
    blocks:   (B, n) the same of each block.
    """

    times_ps: Floats
    values: Floats
    error: Floats
    blocks: Floats


class Rate(NamedTuple):
    """A number from a straight line through a part of a Decay.

    value:   of a diffusion coefficient Å²/ps (1e-8 m²/s), of a correlation time ps.
    error:   standard error, from a line through every block; NaN for one block.
    from_ps, to_ps: the part.
    """

    value: float
    error: float
    from_ps: float
    to_ps: float


def displacements(
    trajectory: Trajectory,
    symbol: str | None = None,
    *,
    block_frames: int | None = None,
    origins: Origins = "all",
    is_drift_removed: bool = True,
) -> Decay:
    """Mean square displacement of the atoms of an element.

    Blocks of consecutive frames, each with as many moments to start from as it has ("all", up to half of its length),
    or with its first alone ("first", up to its length). Study A: block_frames=100, origins="first".

    Args:
        trajectory: evenly spaced frames.
        symbol: element; None: all atoms.
        block_frames: frames per block; None: a fifth of them.
        origins: moments to start from.
        is_drift_removed: the displacement of the centre of mass of all atoms is taken out.

    Raises:
        ValueError: fewer than two frames in a block, frames that are not evenly spaced, or no such element.
    """
    x = trajectory.positions[:, trajectory.where(symbol)]
    if is_drift_removed:
        weights = trajectory.masses / trajectory.masses.sum()
        x = x - np.einsum("n,knx->kx", weights, trajectory.positions)[:, None]
    return _decay(trajectory, block_frames, origins, lambda block: _squares(x[block], origins))


def reorientation(
    trajectory: Trajectory, directions: Floats, *, block_frames: int | None = None, origins: Origins = "all"
) -> Decay:
    """How long axes of molecules remember where they pointed: c_uu(t) = ⟨u(0)·u(t)⟩.

    Args:
        trajectory: evenly spaced frames.
        directions: (K, M, 3) unit vectors.
        block_frames: as for `displacements`.
        origins: as for `displacements`.

    Raises:
        ValueError: as for `displacements`.
    """

    def of_block(block: slice) -> Floats:
        u = directions[block]
        if origins == "first":
            return np.asarray((u[0] * u).sum(-1).mean(1))
        return np.asarray(products(u).sum(-1).mean(1)[: _lags(len(u))])

    return _decay(trajectory, block_frames, origins, of_block)


def diffusion(moved: Decay, from_ps: float | None = None, to_ps: float | None = None) -> Rate:
    """Diffusion coefficient: a sixth of the slope of a mean square displacement.

    Args:
        moved: Å².
        from_ps: ps, where the straight line begins; None: a fifth of what there is.
        to_ps: ps, where it ends; None: all of it.

    Returns:
        Å²/ps, of the system as it was simulated: see `unbounded`.

    Raises:
        ValueError: fewer than two times in that part.
    """
    part, begin, end = _part(moved, from_ps, to_ps)
    times = moved.times_ps[part]
    slopes = np.polyfit(times, moved.blocks[:, part].T, 1)[0] / 6
    return Rate(float(slopes.mean()), float(standard_error(slopes)), begin, end)


def correlation_time(turned: Decay, from_ps: float | None = None, to_ps: float | None = None) -> Rate:
    """Time constant of an exponential decay: minus one over the slope of its logarithm.

    Args:
        turned: a correlation.
        from_ps: ps, where the straight line begins; None: a fifth of what there is.
        to_ps: ps, where it ends; None: all of it.

    Returns:
        ps. Its error is that of the mean of all blocks, left out one by one (jackknife): the logarithm of one block
        alone may not exist.

    Raises:
        ValueError: fewer than two times in that part, or a correlation that is not positive there.
    """
    part, begin, end = _part(turned, from_ps, to_ps)
    n = len(turned.blocks)
    without = (turned.blocks.sum(0) - turned.blocks) / (n - 1) if n > 1 else turned.blocks
    lowest = float(min(turned.values[part].min(), without[:, part].min()))
    if not lowest > 0:
        raise ValueError(
            f"the correlation falls to {lowest:.3g} between {begin:g} and {end:g} ps; a positive one was expected, for "
            "its logarithm is fitted. Fit to an earlier time, or run longer."
        )
    times = turned.times_ps[part]
    slope = float(np.polyfit(times, np.log(turned.values[part]), 1)[0])
    times_of = -1 / np.polyfit(times, np.log(without[:, part]).T, 1)[0]
    error = float(((n - 1) / n * ((times_of - times_of.mean()) ** 2).sum()) ** 0.5) if n > 1 else float("nan")
    return Rate(-1 / slope, error, begin, end)


def unbounded(rate: Rate, *, length_A: float, temperature_K: float, viscosity_mPas: float) -> Rate:
    """Diffusion coefficient without periodic images: D + 2.837297 k_B T / (6π η L) for a cubic box.

    Args:
        rate: Å²/ps, in a cubic box.
        length_A: Å, of its edge.
        temperature_K: K.
        viscosity_mPas: mPa s, which hardly depends on the box: 0.85 for water at 300 K.

    Raises:
        ValueError: one of the three is not above zero.

    Source: I.-C. Yeh, G. Hummer, J. Phys. Chem. B 108, 15873 (2004), doi:10.1021/jp0477147.
    """
    if not min(length_A, temperature_K, viscosity_mPas) > 0:
        raise ValueError(
            f"a box of {length_A:g} Å, {temperature_K:g} K and {viscosity_mPas:g} mPa s were given for the correction "
            "of diffusion; all were expected to be above 0."
        )
    viscosity = viscosity_mPas * 1e-3 * PA * 1e12  # eV ps/Å³
    return rate._replace(value=rate.value + XI * BOLTZMANN * temperature_K / (6 * np.pi * viscosity * length_A))


def _squares(x: Floats, origins: Origins) -> Floats:
    """⟨|x(t) − x(0)|²⟩ of (k, M, 3) positions."""
    if origins == "first":
        return np.asarray(((x - x[0]) ** 2).sum(-1).mean(1))
    x = x - x.mean(0)  # so that large numbers do not cancel
    count, n = len(x), _lags(len(x))
    squares = (x**2).sum(-1)
    total = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(squares, axis=0)])
    lags = np.arange(n)
    # Of all starts that are t before the end, and all ends that are t behind the start.
    sums = total[count - lags] + total[count] - total[lags]
    moved = sums / (count - lags)[:, None] - 2 * products(x).sum(-1)[:n]
    return np.asarray(np.maximum(moved, 0).mean(1))


def _lags(count: int) -> int:
    """Times between two moments of a block that are worth an average, t = 0 among them."""
    return count // 2 + 1


def _decay(
    trajectory: Trajectory, block_frames: int | None, origins: Origins, of_block: Callable[[slice], Floats]
) -> Decay:
    spacing, count = trajectory.spacing_ps, len(trajectory)
    length = max(2, count // 5) if block_frames is None else block_frames
    if not 2 <= length <= count:
        raise ValueError(
            f"blocks of {length} frames were asked for of {count} frames in {trajectory.name}; from 2 to {count} were "
            "expected. Take shorter blocks, or run longer."
        )
    blocks: Floats = np.array([of_block(block) for block in cut(count, count // length)])
    times = spacing * np.arange(blocks.shape[1], dtype=np.float64)
    return Decay(times, np.asarray(blocks.mean(0), dtype=np.float64), standard_error(blocks), blocks)


def _part(decay: Decay, from_ps: float | None, to_ps: float | None) -> tuple[NDArray[np.bool_], float, float]:
    """Which times a straight line goes through."""
    last = float(decay.times_ps[-1])
    begin, end = last / 5 if from_ps is None else from_ps, last if to_ps is None else to_ps
    part = (decay.times_ps >= begin - 1e-9) & (decay.times_ps <= end + 1e-9)
    if part.sum() < 2:
        raise ValueError(
            f"there are {int(part.sum())} times from {begin:g} to {end:g} ps, of {len(decay.times_ps)} up to {last:g} "
            "ps; at least 2 were expected for a straight line. Fit a longer part, or take longer blocks."
        )
    return part, begin, end
