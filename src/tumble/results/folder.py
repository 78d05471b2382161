"""Result: what one job found, and the folder that keeps it."""

import io
import json
import math
import os
import platform
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from pydantic import ConfigDict

from tumble.results.facts import Curve, Fact, Heat, Map, Series, Sketch, Table, Verdict, number
from tumble.results.settings import Settings
from tumble.results.trust import Protocol, Structure, Trust

if TYPE_CHECKING:
    from ase import Atoms

FORMAT = "tumble result 1"
"""Names the layout of result.json; another layout gets another number."""

PACKAGES = (
    *("tumble", "torch", "numpy", "scipy", "ase", "vesin", "spglib", "safetensors", "pydantic"),
    *("phonopy", "phono3py", "symfc", "metatomic", "metatrain", "torch_sim", "ipi", "parsl"),
)
"""Packages whose versions a result states if they took part."""


class Result(ABC):
    """What one job found, and the facts it states about itself. Subclasses are final.

    job:       the verb, such as "audit".
    title:     one line that says what was done to what.
    settings:  the Settings of the job.
    arrays:    name → array, in eV and Å unless the name says otherwise.
    atoms:     structures.
    citations: one line of plain text each.
    subject:   what the verdicts are about, plain JSON: "name" and "digest" of a potential's weights, and what else
               identifies it; None if the job does not say.
    protocol:  name of the published protocol whose settings these are; empty if they are somebody's own.
    """

    job: str
    title: str
    settings: Settings
    arrays: dict[str, np.ndarray]
    atoms: list["Atoms"]
    citations: tuple[str, ...]
    subject: Mapping[str, Any] | None = None
    protocol: str = ""

    @abstractmethod
    def verdicts(self) -> tuple[Verdict, ...]:
        """Answers, most important first; empty if the job gives none."""

    @abstractmethod
    def facts(self) -> tuple[Fact, ...]:
        """Tables and figures, most important first."""

    @property
    def is_converged(self) -> bool:
        """Whether the job has arrived where it was sent; commands exit with 5 if not."""
        return True

    def files(self) -> Mapping[str, bytes]:
        """Files of the engines that took part, in their own formats: name → content, saved beside the result."""
        return {}

    def provenance(self) -> dict[str, Any]:
        """Date, platform, versions of the packages that took part, protocol, kind and digest of the settings."""
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} logical cores",
            "versions": {"python": platform.python_version()} | _versions(),
            "protocol": self.protocol,
            "settings": type(self.settings).__name__,
            "digest": self.settings.digest,
        }

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write settings.json, result.json, arrays.npz, atoms.extxyz, trust.json and log.txt.

        Also the files of engines that took part. There is no atoms.extxyz without atoms, and no trust.json, the
        certificate, without verdicts. Each file is written aside and moved into place, result.json last. Other files
        in the folder stay untouched, and log.txt only grows.

        Raises:
            ValueError: the folder holds a result and `overwrite` is False, or a file of one of these names that no
                result wrote; or an array is of Python objects.
        """
        folder = Path(folder)
        files = _contents(self)
        replaced = _check_room(folder, files, overwrite)
        log = folder / "log.txt"
        files["log.txt"] = (log.read_bytes() if log.is_file() else b"") + _log(self).encode()
        files["result.json"] = files.pop("result.json")  # the last to move: with it the folder is complete
        _write(folder, files)
        for name in replaced - set(files):
            (folder / name).unlink(missing_ok=True)
        return folder


@final
@dataclass(frozen=True)
class Saved(Result):
    """A result read back from its folder: the stored facts, whatever job they came from."""

    job: str
    title: str
    settings: Settings
    arrays: dict[str, np.ndarray]
    atoms: list["Atoms"]
    citations: tuple[str, ...]
    stored_verdicts: tuple[Verdict, ...]
    stored_facts: tuple[Fact, ...]
    stored_provenance: Mapping[str, Any]
    subject: Mapping[str, Any] | None = None
    protocol: str = ""

    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts as they were stored."""
        return self.stored_verdicts

    def facts(self) -> tuple[Fact, ...]:
        """The facts as they were stored."""
        return self.stored_facts

    def provenance(self) -> dict[str, Any]:
        """Date, platform and versions of the run that was saved."""
        return dict(self.stored_provenance)


class Recorded(Settings):
    """Settings read back from a result: the values that were used, without their declarations."""

    model_config = ConfigDict(extra="allow")


def load_result(folder: str | Path) -> Saved:
    """The result that a job has written into a folder.

    Raises:
        ValueError: there is no result, it is damaged, or another version of tumble wrote it.
    """
    folder = Path(folder)
    stored = _read_record(folder / "result.json")
    try:
        with np.load(io.BytesIO((folder / "arrays.npz").read_bytes()), allow_pickle=False) as arrays:
            loaded = {name: arrays[name] for name in arrays.files}
        return Saved(
            job=stored["job"],
            title=stored["title"],
            settings=Recorded(**json.loads((folder / "settings.json").read_text(encoding="utf-8"))),
            arrays=loaded,
            atoms=_read_atoms(folder / "atoms.extxyz", stored["structures"]),
            citations=tuple(stored["citations"]),
            stored_verdicts=tuple(Verdict(**verdict) for verdict in stored["verdicts"]),
            stored_facts=tuple(_fact(fact) for fact in stored["facts"]),
            stored_provenance=stored["provenance"],
            subject=stored.get("subject"),
            protocol=stored["provenance"].get("protocol", ""),
        )
    except Exception as error:  # whatever a reader says about a file of ours, it is not as it was written
        raise ValueError(f"the result in {folder} is damaged: {error!r}. Run its job again.") from error


