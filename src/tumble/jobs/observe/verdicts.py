"""Verdicts: whether trajectories are long enough, and as warm as their thermostat says."""

from collections.abc import Sequence

from tumble.jobs.observe.finding import Finding
from tumble.jobs.observe.settings import ObserveSettings
from tumble.results import Verdict, number

SIGMAS = 3.0
"""Standard errors that chance explains."""

FEWEST = 20
"""Independent samples of the temperature, below which nothing is said of its distribution."""

UNEVEN = 0.02
"""Of the temperature, by which elements may differ; less matters to nobody."""


def judge(findings: Sequence[Finding], settings: ObserveSettings) -> tuple[Verdict, ...]:
    """On sampling; on kinetic energies and on elements where temperatures are known."""
    made = [_sampling(findings, settings)]
    if any(one.warmth is not None for one in findings):
        made += [_kinetic(findings), _species(findings)]
    return tuple(made)


def _sampling(findings: Sequence[Finding], settings: ObserveSettings) -> Verdict:
    """The slowest observable of the trajectory that has the fewest independent samples of it."""
    task = "Sampling"
    known = [(mean.n_independent, name, one) for one in findings for name, mean in one.slowest.items()]
    if not known:
        reason = "no energy, temperature or direction is known, whose correlation could be measured"
        return Verdict(task, "unknown", None, None, "ps", reason, "frames with energies or momenta", key="sampling")
    n, name, worst = min(known, key=lambda row: row[0])
    length = worst.span.length_ps
    value, limit = length / n, length / settings.enough
    said = f"{number(n)} independent samples of the {name} in {number(length)} ps of {worst.name}"
    if n >= settings.enough:
        return Verdict(task, "yes", value, limit, "ps", f"{said}, and more of all else", key="sampling")
    remedy = f"run about {number(length * settings.enough / n, 2)} ps"
    reason = f"{said}, of {number(settings.enough)} that are enough: error bars are themselves uncertain"
    return Verdict(task, "remedy", value, limit, "ps", reason, remedy, key="sampling")


def _kinetic(findings: Sequence[Finding]) -> Verdict:
    """The largest deviation of mean or width of the kinetic energies, in standard errors."""
    task = "Kinetic energies"
    checked = [
        (max(kinetic.mean_sigmas, kinetic.width_sigmas), one.name, warm.target_K, kinetic)
        for one in findings
        if (warm := one.warmth) is not None
        and (kinetic := warm.kinetic) is not None
        and warm.mean.n_independent >= FEWEST
    ]
    if not checked:
        has_thermostat = any(one.warmth is not None and one.warmth.target_K is not None for one in findings)
        reason = f"there are fewer than {FEWEST} independent samples of the temperature"
        remedy = "run longer"
        if not has_thermostat:
            reason, remedy = (
                "no thermostat is known whose distribution they should have",
                "--temperature-K, if it had one",
            )
        return Verdict(task, "unknown", None, SIGMAS, "σ", reason, remedy, key="kinetic")
    worst, name, target, kinetic = max(checked, key=lambda row: row[0])
    said = (
        f"mean and width of {name} are those of {number(kinetic.mean_K, 4)} and {number(kinetic.width_K, 4)} K, of the "
        f"thermostat's {number(target)} K"
    )
    if worst <= SIGMAS:
        return Verdict(task, "yes", worst, SIGMAS, "σ", f"{said}: what chance explains", key="kinetic")
    is_mean = kinetic.mean_sigmas > SIGMAS
    cause = "heat flows in or out faster than the thermostat follows" if is_mean else "fluctuations are not canonical"
    remedy = "leave out the start (--start-ps), a shorter time step, a conservative or averaged potential"
    remedy = remedy if is_mean else "a thermostat that is canonical: svr, langevin, nhc"
    return Verdict(task, "remedy", worst, SIGMAS, "σ", f"{said}: {cause}", remedy, key="kinetic")


def _species(findings: Sequence[Finding]) -> Verdict:
    """The largest difference between the temperature of an element and that of all, beyond what chance explains."""
    task = "Temperatures of elements"
    rows = []
    for one in findings:
        if one.warmth is not None and len(one.warmth.of_species) > 1:
            for symbol, mean in one.warmth.of_species.items():
                apart = mean.value - one.warmth.mean.value
                limit = max(SIGMAS * mean.error, UNEVEN * one.warmth.mean.value)
                rows.append((abs(apart) / max(limit, 1e-300), apart, limit, symbol, one.name))
    if not rows:
        return Verdict(task, "unknown", None, None, "K", "there is one element", key="species")
    share, apart, limit, symbol, name = max(rows, key=lambda row: row[0])
    said = f"{symbol} of {name} is {number(abs(apart))} K {'hotter' if apart > 0 else 'colder'} than all atoms"
    if share <= 1:
        return Verdict(task, "yes", abs(apart), limit, "K", f"{said}: within its error or 2 %", key="species")
    remedy = "a conservative or averaged potential, or a local thermostat (--thermostat langevin)"
    reason = f"{said}, which a global thermostat hides: forces do work that they should not"
    return Verdict(task, "remedy", abs(apart), limit, "K", reason, remedy, key="species")
