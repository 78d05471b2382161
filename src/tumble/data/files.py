"""Files of structures, labelled or not: stores, collections, and any format that ASE reads, compressed or not."""

import bz2
import glob
import gzip
import io
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Literal

import ase.db
import ase.io
from ase import Atoms

from tumble.batch import Properties
from tumble.data import aselmdb, extxyz, records
from tumble.data.dataset import Dataset, joined
from tumble.data.extxyz import Unread
from tumble.data.facts import weight_of
from tumble.data.labels import Keys, Label, check_all, check_present, check_some, check_structure, labels
from tumble.data.store import Store, is_store

PACKED = (".gz", ".bz2", ".xz", ".zst")

XYZ = (".xyz", ".extxyz")

LMDB = (".aselmdb", ".lmdb")

JSON = (".json", ".jsonl")

STRUCTURE_FILES = (
    *(".xyz", ".extxyz", ".cif", ".vasp", ".poscar", ".pdb", ".gen", ".xsf", ".res", ".cell"),
    *(".mol", ".sdf", ".gro", ".traj", ".db", ".aselmdb"),
)
"""What the names of files end in that are read where a folder is named."""

HEAD: Final = 1 << 20
"""Characters of a JSON file that are looked at to know what it is."""


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
        files: a file, a glob pattern, or several; extxyz, ASE db, .aselmdb, MPtrj or MatPES JSON, or any format that
            ASE reads, also compressed (.gz, .bz2, .xz, .zst). A store is not loaded: its structures are read when
            they are asked for.
        energy_key: name of the energy in `info` or the calculator's results, if it is another than those above.
        forces_key: name of the forces in `arrays` or the calculator's results.
        stress_key: name of the stress or virial in `info` or the calculator's results.
        require: labels that every structure must have; () for structures without labels.
        missing: "error" refuses a structure without a required label, "mask" accepts it as long as some have it.

    Raises:
        ValueError: no such file, an unreadable or empty one, a missing label, NaN or infinite labels or positions.
        ImportError: a .zst file without the module zstandard, an .aselmdb file without the module lmdb.
    """
    keys: Keys = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
    required = required_labels(keys, require, missing)
    paths = expand(files, folders=False)
    if all(map(is_store, paths)) and (named := [f"{label}_key" for label, key in keys.items() if key]):
        raise ValueError(
            f"{named[0]} is given, but a store holds labels without the names they had: they were chosen when it was "
            f"made. Remove {named[0]}, or make the store with it."
        )
    parts = []
    for is_kept, some in groupby(paths, is_store):
        if is_kept:
            parts += [_opened(path, required, missing) for path in some]
        else:
            parts.append(_read_all(some, keys, required, missing))
    dataset = joined(parts)
    check_some(dataset, required, keys)
    return dataset


def required_labels(keys: Keys, require: Sequence[str], missing: str) -> list[str]:
    """The labels that are required or have a key, in their order.

    Raises:
        ValueError: a choice that there is not.
    """
    if missing not in ("error", "mask"):
        raise ValueError(f"missing={missing!r} is not a choice; expected 'error' or 'mask'.")
    if unknown := set(require) - set(keys):
        raise ValueError(f"cannot require {sorted(unknown)}: no such label. Expected some of energy, forces, stress.")
    return [label for label, key in keys.items() if label in require or key is not None]


def _opened(path: Path, required: Sequence[str], missing: str) -> Dataset:
    dataset = Store.open(path).dataset()
    if len(dataset) == 0:
        raise ValueError(f"{str(path)!r} is empty; at least one structure was expected.")
    if missing == "error":
        check_all(dataset, required)
    return dataset


def _read_all(paths: Iterable[Path], keys: Keys, required: Sequence[str], missing: str) -> Dataset:
    entries = [
        labelled(f"{path}:{frame}", one, keys, required if missing == "error" else ())
        for path in paths
        for frame, one in _read_file(path)
    ]
    sources, atoms, found = zip(*entries, strict=True)
    return Dataset(list(atoms), list(found), list(sources))


def labelled(source: str, atoms: Atoms, keys: Keys, required: Sequence[str]) -> tuple[str, Atoms, Properties]:
    """A structure as it came out of a file, checked, and parted from its labels.

    Raises:
        ValueError: names the source, and what is wrong with it.
    """
    check_structure(atoms, source)
    found = labels(atoms, keys, source)
    check_present(atoms, found, required, keys, source)
    try:
        weight_of(atoms)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return source, atoms.copy(), found


def frames(files: str | Path | Sequence[str | Path]) -> Iterator[tuple[str, Atoms]]:
    """Structures without their labels, one after another, as they are read: any number of them fits into memory.

    Args:
        files: as in `read`; a folder stands for the structure files in it (`STRUCTURE_FILES`), in sorted order.

    Yields:
        Name "file:frame", frames counted from 0, and the structure.

    Raises:
        ValueError: no such file, an unreadable or empty one, NaN or infinite positions; in its turn.
        ImportError: a .zst file without the module zstandard, an .aselmdb file without the module lmdb.
    """
    for path in expand(files, folders=True):
        for frame, one in _read_file(path):
            source = f"{path}:{frame}"
            check_structure(one, source)
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
            if is_store(path):
                paths.append(path)
                continue
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


def _read_file(path: Path) -> Iterator[tuple[int, Atoms]]:
    return ((frame, parse()) for frame, parse in unread(path))


def unread(path: Path, start: int = 0) -> Iterator[Unread]:
    """The frames of a file one after another, each parsed when it is asked for.

    Args:
        path: of a file, or of a store.
        start: frames before this one are passed over.

    Raises:
        ValueError: the file holds nothing, or cannot be read on; in its turn.
        ImportError: a module is missing.
    """
    if path.is_file() and (path.stat().st_size == 0 or (path.stat().st_size < 4096 and not path.read_bytes().strip())):
        raise ValueError(f"{str(path)!r} is empty; at least one structure was expected.")
    found, is_empty = _frames_of(path, start), start == 0
    while True:
        try:
            one = next(found, None)
        except ImportError:
            raise
        except Exception as error:  # every format fails in its own way
            raise _unreadable(path, str(path), error) from error
        if one is None:
            break
        is_empty = False
        frame, parse = one
        yield frame, _named(path, f"{path}:{frame}", parse)
    if is_empty:
        raise ValueError(f"{str(path)!r} holds no structure; at least one was expected.")


def _named(path: Path, source: str, parse: Callable[[], Atoms]) -> Callable[[], Atoms]:
    def named() -> Atoms:
        try:
            return parse()
        except Exception as error:
            raise _unreadable(path, source, error) from error

    return named


def _unreadable(path: Path, source: str, error: Exception) -> ValueError:
    if path.suffix in PACKED and isinstance(error, OSError | EOFError | lzma.LZMAError | zlib.error):
        return ValueError(f"cannot decompress {source!r}: {error}. Is it complete, and what it says?")
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return ValueError(
        f"cannot read {source!r}: {kind}{error}. It is truncated, or not in a format that tumble or ASE reads."
    )


def _frames_of(path: Path, start: int) -> Iterator[Unread]:
    """What reads the frames of a file, by the end of its name."""
    inner = Path(path.stem) if path.suffix in PACKED else path
    if is_store(path):
        yield from _frames_of_store(path, start)
    elif inner.suffix in XYZ:
        with _text(path) as file:
            yield from extxyz.frames(file, start)
    elif inner.suffix in JSON and _is_collection(path):
        with _text(path) as file:
            yield from records.frames(file, start, is_lines=inner.suffix == ".jsonl")
    elif path.suffix in PACKED:
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / path.stem
            with _open(path) as packed, plain.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
            yield from _frames_of(plain, start)
    elif path.suffix in LMDB:
        yield from aselmdb.frames(path, start)
    else:
        yield from enumerate(map(_given, _parsed(path, start)), start)


def _parsed(path: Path, start: int) -> Iterator[Atoms]:
    if path.suffix == ".db":  # read row by row, because ase.io.read drops what a row says besides results
        for row in ase.db.connect(str(path)).select(offset=start):
            yield row.toatoms(add_additional_information=True)
    else:
        yield from ase.io.iread(str(path), index=f"{start}:", do_not_split_by_at_sign=True)


def _frames_of_store(path: Path, start: int) -> Iterator[Unread]:
    dataset = Store.open(path).dataset()
    for frame in range(start, len(dataset)):
        yield frame, _given(dataset.atoms[frame])


def _given(atoms: Atoms) -> Callable[[], Atoms]:
    return lambda: atoms


def _is_collection(path: Path) -> bool:
    with _text(path) as file:
        return records.is_collection(file.read(HEAD))


def _text(path: Path) -> IO[str]:
    return io.TextIOWrapper(_open(path), encoding="utf-8")


def _open(path: Path) -> BinaryIO:
    """The bytes of a file, decompressed."""
    if path.suffix not in PACKED:
        return path.open("rb")
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
