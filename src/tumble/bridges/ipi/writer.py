"""Input of i-PI: what it simulates, with one socket for each level of forces."""

import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from ase import Atoms
from ase.calculators.lammps import Prism
from ase.units import fs
from numpy.typing import NDArray

Floats = NDArray[np.float64]

INPUT, START, VELOCITIES = "input.xml", "init.xyz", "velocities.xyz"
"""What i-PI reads."""

SERIES, POSITIONS, MOVING = "series", "positions.extxyz", "moving.extxyz"
"""What it writes."""

ENDED, ON_THE_WAY, RESUMED = "RESTART", "checkpoint", "resumed.xml"
"""Where it left off: when it ended in good order, and now and then; and the input that goes on from there."""

_DONE = re.compile(r"<step[^>]*>\s*(\d+)\s*</step>")

ROOM = 100.0
"""Å of nothing around what does not repeat; i-PI has a cell for everything."""


def write_input(
    folder: Path, atoms: Atoms, settings: Any, addresses: Sequence[str], steps: Sequence[int], n_steps: int
) -> Floats:
    """Write input.xml, init.xyz and velocities.xyz, which `i-pi input.xml` runs.

    i-PI wants the first lattice vector along x and the second in the xy plane. The structure is written turned to that;
    what answers it turns back, since a potential that is not symmetric gives other energies in another frame.

    Args:
        folder: where to; made if it is not there.
        atoms: with momenta; without, or with several beads, velocities are drawn by i-PI.
        settings: ensemble, temperature_K, thermostat, thermostat_fs, pressure_GPa, barostat, barostat_fs, timestep_fs,
            seed, beads, log_fs, frame_fs, as in `MDSettings`.
        addresses: of UNIX sockets, one for each level of forces, from fast to slow.
        steps: of each level to one of the next, from fast to slow; none for one level.
        n_steps: of the slowest level.

    Returns:
        The turn Q (3, 3): positions written are x Q.

    Raises:
        ValueError: a thermostat that i-PI does not have, constant pressure without three directions that repeat, or as
            many steps as levels.
    """
    if len(steps) != len(addresses) - 1:
        raise ValueError(
            f"{len(addresses)} levels of forces were given, with {len(steps)} numbers of steps; one number fewer than "
            "levels was expected. Give the steps of each level to one of the next."
        )
    if settings.ensemble == "npt" and not atoms.pbc.all():
        raise ValueError(
            f"constant pressure was asked for, and {atoms.get_chemical_formula()} does not repeat in three directions. "
            "Use nvt, or a structure with a cell."
        )
    if settings.ensemble != "nve" and settings.thermostat == "nhc":
        raise ValueError(
            "i-PI has no Nosé–Hoover chains (thermostat nhc). Use svr or langevin, or the engine ase or lammps."
        )
    folder.mkdir(parents=True, exist_ok=True)
    turn, cell = triangular(atoms)
    _write_xyz(folder / START, atoms, "positions{ase}", atoms.positions @ turn, cell)
    has_velocities = settings.beads == 1 and atoms.has("momenta")
    if has_velocities:
        _write_xyz(folder / VELOCITIES, atoms, "velocities{ase}", atoms.get_velocities() @ turn, cell)
    parts = [
        _outputs(atoms, settings, prod(steps)),
        f"<total_steps>{n_steps}</total_steps>",
        f"<prng><seed>{settings.seed}</seed></prng>",
        *(_socket(address) for address in addresses),
        "<system>",
        _initial(atoms, settings, has_velocities),
        _forces(addresses),
        _ensemble(settings),
        _motion(atoms, settings, steps),
        "</system>",
    ]
    text = "\n".join(["<simulation verbosity='low' safe_stride='1'>", *parts, "</simulation>", ""])
    (folder / INPUT).write_text(text, encoding="utf-8")
    return turn


def go_on(folder: Path, n_steps: int) -> int:
    """Write resumed.xml, which goes on from where i-PI left off until so many steps; how many steps are done.

    Raises:
        ValueError: i-PI has left nothing complete to go on from.
    """
    there = [path for name in (ENDED, ON_THE_WAY, RESUMED) if (path := folder / name).is_file()]
    whole = [text for text in (path.read_text(encoding="utf-8") for path in there) if "</simulation>" in text]
    found = [(int(done[1]) if (done := _DONE.search(text)) else 0, text) for text in whole]
    if not found:
        raise ValueError(
            f"i-PI left nothing complete in {folder} to go on from. Run it from the start, without --resume, in "
            "another folder."
        )
    n_done, text = max(found, key=lambda one: one[0])
    (folder / RESUMED).write_text(re.sub(r"(<total_steps[^>]*>)[^<]*", rf"\g<1>{n_steps}", text), encoding="utf-8")
    (folder / ENDED).unlink(missing_ok=True)  # i-PI would keep a numbered copy of it
    return n_done


def triangular(atoms: Atoms) -> tuple[Floats, Floats]:
    """A turn Q (3, 3), and the cell (3, 3) Å in the turned frame: a Q along x, b Q in the xy plane.

    What does not repeat gets a lattice vector with room around the atoms.
    """
    cell, extent = atoms.cell.complete().array, float(np.ptp(atoms.positions, axis=0).max(initial=0.0))
    if not atoms.pbc.all():
        rooms = np.linalg.norm(cell, axis=1)
        cell = np.where(atoms.pbc[:, None], cell, cell * ((extent + ROOM) / rooms)[:, None])
    prism = Prism(cell)
    return np.asarray(prism.rot_mat), np.asarray(prism.lammps_tilt)


