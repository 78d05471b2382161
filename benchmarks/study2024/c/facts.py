"""Everything known about the cells, and the numbers that follow."""

from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
from ase import Atoms

from study2024.c.compare import Frames, Orders, Pushes, apart
from study2024.c.walks import TURNED, Ice

Array = np.ndarray


@final
@dataclass(frozen=True, eq=False)
class Found:
    """Of S cells; energies in eV per H2O.

    cells:       numbers that the study gave them, and n_molecules of each.
    energy:      where (start, rest) and potential (raw, averaged) → (S,).
    frames:      (K, S) raw energies of the cells at rest on the average, in K random frames.
    turned:      (T, S) raw energies at rest in T of these frames.
    orders:      name of a comparison → its numbers; theirs is that of the same cells in the archive.
    in_frames:   of energies in random frames.
    pushes:      of forces in the geometries given, and of forces at rest in random frames against those as it lies.
    distances:   name → Å, root mean square over all atoms.
    walks:       raw, averaged, turned-0, ... → the worst force at the end in eV/Å and calls in all.
    theirs:      raw and averaged energies of the study's potential at rest, (S,).
    """

    cells: tuple[int, ...]
    n_molecules: tuple[int, ...]
    energy: dict[str, dict[str, Array]]
    frames: Array
    turned: Array
    orders: dict[str, Orders]
    in_frames: Frames
    pushes: dict[str, Pushes]
    distances: dict[str, float]
    walks: dict[str, dict[str, float]]
    theirs: dict[str, Array]

    @classmethod
    def of(cls, ice: Ice, cells: list[int], study: dict[int, Atoms]) -> "Found":
        """From a folder and what the study left."""
        n = np.array([len(ice.cells[cell]) // 3 for cell in cells])
        walks = ("raw", "averaged", *(f"turned-{k}" for k in range(TURNED)))
        ends = {what: [ice.at_rest(cell, what) for cell in cells] for what in walks}
        rest = {what: np.array([end.info["energy_eV"] for end in some]) / n for what, some in ends.items()}
        starts = [ice.arrays(cell, "start") for cell in cells]
        begin = np.array([start["energy"] for start in starts]) / n[:, None]
        there = [ice.arrays(cell, "frames") for cell in cells]
        in_frames = np.array([one["energy"] for one in there]).T / n
        energy = {
            "start": {"raw": begin[:, 0], "averaged": begin[:, 1]},
            "rest": {"raw": rest["raw"], "averaged": rest["averaged"]},
        }
        theirs = {
            kind: np.array([ice.cells[cell].info[f"E_pet_{key}_relaxed"] for cell in cells]) / n
            for kind, key in (("raw", "direct"), ("averaged", "2i"))
        }
        turned = np.array([rest[what] for what in walks[2:]])
        return cls(
            cells=tuple(cells),
            n_molecules=tuple(n.tolist()),
            energy=energy,
            frames=in_frames[1:],
            turned=turned,
            orders={
                "rest": Orders.of(**energy["rest"]),
                "start": Orders.of(**energy["start"]),
                "theirs": Orders.of(**theirs),
                "against theirs": Orders.of(rest["averaged"], theirs["averaged"]),
            }
            | {f"rest turned {k}": Orders.of(one, rest["averaged"]) for k, one in enumerate(turned)},
            in_frames=Frames.of(in_frames[1:], rest["averaged"]),
            pushes={
                "start": Pushes.of([s["forces"][0] for s in starts], [s["forces"][1] for s in starts]),
                "frames": Pushes.of(
                    [one["forces"][1:].reshape(-1, 3) for one in there],
                    [np.tile(one["forces"][0], (len(one["forces"]) - 1, 1)) for one in there],
                ),
            },
            distances=_distances(ice, cells, ends, study),
            walks={
                what: {
                    "fmax_eV_per_A": max(end.info["fmax_eV_per_A"] for end in some),
                    "n_calls": sum(int(end.info["n_calls"]) for end in some),
                    "n_converged": sum(bool(end.info["is_converged"]) for end in some),
                }
                for what, some in ends.items()
            },
            theirs=theirs,
        )


def _distances(ice: Ice, cells: list[int], ends: dict[str, list[Atoms]], study: dict[int, Atoms]) -> dict[str, float]:
    """Between geometries, over all atoms of all cells."""
    given = [ice.cells[cell] for cell in cells]
    pairs = {
        "averaged from given": (ends["averaged"], given),
        "raw from averaged": (ends["raw"], ends["averaged"]),
        "averaged from theirs": (ends["averaged"], [study[cell] for cell in cells]),
        "theirs from given": ([study[cell] for cell in cells], given),
    } | {f"raw turned {k} from raw": (ends[f"turned-{k}"], ends["raw"]) for k in range(TURNED)}
    weights = [len(atoms) for atoms in given]
    found = {}
    for name, (some, others) in pairs.items():
        squares = [apart(_positions(a, b), b.positions) ** 2 for a, b in zip(some, others, strict=True)]
        found[name] = float(np.sqrt(np.average(squares, weights=weights)))
    return found


def _positions(atoms: Atoms, like: Atoms) -> Array:
    """Of the images of the atoms that are nearest to those of the other structure."""
    shift = np.linalg.solve(like.cell.array.T, (atoms.positions - like.positions).T).T
    return atoms.positions - np.round(shift) @ like.cell.array


def relative(energies: Array) -> Array:
    """MeV per H2O from the mean of the cells."""
    return 1000 * (energies - energies.mean(axis=-1, keepdims=True))


def facts(found: Found) -> dict[str, Any]:
    """For reading by programs."""
    return {
        "cells": found.cells,
        "n_molecules": found.n_molecules,
        "relative_meV_per_H2O": {
            f"{kind} {where}": relative(values) for where, both in found.energy.items() for kind, values in both.items()
        }
        | {f"published {kind}": relative(values) for kind, values in found.theirs.items()},
        "energy_eV_per_H2O": found.energy,
        "orders": {name: asdict(one) for name, one in found.orders.items()},
        "frames": asdict(found.in_frames) | {"n": len(found.frames)},
        "forces_meV_per_A": {name: asdict(one) for name, one in found.pushes.items()},
        "distances_A": found.distances,
        "walks": found.walks,
    }
