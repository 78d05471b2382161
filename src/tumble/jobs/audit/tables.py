"""Tables of an audit: the numbers behind the verdicts, structure by structure, of what turning them shows."""

from collections.abc import Sequence

from tumble.jobs.audit.figures import Shown
from tumble.jobs.audit.finding import Finding
from tumble.jobs.audit.measures.differences import energy_differences
from tumble.jobs.audit.measures.spread import Sizes
from tumble.jobs.audit.observables import observables
from tumble.jobs.audit.settings import AuditSettings
from tumble.results import Cell, Table, number
from tumble.units import MEV

COLUMNS = (
    "energy (meV/atom)",
    "force, rms component (meV/Å)",
    "force, worst atom (meV/Å)",
    "stress, rms component (GPa)",
)


def tables(findings: Sequence[Finding], settings: AuditSettings) -> tuple[Table, ...]:
    """All tables that have something to show, most important first."""
    seen = [(finding, finding.turned) for finding in findings if finding.turned is not None]
    made = (
        _failures(findings),
        _spreads(seen),
        _errors(seen),
        _molecules(seen, settings),
        *observables(findings, settings),
        _differences(seen),
        _at_rest(seen),
        _remedies(seen),
        _blind_spots(seen),
        _rules(findings, settings),
    )
    return tuple(table for table in made if table.rows)


def _failures(findings: Sequence[Finding]) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (finding.name, failure.measure, failure.message) for finding in findings for failure in finding.failures
    ]
    rows += [
        (finding.name, f"{one.name}: {one.note}", f"deviates by {number(one.deviation)} {one.unit}")
        for finding in findings
        for one in finding.contracts
        if one.passed is False
    ]
    note = "What the potential failed at; what depends on it is not known."
    return Table("What went wrong", ("structure", "asked for", "what happened"), rows, note)


