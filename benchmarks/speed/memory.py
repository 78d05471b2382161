"""How much memory a process holds, and the most it held since it was asked to forget. Bytes."""

import ctypes
import gc
import re
import resource
import sys
from pathlib import Path

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident() -> int:
    """What the process holds now; its peak where the system does not say."""
    return _status("VmRSS") or peak()


def peak() -> int:
    """The most it held since `forget`; since its start where the system cannot forget."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _status("VmHWM") or largest * (1 if sys.platform == "darwin" else 1024)


def forget() -> int:
    """Hand unused memory back, forget the peak, and say what the process holds now."""
    gc.collect()
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            FORGET.write_text("5")
        except (OSError, AttributeError):
            pass  # another libc, or not allowed: the peak is then the one since the start
    return resident()


def available() -> int:
    """What the machine could still give; a large number where the system does not say."""
    try:
        match = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    except OSError:
        match = None
    return int(match[1]) * 1024 if match else 1 << 60


def _status(name: str) -> int:
    try:
        match = re.search(rf"{name}:\s+(\d+)", STATUS.read_text())
    except OSError:
        match = None
    return int(match[1]) * 1024 if match else 0
