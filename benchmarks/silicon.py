"""The packaged potential `silicon`: errors on the tenth kept apart, rotational spread, lattice constant, optical mode.

    python benchmarks/silicon.py prepare ../data                 # writes what is trained on and what is kept apart
    tumble train examples/recipes/silicon.yaml -o runs/silicon
    python benchmarks/silicon.py measure runs/silicon --ship --data Si_valid.extxyz

`prepare` also writes Si_train.extxyz for examples/recipes/silicon_strained.yaml, which is not what is packaged: one
supercell of 512 atoms, and strained cells of PBE scaled by the ratio s of the lattice constants, E(x) = E_PBE(x / s):
forces by 1/s, stresses by 1/s³, and no energies, whose zero is another. `silicon` has seen one volume, and its bulk
modulus is 31 GPa; with the strained cells it is 81 GPa, and the thermal conductivity is lost (dev/LOG.md).

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
from tumble.units import EV_PER_A3_TO_GPa

HERE = Path(__file__).resolve().parent
KEPT = {
    "Si_PBEsol_rd200": [0, 5, 18, 31, 36, 44, 47, 117, 119, 126, 132, 133, 141, 144, 149, 150, 155, 158, 160, 161, 168],
    "Si_PBEsol_fd111": [0, 13, 23, 33, 35, 49, 57, 82, 96, 102],
}
"""Frames of the two files that the packaged weights have not seen: a random tenth."""
STRAINED_KEPT = 10
"""Every so manieth strained cell is kept apart."""
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
    "command": "python benchmarks/silicon.py prepare; tumble train examples/recipes/silicon.yaml -o runs/silicon",
    "use": "phonons and thermal conductivity of diamond at 5.43 Å; not for elasticity, because it has seen one volume "
    "(C11 77 GPa, DFT 158); no other phase, no large displacement",
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
    """Write what is learned from and what is kept apart; strained cells as if PBE rested where PBEsol does."""
    sets = chosen.data / "phonopy_sets"
    train, valid = _frames(sets / "Si_PBEsol_fc2.extxyz.xz"), []
    for name, kept in KEPT.items():
        for index, frame in enumerate(_frames(sets / f"{name}.extxyz.xz")):
            (valid if index in kept else train).append(_named(frame, name))
    write(chosen.to / "Si_first.extxyz", train[1:])
    write(chosen.to / "Si_first_valid.extxyz", valid)
    elastic = [one for one in _frames(chosen.data / "mlearn" / "Si_train.extxyz.xz") if one.info["group"] == "Elastic"]
    for name, frames in {"elastic": elastic, "volumes": _frames(sets / "Si_PBE_QHA11.extxyz.xz")}.items():
        calmest = min(frames, key=lambda one: abs(np.trace(one.get_stress(voigt=False))))
        resting = (8 * calmest.get_volume() / len(calmest)) ** (1 / 3)  # its pressure is below 0.01 GPa
        print(f"{len(frames)} frames, {name}: at rest at {resting:.4f} Å, scaled by {AT_REST_A / resting:.5f}")
        scaled = [_named(_scaled(one, AT_REST_A / resting), name) for one in frames]
        valid += scaled[::STRAINED_KEPT]
        train += [one for index, one in enumerate(scaled) if index % STRAINED_KEPT]
    print(f"{len(train)} frames to learn from, {len(valid)} kept apart")
    write(chosen.to / "Si_train.extxyz", train)
    write(chosen.to / "Si_valid.extxyz", valid)


def _named(atoms: Atoms, name: str) -> Atoms:
    """With nothing in its info but where it comes from."""
    atoms.info = {"config_type": name}
    return atoms


def _frames(path: Path) -> Any:
    with lzma.open(path, "rt") as file:
        return read(file, ":", format="extxyz")


def _scaled(atoms: Atoms, scale: float) -> Atoms:
    """A frame of E(x / scale), without its energy."""
    forces, stress = atoms.get_forces() / scale, atoms.get_stress() / scale**3
    made = Atoms(atoms.numbers, atoms.positions * scale, cell=atoms.cell.array * scale, pbc=True)
    made.calc = SinglePointCalculator(made, forces=forces, stress=stress)
    return made


def _of_group(dataset: data.Dataset, *names: str) -> data.Dataset:
    return dataset.select([index for index, group in enumerate(dataset.groups) if group in names])


def strained_errors(potential: Potential, kept: data.Dataset) -> dict[str, float]:
    """Mean absolute errors of forces and stress on strained cells, and their number."""
    pairs = list(zip(tumble.predict(potential, kept.atoms), kept.labels, strict=True))
    forces = [(answer.forces - label.forces).abs() for answer, label in pairs]
    stresses = [(answer.stress - label.stress).abs() for answer, label in pairs]
    return {
        "strained_forces_mae_meV_per_A": 1000 * float(torch.cat(forces).mean()),
        "strained_stress_mae_GPa": EV_PER_A3_TO_GPa * float(torch.stack(stresses).mean()),
        "strained_frames": len(kept),
    }


def measure(chosen: argparse.Namespace) -> None:
    """Measure, print, write."""
    folder = Path(chosen.potential)
    potential = tumble.load(folder / "best.safetensors" if folder.is_dir() else chosen.potential)
    every = data.read(chosen.data, require=("forces",))
    found: dict[str, Any] = {}
    for name in ("Si_PBEsol_rd200", "Si_PBEsol_fd111"):
        kept = _of_group(every, name)
        known = errors(potential, kept) | spread(potential, kept, "Th@generic") | {"frames": len(kept)}
        found |= {f"{name}_{key}": value for key, value in known.items()}
    found |= strained_errors(potential, _of_group(every, "elastic", "volumes"))
    exact = potential.to(dtype=torch.float64)
    found["lattice_constant_A"] = lattice_constant(exact)
    crystal = bulk("Si", a=found["lattice_constant_A"])
    constants = tumble.elastic(exact, crystal, tumble.ElasticSettings(average="none", volumes=0)).constants_GPa
    found |= {f"C{i + 1}{j + 1}_GPa": float(constants[i, j]) for i, j in ((0, 0), (0, 1), (3, 3))}
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
    second.add_argument("--data", nargs="+", required=True, help="what prepare has kept apart")
    second.add_argument("--ship", action="store_true", help="write it into the package, with its card")
    second.set_defaults(run=measure)
    chosen = parser.parse_args()
    chosen.run(chosen)


if __name__ == "__main__":
    main()
