"""Tables of what trajectories say."""

from collections.abc import Sequence

import numpy as np

from tumble.jobs.observe.finding import Finding
from tumble.results import Cell, Table
from tumble.trajectories import Radial
from tumble.units import MEV

Rows = list[tuple[Cell, ...]]

TO_SI = 10.0
"""1 Å²/ps in 1e-9 m²/s."""


def tables(findings: Sequence[Finding]) -> tuple[Table, ...]:
    """All that have something to show, most important first."""
    parts = (_spans, _diffusion, _orientations, _warmth, _motions, _peaks, _slowest, _left_out)
    made = (part(findings) for part in parts)
    return tuple(table for table in made if table.rows)


def _spans(findings: Sequence[Finding]) -> Table:
    columns: tuple[str, ...] = (
        "trajectory",
        "atoms",
        "frames",
        "from (ps)",
        "to (ps)",
        "spacing (fs)",
        "temperature (K)",
        "±",
    )
    columns += ("potential energy (meV/atom)", "±")
    rows: Rows = []
    for one in findings:
        warm, energy, atoms = one.warmth, one.energy, one.first
        heat = (None, None) if warm is None else (warm.mean.value, warm.mean.error)
        deep = (None, None) if energy is None else (MEV * energy.value / len(atoms), MEV * energy.error / len(atoms))
        spacing = None if one.span.spacing_ps is None else 1000 * one.span.spacing_ps
        rows.append((one.name, atoms.get_chemical_formula(), *one.span[:3], spacing, *heat, *deep))
    return Table("Trajectories", columns, rows, "±: standard errors, the correlation of frames counted.")


def _diffusion(findings: Sequence[Finding]) -> Table:
    columns: tuple[str, ...] = (
        "trajectory",
        "element",
        "D (1e-9 m²/s)",
        "±",
        "without images (1e-9 m²/s)",
        "fitted (ps)",
        "blocks",
    )
    rows: Rows = []
    for one in findings:
        for symbol, moved in one.moved.items():
            rate = moved.rate
            fitted = f"{rate.from_ps:.3g} to {rate.to_ps:.3g}"
            beyond = None if moved.unbounded is None else TO_SI * moved.unbounded.value
            row = (one.name, symbol, TO_SI * rate.value, TO_SI * rate.error, beyond, fitted, len(moved.decay.blocks))
            rows.append(row)
    note = (
        "A sixth of the slope of the mean square displacement. A periodic box slows diffusion down; without images: "
        "corrected with the viscosity that was given."
    )
    return Table("Diffusion", columns, rows, note)


def _orientations(findings: Sequence[Finding]) -> Table:
    columns: tuple[str, ...] = (
        "trajectory",
        "molecules",
        "ℓ = 1 vector (k_BT)",
        "±",
        "amplitude (k_BT)",
        "std of F (k_BT)",
    )
    columns += (
        "noise of F (k_BT)",
        "lowest F (k_BT)",
        "highest F (k_BT)",
        "share of ℓ = 1",
        "independent directions",
        "τ (ps)",
        "± of τ",
    )
    rows: Rows = []
    for one in findings:
        if (turned := one.turned) is None:
            continue
        vector, shown = turned.vector, turned.map
        parts = ", ".join(f"{part:.4f}" for part in vector.value)
        errors = ", ".join(f"{part:.4f}" for part in vector.error)
        sizes: tuple[Cell, ...] = (None,) * 5
        if shown is not None:
            ends = float(shown.values.min()), float(shown.values.max())
            sizes = (shown.std, turned.noise, *ends, float(shown.shares[0]))
        slow = (None, None) if turned.time is None else (turned.time.value, turned.time.error)
        kind = f"{turned.n_molecules} {turned.formula}"
        rows.append((one.name, kind, parts, errors, vector.amplitude, *sizes, vector.n_independent, *slow))
    note = (
        "F: free energy of the direction of the axis, −k_BT ln p less its mean. Vector: coefficients of F on √3 (x, y, "
        "z), from the mean direction; zero, within its error, in isotropic space. Noise: what the number of directions "
        "alone makes of F. τ: of ⟨u(0)·u(t)⟩."
    )
    return Table("Orientations", columns, rows, note)


