"""Tables of elasticity: constants, moduli, stability, equations of state, and how they came about."""

import numpy as np

from tumble.jobs.elastic.figures import error_of
from tumble.jobs.elastic.finding import Finding, State, moduli_of, waves
from tumble.jobs.elastic.settings import ElasticSettings
from tumble.jobs.elastic.tensor import Moduli, moduli, stiffnesses, zener
from tumble.jobs.elastic.verdicts import forbidden_share, in_words, noise_share
from tumble.results import Cell, Table
from tumble.units import MEV


def tables(finding: Finding, settings: ElasticSettings) -> tuple[Table, ...]:
    """All tables that have something to show, most important first."""
    made = [_constants(finding), _moduli(finding), _stability(finding)]
    if finding.state is not None:
        made += [_states(finding, finding.state), _points(finding.state, len(finding.atoms))]
    made += [_symmetry(finding), _lost(finding), _how(finding, settings)]
    return tuple(table for table in made if table.rows)


def _constants(finding: Finding) -> Table:
    ways = (*finding.ways, finding.clamped)
    matrices = [finding.standard(way.constants) for way in ways]
    rows: list[tuple[Cell, ...]] = [
        (
            one.name,
            *(float(matrix[one.place]) for matrix in matrices),
            error_of(finding, finding.measured, one),
            ", ".join(f"C{i + 1}{j + 1}" for i, j in one.equal if i <= j),
        )
        for one in finding.independent
    ]
    turned = "" if np.allclose(finding.axes, np.eye(3), atol=1e-6) else ", which are not those of the file"
    note = (
        f"In the standard axes of {finding.group}{turned}. Error: what the point group or an energy forbids of the ± "
        "differences, rms over the entries that hold the constant. Clamped: projected, ions moving with the strain."
    )
    columns = ("constant", *(f"{way.name} (GPa)" for way in ways), "error of ± (GPa)", "held by")
    return Table("Independent elastic constants", columns, rows, note)


def _moduli(finding: Finding) -> Table:
    known = moduli_of(finding)
    rows: list[tuple[Cell, ...]] = [
        ("bulk modulus, Voigt (GPa)", *(one.bulk_voigt for one in known.values())),
        ("bulk modulus, Reuss (GPa)", *(one.bulk_reuss for one in known.values())),
        ("bulk modulus, Hill (GPa)", *(one.bulk for one in known.values())),
        ("shear modulus, Voigt (GPa)", *(one.shear_voigt for one in known.values())),
        ("shear modulus, Reuss (GPa)", *(one.shear_reuss for one in known.values())),
        ("shear modulus, Hill (GPa)", *(one.shear for one in known.values())),
        ("Young's modulus (GPa)", *(one.young for one in known.values())),
        ("Poisson's ratio", *(one.poisson for one in known.values())),
        ("universal anisotropy", *(one.universal for one in known.values())),
    ]
    if finding.is_cubic:
        matrices = [finding.standard(way.constants) for way in finding.ways]
        rows.append(("Zener ratio 2 C44 / (C11 − C12)", *(zener(c) for c in matrices)))
    sound = [waves(finding.atoms, one) for one in known.values()]
    rows += [
        ("longitudinal sound (m/s)", *(one.longitudinal_m_per_s for one in sound)),
        ("transverse sound (m/s)", *(one.transverse_m_per_s for one in sound)),
        ("Debye temperature (K)", *(one.debye_K for one in sound)),
    ]
    note = (
        f"Of an aggregate of grains in all directions, {sound[0].density_g_per_cm3:.4g} g/cm³. Voigt: one strain in "
        "all grains; Reuss: one stress; Hill: their mean, of which the others are made."
    )
    return Table("Moduli", ("modulus", *known), rows, note)


