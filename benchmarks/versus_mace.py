"""A PET trained here against MACE: the same frames, the same cutoff, the same processor time, the same machine.

    python -m venv mace && mace/bin/pip install mace-torch
    python benchmarks/versus_mace.py --data ../shared/data --mace mace/bin/python --minutes 10

mace-torch needs an environment of its own, because its e3nn excludes other packages. Both train in float32 on one
thread. Processor time is budgeted, not the clock, so that other work on the machine favours nobody: an epoch of each is
timed first, and then as many epochs are trained as fit, each with its own schedule over all of them. MACE is trained
with the options that its documentation recommends for small sets, at the size given by --channels and --max-l.
Force errors are those of the set kept apart; rotational spread is the rms deviation of force components over T@generic.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
import yaml
from ase import Atoms

import tumble
from tumble import data
from tumble.orbit import moments_over
from tumble.potential import collate_for
from tumble.rotations import Rotations

HERE = Path(__file__).resolve().parent
RULE = "T@generic"
SHARE = 8
"""Every so manieth frame takes part where the time of an epoch is measured."""


class Case(NamedTuple):
    """A set of frames: what is trained on, what chooses the best epoch, what is reported, and the settings of both."""

    train: list[Atoms]
    valid: list[Atoms]
    test: list[Atoms]
    cutoff: float
    per_batch: int


class Run(NamedTuple):
    """Processor seconds, clock seconds and peak memory of a process that has ended."""

    cpu_s: float
    clock_s: float
    peak_MB: float


def frames(*files: Path) -> list[Atoms]:
    """Labelled structures, their labels under REF_ names."""
    found = []
    dataset = data.read([str(file) for file in files], require=())
    for atoms, label in zip(dataset.atoms, dataset.labels, strict=True):
        plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        plain.info["REF_energy"] = float(label.energy)
        plain.arrays["REF_forces"] = label.forces.numpy()
        found.append(plain)
    return found


def cases(folder: Path, chosen: list[str]) -> dict[str, Case]:
    """The three sets: liquid water, ethanol, silicon with displaced atoms."""
    found = {}
    if "water" in chosen:
        valid = frames(folder / "water_revPBE0-D3" / "valid.extxyz.xz")
        found["water"] = Case(frames(folder / "water_revPBE0-D3" / "train.extxyz.xz"), valid, valid, 4.5, 1)
    if "ethanol" in chosen:
        every = frames(folder / "ethanol_botnet" / "train.extxyz.xz")
        test = frames(folder / "ethanol_botnet" / "test_MD.extxyz.xz")
        found["ethanol"] = Case(every[:950], every[950:], test, 5.0, 10)
    if "silicon" in chosen:
        sets = folder / "phonopy_sets"
        every = frames(sets / "Si_PBEsol_rd200.extxyz.xz", sets / "Si_PBEsol_fd111.extxyz.xz")
        order = np.random.default_rng(0).permutation(len(every))
        kept = [every[i] for i in order[: len(every) // 10]]
        found["silicon"] = Case([every[i] for i in order[len(every) // 10 :]], kept, kept, 5.0, 2)
    return found


def run(words: list[str], folder: Path) -> Run:
    """Run a command on one thread, its output into a file, and account for it."""
    quiet = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    started = time.perf_counter()
    with (folder / "log.txt").open("a") as log:
        child = subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | quiet)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(words[:4])} ended with {child.returncode}; see {folder / 'log.txt'}")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return Run(used.ru_utime + used.ru_stime, time.perf_counter() - started, used.ru_maxrss / unit)


def recipe(case: Case, folder: Path, epochs: int, rate: float) -> Path:
    """Ours."""
    shape = {
        "cutoff": case.cutoff, "d_pet": 64, "d_head": 64, "d_node": 128, "d_feedforward": 128, "num_heads": 4,
        "num_attention_layers": 1, "num_gnn_layers": 2, "edge_basis": 8,
    }  # fmt: skip
    phase = {
        "epochs": epochs, "matrix_learning_rate": rate, "energy": {"weight": 0.5, "delta": 0.002},
        "force": {"weight": 1.0, "delta": 0.03},
    }  # fmt: skip
    values = {
        "data": [str(folder / "train.extxyz")], "valid": [str(folder / "valid.extxyz")], "model": shape,
        "phases": [phase], "atoms_per_batch": case.per_batch * len(case.train[0]), "leaks": "allow",
        "validate_every": max(1, epochs // 10), "probe": 0, "live": {"raw": False}, "check_units": False,
    }  # fmt: skip
    path = folder / f"recipe{epochs}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def ours(case: Case, folder: Path, epochs: int, rate: float) -> Run:
    """Train a PET for so many epochs."""
    words = [sys.executable, "-m", "tumble", "train", str(recipe(case, folder, epochs, rate)), "--overwrite"]
    return run([*words, "-o", str(folder / f"pet{epochs}")], folder)


def mace(case: Case, folder: Path, epochs: int, chosen: argparse.Namespace) -> Run:
    """Train a MACE for so many epochs."""
    options = {
        "name": f"mace{epochs}", "work_dir": folder, "train_file": folder / "train.extxyz",
        "valid_file": folder / "valid.extxyz", "energy_key": "REF_energy", "forces_key": "REF_forces", "E0s": "average",
        "model": "MACE", "num_channels": chosen.channels, "max_L": chosen.max_l, "r_max": case.cutoff,
        "batch_size": case.per_batch, "valid_batch_size": 2 * case.per_batch, "max_num_epochs": epochs,
        "ema_decay": 0.99, "start_swa": max(1, int(0.75 * epochs)), "device": "cpu", "default_dtype": "float32",
        "seed": 1, "plot": False, "eval_interval": max(1, epochs // 10), "patience": epochs + 1, "num_workers": 0,
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    program = str(Path(chosen.mace).parent / "mace_run_train")
    return run([program, *words, "--swa", "--ema", "--amsgrad"], folder)


def fitting(case: Case, folder: Path, train: Any, minutes: float) -> tuple[int, float]:
    """Epochs that fit into a budget of processor time, and the seconds of one; from one and three on few frames."""
    few = case._replace(train=case.train[::SHARE], valid=case.valid[::SHARE])
    (folder / "timing").mkdir(exist_ok=True)
    written(few, folder / "timing")
    one, three = train(few, folder / "timing", 1), train(few, folder / "timing", 3)
    each = max((three.cpu_s - one.cpu_s) / 2, 1e-3)
    whole = each * len(case.train) / len(few.train)
    return max(1, int((60 * minutes - (one.cpu_s - each)) / whole)), whole


def written(case: Case, folder: Path) -> None:
    """The frames of a case as files."""
    for part in ("train", "valid"):
        ase.io.write(folder / f"{part}.extxyz", getattr(case, part), format="extxyz")


ANSWER = """
import sys, ase.io, numpy as np
from mace.calculators import MACECalculator
calc = MACECalculator(model_paths=sys.argv[1], device="cpu", default_dtype="float32")
energies, forces = [], []
for atoms in ase.io.read(sys.argv[2], ":"):
    atoms.calc = calc
    energies.append(atoms.get_potential_energy() / len(atoms))
    forces.append(atoms.get_forces())