def _contents(result: Result) -> dict[str, bytes]:
    objects = [name for name, array in result.arrays.items() if np.asarray(array).dtype.hasobject]
    if objects:
        raise ValueError(f"arrays {', '.join(objects)} hold Python objects; expected numbers, bools or text.")
    arrays = io.BytesIO()
    np.savez_compressed(arrays, allow_pickle=False, **{name: np.asarray(a) for name, a in result.arrays.items()})
    files = {"settings.json": _dumps(result.settings.model_dump(mode="json")), "arrays.npz": arrays.getvalue()}
    if result.atoms:
        from ase.io import write

        text = io.StringIO()
        write(text, result.atoms, format="extxyz")
        files["atoms.extxyz"] = text.getvalue().encode()
    of_engines = result.files()
    assert not {*of_engines} & {*files, "trust.json", "result.json", "log.txt"}, "a name of ours for another file"
    files |= of_engines
    made = result.provenance()
    if result.verdicts():
        files["trust.json"] = _trust(result, made).to_json().encode()
    record = {
        "format": FORMAT,
        "job": result.job,
        "title": result.title,
        "files": [*files, "result.json"],
        "structures": len(result.atoms),
        "verdicts": [asdict(verdict) for verdict in result.verdicts()],
        "subject": result.subject,
        "provenance": made,
        "citations": list(result.citations),
        "facts": [{"fact": type(fact).__name__} | asdict(fact) for fact in result.facts()],
    }
    return files | {"result.json": _dumps(record)}


def _trust(result: Result, made: Mapping[str, Any]) -> Trust:
    return Trust(
        job=result.job,
        title=result.title,
        date=made["date"],
        tool=made["versions"].get("tumble", ""),
        potential=result.subject or {},
        protocol=Protocol(result.protocol, made["settings"], made["digest"]),
        structures=tuple(Structure.of(atoms) for atoms in result.atoms),
        verdicts=result.verdicts(),
        citations=tuple(result.citations),
    )


def _check_room(folder: Path, files: Mapping[str, bytes], overwrite: bool) -> set[str]:
    """The names of the files that an earlier result wrote here and that may be replaced."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; expected a folder, which is made if there is none. Choose another name.")
    record = folder / "result.json"
    ours: set[str] = set()
    if record.exists():
        try:
            ours = set(_read_record(record)["files"])
        except ValueError:
            raise ValueError(
                f"{record} is no result of tumble, and is not overwritten. Choose another folder."
            ) from None
        if not overwrite:
            raise ValueError(
                f"the folder {folder} already holds a result. Choose another folder, or overwrite it with "
                "overwrite=True (--overwrite in the shell)."
            )
    for name in set(files) - ours:
        path = folder / name
        if path.exists() and not (path.is_file() and path.read_bytes() == files[name]):
            raise ValueError(f"{path} was not written by a result, and is not overwritten. Choose another folder.")
    return {name for name in ours if name == Path(name).name}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    aside = {folder / name: folder / f".{name}.{os.getpid()}" for name in files}
    try:
        for path, temporary in aside.items():
            temporary.write_bytes(files[path.name])
        for path, temporary in aside.items():
            temporary.replace(path)
    finally:
        for temporary in aside.values():
            temporary.unlink(missing_ok=True)


def _log(result: Result) -> str:
    found = result.provenance()
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [f"{found['date']}  {result.job}: {result.title}", f"  {found['platform']}; {versions}"]
    lines.append(f"  settings {found['settings']} {found['digest']}")
    for verdict in result.verdicts():
        limit = "" if verdict.threshold is None else f" (limit {number(verdict.threshold)})"
        measured = f"{number(verdict.value)} {verdict.unit}{limit}"
        lines.append(f"  {verdict.task}: {verdict.words}, {measured}. {verdict.reason}")
    return "\n".join([*lines, ""])


def _read_record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no {path.name} in {path.parent}. Give the folder that a job has written.")
    try:
        record = _restored(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        raise ValueError(f"{path} is damaged: it is not valid JSON. Run its job again.") from None
    found = record.get("format") if isinstance(record, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path} has the format {found!r}; expected {FORMAT!r}. Use the tumble that wrote it.")
    return dict(record)


def _read_atoms(path: Path, structures: int) -> list["Atoms"]:
    if structures == 0:
        return []
    from ase.io import read

    atoms: list[Atoms] = read(path, index=":", format="extxyz")
    if len(atoms) != structures:
        raise ValueError(f"{path.name} holds {len(atoms)} structures, {structures} were written")
    return atoms


def _fact(stored: dict[str, Any]) -> Fact:
    fields = {name: value for name, value in stored.items() if name != "fact"}
    if stored["fact"] == "Curve":
        return Curve(**fields | {"series": tuple(Series(**one) for one in fields["series"])})
    kinds: dict[str, type[Table | Map | Sketch | Heat]] = {"Table": Table, "Map": Map, "Sketch": Sketch, "Heat": Heat}
    return kinds[stored["fact"]](**fields)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        if name in sys.modules:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found


def _dumps(values: Mapping[str, Any]) -> bytes:
    """JSON with one top-level key per line: readable above, compact below."""
    plain = {key: json.dumps(_plain(value), allow_nan=False, ensure_ascii=False) for key, value in values.items()}
    return ("{\n" + ",\n".join(f'"{key}": {text}' for key, text in plain.items()) + "\n}\n").encode()


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become {"float": "nan"}, which `_restored` knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(one) for one in value]
    if isinstance(value, dict):
        if set(value) == {"float"}:
            return float(value["float"])
        return {key: _restored(one) for key, one in value.items()}
    return value
