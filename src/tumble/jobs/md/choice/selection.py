"""Choose: the cheapest number of fast steps to a slow one that heats no more than allowed."""

from collections.abc import Callable, Iterator, Sequence
from math import ceil, hypot, sqrt
from typing import Final, NamedTuple

import numpy as np
from ase import Atoms

from tumble.jacobian import NonConservation, non_conservation
from tumble.jacobian.drift import Drift, drift_of
from tumble.jobs.md.choice.recording import Cost, Record, alone, record
from tumble.jobs.md.choice.spectrum import FS_PER_NS, Spectrum
from tumble.jobs.md.motion import Motion
from tumble.jobs.md.settings import MDSettings
from tumble.jobs.md.trend import Trend
from tumble.potential import Potential
from tumble.results import Curve, Fact, Progress, Series, Table, number
from tumble.symmetry import levels
from tumble.units import BOLTZMANN

MOST_STEPS: Final = 40
"""Fast steps to a slow one that are considered."""

TRIAL_FS: Final = 200.0
"""Length of the simulation in which a choice is tried; at least `TRIAL_STEPS` impulses, and no more than the record."""

TRIAL_STEPS: Final = 10

N_TRIALS: Final = 3

UNSTABLE: Final = 0.2
"""Of the temperature: a conserved quantity that scatters by more is none."""

SHOWN: Final = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32, 36, 40)
"""Numbers of steps in the table."""

WAVENUMBER: Final = 33356.40952
"""1/fs in cm⁻¹."""


class Candidate(NamedTuple):
    """A number of steps that was looked at.

    steps:            fast steps to a slow one.
    outer_fs:         time between impulses.
    cost:             of an innermost step, × a raw one.
    heating_K_per_ns: predicted.
    error_K_per_ns:   its standard error.
    """

    steps: tuple[int, ...]
    outer_fs: float
    cost: float
    heating_K_per_ns: float
    error_K_per_ns: float


class Choice(NamedTuple):
    """How many fast steps to a slow one, and why.

    steps:            what to give to `Motion.of`; empty where none is good enough.
    outer_fs:         time between slow forces.
    cost:             of an innermost step, × one with the potential before it is averaged.
    heating_K_per_ns: predicted; 0 without multiple time steps.
    candidates:       all that were looked at, from small steps to large ones.
    spectrum:         where in frequency the difference of the forces does work.
    reason:           one line.
    cost_without:     of a step with the slow forces alone, × a raw one.
    n_raw:            raw calls that the choice took.
    tried:            drift of the conserved quantity with the last steps tried, K/ns, and its scatter, K; or None.
    conservation:     λ of fast forces that are no gradient, else None.
    drift:            what λ lets expect of a simulation with the fast forces alone, else None.
    """

    steps: tuple[int, ...]
    outer_fs: float
    cost: float
    heating_K_per_ns: float
    candidates: tuple[Candidate, ...]
    spectrum: Spectrum
    reason: str
    cost_without: float
    n_raw: float
    tried: Trend | None = None
    conservation: NonConservation | None = None
    drift: Drift | None = None

    def facts(self) -> tuple[Fact, ...]:
        """A table of some candidates; if there is any difference between the forces, heating and the spectrum too."""
        made = [_table(self)]
        return (*made, _heating(self), _density(self)) if self.candidates and self.spectrum.density.any() else (*made,)


