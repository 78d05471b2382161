"""From times to statements: ratios of interleaved rounds, and tables."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

STEADY: Final = 1.3
"""Upper over lower quartile, above which something else used the machine."""


@final
@dataclass(frozen=True)
class Ratio:
    """How many times one thing is another: the median over rounds, and the quartiles.

    Each round compares what was measured within the same second or so.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, above: Sequence[float], below: Sequence[float]) -> "Ratio":
        """Of two series with one number per round.

        Raises:
            ValueError: series of different length, or empty ones.
        """
        if len(above) != len(below) or not above:
            raise ValueError(
                f"a ratio of {len(above)} rounds to {len(below)} rounds; the same number was expected, at least 1. "
                "Interleave the measurements."
            )
        ratios = sorted(a / b for a, b in zip(above, below, strict=True))
        low, middle, high = _quartiles(ratios)
        return cls(middle, low, high)

    @property
    def is_steady(self) -> bool:
        """Whether the rounds agree well enough for the median to be quoted."""
        return self.high <= STEADY * self.low

    def __str__(self) -> str:
        mark = "" if self.is_steady else "unsteady "
        return f"{mark}{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def _quartiles(ordered: Sequence[float]) -> tuple[float, float, float]:
    if len(ordered) == 1:
        return ordered[0], ordered[0], ordered[0]
    low, middle, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return low, middle, high


def milliseconds(seconds: Sequence[float] | float) -> str:
    """The median, in ms, with three digits."""
    value = 1000 * (seconds if isinstance(seconds, float) else statistics.median(seconds))
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def megabytes(size: float) -> str:
    """In MB, with three digits."""
    value = size / 1e6
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table; None becomes a dash."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join("–" if cell is None else str(cell) for cell in row) + " |" for row in rows]
