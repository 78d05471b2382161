"""Path: corners of the Brillouin zone and the wave vectors between them."""

import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumble.jobs.phonons.cells import Cells, required

Floats = NDArray[np.float64]

GREEK = {"GAMMA": "Γ", "SIGMA": "Σ", "DELTA": "Δ", "LAMBDA": "Λ"}
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


class Segment(NamedTuple):
    """A straight line through the Brillouin zone.

    labels: of its ends.
    q:      (K, 3) in the basis of the primitive reciprocal lattice, both ends included.
    x:      (K,) 1/Å, length of the path up to there.
    run:    segments with the same number follow each other without a jump.
    """

    labels: tuple[str, str]
    q: Floats
    x: Floats
    run: int


Corner = tuple[str, Floats]


def segments_of(cells: Cells, wanted: Sequence[str], points: int) -> list[Segment]:
    """The path through the Brillouin zone of the primitive cell.

    Args:
        cells: the crystal.
        wanted: corners, as `PhononsSettings.path` takes them; none: all of seekpath's.
        points: wave vectors, shared out by length.

    Raises:
        ImportError: seekpath is not installed.
        ValueError: corners that cannot be read, or fewer than two in a row.
    """
    runs = _runs(cells, wanted)
    reciprocal = np.linalg.inv(cells.engine.primitive.cell).T
    steps = [np.linalg.norm((b[1] - a[1]) @ reciprocal) for run in runs for a, b in pairwise(run)]
    total, x, segments = max(sum(steps), 1e-12), 0.0, []
    for index, run in enumerate(runs):
        for (start, first), (end, last) in pairwise(run):
            length = float(np.linalg.norm((last - first) @ reciprocal))
            along = np.linspace(0, 1, max(round(points * length / total), 2))[:, None]
            segments.append(Segment((start, end), first + along * (last - first), x + along[:, 0] * length, index))
            x += length
    return segments


def ticks_of(segments: Sequence[Segment]) -> tuple[tuple[float, str], ...]:
    """Where the corners are, and their names; two at a jump."""
    ticks: list[tuple[float, str]] = []
    for before, after in zip([None, *segments], [*segments, None], strict=True):
        ends = [before.labels[1]] if before is not None else []
        starts = [after.labels[0]] if after is not None else []
        x = float(after.x[0]) if after is not None else float(before.x[-1]) if before is not None else 0.0
        ticks.append((x, "|".join(dict.fromkeys(ends + starts))))
    return tuple(ticks)


def _runs(cells: Cells, wanted: Sequence[str]) -> list[list[Corner]]:
    """Corners that follow each other without a jump."""
    named, pairs = _of_seekpath(cells)
    if not wanted:
        runs: list[list[Corner]] = []
        for start, end in pairs:
            if not runs or runs[-1][-1][0] != start:
                runs.append([(start, named[start])])
            runs[-1].append((end, named[end]))
        return runs
    runs = [[]]
    for word in wanted:
        if word.strip() == "|":
            runs.append([])
        else:
            runs[-1].append(_corner(word, named))
    if min(map(len, runs)) < 2:
        raise ValueError(
            f"the path {' '.join(wanted)!r} has a part with {min(map(len, runs))} corners; at least 2 were expected. "
            "Give corners such as Γ X | U Γ."
        )
    return runs


def _corner(word: str, named: dict[str, Floats]) -> Corner:
    label, *numbers = word.split()
    label = GREEK.get(label.upper(), label)
    try:
        q = np.array([_fraction(one) for one in numbers]) if numbers else named[label]
    except (ValueError, KeyError, ZeroDivisionError):
        q = np.zeros(0)
    if q.shape != (3,):
        raise ValueError(
            f"the corner {word!r} of the path cannot be read; a label among {', '.join(named)}, or 'LABEL x y z' with "
            "three numbers was expected. Correct the path, or leave it out."
        )
    return label, q


def _fraction(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def _of_seekpath(cells: Cells) -> tuple[dict[str, Floats], list[tuple[str, str]]]:
    """Corners by name in the basis of the primitive cell, and pairs of them that are connected."""
    cell = cells.engine.primitive
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of spglib, about its own future
        found = required("seekpath").get_path_orig_cell((cell.cell, cell.scaled_positions, cell.numbers))
    named = {_shown(label): np.array(place, dtype=float) for label, place in found["point_coords"].items()}
    return named, [(_shown(start), _shown(end)) for start, end in found["path"]]


def _shown(label: str) -> str:
    letter, _, number = label.partition("_")
    return GREEK.get(letter, letter) + number.translate(SUBSCRIPTS)
