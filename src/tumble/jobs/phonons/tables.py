"""Tables of phonons: the numbers behind the figures and the verdicts."""

import numpy as np

from tumble.crystal import group_of
from tumble.descent.rest import Rest
from tumble.jobs.phonons.constants import AVERAGED, BOTH, PROJECTED, RAW
from tumble.jobs.phonons.crystal import Crystal
from tumble.jobs.phonons.examined import Scanned
from tumble.jobs.phonons.molecule import PER_CM, Molecule
from tumble.jobs.phonons.settings import PhononsSettings
from tumble.jobs.phonons.thermal import Thermal
from tumble.jobs.phonons.verdicts import summary_of
from tumble.results import Cell, Table, number
from tumble.units import MEV

WAYS = (RAW, BOTH, PROJECTED, AVERAGED)
FEW = 12
"""Branches up to which the frequencies at all corners are listed, and not those at Γ alone."""

MOST = 60
"""Modes listed at a corner."""


def tables(found: Crystal | Molecule, scanned: Scanned, settings: PhononsSettings, rest: Rest) -> tuple[Table, ...]:
    """All tables that have something to show, most important first."""
    if isinstance(found, Crystal):
        own = [_side_by_side(found), _corners(found)]
        ends = [_charges(found), _how_crystal(found, settings, rest)]
    else:
        own, ends = [_side_by_side_of_molecule(found), _modes(found)], [_how_molecule(found, settings, rest)]
    middle = [_imaginary(scanned), _forbidden(found), _thermal(found.rows), _scans(scanned, settings)]
    return tuple(one for one in (*own, *middle, *ends) if one.rows)


def _ways(found: Crystal | Molecule) -> list[str]:
    return [key for key in WAYS if key in found.constants]


def _seconds(found: Crystal | Molecule, key: str) -> tuple[int | None, float | None]:
    """Displaced copies and seconds that one way took."""
    measured = found.measured[AVERAGED if key == AVERAGED else BOTH]
    half = 0.5 if key == RAW else 1.0
    return int(half * measured.n_calls), half * measured.seconds


def _side_by_side(found: Crystal) -> Table:
    columns = (
        "force constants",
        "difference to projected, rms (THz)",
        "worst (THz)",
        "largest splitting of degenerate modes (THz)",
        "acoustic modes at Γ (THz)",
        "lowest (THz)",
        "highest (THz)",
        "zero-point energy (meV/atom)",
        "displaced supercells",
        "time (s)",
    )
    rows: list[tuple[Cell, ...]] = []
    for key in _ways(found):
        change = found.difference(key)
        ends = (found.lowest_THz(key), float(found.modes.frequencies_THz[key].max()))
        acoustic = ", ".join(number(one) for one in found.acoustic[key].tolist())
        zero_point = float(found.thermal[key].free_energy[0])
        shown = (found.rms(change), float(np.abs(change).max()), found.splitting_THz(key), acoustic)
        rows.append((key, *shown, *ends, zero_point, *_seconds(found, key)))
    note = (
        "Raw: atoms displaced forth only. ±: forth and back. Projected: ± on the space group, the exchange of atoms "
        "and the acoustic sum rule. Averaged: ± of the potential averaged over rotations, not projected. Differences "
        "over the whole mesh; splittings at Γ and along the path. Negative frequencies are imaginary."
    )
    return Table("Raw and repaired, side by side", columns, rows, note)


def _side_by_side_of_molecule(found: Molecule) -> Table:
    columns = (
        "force constants",
        "difference to projected, rms (cm⁻¹)",
        "worst (cm⁻¹)",
        "largest splitting of degenerate modes (cm⁻¹)",
        "motions as a whole before they are projected out (cm⁻¹)",
        "zero-point energy (meV)",
        "displaced copies",
        "time (s)",
    )
    rows: list[tuple[Cell, ...]] = []
    for key in _ways(found):
        change = PER_CM * (found.frequencies_THz[key] - found.frequencies_THz[PROJECTED])
        rigid = ", ".join(number(one) for one in (PER_CM * found.rigid_THz[key]).tolist())
        sizes = (float(np.sqrt(np.mean(change**2))), float(np.abs(change).max()), PER_CM * found.splittings_THz[key])
        rows.append((key, *sizes, rigid, found.zero_point_meV[key], *_seconds(found, key)))
    note = (
        "Raw: atoms displaced forth only. ±: forth and back. Projected: ± on the point group, the exchange of atoms "
        "and the acoustic sum rule. Averaged: ± of the potential averaged over rotations. Negative ones are imaginary."
    )
    return Table("Raw and repaired, side by side", columns, rows, note)


def _corners(found: Crystal) -> Table:
    ways, rows, seen, start = _ways(found), [], set(), 0
    is_small = found.bands.errors_THz.shape[1] <= FEW
    for one in found.segments:
        for label, row in zip(one.labels, (start, start + len(one.x) - 1), strict=True):
            if label not in seen and (is_small or label == "Γ"):
                seen.add(label)
                for branch in range(min(found.bands.errors_THz.shape[1], MOST)):
                    known = [float(found.bands.frequencies_THz[key][row, branch]) for key in ways]
                    error = None if found.sizes is None else float(found.bands.errors_THz[row, branch])
                    rows.append((label, branch + 1, *known, error))
        start += len(one.x)
    columns = ("corner", "mode", *(f"{key} (THz)" for key in ways), "error bar (THz)")
    return Table("Frequencies at corners of the path", columns, rows, "Γ as the first part of the path approaches it.")


