"""Figures of elasticity: constants as matrices and as bars, energies and pressures over volumes."""

import numpy as np

from tumble.jobs.elastic.finding import Finding, State
from tumble.jobs.elastic.strain import Stiffness
from tumble.jobs.elastic.tensor import NAMES, Constant, Floats
from tumble.results import Curve, Heat, Series
from tumble.units import MEV

Figure = Curve | Heat

FINE = 200
"""Points of a line."""


def figures(finding: Finding) -> tuple[Figure, ...]:
    """All figures, most telling first."""
    made: list[Figure] = [*_matrices(finding), _constants(finding)]
    if finding.state is not None:
        n_atoms = len(finding.atoms)
        made += [_energies(finding.state, n_atoms), _pressures(finding.state, n_atoms)]
        made += [_residuals(finding.state, n_atoms)] if finding.state.fits else []
    return tuple(made)


def error_of(finding: Finding, way: Stiffness, constant: Constant) -> float:
    """Root mean square of what is forbidden of the entries that hold a constant, in the standard axes, GPa."""
    forbidden = finding.standard(way.forbidden)
    return float(np.sqrt(np.mean([forbidden[place] ** 2 for place in constant.equal])))


def _matrices(finding: Finding) -> list[Heat]:
    best = finding.best
    where = "Axes of the file; rows are the stress, columns the strain, shear strains doubled."
    return [
        Heat("Elastic constants, projected", "GPa", NAMES, NAMES, best.constants, note=where),
        Heat(
            "Forbidden part of the elastic constants",
            "GPa",
            NAMES,
            NAMES,
            best.forbidden,
            note=f"What the {finding.n_operations} operations of {finding.group} or an energy forbid of the ± "
            "differences; it is their error bar, and zero is right.",
        ),
    ]


def _constants(finding: Finding) -> Curve:
    names = [one.name for one in finding.independent]
    series = []
    for way in (*finding.ways, finding.clamped):
        standard = finding.standard(way.constants)
        values = [standard[one.place] for one in finding.independent]
        errors = [error_of(finding, way, one) for one in finding.independent]
        name = f"{way.name} over {finding.averaged_over}" if way.name == "averaged" else way.name
        series.append(Series(name, names, values, errors))
    note = (
        "In the standard axes of the crystal. raw: one-sided differences; ±: central ones; projected: of these what "
        "the point group allows; clamped: ions carried along by the strain. Whiskers: what is forbidden, rms over the "
        "entries that hold a constant."
    )
    return Curve("Independent elastic constants", "constant", "GPa", series, kind="bars", note=note)


def _energies(state: State, n_atoms: int) -> Curve:
    fine = np.linspace(state.volumes[0], state.volumes[-1], FINE)
    lowest = state.fits[0].energy if state.fits else float(state.energies.min())
    series = [Series(fit.name, fine / n_atoms, _per_atom(fit.energies(fine) - lowest, n_atoms)) for fit in state.fits]
    series.append(Series("computed", state.volumes / n_atoms, _per_atom(state.energies - lowest, n_atoms)))
    note = "Ions relaxed in cells of one shape. The computed points are joined by straight lines."
    return Curve("Energy over volume", "volume, Å³/atom", "energy above the lowest, meV/atom", series, note=note)


def _residuals(state: State, n_atoms: int) -> Curve:
    volumes = state.volumes / n_atoms
    series = [
        Series(fit.name, volumes, _per_atom(state.energies - fit.energies(state.volumes), n_atoms))
        for fit in state.fits
    ]
    note = "Computed energies less the fitted ones. A wave is the form of the equation, scatter is noise."
    return Curve("What the equations of state leave", "volume, Å³/atom", "residual, meV/atom", series, note=note)


def _pressures(state: State, n_atoms: int) -> Curve:
    fine = np.linspace(state.volumes[0], state.volumes[-1], FINE)
    series = [Series(f"slope of {fit.name}", fine / n_atoms, fit.pressures_GPa(fine)) for fit in state.fits]
    series.append(Series("from the stress", state.volumes / n_atoms, state.pressures_GPa))
    note = "The slope of the energy, and minus a third of the trace of the stress: they agree if one is the derivative."
    return Curve("Pressure over volume", "volume, Å³/atom", "pressure, GPa", series, note=note)


def _per_atom(energies: Floats, n_atoms: int) -> Floats:
    return np.asarray(MEV * energies / n_atoms)
