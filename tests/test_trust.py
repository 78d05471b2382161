"""Certificates that any program can read, and what may be required of one."""

import json
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from tumble.cli import main
from tumble.results import (
    Result,
    Settings,
    Structure,
    Verdict,
    load_result,
    load_trust,
    parse_require,
    trust_schema,
    unmet,
)
from tumble.results.trust import ENTRY, VERSION, Protocol

KEYS = ("relax", "phonons", "nvt", "nve")
VERDICTS = (
    Verdict("relaxation of atoms", "yes", 0.2, 1.0, "meV/Å", "below the limit", floor=1e-6, key="relax"),
    Verdict("phonons", "remedy", 0.3, 0.05, "THz", "too soft", "average over Oh", "48 calls", key="phonons"),
    Verdict("dynamics at constant energy", "no", math.inf, 1e-3, "1", "direct forces", floor=math.nan, key="nve"),
    Verdict("orientation", "unknown", None, None, "", "not a molecule"),
)
SUBJECT = {"name": "water", "digest": "sha256:12ab", "n_parameters": 3, "device": None}


class Choice(Settings):
    """What was chosen."""

    rotations: str = "Oh"
    """Rule."""


def structures() -> list[Atoms]:
    named = molecule("H2O")
    named.info["name"] = "H2O (monomer.xyz)"
    return [named, bulk("Si", cubic=True)]


@dataclass(frozen=True)
class Found(Result):
    said: tuple[Verdict, ...] = VERDICTS
    subject: dict[str, Any] | None = None
    protocol: str = ""
    title: str = "PET on two structures"
    citations: tuple[str, ...] = ("A. Author, J. 1, 2 (2024).",)
    settings: Settings = field(default_factory=Choice)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    atoms: list[Atoms] = field(default_factory=structures)
    job: str = "audit"

    def verdicts(self) -> tuple[Verdict, ...]:
        return self.said

    def facts(self) -> tuple[Any, ...]:
        return ()


FULL = Found(subject=SUBJECT, protocol="AUDIT_V1")


# The file


def test_a_certificate_says_what_was_judged_how_on_what_and_the_answer_of_every_task(tmp_path: Path) -> None:
    trust = load_trust(FULL.save(tmp_path))
    assert (trust.job, trust.title, trust.citations) == (FULL.job, FULL.title, FULL.citations)
    assert trust.potential == SUBJECT
    assert trust.protocol == Protocol("AUDIT_V1", "Choice", FULL.settings.digest)
    assert trust.structures == (Structure("H2O (monomer.xyz)", "H2O", 3), Structure("Si8", "Si8", 8))
    assert [repr(replace(verdict, key=verdict.name)) for verdict in VERDICTS] == list(map(repr, trust.verdicts))
    made = load_result(tmp_path).provenance()
    assert (trust.date, trust.tool) == (made["date"], made["versions"]["tumble"])


def test_a_certificate_is_plain_json_that_a_person_can_read(tmp_path: Path) -> None:
    FULL.save(tmp_path)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    text = (tmp_path / "trust.json").read_text()
    stored = json.loads(text, parse_constant=refuse)
    assert [stored["format"], stored["version"], stored["tool"]["name"]] == ["tumble trust", VERSION, "tumble"]
    assert [one["key"] for one in stored["verdicts"]] == ["relax", "phonons", "nve", "orientation"]
    assert [one["value"] for one in stored["verdicts"]] == [0.2, 0.3, "inf", None]
    assert "meV/Å" in text
    assert text.count("\n") > 40


def test_a_potential_that_says_nothing_of_itself_has_no_name_and_no_digest(tmp_path: Path) -> None:
    stored = json.loads((Found().save(tmp_path) / "trust.json").read_text())
    assert stored["potential"] == {"name": None, "digest": None}
    assert stored["protocol"]["name"] == ""


def test_a_certificate_survives_text(tmp_path: Path) -> None:
    trust = load_trust(FULL.save(tmp_path))
    (tmp_path / "again.json").write_text(trust.to_json())
    assert load_trust(tmp_path / "again.json").to_json() == trust.to_json()


