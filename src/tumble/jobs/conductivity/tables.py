"""Tables of a thermal conductivity: by repair, by temperature, against a reference, and how it was computed."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from tumble.crystal import group_of
from tumble.jobs.conductivity.finding import Crystal, Finding
from tumble.jobs.conductivity.metrics import mean_of
from tumble.jobs.conductivity.reference import Comparison
from tumble.jobs.conductivity.settings import ConductivitySettings
from tumble.results import Cell, Table, number
from tumble.units import MEV

AXES: Final = ("xx", "yy", "zz", "yz", "xz", "xy")
ROUNDING: Final = 1e-9


def tables(
    crystal: Crystal, found: Finding, compared: Mapping[str, Comparison], settings: ConductivitySettings
) -> tuple[Table, ...]:
    """All tables, most telling first."""
    known = [_repairs(found), _costs(found), _temperatures(found, settings)]
    if compared:
        known.append(_reference(compared))
    return (*known, _symmetry(crystal, found), _how(crystal, found, settings))


def _repairs(found: Finding) -> Table:
    columns = ("repair", "κ (W/(m K))", "κ xx", "κ yy", "κ zz", "from the result (%)", "forbidden share of the tensor")
    rows: list[tuple[Cell, ...]] = []
    changes = found.by_repair
    for one in found.routes:
        change = changes.get(one.name)
        shares = None if one.transport.is_refused else float(one.forbidden[found.index])
        diagonal = np.diag(one.transport.kappa[found.index])
        rows.append((one.name, found.kappa(one.transport), *diagonal, None if change is None else 100 * change, shares))
    for name, others in found.turned.items():
        for index, turned in enumerate(others, 1):
            change = found.change(turned, found.result.transport)
            diagonal = np.diag(turned.kappa[found.index])
            percent = None if change is None else 100 * change
            rows.append((f"{name}, turned {index}", found.kappa(turned), *diagonal, percent, None))
    note = (
        "raw: each displacement in one direction, finite differences as they are. ±: forth and back. projected: force "
        "constants brought to what space group, exchange of indices and sum rule allow. averaged: the same with the "
        "averaged potential. Turned: with the crystal in another orientation before the potential is asked. "
        "phono3py takes displacements and modes that the space group makes equal from each other, so that the tensor "
        "keeps the symmetry whatever the potential does; another orientation shows what that hides. A dash: "
        "imaginary modes, refused."
    )
    return Table(f"Conductivity at {found.temperature_K:g} K by repair", columns, rows, note)


def _costs(found: Finding) -> Table:
    columns = ("repair", "supercells", "calls", "time of calls (s)", "time in all (s)", "time (× first)")
    first = found.routes[0].seconds
    rows = [
        (one.name, one.n_supercells, one.n_calls, one.seconds_forces, one.seconds, one.seconds / max(first, 1e-9))
        for one in found.routes
    ]
    note = "Supercells that several repairs share were asked about once; each repair counts all it needs."
    return Table("What each repair costs", columns, rows, note)


def _temperatures(found: Finding, settings: ConductivitySettings) -> Table:
    one = found.result.transport
    columns = ["T (K)", *(f"κ {axis} (W/(m K))" for axis in AXES), "mean (W/(m K))"]
    cells: list[list[Cell]] = []
    for temperature, kappa, mean in zip(one.temperatures_K, one.kappa, mean_of(one.kappa), strict=True):
        # What is nothing but rounding is not shown.
        kappa = np.where(np.abs(kappa) < ROUNDING * np.abs(kappa).max(), 0.0, kappa)
        parts = [kappa[0, 0], kappa[1, 1], kappa[2, 2], kappa[1, 2], kappa[0, 2], kappa[0, 1]]
        cells.append([temperature, *parts, mean])
    if settings.kind == "wigner":
        columns.append("of it coherences (W/(m K))")
        for row, part in zip(cells, mean_of(one.kappa_coherence), strict=True):
            row.append(part)
    if has_isotopes(found, settings):
        columns.append("populations without isotopes (W/(m K))")
        for row, part in zip(cells, one.without_isotopes, strict=True):
            row.append(part)
    return Table(f"Conductivity and temperature, {found.result.name}", columns, cells)


def _reference(compared: Mapping[str, Comparison]) -> Table:
    columns = ("repair", "T (K)", "κ (W/(m K))", "reference (W/(m K))", "SRD", "SRE", "SRME")
    rows: list[tuple[Cell, ...]] = []
    for name, one in compared.items():
        modes: list[Cell] = [None] * len(one.srd) if one.srme is None else [*one.srme]
        numbers = (one.temperatures_K, one.kappa, one.reference, one.srd, one.sre, modes)
        rows += [(name, *row) for row in zip(*numbers, strict=True)]
    note = (
        "SRD = 2 (k − k0) / (k + k0), SRE its size, SRME = 2 Σ|k_i − k0_i| / W / (k + k0) over modes i and W wave "
        "vectors; at most 2, which is also given to a conductivity that was refused. No SRME where the reference has "
        "no modes."
    )
    return Table("Against the reference", columns, rows, note)


def _symmetry(crystal: Crystal, found: Finding) -> Table:
    forces, rounding = found.forbidden_forces
    rows: list[tuple[Cell, ...]] = [
        ("forbidden force at rest (meV/Å)", MEV * crystal.rest.forbidden),
        ("forbidden share of the forces on displaced supercells", forces),
        ("what rounding makes of that", rounding),
        ("rounding of forces as a share of the third-order force constants, at most", found.result.floor),
    ]
    for one in found.routes:
        if one.removed is not None:
            rows.append((f"second-order force constants, removed: {one.name}", one.removed[0]))
            rows.append((f"third-order force constants, removed: {one.name}", one.removed[1]))
    note = (
        "Shares are ratios of norms. Forbidden by the symmetry that a supercell has left when its atoms are displaced."
    )
    return Table("What symmetry forbids", ("quantity", "value"), rows, note)


def _how(crystal: Crystal, found: Finding, settings: ConductivitySettings) -> Table:
    engine, one = crystal.engine, found.result.transport
    group = group_of(crystal.atoms, settings.symprec)
    half, second = found.half, engine.phonon_supercell_matrix
    rows: list[tuple[Cell, ...]] = [
        ("space group", f"{group.symbol} ({group.number})"),
        ("atoms in the primitive cell", len(engine.primitive)),
        ("supercell of third order", _cell(engine.supercell_matrix, len(engine.supercell))),
        (
            "supercell of second order",
            _cell(engine.supercell_matrix if second is None else second, len(engine.phonon_supercell)),
        ),
        ("mesh of wave vectors", " × ".join(map(str, one.mesh))),
        ("irreducible wave vectors", len(one.weights)),
        ("displacement (Å)", settings.displacement_A),
        ("largest force at rest (meV/Å)", MEV * crystal.rest.force),
        ("largest stress at rest (GPa)", crystal.rest.stress_GPa),
        ("lowest frequency on the mesh (THz)", float(one.frequencies_THz.min())),
    ]
    if half is not None:
        change = found.change(half, one)
        rows.append(("half mesh", " × ".join(map(str, half.mesh))))
        rows.append((f"κ on it at {found.temperature_K:g} K (W/(m K))", found.kappa(half)))
        rows.append(("its difference (%)", None if change is None else 100 * change))
    if has_isotopes(found, settings):
        plain, populations = one.without_isotopes[found.index], one.populations[found.index].sum() / one.weights.sum()
        rows.append(("isotopes lower it by (%)", f"{number(100 * (1 - float(populations) / float(plain)))}"))
    return Table("How it was computed", ("", "value"), rows)


def has_isotopes(found: Finding, settings: ConductivitySettings) -> bool:
    """Whether what isotopes change is known: in the direct solution modes do not scatter one by one."""
    return settings.isotopes and settings.kind != "direct" and not found.result.transport.is_refused


def _cell(matrix: np.ndarray, n_atoms: int) -> str:
    return f"{' × '.join(str(int(n)) for n in np.diag(matrix))}, {n_atoms} atoms"
