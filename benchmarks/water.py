"""The packaged potential `water`: its errors, its rotational spread, and whether it survives 5 ps of liquid water.

    python benchmarks/water.py runs/water/best.safetensors --data valid.extxyz.xz
    python benchmarks/water.py runs/water --data valid.extxyz.xz --ship

Writes benchmarks/results/water.json; with --ship also src/tumble/weights/water.safetensors.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from ase import units
from ase.md.langevin import Langevin

import tumble
from tumble import checkpoint, data
from tumble.cli.demo import liquid
from tumble.orbit import Orbit, moments_over
from tumble.potential import Direct, Gradient, Potential, collate_for
from tumble.rotations import Rotations

HERE = Path(__file__).resolve().parent
SOURCE = {
    "data": "Liquid water: 248 training and 30 validation frames of 64 H2O out of the 1593 of Cheng, Engel, "
    "Behler, Dellago, Ceriotti, PNAS 116, 1110 (2019); energies and forces, no stress. Monomers: 900 of the archive "
    "of Langer, Pozdnyakov, Ceriotti, Mach. Learn.: Sci. Technol. 5, 04LT01 (2024), with the energies of their PET "
    "averaged over 150 rotations",
    "level": "revPBE0-D3 (CP2K) for the liquid; a PET trained on the same level for the monomers",
    "licence": "CC-BY-4.0 (data), BSD-3-Clause (weights)",
    "doi": "10.1073/pnas.1815117116, 10.24435/materialscloud:2018.0020/v1, 10.24435/materialscloud:kz-3b",
    "command": "; ".join(
        f"tumble train examples/recipes/{name.replace('-', '_')}.yaml -o runs/{name}"
        for name in ("water", "water-monomer", "water-refine", "water-finish", "water-both", "water-last")
    ),
    "use": "liquid water, ice and water molecules near 300 K, for trying things out; stresses were never trained",
}


def errors(potential: Potential, dataset: data.Dataset) -> dict[str, float]:
    """Energy and force errors on labelled frames, in meV/atom and meV/Å."""
    answers = tumble.predict(potential, dataset.atoms)
    pairs = list(zip(answers, dataset.labels, dataset.atoms, strict=True))
    energy = 1000 * np.array([float(a.energy - b.energy) / len(atoms) for a, b, atoms in pairs])
    forces = 1000 * torch.cat([a.forces.double() - b.forces for a, b, _ in pairs]).numpy()
    return {
        "energy_mae_meV_per_atom": float(np.abs(energy).mean()),
        "energy_rmse_meV_per_atom": float(np.sqrt((energy**2).mean())),
        "forces_mae_meV_per_A": float(np.abs(forces).mean()),
        "forces_rmse_meV_per_A": float(np.sqrt((forces**2).mean())),
    }


def spread(potential: Potential, dataset: data.Dataset, rule: str) -> dict[str, Any]:
    """How forces and energies scatter over orientations, in the same two norms as the errors."""
    turns, deviations, energies = Rotations.parse(rule), [], []
    for atoms in dataset.atoms:
        found = Orbit.of(potential, collate_for(potential, [atoms]), turns)
        deviations.append((found.properties.forces - found.mean().forces).flatten())
        energies.append(float(found.spread().energy[0]) / len(atoms))
    apart = 1000 * torch.cat(deviations)
    return {
        "spread_rule": rule,
        "forces_spread_mean_absolute_meV_per_A": float(apart.abs().mean()),
        "forces_spread_rms_meV_per_A": float(apart.square().mean().sqrt()),
        "energy_spread_rms_meV_per_atom": 1000 * float(np.sqrt(np.mean(np.square(energies)))),
    }


def monomers(potential: Potential, path: str) -> dict[str, float]:
    """Energy error of molecules alone, and how energy and forces scatter as they turn."""
    dataset = data.read(path, require=("energy",))
    batch = collate_for(potential, dataset.atoms)
    found = moments_over(potential, batch, Rotations.parse("Oh@generic"))[1]
    raw = potential(batch).energy - torch.stack([label.energy for label in dataset.labels])
    return {
        "monomer_energy_rmse_meV": 1000 * float(raw.square().mean().sqrt()),
        "monomer_energy_spread_meV": 1000 * float(found.energy.square().mean().sqrt()),
        "monomer_forces_spread_meV_per_A": 1000 * float(found.forces.square().mean().div(3).sqrt()),
    }


def dynamics(potential: Potential, picoseconds: float) -> dict[str, Any]:
    """Langevin dynamics of 64 H2O at 300 K, 0.5 fs: temperature, and the shape of the molecules at the end."""
    atoms = liquid(potential, 4)
    atoms.calc = tumble.Calculator(potential)
    generator = np.random.default_rng(1)
    thermal = np.sqrt(atoms.get_masses() * units.kB * 300)
    atoms.set_momenta(generator.normal(size=(len(atoms), 3)) * thermal[:, None])
    n_steps, temperatures, started = round(picoseconds * 2000), [], time.perf_counter()
    with Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs, rng=generator) as engine:
        for step, _ in enumerate(engine.irun(n_steps)):
            temperatures.append(atoms.get_temperature())
            if step % 1000 == 0:
                print(f"  {step / 2000:.2f} ps, {temperatures[-1]:.0f} K", flush=True)
    seconds = time.perf_counter() - started
    bonds = atoms.get_all_distances(mic=True)[atoms.numbers == 8][:, atoms.numbers == 1]
    second, third = np.sort(bonds, axis=1)[:, 1], np.sort(bonds, axis=1)[:, 2]
    half = temperatures[len(temperatures) // 2 :]
    return {
        "nvt_ps": picoseconds,
        "nvt_mean_K_second_half": float(np.mean(half)),
        "nvt_max_K": float(np.max(temperatures)),
        "nvt_longest_bond_A": float(second.max()),
        "nvt_shortest_hydrogen_bond_A": float(third.min()),
        "nvt_all_finite": bool(np.isfinite(atoms.get_forces()).all()),
        "nvt_ms_per_step": 1000 * seconds / n_steps,
    }


def ship(folder: Path, name: str, source: dict[str, Any], found: dict[str, Any]) -> Path:
    """Write a packaged file with its card; a training that started from another one tells of both.

    Args:
        folder: of the training; those that it started from lie beside it.
        name: of the packaged potential.
        source: data, level, licence, command and use.
        found: what was measured.
    """
    recipes, minutes, stage = [], 0.0, folder
    while True:
        recipe = yaml.safe_load((stage / "recipe.yaml").read_text())
        for part in (recipe, *recipe.get("sets", ())):
            for key in ("data", "valid"):
                part[key] = ["/".join(Path(one).parts[-2:]) for one in part[key]]
        recipes.insert(0, recipe)
        minutes += [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()][-1]["minutes"]
        if recipe["start"] is None:
            break
        stage = folder.parent / Path(recipe["start"]).parent.name  # started from runs/NAME/best.safetensors
        recipe["start"] = "/".join(Path(recipe["start"]).parts[-2:])
    card = source | {
        "errors": found,
        "recipes": recipes,
        "hardware": "1 to 2 cores of an x86-64 server CPU, float32",
        "training_minutes": round(minutes, 1),
    }
    potential = Gradient(tumble.load(folder / "best.safetensors").model)
    path = checkpoint.save(potential, HERE.parent / "src" / "tumble" / "weights" / f"{name}.safetensors", card)
    path.with_suffix(".json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    return path


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("potential", help="a packaged name, a file, or the folder of a training")
    parser.add_argument("--data", help="labelled frames to compare with")
    parser.add_argument("--monomers", help="labelled molecules to compare with; see monomers.py")
    parser.add_argument("--rule", default="Th@generic", help="orientations for the spread")
    parser.add_argument("--picoseconds", type=float, default=5.0, help="length of the dynamics")
    parser.add_argument("--ship", action="store_true", help="write it into the package, with its card")
    chosen = parser.parse_args()
    folder = Path(chosen.potential)
    # The last training may have been that of the direct heads.
    potential = Gradient(tumble.load(folder / "best.safetensors" if folder.is_dir() else chosen.potential).model)
    found: dict[str, Any] = {}
    if chosen.data:
        dataset = data.read(chosen.data)
        found |= errors(potential, dataset) | spread(potential, dataset, chosen.rule)
        found["spread_over_error_mae"] = found["forces_spread_mean_absolute_meV_per_A"] / found["forces_mae_meV_per_A"]
        found["spread_over_error_rms"] = found["forces_spread_rms_meV_per_A"] / found["forces_rmse_meV_per_A"]
        found |= {f"direct_{k}": v for k, v in errors(Direct(potential.model), dataset).items() if "forces" in k}
        print(json.dumps(found, indent=1), flush=True)
    if chosen.monomers:
        found |= monomers(potential, chosen.monomers)
        print(json.dumps(found, indent=1), flush=True)
    if chosen.picoseconds:
        found |= dynamics(potential, chosen.picoseconds)
    print(json.dumps(found, indent=1))
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "water.json").write_text(json.dumps(found, indent=1) + "\n")
    if chosen.ship:
        print(f"wrote {ship(folder, 'water', SOURCE, found)}")


if __name__ == "__main__":
    main()
