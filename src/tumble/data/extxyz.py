"""Frames of an extended XYZ file, cut apart as they are read: neither a list of frames nor a second pass is made."""

from collections.abc import Callable, Iterator
from io import StringIO
from itertools import islice
from typing import IO

from ase import Atoms
from ase.io.extxyz import read_xyz

Unread = tuple[int, Callable[[], Atoms]]
"""Frame, counted from 0, and what makes the structure of it."""


def frames(file: IO[str], start: int = 0) -> Iterator[Unread]:
    """The frames of an extended XYZ file, each parsed when it is asked for.

    Args:
        file: open for reading.
        start: frames before this one are passed over.

    Raises:
        ValueError: the file ends within a frame, or a blank or foreign line lies between frames; in its turn.
    """
    frame = n_lines = 0
    header = file.readline()
    while header.strip():
        if not header.strip().isdecimal():
            raise ValueError(f"line {n_lines + 1} should be a number of atoms, and is {header.strip()[:40]!r}")
        body = list(islice(file, 1 + int(header)))
        if len(body) < 1 + int(header):
            raise ValueError(f"frame {frame} begins at line {n_lines + 1} and is not complete")
        lines, header = [header, *body], file.readline()
        while header.lstrip().startswith("VEC"):  # lattice vectors as if they were atoms
            lines, header = [*lines, header], file.readline()
        if frame >= start:
            yield frame, _parser(lines)
        frame, n_lines = frame + 1, n_lines + len(lines)
    if header and any(line.strip() for line in file):  # others stop at a blank line without a word
        raise ValueError(
            f"its first {frame} structures end at line {n_lines}: a blank or foreign line lies between structures"
        )


def _parser(lines: list[str]) -> Callable[[], Atoms]:
    def parse() -> Atoms:
        return next(read_xyz(StringIO("".join(lines)), index=0))

    return parse
