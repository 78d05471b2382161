"""A file that asks for more than tensors, numbers and texts is refused, and nothing of it is run."""

import contextlib
import io
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tumble
from tumble.bridges import metatrain
from tumble.bridges.metatrain.archive import content_of
from tumble.bridges.metatrain.pickles import Inert

PET = {"architecture_name": "pet", "model_ckpt_version": 16}


class Malicious:
    """Runs a command where a pickle is trusted."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def name(text: str) -> bytes:
    module, _, last = text.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


TENSOR = b"(" + text("storage") + name("torch.FloatStorage") + text("0") + text("cpu") + b"K\x04tQ"
"""A storage of four numbers in the record data/0."""
REBUILT = name("torch._utils._rebuild_tensor_v2") + b"(" + TENSOR + b"K\x00(K\x04t(K\x01t\x89NtR"


def packed(path: Path, program: bytes, records: dict[str, bytes] | None = None, **options: Any) -> Path:
    """A file as torch.save would write it, with a pickle made of these instructions."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + program + b".")
        for key, value in ({"data/0": np.arange(4, dtype="<f4").tobytes()} | (records or {})).items():
            archive.writestr(f"x/{key}", value)
    return path


def test_a_malicious_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save(PET | {"x": Malicious(f"touch {tmp_path}/ran")}, tmp_path / "bad.ckpt")
    for read in (metatrain.read, metatrain.load, metatrain.describe, tumble.load):
        with pytest.raises(ValueError, match=r"asks to load (posix|nt)\.system.*Nothing was executed"):
            read(tmp_path / "bad.ckpt")
    assert not (tmp_path / "ran").exists()


def test_a_malicious_object_deep_in_a_wrapped_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    hidden = PET | {"train_hypers": [{"a": (1, {"b": Malicious(f"touch {tmp_path}/ran")})}]}
    torch.save({"architecture_name": "llpr", "wrapped_model_checkpoint": hidden}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"asks to load (posix|nt)\.system.*Nothing was executed"):
        metatrain.load(tmp_path / "bad.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "wanted",
    [
        *("builtins.eval", "builtins.getattr", "builtins.open", "builtins.__import__", "os.system", "posix.system"),
        *("torch.load", "torch.hub.load", "torch.jit.load", "torch.storage._load_from_bytes", "torch.compile"),
        *(
            "torch.serialization.load",
            "torch.serialization.os.system",
            "torch.nn.Module",
            "torch._utils._import_dotted_name",
        ),
        *(
            "numpy.load",
            "numpy.f2py.os.system",
            "functools.partial",
            "operator.attrgetter",
            "pickle.loads",
            "runpy.run_path",
        ),
        *(
            "tumble.load",
            "tumble.bridges.metatrain.archive._named",
            "torch.FloatStorage.x",
            "torch.os",
            "subprocess.Popen",
        ),
    ],
)
def test_no_name_outside_of_the_table_is_looked_up(wanted: str, tmp_path: Path) -> None:
    module, _, last = wanted.rpartition(".")
    for number, program in enumerate((name(wanted), text(module) + text(last) + b"\x93")):
        path = packed(tmp_path / f"{number}.ckpt", program + b"(" + text("touch ran") + b"tR")
        with pytest.raises(ValueError, match="which no PET checkpoint needs; a file of tensors and numbers"):
            content_of(path)


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (REBUILT + b"}b", "to change the state of a Tensor"),
        (
            name("torch._utils._rebuild_tensor_v2") + b"N}" + text("__defaults__") + b")s\x86b",
            "change the state of a Call",
        ),
        (name("torch.float32") + b")R", "asks to load a call of dtype"),
        (text("x") + b")R", "asks to load a call of str"),
        (b"(ios\nsystem\n", "asks to load something by the instruction INST at byte"),
        (b"(" + name("os.system") + b"o", r"asks to load os\.system"),
        (b"\x82\x01", "asks to load something by the instruction EXT1"),
        (name("torch.Size") + b")}\x92", "asks to load something by the instruction NEWOBJ_EX"),
        (b"Pname\n", "asks to load something by the instruction PERSID"),
        (text("0") + b"Q", "asks to load an object that is stored elsewhere"),
        (
            name("numpy.core.multiarray.scalar") + name("numpy.dtype") + text("O8") + b"\x85R" + b"C\x08aaaaaaaa\x86R",
            "asks to load an object of numpy",
        ),
    ],
)
def test_tricks_with_calls_and_states_are_refused(program: bytes, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        content_of(packed(tmp_path / "bad.ckpt", program))


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        (b")K\x01K\x02s", "a dict was expected, not a tuple"),
        (b"K\x01K\x02a", "a list was expected, not a int"),
        (b"K\x01\x86", "2 values were expected"),
        (b"K\x01K\x02\x93", "a name that is not a text"),
        (b"})K\x02s", "a tuple as a key"),
        (b"h\x05", "its pickle contradicts itself: KeyError 5"),
        (b"t", "its pickle contradicts itself: IndexError"),
        (TENSOR.replace(b"K\x04", b"K\x05"), "record data/0 has 16 bytes, a tensor needs 20 of them"),
        (TENSOR.replace(text("0"), text("7")), "record data/7 is missing"),
        (TENSOR.replace(text("0"), b"K\x00"), "a tensor is stored in no known way"),
        (REBUILT.replace(b"(K\x04t", b"(K\x05t"), r"looks beyond the 4 numbers of its storage"),
        (REBUILT.replace(b"(K\x04t", b"(J\xff\xff\xff\xfft"), "an offset, a shape or strides that are not counts"),
        (REBUILT.replace(TENSOR, b"N"), "a tensor has no storage"),
        (name("__builtin__.set") + b"(((" + text("a") + b"tltR", "a tuple as a key"),
    ],
)
def test_a_pickle_that_contradicts_itself_is_named(program: bytes, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"bad\.ckpt cannot be read as a checkpoint.*{problem}"):
        content_of(packed(tmp_path / "bad.ckpt", program))


