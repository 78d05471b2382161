"""What each repair keeps of a crystal's symmetry in a relaxation, and what it costs: rattled crystals of ten types.

    python benchmarks/ablation.py prepare ../data/mattersim_bench --to runs
    tumble train examples/recipes/universal.yaml -o runs/universal      # reads the two files that prepare has written
    python benchmarks/ablation.py relax runs/universal/best.safetensors --control ase:ase.calculators.emt:EMT
    python benchmarks/ablation.py conductivity silicon

`relax`: every crystal is brought to rest within its space group, rattled, and relaxed again without constraint by the
potential as it is (raw), averaged with its inversion (i), kept in its group (keep), averaged over O in the frame of the
laboratory (O aligned) or in a generic one (O offset), over I in the frame of the crystal (I pruned, which saves calls
where there is symmetry to save them with), and the last two together, in float32 and float64. What space group has it
then, at 1e-5 and at 1e-2 Å? The control is exactly invariant, as ASE runs it.

`conductivity`: κ(300 K) with the force constants of each repair, and the calls that it took.

Results are appended to a JSON file after each run, and a run that is already there is not repeated.
"""

import argparse
import json
import lzma
import time
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from ase.spacegroup import crystal

import tumble
from tumble.crystal import group_of, groups_at, space_group
from tumble.descent import Descent, descend
from tumble.potential import Potential

RESULTS = Path(__file__).resolve().parent / "results"
TIGHT, LOOSE = 1e-5, 1e-2
"""Å, the two tolerances at which the space group is looked at, as study B does."""
RATTLE, STRAIN = 0.03, 0.005
"""Å, standard deviation of a displaced coordinate; of a component of the strain."""
LEAST = 30
"""Crystals; of a potential that knows fewer, several rattled copies of each are relaxed."""
WALK = Descent(fmax=1e-6, smax_GPa=1e-4, steps=200, cell="all", frames=2)
REPAIRS = ("raw", "i", "keep", "O aligned", "O offset", "I pruned", "keep, I pruned")
RULES = {"i": "i", "O aligned": "O", "O offset": "O@generic", "I pruned": "I@crystal", "keep, I pruned": "I@crystal"}

CUBIC = {
    "fcc": {"Cu": 3.63, "Al": 4.04, "Ni": 3.52, "Ag": 4.15, "Ca": 5.53},
    "bcc": {"Mo": 3.16, "W": 3.19, "Nb": 3.31, "Na": 4.19},
    "diamond": {"Si": 5.47, "Ge": 5.76},
    "zincblende": {"GaAs": 5.75, "ZnS": 5.44, "SiC": 4.38, "InP": 5.97},
    "rocksalt": {"NaCl": 5.69, "MgO": 4.26, "LiF": 4.07, "CaO": 4.84, "TiN": 4.25, "PbS": 6.0},
    "cesiumchloride": {"CsCl": 4.2, "NiAl": 2.89, "TiFe": 2.95},
}
HEXAGONAL = {
    "hcp": {"Mg": (3.19, 5.19), "Ti": (2.94, 4.65), "Zr": (3.24, 5.17)},
    "wurtzite": {"ZnO": (3.29, 5.31), "GaN": (3.22, 5.24), "AlN": (3.13, 5.02)},
}
FLUORITE = {"CaF2": 5.51, "SrF2": 5.86, "BaF2": 6.26}
PEROVSKITE = {"SrTiO3": 3.94, "KMgF3": 4.03, "BaZrO3": 4.24}
ALLOYS = {"Cu3Au": 3.79, "Ni3Al": 3.57, "Pt3Al": 3.9, "Pd3Cu": 3.83}
"""Formula → lattice constants, Å, near those of PBE."""
LATTICE = 5.433507863100194
"""Å, where the pressure of `silicon` vanishes (benchmarks/silicon.py)."""
BARS = (
    ("float64", "kept at 1e-5", "#2b5c8f"),
    ("float64", "kept at 1e-2", "#8fb0d0"),
    ("float32", "kept at 1e-5", "#d67f2a"),
    ("float32", "kept at 1e-2", "#efc08f"),
)
METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")
"""What EMT knows."""


