"""Disk: files that grow or are replaced so that neither a kill nor a full disk damages what was there before."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, final

from tumble.endings import settle_names

PARTIAL: Final = ".partial"
"""Stands behind the name of a file that is being written aside."""


def replace(path: Path, content: bytes) -> None:
    """Write a file under another name, force it to the disk, and move it into place.

    It is as it was, or as it shall be.

    Raises:
        OSError: it could not be written; what was there is untouched, and nothing is left beside it.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    settle_names(path.parent)


def write_all(handle: int, content: bytes | bytearray | memoryview) -> None:
    """Write all bytes where the file stands; the operating system may take them in pieces."""
    left = memoryview(content)
    while left:
        left = left[os.write(handle, left) :]


@final
class Growing:
    """A file that only grows, by whole pieces.

    length: bytes of it, all of which the operating system has.
    """

    def __init__(self, path: Path, length: int = 0) -> None:
        """Open it, and cut off what is behind a length.

        Args:
            path: the file; made if there is none.
            length: bytes that are kept.

        Raises:
            ValueError: it is shorter.
        """
        self.path, self.length = path, length
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        found = os.fstat(self._handle).st_size
        if found < length:
            self.close()
            raise ValueError(
                f"{path} has {found} bytes, and {length} had been written at the last restart: it was changed since. "
                "Bring it back, or start again in another folder."
            )
        os.ftruncate(self._handle, length)

    def append(self, piece: bytes) -> None:
        """Write a piece behind the others; if that fails, the file is as it was.

        Raises:
            OSError: it could not be written.
        """
        os.lseek(self._handle, self.length, os.SEEK_SET)
        try:
            write_all(self._handle, piece)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._handle, self.length)
            raise
        self.length += len(piece)

    def settle(self) -> None:
        """Force it to the disk."""
        os.fsync(self._handle)

    def close(self) -> None:
        """Close it; once is enough."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
