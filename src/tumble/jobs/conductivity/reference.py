"""Reference: conductivities of somebody else, from a file, and how far ours are from them."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tumble.jobs.conductivity.engine import required
from tumble.jobs.conductivity.metrics import WORST, mean_of, srd, srme
from tumble.jobs.conductivity.transport import Transport

Floats = NDArray[np.float64]

TEMPERATURES: Final = ("temperatures_K", "temperatures", "temperature")
TOTALS: Final = ("kappa_tot_avg", "kappa_tot_rta", "kappa", "kappa_xx_yy_zz_yz_xz_xy")
MODES: Final = ("mode_kappa_tot_avg", "mode_kappa_tot_rta", "mode_kappa")
"""Names under which files keep them; tensors may be (3, 3), six components with the diagonal first, or their mean."""


class Reference(NamedTuple):
    """Conductivities of a file, W/(m K).

    file:           where they come from.
    temperatures_K: (T,).
    kappa:          (T,) mean of the three directions.
    modes:          (T, Q, B) of each mode, times the number of wave vectors it stands for; None where not given.
    """

    file: str
    temperatures_K: Floats
    kappa: Floats
    modes: Floats | None


class Comparison(NamedTuple):
    """How far a conductivity is from the reference, at the temperatures that both have.

    temperatures_K: (K,).
    kappa, reference: (K,) W/(m K).
    srd, sre:       (K,).
    srme:           (K,), or None if the file has no modes.
    """

    temperatures_K: Floats
    kappa: Floats
    reference: Floats
    srd: Floats
    sre: Floats
    srme: Floats | None


def read_reference(source: str) -> Reference:
    """Conductivities from a file: FILE.json, FILE.json#ENTRY, FILE.npz or FILE.hdf5.

    Raises:
        ImportError: HDF5 without h5py, which comes with phono3py.
        ValueError: there is no such file or entry, it cannot be read, or lacks what is needed.
    """
    name, _, entry = source.partition("#")
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"there is no reference file {name}. Give the path of a JSON, npz or HDF5 file.")
    stored = _opened(path)
    if entry or not any(key in stored for key in TOTALS):
        stored = _entry(stored, entry, name)
    try:
        temperatures = np.atleast_1d(_found(stored, TEMPERATURES, name))
        total, modes = _found(stored, TOTALS, name), None
        kappa = np.atleast_1d(_directions(total, len(temperatures), 1))
        if any(key in stored for key in MODES):
            modes = _directions(_found(stored, MODES, name), len(temperatures), 3)
    except TypeError as error:
        raise ValueError(f"the reference {source} cannot be read: {error}. Numbers were expected.") from None
    if kappa.shape != temperatures.shape or not (np.isfinite(kappa).all() and (kappa >= 0).all()):
        raise ValueError(
            f"the reference {source} has {len(temperatures)} temperatures and conductivities of shape "
            f"{np.shape(total)}; a finite one, not negative, for each was expected. Check what wrote the file."
        )
    if modes is not None and (modes.ndim != 3 or len(modes) != len(temperatures)):
        raise ValueError(
            f"the reference {source} has conductivities of modes of shape {modes.shape}; ({len(temperatures)}, Q, B) "
            "was expected, for Q wave vectors with B modes. Check what wrote the file."
        )
    return Reference(source, temperatures, kappa, modes)


def check_modes(reference: Reference, n_points: int, n_bands: int) -> None:
    """Refuse modes of another mesh, which cannot be compared one by one.

    Raises:
        ValueError: there are others.
    """
    if reference.modes is not None and reference.modes.shape[1:] != (n_points, n_bands):
        points, bands = reference.modes.shape[1:]
        raise ValueError(
            f"the reference {reference.file} has {bands} modes at each of {points} irreducible wave vectors; {n_bands} "
            f"at {n_points} were expected. Set the mesh to that of the reference, and give the same crystal."
        )


def compare(transport: Transport, reference: Reference) -> Comparison:
    """Ours against those of a file; the largest errors for what could not be computed.

    Raises:
        ValueError: no temperature is the same.
    """
    here, ours, theirs = np.intersect1d(transport.temperatures_K, reference.temperatures_K, return_indices=True)
    if len(here) == 0:
        raise ValueError(
            f"the reference {reference.file} has {reference.temperatures_K.tolist()} K, and "
            f"{transport.temperatures_K.tolist()} K were computed; one in common was expected. Set temperatures_K."
        )
    kappa, other = mean_of(transport.kappa)[ours], reference.kappa[theirs]
    difference, modes = srd(kappa, other), None
    if reference.modes is not None:
        if transport.is_refused:
            modes = np.full(len(here), WORST)
        else:
            modes = srme(kappa, transport.by_mode[ours], other, reference.modes[theirs], transport.weights)
    return Comparison(here, kappa, other, difference, np.abs(difference), modes)


def _opened(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                return {key: arrays[key] for key in arrays.files}
        if path.suffix in (".hdf5", ".h5"):
            with required("h5py").File(path, "r") as file:
                return {key: file[key][()] for key in file}
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"the reference {path} cannot be read ({error}). A JSON, npz or HDF5 file with temperatures and "
            "conductivities was expected."
        ) from None
    return stored if isinstance(stored, dict) else {}


def _entry(stored: Mapping[str, Any], entry: str, name: str) -> Mapping[str, Any]:
    entries = [key for key, value in stored.items() if isinstance(value, dict)]
    if entry not in entries:
        known = f"it has {', '.join(entries[:10])}" if entries else "it has none, and no conductivities either"
        raise ValueError(
            f"the entry {entry!r} is not in the reference {name}; {known}. Name one behind the file: {name}#ENTRY."
        )
    found: Mapping[str, Any] = stored[entry]
    return found


def _found(stored: Mapping[str, Any], names: tuple[str, ...], file: str) -> Floats:
    for name in names:
        if name in stored:
            return np.asarray(stored[name], dtype=np.float64)
    raise ValueError(
        f"the reference {file} has {', '.join(list(stored)[:10]) or 'nothing'}; one of {', '.join(names)} was expected."
    )


def _directions(values: Floats, n_temperatures: int, axes: int) -> Floats:
    """The mean over directions, where they are given; `axes` are left."""
    values = values if len(values.shape) and values.shape[0] == n_temperatures else values[None]
    if values.ndim == axes + 2 and values.shape[-2:] == (3, 3):
        return mean_of(values)
    if values.ndim == axes + 1 and values.shape[-1] in (3, 6):
        return np.asarray(values[..., :3].mean(-1))
    return values