def choose(
    potential: Potential,
    atoms: Atoms,
    settings: MDSettings,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Choice:
    """The cheapest number of steps whose predicted heating, with its error, is allowed by the settings.

    A short simulation at constant energy records the work v·(F_slow - F_fast); its spectrum predicts the heating for
    every number of steps at once. What is chosen is then tried in a short simulation; where that heats more than
    allowed beyond its error, the next shorter step is.

    Args:
        potential: of the slow forces; the fast ones are those of its first level.
        atoms: with momenta.
        settings: time step, allowed heating, seed.
        tell: called as it goes on.

    Raises:
        ValueError: the potential has no faster level.
    """
    fast, slow = levels(potential, 2)
    seen = record(fast, slow, atoms, settings, tell)
    spectrum = Spectrum.of(seen.powers, seen.interval_fs)
    candidates = tuple(_candidates(spectrum, seen, settings.timestep_fs))
    conservation = drift = None
    if not fast.is_conservative:
        tell(Progress(0, 0, "how far the fast forces are from a gradient"))
        conservation = non_conservation(fast, seen.atoms)
        drift = None if conservation is None else drift_of(conservation, seen.temperature_K)
    chosen, tried, n_tried = _first_that_holds(candidates, potential, seen, settings, tell)
    return Choice(
        () if chosen is None else chosen.steps,
        settings.timestep_fs if chosen is None else chosen.outer_fs,
        seen.cost.of(1) if chosen is None else chosen.cost,
        0.0 if chosen is None else chosen.heating_K_per_ns,
        candidates,
        spectrum,
        _reason(chosen, candidates, tried, settings, seen.cost),
        seen.cost.of(1),
        seen.n_raw + n_tried,
        tried,
        conservation,
        drift,
    )


def _candidates(spectrum: Spectrum, seen: Record, timestep_fs: float) -> Iterator[Candidate]:
    """All numbers of steps that the record can speak of and that are cheaper than none, fewest first."""
    for n_steps in range(2, MOST_STEPS + 1):
        outer_fs, cost = n_steps * timestep_fs, seen.cost.of(n_steps)
        is_known = spectrum.shortest_fs <= outer_fs * (1 + 1e-9) and outer_fs <= spectrum.longest_fs
        if is_known and cost < seen.cost.of(1):
            heating = spectrum.heating(outer_fs, seen.temperature_K, len(seen.atoms))
            yield Candidate((n_steps,), outer_fs, cost, *heating)


def _first_that_holds(
    candidates: Sequence[Candidate],
    potential: Potential,
    seen: Record,
    settings: MDSettings,
    tell: Callable[[Progress], None],
) -> tuple[Candidate | None, Trend | None, float]:
    """The cheapest allowed candidate that a short simulation does not refute, its drift there, and raw calls taken."""
    allowed, tried, n_raw, most = settings.heating_allowed_K_per_ns, None, 0.0, MOST_STEPS
    for trial in range(N_TRIALS):
        good = [
            one for one in candidates if one.steps[0] <= most and one.heating_K_per_ns + one.error_K_per_ns <= allowed
        ]
        if not good:
            break
        tell(Progress(trial + 1, N_TRIALS, f"{good[-1].steps[0]} fast steps to a slow one"))
        tried, n_tried = _try(good[-1], potential, seen, settings)
        n_raw += n_tried
        expected = max(allowed, 2 * (good[-1].heating_K_per_ns + good[-1].error_K_per_ns))
        if tried.rate - 2 * tried.error <= expected and tried.scatter <= UNSTABLE * seen.temperature_K:
            return good[-1], tried, n_raw
        most = int(0.8 * good[-1].steps[0])
    return None, tried, n_raw


def _try(one: Candidate, potential: Potential, seen: Record, settings: MDSettings) -> tuple[Trend, float]:
    """Drift of the conserved quantity in a short simulation at constant energy, K/ns, and what it took in raw calls.

    Impulses that heat by R also make the energy wander, by 2 k_B T R in a unit of time: the error knows of it.
    """
    price = one.steps[0] * one.cost
    n_impulses = int(np.clip(seen.n_raw / price, TRIAL_STEPS, max(TRIAL_STEPS, ceil(TRIAL_FS / one.outer_fs))))
    motion = Motion.of(potential, seen.atoms, alone(settings), one.steps)
    instants = [motion.now()]
    for _ in range(n_impulses):
        motion.advance()
        instants.append(motion.now())
    n, time_ns = 3 * len(seen.atoms), n_impulses * one.outer_fs / FS_PER_NS
    kelvin = [instant.conserved_eV / (n * BOLTZMANN) for instant in instants]
    found = Trend.of([instant.time_ps / 1000 for instant in instants], kelvin)
    heating = one.heating_K_per_ns + one.error_K_per_ns
    wandering = sqrt(2 * seen.temperature_K * heating / (n * time_ns))
    return found._replace(error=hypot(found.error, wandering)), n_impulses * price


def _reason(
    chosen: Candidate | None, candidates: Sequence[Candidate], tried: Trend | None, settings: MDSettings, cost: Cost
) -> str:
    """One line."""
    allowed = f"{number(settings.heating_allowed_K_per_ns)} K/ns"
    if chosen is not None:
        heating, error = number(chosen.heating_K_per_ns, 2), number(chosen.error_K_per_ns, 2)
        held = f", {number(chosen.heating_K_per_ns * settings.thermostat_fs / FS_PER_NS, 2)} K with the thermostat"
        return (
            f"{chosen.steps[0]} fast steps to a slow one every {chosen.outer_fs:g} fs: predicted to heat by {heating} "
            f"± {error} K/ns{'' if settings.ensemble == 'nve' else held} (allowed {allowed}), at {number(chosen.cost)} "
            f"times a raw step instead of {number(cost.of(1))}"
        )
    if not candidates:
        return f"slow forces at every step cost {number(cost.of(1))} times a raw step; multiple time steps save nothing"
    least = min(candidates, key=lambda one: one.heating_K_per_ns)
    heating, error = number(least.heating_K_per_ns, 2), number(least.error_K_per_ns, 2)
    why = f"the least is {heating} ± {error} K/ns with {least.steps[0]}"
    if tried is not None:
        why = "those that were predicted to heat less do heat more when they are tried"
    return (
        f"no number of fast steps heats less than the {allowed} allowed: {why}. Slow forces at every step, at "
        f"{number(cost.of(1))} times a raw step; allow more (mts_heating_K_per_ns) with a thermostat that takes it away"
    )


def _table(choice: Choice) -> Table:
    shown = [one for one in choice.candidates if one.steps == choice.steps or one.steps[0] in SHOWN]
    rows = [
        (one.steps[0], one.outer_fs, one.cost, one.heating_K_per_ns, one.error_K_per_ns, one.steps == choice.steps)
        for one in shown
    ]
    columns = ("fast steps", "outer step, fs", "cost, × raw", "heating, K/ns", "± K/ns", "chosen")
    note = f"{choice.reason}."
    if choice.tried is not None and choice.steps:
        note += f" Tried: {number(choice.tried.rate, 2)} ± {number(choice.tried.error, 2)} K/ns."
    if choice.conservation is not None and choice.drift is not None:
        note += (
            f" Fast forces are no gradient, λ = {number(choice.conservation.ratio, 2)}: alone they would heat by "
            f"{number(choice.drift.rate_K_per_ns, 2)} K/ns, to a factor of a few."
        )
    return Table("Multiple time steps", columns, rows, note)


def _heating(choice: Choice) -> Curve:
    x, y, error = ([one[k] for one in choice.candidates] for k in (1, 3, 4))
    return Curve(
        "Heating by multiple time steps",
        "time between impulses, fs",
        "heating, K/ns",
        [Series("predicted", x, y, error)],
        log_y=True,
        note="Valleys lie between periods of vibrations, their overtones and multiples, with which impulses resonate.",
    )


def _density(choice: Choice) -> Curve:
    shown = slice(1, None, 4)  # the record is padded to four times its length
    wavenumbers, density = WAVENUMBER * choice.spectrum.frequencies[shown], choice.spectrum.density[shown]
    return Curve(
        "Work of the difference of slow and fast forces",
        "frequency, cm⁻¹",
        "power spectrum, eV²/fs",
        [Series("slow − fast", wavenumbers, density)],
        log_y=True,
    )