def _warmth(findings: Sequence[Finding]) -> Table:
    columns: tuple[str, ...] = (
        "trajectory",
        "of",
        "temperature (K)",
        "±",
        "thermostat (K)",
        "deviation of the mean (σ)",
    )
    columns += ("of the width (σ)", "p value")
    rows: Rows = []
    for one in findings:
        if (warm := one.warmth) is None:
            continue
        checked = (None,) * 3 if warm.kinetic is None else warm.kinetic[2:]
        rows.append((one.name, f"all, {warm.n_freedoms} freedoms", *warm.mean[:2], warm.target_K, *checked))
        if len(warm.of_species) > 1:
            rows += [(one.name, symbol, *mean[:2], None, None, None, None) for symbol, mean in warm.of_species.items()]
    note = (
        "σ: standard errors by which mean and width of the kinetic energies are off those of a canonical ensemble. p "
        "value: chance of a distribution at least as far off."
    )
    return Table("Temperatures", columns, rows, note)


def _motions(findings: Sequence[Finding]) -> Table:
    columns: tuple[str, ...] = ("trajectory", "motion of molecules", "deviation of the mean (σ)", "of the width (σ)")
    rows: Rows = [
        (one.name, kind, *pair)
        for one in findings
        if one.warmth is not None
        for kind, pair in one.warmth.motions.items()
        if kind != "all"
    ]
    return Table("Equipartition", columns, rows, "Of the temperature of each kind of motion, from the thermostat's.")


def _peaks(findings: Sequence[Finding]) -> Table:
    columns: tuple[str, ...] = (
        "trajectory",
        "pair",
        "first maximum at (Å)",
        "g",
        "±",
        "first minimum at (Å)",
        "g there",
        "± there",
    )
    rows: Rows = []
    for one in findings:
        for pair, radial in one.radials.items():
            if (found := peak(radial)) is not None:
                top, low = found
                bottom = (None,) * 3 if low is None else (radial.r[low], radial.g[low], radial.error[low])
                rows.append((one.name, pair, radial.r[top], radial.g[top], radial.error[top], *map(_plain, bottom)))
    return Table("Radial distributions", columns, rows, "Of the smoothed curves, where they are.")


def peak(radial: Radial) -> tuple[int, int | None] | None:
    """Places of the first maximum above 1 and of the minimum behind it; the distance within molecules counts."""
    g = radial.g
    tops = np.flatnonzero((g[1:-1] > g[:-2]) & (g[1:-1] >= g[2:]) & (g[1:-1] > 1)) + 1
    if not len(tops):
        return None
    top = int(tops[0])
    lows = np.flatnonzero((g[1:-1] < g[:-2]) & (g[1:-1] <= g[2:])) + 1
    behind = lows[lows > top]
    return top, int(behind[0]) if len(behind) else None


def _plain(value: float | None) -> float | None:
    return None if value is None else float(value)


def _slowest(findings: Sequence[Finding]) -> Table:
    columns: tuple[str, ...] = ("trajectory", "observable", "correlated over (ps)", "independent samples")
    rows: Rows = []
    for one in findings:
        for name, mean in one.slowest.items():
            long = None if one.span.spacing_ps is None else mean.inefficiency * one.span.spacing_ps
            rows.append((one.name, name, long, mean.n_independent))
    return Table("How many samples these are", columns, rows, "Correlated over: the time to one independent sample.")


def _left_out(findings: Sequence[Finding]) -> Table:
    rows: Rows = [(one.name, kind, why) for one in findings for kind, why in one.left_out.items()]
    return Table("Left out", ("trajectory", "what", "why"), rows)