np.savez(sys.argv[3], energies=energies, forces=np.concatenate(forces))
"""


def mace_answers(model: Path, structures: list[Atoms], folder: Path, python: str) -> tuple[np.ndarray, np.ndarray]:
    """Energies per atom and forces, from its own environment."""
    ase.io.write(folder / "asked.extxyz", structures, format="extxyz")
    run([python, "-c", ANSWER, str(model), str(folder / "asked.extxyz"), str(folder / "said.npz")], folder)
    with np.load(folder / "said.npz") as said:
        return said["energies"], said["forces"]


def errors(energies: np.ndarray, forces: np.ndarray, structures: list[Atoms]) -> dict[str, float]:
    """Mean absolute errors, meV/atom and meV/Å."""
    known = np.array([one.info["REF_energy"] / len(one) for one in structures])
    labels = np.concatenate([one.arrays["REF_forces"] for one in structures])
    return {
        "E MAE": 1000 * float(np.abs(energies - known).mean()),
        "F MAE": 1000 * float(np.abs(forces - labels).mean()),
        "F RMSE": 1000 * float(np.sqrt(np.square(forces - labels).mean())),
    }


def turned_spread(model: Path, structures: list[Atoms], folder: Path, python: str) -> float:
    """Rotational spread of the forces of a MACE, rms of components, meV/Å."""
    turns = Rotations.parse(RULE).matrices.numpy()
    asked = []
    for one in structures:
        for turn in turns:
            copy = Atoms(one.numbers, one.positions @ turn.T, cell=one.cell.array @ turn.T, pbc=one.pbc)
            asked.append(copy)
    _, forces = mace_answers(model, asked, folder, python)
    squares, place = [], 0
    for one in structures:
        back = []
        for turn in turns:
            back.append(forces[place : place + len(one)] @ turn)
            place += len(one)
        squares.append(np.square(back - np.mean(back, axis=0)).mean(0).ravel())
    return 1000 * float(np.sqrt(np.concatenate(squares).mean()))


def measured_ours(case: Case, folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Train and judge a PET."""

    def train(some: Case, where: Path, n: int) -> Run:
        return ours(some, where, n, chosen.rate)

    epochs, each = fitting(case, folder, train, chosen.minutes)
    used = ours(case, folder, epochs, chosen.rate)
    potential = tumble.load(folder / f"pet{epochs}" / "best.safetensors")
    said = tumble.predict(potential, case.test)
    energies = np.array([float(a.energy) / len(one) for a, one in zip(said, case.test, strict=True)])
    found = errors(energies, np.concatenate([a.forces.numpy() for a in said]), case.test)
    few = case.test[:4]
    spread = moments_over(potential, collate_for(potential, few), Rotations.parse(RULE))[1].forces
    size = 1000 * float(spread.square().mean().div(3).sqrt())
    return row("PET (tumble)", case, epochs, each, used, found, size, sum(p.numel() for p in potential.parameters()))


