"""C++ parts of the package: compiled once per machine, with the compiler at hand, and called through ctypes.

Every one of them is a fast path beside a slower one in Python that gives the same numbers; without a compiler nothing
is lost but time.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math")
OFF = "TUMBLE_NO_NATIVE"
"""Set this variable in the environment to run without any compiled part."""

_reasons: dict[Path, str] = {}


def library(source: Path) -> ctypes.CDLL | None:
    """The compiled part of this source, built if this machine has not built this version yet; None if it cannot be had.

    Args:
        source: a .cpp file; the .h files beside it belong to it.
    """
    return None if os.environ.get(OFF) else _library(source)


def reason(source: Path) -> str:
    """Why there is no such library here; empty if there is."""
    if os.environ.get(OFF):
        return f"{OFF} is set"
    _library(source)
    return _reasons.get(source, "")


@cache
def _library(source: Path) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(_built(source)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        lines = (getattr(error, "stderr", None) or str(error)).splitlines()
        _reasons[source] = next((line for line in lines if "error" in line), lines[0] if lines else repr(error)).strip()
        if isinstance(error, subprocess.SubprocessError):  # without a compiler there is nothing to repair
            warnings.warn(f"{source.name} cannot be built, tumble runs without it: {_reasons[source]}", stacklevel=3)
        return None


def _built(source: Path) -> Path:
    named = (os.environ.get("CXX"), "c++", "g++", "clang++")
    compiler = next((path for name in named if name and (path := shutil.which(name))), None)
    if compiler is None:
        raise RuntimeError(
            f"none of the C++ compilers {', '.join(filter(None, named))} is on the PATH; one was expected. Install "
            "one, or set CXX to its name; everything works without it too, slower."
        )
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    parts = [path.read_text() for path in (source, *sorted(source.parent.glob("*.h")))]
    name = hashlib.sha256("\n".join([*parts, *FLAGS, version, _processor()]).encode()).hexdigest()[:16]
    target = folder() / f"{source.stem}-{name}.so"
    if not target.is_file():
        if sys.stderr.isatty():
            print(f"tumble: compiling {source.name}, once on this machine ...", file=sys.stderr)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as place:
            built = Path(place) / target.name
            command = [compiler, *FLAGS, str(source), "-o", str(built)]
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
            built.replace(target)  # two processes may build at once: each has its own file, and the last one stays
    return target


def folder() -> Path:
    """Where compiled parts are kept: TUMBLE_CACHE, or tumble in the user's cache folder."""
    if chosen := os.environ.get("TUMBLE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tumble"


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
