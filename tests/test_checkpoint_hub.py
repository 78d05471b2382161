"""Published models by name: the newest, the cached, the missing. A stand-in answers for the Hub; no network is used."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tumble import checkpoint
from tumble.checkpoint import hub
from tumble.cli import main

client = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")
constants = pytest.importorskip("huggingface_hub.constants")

FILES = [
    ".gitattributes",
    "README.md",
    "models/pet-mad-s-v1.10.0.ckpt",
    "models/pet-mad-s-v1.9.1.ckpt",
    "models/pet-mad-s-v1.9.1.pt",
    "models/pet-oam-xl-v1.0.0.ckpt",
    "models/draft/pet-oam-xl-v2.0.0.ckpt",
    "models/pet-new_kind-xs-v0.0.1.ckpt",
]


class StandIn:
    """Does what the client of the Hub does, from a list and a folder; counts what it is asked for."""

    def __init__(self, cache: Path) -> None:
        self.snapshots = cache / "models--lab-cosmo--upet" / "snapshots"
        self.is_down, self.downloads = False, []

    def list_repo_files(self, repository: str) -> list[str]:
        assert repository == "lab-cosmo/upet"
        if self.is_down:
            raise ConnectionError("no route to host.\nand many more lines")
        return FILES

    def hf_hub_download(self, repository: str, filename: str, *, subfolder: str) -> str:
        assert (repository, subfolder) == ("lab-cosmo/upet", "models")
        if self.is_down:
            raise errors.LocalEntryNotFoundError("nothing is cached") from ConnectionError("no route to host")
        if f"models/{filename}" not in FILES:
            raise errors.EntryNotFoundError("404")
        self.downloads.append(filename)
        return str(self.put(filename))

    def put(self, filename: str, snapshot: str = "abc") -> Path:
        """A file in the cache."""
        path = self.snapshots / snapshot / "models" / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(filename)
        return path


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    one = StandIn(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("list_repo_files", "hf_hub_download"):
        monkeypatch.setattr(client, name, getattr(one, name), raising=False)
    return one


@pytest.mark.parametrize(
    ("name", "filename"),
    [
        ("pet-mad-s", "pet-mad-s-v1.10.0.ckpt"),
        ("pet-mad-s@1.9.1", "pet-mad-s-v1.9.1.ckpt"),
        ("pet-mad-s-v1.9.1", "pet-mad-s-v1.9.1.ckpt"),
        ("pet-oam-xl", "pet-oam-xl-v1.0.0.ckpt"),
        ("pet-oam-xl@v1.0.0", "pet-oam-xl-v1.0.0.ckpt"),
        ("pet-new_kind-xs", "pet-new_kind-xs-v0.0.1.ckpt"),
    ],
)
def test_a_name_is_the_newest_version_or_the_one_it_gives(stand_in: StandIn, name: str, filename: str) -> None:
    assert checkpoint.resolve(name).name == filename
    assert stand_in.downloads == [filename]


def test_a_file_beats_a_published_name(stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pet-mad-s").write_text("mine")
    assert checkpoint.resolve("pet-mad-s") == Path("pet-mad-s")
    assert stand_in.downloads == []


def test_without_the_hub_the_newest_cached_version_serves_and_a_line_says_so(
    stand_in: StandIn, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.put("pet-mad-s-v1.9.1.ckpt", "old")
    newest = stand_in.put("pet-mad-s-v1.10.0.ckpt", "older")
    stand_in.put("pet-mad-m-v2.0.0.ckpt")
    stand_in.is_down = True
    with caplog.at_level(logging.WARNING, "tumble"):
        assert checkpoint.resolve("pet-mad-s") == newest
    assert "using pet-mad-s@1.10.0 from the cache; there may be a newer one" in caplog.text
    assert "does not answer" in caplog.text
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    checkpoint.resolve("pet-mad-s")
    assert "HF_HUB_OFFLINE is set" in caplog.text


def test_without_the_hub_a_version_is_found_in_any_snapshot(stand_in: StandIn) -> None:
    path = stand_in.put("pet-mad-s-v1.9.1.ckpt", "old")
    stand_in.is_down = True
    assert checkpoint.resolve("pet-mad-s@1.9.1") == path


def test_without_the_hub_what_is_not_cached_is_an_error_that_says_why(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.is_down = True
    with pytest.raises(
        RuntimeError, match=r"'pet-mad-s' is not in the cache, and the Hugging Face Hub cannot be asked"
    ):
        checkpoint.load("pet-mad-s")
    with pytest.raises(
        RuntimeError, match=r"pet-oam-l-v0\.1\.0\.ckpt cannot be downloaded .*: no route to host\. Conn"
    ):
        checkpoint.load("pet-oam-l@0.1.0")
    stand_in.put("pet-mad-m-v2.0.0.ckpt")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RuntimeError, match=r"HF_HUB_OFFLINE is set\. Unset HF_HUB_OFFLINE .*\(pet-mad-m@2\.0\.0\)"):
        checkpoint.load("pet-oam-l@0.1.0")
    with pytest.raises(
        ValueError, match=r"'pet-maad-s' is neither in the cache nor among the .*Did you mean 'pet-mad-s'"
    ):
        checkpoint.load("pet-maad-s")
    with pytest.raises(RuntimeError, match=r"pet-maad-s-v1\.0\.0.*Did you mean 'pet-mad-s'"):
        checkpoint.load("pet-maad-s@1.0.0")


def test_a_model_or_version_that_is_not_published_is_an_error_with_those_that_are(stand_in: StandIn) -> None:
    with pytest.raises(
        ValueError, match=r"lab-cosmo/upet has no model 'pet-oam-l'; it has .*Did you mean 'pet-oam-xl'"
    ):
        checkpoint.load("pet-oam-l")
    with pytest.raises(ValueError, match=r"no version 7\.0\.0 of pet-mad-s; there are 1\.9\.1, 1\.10\.0"):
        checkpoint.load("pet-mad-s@7.0.0")
    with pytest.raises(ValueError, match=r"has no model 'pet-oam-l'"):
        checkpoint.load("pet-oam-l@0.1.0")
    with pytest.raises(FileNotFoundError, match=r"no potential 'pet-mad'.*Did you mean 'pet-mad-s'"):
        checkpoint.load("pet-mad")
    assert stand_in.downloads == []


def test_a_missing_client_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", None)
    for ask in (lambda: checkpoint.load("pet-mad-s"), hub.published):
        with pytest.raises(ImportError, match=r"its client is not installed.*pip install 'tumble\[hub\]'"):
            ask()
    assert hub.cached() == {}
    assert main(["models"]) == 0
    assert "pet-oam-xl" in capsys.readouterr().out


def test_what_is_known_is_well_formed() -> None:
    for model, versions in hub.KNOWN.items():
        assert hub.parse(model) == (model, None)
        assert all(hub.family(model))
        assert versions == tuple(sorted(versions, key=hub.order))
    assert hub.order("1.10.0") > hub.order("1.9.1")
    assert hub.parse("water") is hub.parse("pet-mad") is hub.parse("pet-mad-s@newest") is None


def test_models_marks_what_is_cached_and_asks_only_if_told(
    stand_in: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    stand_in.put("pet-mad-s-v1.10.0.ckpt")
    stand_in.put("pet-mad-s-v1.6.0.ckpt")
    stand_in.is_down = True
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "1.5.0 1.6.0* 1.10.0*" in text
    assert f"Known on {hub.KNOWN_ON}; 2 in the cache" in text
    assert main(["models", "--online"]) == 1
    assert "cannot be asked what lab-cosmo/upet holds: no route to host. Connect" in capsys.readouterr().err
    stand_in.is_down = False
    assert main(["models", "--online"]) == 0
    assert "pet-new_kind-xs" in capsys.readouterr().out


def test_info_about_a_published_model_downloads_nothing(
    stand_in: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["info", "pet-oam-xl"]) == 0
    text = capsys.readouterr().out
    assert "89 elements" in text
    assert "not on this machine" in text
    assert stand_in.downloads == []
    assert checkpoint.describe("pet-mad-s@1.5.0")["versions"][-1] == "1.6.0"
    with pytest.raises(ValueError, match=r"'pet-mad-s@9\.0\.0' is neither in the cache nor among the models known"):
        checkpoint.describe("pet-mad-s@9.0.0")


class Server(BaseHTTPRequestHandler):
    """The pages of the Hub that its client asks for."""

    content = b"a checkpoint"

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        where, _, name = self.path.partition("/resolve/")
        if where.startswith("/api/models/lab-cosmo/upet/tree/"):
            entry = {"type": "file", "oid": "0", "size": 1}
            body, kind = json.dumps([entry | {"path": path} for path in FILES]).encode(), "application/json"
        elif where == "/lab-cosmo/upet" and name.partition("/")[2] in FILES:
            body, kind = self.content, "application/octet-stream"
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if name else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", f'"{sha256(body).hexdigest()}"')
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[str]:
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    listening.server_close()
    thread.join()


def test_the_real_client_fetches_caches_and_finds_again(server: str, tmp_path: Path) -> None:
    """A process of its own, because the client reads its environment once."""
    code = """
