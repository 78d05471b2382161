"""What uncertainties are worth: predicted beside actual errors, as figures and a table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, final

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, spearmanr

from tumble.jobs.train.extras import Uncertainty
from tumble.results import Curve, Fact, Result, Series, Table, Verdict

Floats = NDArray[np.float64]

BINS: Final = 10
"""Of the reliability diagram, each with as many answers."""

FEWEST: Final = 3
"""Answers in a bin."""

UNITS: Final = {"energy": ("energies", "eV/atom"), "forces": ("forces", "eV/Å")}


class Reliability(NamedTuple):
    """What n predicted standard deviations are worth.

    within:         fractions of errors within 1 and within 2 of them; 0.683 and 0.954 are right.
    z:              root mean square of error / sigma; 1 is right.
    likelihood:     mean negative log likelihood of the errors, normally distributed with these deviations.
    constant:       the same with one deviation for all, the root mean square error; it should be larger.
    miscalibration: area between the fractions expected and found within every interval; 0 is right, 0.5 the worst.
    correlation:    rank correlation of deviations and sizes of errors, 0 to 1.
    """

    n: int
    within: tuple[float, float]
    z: float
    likelihood: float
    constant: float
    miscalibration: float
    correlation: float


def reliability(sigma: ArrayLike, error: ArrayLike) -> Reliability:
    """Compare predicted standard deviations (n,) with the errors (n,) that were made.

    Source: of the area, Tran et al., Mach. Learn.: Sci. Technol. 1, 025006 (2020), doi:10.1088/2632-2153/ab7e1a.
    """
    s, e = np.asarray(sigma, dtype=np.float64), np.asarray(error, dtype=np.float64)
    z = np.abs(e) / s
    # The k-th smallest z belongs to an interval that should hold p of all and holds k / n.
    expected, found = 2 * norm.cdf(np.sort(z)) - 1, (np.arange(len(z)) + 0.5) / len(z)
    area = float(np.trapezoid(np.abs(expected - found), found)) if len(z) > 1 else float("nan")
    varies = len(s) > 2 and np.ptp(s) > 0
    return Reliability(
        n=len(s),
        within=(float((z <= 1).mean()), float((z <= 2).mean())),
        z=float(np.sqrt((z**2).mean())),
        likelihood=float((np.log(s) + z**2 / 2).mean() + math.log(2 * math.pi) / 2),
        constant=float(np.log((e**2).mean()) / 2 + 0.5 + math.log(2 * math.pi) / 2),
        miscalibration=area,
        correlation=float(spearmanr(s, np.abs(e))[0]) if varies else float("nan"),
    )


def calibration_facts(arrays: Mapping[str, Floats]) -> tuple[Fact, ...]:
    """Figures and a table of what `certainty.fit` found; nothing where the arrays hold no uncertainty."""
    known = {name: pair for name in UNITS if (pair := _pair(arrays, name)) is not None}
    if not known:
        return ()
    figures = [figure(name, *pair) for name, pair in known.items() for figure in (_diagram, _sparsification)]
    scores = arrays.get("uncertainty_scores")
    return (
        _table(known, arrays),
        *figures,
        _histogram(known),
        *([] if scores is None else [_learning(scores)]),
    )


def _pair(arrays: Mapping[str, Floats], name: str) -> tuple[Floats, Floats] | None:
    sigma, error = (arrays.get(f"uncertainty_{name}_{what}") for what in ("sigma", "error"))
    return None if sigma is None or error is None or not len(sigma) else (sigma, error)


def _table(known: Mapping[str, tuple[Floats, Floats]], arrays: Mapping[str, Floats]) -> Table:
    columns = (
        *("of", "compared", "scale", "within 1 σ", "within 2 σ", "rms error / σ", "negative log likelihood"),
        *("with one σ for all", "miscalibration area", "rank correlation"),
    )
    scales = {"energy": arrays.get("uncertainty_alpha"), "forces": arrays.get("uncertainty_forces_scale")}
    rows = []
    for name, pair in known.items():
        found, scale = reliability(*pair), scales[name]
        rest = (*found.within, found.z, found.likelihood, found.constant, found.miscalibration, found.correlation)
        rows.append((UNITS[name][0], found.n, None if scale is None else float(scale[0]), *rest))
    n = len(known["energy"][0]) if "energy" in known else 0
    note = (
        "On structures that were not trained on, which also set the scales. 0.683 and 0.954 within 1 and 2 σ, an rms "
        f"of 1 and an area of 0 are right; {n} energies tell the scale to about {76 / math.sqrt(max(n, 1)):.0f} %."
    )
    return Table("How sure: uncertainties against errors", columns, rows, note)


def _diagram(name: str, sigma: Floats, error: Floats) -> Curve:
    """Root mean square error against predicted deviation, in bins of as many answers each."""
    what, unit = UNITS[name]
    order = np.argsort(sigma)
    bins = np.array_split(order, max(1, min(BINS, len(sigma) // FEWEST)))
    x = np.array([np.sqrt((sigma[one] ** 2).mean()) for one in bins])
    squares = [error[one] ** 2 for one in bins]
    y = np.array([np.sqrt(one.mean()) for one in squares])
    # Of a root mean square of n numbers, from the scatter of their squares.
    scatter = np.array([one.std(ddof=min(1, len(one) - 1)) / math.sqrt(len(one)) for one in squares])
    off = scatter / (2 * y.clip(min=1e-300))
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    return Curve(
        f"Reliability: {what}",
        f"predicted uncertainty, {unit}",
        f"rms error, {unit}",
        (Series("validation set", x, y, off), Series("ideal", ends, ends)),
        log_x=True,
        log_y=True,
        note="each point stands for as many answers; bars are standard errors",
    )


def _sparsification(name: str, sigma: Floats, error: Floats) -> Curve:
    """The error of what is left when the least certain answers are left out."""
    what, unit = UNITS[name]
    left = np.linspace(0, 0.9, 19)
    counts = np.maximum(1, np.round((1 - left) * len(sigma))).astype(int)

    def remaining(order: NDArray[np.int64]) -> list[float]:
        means = np.cumsum(error[order] ** 2) / np.arange(1, len(order) + 1)
        return [math.sqrt(means[count - 1]) for count in counts]

    return Curve(
        f"Leaving out the least certain: {what}",
        "fraction left out",
        f"rms error of the rest, {unit}",
        (
            Series("by predicted uncertainty", left, remaining(np.argsort(sigma))),
            Series("by actual error, the best possible", left, remaining(np.argsort(np.abs(error)))),
            Series("at random", [0.0, 0.9], [math.sqrt((error**2).mean())] * 2),
        ),
    )


def _histogram(known: Mapping[str, tuple[Floats, Floats]]) -> Curve:
    """Errors in units of their predicted deviation, beside the normal distribution, each as a density."""
    edges = np.linspace(-4, 4, 33)
    middle = (edges[1:] + edges[:-1]) / 2
    lines = []
    for name, (sigma, error) in known.items():
        counts, _ = np.histogram(np.clip(error / sigma, -4, 4), edges)
        lines.append(Series(UNITS[name][0], middle, counts / (len(sigma) * (edges[1] - edges[0]))))
    return Curve(
        "Errors in units of the predicted uncertainty",
        "error / σ",
        "density",
        (*lines, Series("normal distribution", middle, norm.pdf(middle))),
        note="what lies beyond 4 is counted in the last bins",
    )


def _learning(scores: Floats) -> Curve:
    line = Series("validation set", np.arange(len(scores)), scores)
    note = "epoch 0 is the ensemble as it was drawn; the best epoch is kept"
    return Curve("Training of the ensemble", "epoch", "negative log likelihood", (line,), note=note)


@final
@dataclass(frozen=True, eq=False)
class CertaintyResult(Result):
    """How well a potential knows its own errors.

    arrays: as `certainty.fit` gives them.
    """

    settings: Uncertainty
    title: str
    arrays: dict[str, Floats]
    atoms: list[Atoms] = field(default_factory=list)
    job: str = "uncertainty"
    citations: tuple[str, ...] = (
        "F. Bigi, S. Chong, M. Ceriotti, F. Grasselli, A prediction rigidity formalism for low-cost uncertainties in "
        "trained neural networks, Mach. Learn.: Sci. Technol. 5, 045018 (2024), doi:10.1088/2632-2153/ad805f.",
    )

    def verdicts(self) -> tuple[Verdict, ...]:
        """None: how certain an answer must be is for its use to say."""
        return ()

    def facts(self) -> tuple[Fact, ...]:
        """What uncertainties are worth."""
        return calibration_facts(self.arrays)
