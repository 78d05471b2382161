"""Files of structures, labelled or not, in any format that ASE reads, compressed or not."""

import bz2
import glob
import gzip
import lzma
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import ase.db
import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray
from torch import Tensor

from tumble.batch import Properties
from tumble.data.dataset import Dataset

Label = Literal["energy", "forces", "stress"]

PLAIN_KEYS: Mapping[str, tuple[str, ...]] = {
    "energy": ("energy", "REF_energy"),
    "forces": ("forces", "REF_forces"),
    "stress": ("stress", "REF_stress", "virial", "virials", "REF_virial", "REF_virials"),
}
"""Where a label is looked for when the user names no key: calculator results, then `info` and `arrays`."""

PACKED = (".gz", ".bz2", ".xz", ".zst")

STRUCTURE_FILES = (
    *(".xyz", ".extxyz", ".cif", ".vasp", ".poscar", ".pdb", ".gen", ".xsf", ".res", ".cell"),
    *(".mol", ".sdf", ".gro", ".traj", ".db"),
)
"""What the names of files end in that are read where a folder is named."""


def read(
    files: str | Path | Sequence[str | Path],
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    require: Sequence[Label] = ("energy", "forces"),
    missing: Literal["error", "mask"] = "error",
) -> Dataset:
    """Read structures and their labels.

    Labels are looked for in calculator results, `info` and `arrays`, under plain names and with the prefix `REF_`;
    if both exist and differ, the key must be given. A stress may be (3, 3), 9 or 6 (Voigt) numbers in eV/Å³ with the
    sign of ASE; a key with `virial` in its name is a virial in eV, and stress = -virial / V. A structure without a
    volume has no stress: none is asked of it, and one that a file states for it is not used.

    Args:
        files: a file, a glob pattern, or several; extxyz, ASE db, or any format that ASE reads, also compressed
            (.gz, .bz2, .xz, .zst).
        energy_key: name of the energy in `info` or the calculator's results, if it is another than those above.
        forces_key: name of the forces in `arrays` or the calculator's results.
        stress_key: name of the stress or virial in `info` or the calculator's results.
        require: labels that every structure must have; () for structures without labels.
        missing: "error" refuses a structure without a required label, "mask" accepts it as long as some have it.

    Raises:
        ValueError: no such file, an unreadable or empty one, a missing label, NaN or infinite labels or positions.
        ImportError: a .zst file without the module zstandard.
    """
    if missing not in ("error", "mask"):
        raise ValueError(f"missing={missing!r} is not a choice; expected 'error' or 'mask'.")
    keys = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
    if unknown := set(require) - set(keys):
        raise ValueError(f"cannot require {sorted(unknown)}: no such label. Expected some of energy, forces, stress.")
    required = [label for label, key in keys.items() if label in require or key is not None]
    atoms, labels, sources = [], [], []
    for path in expand(files, folders=False):
        for frame, one in enumerate(_read_file(path)):
            source = f"{path}:{frame}"
            _check_structure(one, source)
            found = _labels(one, keys, source)
            if missing == "error":
                _check_present(one, found, required, keys, source)
            sources.append(source)
            labels.append(found)
            atoms.append(one.copy())
    dataset = Dataset(atoms, labels, sources)
    _check_some(dataset, required, keys)
    return dataset


def frames(files: str | Path | Sequence[str | Path]) -> Iterator[tuple[str, Atoms]]:
    """Structures without their labels, one after another, as they are read: any number of them fits into memory.

    Args:
        files: as in `read`; a folder stands for the structure files in it (`STRUCTURE_FILES`), in sorted order.

    Yields:
        Name "file:frame", frames counted from 0, and the structure.

    Raises:
        ValueError: no such file, an unreadable or empty one, NaN or infinite positions; in its turn.
        ImportError: a .zst file without the module zstandard.
    """
    for path in expand(files, folders=True):
        for frame, one in enumerate(_read_file(path)):
            source = f"{path}:{frame}"
            _check_structure(one, source)
            one.calc = None
            yield source, one


