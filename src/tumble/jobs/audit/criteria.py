"""Criteria: for each task the numbers that decide, where they come from, and what makes them smaller."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from tumble.jobs.audit.finding import Finding
from tumble.jobs.audit.ladder import Remedy
from tumble.jobs.audit.measures.spread import Sizes
from tumble.jobs.audit.settings import AuditSettings, Thresholds
from tumble.units import BOLTZMANN, MEV

Quantity = Callable[[Sizes, Finding, AuditSettings], float | None]


class Number(NamedTuple):
    """A number of one structure; None where it was not measured. Noise is what rounding alone would make of it."""

    value: float | None
    noise: float = 0.0


@dataclass(frozen=True)
class Criterion:
    """A number that must not be larger than a threshold.

    meaning:   what the number is.
    unit:      of it.
    number:    of a structure.
    threshold: the largest value that is good enough.
    measure:   which measure it comes from, see `tasks.MEASURES`.
    concerns:  whether a structure takes part.
    field:     name in `Sizes` of the error that the threshold is taken from, where labels are known.
    left:      what a remedy leaves of it; None where averaging does not help.
    cure:      what else makes it zero, and at what cost; None where nothing does.
    advice:    what to do where nothing makes it smaller.
    """

    meaning: str
    unit: str
    number: Callable[[Finding, AuditSettings], Number]
    threshold: Callable[[Thresholds], float]
    measure: str
    concerns: Callable[[Finding], bool] = lambda finding: True
    field: str | None = None
    left: Callable[[Finding, Remedy, AuditSettings], float | None] | None = None
    cure: tuple[str, str] | None = None
    advice: str = ""


def _of_spread(quantity: Quantity) -> Callable[[Finding, AuditSettings], Number]:
    def number(finding: Finding, settings: AuditSettings) -> Number:
        if finding.turned is None:
            return Number(None)
        noise = quantity(finding.turned.floor, finding, settings)
        return Number(quantity(finding.turned.spread, finding, settings), noise or 0.0)

    return number


def _left(quantity: Quantity) -> Callable[[Finding, Remedy, AuditSettings], float | None]:
    def left(finding: Finding, remedy: Remedy, settings: AuditSettings) -> float | None:
        return None if remedy.left is None else quantity(remedy.left, finding, settings)

    return left


def _scatter(
    meaning: str,
    unit: str,
    quantity: Quantity,
    threshold: Callable[[Thresholds], float],
    *,
    field: str | None = None,
    concerns: Callable[[Finding], bool] = lambda finding: True,
) -> Criterion:
    """A criterion on the rotational spread, which averaging makes smaller."""
    return Criterion(
        meaning, unit, _of_spread(quantity), threshold, "orbit", concerns, field=field, left=_left(quantity)
    )


def _is_crystal(finding: Finding) -> bool:
    return bool(finding.atoms.pbc.all())


def _kT(sizes: Sizes, finding: Finding, settings: AuditSettings) -> float:
    return sizes.energy_meV_per_atom * len(finding.atoms) / MEV / (BOLTZMANN * settings.temperature_K)


def _energy(sizes: Sizes, finding: Finding, settings: AuditSettings) -> float:
    return sizes.energy_meV_per_atom


def _force(sizes: Sizes, finding: Finding, settings: AuditSettings) -> float | None:
    return sizes.force_meV_per_A


def _worst(sizes: Sizes, finding: Finding, settings: AuditSettings) -> float | None:
    return sizes.worst_meV_per_A


def _stress(sizes: Sizes, finding: Finding, settings: AuditSettings) -> float | None:
    return sizes.stress_GPa


def _gap(finding: Finding, settings: AuditSettings) -> Number:
    gap = finding.dynamics.force_gap
    return Number(None) if gap is None else Number(gap.gap, gap.noise)


def _drift(finding: Finding, settings: AuditSettings) -> Number:
    drift = finding.dynamics.drift
    return Number(None) if drift is None else Number(drift.rate_K_per_ns, drift.noise_K_per_ns)


def _jump(finding: Finding, settings: AuditSettings) -> Number:
    smooth = finding.dynamics.smoothness
    if smooth is None:
        return Number(None)
    # Where no jump was found, the number only says how short a way was looked at.
    return Number(smooth.jump_meV, smooth.noise_meV) if smooth.n_jumps else Number(0.0)


def _displacement(finding: Finding, settings: AuditSettings) -> Number:
    shift = None if finding.rest is None else finding.rest.shift
    return Number(None) if shift is None else Number(shift.displacement_A, shift.noise_A)


def _lattice(finding: Finding, settings: AuditSettings) -> Number:
    shift = None if finding.rest is None else finding.rest.shift
    return Number(None) if shift is None else Number(shift.lattice_A, shift.noise_A)


def _elastic(finding: Finding, settings: AuditSettings) -> Number:
    elasticity = None if finding.rest is None else finding.rest.elasticity
    return Number(None) if elasticity is None else Number(elasticity.forbidden, elasticity.noise)


def _frequency(finding: Finding, settings: AuditSettings) -> Number:
    found = finding.frequencies
    return Number(None) if found is None else Number(found.worst_THz, found.floor_THz)


def _frequency_spread(finding: Finding, settings: AuditSettings) -> Number:
    found = finding.frequency_spread
    return Number(None) if found is None else Number(found.worst_THz, found.floor_THz)


def _frequency_left(finding: Finding, remedy: Remedy, settings: AuditSettings) -> float | None:
    """In proportion to what is left of the forces, whose slopes force constants are."""
    if finding.turned is None or finding.frequency_spread is None or remedy.left is None:
        return None
    spread, left = finding.turned.spread.force_meV_per_A, remedy.left.force_meV_per_A
    return None if not spread or left is None else finding.frequency_spread.worst_THz * left / spread


def _constants(finding: Finding, settings: AuditSettings) -> Number:
    found = finding.frequencies
    return (
        Number(None)
        if found is None
        else Number(found.forbidden, found.forbidden * found.floor_THz / max(found.rms_THz, 1e-300))
    )


def _has_rest(finding: Finding) -> bool:
    """Whether the symmetry of a structure can forbid anything, and it was asked about."""
    return finding.rest is not None or "rest" in finding.skipped


def _has_curvature(finding: Finding) -> bool:
    return finding.frequencies is not None or "curvature" in finding.skipped


PROJECT: Final = ('symmetrize(..., "none", project="crystal"): leaves 0', "1 call and a search for the symmetry")
CONSERVE: Final = "use forces that are the derivative of the energy, or a thermostat; averaging does not help"

CRITERIA: Final[dict[str, tuple[Criterion, ...]]] = {
    "molecule": (
        _scatter(
            "standard deviation of the orientational free energy",
            "k_BT",
            _kT,
            lambda limits: limits.molecule_kT,
            concerns=lambda finding: finding.is_molecule,
        ),
    ),
    "energies": (
        _scatter(
            "rotational spread of the energy",
            "meV/atom",
            _energy,
            lambda limits: limits.energy_meV_per_atom,
            field="energy_meV_per_atom",
        ),
    ),
    "nvt": (
        _scatter(
            "rotational spread of a force component",
            "meV/Å",
            _force,
            lambda limits: limits.force_meV_per_A,
            field="force_meV_per_A",
        ),
    ),
    "nve": (
        Criterion("force gap", "", _gap, lambda limits: limits.force_gap, "dynamics", advice=CONSERVE),
        Criterion(
            "heating by forces that are no gradient, estimated from λ,",
            "K/ns",
            _drift,
            lambda limits: limits.drift_K_per_ns,
            "dynamics",
            advice=CONSERVE,
        ),
        Criterion(
            "energy that is not the work of the forces across the cutoff",
            "meV",
            _jump,
            lambda limits: limits.jump_meV,
            "dynamics",
            advice="use a potential that goes to zero smoothly at its cutoff",
        ),
    ),
    "relax": (
        _scatter(
            "rotational spread of the force on the worst atom", "meV/Å", _worst, lambda limits: limits.relax_meV_per_A
        ),
        Criterion(
            "displacement by forbidden forces",
            "Å",
            _displacement,
            lambda limits: limits.symprec_A,
            "rest",
            _has_rest,
            cure=PROJECT,
        ),
    ),
    "cell": (
        _scatter(
            "rotational spread of a stress component",
            "GPa",
            _stress,
            lambda limits: limits.stress_GPa,
            concerns=_is_crystal,
        ),
        Criterion(
            "displacement of a lattice point by forbidden stress",
            "Å",
            _lattice,
            lambda limits: limits.symprec_A,
            "rest",
            lambda finding: _is_crystal(finding) and _has_rest(finding),
            cure=PROJECT,
        ),
    ),
    "elastic": (
        Criterion(
            "forbidden share of the elastic constants",
            "",
            _elastic,
            lambda limits: limits.elastic_share,
            "rest",
            lambda finding: _is_crystal(finding) and _has_rest(finding),
            cure=("project the elastic constants on the point group: leaves 0", "no call"),
        ),
    ),
    "phonons": (
        Criterion(
            "largest shift of a frequency by forbidden force constants",
            "THz",
            _frequency,
            lambda limits: limits.frequency_THz,
            "curvature",
            _has_curvature,
            cure=("project the force constants on the space group: leaves 0", "no call"),
        ),
        Criterion(
            "scatter of a frequency over orientations",
            "THz",
            _frequency_spread,
            lambda limits: limits.frequency_THz,
            "curvature",
            lambda finding: _has_curvature(finding) and "frequencies over orientations" not in finding.skipped,
            left=_frequency_left,
        ),
    ),
    "conductivity": (
        Criterion(
            "forbidden share of the force constants (of second order; the third was not measured)",
            "",
            _constants,
            lambda limits: limits.conductivity_share,
            "curvature",
            lambda finding: _is_crystal(finding) and _has_curvature(finding),
            cure=("project the force constants on the space group: leaves 0", "no call"),
        ),
    ),
}
"""What decides about each task; all of its criteria must hold."""
