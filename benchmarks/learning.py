"""Learning curves: how much inputs, optimizers, rates and schedules decide, by step and by processor time.

    python benchmarks/learning.py --data ../shared/data --minutes 4

Each variant changes one thing in a common recipe, on every n-th frame of liquid water or silicon. All get the same
processor time on one thread: the time of a step is measured first, and the schedule fills what is left. Printed are
force errors on frames kept apart (averaged weights, meV/Å) at a quarter, half and the end of the time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

SHAPE = {
    "cutoff": 4.5, "d_pet": 64, "d_head": 64, "d_node": 128, "d_feedforward": 128, "num_heads": 4,
    "num_attention_layers": 1, "num_gnn_layers": 2, "edge_basis": 8,
}  # fmt: skip
PHASE = {"matrix_learning_rate": 0.01, "energy": {"weight": 0.5, "delta": 0.002}, "force": {"delta": 0.03}}
VARIANTS: dict[str, dict[str, Any]] = {
    "common": {},
    "edge_basis 0": {"model": {"edge_basis": 0}},
    "edge_gain 1": {"edge_gain": 1.0},
    "edge_gain 1, edge_basis 0 (published)": {"edge_gain": 1.0, "model": {"edge_basis": 0}},
    "edge_gain 8": {"edge_gain": 8.0},
    "Muon 0.003": {"phase": {"matrix_learning_rate": 0.003}},
    "Muon 0.02": {"phase": {"matrix_learning_rate": 0.02}},
    "AdamW 1e-3": {"phase": {"optimizer": "adamw", "learning_rate": 1e-3}},
    "two frames a step": {"frames": 2},
    "no average (ema 0)": {"ema": 0.0},
    "linear": {"phase": {"schedule": "linear"}},
    "mse": {"phase": {"force": {"loss": "mse", "weight": 10.0}}},
    "direct for a third first": {"direct": 1 / 3},
    "d_pet 96": {"model": {"d_pet": 96, "d_head": 96, "d_node": 192, "d_feedforward": 192, "num_heads": 6}},
}


def frames(data: Path, name: str, folder: Path, every: int) -> int:
    """Write the frames of a set, thinned out, and return the number of atoms of one."""
    import ase.io
    from versus_mace import cases

    case = cases(data, [name])[name]
    ase.io.write(folder / "train.extxyz", case.train[::every], format="extxyz")
    ase.io.write(folder / "valid.extxyz", case.valid[::3], format="extxyz")
    return len(case.train[0])


def recipe(variant: dict[str, Any], folder: Path, n_atoms: int, epochs: tuple[int, int]) -> dict[str, Any]:
    """The recipe of a variant with so many epochs of direct and of conservative forces."""
    direct, conservative = epochs
    phase = PHASE | variant.get("phase", {})
    phases = [{"forces": "direct", "epochs": direct, **phase}] if direct else []
    if direct:  # what was learned directly is lost if the rate is high
        phase = phase | {"matrix_learning_rate": phase["matrix_learning_rate"] / 2, "warmup": 0.1}
    phases.append({"forces": "gradient", "epochs": conservative, **phase})
    return {
        "data": [str(folder / "train.extxyz")], "valid": [str(folder / "valid.extxyz")],
        "model": SHAPE | variant.get("model", {}) | ({"direct_forces": True} if direct else {}), "phases": phases,
        "atoms_per_batch": n_atoms * variant.get("frames", 1), "ema": variant.get("ema", 0.999), "probe": 0,
        "edge_gain": variant.get("edge_gain", 4.0), "live": {"raw": False}, "check_units": False, "leaks": "allow",
        "validate_every": max(1, (direct + conservative) // 8),
    }  # fmt: skip


def trained(values: dict[str, Any], folder: Path, name: str) -> tuple[float, list[dict[str, Any]]]:
    """Processor seconds of a training, and its metrics."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    words = [sys.executable, "-m", "tumble", "train", str(path), "-o", str(folder / name), "--overwrite"]
    with (folder / "log.txt").open("a") as log:
        child = subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
        _, status, used = os.wait4(child.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"the training {name} failed; see {folder / 'log.txt'}")
    lines = (folder / name / "metrics.jsonl").read_text().splitlines()
    return used.ru_utime + used.ru_stime, [json.loads(line) for line in lines]


def measured(name: str, variant: dict[str, Any], folder: Path, n_atoms: int, minutes: float) -> dict[str, Any]:
    """One row: the force error at a quarter, half and the end of the steps of the last phase, and what it took."""
    seconds, share = 60 * minutes, variant.get("direct", 0.0)
    n = 1 if share else 0
    plans = {"one": (n, 1), "both": (n, 3)} | ({"direct": (3, 1)} if share else {})
    each = {
        kind: trained(recipe(variant, folder, n_atoms, epochs), folder, "timing")[0] for kind, epochs in plans.items()
    }
    conservative = (each["both"] - each["one"]) / 2
    direct = (each["direct"] - each["one"]) / 2 if share else 0.0
    start = each["one"] - conservative - direct
    epochs = (
        round(share * (seconds - start) / direct) if share else 0,
        max(4, round((1 - share) * (seconds - start) / conservative)),
    )
    used, rows = trained(recipe(variant, folder, n_atoms, epochs), folder, "run")
    last = [row for row in rows if row["phase"] == rows[-1]["phase"]]
    at = {part: min(last, key=lambda row: abs(row["epoch"] / last[-1]["epoch"] - part)) for part in (0.25, 0.5, 1.0)}
    return {
        "variant": name, **{f"F MAE at {part:g}": round(row["forces_mae"], 2) for part, row in at.items()},
        "E MAE": round(last[-1]["energy_mae"], 3), "steps": rows[-1]["step"], "CPU minutes": round(used / 60, 2),
    }  # fmt: skip


def main() -> None:
    """Train every variant, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets")
    parser.add_argument("--set", default="silicon", choices=["silicon", "water", "ethanol"])
    parser.add_argument("--every", type=int, default=2, help="every so manieth frame is trained on")
    parser.add_argument("--minutes", type=float, default=3.0, help="processor minutes of each training")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--to", type=Path, help="add the rows to this table (Markdown)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        n_atoms = frames(chosen.data, chosen.set, folder, chosen.every)
        for name in chosen.variants:
            row = measured(name, VARIANTS[name], folder, n_atoms, chosen.minutes)
            line = "| " + " | ".join(str(value) for value in row.values()) + " |"
            print(line, flush=True)
            if chosen.to:
                is_new = not chosen.to.is_file()
                with chosen.to.open("a") as table:
                    if is_new:
                        table.write(f"# Learning curves, {chosen.set}, every {chosen.every}. frame\n\n")
                        table.write("| " + " | ".join(row) + " |\n|" + "---|" * len(row) + "\n")
                    table.write(line + "\n")


if __name__ == "__main__":
    main()
