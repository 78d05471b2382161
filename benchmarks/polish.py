"""What makes a potential agree with itself: the packaged `water` trained on for a while, in several ways at equal cost.

    python benchmarks/polish.py --data water_revPBE0-D3 --monomers monomers --folder runs/polish --runs labels two_turns
    python benchmarks/polish.py --data water_revPBE0-D3 --monomers monomers --folder runs/polish --table

The data are train.extxyz.xz and valid.extxyz.xz of --data, and what monomers.py writes (monomers_train.extxyz and
monomers_test.extxyz). Every run costs about as many passes over the training set, counted in copies; its errors and
spreads go to results.json in the folder as soon as it ends, and a run that is there is not repeated. --table writes
benchmarks/results/DATE-polish.md.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from water import monomers, spread

import tumble
from tumble import data
from tumble.jobs.train import TrainSettings, train
from tumble.orbit import moments_over
from tumble.potential import Direct, Gradient, Potential, collate_for
from tumble.results import Progress
from tumble.rotations import Rotations

HERE = Path(__file__).resolve().parent
COPIES = 4
"""Passes over the training set, times copies, that a run may cost."""
MOLECULES = 5
"""As many times more where only molecules are trained on."""
FORCES = {"energy": {"weight": 0.0}}
ENERGY = {"force": {"weight": 0.0}, "energy": {"weight": 1e6}}
ANCHOR = {"weight": 1.0, "rule": "random:4"}
DISTILLED = {"labels": 0.0, "anchor": ANCHOR}

RUNS: dict[str, dict[str, Any]] = {
    "labels": {},
    "two_turns": {"orbit": {"weight": 10.0}},
    "four_turns": {"orbit": {"weight": 10.0, "turns": 4}},
    "last_layers": {"orbit": {"weight": 10.0}, "layers": "last"},
    "heads": {"orbit": {"weight": 10.0}, "layers": "heads"},
    "distilled": DISTILLED,
    "anchored": {"labels": 0.0, "anchor": ANCHOR, "orbit": {"weight": 10.0}},
    "adrift": {"labels": 0.0, "orbit": {"weight": 10.0}},
    "forces_only": {"orbit": {"weight": 10.0, **FORCES}},
    "energy_only": {"orbit": {"weight": 10.0, **ENERGY}},
    "opposite": {"orbit": {"weight": 10.0, "nodes": "opposite"}},
    "tetrahedral": {"orbit": {"weight": 10.0, "turns": 4, "nodes": "tetrahedral"}},
    "muon_2e-3": {**DISTILLED, "matrix_learning_rate": 2e-3, "learning_rate": 2e-4},
    "distilled_longer": {**DISTILLED, "passes": 12},
    "sampled": {"labels": 0.0, "anchor": ANCHOR, "sampled": True},
}


def recipe(name: str, folder: Path, *, molecules: bool) -> TrainSettings:
    """One of the runs, from the packaged weights; the schedule ends where its cost does."""
    change = dict(RUNS[name])
    liquid = "sampled" if change.pop("sampled", False) else "train"
    passes = change.pop("passes", COPIES) * (MOLECULES if molecules else 1)
    epochs = passes // (change["orbit"].get("turns", 2) if "orbit" in change else 1)
    plain = {
        "learning_rate": 5e-5,
        "matrix_learning_rate": 5e-4,
        "warmup": 0.1,
        "energy": {"weight": 1.0, "delta": 0.002},
    }
    return TrainSettings(
        data=tuple(str(folder / f"{one}.extxyz") for one in (["alone"] if molecules else [liquid, "alone"])),
        valid=(str(folder / "valid.extxyz"),),
        targets=("energy",) if molecules else ("energy", "forces"),
        missing="mask",
        start="water",
        phases=({"epochs": epochs, **plain, **change},),
        atoms_per_batch=24 if molecules else 192,
        probe=2,
        validate_every=epochs,
        seed=1,
    )


def errors(potential: Potential, dataset: data.Dataset) -> dict[str, float]:
    """Mean absolute errors of energies and forces on labelled frames."""
    pairs = list(zip(tumble.predict(potential, dataset.atoms), dataset.labels, strict=True))
    energy = torch.stack([(a.energy - b.energy) / len(b.forces) for a, b in pairs])  # type: ignore[operator, arg-type]
    forces = torch.cat([a.forces - b.forces for a, b in pairs])  # type: ignore[operator]
    return {
        "energy_mae_meV_per_atom": 1000 * float(energy.abs().mean()),
        "forces_mae_meV_per_A": 1000 * float(forces.abs().mean()),
    }


def measured(potential: Potential, valid: data.Dataset, molecules: str, rule: str) -> dict[str, float]:
    """Errors and spreads of liquid and molecules."""
    found = errors(potential, valid) | spread(potential, valid, rule) | monomers(potential, molecules)
    direct = errors(Direct(potential.model), valid)  # type: ignore[arg-type]
    return {k: v for k, v in found.items() if k != "spread_rule"} | {
        "direct_forces_mae_meV_per_A": direct["forces_mae_meV_per_A"]
    }


def trained(folder: Path, *, averaged: bool) -> Gradient:
    """The weights at the end of a training: their averages, or as they are."""
    start = tumble.load("water").model
    content = torch.load(folder / "last.ckpt", weights_only=True)["average" if averaged else "model"]
    state = {name.removeprefix("module."): value for name, value in content.items() if name != "n_averaged"}
    start.load_state_dict(state)
    return Gradient(start)


def sample(folder: Path) -> None:
    """As many training frames, drawn with replacement in proportion to their spread at the start."""
    frames, start = ase.io.read(folder / "train.extxyz", ":"), tumble.load("water")
    found = [moments_over(start, collate_for(start, [one]), Rotations.parse("random:4"))[1].forces for one in frames]
    weights = np.array([float(one.square().mean().sqrt()) for one in found if one is not None])
    chosen = np.random.default_rng(0).choice(len(frames), len(frames), p=weights / weights.sum())
    ase.io.write(folder / "sampled.extxyz", [frames[k] for k in chosen], format="extxyz")


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown, one run a line, in the order of the spread."""
    columns = {
        "minutes": "CPU minutes",
        "steps": "steps",
        "forces_mae_meV_per_A": "F MAE",
        "energy_mae_meV_per_atom": "E MAE",
        "forces_spread_mean_absolute_meV_per_A": "F spread, mean abs.",
        "forces_spread_rms_meV_per_A": "F spread, rms",
        "energy_spread_rms_meV_per_atom": "E spread, rms",
        "monomer_energy_rmse_meV": "molecule E RMSE",
        "monomer_energy_spread_meV": "molecule E spread",
        "monomer_forces_spread_meV_per_A": "molecule F spread",
        "direct_forces_mae_meV_per_A": "direct F MAE",
    }
    lines = ["| run | " + " | ".join(columns.values()) + " |", "|---" * (1 + len(columns)) + "|"]
    for name, row in sorted(rows.items(), key=lambda one: one[1]["forces_spread_mean_absolute_meV_per_A"]):
        cells = [f"{row[c]:.3g}" if c in row else "" for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run(name: str, chosen: argparse.Namespace, valid: data.Dataset) -> dict[str, dict[str, float]]:
    """Train, measure the averaged and the last weights."""
    molecules = str(chosen.monomers / "monomers_test.extxyz")
    if name == "start":
        return {name: measured(tumble.load("water"), valid, molecules, chosen.rule)}
    if RUNS[name].get("sampled"):
        sample(chosen.folder)
    settings, started = recipe(name, chosen.folder, molecules=chosen.molecules), time.process_time()

    def tell(progress: Progress) -> None:
        if progress.done % 50 == 0:
            print(f"  {name} {progress.done}/{progress.total} {time.process_time() - started:.0f} s {progress.message}")

    result = train(settings, chosen.folder / name, resume=True, max_minutes=chosen.budget, tell=tell)
    cost = {"minutes": (time.process_time() - started) / 60, "steps": float(result.metrics[-1]["step"])}
    weights: dict[str, Potential] = {name: trained(chosen.folder / name, averaged=True)}
    if chosen.raw:
        weights[f"{name}, raw weights"] = trained(chosen.folder / name, averaged=False)
    return {key: cost | measured(one, valid, molecules, chosen.rule) for key, one in weights.items()}


def main() -> None:
    """Prepare, run what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the liquid")
    parser.add_argument("--monomers", type=Path, required=True, help="folder of what monomers.py wrote")
    parser.add_argument("--folder", type=Path, required=True, help="where trainings and results go")
    parser.add_argument("--runs", nargs="*", default=[], choices=["start", *RUNS], help="which, in this order")
    parser.add_argument("--every", type=int, default=5, help="measure on every such validation frame")
    parser.add_argument("--train-every", type=int, default=4, help="train on every such frame and molecule")
    parser.add_argument("--molecules", action="store_true", help="train on molecules only: seconds instead of minutes")
    parser.add_argument("--raw", action="store_true", help="measure the last weights beside their averages")
    parser.add_argument("--rule", default="Th@generic", help="orientations for the spread")
    parser.add_argument("--budget", type=float, default=10.0, help="minutes after which a run is stopped")
    parser.add_argument("--table", action="store_true", help="write the dated table")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for part, every in {"train": chosen.train_every, "valid": chosen.every}.items():
        frames = ase.io.read(chosen.data / f"{part}.extxyz.xz", f"::{every}")
        ase.io.write(chosen.folder / f"{part}.extxyz", frames, format="extxyz")
    alone = ase.io.read(chosen.monomers / "monomers_train.extxyz", f"::{chosen.train_every}")
    ase.io.write(chosen.folder / "alone.extxyz", alone, format="extxyz")
    valid, path = data.read(str(chosen.folder / "valid.extxyz")), chosen.folder / "results.json"
    for name in chosen.runs:
        rows = json.loads(path.read_text()) if path.is_file() else {}
        if name not in rows:
            rows |= run(name, chosen, valid)
            path.write_text(json.dumps(rows, indent=1) + "\n")
    rows = json.loads(path.read_text())
    print(table(rows))
    if chosen.table:
        kind = "molecules" if chosen.molecules else "liquid and molecules"
        title = f"# Polishing `water` on {kind}"
        frames = (
            f"{len(valid)} validation frames and 100 molecules, spreads over {chosen.rule}; trained on one of "
            f"{chosen.train_every} frames and molecules of the training set"
        )
        head = f"{title}\n\n{date.today()}, one thread of an x86-64 CPU, torch {torch.__version__}; {frames}.\n"
        units = "Energies of the liquid in meV/atom, of molecules in meV; forces in meV/Å.\n"
        name = f"{date.today()}-polish{'-molecules' if chosen.molecules else ''}.md"
        (HERE / "results" / name).write_text(f"{head}{units}\n{table(rows)}\n")


if __name__ == "__main__":
    main()
