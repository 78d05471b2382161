"""What the energies and geometries of cells of ice say, in meV per molecule and Å."""

from dataclasses import dataclass
from typing import final

import numpy as np

Array = np.ndarray


@final
@dataclass(frozen=True)
class Orders:
    """Raw against averaged energies of proton orders, meV per H2O; roots of means, over the cells.

    std:       of the averaged energies.
    std_raw:   of the raw ones.
    spread:    largest minus smallest of the averaged ones.
    rmse:      of raw minus averaged relative energies.
    mae:       the same, mean absolute.
    shift:     mean of raw minus averaged, which all cells share and no relative energy shows.
    pearson:   correlation coefficient.
    """

    std: float
    std_raw: float
    spread: float
    rmse: float
    mae: float
    shift: float
    pearson: float

    @classmethod
    def of(cls, raw: Array, averaged: Array) -> "Orders":
        """Of (S,) eV per H2O each, at least two cells."""
        apart = 1000 * (raw - averaged)
        off = apart - apart.mean()
        return cls(
            std=float(1000 * averaged.std()),
            std_raw=float(1000 * raw.std()),
            spread=float(1000 * np.ptp(averaged)),
            rmse=float(np.sqrt(np.square(off).mean())),
            mae=float(np.abs(off).mean()),
            shift=float(apart.mean()),
            pearson=float(np.corrcoef(raw, averaged)[0, 1]),
        )


@final
@dataclass(frozen=True)
class Frames:
    """How far raw energies at fixed geometries are from averaged ones, meV per H2O.

    rmse_common: of relative energies with all cells turned in the same way; root mean square over K frames.
    rmse_apart:  with every cell in a random frame of its own: the expectation over all choices.
    shift_std:   standard deviation over frames of the shift that the cells share.
    """

    rmse_common: float
    rmse_apart: float
    shift_std: float

    @classmethod
    def of(cls, raw: Array, averaged: Array) -> "Frames":
        """Of raw (K, S) and averaged (S,) eV per H2O."""
        apart = 1000 * (raw - averaged)
        off = apart - apart.mean(1, keepdims=True)
        # With every cell's frame drawn by itself, deviations from the cell's own mean over frames add independently.
        own = apart.var(0, ddof=1).mean() * (1 - 1 / apart.shape[1])
        lasting = (apart.mean(0) - apart.mean()).var()
        return cls(
            rmse_common=float(np.sqrt(np.square(off).mean())),
            rmse_apart=float(np.sqrt(own + lasting)),
            shift_std=float(apart.mean(1).std(ddof=1)),
        )


@final
@dataclass(frozen=True)
class Pushes:
    """Differences of two fields of forces, meV/Å: of components, of components, of vectors."""

    rmse: float
    mae: float
    rmse_vector: float

    @classmethod
    def of(cls, some: list[Array], others: list[Array]) -> "Pushes":
        """Of (n, 3) eV/Å, cell by cell; the mean is over all atoms of all cells."""
        apart = 1000 * (np.concatenate(some) - np.concatenate(others))
        rmse = float(np.sqrt(np.square(apart).mean()))
        return cls(rmse, float(np.abs(apart).mean()), rmse * 3**0.5)


def apart(some: Array, others: Array) -> float:
    """Å, root mean square over atoms of the distance between two geometries, whose mean positions are put together."""
    off = some - others
    off = off - off.mean(0)
    return float(np.sqrt(np.square(off).sum(1).mean()))