def test_names_of_metatrain_become_inert_objects(tmp_path: Path) -> None:
    program = name("metatrain.utils.data.dataset.DatasetInfo") + b")\x81}" + text("a") + b"K\x01sb"
    one = content_of(packed(tmp_path / "x.ckpt", program))
    assert isinstance(one, Inert)
    assert (one.kind, one.arguments, one.state) == ("metatrain.utils.data.dataset.DatasetInfo", (), {"a": 1})
    assert "metatrain.utils.data.dataset" not in sys.modules or one.__class__ is Inert


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torch_saves_is_read_to_the_bit(protocol: int, tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float64)
    saved: dict[str, Any] = {
        "views": [base, base[3:9], base.view(4, 6).T, torch.zeros(0, 3)], "half": torch.ones(2, dtype=torch.bfloat16),
        "weight": torch.nn.Parameter(torch.randn(2, 3)), "state": OrderedDict(a=torch.tensor(True)),
        "numbers": (1, -(2**70), 2.5, None, True, "ä", b"\x00\xff", np.float64(1.5)), "size": torch.Size([2, 3]),
        "dtype": torch.float32, "types": {8, 1, 6},
        "array": np.arange(3), "where": [torch.device("cpu"), Path("a/b")],
    }  # fmt: skip
    saved["state"]._metadata = {"version": 1}
    torch.save(saved, tmp_path / "x.ckpt", pickle_protocol=protocol)
    read = content_of(tmp_path / "x.ckpt")
    for ours, theirs in zip(read.pop("views"), saved.pop("views"), strict=True):
        assert torch.equal(ours, theirs)
    for key in ("half", "weight"):
        assert torch.equal(read.pop(key), saved.pop(key))
    assert all(isinstance(one, Inert) for one in [read.pop("array"), *read.pop("where")])
    assert read.pop("state")["a"].item() is True
    assert read == {key: value for key, value in saved.items() if key not in ("state", "array", "where")}


def test_tensors_lie_in_the_file_and_changing_them_leaves_it_alone(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1000), "b": torch.ones(1000)}, tmp_path / "x.ckpt")
    before = (tmp_path / "x.ckpt").read_bytes()
    read = content_of(tmp_path / "x.ckpt")
    assert read["a"].untyped_storage().data_ptr() == read["b"].untyped_storage().data_ptr()
    assert read["a"].untyped_storage().nbytes() == len(before)
    read["a"][:] = 7
    assert (tmp_path / "x.ckpt").read_bytes() == before


