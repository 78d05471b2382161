"""Aside: a file whose changes are kept in memory until they are all made, and then reach the disk all or not at all."""

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Final, final

import numpy as np

from tumble.jobs.md.disk import replace, write_all

PAGE: Final = 1 << 14
"""Bytes that are kept together."""

REDO: Final = ".redo"
"""Stands behind the name of the file, for the file that completes a change."""


@final
class Aside(io.RawIOBase):
    """A file for a library that changes it in place, such as HDF5, and that a kill at any moment must not damage.

    What is written is kept in pages. `commit` first writes those behind the end of the file, which nothing in it refers
    to yet; then those that replace old ones into a file of their own, the redo; then these into their place. A kill
    before the redo is complete leaves the file as it was, with something behind its end; one after it leaves a redo,
    which `recover` carries out. Where the disk is full, the file is cut to its old length.
    """

    def __init__(self, path: Path) -> None:
        """Args:
        path: the file; made if there is none.
        """
        super().__init__()
        recover(path)
        self._path, self._place = path, 0
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._old = self._length = os.fstat(self._handle).st_size
        self._pages: dict[int, bytearray] = {}

    def readable(self) -> bool:
        """It is."""
        return True

    def writable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place, counted from the start, from here, or from the end."""
        self._place = offset + (0, self._place, self._length)[whence]
        return self._place

    def tell(self) -> int:
        """Where it stands."""
        return self._place

    def truncate(self, size: int | None = None, /) -> int:
        """Be of another length; what is new is zero."""
        self._length = self._place if size is None else size
        return self._length

    def readinto(self, buffer: object, /) -> int:
        """Fill a buffer, as far as the file goes."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        count = max(0, min(len(view), self._length - self._place))
        for start, stop, index, within in _pieces(self._place, count):
            view[start:stop] = self._page(index)[within : within + stop - start]
        self._place += count
        return count

    def write(self, content: object, /) -> int:
        """Keep bytes until `commit`."""
        view = memoryview(content).cast("B")  # type: ignore[arg-type]
        for start, stop, index, within in _pieces(self._place, len(view)):
            page = self._pages.setdefault(index, self._page(index))
            page[within : within + stop - start] = view[start:stop]
        self._place += len(view)
        self._length = max(self._length, self._place)
        return len(view)

    def flush(self) -> None:
        """Nothing: `commit` is asked for."""

    def commit(self) -> None:
        """All changes at once, for good.

        Raises:
            OSError: the disk is full, or refuses for another reason; the file is as it was.
        """
        behind = [index for index in sorted(self._pages) if index * PAGE >= self._old]
        within = {index: bytes(page) for index, page in self._pages.items() if index * PAGE < self._old}
        try:
            for index in behind:
                os.lseek(self._handle, index * PAGE, os.SEEK_SET)
                write_all(self._handle, self._pages[index][: max(0, self._length - index * PAGE)])
            os.fsync(self._handle)
            content = io.BytesIO()
            pages = np.frombuffer(b"".join(within.values()), dtype=np.uint8).reshape(-1, PAGE)
            np.savez(content, length=np.array(self._length), indices=np.array([*within], dtype=np.int64), pages=pages)
            replace(_redo(self._path), content.getvalue())
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._handle, self._old)
            raise
        recover(self._path)
        self._old, self._pages = self._length, {}

    def close(self) -> None:
        """Let go of the file; what is not committed is forgotten."""
        if not self.closed:
            os.close(self._handle)
        super().close()

    def _page(self, index: int) -> bytearray:
        """A page as it is now."""
        if index in self._pages:
            return self._pages[index]
        kept = max(0, min(PAGE, self._old - index * PAGE))
        return bytearray(os.pread(self._handle, kept, index * PAGE).ljust(PAGE, b"\0"))


def recover(path: Path) -> None:
    """Complete a change that was cut off after it was certain; nothing where none was."""
    redo = _redo(path)
    if not redo.is_file():
        return
    with np.load(redo, allow_pickle=False) as stored:
        length, indices, pages = int(stored["length"]), stored["indices"], stored["pages"]
    handle = os.open(path, os.O_RDWR)
    try:
        for index, page in zip(indices.tolist(), pages, strict=True):
            os.lseek(handle, index * PAGE, os.SEEK_SET)
            write_all(handle, page.tobytes())
        os.ftruncate(handle, length)
        os.fsync(handle)
    finally:
        os.close(handle)
    redo.unlink()


def _redo(path: Path) -> Path:
    return path.with_name(path.name + REDO)


def _pieces(place: int, count: int) -> list[tuple[int, int, int, int]]:
    """Parts of `count` bytes from a place on, within one page each: start and stop of the part, page, place in it."""
    pieces, done = [], 0
    while done < count:
        index, within = divmod(place + done, PAGE)
        stop = min(count, done + PAGE - within)
        pieces.append((done, stop, index, within))
        done = stop
    return pieces