def _modes(found: Molecule) -> Table:
    ways = _ways(found)
    rows: list[tuple[Cell, ...]] = []
    for k in range(min(len(found.errors_THz), MOST)):
        frequency = float(found.frequencies_THz[PROJECTED][k])
        waves = [float(PER_CM * found.frequencies_THz[key][k]) for key in ways]
        rows.append((k + 1, *waves, float(PER_CM * found.errors_THz[k]), frequency))
    columns = ("mode", *(f"{key} (cm⁻¹)" for key in ways), "error bar (cm⁻¹)", "projected (THz)")
    return Table("Vibrations", columns, rows, "Error bar: what symmetry forbids of the force constants.")


def _imaginary(scanned: Scanned) -> Table:
    columns = (
        "wave vector",
        "frequency (THz)",
        "it is",
        "because",
        "what to do",
        "others (THz)",
        "error of ω² by what symmetry forbids (THz²)",
        "by rounding (THz²)",
        "energy falls by (meV)",
    )
    rows: list[tuple[Cell, ...]] = []
    for one in scanned.rulings:
        suspect = one.suspect
        others = ", ".join(f"{key} {number(value)}" for key, value in suspect.others.items())
        depth = None if suspect.descent is None else suspect.descent.depth_meV
        q = " ".join(number(value) for value in suspect.q.tolist())
        known = (others, suspect.error, suspect.noise, depth)
        rows.append((q, suspect.frequency, one.kind, one.reason, one.remedy, *known))
    note = "Modes of the projected force constants at wave vectors that fit into the supercell, of those alike one."
    return Table("Imaginary modes", columns, rows, note)


def _forbidden(found: Crystal | Molecule) -> Table:
    summary, sizes = summary_of(found), found.sizes
    if sizes is None:
        return Table("What symmetry forbids", (), ())
    rows: list[tuple[Cell, ...]] = [
        ("forbidden share of the force constants, ‖± − projected‖ / ‖projected‖", sizes.forbidden, ""),
        ("of it, by the space group alone", sizes.by_group, ""),
        ("antisymmetric share, which no energy explains", sizes.asymmetry, ""),
        ("violation of the acoustic sum rule", sizes.sum_violation, "eV/Å²"),
        ("error bar of frequencies, rms", summary.error, "THz"),
        ("error bar of frequencies, largest", summary.worst, "THz"),
        ("what rounding alone would make of it, rms", summary.floor, "THz"),
    ]
    note = "Error bars to first order, e† δD e / 2ω, or the whole change of the mode of the same rank if it is larger."
    return Table("What symmetry forbids", ("quantity", "value", "unit"), rows, note)


def _thermal(known: dict[str, Thermal]) -> Table:
    exact = known[PROJECTED]
    columns = (
        "temperature (K)",
        "free energy (meV/atom)",
        "entropy (k_B/atom)",
        "heat capacity (k_B/atom)",
        *(f"free energy, {key} (meV/atom)" for key in WAYS if key in known and key != PROJECTED),
    )
    others = [one.free_energy for key, one in ((key, known.get(key)) for key in WAYS) if one and key != PROJECTED]
    rows = list(zip(*exact, *others, strict=True))
    return Table(
        "Thermodynamics", columns, rows, "At constant volume, of the projected modes; imaginary ones left out."
    )


def _scans(scanned: Scanned, settings: PhononsSettings) -> Table:
    columns = (
        "displacement (Å)",
        f"difference to {settings.displacement_A:g} Å, rms (THz)",
        "worst (THz)",
        "lowest (THz)",
        "forbidden share",
    )
    return Table("Other displacements", columns, [tuple(one) for one in scanned.scans], "Of projected force constants.")


def _charges(found: Crystal) -> Table:
    if found.charges is None:
        return Table("Born charges", (), ())
    rows = [
        ("sum over the primitive cell, as given", found.charges.sum_violation),
        ("largest change by symmetry and the sum rule", found.charges.removed),
    ]
    return Table("Born charges", ("what was corrected", "e"), rows)


def _how_crystal(found: Crystal, settings: PhononsSettings, rest: Rest) -> Table:
    cells = found.cells
    reduced = found.sizes is None
    kind = "reduced by symmetry" if reduced else "every atom of the primitive cell along x, y, z"
    rows: list[tuple[Cell, ...]] = [
        ("space group", str(group_of(cells.atoms, settings.symprec))),
        ("atoms in the primitive cell", len(cells.chosen)),
        ("supercell of the given cell", f"{'×'.join(map(str, cells.multiples))}, {cells.how}"),
        ("atoms in it", len(cells.supercell)),
        ("displacements", f"± {settings.displacement_A:g} Å, {kind}"),
        ("displaced supercells", found.measured[BOTH].n_calls),
        ("mesh of wave vectors", "×".join(map(str, found.mesh.counts))),
        *_rest_of(settings, rest),
    ]
    return Table("How it was computed", ("what", "value"), rows)


def _how_molecule(found: Molecule, settings: PhononsSettings, rest: Rest) -> Table:
    rows: list[tuple[Cell, ...]] = [
        ("operations of the point group", found.n_operations or "any turn about an axis"),
        ("vibrations", len(found.errors_THz)),
        ("motions as a whole", len(found.rigid_THz[BOTH])),
        ("displacements", f"± {settings.displacement_A:g} Å, every atom along x, y, z"),
        *_rest_of(settings, rest),
    ]
    return Table("How it was computed", ("what", "value"), rows)


def _rest_of(settings: PhononsSettings, rest: Rest) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = [
        ("largest force that symmetry allows (meV/Å)", MEV * rest.force),
        ("largest force that symmetry forbids (meV/Å)", MEV * rest.forbidden),
        ("precision", settings.dtype),
    ]
    return rows if rest.stress_GPa is None else [*rows, ("largest component of the stress (GPa)", rest.stress_GPa)]