def prototypes() -> Iterator[tuple[str, Atoms]]:
    """Structure type and crystal, in its conventional orientation; one without inner freedom in a larger cell."""
    for kind, members in CUBIC.items():
        for formula, a in members.items():
            yield kind, bulk(formula, kind, a=a, cubic=kind in ("fcc", "bcc"))
    for kind, cells in HEXAGONAL.items():
        for formula, (a, c) in cells.items():
            yield kind, bulk(formula, kind, a=a, c=c)
    for formula, a in FLUORITE.items():
        yield "fluorite", bulk(formula, "fluorite", a=a)
    for formula, a in PEROVSKITE.items():
        names, places = list(Atoms(formula).symbols)[:3], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
        yield "perovskite", crystal(names, places, spacegroup=221, cellpar=[a, a, a, 90, 90, 90])
    for formula, a in ALLOYS.items():
        yield "L1_2", _l12(formula, a)


def metals() -> Iterator[tuple[str, Atoms]]:
    """Crystals for the control: elements in two packings, and alloys of them in three more."""
    for name in METALS:
        a = bulk(name).cell.lengths()[0] * 2**0.5
        yield "fcc", bulk(name, "fcc", a=a, cubic=True)
        yield "hcp", bulk(name, "hcp", a=a / 2**0.5, c=a / 2**0.5 * (8 / 3) ** 0.5)
    for formula, a in ALLOYS.items():
        yield "L1_2", _l12(formula, a)
    for first, second in pairwise(METALS):
        mean = (bulk(first).get_volume() + bulk(second).get_volume()) / 2
        yield "B2", bulk(first + second, "cesiumchloride", a=(2 * mean) ** (1 / 3))
        layered = bulk(first, "fcc", a=(4 * mean) ** (1 / 3), cubic=True)
        layered.symbols[[1, 2]] = second
        yield "L1_0", layered


def _l12(formula: str, a: float) -> Atoms:
    face, *_, corner = Atoms(formula).symbols
    return crystal([corner, face], [(0, 0, 0), (0, 0.5, 0.5)], spacegroup=221, cellpar=[a, a, a, 90, 90, 90])


def rattled(atoms: Atoms, seed: int) -> Atoms:
    """Displaced atoms in a strained cell."""
    random = np.random.default_rng(seed)
    strain = random.normal(scale=STRAIN, size=(3, 3))
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    moved.positions += random.normal(scale=RATTLE, size=atoms.positions.shape)
    return moved


