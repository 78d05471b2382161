"""Input of LAMMPS, in its metal units: eV, Å, ps, bar."""

from collections.abc import Sequence
from io import StringIO
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.lammps import Prism
from ase.io.lammpsdata import write_lammps_data
from numpy.typing import NDArray

Floats = NDArray[np.float64]

INPUT, DATA, DUMP = "in.lammps", "structure.data", "trajectory.dump"

ROOM: Final = 100.0
"""Å of nothing around what does not repeat; LAMMPS has a box for everything."""

BAR_PER_GPa: Final = 1e4
PS_PER_FS: Final = 1e-3
DEEPEST: Final = 9
"""Styles metatomic_1 to metatomic_9 are all there are."""


def write_input(
    folder: Path,
    atoms: Atoms,
    settings: Any,
    models: Sequence[str],
    steps: Sequence[int],
    n_steps: int,
    *,
    are_differences: bool = True,
) -> Floats:
    """Write in.lammps and structure.data, which a LAMMPS with metatomic runs: `lmp -in in.lammps`.

    LAMMPS wants the first lattice vector along x and the second in the xy plane, and asks the model in that frame: the
    energies of one that is not symmetric differ from those in the frame of the user. Where that matters, run an
    averaged one, or `tumble md --engine lammps`, which turns back.

    Args:
        folder: where to; made if it is not there.
        atoms: with momenta; without, velocities are drawn by LAMMPS.
        settings: ensemble, temperature_K, thermostat, thermostat_fs, pressure_GPa, barostat, barostat_fs, timestep_fs,
            seed, log_fs, frame_fs, as in `MDSettings`.
        models: of each level of forces, from fast to slow: what stands behind `pair_style metatomic`, a file that
            `export` wrote, and keywords of the style, as in "direct.pt non_conservative on".
        steps: of each level to one of the next, from fast to slow; none for one level.
        n_steps: of the slowest level.
        are_differences: whether each file but the first is the difference to the one before, as `export` with `minus`
            writes it; otherwise LAMMPS takes the difference itself.

    Returns:
        The turn Q (3, 3): positions written are x Q.

    Raises:
        ValueError: constant pressure without three directions that repeat, as many steps as levels, or atoms of one
            element with several masses.
    """
    if len(steps) != len(models) - 1:
        raise ValueError(
            f"{len(models)} levels of forces were given, with {len(steps)} numbers of steps; one number fewer than "
            "levels was expected. Give the steps of each level to one of the next."
        )
    folder.mkdir(parents=True, exist_ok=True)
    text, turn = write_data(atoms)
    (folder / DATA).write_text(text, encoding="utf-8")
    stride = prod(steps)
    outer_fs = settings.timestep_fs * stride
    every, per_frame = (max(1, round(one / outer_fs)) for one in (settings.log_fs, settings.frame_fs))
    drawn = f"velocity all create {settings.temperature_K:g} {settings.seed + 1} mom yes rot no dist gaussian"
    rows = [
        *opening(atoms, DATA),
        *([] if atoms.has("momenta") else [drawn]),
        *pairs(atoms, models, are_differences),
        "neighbor 2.0 bin",
        f"timestep {outer_fs * PS_PER_FS:.12g}",
        *_respa(models, steps, are_differences),
        *ensemble(atoms, settings),
        "thermo_style custom step time pe ke ecouple econserve temp press vol",
        "thermo_modify norm no format float %.12g",
        f"thermo {every}",
        f"dump frames all custom {per_frame} {DUMP} id type element xu yu zu vx vy vz",
        f"dump_modify frames sort id element {' '.join(species(atoms))} format float %.12g",
        f"run {n_steps}",
    ]
    (folder / INPUT).write_text("\n".join([*rows, ""]), encoding="utf-8")
    return turn


def write_data(atoms: Atoms) -> tuple[str, Floats]:
    """Text of a data file, with velocities where there are momenta, and the turn Q (3, 3) of x Q.

    Raises:
        ValueError: atoms of one element have several masses.
    """
    for symbol in species(atoms):
        masses = np.unique(atoms.get_masses()[atoms.symbols == symbol])
        if len(masses) > 1:
            raise ValueError(
                f"atoms of {symbol} have the masses {', '.join(f'{one:g}' for one in masses)}, and LAMMPS knows one "
                "for each element here. Use the engine ase or i-pi."
            )
    prism, text = Prism(_box(atoms)), StringIO()
    write_lammps_data(
        text,
        Atoms(atoms.numbers, atoms.positions, masses=atoms.get_masses(), momenta=atoms.get_momenta()),
        specorder=species(atoms),
        prismobj=prism,
        masses=True,
        velocities=atoms.has("momenta"),
        force_skew=True,
    )
    return text.getvalue(), np.asarray(prism.rot_mat)