def _stability(finding: Finding) -> Table:
    values, strains = stiffnesses(finding.best.constants)
    rows = [(float(value), in_words(strain)) for value, strain in zip(values, strains, strict=True)]
    note = (
        "Stress along an orthonormal strain that causes no other: a crystal is stable if all are positive (Born). "
        "Projected constants, axes of the file."
    )
    return Table("Stiffness against strains", ("stiffness (GPa)", "strain"), rows, note)


def _states(finding: Finding, state: State) -> Table:
    n = len(finding.atoms)
    columns = (
        *("what", "V0 (Å³/atom)", "error of V0", "B0 (GPa)", "error of B0", "B0′", "error of B0′", "E0 (eV/atom)"),
        "rms residual",
        "bulk modulus of the constants (GPa)",
    )
    known: Moduli = moduli(finding.best.constants)
    rows: list[tuple[Cell, ...]] = []
    fits = [(fit, f"{fit.name}, of energies", f"{MEV * fit.residual / n:.3g} meV/atom") for fit in state.fits]
    if state.of_pressures is not None:
        other = state.of_pressures
        fits.append((other, f"{other.name}, of pressures", f"{other.residual:.3g} GPa"))
    for fit, what, residual in fits:
        volume, bulk, slope = fit.errors
        energy = f"{fit.energy / n:.6f}" if "energies" in what else None
        numbers = (f"{fit.volume / n:.4f}", volume / n, fit.bulk_GPa, bulk, fit.slope, slope, energy)
        rows.append((what, *numbers, residual, known.bulk_voigt))
    note = (
        "Errors: standard ones, from the scatter of points about the fit. Cells keep their shape, so that B0 is the "
        "bulk modulus of Voigt."
    )
    return Table("Equations of state", columns, rows, note)


def _points(state: State, n_atoms: int) -> Table:
    rows = [
        (f"{volume / n_atoms:.4f}", f"{energy / n_atoms:.6f}", float(pressure))
        for volume, energy, pressure in zip(state.volumes, state.energies, state.pressures_GPa, strict=True)
    ]
    columns = ("volume (Å³/atom)", "energy (eV/atom)", "pressure from the stress (GPa)")
    return Table("Energy and pressure over volume", columns, rows)


def _symmetry(finding: Finding) -> Table:
    columns = (
        *(
            "constants",
            "forbidden (%)",
            "noise floor (%)",
            "largest forbidden entry (GPa)",
            "largest C_ij − C_ji (GPa)",
        ),
    )
    rows = [
        (
            way.name,
            100 * forbidden_share(way),
            100 * noise_share(way),
            float(np.abs(way.forbidden).max()),
            float(np.abs(way.asymmetry).max()),
        )
        for way in (*finding.ways, finding.clamped)
        if way.name != "projected"
    ]
    note = "Forbidden: by the point group or by an energy. Noise floor: what rounded stresses and ions "
    note += "not quite at rest would make of it."
    return Table("Symmetry error of the elastic constants", columns, rows, note)


def _lost(finding: Finding) -> Table:
    note = "Constants of such cells are not those of ions at rest. Allow more steps, or a larger ions_fmax."
    return Table("Not at rest", ("cell", "why it ended"), finding.lost, note)


def _how(finding: Finding, settings: ElasticSettings) -> Table:
    rows: list[tuple[Cell, ...]] = [
        ("space group", str(finding.group)),
        ("point operations", finding.n_operations),
        ("strain amplitudes", ", ".join(f"{one:g}" for one in settings.strains)),
        ("largest component of the stress at rest (GPa)", finding.residual_GPa),
        ("largest allowed force at rest (meV/Å)", MEV * finding.force),
        ("largest forbidden force at rest (meV/Å)", MEV * finding.forbidden_force),
        ("structures that the potential was asked about", finding.n_calls),
        ("and for the average over turns", finding.n_calls_averaged),
        ("averaged over", finding.averaged_over or "nothing"),
    ]
    note = (
        "The constants are derivatives of the stress by the strain. At zero stress they are second derivatives of the "
        "energy; under pressure they are what decides about stability."
    )
    return Table("How it was measured", ("what", "value"), rows, note)