def test_a_result_read_back_has_the_same_certificate(tmp_path: Path) -> None:
    FULL.save(tmp_path / "a")
    load_result(tmp_path / "a").save(tmp_path / "b")
    first, second = (tmp_path / name / "trust.json" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_result_without_verdicts_has_no_certificate(tmp_path: Path) -> None:
    FULL.save(tmp_path)
    Found(said=()).save(tmp_path, overwrite=True)
    assert not (tmp_path / "trust.json").exists()
    with pytest.raises(ValueError, match=r"there is no certificate .*trust\.json\. A job writes one beside result"):
        load_trust(tmp_path)


def test_a_file_of_that_name_from_elsewhere_is_kept(tmp_path: Path) -> None:
    (tmp_path / "trust.json").write_text("precious")
    with pytest.raises(ValueError, match=r"trust\.json was not written by a result, and is not overwritten"):
        FULL.save(tmp_path, overwrite=True)
    assert (tmp_path / "trust.json").read_text() == "precious"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"the certificate .*trust\.json is damaged: it is not valid JSON\. Run its job again"),
        ("[]", r"has the format None; expected 'tumble trust'\. Give the trust\.json of a result"),
        ('{"format": "tumble result 1"}', "has the format 'tumble result 1'; expected 'tumble trust'"),
        ('{"format": "tumble trust"}', "is damaged: its version is None; expected 1"),
        ('{"format": "tumble trust", "version": true}', "is damaged: its version is True; expected 1"),
        ('{"format": "tumble trust", "version": 2}', "has version 2 of its format; this tumble knows versions up to 1"),
        ('{"format": "tumble trust", "version": 1}', r"trust\.json is damaged: KeyError\('job'\)\. Run its job again"),
    ],
)
def test_what_is_no_certificate_of_a_known_version_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "trust.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_trust(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "maybe"}, "is damaged: .*answer of verdict 'relaxation of atoms' is 'maybe'"),
        ({"value": "0.2"}, "is damaged: .*'0.2' stands where a number or null was expected"),
        ({"value": True}, "is damaged: .*True stands where a number or null was expected"),
        ({"unit": None}, "is damaged: .*None stands where the unit of a verdict was expected, a text"),
        ({"colour": "red"}, "is damaged: .*a verdict says answer, colour, cost, .*; expected answer, cost, floor"),
    ],
)
def test_a_damaged_verdict_is_never_read_as_another(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = FULL.save(tmp_path) / "trust.json"
    stored = json.loads(path.read_text())
    stored["verdicts"][0] |= change
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=message):
        load_trust(path)


# The schema


def odd_results() -> list[Found]:
    """Everything that a file may have to hold."""
    empty = Verdict("", "unknown", None, None, "", "")
    numbers = tuple(replace(empty, value=v, threshold=v, floor=v) for v in (0, -1.5, 1e300, math.nan, -math.inf, 7))
    return [FULL, Found(), Found(said=(empty,), atoms=[], citations=()), Found(said=numbers, atoms=[Atoms()])]


def test_every_certificate_fits_the_published_schema(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(trust_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for index, found in enumerate(odd_results()):
        stored = json.loads((found.save(tmp_path / str(index)) / "trust.json").read_text())
        validator.validate(stored)
        for broken in (
            stored | {"version": 2},
            stored | {"verdicts": []},
            stored | {"more": 1},
            stored | {"date": "x"},
        ):
            assert not validator.is_valid(broken)
        for name in stored:
            assert not validator.is_valid({key: value for key, value in stored.items() if key != name})


def test_the_schema_has_the_version_and_the_names_that_are_written(tmp_path: Path) -> None:
    """Without a validator: every object has exactly the required keys, and no key is undescribed."""
    schema = json.loads(trust_schema())
    stored = json.loads((FULL.save(tmp_path) / "trust.json").read_text())
    described = schema["properties"]
    assert described["version"]["const"] == VERSION
    assert schema["$id"] == f"urn:tumble:trust:{VERSION}"
    assert list(schema["required"]) == list(described) == list(stored)
    for name in ("tool", "protocol", "potential"):
        assert set(described[name]["required"]) == set(described[name]["properties"]) <= set(stored[name])
    for name in ("structures", "verdicts"):
        items = described[name]["items"]
        assert set(items["required"]) == set(items["properties"])
        assert all(set(one) == set(items["required"]) for one in stored[name])
    entry = described["verdicts"]["items"]["properties"]
    assert set(entry) == set(ENTRY)
    assert re.match(described["date"]["pattern"], stored["date"])


# What may be required


@pytest.mark.parametrize(
    ("text", "required"),
    [
        ("yes", [("", "yes")]),
        ("remedy", [("", "remedy")]),
        ("phonons", [("phonons", "remedy")]),
        ("phonons,nvt=yes", [("phonons", "remedy"), ("nvt", "yes")]),
        (" phonons = remedy , remedy,", [("phonons", "remedy"), ("", "remedy")]),
    ],
)
def test_a_requirement_names_tasks_and_levels(text: str, required: list[tuple[str, str]]) -> None:
    assert list(parse_require(text, KEYS)) == required


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing is required by ''; expected yes, remedy or tasks: relax, phonons, nvt, nve"),
        (" ,", "nothing is required by ' ,'; expected"),
        ("phonon", r"there is no task 'phonon' to require; there are relax, .*\. Did you mean 'phonons'\?"),
        ("relax,NVT=yes", r"there is no task 'NVT' to require; .*Did you mean 'nvt'\?"),
        ("zzz", r"there is no task 'zzz' to require; there are relax, phonons, nvt, nve\.$"),
        ("phonons=no", "'phonons=no' requires 'no' of phonons; expected phonons=yes or phonons=remedy"),
        ("phonons=", "'phonons=' requires '' of phonons; expected"),
    ],
)
def test_a_requirement_that_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_require(text, KEYS)


