"""Writing into a store: behind what is committed, by one process at a time, committed every few seconds."""

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tumble.data.store.columns import COLUMNS, TEXTS, Entry, chained, encode, entry_group
from tumble.data.store.state import State, read_state, sync_folder, write_state

STRUCTURES_PER_CHUNK: Final = 1000
"""Structures that are gathered before they are written."""

ATOMS_PER_CHUNK: Final = 100_000
"""Atoms that are, where structures are large."""

SECONDS_PER_COMMIT = 5.0
"""What a killed writer loses at most, and the least time between two waits for the disk."""

LOCK: Final = "lock"


@contextmanager
def locked(folder: Path, name: str = LOCK, *, wait: bool = False) -> Iterator[None]:
    """Be the only one who writes.

    Raises:
        ValueError: the folder cannot be written.
        RuntimeError: another process is writing, and we do not wait for it.
    """
    try:
        file = (folder / name).open("ab")
    except OSError as error:
        raise ValueError(
            f"cannot write into {str(folder)!r}: {error.strerror}. Name a folder that is yours."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise RuntimeError(f"another process is writing into {str(folder)!r}. Wait until it is done.") from error
        yield  # the lock goes with the file, also where the process is killed


def append(folder: Path, entries: Iterable[Entry]) -> None:
    """Write structures behind those that are committed; an error loses none of those that were given before it.

    Raises:
        ValueError: the folder cannot be written.
        RuntimeError: another process is writing, or the disk is full; what was committed stays.
    """
    with locked(folder), ExitStack() as stack:
        writer = _Writer(folder, read_state(folder), stack)
        found = iter(entries)
        while chunk := _gather(found, writer):
            writer.write(chunk)


def _gather(entries: Iterator[Entry], writer: "_Writer") -> list[Entry]:
    """The next structures; where their source fails, those before are written before it is told."""
    chunk: list[Entry] = []
    n_atoms = 0
    try:
        for entry in entries:
            chunk.append(entry)
            n_atoms += len(entry[1])
            is_late = time.monotonic() - writer.since >= SECONDS_PER_COMMIT
            if is_late or len(chunk) >= STRUCTURES_PER_CHUNK or n_atoms >= ATOMS_PER_CHUNK:
                return chunk
    except BaseException:
        writer.write(chunk)
        writer.commit()
        raise
    if not chunk:
        writer.commit()
    return chunk


class _Writer:
    """The open files of a store, written to their committed length and beyond."""

    def __init__(self, folder: Path, state: State, stack: ExitStack) -> None:
        """Open every file and cut off what a killed writer has left."""
        self.folder = folder
        self.state = self.committed = state
        self.files: dict[str, FileIO] = {}
        self.since = time.monotonic()
        texts = {name: read_texts(folder / f"{name}.txt", n) for name, n in zip(TEXTS, state.texts, strict=True)}
        self.names = {name: {text: k for k, text in enumerate(found)} for name, found in texts.items()}
        with self._safely():
            for name, length in state.lengths().items():
                (folder / name).touch()
                file = self.files[name] = stack.enter_context(FileIO(folder / name, "r+"))
                file.truncate(length)
                file.seek(length)
            sync_folder(folder)

    def write(self, chunk: list[Entry]) -> None:
        """Write structures, and commit them if it is time to."""
        if not chunk:
            return
        groups = [entry_group(entry) for entry in chunk]
        files = [source.rpartition(":")[0] for source, _, _ in chunk]
        with self._safely():
            codes = {"files": self._codes("files", files), "groups": self._codes("groups", groups)}
            arrays = encode(chunk, self.state.atoms, codes)
            for name in COLUMNS:
                _write(self.files[f"{name}.bin"], arrays[name].tobytes())
        own = {**arrays, "end": arrays["end"] - self.state.atoms}
        self.state = State(
            self.state.structures + len(chunk),
            int(arrays["end"][-1]),
            chained(bytes.fromhex(self.state.digest), own, groups).hex(),
            (self.files["files.txt"].tell(), self.files["groups.txt"].tell()),
        )
        if time.monotonic() - self.since >= SECONDS_PER_COMMIT:
            self.commit()

    def commit(self) -> None:
        """Wait until everything is on the disk, then say so."""
        if self.state != self.committed:
            with self._safely():
                for file in self.files.values():
                    os.fsync(file.fileno())
                write_state(self.folder, self.state)
            self.committed, self.since = self.state, time.monotonic()

    @contextmanager
    def _safely(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RuntimeError(
                f"cannot write into {str(self.folder)!r}: {error.strerror or error}. The {self.committed.structures} "
                "structures before are safe. Make room, and append what is missing."
            ) from error

    def _codes(self, name: str, texts: list[str]) -> NDArray[np.int32]:
        known: dict[str, int] = self.names[name]
        for text in texts:
            if text not in known:
                known[text] = len(known)
                _write(self.files[f"{name}.txt"], (json.dumps(text, ensure_ascii=False) + "\n").encode())
        return np.array([known[text] for text in texts], dtype=np.int32)


def read_texts(path: Path, length: int) -> list[str]:
    """The names in the first so many bytes of a file."""
    if length == 0:
        return []
    with path.open("rb") as file:
        return [json.loads(line) for line in file.read(length).splitlines()]


def _write(file: FileIO, content: bytes) -> None:
    """All of it: an unbuffered file may take less, and one with a buffer would try again when it is closed."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
