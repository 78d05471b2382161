"""The packaged potential `silicon`: errors on the tenth kept apart, rotational spread, lattice constant, optical mode.

    python benchmarks/silicon.py runs/silicon --ship --data Si_PBEsol_rd200.extxyz.xz Si_PBEsol_fd111.extxyz.xz

Writes benchmarks/results/silicon.json; with --ship also src/tumble/weights/silicon.safetensors.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import units
from ase.build import bulk
from scipy.optimize import brentq
from water import errors, ship, spread

import tumble
from tumble import data
from tumble.potential import Potential

HERE = Path(__file__).resolve().parent
KEPT = {
    "Si_PBEsol_rd200": [0, 5, 18, 31, 36, 44, 47, 117, 119, 126, 132, 133, 141, 144, 149, 150, 155, 158, 160, 161, 168],
    "Si_PBEsol_fd111": [0, 13, 23, 33, 35, 49, 57, 82, 96, 102],
}
"""Frames of the two files that the packaged weights have not seen: a random tenth."""
SOURCE = {
    "data": "Supercells of 64 silicon atoms: 200 with random displacements of 0.03 Å (pypolymlp, phono3py-Si, energies "
    "and forces) and 111 with one or two atoms displaced (phono3py, Si-PBEsol, with stresses); a random tenth, "
    "named under kept_apart, chose the best epoch and is what errors are given for",
    "kept_apart": KEPT,
    "level": "PBEsol (VASP)",
    "licence": "BSD-3-Clause (data and weights)",
    "source": "github.com/sekocha/pypolymlp, github.com/phonopy/phono3py",
    "command": "tumble train examples/recipes/silicon.yaml -o runs/silicon",
    "use": "phonons, thermal conductivity and elasticity of diamond near 5.43 Å; no other phase, no large displacement",
}


def optical_THz(potential: Potential, a: float) -> float:
    """Frequency of the optical mode at Γ, from displacements of ± 0.01 Å in the primitive cell."""
    crystal, forces = bulk("Si", a=a), []
    for step in (0.01, -0.01):
        moved = crystal.copy()
        moved.positions[0, 0] += step
        [answer] = tumble.predict(potential, moved)
        forces.append(answer.forces[:, 0].double().numpy())
    of_first, of_second = (forces[1] - forces[0]) / 0.02
    radians = np.sqrt((of_first - of_second) / crystal.get_masses()[0] * units._e / units._amu) * 1e10
    return float(radians / (2e12 * np.pi))


def lattice_constant(potential: Potential) -> float:
    """Where the pressure of diamond vanishes, Å."""

    def pressure(a: float) -> float:
        [answer] = tumble.predict(potential, bulk("Si", a=a))
        return float(answer.stress.trace())

    return float(brentq(pressure, 5.38, 5.49, xtol=1e-6))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("potential", help="a packaged name, a file, or the folder of a training")
    parser.add_argument("--data", nargs="+", required=True, help="the files that it was trained on")
    parser.add_argument("--ship", action="store_true", help="write it into the package, with its card")
    chosen = parser.parse_args()
    folder = Path(chosen.potential)
    potential = tumble.load(folder / "best.safetensors" if folder.is_dir() else chosen.potential)
    every = data.read(chosen.data, require=("energy", "forces"))
    unseen = {f"{name}.extxyz.xz:{frame}" for name, frames in KEPT.items() for frame in frames}
    kept = every.select([i for i, name in enumerate(every.sources) if Path(name).name in unseen])
    if len(kept) != len(unseen):
        raise ValueError(f"{len(kept)} of the {len(unseen)} frames kept apart were found in {chosen.data}.")
    found: dict[str, Any] = errors(potential, kept) | spread(potential, kept, "Th@generic")
    random = kept.select([i for i, name in enumerate(kept.sources) if "rd200" in name])
    found |= {f"random_displacements_{key}": value for key, value in errors(potential, random).items()}
    found["validation_frames"], found["validation_frames_random"] = len(kept), len(random)
    exact = potential.to(dtype=torch.float64)
    found["lattice_constant_A"] = lattice_constant(exact)
    found["optical_mode_THz"] = optical_THz(exact, found["lattice_constant_A"])
    print(json.dumps(found, indent=1))
    (HERE / "results" / "silicon.json").write_text(json.dumps(found, indent=1) + "\n")
    if chosen.ship:
        print(f"wrote {ship(folder, 'silicon', SOURCE, found)}")


if __name__ == "__main__":
    main()
