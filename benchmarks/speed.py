"""Speed side by side in one run, on the same weights: this project, metatrain through metatomic-ase, MACE and Orb.

    python benchmarks/speed.py                                     # everything
    python benchmarks/speed.py --sections steps --models XS --systems water192 --repeats 5
    python benchmarks/speed.py --peer-python peers/bin/python      # where MACE and Orb are installed
    python benchmarks/speed.py --sections training --data water_revPBE0-D3/train.extxyz.xz

metatrain writes random weights, which it exports for metatomic and tumble loads. Every engine runs in a process of its
own; they step in turn (A B C, A B C, ...), and ratios are taken round by round. MACE and Orb need versions of libraries
that others cannot use; they go into an environment of their own:

    python3 -m venv peers && peers/bin/pip install torch==2.13.0 e3nn==0.4.4 mace-torch orb-models

Writes benchmarks/results/<date>-speed.md and .json, after every case.
"""

import argparse
import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from speed import growth, orbits, steps, training
from speed.clock import CLOCKS, VARIABLE
from speed.engines import ENGINES, INSTALL
from speed.plan import Plan, say
from speed.shapes import SHAPES
from speed.steps import EXACT
from speed.systems import structure

SECTIONS: dict[str, Any] = {"steps": steps, "growth": growth, "orbit": orbits, "training": training}
SYSTEMS = ("si8", "si64", "si512", "water192", "water1536")
PACKAGES = ("tumble", "torch", "metatrain", "metatomic-torch", "metatomic-ase", "numpy", "vesin")


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    add("--models", nargs="+", choices=SHAPES, default=list(SHAPES), help="the first one also serves peers and growth")
    add("--systems", nargs="+", default=list(SYSTEMS), help="si or water, and a number of atoms")
    add("--engines", nargs="+", choices=ENGINES, default=[name for name in ENGINES if name != EXACT])
    add("--repeats", type=int, default=15, help="rounds in which every engine has its turn")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--clock", choices=CLOCKS, default="wall", help="cpu: processor time; for one thread on a busy machine")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--peer-python", help="a Python with mace-torch and orb-models; without it they must be in this one")
    add("--largest", type=int, help="atoms of the largest box of the section growth")
    add("--data", help="labelled frames for the section training; without it, frames are made")
    add("--frames", type=int, default=248, help="frames to train on")
    add("--batch-size", type=int, default=4, help="structures per training step")
    add("--epochs", type=int, default=3, help="epochs to train; the first is not counted")
    add("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the result")
    return parser.parse_args()


def header(plan: Plan) -> list[str]:
    """Date, machine and versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return [
        "# Speed, side by side",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {plan.machine}, {plan.device}, float32. {versions}.",
        "",
        f"Medians of interleaved rounds of {os.environ[VARIABLE]} time; a ratio is the median of the rounds' "
        "ratios, its quartiles in brackets; where they are far apart it is unsteady, because "
        "something else used the machine, and says nothing. Written by `benchmarks/speed.py`.",
    ]


def _measured_before(path: Path, plan: Plan) -> dict[str, Any]:
    """What is known already of this day and machine: a section can be measured alone.

    Raises:
        SystemExit: the file holds what was measured otherwise, and would be lost.
    """
    now = {"machine": plan.machine, "threads": plan.threads, "device": plan.device, "clock": os.environ[VARIABLE]}
    before = json.loads(path.read_text()) if path.exists() else now
    if other := {name: before.get(name) for name in now if before.get(name) != now[name]}:
        sys.exit(
            f"{path} was measured with {other}; { ({name: now[name] for name in other}) } is asked for now, and one "
            "file holds one of them. Name another folder with --out."
        )
    return before


def _page(plan: Plan, found: dict[str, Any]) -> list[str]:
    sections = [["", *section.report(found[name])] for name, section in SECTIONS.items() if name in found]
    return [*header(plan), *(line for section in sections for line in section)]


def main() -> None:
    """Measure section by section, and write what is known after each case."""
    chosen = arguments()
    os.environ[VARIABLE] = chosen.clock
    for name in chosen.systems:
        structure(name)  # refuses a wrong name now and not in an hour
    started = f"{datetime.now(UTC):%Y-%m-%d}"
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            models=tuple(chosen.models),
            systems=tuple(chosen.systems),
            engines=tuple(chosen.engines),
            repeats=chosen.repeats,
            threads=chosen.threads,
            device=chosen.device,
            peer_python=chosen.peer_python,
            largest=chosen.largest or (100_000 if chosen.device.startswith("cuda") else 21_000),
            folder=Path(folder),
            data=chosen.data and str(Path(chosen.data).resolve()),
            batch_size=chosen.batch_size,
            epochs=chosen.epochs,
            frames=chosen.frames,
        )
        chosen.out.mkdir(parents=True, exist_ok=True)
        target = chosen.out / f"{started}-speed.md"
        found = _measured_before(target.with_suffix(".json"), plan)
        for name in chosen.sections:
            print(name, flush=True)

            def keep(sofar: Any, name: str = name) -> None:
                found[name] = sofar
                target.write_text("\n".join(_page(plan, found)) + "\n")
                target.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")

            keep(SECTIONS[name].measure(plan, keep))
    print("\n".join(_page(plan, found)))
    for name in {name for case in found.get("steps", []) for name in case["skipped"]} & INSTALL.keys():
        say(f"without {name}; {INSTALL[name]}")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