def test_records_that_are_not_aligned_are_read_as_well(tmp_path: Path) -> None:
    for extra in range(4):
        read = content_of(packed(tmp_path / f"{extra}.ckpt", REBUILT, {"pad" * extra: b""}))
        assert read.tolist() == [0, 1, 2, 3]


OTHER = "big" if sys.byteorder == "little" else "little"


def _twice(path: Path) -> None:
    packed(path, REBUILT, {"y/data.pkl": b""})


def _squeezed(path: Path) -> None:
    packed(path, REBUILT, compression=zipfile.ZIP_DEFLATED)


def _foreign(path: Path) -> None:
    packed(path, REBUILT, {"byteorder": OTHER.encode()})


def _huge(path: Path) -> None:
    good = packed(path, REBUILT).read_bytes()
    index = good.rindex(b"PK\x01\x02", 0, good.index(b"x/data/0", good.index(b"PK\x01\x02")))
    path.write_bytes(good[: index + 20] + struct.pack("<II", 2**31, 2**31) + good[index + 28 :])


def _displaced(path: Path) -> None:
    path.write_bytes(packed(path, REBUILT).read_bytes().replace(b"PK\x03\x04", b"PK\x03\x05"))


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (_twice, r"it holds 2 records data\.pkl, not one"),
        (_squeezed, r"record data\.pkl is compressed or encrypted, which torch\.save never does"),
        (_foreign, f"its bytes are in {OTHER}-endian order, those of this machine in {sys.byteorder}"),
        (_huge, "record data/0 claims 2147483648 bytes, more than the file holds"),
        (_displaced, r"record data\.pkl does not lie where the index says"),
    ],
)
def test_a_file_whose_records_cannot_be_right_is_named(
    write: Callable[[Path], None], problem: str, tmp_path: Path
) -> None:
    write(tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=rf"cannot be read as a checkpoint \({problem}"):
        content_of(tmp_path / "x.ckpt")


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("no checkpoint at all")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "empty.ckpt").touch()
    torch.save(PET | {"x": torch.zeros(1000)}, tmp_path / "cut.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "cut.ckpt").read_bytes()[:3000])
    for kind in ("text", "pickle", "empty", "cut"):
        with pytest.raises(ValueError, match=rf"{kind}\.ckpt cannot be read as a checkpoint.*cut off"):
            metatrain.load(tmp_path / f"{kind}.ckpt")
    with pytest.raises(FileNotFoundError):
        metatrain.load(tmp_path / "none.ckpt")
    torch.save({"architecture_name": "soap"}, tmp_path / "soap.ckpt")
    with pytest.raises(ValueError, match="holds 'soap'; a checkpoint with architecture_name 'pet'"):
        metatrain.load(tmp_path / "soap.ckpt")
    torch.save({"architecture_name": "llpr", "wrapped_model_checkpoint": {"architecture_name": "soap"}}, tmp_path / "l")
    with pytest.raises(ValueError, match="holds 'soap'; a checkpoint with architecture_name 'pet', alone or within"):
        metatrain.load(tmp_path / "l")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="holds 'list'; a checkpoint with"):
        metatrain.load(tmp_path / "list.ckpt")


@pytest.fixture(scope="module")
def sound() -> bytes:
    buffer = io.BytesIO()
    torch.save(PET | {"w": OrderedDict(a=torch.arange(4.0), b=torch.ones(2, 2)[:, 0]), "t": {1, 8}}, buffer)
    return buffer.getvalue()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), keep=st.floats(0.9, 1.1))
def test_a_damaged_file_is_read_or_refused_but_nothing_else_happens(
    place: float, value: int, keep: float, sound: bytes, tmp_path: Path
) -> None:
    damaged = bytearray(sound)
    damaged[int(place * len(sound))] = value
    path = tmp_path / f"{abs(hash((place, value, keep)))}.ckpt"
    path.write_bytes(bytes(damaged)[: int(keep * len(sound))])
    with contextlib.suppress(ValueError):
        content_of(path)
