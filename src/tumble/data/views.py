"""Sequences that read an entry when it is asked for: rows of a store, a choice of another sequence, or several."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

T_co = TypeVar("T_co", covariant=True)

Places = NDArray[np.int64]


class Lazy(Sequence[T_co]):
    """A sequence that holds no entries; a slice of it is a `View`."""

    @abstractmethod
    def read(self, index: int) -> T_co:
        """The entry at this position, 0 <= index < len."""

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | Sequence[T_co]:
        if isinstance(index, slice):
            return pick(self, np.arange(*index.indices(len(self))), {})
        return self.read(range(len(self))[index])  # a range knows about negative indices, and where it ends


class Rows(Lazy[T_co]):
    """Something of every structure of a store; what the store has as a whole column need not be read row by row."""

    @abstractmethod
    def column(self, name: str) -> NDArray[Any]:
        """One number, or one row of numbers, of every structure."""

    @abstractmethod
    def beside(self, name: str) -> "Rows[Any]":
        """Something else of the same structures."""

    @abstractmethod
    def pair_counts(self, cutoff: float) -> Places:
        """Directed pairs within the cutoff of each structure, (S,); searched where they are not kept."""

    @abstractmethod
    def known_pair_counts(self, cutoff: float) -> Places:
        """Those that are kept, of the first structures; (0,) to (S,)."""


class View(Lazy[T_co]):
    """Entries of another sequence at chosen places, in that order."""

    def __init__(self, whole: Sequence[T_co], places: Places) -> None:
        """Choose; nothing is read."""
        self.whole, self.places = whole, places

    def __len__(self) -> int:
        """How many were chosen."""
        return len(self.places)

    def read(self, index: int) -> T_co:
        """The entry at the chosen place."""
        return self.whole[int(self.places[index])]


class Joined(Lazy[T_co]):
    """Several sequences, one behind the other."""

    def __init__(self, parts: Sequence[Sequence[T_co]]) -> None:
        """Join; nothing is read."""
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        """Entries of all parts."""
        return int(self.ends[-1])

    def read(self, index: int) -> T_co:
        """The entry of the part that holds it."""
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part][index - int(self.ends[part]) + len(self.parts[part])]


def pick(sequence: Sequence[T_co], indices: Places, composed: dict[int, Places]) -> Sequence[T_co]:
    """The entries at these positions: a list of a list, a view of anything else.

    Args:
        sequence: a list or a `Lazy`.
        indices: positions in it.
        composed: places of views that were picked from already with these indices, by the id of theirs: the views of a
            dataset then share one array.
    """
    if not isinstance(sequence, Lazy):
        return [sequence[i] for i in indices.tolist()]
    if not isinstance(sequence, View):
        return View(sequence, indices)
    places = composed.setdefault(id(sequence.places), sequence.places[indices])
    return View(sequence.whole, places)


def column(sequence: Sequence[Any], name: str, of: Callable[[Any], Any], dtype: Any) -> NDArray[Any]:
    """One value for every entry: a column of the store, where there is one, or asked of the entries one by one."""
    if isinstance(sequence, Rows):
        return sequence.column(name)
    if isinstance(sequence, View):
        return column(sequence.whole, name, of, dtype)[sequence.places]
    if isinstance(sequence, Joined):
        return np.concatenate([column(part, name, of, dtype) for part in sequence.parts])
    return np.array([of(one) for one in sequence], dtype=dtype)


def beside(sequence: Sequence[Any], name: str, of: Callable[[Any], Any]) -> Sequence[Any]:
    """Something else of the same structures, read when asked for where the sequence is lazy."""
    if isinstance(sequence, Rows):
        return sequence.beside(name)
    if isinstance(sequence, View):
        return View(beside(sequence.whole, name, of), sequence.places)
    if isinstance(sequence, Joined):
        return Joined([beside(part, name, of) for part in sequence.parts])
    return [of(one) for one in sequence]


def files_of(sources: Sequence[str]) -> tuple[list[str], Places]:
    """The files that structures are from, and for each structure which of them.

    Args:
        sources: S names "file:frame".

    Returns:
        Names of the files in order of appearance, and (S,) positions among them.
    """
    if isinstance(sources, Rows):
        return list(sources.beside("files")), sources.column("file").astype(np.int64)
    if isinstance(sources, View):
        files, codes = files_of(sources.whole)
        return files, codes[sources.places]
    parts = [files_of(part) for part in sources.parts] if isinstance(sources, Joined) else [_listed(sources)]
    numbered: dict[str, int] = {}
    for files, _ in parts:
        for file in files:
            numbered.setdefault(file, len(numbered))
    merged = [np.array([numbered[file] for file in files], dtype=np.int64)[codes] for files, codes in parts]
    return list(numbered), np.concatenate(merged)


def _listed(sources: Sequence[str]) -> tuple[list[str], Places]:
    numbered: dict[str, int] = {}
    codes = [numbered.setdefault(source.rpartition(":")[0], len(numbered)) for source in sources]
    return list(numbered), np.array(codes, dtype=np.int64)
