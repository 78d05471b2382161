"""split(): a dataset in two parts that share no structure."""

import numpy as np
from numpy.typing import NDArray

from tumble.data.dataset import Dataset
from tumble.data.leaks import matches


def split(dataset: Dataset, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Two parts drawn at random: the rest, and the fraction. Duplicates, exact and near, stay together.

    Args:
        dataset: at least two distinct structures.
        fraction: of structures in the second part, strictly between 0 and 1; at least one structure in each.
        seed: the same seed draws the same parts.

    Raises:
        ValueError: the fraction is not between 0 and 1, or fewer than two distinct structures.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"cannot split off a fraction of {fraction}; it must lie strictly between 0 and 1.")
    first = np.arange(len(dataset))
    for match in matches(dataset, dataset):
        first[match.place] = first[match.other]
    while True:
        apart = _drawn(first, fraction, seed)
        rest, held = np.flatnonzero(~apart), np.flatnonzero(apart)
        parts = dataset.select(rest), dataset.select(held)
        # Of many copies of one structure not each is found among those most like it; what is left shows here.
        left = list(matches(*parts))
        if not left:
            return parts
        for match in left:
            first[first == first[held[match.place]]] = first[rest[match.other]]


def _drawn(first: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which structures (S,) are in the second part; those with one and the same first one stay together."""
    group = np.unique(first, return_inverse=True)[1]
    counts = np.bincount(group)
    if len(counts) < 2:
        raise ValueError(f"cannot split {len(counts)} distinct structures in two; at least 2 are needed. Add data.")
    order = np.random.default_rng(seed).permutation(len(counts))
    is_held = np.zeros(len(counts), dtype=bool)
    is_held[order[0]] = True
    n_held, wanted = int(counts[order[0]]), fraction * len(first)
    for k in order[1:-1].tolist():
        if n_held >= wanted:  # not even a single structure fits
            break
        if n_held + counts[k] / 2 <= wanted:
            is_held[k] = True
            n_held += int(counts[k])
    return np.asarray(is_held[group])