def turn_of(atoms: Atoms) -> Floats:
    """The turn Q (3, 3) of `write_data`."""
    return np.asarray(Prism(_box(atoms)).rot_mat)


def species(atoms: Atoms) -> list[str]:
    """Elements, in the order of LAMMPS' types."""
    return list(dict.fromkeys(atoms.get_chemical_symbols()))


def opening(atoms: Atoms, data: str) -> list[str]:
    """Units, box and atoms."""
    return [
        "units metal",
        "atom_style atomic",
        "atom_modify map array sort 0 0.0",
        "boundary p p p",
        "newton on",
        "box tilt large",
        f"read_data {data}",
    ]


def pairs(atoms: Atoms, models: Sequence[str], are_differences: bool) -> list[str]:
    """Pair styles: one potential, or several that are added."""
    numbers = " ".join(str(atoms.numbers[atoms.symbols == one][0]) for one in species(atoms))
    terms = [term for level in _terms(models, are_differences) for term in level]
    if len(terms) == 1:
        return [f"pair_style metatomic {terms[0]}", f"pair_coeff * * {numbers}"]
    assert len(terms) <= DEEPEST, "there are no more styles"
    styles = " ".join(f"metatomic_{k} {term}" for k, term in enumerate(terms, 1))
    coefficients = [f"pair_coeff * * metatomic_{k} {numbers}" for k in range(1, len(terms) + 1)]
    return [f"pair_style hybrid/overlay {styles}", *coefficients]


def ensemble(atoms: Atoms, settings: Any) -> list[str]:
    """Fixes that move the atoms; `move` is the one that does, `bath` the thermostat where it is another.

    Raises:
        ValueError: constant pressure without three directions that repeat.
    """
    if settings.ensemble == "npt" and not atoms.pbc.all():
        raise ValueError(
            f"constant pressure was asked for, and {atoms.get_chemical_formula()} does not repeat in three directions. "
            "Use nvt, or a structure with a cell."
        )
    hot, tau, seed = f"{settings.temperature_K:g} {settings.temperature_K:g}", settings.thermostat_fs, settings.seed + 1
    bar, slow = settings.pressure_GPa * BAR_PER_GPa, settings.barostat_fs * PS_PER_FS
    shape = {"isotropic": "iso", "anisotropic": "tri"}[settings.barostat]
    press = f"{shape} {bar:.12g} {bar:.12g} {slow:.12g} flip no fixedpoint 0 0 0"
    chain = f"temp {hot} {tau * PS_PER_FS:.12g}"
    is_chained = settings.thermostat == "nhc"
    baths = {
        "svr": f"fix bath all temp/csvr {hot} {tau * PS_PER_FS:.12g} {seed}",
        "langevin": f"fix bath all langevin {hot} {tau * PS_PER_FS:.12g} {seed} tally yes",
    }
    moves = {
        "nve": "fix move all nve",
        "nvt": f"fix move all nvt {chain}" if is_chained else "fix move all nve",
        "npt": f"fix move all npt {chain} {press}" if is_chained else f"fix move all nph {press}",
    }
    rows = [moves[settings.ensemble]]
    if settings.ensemble != "nve" and not is_chained:
        rows.append(baths[settings.thermostat])
    # Langevin's noise moves the centre of mass, and a single atom is its own.
    if len(atoms) == 1 or (settings.ensemble != "nve" and settings.thermostat == "langevin"):
        rows.append("compute_modify thermo_temp extra/dof 0")
    return rows


def fast_steps(steps: Sequence[int]) -> list[int]:
    """Innermost steps to one of each level, from fast to slow."""
    return [prod(steps[:k]) for k in range(len(steps) + 1)]


def _terms(models: Sequence[str], are_differences: bool) -> list[list[str]]:
    """Of each level, the potentials that are added to what pushes at it."""
    if are_differences:
        return [[one] for one in models]
    return [[one, *([f"{models[k - 1]} scale -1"] if k else [])] for k, one in enumerate(models)]


def _respa(models: Sequence[str], steps: Sequence[int], are_differences: bool) -> list[str]:
    if not steps:
        return []
    places = [k for k, level in enumerate(_terms(models, are_differences), 1) for _ in level]
    loops = " ".join(map(str, steps))
    return [f"run_style respa {len(models)} {loops} hybrid {' '.join(map(str, places))}"]


def _box(atoms: Atoms) -> Floats:
    """The cell (3, 3) Å, with room around the atoms where it does not repeat."""
    cell, extent = atoms.cell.complete().array, float(np.ptp(atoms.positions, axis=0).max(initial=0.0))
    if atoms.pbc.all():
        return np.asarray(cell)
    lengths = np.linalg.norm(cell, axis=1)
    return np.where(atoms.pbc[:, None], cell, cell * ((extent + ROOM) / lengths)[:, None])