def measured_mace(case: Case, folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Train and judge a MACE; of its two final models the one that is better on the set kept apart."""

    def train(some: Case, where: Path, n: int) -> Run:
        return mace(some, where, n, chosen)

    epochs, each = fitting(case, folder, train, chosen.minutes)
    used = mace(case, folder, epochs, chosen)
    files = [path for path in folder.glob(f"mace{epochs}*.model") if "compiled" not in path.name]
    python = chosen.mace
    judged = {path: errors(*mace_answers(path, case.valid, folder, python), case.valid)["F MAE"] for path in files}
    best = min(files, key=judged.__getitem__)
    found = errors(*mace_answers(best, case.test, folder, python), case.test)
    size = turned_spread(best, case.test[:4], folder, python)
    count = "import sys,torch; print(sum(p.numel() for p in torch.load(sys.argv[1], weights_only=False).parameters()))"
    said = subprocess.run([python, "-c", count, str(best)], capture_output=True, text=True, check=True).stdout
    n = int(said.split()[-1])  # packages that are imported may have said something before
    name = f"MACE {chosen.channels}, L={chosen.max_l}"
    return row(name, case, epochs, each, used, found, size, n)


def row(
    name: str, case: Case, epochs: int, each: float, used: Run, found: dict[str, float], size: float, n: int
) -> dict[str, Any]:
    """One line of the table."""
    steps = -(-len(case.train) // case.per_batch)
    return {
        "model": name, "parameters": n, **{key: round(value, 3) for key, value in found.items()},
        "rotational spread": float(f"{size:.2g}"), "epochs": epochs, "ms per step": round(1000 * each / steps, 1),
        "CPU minutes": round(used.cpu_s / 60, 2), "peak MB": round(used.peak_MB),
    }  # fmt: skip


def main() -> None:
    """Train both on every set, print a table, write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the sets")
    parser.add_argument("--mace", help="python of an environment with mace-torch; without it only ours is trained")
    parser.add_argument("--sets", nargs="+", default=["water", "ethanol", "silicon"])
    parser.add_argument("--minutes", type=float, default=10.0, help="processor minutes for each training")
    parser.add_argument("--rate", type=float, default=0.01, help="Muon's rate in our recipe")
    parser.add_argument("--channels", type=int, default=64, help="of MACE")
    parser.add_argument("--max-l", type=int, default=0, help="of MACE")
    parser.add_argument("--skip-ours", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder for the trainings; a temporary one if not given")
    parser.add_argument("--json", type=Path, help="add the table to this file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name in chosen.sets:
            case = cases(chosen.data, [name])[name]
            folder = (chosen.keep or Path(temporary)) / name
            folder.mkdir(parents=True, exist_ok=True)
            written(case, folder)
            rows = [] if chosen.skip_ours else [measured_ours(case, folder, chosen)]
            print(name, json.dumps(rows), flush=True)
            if chosen.mace:
                rows.append(measured_mace(case, folder, chosen))
                print(name, json.dumps(rows[-1]), flush=True)
            if chosen.json:
                known = json.loads(chosen.json.read_text()) if chosen.json.is_file() else {}
                known.setdefault(name, []).extend(rows)
                chosen.json.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
