"""From one level of theory to another with few frames: what fine-tuning costs, what it gives, and what it forgets.

    python benchmarks/finetune.py --data DATA --folder runs/finetune --frames 20 --runs full heads lora8 scratch
    python benchmarks/finetune.py --folder runs/finetune --table

DATA holds the folders water_revPBE0-D3, which the packaged `water` was trained on, and water_deepmd_PBE0-TS, the new
level. All runs with as many frames take the same number of steps, for which --minutes of one CPU core are enough at the
start. The errors of a run go to results.json in the folder as soon as it ends, and one that is there is not repeated.
--table writes benchmarks/results/DATE-finetune.md.
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

import tumble
from tumble import data
from tumble.jobs.train import TrainSettings, train
from tumble.models.pet import PET
from tumble.potential import Gradient, Potential, collate_for

HERE = Path(__file__).resolve().parent
OLD, NEW = "water_revPBE0-D3", "water_deepmd_PBE0-TS"
N_VALID = 16
ENERGY = {"weight": 0.5, "delta": 0.002}
GENTLE = {"learning_rate": 3e-4, "matrix_learning_rate": 4e-3}

RUNS: dict[str, dict[str, Any]] = {
    "full": GENTLE,
    "full, slower": {"learning_rate": 5e-5, "matrix_learning_rate": 5e-4},
    "heads": {"layers": "heads"},
    "lora4": {"layers": "lora", "rank": 4},
    "lora8": {"layers": "lora", "rank": 8},
    "lora16": {"layers": "lora", "rank": 16},
    "scratch": {"start": None},
    "full, replay": {**GENTLE, "replay": "own"},
    "full, replay of answers": {**GENTLE, "replay": "start"},
    "full, answers on new frames": {**GENTLE, "replay": "start", "of": "new"},
    "lora8, replay of answers": {"layers": "lora", "rank": 8, "replay": "start"},
}
"""What differs from the phase below. replay: labels of a second set with a head of its own; of: the frames in it."""


def prepare(source: Path, folder: Path, n_frames: int) -> None:
    """Frames to train on and to validate on, spread evenly over both sets."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in (("old", OLD), ("new", NEW)):
        for part, n in (("train", n_frames), ("valid", N_VALID)):
            target = folder / (f"{name}{n}.extxyz" if part == "train" else f"{name}_valid.extxyz")
            frames = data.read(str(source / path / f"{part}.extxyz.xz"))
            chosen = np.linspace(0, len(frames) - 1, n).round().astype(int).tolist()
            written = []
            for atoms, label in ((frames.atoms[i], frames.labels[i]) for i in chosen):
                assert label.energy is not None
                assert label.forces is not None
                atoms = atoms.copy()
                atoms.info = {"REF_energy": float(label.energy)}
                atoms.arrays["REF_forces"] = label.forces.numpy()
                written.append(atoms)
            ase.io.write(target, written, format="extxyz")


def recipe(name: str, folder: Path, n_frames: int, n_steps: int) -> TrainSettings:
    """One of the runs; its schedule ends after as many steps as that of any other."""
    change = dict(RUNS[name])
    replay, of, rank = change.pop("replay", None), change.pop("of", "old"), change.pop("rank", 0)
    start = change.pop("start", "water")
    if start is None:
        model = tumble.load("water").model
        assert isinstance(model, PET)
        begin: dict[str, Any] = {"model": model.settings.model_copy(update={"direct_forces": False}).model_dump()}
    else:
        begin, change = {"start": start, "lora": {"rank": rank}}, {"drop_direct": True, "warmup": 0.05, **change}
    new = {"data": (str(folder / f"new{n_frames}.extxyz"),), "valid": (str(folder / "new_valid.extxyz"),)}
    if replay:
        # The frames of the replay that are validated on are those of the old level in any case.
        old = {"data": (str(folder / f"{of}{n_frames}.extxyz"),), "valid": (str(folder / "old_valid.extxyz"),)}
        begin["sets"] = ({"name": "new", **new}, {"name": "old", "head": "old", "labels": replay, **old})
    else:
        begin |= new
    epochs = max(1, round(n_steps / (n_frames * (1 + bool(replay)))))
    return TrainSettings(
        phases=({"epochs": epochs, "energy": ENERGY, **change},),
        **begin,
        atoms_per_batch=192,
        ema=0.99,
        validate_every=epochs,
        probe=0,
        live={"raw": False, "curl": False},
        checkpoint_minutes=60.0,
    )


def errors(potential: Potential, path: Path) -> dict[str, float]:
    """Errors on labelled frames in meV/atom and meV/Å; the energies up to one constant for all frames."""
    dataset = data.read(str(path))
    answers = tumble.predict(potential, list(dataset.atoms))
    apart = [
        float(a.energy - label.energy) / len(atoms)  # type: ignore[operator]
        for a, label, atoms in zip(answers, dataset.labels, dataset.atoms, strict=True)
    ]
    forces = torch.cat([a.forces.double() - label.forces for a, label in zip(answers, dataset.labels, strict=True)])  # type: ignore[union-attr, operator]
    return {"E": 1000 * float(np.abs(apart - np.mean(apart)).mean()), "F": 1000 * float(forces.abs().mean())}