def _scaled(atoms: Atoms, like: Atoms) -> Atoms:
    """The crystal with the volume of another."""
    scaled = atoms.copy()
    scaled.set_cell(atoms.cell.array * (like.get_volume() / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    return scaled


def repaired(potential: Potential, repair: str) -> Potential:
    """The potential that a repair makes."""
    return tumble.symmetrize(potential, RULES[repair]) if repair in RULES else potential


def at_rest(potential: Potential, crystals: Sequence[tuple[str, Atoms]]) -> list[tuple[str, Atoms]]:
    """Those known crystals that rest in their own space group, which all runs then start from; few ones often."""
    if potential.species is not None:
        crystals = [(kind, atoms) for kind, atoms in crystals if {*atoms.numbers} <= {*potential.species}]
    crystals = crystals * max(1, LEAST // len(crystals))
    groups = [space_group(atoms, LOOSE) for _, atoms in crystals]
    walks = descend(potential, [atoms for _, atoms in crystals], WALK, groups=groups)
    return [(kind, walk.atoms) for (kind, _), walk in zip(crystals, walks, strict=True) if walk.is_converged]


def run(
    potential: Potential, crystals: Sequence[tuple[str, Atoms]], repair: str, limits: Descent = WALK
) -> dict[str, Any]:
    """Relax rattled copies of crystals, and look at what is left of their symmetry."""
    starts = [rattled(atoms, seed) for seed, (_, atoms) in enumerate(crystals)]
    groups = None
    if repair.startswith("keep"):  # what rattling leaves of a crystal that may not be rattled: another volume
        groups = [space_group(atoms, LOOSE) for _, atoms in crystals]
        starts = [_scaled(atoms, start) for (_, atoms), start in zip(crystals, starts, strict=True)]
    asked = repaired(potential, repair)
    begin, cpu = time.perf_counter(), time.process_time()
    walks = descend(asked, starts, limits, groups=groups)
    rows = []
    for (kind, atoms), walk in zip(crystals, walks, strict=True):
        wanted = group_of(atoms, TIGHT).number
        found = [None if one is None else one.number for one in groups_at(walk.atoms, (TIGHT, LOOSE))]
        rows.append(
            {
                "type": kind,
                "formula": atoms.get_chemical_formula(),
                "group": wanted,
                "kept_tight": found[0] == wanted,
                "kept_loose": found[1] == wanted,
                "converged": walk.is_converged,
                "steps": walk.n_calls - 1,
                "force": float(walk.forces[-1]),
                "energy_meV_per_atom": 1000 * float(walk.energies[-1]) / len(atoms),
                "volume_per_atom": walk.atoms.get_volume() / len(atoms),
            }
        )
    return {"rows": rows, "seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}


def relax(chosen: argparse.Namespace) -> None:
    """Every repair in both precisions; the control in the one it has."""
    path = chosen.to / f"{date.today()}-ablation-{chosen.name}.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    limits = WALK.model_copy(update={name: getattr(chosen, name) for name in ("fmax", "smax_GPa", "steps")})
    exact = tumble.load(chosen.potential, dtype="float64")
    crystals = at_rest(exact, [*prototypes()])
    print(
        f"{len(crystals)} of {len([*prototypes()])} crystals of {len({kind for kind, _ in crystals})} types rest",
        flush=True,
    )
    for dtype in ("float64", "float32"):
        potential = tumble.load(chosen.potential, dtype=dtype)
        for repair in chosen.repairs:
            _once(found, path, f"{dtype}/{repair}", potential, crystals, repair, limits)
    if chosen.control:
        control = tumble.load(chosen.control)
        resting = at_rest(control, [*metals()])
        _once(found, path, "control/raw", control, resting, "raw", limits)
        _once(found, path, "control/keep", control, resting, "keep", limits)
    print(table(found))


def conductivity(chosen: argparse.Namespace) -> None:
    """The thermal conductivity of a crystal at rest with every repair, in both precisions, against a reference."""
    path = chosen.to / f"{date.today()}-ablation-conductivity.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    crystal: Any = read(chosen.structure) if chosen.structure else bulk("Si", a=LATTICE, cubic=True)
    for dtype in ("float64", "float32"):
        potential = tumble.load(chosen.potential, dtype=dtype)
        for rule in (None, *sorted({*RULES.values()} - {"i"})):
            key = f"{dtype}/{rule or 'none'}"
            if key in found:
                continue
            repairs = ("raw", "plusminus", "projected") if rule is None else ("averaged",)
            made = tumble.conductivity(
                potential,
                crystal,
                tumble.ConductivitySettings(
                    repairs=repairs,
                    average=rule or "O",
                    dtype="as is",
                    turns=0,
                    half_mesh=False,
                    back="auto",
                    temperatures_K=(300.0,),
                    mesh=(11, 11, 11),
                    supercell=(2, 2, 2),
                ),
            )
            found[key] = [
                {
                    "repair": route.name,
                    "kappa_W_per_mK": float(np.trace(route.transport.kappa[0]) / 3),
                    "calls": route.n_calls,
                    "seconds_of_forces": route.seconds_forces,
                }
                for route in made.found.routes
            ]
            _write(path, found)
            print(key, found[key], flush=True)


def _write(path: Path, found: dict[str, Any]) -> None:
    """One run a line."""
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _once(
    found: dict[str, Any],
    path: Path,
    key: str,
    potential: Potential,
    crystals: Sequence[tuple[str, Atoms]],
    repair: str,
    limits: Descent,
) -> None:
    if key not in found:
        found[key] = run(potential, crystals, repair, limits)
        _write(path, found)
        print(key, summary(found, key), flush=True)


def summary(found: dict[str, Any], key: str) -> dict[str, float]:
    """Shares in percent, medians, and the cost of a step against that of raw in the same precision."""
    rows = found[key]["rows"]
    steps = sum(row["steps"] + 1 for row in rows)
    raw = found.get(key.split("/")[0] + "/raw", found[key])
    of_raw = raw["cpu_seconds"] / sum(row["steps"] + 1 for row in raw["rows"])
    return {
        "crystals": len(rows),
        "kept at 1e-5": 100 * float(np.mean([row["kept_tight"] for row in rows])),
        "kept at 1e-2": 100 * float(np.mean([row["kept_loose"] for row in rows])),
        "converged": 100 * float(np.mean([row["converged"] for row in rows])),
        "median steps": float(np.median([row["steps"] for row in rows])),
        "cost of a step": found[key]["cpu_seconds"] / steps / of_raw,
        "cpu minutes": found[key]["cpu_seconds"] / 60,
    }


def table(found: dict[str, Any]) -> str:
    """The summaries as Markdown."""
    keys = [key for key in found if key != "conductivity"]
    names = [*summary(found, keys[0])]
    lines = ["| run | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for key in keys:
        lines.append(f"| {key} | " + " | ".join(f"{value:.3g}" for value in summary(found, key).values()) + " |")
    return "\n".join(lines)


def picture(chosen: argparse.Namespace) -> None:
    """Bars of what is kept, a panel for each file of results."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(chosen.results), 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(chosen.results), sharey=True))
    for axes, path in zip(panels, chosen.results, strict=True):
        found = json.loads(path.read_text())
        names = list(dict.fromkeys(key.split("/")[1] for key in found if not key.startswith("control")))
        for place, (dtype, column, colour) in enumerate(BARS):
            known = [f"{dtype}/{name}" in found for name in names]
            height = [
                summary(found, f"{dtype}/{name}")[column] if is_known else np.nan
                for name, is_known in zip(names, known, strict=True)
            ]
            at = np.arange(len(names)) + 0.2 * (place - 1.5)
            axes.bar(at, height, 0.19, color=colour, label=f"{dtype}, {column.removeprefix('kept ')} Å")
        if "control/raw" in found:
            for tolerance, dash in (("1e-5", "--"), ("1e-2", ":")):
                height = summary(found, "control/raw")[f"kept at {tolerance}"]
                axes.axhline(height, color="black", linestyle=dash, linewidth=0.9, label=f"EMT, raw, at {tolerance} Å")
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set_title(path.stem.split("ablation-")[1], fontsize=10)
    panels[0].set_ylabel("space group kept, % of crystals")
    entries = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(chosen.to)
    print(f"wrote {chosen.to}")


def prepare(chosen: argparse.Namespace) -> None:
    """Write the training files of examples/recipes/universal.yaml: small structures that are not violent."""
    for name in ("mptrj-random-1k", "mpf-TP"):
        with lzma.open(chosen.data / f"{name}.extxyz.xz", "rt") as file:
            frames: Any = read(file, ":", format="extxyz")
        calm = [one for one in frames if len(one) <= 64 and np.abs(one.get_forces()).max() < 15]
        calm = [one for one in calm if np.abs(one.get_stress()).max() < 1]
        write(chosen.to / f"{name}.extxyz", calm)
        print(f"{name}: {len(calm)} of {len(frames)} structures, {sum(map(len, calm))} atoms")


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    first = verbs.add_parser("prepare", help="write the training files of the universal potential")
    first.add_argument("data", type=Path)
    first.set_defaults(run=prepare, to=Path("."))
    second = verbs.add_parser("relax", help="symmetry kept in relaxations")
    second.add_argument("potential")
    second.add_argument("--name", default="relax", help="what the file of results is called by")
    second.add_argument("--control", help="an exactly invariant potential, such as ase:ase.calculators.emt:EMT")
    second.add_argument("--repairs", nargs="+", default=REPAIRS, choices=REPAIRS)
    second.add_argument("--fmax", type=float, default=WALK.fmax, help="eV/Å, of the rattled crystals")
    second.add_argument("--smax-GPa", type=float, default=WALK.smax_GPa, help="GPa, the same for the stress")
    second.add_argument("--steps", type=int, default=WALK.steps)
    second.set_defaults(run=relax, to=RESULTS)
    third = verbs.add_parser("conductivity", help="thermal conductivity with every repair")
    third.add_argument("potential")
    third.add_argument("--structure", help="a crystal at rest; diamond if not given")
    third.set_defaults(run=conductivity, to=RESULTS)
    fourth = verbs.add_parser("picture", help="draw files of results")
    fourth.add_argument("results", type=Path, nargs="+")
    fourth.set_defaults(run=picture, to=Path("repairs.svg"))
    for one in (first, second, third, fourth):
        one.add_argument("--to", type=Path, help="folder, or file of the picture")
    chosen = parser.parse_args(words)
    torch.set_num_threads(1)
    chosen.run(chosen)


if __name__ == "__main__":
    main()
