"""Store: a folder of labelled structures that is read without being loaded."""

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble.batch import Properties
from tumble.data.dataset import Dataset
from tumble.data.store import columns, pairs
from tumble.data.store.columns import COLUMNS, TEXTS, Entry
from tumble.data.store.state import State, is_store, read_state, write_state
from tumble.data.store.writer import append, locked, read_texts
from tumble.data.views import Rows

T = TypeVar("T")

CHUNK = 10_000
"""Structures whose digest is computed at a time."""


@final
class Store:
    """Labelled structures in a folder of flat files.

    What is read goes through the page cache of the system, which all processes of a machine share; none of it is
    copied into a process before it is asked for. A store shows what was committed when it was opened; `append` of the
    same object shows what it added. Opening costs the same for ten structures and for 10^8.
    """

    def __init__(self, path: Path, state: State) -> None:
        """Use `Store.open` or `Store.create`."""
        self.path, self.state = path, state
        self._mapped: dict[str, NDArray[Any]] = {}

    @classmethod
    def create(cls, path: str | Path) -> "Store":
        """A new, empty store.

        Raises:
            ValueError: the folder exists and is not empty, or cannot be written.
        """
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = "is a store already: open it, or append to it" if is_store(folder) else "exists and is not empty"
            raise ValueError(f"cannot make a store of {str(folder)!r}: it {what}. Name a new folder.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot make the folder {str(folder)!r}: {error.strerror}. Name another.") from error
        with locked(folder):
            write_state(folder, State())
        return cls(folder, State())

    @classmethod
    def open(cls, path: str | Path) -> "Store":
        """A store that exists.

        Raises:
            ValueError: no store, one of a newer format, or a file that is missing or truncated.
        """
        return cls(Path(path), read_state(Path(path)))

    def __len__(self) -> int:
        """S."""
        return self.state.structures

    @property
    def n_atoms(self) -> int:
        """N."""
        return self.state.atoms

    @property
    def digest(self) -> str:
        """Of structures and labels in their order, hexadecimal; not of the names of files they are from."""
        return self.state.digest

    @property
    def n_bytes(self) -> int:
        """Size of the committed files."""
        return sum(self.state.lengths().values())

    def append(self, entries: Iterable[Entry]) -> None:
        """Write structures behind those that are there; each is committed within seconds, and none is lost then.

        Args:
            entries: source "file:frame", structure, labels; consumed as they are written.

        Raises:
            ValueError: the folder cannot be written.
            RuntimeError: another process is writing, or the disk is full; what was committed stays.
        """
        try:
            append(self.path, entries)
        finally:
            self.state = read_state(self.path)
            self._forget()

    def dataset(self) -> Dataset:
        """All structures with their labels and sources, each read when it is asked for."""
        return Dataset(_Rows(self, "atoms"), _Rows(self, "labels"), _Rows(self, "sources"))

    def check(self) -> None:
        """Read everything, and compare it with the digest.

        Raises:
            ValueError: a file is missing or truncated, or the content is not what was written.
        """
        state = read_state(self.path)
        digest = bytes(32)
        for start in range(0, len(self), CHUNK):
            rows = slice(start, min(start + CHUNK, len(self)))
            first, last = self.start(start), int(self.column("end")[rows.stop - 1])
            part = {
                name: self.column(name)[slice(first, last) if one.per_atom else rows] for name, one in COLUMNS.items()
            }
            groups = [self.groups[code] for code in part["group"].tolist()]
            digest = columns.chained(digest, {**part, "end": part["end"] - first}, groups)
        if digest.hex() != self.digest:
            raise ValueError(
                f"the content of {str(self.path)!r} has the digest {digest.hex()[:16]}, {self.digest[:16]} was written "
                f"({state.structures} structures). Copy the store again, or convert the data again."
            )

    def column(self, name: str) -> NDArray[Any]:
        """A whole file as an array that is mapped, not read: (S, ...) or, of what atoms have, (N, ...)."""
        if name not in self._mapped:
            column = COLUMNS[name]
            shape = (self.n_atoms if column.per_atom else len(self), *column.shape)
            path = self.path / f"{name}.bin"
            # A file without bytes cannot be mapped. A plain array, because each look at a memmap costs ten times more.
            empty = np.empty(shape, column.dtype)[:0] if 0 in shape else None
            mapped = np.memmap(path, column.dtype, "r", shape=shape).view(np.ndarray) if empty is None else empty
            self._mapped[name] = mapped
        return self._mapped[name]

    def start(self, index: int) -> int:
        """First atom of a structure, counted through the store."""
        return int(self.column("end")[index - 1]) if index else 0

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Atoms of each structure, (S,)."""
        return np.diff(self.column("end"), prepend=0)

    @cached_property
    def files(self) -> list[str]:
        """Files that structures are from."""
        return read_texts(self.path / "files.txt", self.state.texts[TEXTS.index("files")])

    @cached_property
    def groups(self) -> list[str]:
        """Config types that there are."""
        return read_texts(self.path / "groups.txt", self.state.texts[TEXTS.index("groups")])

    def next_frames(self) -> dict[str, int]:
        """For each file the frame behind the last that is here."""
        ends = np.zeros(len(self.files), dtype=np.int64)
        np.maximum.at(ends, self.column("file"), self.column("frame") + 1)
        return dict(zip(self.files, ends.tolist(), strict=True))

    def pair_counts(self, cutoff: float) -> NDArray[np.int64]:
        """Directed pairs within the cutoff of each structure, (S,): searched once, then kept in the folder."""
        return pairs.counts(self.path, cutoff, len(self), self.atoms)

    def known_pair_counts(self, cutoff: float) -> NDArray[np.int64]:
        """Pairs of the structures that were searched already, from the first on; (0,) to (S,)."""
        return pairs.known(self.path, cutoff, len(self))

    def atoms(self, index: int) -> Atoms:
        """One structure."""
        return columns.structure(self._arrays, index, self.groups[int(self.column("group")[index])])

    def labels(self, index: int) -> Properties:
        """Labels of one structure."""
        return columns.labels(self._arrays, index)

    def source(self, index: int) -> str:
        """Where one structure is from, "file:frame"."""
        return f"{self.files[int(self.column('file')[index])]}:{int(self.column('frame')[index])}"

    @cached_property
    def _arrays(self) -> columns.Arrays:
        return {name: self.column(name) for name in COLUMNS}

    def _forget(self) -> None:
        self._mapped = {}
        for name in ("sizes", "files", "groups", "_arrays"):
            self.__dict__.pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the path and what was committed; it maps the files itself."""
        return {"path": self.path, "state": self.state, "_mapped": {}}


READ: dict[str, Callable[[Store, int], Any]] = {
    "atoms": lambda store, index: store.atoms(index),
    "labels": lambda store, index: store.labels(index),
    "sources": lambda store, index: store.source(index),
    "groups": lambda store, index: store.groups[int(store.column("group")[index])],
    "files": lambda store, index: store.files[index],
}


class _Rows(Rows[T]):
    """One kind of thing of every structure of a store."""

    def __init__(self, store: Store, what: str) -> None:
        self.store, self.what = store, what

    def __len__(self) -> int:
        return len(self.store) if self.what != "files" else len(self.store.files)

    def read(self, index: int) -> T:
        value: T = READ[self.what](self.store, index)
        return value

    def column(self, name: str) -> NDArray[Any]:
        return self.store.sizes if name == "size" else self.store.column(name)

    def beside(self, name: str) -> "Rows[Any]":
        return _Rows(self.store, name)

    def pair_counts(self, cutoff: float) -> NDArray[np.int64]:
        return self.store.pair_counts(cutoff)

    def known_pair_counts(self, cutoff: float) -> NDArray[np.int64]:
        return self.store.known_pair_counts(cutoff)
