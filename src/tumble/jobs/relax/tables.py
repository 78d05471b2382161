"""Tables of a relaxation: where each structure ended, its symmetry, and what its forces mean."""

from collections.abc import Sequence

from tumble.jobs.relax.finding import WORDS, Finding
from tumble.jobs.relax.stairs import LOOSE, STRICT, Stairs, at
from tumble.results import Cell, Table, number
from tumble.units import MEV


def tables(findings: Sequence[Finding]) -> tuple[Table, ...]:
    """All that have something to show, most important first."""
    made = (_ends(findings), _symmetries(findings), _distortions(findings), _floors(findings), _standards(findings))
    return tuple(table for table in made if table.rows)


def _ends(findings: Sequence[Finding]) -> Table:
    columns = (
        "structure",
        "at rest",
        "steps",
        "calls",
        "energy before (eV)",
        "energy after (eV)",
        "volume before (Å³)",
        "volume after (Å³)",
        "a, b, c (Å)",
        "largest force (meV/Å)",
        "largest stress (GPa)",
        "ended",
    )
    rows: list[tuple[Cell, ...]] = []
    for one in findings:
        atoms, first = one.final.atoms, one.walked.walk.frames[0]
        has_cell = bool(atoms.cell.rank == 3)
        rows.append(
            (
                one.name,
                one.is_converged,
                sum(len(walk.energies) - 1 for walk in (one.walked.walk, one.walked.again) if walk is not None),
                one.n_calls,
                number(float(first.get_potential_energy()), 8),
                number(float(atoms.get_potential_energy()), 8),
                number(float(one.walked.start.cell.volume), 6) if has_cell else None,
                number(float(atoms.cell.volume), 6) if has_cell else None,
                ", ".join(number(float(length), 6) for length in atoms.cell.lengths()) if has_cell else None,
                MEV * float(one.final.forces[-1]),
                None if one.final.stresses is None else float(one.final.stresses[-1]),
                one.final.reason,
            )
        )
    note = "Stress: plus the pressure, in as far as the cell may follow. Calls: those that measure noise included."
    return Table("Relaxed structures", columns, rows, note)


def _symmetries(findings: Sequence[Finding]) -> Table:
    columns = ("structure", "walk", f"symmetry at {STRICT:g} Å", f"symmetry at {LOOSE:g} Å", "plateau", "verdict")
    rows: list[tuple[Cell, ...]] = []
    for one in findings:
        walked = one.walked
        verdict = "" if one.symmetry is None else WORDS[one.symmetry]
        rows.append((one.name, "before", *_both(one.before), "", ""))
        plateau = ""
        if walked.plateau is not None:
            plateau = f"{walked.plateau.stair.name} from {walked.plateau.first:.1g} to {walked.plateau.last:.1g} Å"
        ended = "in the group of the start" if walked.how == "keep" else "free"
        rows.append((one.name, ended, *_both(walked.after), plateau, verdict if one.within is None else ""))
        if one.within is not None:
            rows.append((one.name, "in the group of the plateau", *_both(one.within), "", verdict))
    note = "Plateau: tolerances over which the free structure has the same symmetry, the highest that lasts."
    return Table("Symmetry", columns, rows, note)


def _both(found: Stairs) -> tuple[Cell, Cell]:
    return at(found, STRICT), at(found, LOOSE)


def _distortions(findings: Sequence[Finding]) -> Table:
    columns = (
        "structure",
        "verdict",
        "E(symmetric) − E(free) (meV)",
        "mean over turned frames (meV)",
        "spread over turned frames (meV)",
        "of forces below fmax (meV)",
        "of rounding (meV)",
        "in units of the noise",
        "distance (Å)",
        "why",
    )
    rows: list[tuple[Cell, ...]] = []
    for one in findings:
        if (gain := one.gain) is None or one.symmetry is None:
            continue
        turned = None if gain.turned is None else MEV * gain.turned
        parts = (MEV * gain.energy, turned, MEV * gain.spread, MEV * gain.residual, MEV * gain.rounding)
        share = gain.energy / gain.noise if gain.noise else None
        rows.append((one.name, WORDS[one.symmetry], *parts, share, gain.distance, one.why))
    note = (
        "Noise: spread of the difference over turned frames, what forces and stress below their limits can make of it, "
        "and rounding. Distance: the largest displacement between the two structures."
    )
    return Table("Physical distortion or model artefact", columns, rows, note)


def _floors(findings: Sequence[Finding]) -> Table:
    columns = (
        "structure",
        "lowest meaningful fmax (meV/Å)",
        "scatter over turned frames (meV/Å)",
        "forbidden by the group (meV/Å)",
        "rounding (meV/Å)",
        "forbidden stress (GPa)",
    )
    rows: list[tuple[Cell, ...]] = []
    for one in findings:
        if one.floor is not None:
            parts = (None if part is None else MEV * part for part in one.floor)
            stress = None if one.floor.forbidden is None else one.final.removed_GPa
            rows.append((one.name, MEV * one.floor.force, *parts, stress))
    note = (
        "Scatter: rms deviation of the force on the worst atom, turned back, from its mean. Forbidden: what the group "
        "removes at the end of the walk, the symmetry error of this potential there. Lowest meaningful fmax: the "
        "largest of the three."
    )
    return Table("What forces mean", columns, rows, note)


def _standards(findings: Sequence[Finding]) -> Table:
    columns = ("structure", "atoms", "a, b, c (Å)", "α, β, γ (°)")
    rows: list[tuple[Cell, ...]] = []
    for one in findings:
        if one.standard is not None:
            lengths, angles = (
                ", ".join(number(float(x), 6) for x in part)
                for part in (one.standard.cell.lengths(), one.standard.cell.angles())
            )
            rows.append((one.name, len(one.standard), lengths, angles))
    return Table("Standard cells", columns, rows, "The conventional cells of standard.extxyz.")
