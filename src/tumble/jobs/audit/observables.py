"""Tables of what broken symmetry and missing conservation do to what a user computes."""

from collections.abc import Sequence

from tumble.jobs.audit.finding import Finding
from tumble.jobs.audit.measures.contracts import Contract
from tumble.jobs.audit.settings import AuditSettings
from tumble.results import Cell, Table, number


def observables(findings: Sequence[Finding], settings: AuditSettings) -> tuple[Table, ...]:
    """All of them, in the order in which they are shown."""
    return (_rest(findings), _frequencies(findings), _conservation(findings, settings), _contracts(findings))


def _rest(findings: Sequence[Finding]) -> Table:
    columns = (
        "structure",
        "forbidden force, worst atom (meV/Å)",
        "forbidden stress (GPa)",
        "largest allowed force (meV/Å)",
        "displacement (Å)",
        "strain",
        "symmetry is lost at symprec (Å)",
        "forbidden share of elastic constants",
        "modes left out",
    )
    rows: list[tuple[Cell, ...]] = []
    for finding in findings:
        rest = finding.rest
        if rest is None:
            continue
        row: tuple[Cell, ...] = (finding.name, rest.worst_meV_per_A, rest.stress_GPa, rest.allowed_meV_per_A)
        shift = rest.shift
        moved = (None,) * 3 if shift is None else (shift.displacement_A, shift.strain, shift.symprec_A)
        share = None if rest.elasticity is None else rest.elasticity.forbidden
        rows.append((*row, *moved, share, None if shift is None else shift.n_left_out))
    note = (
        "What the space group (or the point group of a molecule) does not allow of forces and stress, and to first "
        "order where a relaxation that does not keep the symmetry goes: atoms by the displacement, the cell by the "
        "strain. A symmetry search with a smaller symprec then no longer finds the group. Modes left out are too slow "
        "or imaginary, and have no way back."
    )
    return Table("Forbidden forces, and what they do to a relaxed structure", columns, rows, note)


def _frequencies(findings: Sequence[Finding]) -> Table:
    columns = (
        "structure",
        "modes",
        "shift, rms (THz)",
        "shift, largest (THz)",
        "of the mode at (THz)",
        "splitting of degenerate modes (THz)",
        "scatter over orientations, largest (THz)",
        "rounding (THz)",
        "lowest mode (THz)",
        "forbidden share",
        "antisymmetric share",
        "sum rule (eV/Å²)",
    )
    rows: list[tuple[Cell, ...]] = [
        (
            finding.name,
            found.n_modes,
            found.rms_THz,
            found.worst_THz,
            found.worst_at_THz,
            found.splitting_THz,
            None if finding.frequency_spread is None else finding.frequency_spread.worst_THz,
            found.floor_THz,
            found.lowest_THz,
            found.forbidden,
            found.asymmetry,
            found.sum_violation,
        )
        for finding in findings
        if (found := finding.frequencies) is not None
    ]
    note = (
        "Shift: change of frequencies by the part of the force constants that the space group forbids, over all wave "
        "vectors that fit into the cell; a lower bound of what the orientation does, because the part that symmetry "
        "allows is not seen. Scatter: of frequencies over 12 orientations, which sees both. Negative frequencies are "
        "imaginary. Sum rule: the largest entry of the sum over atoms."
    )
    return Table("Force constants and frequencies", columns, rows, note)


def _conservation(findings: Sequence[Finding], settings: AuditSettings) -> Table:
    columns = (
        "structure",
        "force gap",
        "λ",
        "± of λ",
        "work around loops (meV)",
        f"heating at {settings.temperature_K:g} K (K/ns)",
        "heating by random turns (K/ns)",
        "of each element (K/ns)",
        "jump across the cutoff (meV)",
    )
    rows: list[tuple[Cell, ...]] = []
    hows: dict[str, None] = {}
    for finding in findings:
        gap, lam, loop, smooth, drift, turns = finding.dynamics
        if all(one is None for one in finding.dynamics):
            continue
        rows.append(
            (
                finding.name,
                None if gap is None else gap.gap,
                None if lam is None else lam.ratio,
                None if lam is None else lam.error,
                None if loop is None else loop.work_meV,
                None if drift is None else drift.rate_K_per_ns,
                None if turns is None else turns.mean_K_per_ns,
                None if turns is None else ", ".join(f"{z} {number(rate)}" for z, rate in turns.by_species.items()),
                None if smooth is None else smooth.jump_meV if smooth.n_jumps else 0.0,
            )
        )
        hows |= {one.how: None for one in (gap, lam, loop) if one is not None}
    note = (
        "Force gap: rms(F + dE/dx) / rms(dE/dx). λ: antisymmetric part of the Jacobian of the forces over all of it. "
        "Heating: an estimate, 4 λ² ω T with the rms frequency ω, good to a factor of a few; by random turns: if every "
        "step of 0.5 fs used another random orientation. Jump: energy that is not the work of the forces. Here: "
        + "; ".join(hows)
        + "."
    )
    return Table("Conservation", columns, rows, note)


def _contracts(findings: Sequence[Finding]) -> Table:
    """One row for each promise and unit, of the structure that comes nearest to breaking it."""
    columns = ("promise", "kept", "worst deviation", "unit", "allowed", "of", "how it was asked")
    together: dict[tuple[str, str], list[tuple[Contract, str]]] = {}
    for finding in findings:
        for one in finding.contracts:
            together.setdefault((one.name, one.unit), []).append((one, finding.name))
    rows: list[tuple[Cell, ...]] = []
    for (name, unit), asked in together.items():
        known = [(one.deviation / max(one.limit, 1e-300), one, of) for one, of in asked if one.deviation is not None]
        if not known:
            rows.append((name, None, None, unit, None, f"{len(asked)} structures", asked[0][0].note))
            continue
        _, worst, of = max(known, key=lambda row: row[0])
        rows.append((name, worst.passed, worst.deviation, unit, worst.limit, of, worst.note))
    return Table("Promises that every potential must keep", columns, rows)
