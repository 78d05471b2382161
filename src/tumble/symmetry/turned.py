"""Turned: a potential asked in another random orientation each time."""

from collections.abc import Mapping
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray

from tumble.batch import Batch, Properties, turn, turn_back
from tumble.potential import Potential
from tumble.rotations import Rotations

_STREAM: Final = 2
"""Of the random numbers of a seed: velocities and thermostats have others."""


@final
class Turned(Potential):
    """A potential asked about each structure in a fresh orientation, uniform in O(3), and turned back.

    The mean over many calls is the mean of the orbit, and each call costs what one does. No two answers agree, so
    forces are no gradient, and a simulation with them heats (see `turn_heating` of the audit).

    The orientations of call n are those of the seed [seed, 2, n]: to go on, n is enough.
    """

    is_conservative = False

    def __init__(self, inner: Potential, seed: int = 0) -> None:
        """Args:
        inner: any Potential; it is shared, not copied.
        seed: of the orientations.
        """
        super().__init__()
        self.inner, self.seed, self.n_calls = inner, seed, 0
        self.training = inner.training
        self.cutoff, self.species, self.is_batched = inner.cutoff, inner.species, inner.is_batched

    @property
    def dtype(self) -> torch.dtype:
        """That of the inner potential."""
        return self.inner.dtype

    @property
    def device(self) -> torch.device:
        """That of the inner potential."""
        return self.inner.device

    def forward(self, batch: Batch) -> Properties:
        """The answer in orientations that nobody has asked in before."""
        random = np.random.default_rng([self.seed, _STREAM, self.n_calls])
        self.n_calls += 1
        turns = Rotations.random(batch.n_structures, int(random.integers(2**62))).matrices
        turns = turns * torch.as_tensor(random.choice([-1.0, 1.0], (batch.n_structures, 1, 1)))
        turns = turns.to(batch.positions.device)
        return turn_back(self.inner(turn(batch, turns)), turns, batch.structure)

    def deviations(self, batch: Batch, *, forces: bool = False) -> Properties:
        """Those of the inner potential about the batch as it stands.

        Raises:
            ValueError: the inner potential does not know how uncertain it is.
        """
        return self.inner.deviations(batch, forces=forces)

    @property
    def has_uncertainty(self) -> bool:
        """Whether the inner potential has one."""
        return self.inner.has_uncertainty

    @property
    def has_forces_uncertainty(self) -> bool:
        """Whether the inner potential has one."""
        return self.inner.has_forces_uncertainty

    def state(self) -> dict[str, NDArray[np.generic]]:
        """How often it was asked."""
        return {"n_calls": np.array(self.n_calls)}

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from there."""
        self.n_calls = int(state["n_calls"])

    def extra_repr(self) -> str:
        """The seed."""
        return f"seed {self.seed}"
