"""What is said about one crystal: numbers of every variant beside those of DFT."""

import math
from typing import Any, NamedTuple

import numpy as np

from statics import compare, constants
from statics.answers import REFERENCE, Answer, Subject
from statics.compare import Elastic
from statics.constants import Bands
from statics.rest import AtRest

RMS_THz, KAPPA_SHARE, SPLIT_THz, IMAGINARY_THz = 0.15, 0.1, 1e-5, -0.01
"""Bars: rms along the path, error of κ, splitting of degenerate bands when projected, the lowest frequency."""


class Row(NamedTuple):
    """A variant against DFT; frequencies in THz, κ in W/(m K)."""

    name: str
    rms: float
    worst: float
    optical: float
    splitting: float
    lowest: float
    elastic: Elastic
    kappa: float | None
    srd: float | None
    srme: float | None


class Found(NamedTuple):
    """One crystal. Rows and bands by the number of atoms of the supercell that second-order constants are from."""

    name: str
    weights: str
    title: str
    source: str
    lattice: float
    published: dict[int, float]
    rows: dict[int, tuple[Row, ...]]
    bands: dict[int, dict[str, Bands]]
    rest: AtRest | None

    def row(self, size: int, variant: str) -> Row | None:
        """One of them, if it was asked for."""
        return next((row for row in self.rows.get(size, ()) if row.name == variant), None)

    def numbers(self) -> dict[str, Any]:
        """Everything but the bands, for a file."""
        rows = {str(size): [row._asdict() | {"elastic": row.elastic._asdict()} for row in rows]
                for size, rows in self.rows.items()}  # fmt: skip
        rest = self.rest._asdict() | {"elastic": self.rest.elastic._asdict()} if self.rest else None
        published = {str(size): kappa for size, kappa in self.published.items()}
        return {
            "weights": self.weights,
            "lattice_A": self.lattice,
            "published_kappa": published,
            "rows": rows,
            "at_rest": rest,
        }


def facts(subject: Subject, answers: dict[int, dict[str, Answer]], rest: AtRest | None) -> Found:
    """Bands, elasticity and errors of all answers about a crystal."""
    rows: dict[int, tuple[Row, ...]] = {}
    bands: dict[int, dict[str, Bands]] = {}
    for size, found in answers.items():
        if not found:
            continue
        bands[size] = {name: constants.bands(subject.engine, size, answer.constants) for name, answer in found.items()}
        elastic = {name: constants.elasticity(subject.engine, size, a.constants) for name, a in found.items()}
        rows[size] = tuple(row(name, found, bands[size], elastic[name]) for name in found)
    lattice = math.cbrt(4 * abs(np.linalg.det(subject.engine.primitive.cell)))
    crystal = subject.crystal
    return Found(
        subject.name, subject.weights, crystal.title, crystal.source, lattice, crystal.published, rows, bands, rest
    )


def row(name: str, answers: dict[str, Answer], bands: dict[str, Bands], elastic: Elastic) -> Row:
    """One variant beside DFT."""
    ours, theirs = bands[name], bands[REFERENCE]
    kappa, reference = answers[name].kappa, answers[REFERENCE].kappa
    has_both = kappa is not None and reference is not None
    return Row(
        name,
        compare.rms(ours.frequencies, theirs.frequencies),
        compare.worst(ours.frequencies, theirs.frequencies),
        float(ours.frequencies[0, -1]),
        compare.splitting(ours.frequencies, theirs.frequencies),
        float(min(ours.frequencies.min(), ours.mesh.min())),
        elastic,
        kappa.kappa if kappa else None,
        compare.srd(kappa.kappa, reference.kappa) if has_both else None,
        compare.srme(kappa, reference) if has_both else None,
    )
