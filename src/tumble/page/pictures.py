"""Picture: a figure ready to be typeset, and what one sees in it in words."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Key:
    """One entry of a legend.

    index: of the series, which decides colour, dash and marker.
    """

    name: str
    index: int
    form: Literal["line", "marker", "box"]


@dataclass(frozen=True)
class Scale:
    """A colour bar.

    colours: names of the palette, from low to high.
    ticks:   text at the left, in the middle and at the right.
    """

    colours: tuple[str, ...]
    ticks: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """An inline SVG with its caption.

    alt:     what a reader who does not see it is told.
    numbers: what the caption says besides the note.
    """

    title: str
    note: str
    svg: str
    alt: str
    numbers: str = ""
    keys: tuple[Key, ...] = ()
    scale: Scale | None = None
