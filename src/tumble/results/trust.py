"""Trust: the certificate of a potential, which other programs read, and what somebody may require of it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tumble.results.facts import Verdict, number

if TYPE_CHECKING:
    from ase import Atoms

FORMAT, VERSION = "tumble trust", 1
"""Name and version of the layout of trust.json; any change of it, an added key too, is a new version."""

NOT_FINITE = ("nan", "inf", "-inf")
"""How numbers are written that JSON does not have."""

NUMBERS = ("value", "threshold", "floor")
ENTRY = ("key", "task", "answer", *NUMBERS, "unit", "reason", "remedy", "cost")
"""What is said of a verdict; its numbers are in its unit."""

Least = Literal["yes", "remedy"]


class Protocol(NamedTuple):
    """How it was measured.

    name:     of a published protocol, such as "AUDIT_V1"; empty if the settings are somebody's own.
    settings: kind of the settings.
    digest:   of the settings; numbers of different digests were measured differently.
    """

    name: str
    settings: str
    digest: str


class Structure(NamedTuple):
    """What it was measured on."""

    name: str
    formula: str
    n_atoms: int

    @classmethod
    def of(cls, atoms: "Atoms") -> "Structure":
        """The formula is the name of a structure that has none."""
        formula = atoms.get_chemical_formula()
        return cls(str(atoms.info.get("name", formula)), formula, len(atoms))


@dataclass(frozen=True)
class Trust:
    """For what a potential is good enough, as one says it to a program: the content of trust.json.

    job, title: the verb, and one line that says what was done to what.
    date:       ISO 8601.
    tool:       version of tumble that measured.
    potential:  "name" and "digest" of the weights, None where they are not known, and whatever else the result states.
    """

    job: str
    title: str
    date: str
    tool: str
    potential: Mapping[str, Any]
    protocol: Protocol
    structures: tuple[Structure, ...]
    verdicts: tuple[Verdict, ...]
    citations: tuple[str, ...]

    def to_json(self) -> str:
        """The text of trust.json, which the schema describes."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "tool": {"name": "tumble", "version": self.tool},
            "date": self.date,
            "job": self.job,
            "title": self.title,
            "potential": {"name": None, "digest": None} | dict(self.potential),
            "protocol": self.protocol._asdict(),
            "structures": [structure._asdict() for structure in self.structures],
            "verdicts": [_entry(verdict) for verdict in self.verdicts],
            "citations": list(self.citations),
        }
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def load_trust(path: str | Path) -> Trust:
    """The certificate in a file, or in the folder of a result.

    Raises:
        ValueError: there is none, it is damaged, or a newer tumble wrote it.
    """
    path = Path(path)
    path = path / "trust.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"there is no certificate {path}. A job writes one beside result.json if it gives verdicts.")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"the certificate {path} is damaged: it is not valid JSON. Run its job again.") from None
    _check_version(stored, path)
    try:
        return Trust(
            job=stored["job"],
            title=stored["title"],
            date=stored["date"],
            tool=stored["tool"]["version"],
            potential=dict(stored["potential"]),
            protocol=Protocol(**stored["protocol"]),
            structures=tuple(Structure(**structure) for structure in stored["structures"]),
            verdicts=tuple(_verdict(entry) for entry in stored["verdicts"]),
            citations=tuple(stored["citations"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the certificate {path} is damaged: {error!r}. Run its job again.") from error


def trust_schema() -> str:
    """The JSON Schema (draft 2020-12) of trust.json."""
    return (resources.files("tumble.results") / "trust.schema.json").read_text(encoding="utf-8")


class Requirement(NamedTuple):
    """What somebody requires.

    key:   of a task; empty: of every task that was judged.
    least: "yes" fine as is, "remedy" that or fine with a remedy.
    """

    key: str
    least: Least

    def is_met_by(self, verdict: Verdict) -> bool:
        """Whether the answer is good enough."""
        return verdict.answer in ("yes", self.least)


def parse_require(text: str, known: Sequence[str]) -> tuple[Requirement, ...]:
    """Requirements from words with commas between: KEY, KEY=yes, KEY=remedy; yes or remedy alone mean every task.

    Args:
        text: such as "phonons,nvt=yes".
        known: keys of tasks that there are.

    Raises:
        ValueError: nothing is required, a key is unknown, or a level is neither yes nor remedy.
    """
    required = [_requirement(word.strip(), known) for word in text.split(",") if word.strip()]
    if not required:
        raise ValueError(f"nothing is required by {text!r}; expected yes, remedy or tasks: {', '.join(known)}.")
    return tuple(required)


def unmet(required: Sequence[Requirement], verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """One line for each requirement that fails and verdict that fails it; a task without a verdict fails."""
    lines: dict[str, None] = {}  # in order, and a verdict that fails two requirements once
    for one in required:
        concerned = [verdict for verdict in verdicts if one.key in ("", verdict.name)]
        if not concerned:
            names = ", ".join(dict.fromkeys(verdict.name for verdict in verdicts)) or "nothing"
            lines[f"{one.key or 'every task'}: required, but not measured; there are verdicts on {names}"] = None
        lines |= {_failure(one, verdict): None for verdict in concerned if not one.is_met_by(verdict)}
    return tuple(lines)


def _requirement(word: str, known: Sequence[str]) -> Requirement:
    if word in ("yes", "remedy"):
        return Requirement("", "yes" if word == "yes" else "remedy")
    key, given, least = (part.strip() for part in word.partition("="))
    if key not in known:
        near = get_close_matches(key.lower(), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no task {key!r} to require; there are {', '.join(known)}.{hint}")
    if given and least not in ("yes", "remedy"):
        raise ValueError(f"{word!r} requires {least!r} of {key}; expected {key}=yes or {key}=remedy.")
    return Requirement(key, "yes" if least == "yes" else "remedy")


def _failure(required: Requirement, verdict: Verdict) -> str:
    unit = "" if verdict.unit == "1" else verdict.unit
    measured = "no number" if verdict.value is None else f"{number(verdict.value)} {unit}".strip()
    limit = "" if verdict.threshold is None else f", allowed {number(verdict.threshold)} {unit}".rstrip()
    said = f"{verdict.name}: {verdict.words}; {measured}{limit}; {verdict.reason}"
    return said + (f". {required.least} is required; {verdict.remedy}" if verdict.answer == "remedy" else "")


def _check_version(stored: Any, path: Path) -> None:
    found = stored.get("format") if isinstance(stored, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path} has the format {found!r}; expected {FORMAT!r}. Give the trust.json of a result.")
    version = stored.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"the certificate {path} is damaged: its version is {version!r}; expected {VERSION}.")
    if version > VERSION:
        raise ValueError(
            f"the certificate {path} has version {version} of its format; this tumble knows versions up to {VERSION}. "
            "Read it with a newer tumble."
        )


def _entry(verdict: Verdict) -> dict[str, Any]:
    said = {name: getattr(verdict, name) for name in ENTRY} | {"key": verdict.name}
    return said | {name: _written(said[name]) for name in NUMBERS}


def _verdict(entry: Mapping[str, Any]) -> Verdict:
    if set(entry) != set(ENTRY):
        raise ValueError(f"a verdict says {', '.join(sorted(entry))}; expected {', '.join(sorted(ENTRY))}")
    for name in set(ENTRY) - set(NUMBERS):
        if not isinstance(entry[name], str):
            raise ValueError(f"{entry[name]!r} stands where the {name} of a verdict was expected, a text")
    return Verdict(**dict(entry) | {name: _read(entry[name]) for name in NUMBERS})


def _written(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(float(value))


def _read(value: Any) -> float | None:
    if value in NOT_FINITE:
        return float(value)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise ValueError(f"{value!r} stands where a number or null was expected")