import sys
from tumble.checkpoint import hub, resolve
for name in sys.argv[1:]:
    try:
        path = resolve(name)
        print(path.name, path.read_text())
    except (ValueError, RuntimeError) as error:
        print(f"{type(error).__name__}: {error}")
"""
    own = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": server, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | own
    environment |= {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}

    def ask(*names: str, **more: str) -> tuple[list[str], str]:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *names],
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.splitlines(), done.stderr

    lines, _ = ask("pet-mad-s@1.9.1", "pet-mad-s", "pet-mad-s@7.0.0")
    assert lines[:2] == ["pet-mad-s-v1.9.1.ckpt a checkpoint", "pet-mad-s-v1.10.0.ckpt a checkpoint"]
    assert lines[2].startswith("ValueError: there is no version 7.0.0 of pet-mad-s; there are 1.9.1, 1.10.0")
    lines, said = ask("pet-mad-s", "pet-mad-s@1.9.1", "pet-oam-xl", HF_HUB_OFFLINE="1")
    assert lines[:2] == ["pet-mad-s-v1.10.0.ckpt a checkpoint", "pet-mad-s-v1.9.1.ckpt a checkpoint"]
    assert lines[2].startswith("RuntimeError: 'pet-oam-xl' is not in the cache")
    assert "using pet-mad-s@1.10.0 from the cache" in said