def expand(files: str | Path | Sequence[str | Path], *, folders: bool) -> list[Path]:
    """Every file named or matched, patterns in sorted order.

    Args:
        files: as in `read`.
        folders: whether a folder stands for the structure files in it, or is refused.

    Raises:
        ValueError: no such file, or a folder that is refused or holds no structure file.
    """
    names = [files] if isinstance(files, str | Path) else list(files)
    paths: list[Path] = []
    for name in names:
        matches = [Path(name)] if Path(name).exists() else sorted(map(Path, glob.glob(str(name), recursive=True)))
        if not matches:
            raise ValueError(f"there is no file {str(name)!r} (and nothing matches it as a pattern). Check the path.")
        for path in matches:
            if path.is_dir() and not folders:
                raise ValueError(f"{str(path)!r} is a folder; a file was expected. Use a pattern such as '*.extxyz'.")
            paths += _files_in(path) if path.is_dir() else [path]
    if not paths:
        raise ValueError("there is nothing to read: 0 files were given, at least 1 was expected.")
    return paths


def _files_in(folder: Path) -> list[Path]:
    """The structure files of a folder in sorted order, known by their names."""
    found = []
    for path in sorted(folder.iterdir()):
        name = path.name.removesuffix(path.suffix) if path.suffix in PACKED else path.name
        is_known = name.endswith(STRUCTURE_FILES) or name.startswith(("POSCAR", "CONTCAR"))
        if is_known and not name.startswith(".") and path.is_file():
            found.append(path)
    if not found:
        raise ValueError(
            f"the folder {str(folder)!r} has no structure files: none of the names in it ends in "
            f"{' '.join(STRUCTURE_FILES)}, or starts with POSCAR or CONTCAR. Name the files, or a pattern."
        )
    return found


def _read_file(path: Path) -> Iterator[Atoms]:
    if path.suffix not in PACKED:
        yield from _read_plain(path, path)
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.stem
        try:
            with _open(path) as packed, plain.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
            raise ValueError(f"cannot decompress {str(path)!r}: {error}. Is it complete, and what it says?") from error
        yield from _read_plain(plain, path)


def _open(path: Path) -> BinaryIO:
    """The decompressed bytes of a file."""
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raise ImportError(f"{str(path)!r} needs the module zstandard: pip install 'tumble[zstd]'") from error
        packed: BinaryIO = zstandard.open(path, "rb")
        return packed
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[path.suffix]
    unpacked: BinaryIO = opener(path, "rb")
    return unpacked


def _read_plain(path: Path, shown: Path) -> Iterator[Atoms]:
    """All structures of a file that is not compressed, as they are read; `shown` is its name in errors."""
    if path.stat().st_size == 0 or (path.stat().st_size < 4096 and not path.read_bytes().strip()):
        raise ValueError(f"{str(shown)!r} is empty; at least one structure was expected.")
    is_extxyz = path.suffix in (".xyz", ".extxyz")
    found = _frames_of(path, "extxyz" if is_extxyz else None)
    n_structures = n_lines = 0
    while True:
        try:
            one = next(found, None)
        except Exception as error:  # every format of ASE fails in its own way
            raise ValueError(
                f"cannot read {str(shown)!r}: {type(error).__name__}: {error}. "
                "It is truncated, or not in a format that ASE reads."
            ) from error
        if one is None:
            break
        n_structures, n_lines = n_structures + 1, n_lines + len(one) + 2
        yield one
    if n_structures == 0:
        raise ValueError(f"{str(shown)!r} holds no structure; at least one was expected.")
    if is_extxyz:
        _check_end(path, shown, n_structures, n_lines)


def _frames_of(path: Path, form: str | None) -> Iterator[Atoms]:
    if path.suffix == ".db":  # read row by row, because ase.io.read drops what a row says besides results
        for row in ase.db.connect(str(path)).select():
            yield row.toatoms(add_additional_information=True)
    else:
        yield from ase.io.iread(str(path), index=":", format=form, do_not_split_by_at_sign=True)


def _check_end(path: Path, shown: Path, n_structures: int, n_read: int) -> None:
    """ASE stops at a blank line without a word: refuse a file of which it did not see the end."""
    n_lines, has_vectors = 0, False
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            n_lines = number if line.strip() else n_lines
            has_vectors = has_vectors or line.startswith(b"VEC")
    if n_lines > n_read and not has_vectors:
        raise ValueError(
            f"{str(shown)!r} has {n_lines} lines, but its first {n_structures} structures end at line {n_read}: "
            "a blank or foreign line lies between structures. Remove it."
        )


def _check_structure(atoms: Atoms, source: str) -> None:
    if len(atoms) == 0:
        raise ValueError(f"{source} has no atoms; at least one was expected. Remove it from the file.")
    for name, values in (("positions", atoms.positions), ("cell", atoms.cell.array)):
        if bad := int((~np.isfinite(values)).sum()):
            raise ValueError(f"{source} has {bad} NaN or infinite numbers in its {name}. Repair or remove it.")


