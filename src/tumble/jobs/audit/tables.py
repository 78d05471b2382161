"""Tables of an audit: the numbers behind the verdicts, structure by structure."""

from collections.abc import Sequence

from tumble.jobs.audit.measures.spread import Sizes
from tumble.jobs.audit.settings import AuditSettings
from tumble.jobs.audit.survey import Finding
from tumble.results import Cell, Table, number
from tumble.units import MEV

COLUMNS = (
    "energy (meV/atom)",
    "force, rms component (meV/Å)",
    "force, worst atom (meV/Å)",
    "stress, rms component (GPa)",
)

NOT_MEASURED = (
    "Not measured: the antisymmetric part of the force Jacobian, smoothness at the cutoff, extensivity, force "
    "constants, phonons, forbidden forces of crystals, and nothing about accuracy beyond the labels."
)


def tables(findings: Sequence[Finding], settings: AuditSettings) -> tuple[Table, ...]:
    """All tables, most important first."""
    made = (
        _spreads(findings),
        _errors(findings),
        _at_rest(findings),
        _molecules(findings, settings),
        _remedies(findings),
        _rules(findings, settings),
    )
    return tuple(table for table in made if table.rows)


def _spreads(findings: Sequence[Finding]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for finding in findings:
        rows.append((finding.name, "rotational spread", *_cells(finding.spread)))
        if finding.parity is not None:
            rows.append((finding.name, "parity error", *_cells(finding.parity)))
        rows.append((finding.name, "precision floor", *_cells(finding.floor)))
    hows = dict.fromkeys(finding.floor_how for finding in findings)
    note = (
        "Spread: root mean square deviation of the turned-back answers from their mean. Parity error: root mean square "
        f"of half the difference to the inverted structure. Floor: {'; '.join(hows)}."
    )
    return Table("Symmetry errors", ("structure", "measure", *COLUMNS), rows, note)


def _cells(sizes: Sizes) -> tuple[Cell, ...]:
    return (sizes.energy_meV_per_atom, sizes.force_meV_per_A, sizes.worst_meV_per_A, sizes.stress_GPa)


def _errors(findings: Sequence[Finding]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for finding in findings:
        if finding.raw_error is None or finding.mean_error is None:
            continue
        rows.append((finding.name, "error as it stands", *_cells(finding.raw_error)))
        rows.append((finding.name, "error of the mean", *_cells(finding.mean_error)))
        pairs = zip(_cells(finding.spread), _cells(finding.raw_error), strict=True)
        rows.append((finding.name, "spread / error", *(_ratio(a, b) for a, b in pairs)))
    note = "Against the labels of each structure; the mean is over the measuring rule."
    return Table("Symmetry errors against the model's own error", ("structure", "measure", *COLUMNS), rows, note)


def _ratio(spread: Cell, error: Cell) -> float | None:
    if not isinstance(spread, float) or not isinstance(error, float) or error == 0:
        return None
    return spread / error


def _at_rest(findings: Sequence[Finding]) -> Table:
    columns = (
        "structure",
        "torque at rest about x, y, z (meV/rad)",
        "torque, rms over orientations (meV/rad)",
        "net force (meV/Å)",
        "force gap",
        "forbidden stress (GPa)",
    )
    rows = [
        (
            finding.name,
            ", ".join(map(number, finding.torque_meV_per_rad.tolist())),
            finding.rms_torque_meV_per_rad,
            finding.net_force_meV_per_A,
            None if finding.force_gap is None else finding.force_gap.gap,
            finding.forbidden_stress_GPa,
        )
        for finding in findings
    ]
    hows = dict.fromkeys(finding.force_gap.how for finding in findings if finding.force_gap is not None)
    note = (
        "Torque: slope of the energy as atoms and cell are turned. Net force: |ΣF| / √N. Force gap: rms(F + dE/dx) / "
        f"rms(dE/dx); {'; '.join(hows)}. Forbidden stress: what the point group of the structure does not allow."
    )
    return Table("Torque, net force and conservation", columns, rows, note)


def _molecules(findings: Sequence[Finding], settings: AuditSettings) -> Table:
    columns = (
        "structure",
        "std (k_BT)",
        "lowest (k_BT)",
        "highest (k_BT)",
        "ℓ = 1 vector in the lab (k_BT)",
        "share of ℓ = 1",
    )
    rows = [
        (
            finding.name,
            free.std,
            free.lowest,
            free.highest,
            ", ".join(map(number, free.vector)),
            free.share,
        )
        for finding in findings
        if (free := finding.free_energy) is not None
    ]
    title = f"Orientational free energy at {settings.temperature_K:g} K"
    note = "Energy over orientations less its mean: to first order, minus the logarithm of their density in dynamics."
    return Table(title, columns, rows, note)


def _remedies(findings: Sequence[Finding]) -> Table:
    columns = (
        "structure",
        "rule",
        "calls",
        "time (× one call)",
        "force deviation here (meV/Å)",
        "energy deviation here (meV/atom)",
        "force left, expected (meV/Å)",
        "energy left, expected (meV/atom)",
    )
    rows: list[tuple[Cell, ...]] = []
    for finding in findings:
        for one in finding.remedies:
            numbers = [
                None if sizes is None else getattr(sizes, name)
                for sizes in (one.deviation, one.expected)
                for name in ("force_meV_per_A", "energy_meV_per_atom")
            ]
            rows.append((finding.name, one.rule, one.n_calls, one.times, *numbers))
    note = (
        "Here: the average over the rule against the mean over the measuring rule, in the orientation of the file; a "
        "dash where the rule was not run. Expected: root mean square over orientations, from the spectrum and the "
        "worst case for what the measuring rule does not resolve; a dash where it has no spectrum."
    )
    return Table("What averaging costs and leaves", columns, rows, note)


def _rules(findings: Sequence[Finding], settings: AuditSettings) -> Table:
    columns = (
        "structure",
        "atoms",
        "measuring rule",
        "rotations",
        "exact to ℓ",
        "point operations",
        "distinct orientations",
        "lowest ℓ of its energy",
        "captured of it (%)",
        "time of a call (ms)",
    )
    rows = [
        (
            finding.name,
            len(finding.atoms),
            finding.orbit.rotations.name,
            len(finding.orbit.rotations),
            finding.orbit.rotations.degree,
            finding.n_operations,
            finding.resolution.n_distinct,
            finding.resolution.lowest,
            100 * finding.resolution.captured,
            MEV * finding.seconds_of_call,
        )
        for finding in findings
    ]
    note = f"Symmetry searched to {settings.symprec:g} Å; no number of operations where any turn about an axis is one. "
    return Table("How it was measured", columns, rows, note + NOT_MEASURED)
