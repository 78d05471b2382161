"""How well the packaged `water` knows its own errors, near its data and far from them, and what it costs to ask.

    python benchmarks/uncertainty.py --data water_revPBE0-D3 --study study2024 --folder runs/uncertainty

The data are train.extxyz.xz and valid.extxyz.xz of --data; --study holds ice_initial_9.extxyz.xz and
molecule_nvt_1000.extxyz.xz, energies of a PET averaged over 36 (ice) and 150 (molecules) turns, which stand for the
reference there. One thread; costs are CPU time, as multiples of energy, forces and stress. Writes
benchmarks/results/DATE-uncertainty.md, and potentials and result folders to --folder.
"""

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import ase.io
import numpy as np
import torch
from ase import Atoms

import tumble
from tumble import data
from tumble.jobs.train.certainty import fit
from tumble.jobs.train.extras import Uncertainty
from tumble.jobs.train.reliability import CertaintyResult, Reliability, reliability
from tumble.models.pet import LLPR
from tumble.potential import Potential, collate_for

HERE = Path(__file__).resolve().parent
COHESION = -469.01333
"""eV per molecule by which the energies of the archive differ from those of revPBE0-D3."""
MEMBERS = 8
COSTS = (4, 8, 16)


def seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """CPU time of the fastest of some calls, after one to warm up."""
    work()
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def costs(potential: LLPR, atoms: Atoms) -> list[str]:
    """Uncertainties of energies, and of forces by ensembles of several sizes, as multiples of a plain call."""
    batch = collate_for(potential, [atoms])
    plain = seconds(lambda: potential(batch))
    rows = [f"| {len(atoms)} atoms, energies | {seconds(lambda: potential.uncertainties(batch)) / plain:.2f} |"]
    for members in COSTS:
        potential.draw(members)
        ratio = seconds(lambda: potential.uncertainties(batch, forces=True), 3) / plain
        rows.append(f"| {len(atoms)} atoms, energies, forces and stress, {members} members | {ratio:.2f} |")
    return rows


def beyond(potential: Potential, frames: Sequence[Atoms], key: str) -> tuple[float, float, Reliability, float]:
    """Mean uncertainty and error of energies per atom in meV, their reliability, and the mean uncertainty of forces."""
    sigmas, errors, forces = [], [], []
    for atoms in frames:
        batch = collate_for(potential, [atoms])
        doubt = potential.uncertainties(batch, forces=True)
        reference = atoms.info[key] + COHESION * len(atoms) / 3
        sigmas.append(float(doubt.energy) / len(atoms))
        errors.append((float(potential(batch).energy) - reference) / len(atoms))
        forces.append(float(doubt.forces.square().mean().sqrt()))
    error = np.array(errors)
    found = reliability(sigmas, error)
    return 1e3 * float(np.mean(sigmas)), 1e3 * float(np.sqrt((error**2).mean())), found, 1e3 * float(np.mean(forces))


def near(arrays: dict[str, np.ndarray], what: str) -> str:
    """One row of what uncertainties are worth, without its beginning."""
    found = reliability(arrays[f"uncertainty_{what}_sigma"], arrays[f"uncertainty_{what}_error"])
    numbers = (*found.within, found.z, found.likelihood, found.constant, found.miscalibration, found.correlation)
    return " | ".join([str(found.n), *(f"{one:.3f}" for one in numbers)])


def main() -> None:
    """Fit, judge, time, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "study", "folder"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, valid = (data.read([given.data / f"{name}.extxyz.xz"]) for name in ("train", "valid"))
    ice = ase.io.read(given.study / "ice_initial_9.extxyz.xz", ":3")
    molecules = ase.io.read(given.study / "molecule_nvt_1000.extxyz.xz", "::20")
    lines = [
        f"# Uncertainties of `water`, {date.today()}",
        "",
        f"`benchmarks/uncertainty.py`, {platform.machine()}, one thread, torch {torch.__version__}. Fitted to "
        f"{len(train)} frames of the liquid, calibrated by {len(valid)} others, {MEMBERS} members. On ice and "
        "molecules the error is the difference from a published PET, averaged; the fit has seen neither.",
        "",
        "| kind | of | compared | within 1 σ | within 2 σ | rms z | -log likelihood | with one σ | area | rank corr. |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    far = ["", "| kind | on | σ energy, meV/atom | rms error | rms z | σ forces, meV/Å |", "|---|---|---|---|---|---|"]
    took = []
    for kind in ("llpr", "ensemble"):
        settings = Uncertainty(kind=kind, members=MEMBERS, epochs=given.epochs)
        start = time.process_time()
        potential, arrays = fit(tumble.load("water").model, train, valid, settings)
        took.append(f"{kind} {time.process_time() - start:.0f} s")
        tumble.save(potential, given.folder / f"{kind}.safetensors")
        result = CertaintyResult(settings, f"water, {kind}", arrays)
        tumble.report(result, to=result.save(given.folder / kind, overwrite=True) / "card.html")
        lines += [f"| {kind} | {what} | {near(arrays, what)} |" for what in ("energy", "forces")]
        sigma, error = (1e3 * arrays[f"uncertainty_energy_{what}"] for what in ("sigma", "error"))
        forces = 1e3 * np.sqrt((arrays["uncertainty_forces_sigma"] ** 2).mean())
        far.append(f"| {kind} | liquid | {sigma.mean():.2f} | {np.sqrt((error**2).mean()):.2f} | – | {forces:.1f} |")
        for name, frames, key in (("ice Ih", ice, "E_pet_2i"), ("molecules", molecules, "E_pet_3i")):
            own, off, found, of_forces = beyond(potential, frames, key)
            far.append(f"| {kind} | {name} | {own:.2f} | {off:.2f} | {found.z:.2f} | {of_forces:.1f} |")
        print(*lines, *far, sep="\n", flush=True)
    potential = tumble.load(given.folder / "llpr.safetensors")
    cost = ["", f"Fitting took {', '.join(took)} of CPU time.", "", "| asked | plain calls |", "|---|---|"]
    cost += [row for atoms in (valid.atoms[0], molecules[0]) for row in costs(potential, atoms)]
    path = HERE / "results" / f"{date.today()}-uncertainty.md"
    path.write_text("\n".join([*lines, *far, *cost, ""]))
    print(path.read_text())


if __name__ == "__main__":
    main()
