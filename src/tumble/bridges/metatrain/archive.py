"""The file that torch.save writes: a zip of a pickle and of storages, which are mapped into memory and not copied."""

import mmap
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, final

import numpy as np
import torch
from torch import Tensor

from tumble.bridges.metatrain.pickles import Call, Inert, check_keys, unpickle

_KINDS: Final = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool,
}  # fmt: skip
_TYPES: Final = {f"torch.{name}Storage": kind for name, kind in _KINDS.items()} | {str(k): k for k in _KINDS.values()}
_INERT_PACKAGES: Final = ("metatrain.", "metatomic.", "metatensor.", "torch.ScriptObject")
_INERT: Final = {
    *("torch.device", "torch.serialization._get_layout", "pathlib.PosixPath", "pathlib.WindowsPath", "numpy.dtype"),
    *("numpy.ndarray", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
    *("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"),
}
"""What lies in files and is not used here: kept as it was stored."""
_NUMBERS: Final = "?bhilqBHILQefd"
"""Letters of the numbers that numpy may have stored; never an object."""


def content_of(path: Path) -> Any:
    """What a file of torch.save holds; its tensors lie in the file until they are used.

    Raises:
        ValueError: it is no such file, is cut off, contradicts itself, or asks for code to be run.
    """
    try:
        archive = _Archive(path)
        return unpickle(archive.pickle, _named, archive.storage)
    except NotImplementedError as error:
        raise ValueError(
            f"{path} asks to load {error}, which no PET checkpoint needs; a file of tensors and numbers was expected. "
            "Nothing was executed. Do not trust this file."
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({error}); it may be cut off or of another kind. "
            "Copy it again, or name the file that metatrain wrote."
        ) from None


@final
class _Archive:
    """Records of a zip file in which nothing is compressed, as views of the mapped file."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._records = {one.filename: one for one in _index(file)}
            # A private copy: pages are read when they are needed, and what is written to them never reaches the file.
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._bytes = torch.frombuffer(self._mapped, dtype=torch.uint8)
        pickles = [name for name in self._records if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it holds {len(pickles)} records data.pkl, not one")
        self._folder = pickles[0].removesuffix("data.pkl")
        if f"{self._folder}byteorder" in self._records:
            order = self._record("byteorder").numpy().tobytes().decode("ascii", "replace")
            if order != sys.byteorder:
                raise ValueError(f"its bytes are in {order}-endian order, those of this machine in {sys.byteorder}")
        self.pickle = self._record("data.pkl").numpy().tobytes()
        self._storages: dict[tuple[str, torch.dtype], Tensor] = {}

    def storage(self, what: Any) -> Tensor:
        """Flat tensor of a stored object: ("storage", dtype, key, place, number of elements)."""
        if not isinstance(what, tuple) or len(what) != 5 or what[0] != "storage":
            raise NotImplementedError("an object that is stored elsewhere")
        _, dtype, key, _, n = what
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str) or not isinstance(n, int):
            raise ValueError("a tensor is stored in no known way")
        if (key, dtype) not in self._storages:
            record, wanted = self._record(f"data/{key}"), n * dtype.itemsize
            if n < 0 or len(record) < wanted:
                raise ValueError(f"record data/{key} has {len(record)} bytes, a tensor needs {wanted} of them")
            record = record[:wanted]
            # torch.save aligns what it writes; another program may not.
            aligned = record if record.storage_offset() % dtype.itemsize == 0 else record.clone()
            self._storages[key, dtype] = aligned.view(dtype)
        return self._storages[key, dtype]

    def _record(self, name: str) -> Tensor:
        entry = self._records.get(self._folder + name)
        if entry is None:
            raise ValueError(f"record {name} is missing")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise ValueError(f"record {name} is compressed or encrypted, which torch.save never does")
        head = bytes(self._mapped[entry.header_offset : entry.header_offset + 30])
        if len(head) < 30 or head[:4] != b"PK\x03\x04":
            raise ValueError(f"record {name} does not lie where the index says")
        name_length, extra_length = struct.unpack("<HH", head[26:30])
        start = entry.header_offset + 30 + name_length + extra_length
        if start + entry.file_size > len(self._mapped):
            raise ValueError(f"record {name} claims {entry.file_size} bytes, more than the file holds")
        return self._bytes[start : start + entry.file_size]


def _index(file: BinaryIO) -> list[zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, struct.error, NotImplementedError, OSError) as error:
        raise ValueError(f"{error or type(error).__name__}") from None


def _named(name: str) -> Any:
    """What stands for a name in a checkpoint: types of numbers, our own makers of tensors, and inert objects."""
    if name in _MAKERS:
        return Call(_MAKERS[name])
    if name in _TYPES:
        return _TYPES[name]
    if name in _INERT or name.startswith(_INERT_PACKAGES):
        return Call(lambda *arguments: Inert(name, arguments))
    raise NotImplementedError(name)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage; unlike torch's own maker it never grows the storage and never looks outside of it."""
    if not isinstance(storage, Tensor) or storage.dim() != 1 or len(size) != len(stride):
        raise ValueError("a tensor has no storage")
    if any(not isinstance(n, int) or n < 0 for n in (offset, *size, *stride)):
        raise ValueError("a tensor has an offset, a shape or strides that are not counts")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(storage):
        raise ValueError(f"a tensor of shape {size} looks beyond the {len(storage)} numbers of its storage")
    return storage.as_strided(size, stride, storage.storage_offset() + offset)


def _number(kind: Any, raw: Any = b"") -> Any:
    """One number of numpy, from its type and its bytes."""
    letter = kind.arguments[0] if isinstance(kind, Inert) and kind.arguments else None
    if not isinstance(letter, str) or np.dtype(letter).char not in _NUMBERS or not isinstance(raw, bytes):
        raise NotImplementedError("an object of numpy")
    return np.frombuffer(raw, dtype=np.dtype(letter), count=1)[0].item()


def _encoded(text: Any, _: Any = "latin1") -> bytes:
    """Bytes, which old pickles write as a text."""
    return str(text).encode("latin1")


def _set(items: Any) -> set[Any]:
    """The oldest checkpoints keep their elements as a set."""
    check_keys(items)
    return set(items)


_MAKERS: Final[dict[str, Callable[..., Any]]] = {
    "collections.OrderedDict": lambda: {},
    "collections.defaultdict": lambda *_: {},
    "builtins.set": lambda items=(): _set(items),
    "__builtin__.set": lambda items=(): _set(items),
    "_codecs.encode": _encoded,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.Size": lambda items=(): tuple(items),
    "numpy.core.multiarray.scalar": _number,
    "numpy._core.multiarray.scalar": _number,
}