@pytest.mark.parametrize(
    ("text", "failing"),
    [
        ("relax", []),
        ("relax=yes", []),
        ("phonons", []),
        ("phonons=yes", ["phonons"]),
        ("nve", ["nve"]),
        ("nvt", ["nvt"]),
        ("relax,phonons,nvt=yes", ["nvt"]),
        ("remedy", ["nve", "orientation"]),
        ("yes", ["phonons", "nve", "orientation"]),
        ("yes,phonons=yes", ["phonons", "nve", "orientation"]),
    ],
)
def test_a_requirement_fails_where_the_answer_is_worse_or_missing(text: str, failing: list[str]) -> None:
    lines = unmet(parse_require(text, KEYS), VERDICTS)
    assert [line.split(":")[0] for line in lines] == failing


def test_a_failure_names_number_threshold_and_reason() -> None:
    assert unmet(parse_require("phonons=yes,nve,nvt", KEYS), VERDICTS) == (
        "phonons: fine with a remedy; 0.300 THz, allowed 0.0500 THz; too soft. yes is required; average over Oh",
        "nve: not with this model; ∞, allowed 0.00100; direct forces",
        "nvt: required, but not measured; there are verdicts on relax, phonons, nve, orientation",
    )
    assert unmet(parse_require("yes", KEYS), VERDICTS[3:]) == ("orientation: not known; no number; not a molecule",)


def test_nothing_measured_meets_no_requirement() -> None:
    assert unmet(parse_require("remedy,nvt", KEYS), ()) == (
        "every task: required, but not measured; there are verdicts on nothing",
        "nvt: required, but not measured; there are verdicts on nothing",
    )


def test_of_two_verdicts_on_one_task_both_must_be_good_enough() -> None:
    twice = (VERDICTS[0], replace(VERDICTS[0], answer="no"))
    assert len(unmet(parse_require("relax", KEYS), twice)) == 1


# In the shell


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    FULL.save(tmp_path / "out")
    return tmp_path


@pytest.mark.parametrize(
    ("required", "code"), [("relax=yes", 0), ("phonons,relax", 0), ("phonons=yes", 6), ("nvt", 6), ("remedy", 6)]
)
def test_report_checks_stored_verdicts_and_writes_nothing(folder: Path, required: str, code: int) -> None:
    assert main(["report", "out", "--require", required]) == code
    assert [path.name for path in folder.iterdir()] == ["out"]


def test_a_failed_requirement_is_explained_on_stderr(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "out", "--require", "relax=yes,phonons=yes,nvt"]) == 6
    assert capsys.readouterr().err.splitlines() == [
        "tumble: what was required is not met:",
        "  out: phonons: fine with a remedy; 0.300 THz, allowed 0.0500 THz; too soft. yes is required; average over Oh",
        "  out: nvt: required, but not measured; there are verdicts on relax, phonons, nve, orientation",
    ]


def test_a_certificate_alone_is_enough_to_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out" / "trust.json").rename(folder / "trust.json")
    for path in (folder / "trust.json", folder):
        assert main(["report", str(path), "--require", "phonons"]) == 0
        assert main(["report", str(path), "--require", "phonons=yes"]) == 6
    assert main(["report", str(folder / "nowhere"), "--require", "phonons"]) == 2
    assert "there is no certificate" in capsys.readouterr().err


def test_all_folders_must_meet_what_is_required(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Found(said=VERDICTS[:1]).save(folder / "good")
    assert main(["report", "good", "--require", "yes"]) == 0
    assert main(["report", "good", "out", "--require", "yes"]) == 6
    assert "  out: phonons: fine with a remedy" in capsys.readouterr().err


def test_a_page_is_written_beside_the_check_if_it_is_asked_for(folder: Path) -> None:
    assert main(["report", "out", "--require", "phonons=yes", "--to", "card.html"]) == 6
    assert "<html" in (folder / "card.html").read_text()


def test_a_task_of_a_job_of_ones_own_can_be_required(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "out", "--require", "orientation"]) == 6
    assert main(["report", "out", "--require", "orientatoin"]) == 2
    assert "there is no task 'orientatoin' to require; there are" in (said := capsys.readouterr().err)
    assert "Did you mean 'orientation'?" in said


def test_results_are_compared_in_the_shell(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Found(title="other").save(folder / "other")
    assert main(["report", "out", "other", "--compare", "--to", "compare.html"]) == 0
    assert "2 results compared" in (folder / "compare.html").read_text()
    assert main(["report", "out", "--compare"]) == 2
    assert "at least 2 were expected" in capsys.readouterr().err


def test_the_schema_is_printed_without_any_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$id"] == "urn:tumble:trust:1"


def test_nothing_to_report_or_to_check_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--require", "yes"]):
        assert main(["report", *words]) == 2
        assert "there is nothing to report" in capsys.readouterr().err
