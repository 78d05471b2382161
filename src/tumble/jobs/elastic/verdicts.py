"""Verdicts: whether the constants are symmetric enough, the crystal stable, and energies and stress of one mind."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tumble.jobs.elastic.finding import Finding, State
from tumble.jobs.elastic.settings import ElasticSettings
from tumble.jobs.elastic.strain import Stiffness
from tumble.jobs.elastic.tensor import NAMES, Floats, moduli, norm, stiffnesses
from tumble.results import Verdict, number

PRESSED = 0.01
"""Stress at rest, as a share of the largest constant, that is worth a word."""

SOFT = 1e-5
"""Of the largest stiffness: what differences over finite strains leave of one that is zero."""


def judge(finding: Finding, settings: ElasticSettings) -> tuple[Verdict, ...]:
    """Symmetry of the constants, stability, and of an equation of state its fit and its pressure."""
    verdicts = [_symmetry(finding, settings), _stability(finding, settings)]
    if finding.state is not None:
        verdicts += [_fit(finding, finding.state, settings), _pressure(finding, finding.state, settings)]
    return tuple(verdicts)


def forbidden_share(way: Stiffness) -> float:
    """The forbidden part of constants as a share of them."""
    return norm(way.forbidden) / max(norm(way.constants), 1e-300)


def noise_share(way: Stiffness) -> float:
    """What rounded stresses and ions not quite at rest would make of that share."""
    return way.noise_GPa * norm(np.ones((6, 6))) / max(norm(way.constants), 1e-300)


def in_words(strain: Floats) -> str:
    """A strain (3, 3) by its components, those that count."""
    if np.allclose(strain, np.trace(strain) / 3 * np.eye(3), atol=0.02):
        return "a change of volume"
    components = strain[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    components = components * np.sign(components[np.abs(components).argmax()])
    shown = [f"{one:+.2f} {name}" for one, name in zip(components, NAMES, strict=True) if abs(one) > 0.05]
    return " ".join(shown).replace("-", "−")


def _symmetry(finding: Finding, settings: ElasticSettings) -> Verdict:
    way, limit = finding.measured, settings.elastic_share
    share, noise = forbidden_share(way), noise_share(way)
    reason = (
        f"{number(100 * share)} % of the constants is forbidden by the {finding.n_operations} operations of the point "
        f"group or by an energy; the limit is {number(100 * limit)} %"
    )
    averaged = finding.way("averaged")
    if averaged is not None:
        reason += f"; averaged over {finding.averaged_over}, {number(100 * forbidden_share(averaged))} % is"
    pressed = ""
    if finding.residual_GPa > PRESSED * np.abs(way.constants).max():
        pressed = f"; at a stress of {number(finding.residual_GPa)} GPa these are no second derivatives of the energy"
    reason += pressed
    verdict = Verdict("elastic constants", "yes", share, limit, "", reason, floor=noise, key="elastic")
    if finding.lost_strains:
        return replace(verdict, answer="unknown", reason=f"{_at_large(finding.lost_strains)}; {reason}")
    if share <= limit:
        if share <= settings.floor_factor * noise:
            reason = (
                f"what is forbidden of the constants is at the noise floor, {number(100 * noise)} % of them{pressed}"
            )
            return replace(verdict, reason=reason)
        return verdict
    if share <= settings.floor_factor * noise:
        return replace(verdict, answer="unknown", reason=f"{reason}; noise alone makes {number(100 * noise)} % of it")
    return replace(verdict, answer="remedy", remedy="use the projected constants", cost="no call")


def _stability(finding: Finding, settings: ElasticSettings) -> Verdict:
    values, strains = stiffnesses(finding.best.constants)
    noise = max(settings.floor_factor * finding.best.noise_GPa, SOFT * float(values[-1]))
    error = max(norm(finding.best.forbidden), noise)
    lowest, soft = float(values[0]), in_words(strains[0])
    reason = f"the softest strain, {soft}, has a stiffness of {number(lowest)} GPa"
    floor = finding.best.noise_GPa
    verdict = Verdict("elastic stability (Born)", "yes", 0 - lowest, 0.0, "GPa", reason, floor=floor, key="stability")
    if lowest > error:
        return verdict
    if lowest < -error:
        return replace(verdict, answer="no")
    return replace(verdict, answer="unknown", reason=f"{reason}, within the error of {number(error)} GPa")


def _at_large(lost: Sequence[tuple[str, str]]) -> str:
    first, why = lost[0]
    return f"{len(lost)} cells are not at rest, such as {first}: {why}"


def _fit(finding: Finding, state: State, settings: ElasticSettings) -> Verdict:
    verdict = Verdict("equation of state", "yes", None, settings.fit_share, "", "", floor=state.fit_floor, key="eos")
    if finding.lost_volumes:
        return replace(verdict, answer="unknown", reason=_at_large(finding.lost_volumes))
    if not state.fits:
        reason = f"the energies of {len(state.volumes)} volumes have no minimum in sight"
        return replace(verdict, answer="no", reason=reason, remedy="relax the cell first")
    best, share = state.best, state.fit_share
    known, said = moduli(finding.best.constants).bulk_voigt, best.bulk_at_GPa(finding.atoms.cell.volume)
    apart = abs(said - known) / max(abs(known), 1e-300)
    reason = f"energies lie {number(100 * share)} % of their range from {best.name}, the better fit, rms"
    bulks = f"the bulk modulus of {best.name} at the volume of the crystal is {number(said)} GPa, from the constants "
    bulks += f"{number(known)}: {number(100 * apart)} % apart"
    verdict = replace(verdict, value=share, reason=f"{reason}; {bulks}")
    if not state.volumes[0] <= best.volume <= state.volumes[-1]:
        reason = f"the minimum, at {number(best.volume)} Å³, lies outside of the volumes; {reason}"
        return replace(verdict, answer="no", reason=reason, remedy="relax the cell first")
    if share > settings.fit_share:
        if share <= settings.floor_factor * state.fit_floor:
            return replace(verdict, answer="unknown", reason=f"{verdict.reason}; rounding alone makes as much")
        return replace(verdict, answer="no", remedy="choose a smaller volume_change")
    if apart > settings.bulk_share:
        verdict = replace(verdict, value=apart, threshold=settings.bulk_share, floor=None, reason=f"{bulks}; {reason}")
        return replace(verdict, answer="no", remedy="choose a smaller volume_change")
    return verdict


def _pressure(finding: Finding, state: State, settings: ElasticSettings) -> Verdict:
    share, limit, gaps = state.pressure_share, settings.pressure_share, state.gaps_GPa
    reason = (
        f"the pressure from the stress is {number(float(np.sqrt(np.mean(gaps**2))))} GPa, rms, from the slope of the "
        f"energy ({number(float(gaps.mean()))} on average), {number(100 * share)} % of its range"
    )
    task, floor = "stress as the derivative of the energy", state.pressure_floor
    verdict = Verdict(task, "yes", share, limit, "", reason, floor=floor, key="pressure")
    if finding.lost_volumes:
        return replace(verdict, answer="unknown", reason=f"{_at_large(finding.lost_volumes)}; {reason}")
    if share <= limit:
        return verdict
    if share <= settings.floor_factor * floor:
        return replace(verdict, answer="unknown", reason=f"{reason}; rounding alone makes as much")
    return replace(verdict, answer="no", remedy="use the stress that is the derivative of the energy")
