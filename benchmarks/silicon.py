"""The packaged potential `silicon`: errors on the tenth kept apart, rotational spread, lattice constant, optical mode.

    python benchmarks/silicon.py prepare ../data                 # writes Si_strained.extxyz
    tumble train examples/recipes/silicon.yaml -o runs/silicon
    tumble train examples/recipes/silicon_strained.yaml -o runs/silicon-strained
    python benchmarks/silicon.py measure runs/silicon-strained --ship \
        --data phonopy_sets/Si_PBEsol_{rd200,fd111}.extxyz.xz

`prepare`: the PBEsol supercells have one volume each, and a network learns nothing from them about other volumes: its
bulk modulus was 31 GPa. So it is shown strained cells of PBE, scaled by the ratio of the lattice constants,
E(x) = E_PBE(x / s): forces by 1/s, stresses by 1/s³, and no energies, whose zero is another.

`measure` writes benchmarks/results/silicon.json; with --ship also src/tumble/weights/silicon.safetensors.
"""

import argparse
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
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
AT_REST_A = 5.4336
"""Lattice constant at which the stress of the PBEsol supercells vanishes."""
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


def prepare(chosen: argparse.Namespace) -> None:
    """Write strained cells as if PBE had the lattice constant of PBEsol."""
    elastic = [one for one in _frames(chosen.data / "mlearn" / "Si_train.extxyz.xz") if one.info["group"] == "Elastic"]
    volumes = _frames(chosen.data / "phonopy_sets" / "Si_PBE_QHA11.extxyz.xz")
    written = []
    for frames in (elastic, volumes):
        calmest = min(frames, key=lambda one: abs(np.trace(one.get_stress(voigt=False))))
        resting = (8 * calmest.get_volume() / len(calmest)) ** (1 / 3)  # its pressure is below 0.01 GPa
        scale = AT_REST_A / resting
        print(f"{len(frames)} frames of a crystal that rests at {resting:.4f} Å, scaled by {scale:.5f}")
        written += [_scaled(one, scale) for one in frames]
    write(chosen.to / "Si_strained.extxyz", written)


def _frames(path: Path) -> Any:
    with lzma.open(path, "rt") as file:
        return read(file, ":", format="extxyz")


def _scaled(atoms: Atoms, scale: float) -> Atoms:
    """A frame of E(x / scale), without its energy."""
    forces, stress = atoms.get_forces() / scale, atoms.get_stress() / scale**3
    made = Atoms(atoms.numbers, atoms.positions * scale, cell=atoms.cell.array * scale, pbc=True)
    made.calc = SinglePointCalculator(made, forces=forces, stress=stress)
    return made


def measure(chosen: argparse.Namespace) -> None:
    """Measure, print, write."""
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


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    first = verbs.add_parser("prepare", help="write strained cells to train on")
    first.add_argument("data", type=Path, help="the folder that holds mlearn and phonopy_sets")
    first.add_argument("--to", type=Path, default=Path("."), help="folder for Si_strained.extxyz")
    first.set_defaults(run=prepare)
    second = verbs.add_parser("measure", help="errors, spread, lattice constant, elastic constants, optical mode")
    second.add_argument("potential", help="a packaged name, a file, or the folder of a training")
    second.add_argument("--data", nargs="+", required=True, help="the files that it was trained on")
    second.add_argument("--ship", action="store_true", help="write it into the package, with its card")
    second.set_defaults(run=measure)
    chosen = parser.parse_args()
    chosen.run(chosen)


if __name__ == "__main__":
    main()
