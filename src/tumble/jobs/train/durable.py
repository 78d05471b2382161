"""Files of a training that survive a kill, a power cut and a full disk: each is as it was, or as it shall be."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

import torch
from torch import Tensor

from tumble.endings import settle_names

LAST: Final = "last.ckpt"
PREVIOUS: Final = "previous.ckpt"
PARTIAL: Final = ".partial"
SEAL: Final = b"tumble\x1a\n"
"""Stands before the checksum at the end of a sealed file."""
CHUNK: Final = 1 << 22


@contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Within, a file is written; where that fails, what there is of it is removed and the error says what to do.

    Args:
        path: the file, which is first written as `path` + ".partial".
        needed: bytes that it takes.

    Raises:
        RuntimeError: the disk is full, the folder read-only, or anything else that the operating system refuses.
    """
    try:
        yield
    except OSError as error:
        with suppress(OSError):
            path.with_name(path.name + PARTIAL).unlink(missing_ok=True)
        raise RuntimeError(_advice(path, error, needed)) from error


def replace(path: Path, fill: Callable[[IO[bytes]], object], *, keep: Path | None = None, needed: int = 0) -> None:
    """Write a file under another name, force it to the disk, then move it into place.

    Args:
        path: the file.
        fill: writes the content.
        keep: what the file that was there is called from then on; None: it is gone.
        needed: bytes of the content.

    Raises:
        RuntimeError: it could not be written; what was there is untouched.
    """
    partial = path.with_name(path.name + PARTIAL)
    with writing(path, needed):
        with partial.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        partial.replace(path)
        settle_names(path.parent)


def replace_text(path: Path, text: str) -> None:
    """The same for a text, in UTF-8.

    Raises:
        RuntimeError: it could not be written; what was there is untouched.
    """
    content = text.encode()
    replace(path, lambda file: file.write(content), needed=len(content))


def save(path: Path, content: Mapping[str, Any], *, keep: Path | None = None) -> None:
    """Write tensors and plain values, with a checksum of all bytes at the end, where `torch.load` does not mind it.

    SHA-256, because the archive's own CRC-32 leaves out its directory and is not looked at by torch; it is computed
    while writing, at about the speed at which a disk takes the bytes.

    Args:
        path: the file.
        content: what `torch.load(..., weights_only=True)` reads back.
        keep: what the file that was there is called from then on; None: it is gone.

    Raises:
        RuntimeError: it could not be written; what was there is untouched.
    """

    def fill(file: IO[bytes]) -> None:
        sealed = _Sealed(file)
        torch.save(dict(content), sealed)  # type: ignore[arg-type]
        sealed.finish()

    replace(path, fill, keep=keep, needed=_size(content))


def load(path: Path, device: torch.device | str) -> dict[str, Any]:
    """What `save` has written; or, without checksum, what `torch.save` has.

    Raises:
        ValueError: bytes are missing or have changed; the message is the reason alone.
    """
    is_sealed = _is_intact(path)
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    if not is_sealed and "version" in content:
        raise ValueError("the checksum at its end is missing or cut off")
    return content


class _Sealed:
    """A file for `torch.save`, whose bytes are summed up on their way."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sum = file, hashlib.sha256()
        self.error: BaseException | None = None

    def write(self, data: bytes | memoryview) -> int:
        if self.error is None:
            try:
                self.file.write(data)
                self.sum.update(data)
            except BaseException as error:  # torch's writer would hide it behind one of its own: kept for `finish`
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Nothing: `replace` flushes and syncs the file."""

    def finish(self) -> None:
        if self.error is not None:
            raise self.error
        self.file.write(SEAL + self.sum.digest())


def _is_intact(path: Path) -> bool:
    """Whether the file ends with the checksum of its bytes; False: it ends with none.

    Raises:
        ValueError: it ends with one of other bytes.
    """
    length = len(SEAL) + hashlib.sha256().digest_size
    left, total = path.stat().st_size - length, hashlib.sha256()
    if left < 0:
        return False
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(CHUNK, left))):
            total.update(chunk)
            left -= len(chunk)
        end = file.read()
    if not end.startswith(SEAL):
        return False
    if end != SEAL + total.digest():
        raise ValueError("its bytes do not have the checksum that was written with them")
    return True


def _size(content: object) -> int:
    """Bytes of the tensors in nested dictionaries and lists."""
    if isinstance(content, Tensor):
        return content.nbytes
    if isinstance(content, Mapping):
        return sum(map(_size, content.values()))
    return sum(map(_size, content)) if isinstance(content, list | tuple) else 0


def _advice(path: Path, error: OSError, needed: int) -> str:
    folder = path.parent
    reason, remedy = error.strerror or str(error), "Remove the cause"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with suppress(OSError):
            reason += f": {shutil.disk_usage(folder).free / 1e6:.1f} MB are free, {needed / 1e6:.1f} MB are needed"
        remedy = "Make room"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        remedy = "Make the folder writable"
    kept = next((name for name in (LAST, PREVIOUS) if (folder / name).is_file()), None)
    if kept is None:
        return f"{path} could not be written ({reason}). No checkpoint was written before. {remedy}, then start again."
    return (
        f"{path} could not be written ({reason}). {folder / kept} is complete: "
        f"{remedy[0].lower() + remedy[1:]}, then continue from it with --resume."
    )
