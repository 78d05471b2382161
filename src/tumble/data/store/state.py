"""What a store has committed: store.json, replaced atomically, and the files that must be as long as it says."""

import json
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

from tumble.data.store.columns import COLUMNS, TEXTS

STATE: Final = "store.json"
FORMAT: Final = "tumble store"
VERSION: Final = 1


class State(NamedTuple):
    """How much of the files counts.

    structures, atoms: S and N.
    digest:            of the content, hexadecimal.
    texts:             bytes of files.txt and of groups.txt.
    """

    structures: int = 0
    atoms: int = 0
    digest: str = "00" * 32
    texts: tuple[int, int] = (0, 0)

    def lengths(self) -> dict[str, int]:
        """Bytes of every file."""
        rows = {True: self.atoms, False: self.structures}
        lengths = {f"{name}.bin": rows[column.per_atom] * column.row_bytes for name, column in COLUMNS.items()}
        return lengths | {f"{name}.txt": n for name, n in zip(TEXTS, self.texts, strict=True)}


def is_store(path: str | Path) -> bool:
    """Whether this is a folder with a store in it."""
    return (Path(path) / STATE).is_file()


def read_state(folder: Path) -> State:
    """What is committed, after a look at whether the files are long enough.

    Raises:
        ValueError: no store, one of a newer format, or a file that is missing or truncated.
    """
    try:
        written = json.loads((folder / STATE).read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{str(folder)!r} is no store: it has no {STATE}. Make one with tumble store.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(folder / STATE)!r} is no JSON ({error}). Convert the data again.") from error
    state = _parsed(folder, written)
    for name, length in state.lengths().items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else 0
        if found < length:
            raise ValueError(
                f"{str(path)!r} has {found} bytes, and {state.structures} structures need {length}: it is truncated. "
                "Copy the store again, or convert the data again."
            )
    return state


def write_state(folder: Path, state: State) -> None:
    """Commit: from now on the store is what this says, or, after a crash in between, what it was."""
    content = {"format": FORMAT, "version": VERSION, "byteorder": "little", **state._asdict()}
    replaced = folder / f"{STATE}.new"
    with replaced.open("w") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(replaced, folder / STATE)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder outlive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parsed(folder: Path, written: Any) -> State:
    if not isinstance(written, dict) or written.get("format") != FORMAT:
        raise ValueError(f"{str(folder)!r} is no store: its {STATE} is that of something else. Name another folder.")
    if written["version"] > VERSION:
        raise ValueError(
            f"{str(folder)!r} has version {written['version']} of the format, this version of tumble reads up to "
            f"{VERSION}. Update tumble."
        )
    values = {name: written[name] for name in State._fields}
    return State(**values)._replace(texts=tuple(values["texts"]))
