"""Rules over rotations in the frame of a structure, and the nodes of a rule that its symmetry makes equivalent."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from tumble.crystal.frames import aligned_frame
from tumble.crystal.lattice import Floats
from tumble.crystal.point import PointGroup
from tumble.crystal.space import SpaceGroup
from tumble.rotations import Rotations

EQUAL: Final = 1e-6
"""Largest difference of matrix elements of a node and the image of another that is answered instead of it."""

_KERNEL: Floats = np.random.default_rng(7).normal(size=(9,))


def cosets(rotations: Rotations, group: SpaceGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Which nodes of a rule need to be asked, and how the others follow: Q_r = Q_chosen[parent[r]] h_operation[r].

    Of an infinite group only the discrete part is used.

    Returns:
        chosen (K,) indices of nodes, parent (R,) indices into chosen, operation (R,) indices into the group's turns.
    """
    nodes, turns = rotations.matrices.numpy(), group.turns
    n = len(nodes)
    everything = torch.arange(n)
    if len(turns) == 1:
        return everything, everything, torch.zeros(n, dtype=torch.int64)
    # A number that is the same for all nodes of a coset: the mean over the group of a function of Q h.
    overlaps = nodes.reshape(n, 9) @ (_KERNEL.reshape(3, 3) @ turns.transpose(0, 2, 1)).reshape(-1, 9).T
    keys = np.cos(overlaps).mean(axis=1)
    parent, operation = np.full(n, -1), np.zeros(n, dtype=np.int64)
    left = np.argsort(keys, kind="stable")
    leaders: list[np.ndarray] = []
    while len(left):
        runs = np.concatenate([[0], np.cumsum(np.diff(keys[left]) > 20 * EQUAL)])
        # Different cosets may share a number; of each run one is settled, and the rest has another round.
        first = np.full(runs[-1] + 1, n)
        np.minimum.at(first, runs, left)
        leader = first[runs]
        apart = nodes[leader].transpose(0, 2, 1) @ nodes[left]
        found = (apart.reshape(-1, 9) @ turns.reshape(-1, 9).T).argmax(axis=1)
        is_same = np.abs(apart - turns[found]).max(axis=(1, 2)) <= EQUAL
        is_same |= left == leader
        parent[left[is_same]], operation[left[is_same]] = leader[is_same], found[is_same]
        leaders.append(first)
        left = left[~is_same]
    chosen, places = np.unique(parent, return_inverse=True)
    return torch.as_tensor(chosen), torch.as_tensor(places), torch.as_tensor(operation)


@dataclass(frozen=True)
class Aligned:
    """A rule to be brought into the frame of each structure's point group, or that point group itself.

    name: its spec, `crystal` or `RULE@crystal`.
    rule: what is to be aligned; None for the point group itself.
    """

    name: str
    rule: Rotations | None

    @property
    def n_most(self) -> int:
        """Nodes at most: of the rule, or of the largest polyhedral point group (of a crystal, 48)."""
        return 120 if self.rule is None else len(self.rule)

    def of(self, group: PointGroup) -> Rotations:
        """The rule for a structure with this point group.

        Raises:
            ValueError: the point group itself is the rule, and is infinite.
        """
        if self.rule is None:
            return group.rule()
        return replace(self.rule, matrices=self.rule.matrices @ aligned_frame(self.rule, group).T, name=self.name)


def parse_rule(spec: str) -> Rotations | Aligned:
    """The rule a spec names: all that `Rotations.parse` takes, `crystal`, and `RULE@crystal`.

    Raises:
        ValueError: the spec is not in the grammar.
    """
    rule, at, frame = spec.strip().partition("@")
    if not at and rule == "crystal":
        return Aligned("crystal", None)
    if frame.strip() == "crystal":
        if rule == "crystal":
            raise ValueError(
                'the rule "crystal@crystal" names a frame twice; the point group of a structure is in its frame by '
                'itself. Use "crystal", or a rule such as "I@crystal".'
            )
        return Aligned(f"{rule}@crystal", Rotations.parse(rule))
    return Rotations.parse(spec)
