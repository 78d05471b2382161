"""convert(): from any files of labelled structures to a store, one structure at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pydantic import Field

from tumble.data.files import expand, labelled, required_labels, unread
from tumble.data.labels import Keys, Label, check_some
from tumble.data.store import Store, is_store
from tumble.data.store.columns import Entry
from tumble.results import Progress, Settings

SKIPPED: Final = "skipped.txt"
"""File in the store with a line for each frame that was passed over: source, tab, reason."""

SECONDS_PER_WORD: Final = 0.2
"""Time between two words about how far the conversion is."""


class StoreSettings(Settings):
    """How files become a store."""

    energy_key: str | None = Field(None, description="name of the energy label; None: found by itself")
    forces_key: str | None = Field(None, description="name of the force label; None: found by itself")
    stress_key: str | None = Field(None, description="name of the stress or virial label; None: found by itself")
    require: tuple[Label, ...] = Field(("energy", "forces"), description="labels that every structure must have")
    missing: Literal["error", "mask"] = Field(
        "error", description="a structure without a required label is an error, or is stored without it"
    )
    skip_bad: bool = Field(False, description=f"list frames that cannot be used in {SKIPPED} instead of stopping there")
    cutoff: float | None = Field(None, gt=0, description="Å; count the pairs within it, so that no training has to")


class Converted(NamedTuple):
    """What a conversion did.

    store:   with everything that is in it now.
    added:   structures that this conversion added.
    skipped: frames that this conversion could not use, listed in skipped.txt.
    """

    store: Store
    added: int
    skipped: int


def convert(
    files: str | Path | Sequence[str | Path],
    path: str | Path,
    settings: StoreSettings | None = None,
    *,
    append: bool = False,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Converted:
    """Write the structures of files into a store. Few are in memory at a time, however many there are.

    A conversion that was stopped, even killed, goes on with `append`: frames that are in the store are not read again.

    Args:
        files: as in `data.read`; stores too.
        path: folder of the store.
        settings: names of labels, what to do about bad frames.
        append: add to the store if there is one, behind the last frame that it has of each file.
        tell: called with the structures written, or with those whose pairs are counted.

    Raises:
        ValueError: a file that cannot be read, a frame that cannot be used (named), a label that no structure has; what
            came before is in the store.
        RuntimeError: another process is writing into the store, or the disk is full; what was committed stays.
        ImportError: a module that reads such a file is missing.
    """
    settings = settings or StoreSettings()
    keys: Keys = {"energy": settings.energy_key, "forces": settings.forces_key, "stress": settings.stress_key}
    required = required_labels(keys, settings.require, settings.missing)
    paths = expand(files, folders=False)
    store = Store.open(path) if append and is_store(path) else Store.create(path)
    before = len(store)
    reading = _Reading(store, settings, keys, required, tell)
    store.append(entry for file in paths for entry in reading.entries(file))
    if len(store) == 0:
        raise ValueError(f"none of the frames can be used; {store.path / SKIPPED} says why.")
    check_some(store.dataset(), required, keys)
    if settings.cutoff is not None:
        tell(Progress(len(store), 0, f"counting pairs within {settings.cutoff} Å"))
        store.pair_counts(settings.cutoff)
    return Converted(store, len(store) - before, reading.n_skipped)


class _Reading:
    """Turns files into entries, keeps count, and lists what it passes over."""

    def __init__(
        self,
        store: Store,
        settings: StoreSettings,
        keys: Keys,
        required: Sequence[str],
        tell: Callable[[Progress], None],
    ) -> None:
        self.settings, self.keys, self.tell = settings, keys, tell
        self.required = required if settings.missing == "error" else ()
        self.starts = {Path(file).resolve(): start for file, start in store.next_frames().items()}
        self.list = store.path / SKIPPED
        self.listed = set(self.list.read_text().splitlines()) if self.list.is_file() else set()
        self.n_done = self.n_skipped = 0
        self.started = self.told = time.monotonic()

    def entries(self, file: Path) -> Iterator[Entry]:
        """The entries of one file that the store does not have."""
        frame = start = self.starts.get(file.resolve(), 0)
        try:
            for frame, entry in self._of_store(file, start) if is_store(file) else self._of_file(file, start):
                try:
                    yield entry()
                except ValueError as error:
                    self._skip(f"{file}:{frame}", error)
                self._count(file)
        except ValueError as error:
            self._skip(f"{file} behind frame {frame}", error)

    def _of_file(self, file: Path, start: int) -> Iterator[tuple[int, Callable[[], Entry]]]:
        for frame, parse in unread(file, start):
            yield (
                frame,
                lambda frame=frame, parse=parse: labelled(  # type: ignore[misc]
                    f"{file}:{frame}", parse(), self.keys, self.required
                ),
            )

    def _of_store(self, file: Path, start: int) -> Iterator[tuple[int, Callable[[], Entry]]]:
        one = Store.open(file).dataset()
        for frame in range(start, len(one)):
            yield frame, lambda frame=frame: (f"{file}:{frame}", one.atoms[frame], one.labels[frame])  # type: ignore[misc]

    def _skip(self, source: str, error: ValueError) -> None:
        """List what cannot be used, or stop there."""
        if not self.settings.skip_bad:
            raise error
        self.n_skipped += 1
        line = f"{source}\t{' '.join(str(error).split())}"
        if line not in self.listed:
            with self.list.open("a") as file:
                file.write(line + "\n")
            self.listed.add(line)

    def _count(self, file: Path) -> None:
        self.n_done += 1
        now = time.monotonic()
        if now - self.told >= SECONDS_PER_WORD:
            speed = self.n_done / (now - self.started)
            self.told = now
            self.tell(Progress(self.n_done, 0, f"{self.n_done} structures, {speed:.0f} a second, {file.name}"))