def _spreads(seen: Sequence[Shown]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for finding, turned in seen:
        rows.append((finding.name, "rotational spread", *_cells(turned.spread)))
        if turned.parity is not None:
            rows.append((finding.name, "parity error", *_cells(turned.parity)))
        rows.append((finding.name, "precision floor", *_cells(turned.floor)))
    hows = dict.fromkeys(turned.floor_how for _, turned in seen)
    note = (
        "Spread: root mean square deviation of the turned-back answers from their mean. Parity error: root mean square "
        f"of half the difference to the inverted structure. Floor: {'; '.join(hows)}."
    )
    return Table("Symmetry errors", ("structure", "measure", *COLUMNS), rows, note)


def _cells(sizes: Sizes) -> tuple[Cell, ...]:
    return (sizes.energy_meV_per_atom, sizes.force_meV_per_A, sizes.worst_meV_per_A, sizes.stress_GPa)


def _errors(seen: Sequence[Shown]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for finding, turned in seen:
        if turned.predicted is not None:
            rows.append((finding.name, "predicted uncertainty", *_cells(turned.predicted)))
            known = zip(_cells(turned.spread), _cells(turned.predicted), strict=True)
            rows.append((finding.name, "spread / uncertainty", *(_ratio(a, b) for a, b in known)))
        if turned.raw_error is None or turned.mean_error is None:
            continue
        rows.append((finding.name, "error as it stands", *_cells(turned.raw_error)))
        rows.append((finding.name, "error of the mean", *_cells(turned.mean_error)))
        pairs = zip(_cells(turned.spread), _cells(turned.raw_error), strict=True)
        rows.append((finding.name, "spread / error", *(_ratio(a, b) for a, b in pairs)))
    note = "Errors: against the labels of each structure; the mean is over the measuring rule. Uncertainty: standard "
    note += "deviation that the potential predicts of itself, of forces from its ensemble."
    return Table("Symmetry errors against the model's own error", ("structure", "measure", *COLUMNS), rows, note)


def _ratio(spread: Cell, error: Cell) -> float | None:
    if not isinstance(spread, float) or not isinstance(error, float) or error == 0:
        return None
    return spread / error


def _at_rest(seen: Sequence[Shown]) -> Table:
    columns = (
        "structure",
        "torque at rest about x, y, z (meV/rad)",
        "torque, rms over orientations (meV/rad)",
        "net force (meV/Å)",
    )
    rows = [
        (
            finding.name,
            ", ".join(map(number, turned.torque_meV_per_rad.tolist())),
            turned.rms_torque_meV_per_rad,
            turned.net_force_meV_per_A,
        )
        for finding, turned in seen
    ]
    note = "Torque: slope of the energy as atoms and cell are turned. Net force: |ΣF| / √N, rms over orientations."
    return Table("Torque and net force", columns, rows, note)


def _molecules(seen: Sequence[Shown], settings: AuditSettings) -> Table:
    columns = (
        "structure",
        "std (k_BT)",
        "lowest (k_BT)",
        "highest (k_BT)",
        "ℓ = 1 vector in the lab (k_BT)",
        "share of ℓ = 1",
    )
    rows = [
        (finding.name, free.std, free.lowest, free.highest, ", ".join(map(number, free.vector)), free.share)
        for finding, turned in seen
        if (free := turned.free_energy) is not None
    ]
    title = f"Orientational free energy at {settings.temperature_K:g} K"
    note = "Energy over orientations less its mean: to first order, minus the logarithm of their density in dynamics."
    return Table(title, columns, rows, note)


def _differences(seen: Sequence[Shown]) -> Table:
    """Of structures that were measured over one rule, rule by rule."""
    columns = (
        "structures",
        "difference (meV/atom)",
        "scatter in a common frame (meV/atom)",
        "scatter in random frames (meV/atom)",
    )
    rows: list[tuple[Cell, ...]] = []
    for rule in dict.fromkeys(turned.orbit.rotations.name for _, turned in seen):
        same = [one for one in seen if one[1].orbit.rotations.name == rule]
        found = energy_differences([turned.orbit for _, turned in same], [finding.atoms for finding, _ in same])
        rows += [
            (
                f"{same[one.first][0].name} – {same[one.second][0].name}",
                one.mean_meV_per_atom,
                one.common_meV_per_atom,
                one.random_meV_per_atom,
            )
            for one in found
        ]
    rows = sorted(rows, key=lambda row: -float(row[3] or 0))[:20]
    note = (
        "Standard deviation over orientations of the energy difference of structures of the same composition, when "
        "both are turned together and when each is turned by itself; at most 20 pairs, the worst first."
    )
    return Table("Energy differences", columns, rows, note)


def _remedies(seen: Sequence[Shown]) -> Table:
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
    for finding, turned in seen:
        for one in turned.remedies:
            numbers = [
                None if sizes is None else getattr(sizes, name)
                for sizes in (one.deviation, one.expected)
                for name in ("force_meV_per_A", "energy_meV_per_atom")
            ]
            rows.append((finding.name, one.rule, one.n_calls, one.times, *numbers))
    note = (
        "Calls: distinct orientations, the structure's own symmetry makes the others follow. Here: the average over "
        "the rule against the mean over the measuring rule, in the orientation of the file; a dash where the rule was "
        "not run. Expected: root mean square over orientations, from the spectrum and the worst case for what the "
        "measuring rule does not resolve; a dash where it has no spectrum."
    )
    return Table("What averaging costs and leaves", columns, rows, note)


def _blind_spots(seen: Sequence[Shown]) -> Table:
    columns = (
        "structure",
        "rule in the lab frame",
        "rotations",
        "distinct orientations",
        "captured of the lowest ℓ (%)",
        "energy spread it reports (meV/atom)",
        "energy spread there is (meV/atom)",
        "force spread it reports (meV/Å)",
        "force spread there is (meV/Å)",
    )
    rows = [
        (
            finding.name,
            spot.rule,
            spot.n_rotations,
            spot.resolution.n_distinct,
            100 * spot.resolution.captured,
            spot.spread.energy_meV_per_atom,
            turned.spread.energy_meV_per_atom,
            spot.spread.force_meV_per_A,
            turned.spread.force_meV_per_A,
        )
        for finding, turned in seen
        if (spot := turned.blind_spot) is not None
    ]
    note = (
        "Of a crystal along its axes a rule of the same group sees one orientation again and again, averages nothing "
        "and reports no spread. This is why an audit measures in a generic frame."
    )
    return Table("What a rule in the lab frame would have missed", columns, rows, note)


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
    rows: list[tuple[Cell, ...]] = []
    for finding in findings:
        turned = finding.turned
        time = None if finding.seconds_of_call is None else MEV * finding.seconds_of_call
        if turned is None:
            rows.append((finding.name, len(finding.atoms), "none", None, None, finding.n_operations, *[None] * 3, time))
            continue
        rule, seen = turned.orbit.rotations, turned.resolution
        about = (rule.name, len(rule), rule.degree, finding.n_operations, seen.n_distinct, seen.lowest)
        rows.append((finding.name, len(finding.atoms), *about, 100 * seen.captured, time))
    note = f"Symmetry searched to {settings.symprec:g} Å; no number of operations where any turn about an axis is one."
    skipped = {f"{name} of {f.name}: {reason}" for f in findings for name, reason in f.skipped.items()}
    if skipped:
        note += f" Left out: {'; '.join(sorted(skipped))}."
    return Table("How it was measured", columns, rows, note)
