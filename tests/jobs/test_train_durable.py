"""Files that are either as they were or as they shall be, checked to the last byte."""

import errno
import os
import stat
from pathlib import Path

import pytest
import torch

from tumble.jobs.train.durable import load, replace_text, save, writing


def refuse(patch: pytest.MonkeyPatch, number: int, *, folders: bool = False) -> None:
    """From here on the operating system syncs no files, or no folders."""
    sync = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode) == folders:
            raise OSError(number, os.strerror(number))
        sync(handle)

    patch.setattr(os, "fsync", fsync)


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A file with a tensor and a number."""
    save(tmp_path / "a.ckpt", {"version": 2, "weights": [torch.arange(100.0)], "empty": torch.zeros(0)})
    return tmp_path / "a.ckpt"


def test_what_is_saved_is_loaded_by_us_and_by_torch(sealed: Path) -> None:
    for content in (load(sealed, "cpu"), torch.load(sealed, weights_only=True)):
        assert content["version"] == 2
        assert torch.equal(content["weights"][0], torch.arange(100.0))


def test_any_byte_that_flips_is_found(sealed: Path) -> None:
    whole = sealed.read_bytes()
    places = [*range(0, len(whole), len(whole) // 60), *range(len(whole) - 60, len(whole))]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        sealed.write_bytes(damaged)
        with pytest.raises(ValueError, match="checksum"):
            load(sealed, "cpu")


def test_any_byte_that_is_missing_is_found(sealed: Path) -> None:
    whole = sealed.read_bytes()
    for length in (0, 1, 39, 40, 41, 1000, len(whole) // 2, len(whole) - 100, len(whole) - 40, len(whole) - 1):
        sealed.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"\w"):
            load(sealed, "cpu")
    sealed.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match="the checksum at its end is missing or cut off"):
        load(sealed, "cpu")


def test_an_older_file_can_be_kept_under_another_name(sealed: Path) -> None:
    save(sealed, {"version": 3}, keep=sealed.with_name("b.ckpt"))
    assert load(sealed, "cpu")["version"] == 3
    assert load(sealed.with_name("b.ckpt"), "cpu")["version"] == 2
    assert len(list(sealed.parent.iterdir())) == 2


def test_a_text_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    replace_text(path, "one\n")
    replace_text(path, "one\nÅ\n")
    refuse(monkeypatch, errno.ENOSPC)
    pattern = (
        r"metrics\.jsonl could not be written .* MB are free, 2\.0 MB are needed\)\. No checkpoint .*Make room, then"
    )
    with pytest.raises(RuntimeError, match=pattern):
        replace_text(path, "x" * 2_000_000)
    assert {one.name: one.read_text(encoding="utf-8") for one in tmp_path.iterdir()} == {path.name: "one\nÅ\n"}


def test_whatever_else_is_written_can_be_guarded_in_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"

    def write() -> None:
        with writing(path, 10**6):
            path.with_name(path.name + ".partial").write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RuntimeError, match=r"best\.safetensors could not be written \(No space.* 1\.0 MB are needed"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_file_system_that_cannot_sync_folders_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        refuse(patch, errno.EINVAL, folders=True)
        replace_text(tmp_path / "a.txt", "a")
    refuse(monkeypatch, errno.EIO, folders=True)
    with pytest.raises(RuntimeError, match=r"a\.txt could not be written \(Input/output error\)"):
        replace_text(tmp_path / "a.txt", "b")
