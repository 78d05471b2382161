"""Shards: structures dealt out so that each shard has about as many atoms as every other."""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from math import ceil


def deal(sizes: Sequence[int], structures_per_shard: int, atoms_per_shard: int | None) -> list[int]:
    """The shard of each structure, counted from 0: the largest go first, each to the shard with the fewest atoms.

    Args:
        sizes: atoms of each structure.
        structures_per_shard: no shard has more.
        atoms_per_shard: decides how many shards there are, with the limit above; None: that limit alone.
    """
    n_shards = ceil(len(sizes) / structures_per_shard)
    if atoms_per_shard is not None:
        n_shards = min(max(n_shards, ceil(sum(sizes) / atoms_per_shard)), len(sizes))
    shard_of, counts = [0] * len(sizes), [0] * n_shards
    lightest = [(0, shard) for shard in range(n_shards)]
    heapify(lightest)
    for index in sorted(range(len(sizes)), key=lambda one: (-sizes[one], one)):
        n_atoms, shard = heappop(lightest)
        shard_of[index] = shard
        counts[shard] += 1
        if counts[shard] < structures_per_shard:
            heappush(lightest, (n_atoms + sizes[index], shard))
    return shard_of
