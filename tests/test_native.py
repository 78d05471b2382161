"""Compiled parts: built once, kept, and never necessary."""

import ctypes
from pathlib import Path

import pytest

from tumble import native

needs_compiler = pytest.mark.skipif(
    bool(native.reason(Path(native.__file__).parent / "models" / "pet" / "native" / "engine.cpp")),
    reason="no C++ compiler",
)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUMBLE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "answer.cpp"
    path.write_text('extern "C" int answer() { return 42; }\n')
    return path


@needs_compiler
def test_a_source_is_compiled_once_and_again_when_it_changes(source: Path) -> None:
    library = native.library(source)
    assert isinstance(library, ctypes.CDLL)
    assert library.answer() == 42
    assert len(list(native.folder().iterdir())) == 1
    native._library.cache_clear()
    assert native.library(source) is not None
    assert len(list(native.folder().iterdir())) == 1
    (source.parent / "more.h").write_text("// a header belongs to it\n")
    native._library.cache_clear()
    assert native.library(source) is not None
    assert len(list(native.folder().iterdir())) == 2


@needs_compiler
def test_a_source_that_cannot_be_compiled_is_said_once(source: Path) -> None:
    source.write_text("this is not C++\n")
    with pytest.warns(UserWarning, match=r"answer\.cpp cannot be built, tumble runs without it: .*error"):
        assert native.library(source) is None
    assert "error" in native.reason(source)
    assert native.library(source) is None


def test_without_a_compiler_there_is_a_reason_and_no_warning(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "missing-compiler")
    with pytest.raises(RuntimeError, match=r"none of the C\+\+ compilers missing-compiler, .* is on the PATH"):
        native._built(source)
    assert native.library(source) is None
    assert "is on the PATH" in native.reason(source)


def test_it_can_be_switched_off(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.OFF, "1")
    assert native.library(source) is None
    assert native.reason(source) == "TUMBLE_NO_NATIVE is set"


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUMBLE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert native.folder() == Path("/somewhere/tumble")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert native.folder() == Path.home() / ".cache" / "tumble"
