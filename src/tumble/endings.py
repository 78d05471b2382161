"""Endings: what a long job does so that nothing is lost when it is told to stop, or the power goes."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


@contextmanager
def stop_signal(written: str) -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT has come; only the main thread can listen, and a second one interrupts at once.

    Args:
        written: what is written before the end, for the one line that says so.
    """
    told = threading.Event()

    def listen(number: int, frame: FrameType | None) -> None:
        if told.is_set():
            raise KeyboardInterrupt
        told.set()
        print(f"stopping: writing a {written} first", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield told.is_set
        return
    old = {number: signal.signal(number, listen) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told.is_set
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def settle_names(folder: Path) -> None:
    """Force the names in a folder to the disk, where its file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no folders
            raise
    finally:
        os.close(handle)
