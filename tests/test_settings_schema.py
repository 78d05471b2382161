"""Settings as commented YAML that reads back, and as a JSON Schema that editors check recipes with."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import Field

from tumble.cli.template import LIVE, settings_of
from tumble.cli.train import recipe_schema
from tumble.jobs.audit import AuditSettings
from tumble.jobs.train import TrainSettings
from tumble.models.pet import PETSettings
from tumble.results import Settings
from tumble.results.schema import schema, template

RECIPES = sorted((Path(__file__).parents[1] / "examples" / "recipes").glob("*.yaml"))


class Part(Settings):
    """A thing within another."""

    size: int = Field(1, gt=0, description="how large")
    name: str = Field("a", description="what it is called")


class Whole(Settings):
    """A thing."""

    path: str = Field(description="where it is")
    part: Part = Field(Part(size=3), description="what is in it")
    parts: tuple[Part, ...] = Field((Part(), Part(name="b")), description="what else is in it")
    none: tuple[Part, ...] = Field((), description="what could be in it")
    rate: float = Field(0.5, description="how fast")


def uncommented(text: str) -> str:
    return re.sub(r"^(\s*)#(?=\S)", r"\1", text, flags=re.MULTILINE)


def test_a_template_reads_back_to_its_values() -> None:
    values = Whole(path="x", part=Part(size=5, name="c"))
    assert Whole(**yaml.safe_load(template(values))) == values


def test_defaults_are_commented_out_and_what_differs_is_not() -> None:
    lines = template(Whole(path="x", rate=0.25)).splitlines()
    assert "path: x  # where it is (str)" in lines
    assert "rate: 0.25  # how fast (float)" in lines
    assert "#part:  # what is in it" in lines
    assert "  #size: 3  # how large (int)" in lines


def test_live_settings_come_first_and_are_not_commented_out() -> None:
    lines = template(Whole(path="x"), ("rate", "parts.name")).splitlines()
    assert lines[0] == "rate: 0.5  # how fast (float)"
    assert lines[1:4] == [
        "parts:  # what else is in it (a list of these)",
        "  - name: a  # what it is called (str)",
        "    #size: 1  # how large (int)",
    ]


def test_a_live_list_has_its_first_key_in_every_entry() -> None:
    found = yaml.safe_load(template(Whole(path="x"), ("parts",)))
    assert found["parts"] == [{"size": 1}, {"size": 1}]


def test_every_setting_stands_in_the_template_with_its_default() -> None:
    found = yaml.safe_load(uncommented(template(Whole(path="x"))))
    assert found.pop("none") == [{"size": 1, "name": "a"}]
    assert found == Whole(path="x").model_dump(mode="json", exclude={"none"})


def test_a_setting_without_default_in_an_empty_list_is_a_placeholder() -> None:
    class Named(Settings):
        """Needs a name."""

        name: str = Field(description="what it is called")

    class Holder(Settings):
        """May have some."""

        some: tuple[Named, ...] = Field((), description="any number")

    assert "  #- name: <name>  # what it is called (str)" in template(Holder()).splitlines()


def test_what_a_setting_means_stands_above_it_where_the_line_would_be_too_long() -> None:
    class Wordy(Settings):
        """Says much."""

        rate: float = Field(0.5, description="how fast " * 20)

    lines = template(Wordy()).splitlines()
    assert all(len(line) <= 120 for line in lines)
    assert lines[0].startswith("# how fast")
    assert lines[-1] == "#rate: 0.5"


@pytest.mark.parametrize("preset", [None, "XS", "XL"])
def test_the_template_of_train_is_complete_and_reads_back(preset: str | None) -> None:
    given = {} if preset is None else {"model": {"preset": preset}}
    values = TrainSettings(data=("train.extxyz",), **given)
    text = template(values, LIVE["train"])
    assert TrainSettings(**yaml.safe_load(text)) == values
    everything = yaml.safe_load(uncommented(text))
    assert set(everything.pop("sets")[0]) >= {"name", "data", "head", "labels"}
    assert everything == values.model_dump(mode="json", exclude={"sets"})


def test_the_template_of_audit_is_complete_and_reads_back() -> None:
    text = template(AuditSettings(), LIVE["audit"])
    assert AuditSettings(**yaml.safe_load(text)) == AuditSettings()
    assert yaml.safe_load(uncommented(text)) == AuditSettings().model_dump(mode="json")


def test_what_stands_first_in_a_template_exists() -> None:
    for verb, names in LIVE.items():
        rows = {row.name for row in settings_of(verb).describe()}
        top = set(settings_of(verb).model_fields)
        assert {name for name in names if not name.startswith("phases.")} <= rows | top


# JSON Schema


def test_a_schema_names_meanings_choices_and_defaults_and_refuses_unknown_keys() -> None:
    found = schema(TrainSettings, "a recipe")
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["title"] == "a recipe"
    assert found["additionalProperties"] is False
    assert found["properties"]["missing"]["enum"] == ["error", "mask"]
    assert found["properties"]["ema"]["default"] == 0.999
    phase = found["$defs"]["Phase"]["properties"]
    assert phase["schedule"]["enum"] == ["cosine", "linear", "constant", "plateau"]
    assert all("description" in one for one in phase.values())
    assert all("title" not in one for one in phase.values())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_examples_fits_schema_and_settings(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), recipe_schema())
    TrainSettings.from_yaml(path)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"data": ["x"], "epoch": 3}, "'epoch' was unexpected"),
        ({"data": ["x"], "phases": [{"schedule": "cosin"}]}, "'cosin' is not one of"),
        ({"data": ["x"], "model": {"preset": "XXL"}}, "'XXL' is not one of"),
        ({"data": ["x"], "ema": 2}, "2 is greater than or equal to"),
    ],
)
def test_the_schema_refuses_what_the_settings_refuse(recipe: dict[str, object], message: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=message):
        jsonschema.validate(recipe, recipe_schema())
    with pytest.raises(ValueError, match=r"epoch|schedule|preset|ema"):
        TrainSettings(**recipe)


def test_the_schema_accepts_all_defaults_and_a_published_size() -> None:
    recipe = json.loads(TrainSettings(data=("x",)).model_dump_json())
    jsonschema.validate(recipe, recipe_schema())
    jsonschema.validate({"data": ["x"], "model": {"preset": "S", "cutoff": 6}}, recipe_schema())
    assert PETSettings.preset("S").d_pet == 256


DOCUMENT = Path(__file__).parents[1] / "docs" / "verbs" / "train.md"


@pytest.mark.parametrize("block", re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL))
def test_every_recipe_in_the_documents_fits_schema_and_settings(block: str) -> None:
    jsonschema.validate(yaml.safe_load(block), recipe_schema())
    TrainSettings(**yaml.safe_load(block))