def seconds_per_step(folder: Path, n_frames: int) -> float:
    """CPU time of one step of full fine-tuning."""
    potential = Gradient(tumble.load("water").model.requires_grad_(True)).train()  # type: ignore[union-attr, operator, arg-type]
    frames = data.read(str(folder / f"new{n_frames}.extxyz"))
    batch, times = collate_for(potential, [frames.atoms[0]]), []
    for _ in range(5):
        before = time.process_time()
        answer = potential(batch)
        (answer.energy.sum() + answer.forces.square().sum()).backward()
        times.append(time.process_time() - before)
    return float(np.median(times))


def measure(name: str, folder: Path, n_frames: int, n_steps: int) -> dict[str, Any]:
    """Train, and ask what comes out about both levels."""
    settings, place = (
        recipe(name, folder, n_frames, n_steps),
        folder / f"{name.replace(' ', '_').replace(',', '')}{n_frames}",
    )
    before = time.process_time()
    train(settings, place, overwrite=True)
    minutes = (time.process_time() - before) / 60
    new = tumble.load(place / "best.safetensors")
    has_head = (place / "best-old.safetensors").is_file()
    old = tumble.load(place / "best-old.safetensors") if has_head else new
    steps = [json.loads(line)["step"] for line in (place / "metrics.jsonl").read_text().splitlines()]
    return {
        "run": name, "frames": n_frames, "steps": steps[-1], "minutes": round(minutes, 2),
        "trained": trained(settings), "new": errors(new, folder / "new_valid.extxyz"),
        "old": errors(old, folder / "old_valid.extxyz"),
    }  # fmt: skip


def trained(settings: TrainSettings) -> int:
    """Weights that move, without the direct heads, which are dropped, and without a second set of readouts."""
    from tumble.jobs.train.rates import optimizers_of
    from tumble.jobs.train.start import trainable
    from tumble.models.pet import without_direct

    if settings.start is None:
        model = PET([1, 8], settings.model)
    else:
        model = without_direct(trainable(settings, [1, 8], needs_direct=False))
    groups = [group for one in optimizers_of(model, settings.phases[0]) for group in one.param_groups]
    return sum(weight.numel() for group in groups for weight in group["params"])


def unchanged(folder: Path) -> dict[str, Any]:
    """The packaged potential as it is."""
    water = tumble.load("water")
    found = {one: errors(water, folder / f"{one}_valid.extxyz") for one in ("new", "old")}
    return {"run": "water as it is", "frames": 0, "steps": 0, "minutes": 0.0, "trained": 0, **found}


def table(results: list[dict[str, Any]]) -> str:
    """The results as a page."""
    lines = [
        "# From revPBE0-D3 to PBE0-TS with few frames of water",
        "",
        f"{date.today()}, one thread of an x86-64 CPU, torch {torch.__version__}; `benchmarks/finetune.py`.",
        f"The packaged `water` fine-tuned on frames of 64 H2O, {N_VALID} validation frames of each level. Energies in "
        "meV/atom up to a constant, forces in meV/Å, mean absolute errors. With replay, as many frames of the old "
        "level are shown as of the new one, within the same number of steps, and the old level has a head of its own, "
        "which is asked about it; without, the only potential there is.",
        "",
        "| run | new frames | steps | CPU minutes | weights that move | new F | new E | old F | old E |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        numbers = [f"{one[level][kind]:.3g}" for level in ("new", "old") for kind in ("F", "E")]
        head = [one["run"], one["frames"], one["steps"], f"{one['minutes']:.2g}", f"{one['trained']:,}"]
        lines.append(f"| {' | '.join(map(str, [*head, *numbers]))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is asked for and is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with both sets")
    parser.add_argument("--folder", type=Path, required=True, help="where runs and results go")
    parser.add_argument("--frames", type=int, default=20, help="frames of the new level")
    parser.add_argument("--runs", nargs="*", default=[], help=f"any of {', '.join(RUNS)}; all: every one")
    parser.add_argument("--minutes", type=float, default=1.0, help="CPU minutes of full fine-tuning")
    parser.add_argument("--table", action="store_true", help="write benchmarks/results/DATE-finetune.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = arguments.folder / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else []
    if arguments.runs:
        prepare(arguments.data, arguments.folder, arguments.frames)
        n_steps = round(60 * arguments.minutes / seconds_per_step(arguments.folder, arguments.frames))
        results = results or [unchanged(arguments.folder)]
        for name in list(RUNS) if arguments.runs == ["all"] else arguments.runs:
            if any((one["run"], one["frames"]) == (name, arguments.frames) for one in results):
                continue
            results.append(measure(name, arguments.folder, arguments.frames, n_steps))
            path.write_text(json.dumps(results, indent=1) + "\n")
            print(json.dumps(results[-1]), flush=True)
    if arguments.table:
        (HERE / "results" / f"{date.today()}-finetune.md").write_text(table(results))


if __name__ == "__main__":
    main()