def _can_have(label: str, atoms: Atoms) -> bool:
    return label != "stress" or bool(atoms.pbc.any() and abs(np.linalg.det(atoms.cell.array)) > 1e-3)


def _stored(atoms: Atoms) -> dict[str, Any]:
    """Everything a file says about a structure, by name; calculator results win over `info` and `arrays`."""
    stored: dict[str, Any] = {key: value for key, value in atoms.arrays.items() if key not in ("numbers", "positions")}
    for extra in ("key_value_pairs", "data"):  # where an ASE database keeps them
        stored |= atoms.info.get(extra, {})
    stored |= atoms.info
    return stored | atoms.calc.results if atoms.calc is not None else stored


def _labels(atoms: Atoms, keys: Mapping[str, str | None], source: str) -> Properties:
    """Labels of one structure, checked."""
    stored = _stored(atoms)
    found: dict[str, Tensor | None] = {}
    for label, given in keys.items():
        candidates = PLAIN_KEYS[label] if given is None else (given,)
        values = {
            key: _label(label, key, stored[key], atoms, source)
            for key in candidates
            if stored.get(key) is not None and _can_have(label, atoms)
        }
        if len(values) > 1:
            (first, one), *others = values.items()
            for other, two in others:
                if not np.allclose(one, two, rtol=1e-5, atol=1e-6):
                    raise ValueError(
                        f"{source} has {label} both as {first!r} and as {other!r}, and they differ by "
                        f"{np.abs(one - two).max():.3g}. Say which with {label}_key."
                    )
        found[label] = torch.from_numpy(next(iter(values.values()))) if values else None
    return Properties(**found)


def _label(label: str, key: str, value: Any, atoms: Atoms, source: str) -> NDArray[np.float64]:
    """One label as a float64 array of the right shape, finite and, if it is a virial, turned into a stress."""
    shapes = {"energy": "()", "forces": f"({len(atoms)}, 3)", "stress": "(3, 3), (9,) or (6,)"}
    try:
        array = np.array(value, dtype=np.float64)
        if label == "energy":
            array = array.reshape(())
        elif label == "forces":
            if array.shape != (len(atoms), 3):
                raise ValueError
        else:
            array = voigt_6_to_full_3x3_stress(array) if array.shape == (6,) else array.reshape(3, 3)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{source}: {label} {key!r} is {np.shape(value)} {type(value).__name__}, expected numbers of shape "
            f"{shapes[label]}. Repair the file or give {label}_key."
        ) from error
    if bad := int((~np.isfinite(array)).sum()):
        raise ValueError(f"{source}: {label} {key!r} has {bad} NaN or infinite numbers. Repair or remove it.")
    if label == "stress":
        array = -array / atoms.get_volume() if "virial" in key.lower() else array
        if (skew := np.abs(array - array.T).max() / 2) > 1e-4 * np.abs(array).max() + 1e-6:
            raise ValueError(f"{source}: {key!r} is not symmetric, by {skew:.3g} eV/Å³. Check its layout and units.")
        array = (array + array.T) / 2
    return array


def _check_present(
    atoms: Atoms, found: Properties, required: Sequence[str], keys: Mapping[str, str | None], source: str
) -> None:
    for label in required:
        if getattr(found, label) is None and _can_have(label, atoms):
            tried = keys[label] or ", ".join(PLAIN_KEYS[label])
            there = ", ".join(sorted(_stored(atoms))) or "nothing"
            raise ValueError(
                f"{source} lacks {_article(label)} (looked for {tried}; it has: {there}). "
                f"Give {label}_key, remove the structure, or read with missing='mask'."
            )


def _check_some(dataset: Dataset, required: Sequence[str], keys: Mapping[str, str | None]) -> None:
    for label in required:
        able = [_can_have(label, one) for one in dataset.atoms]
        known = [getattr(one, label) is not None for one in dataset.labels]
        if any(able) and not any(known):
            tried = keys[label] or ", ".join(PLAIN_KEYS[label])
            raise ValueError(
                f"none of {len(dataset)} structures has {_article(label)} (looked for {tried}). "
                f"Give {label}_key, or require only what the files have."
            )


def _article(label: str) -> str:
    return {"energy": "an energy", "forces": "forces", "stress": "a stress"}[label]
