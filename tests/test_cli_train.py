"""tumble template, and the flags of tumble train that train nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import tumble
from tumble.cli import VERBS, main
from tumble.jobs.train import TrainSettings

DESK = Path(__file__).with_name("desk.py")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    subprocess.run([sys.executable, str(DESK)], cwd=folder, check=True)
    return folder


def test_a_template_is_printed_or_written_and_reads_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["template", "train"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# Settings of tumble train.")
    assert TrainSettings(**yaml.safe_load(text)) == TrainSettings(data=("train.extxyz",))
    assert main(["template", "train", "--preset", "XS", "-o", "recipe.yaml"]) == 0
    assert TrainSettings.from_yaml("recipe.yaml").model.num_neighbors_adaptive == 8
    assert main(["template", "train", "-o", "recipe.yaml"]) == 2
    assert "recipe.yaml exists already" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [one.name for one in VERBS if one.settings])
def test_every_verb_with_settings_has_a_template(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["template", verb]) == 0
    assert yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict"], "'predict' has no settings that could be filled in; expected one of train, "),
        (["audit", "--preset", "XS"], "--preset chooses the size of a PET, and audit has none"),
        (["train", "--preset", "XXL"], "there is no preset 'XXL'"),
    ],
)
def test_a_template_that_cannot_be_made_says_why(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["template", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_schema_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--schema"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["title"] == "tumble train recipe"
    assert found["$defs"]["PETSettings"]["properties"]["preset"]["enum"] == ["XS", "S", "M", "L", "XL"]


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    before = sorted(desk.iterdir())
    assert main(["train", "recipe.yaml", "--dry-run", "--probe", "0"]) == 0
    text = capsys.readouterr().out
    for title in ("Label coverage of 8 structures", "Sets", "Phases", "Time", "Memory"):
        assert title in text
    assert sorted(desk.iterdir()) == before


def test_a_dry_run_of_what_cannot_run_exits_with_two(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    assert main(["train", "recipe.yaml", "--dry-run", "--data", "nowhere.extxyz"]) == 2
    assert "there is no file 'nowhere.extxyz'" in capsys.readouterr().err


def test_a_training_without_a_folder_says_what_to_add(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    assert main(["train", "recipe.yaml"]) == 2
    assert "train writes a folder, and none is named. Add -o FOLDER" in capsys.readouterr().err


def test_of_several_processes_the_first_one_writes(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    monkeypatch.setattr(tumble, "train", lambda *words, **flags: called.append(flags), raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.chdir(desk)
    assert main(["train", "recipe.yaml", "-o", "shared", "--max-minutes", "1"]) == 0
    assert called == [{"resume": False, "overwrite": False, "max_minutes": 1.0}]
    assert capsys.readouterr().out == ""
    assert not Path("shared").exists()


def test_help_of_train_ends_with_examples(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--dry-run" in text
    assert "tumble train recipe.yaml -o run --max-minutes 60" in text.split("Examples:")[1]