def _write_xyz(path: Path, atoms: Atoms, kind: str, vectors: Floats, cell: Floats) -> None:
    """One frame in i-PI's own dialect; a cell in its columns."""
    shown = " ".join(f"{x:.14g}" for x in cell.T.flatten())
    rows = (f"{s} {x:.16e} {y:.16e} {z:.16e}" for s, (x, y, z) in zip(atoms.symbols, vectors, strict=True))
    path.write_text("\n".join([str(len(atoms)), f"# CELL(H): {shown} {kind} cell{{ase}}", *rows, ""]), encoding="utf-8")


def _outputs(atoms: Atoms, settings: Any, stride: int) -> str:
    """What is written: a line of numbers, frames, and a restart; all in units of ASE, temperatures in K."""
    outer_fs = settings.timestep_fs * stride
    every, per_frame = (max(1, round(one / outer_fs)) for one in (settings.log_fs, settings.frame_fs))
    symbols = sorted(set(atoms.symbols), key=list(atoms.symbols).index)
    kinetic = "kinetic_cv{ase}" if settings.beads > 1 else "kinetic_md{ase}"
    pressure = "pressure_cv{ase}" if settings.beads > 1 else "pressure_md{ase}"
    named = ["step", "conserved{ase}", "potential{ase}", kinetic, "temperature{kelvin}", "volume{ase}"]
    named += [pressure.replace("{ase}", ""), "vcom{ase}", *(f"kinetic_md{{ase}}({one})" for one in symbols)]
    named += [f"temperature{{kelvin}}({one})" for one in symbols]
    frame = f"stride='{per_frame}' flush='1' cell_units='ase'"
    return "\n".join(
        [
            "<output prefix=''>",
            f"<properties stride='{every}' flush='1' filename='{SERIES}'> [ {', '.join(named)} ] </properties>",
            f"<trajectory {frame} filename='{Path(POSITIONS).stem}' format='ase'> x_centroid{{ase}} </trajectory>",
            f"<trajectory {frame} filename='{Path(MOVING).stem}' format='ase'> v_centroid{{ase}} </trajectory>",
            f"<checkpoint stride='{max(per_frame, 100)}' filename='{ON_THE_WAY}' overwrite='True'/>",
            "</output>",
        ]
    )


def _socket(address: str) -> str:
    # Atoms are never folded into the cell, and i-PI ends in good order when nobody answers any more.
    return (
        f"<ffsocket name={quoteattr(address)} mode='unix' pbc='False'><address>{address}</address>"
        "<latency>1e-4</latency><exit_on_disconnect>True</exit_on_disconnect></ffsocket>"
    )


def _initial(atoms: Atoms, settings: Any, has_velocities: bool) -> str:
    masses = ", ".join(f"{mass:.16g}" for mass in atoms.get_masses())
    velocities = (
        f"<velocities mode='xyz'> {VELOCITIES} </velocities>"
        if has_velocities
        else f"<velocities mode='thermal' units='kelvin'> {settings.temperature_K} </velocities>"
    )
    return (
        f"<initialize nbeads='{settings.beads}'>\n<file mode='xyz'> {START} </file>\n"
        f"<masses mode='manual' units='dalton'> [ {masses} ] </masses>\n{velocities}\n</initialize>"
    )


def _forces(addresses: Sequence[str]) -> str:
    """Level k pushes with f_k - f_(k-1), which i-PI reads as weights of each force, slow to fast."""
    n = len(addresses)
    rows = []
    for level, address in enumerate(addresses):
        weights = [0] * n
        weights[n - 1 - level] = 1
        if level < n - 1:
            weights[n - 2 - level] = -1
        told = f"<mts_weights> {weights} </mts_weights>" if n > 1 else ""
        rows.append(f"<force forcefield={quoteattr(address)}>{told}</force>")
    return "\n".join(["<forces>", *rows, "</forces>"])


def _ensemble(settings: Any) -> str:
    text = f"<temperature units='kelvin'> {settings.temperature_K} </temperature>"
    if settings.ensemble == "npt":
        text += f"<pressure units='gigapascal'> {settings.pressure_GPa} </pressure>"
    return f"<ensemble>{text}</ensemble>"


def _motion(atoms: Atoms, settings: Any, steps: Sequence[int]) -> str:
    is_pushed = settings.ensemble != "nve" and settings.thermostat == "langevin"
    modes = {"svr": ("svr", "pile_g"), "langevin": ("langevin", "pile_l")}
    bath = ""
    if settings.ensemble != "nve":
        mode = modes[settings.thermostat][settings.beads > 1]
        bath = f"<thermostat mode='{mode}'><tau units='femtosecond'> {settings.thermostat_fs} </tau></thermostat>"
    press = ""
    if settings.ensemble == "npt":
        shape = {"isotropic": "isotropic", "anisotropic": "flexible"}[settings.barostat]
        tau = f"<tau units='femtosecond'> {settings.barostat_fs} </tau>"
        press = f"<barostat mode='{shape}'><thermostat mode='langevin'>{tau}</thermostat>{tau}</barostat>"
    nmts = f"<nmts> {[1, *reversed(steps)]} </nmts>" if steps else ""
    outer = settings.timestep_fs * prod(steps) * fs
    is_fixed = len(atoms) > 1 and not is_pushed
    return (
        f"<motion mode='dynamics'><fixcom>{is_fixed}</fixcom>\n<dynamics mode='{settings.ensemble}'>"
        f"<timestep units='ase'> {outer:.16g} </timestep>{nmts}{press}{bath}</dynamics>\n</motion>"
    )
