"""Observe two simulations side by side: what a molecule that cannot tell directions does, and one that can."""

import numpy as np
from ase.build import molecule

import tumble
from tumble.rotations import Rotations
from tumble.trajectories import Trajectory, axes, directions, molecules, predicted
from tumble.units import BOLTZMANN

random = np.random.default_rng(0)
turns = Rotations.random(20_000).matrices.numpy()
water = molecule("H2O")
pull = 0.3 * (turns @ [0, 0, -1])[:, 2]  # k_BT: an energy that depends on where the axis points
is_seen = random.random(len(turns)) < np.exp(-0.3 - pull)


def frames(of):
    for k, turn in enumerate(of):
        atoms = water.copy()
        atoms.positions = atoms.positions @ turn.T
        atoms.info["time_ps"] = 0.1 * k
        yield atoms


fair = Trajectory.of(frames(turns[: is_seen.sum()]), name="fair")
tilted = Trajectory.of(frames(turns[is_seen]), name="tilted")

result = tumble.observe([fair, tilted], tumble.ObserveSettings(what="orientations"))
for finding in result.findings:
    vector = finding.turned.vector
    print(finding.name, "l = 1 vector, k_BT:", np.round(vector.value, 3), "+-", np.round(vector.error, 3))

# The same from energies over orientations, without dynamics.
rule = Rotations.parse("so3:8")
axis = directions(fair, axes(molecules(fair), fair))[0, 0] @ turns[0]
energies = 0.3 * BOLTZMANN * 300 * (rule.matrices.numpy() @ axis)[:, 2]
print("predicted:", np.round(predicted(energies, rule, axis, 300.0)[1].value, 3))
