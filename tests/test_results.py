"""Settings that explain their errors, facts that check their shapes, results that survive a folder."""

import json
import math
import string
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, field_validator

from tumble.results import (
    Curve,
    Heat,
    Map,
    Result,
    Saved,
    Series,
    Settings,
    Sketch,
    Table,
    Verdict,
    load_result,
    number,
)


class Phase(Settings):
    """One part of a schedule."""

    epochs: int = 10
    """Passes over the data."""
    learning_rate: float = 1e-3
    """Largest step of the optimiser."""

    @field_validator("epochs")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value < 1:
            raise ValueError(f"{value} epochs train nothing; expected at least 1.")
        return value


class Recipe(Settings):
    """A schedule."""

    data: Path
    """File of labelled structures."""
    phases: tuple[Phase, ...] = (Phase(),)
    """What happens in turn."""
    first: Phase = Phase(epochs=2)
    """A phase before all others."""
    loss: Literal["huber", "mse"] = "huber"
    """Measure of the error."""
    max_minutes: float | None = Field(default=None, gt=0, description="When to stop.")


@dataclass(frozen=True)
class Found(Result):
    settings: Settings = field(default_factory=lambda: Recipe(data="water.xyz"))
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    atoms: list[Atoms] = field(default_factory=list)
    citations: tuple[str, ...] = ()
    said: tuple[Verdict, ...] = ()
    told: tuple[Any, ...] = ()
    beside: dict[str, bytes] = field(default_factory=dict)
    job: str = "audit"
    title: str = "Audit of a made-up potential"

    def verdicts(self) -> tuple[Verdict, ...]:
        return self.said

    def facts(self) -> tuple[Any, ...]:
        return self.told

    def files(self) -> dict[str, bytes]:
        return self.beside


FACTS = (
    Table(
        "Cost", ("rule", "calls", "fine"), [("Oh", 48, True), ("–", None, False), ("nan", math.nan, None)], "in calls"
    ),
    Curve("Learning", "epoch", "MAE / meV/Å", (Series("train", [1, 2], [3.0, math.inf], [0.1, 0.2]),), log_y=True),
    Curve("Spectrum", "degree", "power", (Series("energy", ["l=1", "nan"], [0.5, 0.5]),), kind="bars"),
    Curve(
        "Spread", "meV/Å", "atoms", (Series("samples", [1, 2, 2]), Series("bins", [0, 1, 2], [5, 6])), kind="histogram"
    ),
    Map("Energy", "meV", np.arange(0, 360, 60), [-90, -30, 30, 90], np.outer(range(4), range(6))),
    Sketch("Spread", "meV/Å", [8, 1], np.eye(3)[:2], np.eye(3) * 9, True, [0.1, 0.2], "on the atoms"),
    Heat("Stiffness", "GPa", ["xx", "yy"], ["xx", "yy"], [[160.0, 64.0], [64.0, np.nan]]),
    Curve("Bands", "", "THz", (Series("1", [0, 1], [0, 1], [0, 0], "raw"),), ticks=((0, "Γ"), (1, "X"))),
)
VERDICTS = (
    Verdict("relax", "yes", 0.2, 1.0, "meV/Å", "The spread is below the limit."),
    Verdict("phonons", "remedy", 5, 1, "meV/Å", "Too noisy.", "Average over Oh.", "48 calls"),
    Verdict("nve", "unknown", None, None, "", "Not measured.", floor=1e-6, key="nve"),
)


def water(n: int) -> Atoms:
    atoms = molecule("H2O", vacuum=3.0)
    atoms.info["frame"] = n
    atoms.arrays["spread"] = np.arange(3.0)
    return atoms


# Settings


def test_settings_are_frozen_and_take_keywords_only() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Phase().epochs = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        Phase(3)  # type: ignore[misc]


def test_an_unknown_setting_suggests_the_nearest_known_one() -> None:
    with pytest.raises(ValueError, match=r"Phase has no setting 'lerning_rate'.*Did you mean 'learning_rate'\?"):
        Phase(lerning_rate=1.0)  # type: ignore[call-arg]


def test_an_unknown_setting_far_from_all_lists_what_is_known() -> None:
    with pytest.raises(ValueError, match=r"no setting 'zzz', only epochs, learning_rate\. Remove it"):
        Phase(zzz=1)  # type: ignore[call-arg]


def test_a_wrong_setting_within_settings_is_named_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"^phases\.1: Phase has no setting 'epoch', .*Did you mean 'epochs'\?$"):
        Recipe(data="x", phases=[{}, {"epoch": 3}])  # type: ignore[arg-type]


def test_a_setting_of_the_wrong_type_shows_the_value_and_what_it_means() -> None:
    with pytest.raises(
        ValueError, match=r"^Phase setting 'epochs' = 'many' is not valid: .*valid integer.* It is: Passes"
    ):
        Phase(epochs="many")  # type: ignore[arg-type]


def test_a_failed_validator_speaks_in_its_own_words() -> None:
    with pytest.raises(ValueError, match=r"= 0 is not valid: 0 epochs train nothing; expected at least 1\."):
        Phase(epochs=0)


def test_a_missing_setting_says_what_it_is() -> None:
    with pytest.raises(
        ValueError, match=r"Recipe needs the setting 'data', which is missing\. It is: File of labelled"
    ):
        Recipe()  # type: ignore[call-arg]


def test_every_wrong_setting_is_reported_at_once() -> None:
    with pytest.raises(ValueError, match=r"(?s)'epochs'.*\n.*'learning_rate'"):
        Phase(epochs="x", learning_rate="y")  # type: ignore[arg-type]


def test_a_setting_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="finite number"):
        Phase(learning_rate=math.nan)


def test_settings_survive_yaml(tmp_path: Path) -> None:
    recipe = Recipe(data="water.xyz", phases=(Phase(learning_rate=1e-5), Phase(epochs=3)), loss="mse", max_minutes=2)
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.to_yaml())
    assert Recipe.from_yaml(file) == recipe


def test_overrides_beat_the_file_and_small_numbers_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "phase.yaml"
    file.write_text("epochs: 4\nlearning_rate: 1e-5\n")  # YAML 1.1 reads 1e-5 as text
    assert Phase.from_yaml(file, epochs=7) == Phase(epochs=7, learning_rate=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds nothing; expected 'key: value' lines with the settings of Phase"),
        ("- 1\n- 2", "holds a list; expected 'key: value'"),
        ("epochs: [1", "(?s)is not valid YAML: .*line"),
        ("epochs: 1\nepochs: 2", "key 'epochs' stands twice, the second time in line 2"),
        ("epoch: 1", r"phase\.yaml: Phase has no setting 'epoch'"),
        ("1: 2", "has no setting '1'"),
    ],
)
def test_a_bad_settings_file_is_named_with_its_fault(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "phase.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        Phase.from_yaml(file)


def test_a_missing_settings_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no settings file .*none\.yaml"):
        Phase.from_yaml(tmp_path / "none.yaml")


def test_the_digest_changes_with_any_setting_and_with_nothing_else() -> None:
    assert Phase().digest == Phase(epochs="10").digest  # type: ignore[arg-type]
    assert Recipe(data="a", first={"epochs": 2}).digest == Recipe(first=Phase(epochs=2), data=Path("a")).digest  # type: ignore[arg-type]
    digests = {Recipe(data="a").digest, Recipe(data="b").digest, Recipe(data="a", first=Phase(epochs=3)).digest}
    assert len(digests) == 3
    assert all(len(digest) == 12 and set(digest) <= set(string.hexdigits) for digest in digests)


def test_settings_describe_themselves_with_dotted_names() -> None:
    rows = {row.name: row for row in Recipe.describe()}
    assert list(rows) == ["data", "phases", "first.epochs", "first.learning_rate", "loss", "max_minutes"]
    assert rows["data"].default == "required"
    assert rows["phases"].type == "list of Phase"
    assert rows["first.epochs"] == ("first.epochs", "int", "2", "Passes over the data.")
    assert rows["loss"].type == "huber | mse"
    assert rows["max_minutes"] == ("max_minutes", "float | null", "null", "When to stop.")


# Facts


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Table("T", ("a", "b"), [(1, 2), (1,)]), "row 1 of table 'T' has 1 cells; expected 2"),
        (lambda: Curve("C", "x", "y", [Series("s", [1, 2], [1])]), "series 's' of curve 'C' has 2 x and 1 y"),
        (lambda: Curve("C", "x", "y", [Series("s", [1, 2, 3], [1])], kind="histogram"), "samples without y, or edges"),
        (lambda: Curve("C", "x", "y", [Series("s", ["a"], [1])]), "'C' has words as x; expected numbers"),
        (lambda: Curve("C", "x", "y", [], kind="pie"), "kind of curve 'C' is 'pie'; expected one of line, scatter"),
        (lambda: Series("s", [1, 2], [1, 2], [1]), r"error of 's': the shape is \(1,\); expected \(2\)"),
        (lambda: Series("s", [1, "a", None], [1, 2, 3]), "x of 's': .* are not numbers"),
        (lambda: Map("M", "", range(4), range(4), np.zeros((4, 4))), "spans 3 of longitude, .* not radians"),
        (lambda: Map("M", "", range(3), range(4), np.zeros((4, 3))), "has 4 latitudes and 3 longitudes; at least 4"),
        (lambda: Map("M", "", range(9), range(4), np.zeros((9, 4))), r"values of 'M': the shape is \(9, 4\)"),
        (
            lambda: Map("M", "", range(9), range(4), np.full((4, 9), np.inf)),
            "map 'M' has 36 values that are not finite",
        ),
        (lambda: Sketch("S", "", [1], [[0, 0]], np.eye(3), False, [1]), "cannot reshape|positions of 'S'"),
        (
            lambda: Sketch("S", "", [1], np.zeros((2, 3)), np.eye(3), False, [1]),
            r"the shape is \(2, 3\); expected \(1, 3\)",
        ),
        (lambda: Sketch("S", "", [1], np.zeros((1, 3)), np.eye(3), False, []), r"values of 'S': the shape is \(0,\)"),
        (
            lambda: Heat("H", "", ["a"], ["b"], np.zeros((2, 1))),
            r"values of 'H': the shape is \(2, 1\); expected \(1, 1\)",
        ),
        (lambda: Verdict("T", "maybe", 1, 2, "", ""), "answer of verdict 'T' is 'maybe'; expected one of yes, remedy"),
    ],
)
def test_a_fact_that_does_not_fit_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_facts_of_numpy_numbers_are_plain_and_hashable() -> None:
    fact = Table("T", ["a"], [[np.float32(0.5)], [np.bool_(True)]])
    assert fact.rows == ((0.5,), (True,))
    assert all(type(cell) in (float, bool) for row in fact.rows for cell in row)
    assert len({hash(one) for one in (*FACTS, *VERDICTS)}) == len(FACTS) + len(VERDICTS)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (24.0, "24"),
        (0.5, "0.500"),
        (0.99951, "1.00"),
        (-468.123, "−468"),
        (1234.4, "1234"),
        (12345.6, "12\u202f346"),
        (10**7, "10\u202f000\u202f000"),
        (0.00123, "0.00123"),
        (-1.5e-9, "−1.50\u202f×\u202f10⁻⁹"),
        (2.5e12, "2.50\u202f×\u202f10¹²"),
        (math.nan, "–"),
        (-math.inf, "−∞"),
        (None, "–"),
        (True, "yes"),
        ("1.2e-3", "1.2e-3"),
    ],
)
def test_a_number_has_three_significant_digits(value: Any, text: str) -> None:
    assert number(value) == text


@given(st.floats(-1e300, 1e300), st.integers(1, 8))
def test_a_number_reads_back_within_its_digits(value: float, digits: int) -> None:
    text = number(value, digits).replace("−", "-").replace("\u202f×\u202f10", "e").replace("\u202f", "")
    back = float(text.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")))
    assert back == pytest.approx(value, rel=0.51 * 10 ** (1 - digits), abs=0)


# Results


def test_a_result_survives_its_folder(tmp_path: Path) -> None:
    arrays = {"spread": np.linspace(0, 1, 5), "temperature_K": np.array(300), "names": np.array(["a", "b"])}
    found = Found(
        arrays=arrays, atoms=[water(0), bulk("Si")], citations=("A, J. 1, 2 (2024).",), said=VERDICTS, told=FACTS
    )
    folder = found.save(tmp_path / "deep" / "out")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["settings.json", "result.json", "arrays.npz", "atoms.extxyz", "log.txt", "trust.json"]
    )
    read = load_result(folder)
    assert isinstance(read, Saved)
    assert (read.job, read.title, read.citations) == (found.job, found.title, found.citations)
    assert read.verdicts() == VERDICTS
    assert repr(read.facts()) == repr(FACTS)  # NaN is not equal to itself
    assert read.settings.digest == found.settings.digest
    assert read.provenance()["versions"]["numpy"] == np.__version__
    assert read.provenance()["settings"] == "Recipe"
    assert (read.subject, read.protocol) == (None, "")
    assert {name: array.tolist() for name, array in read.arrays.items()} == {n: a.tolist() for n, a in arrays.items()}
    assert [len(atoms) for atoms in read.atoms] == [3, 2]
    assert read.atoms[0].info["frame"] == 0
    np.testing.assert_array_equal(read.atoms[0].arrays["spread"], np.arange(3.0))


def test_a_result_without_arrays_atoms_and_facts_survives_too(tmp_path: Path) -> None:
    folder = Found().save(tmp_path)
    read = load_result(folder)
    assert (read.arrays, read.atoms, read.verdicts(), read.facts(), read.citations) == ({}, [], (), (), ())
    assert not (folder / "atoms.extxyz").exists()


def test_a_verdict_is_named_by_its_key_and_else_by_its_task() -> None:
    assert [verdict.name for verdict in VERDICTS] == ["relax", "phonons", "nve"]
    assert Verdict("relaxation of atoms", "yes", 1, 2, "Å", "", key="relax").name == "relax"


def test_a_result_of_an_earlier_version_is_still_read(tmp_path: Path) -> None:
    """Without keys and floors of verdicts, subject and protocol."""
    record = Found(said=VERDICTS).save(tmp_path) / "result.json"
    stored = json.loads(record.read_text())
    del stored["subject"], stored["provenance"]["protocol"]
    for verdict in stored["verdicts"]:
        del verdict["key"], verdict["floor"]
    record.write_text(json.dumps(stored))
    read = load_result(tmp_path)
    assert [verdict.name for verdict in read.verdicts()] == ["relax", "phonons", "nve"]
    assert (read.subject, read.protocol) == (None, "")


def test_a_saved_result_keeps_its_date_and_its_digest_when_saved_again(tmp_path: Path) -> None:
    first = load_result(Found(said=VERDICTS).save(tmp_path / "a"))
    record = tmp_path / "a" / "result.json"
    record.write_text(record.read_text().replace(first.provenance()["date"], "2001-01-01T00:00:00+00:00"))
    again = load_result(load_result(tmp_path / "a").save(tmp_path / "b"))
    assert again.provenance()["date"] == "2001-01-01T00:00:00+00:00"
    assert (tmp_path / "a" / "settings.json").read_bytes() == (tmp_path / "b" / "settings.json").read_bytes()
    assert again.verdicts() == VERDICTS


def test_the_record_is_plain_json_without_nan(tmp_path: Path) -> None:
    text = (Found(told=FACTS).save(tmp_path) / "result.json").read_text()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    assert json.loads(text, parse_constant=refuse)["job"] == "audit"


def test_a_folder_that_holds_a_result_is_refused_and_kept(tmp_path: Path) -> None:
    Found(atoms=[water(0)]).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"already holds a result\. Choose another folder, or overwrite it with"):
        Found(title="Another").save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_overwriting_replaces_the_result_and_leaves_all_else(tmp_path: Path) -> None:
    Found(atoms=[water(0)]).save(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    Found(title="Another").save(tmp_path, overwrite=True)
    assert load_result(tmp_path).title == "Another"
    assert not (tmp_path / "atoms.extxyz").exists()
    assert (tmp_path / "metrics.jsonl").read_text() == "{}\n"
    log = (tmp_path / "log.txt").read_text()
    assert log.index("Audit of a made-up potential") < log.index("Another")


def test_a_log_that_a_job_has_begun_is_continued(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("epoch 1\n")
    Found(said=VERDICTS).save(tmp_path)
    log = (tmp_path / "log.txt").read_text()
    assert log.startswith("epoch 1\n")
    assert "relax: fine as is, 0.200 meV/Å (limit 1). The spread is below the limit." in log


def test_settings_that_a_job_wrote_beforehand_are_no_obstacle(tmp_path: Path) -> None:
    settings = Found().save(tmp_path / "a") / "settings.json"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "settings.json").write_bytes(settings.read_bytes())
    assert load_result(Found().save(tmp_path / "b")).job == "audit"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["arrays.npz", "settings.json"])
def test_a_foreign_file_is_never_replaced(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / name).write_text("years of work")
    with pytest.raises(ValueError, match=rf"{name} was not written by a result, and is not overwritten"):
        Found().save(tmp_path, overwrite=overwrite)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["years of work"]


@pytest.mark.parametrize("text", ["[]", '{"format": "another program"}', "no json"])
def test_a_foreign_record_is_never_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError, match="no result of tumble, and is not overwritten"):
        Found().save(tmp_path, overwrite=True)
    assert (tmp_path / "result.json").read_text() == text


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="out is a file; expected a folder"):
        Found().save(tmp_path / "out")


def test_an_array_of_objects_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="arrays bad hold Python objects"):
        Found(arrays={"bad": np.array([{}, None])}).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_write_that_fails_leaves_no_result_and_no_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move = Path.replace

    def full(path: Path, target: Path) -> Path:
        if target.name == "result.json":
            raise OSError("no space left")
        return move(path, target)

    Found(title="Kept").save(tmp_path / "old")
    monkeypatch.setattr(Path, "replace", full)
    for folder in (tmp_path / "new", tmp_path / "old"):
        with pytest.raises(OSError, match="no space left"):
            Found(title="Lost").save(folder, overwrite=True)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert not (tmp_path / "new" / "result.json").exists()
    assert load_result(tmp_path / "old").title == "Kept"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("result.json", None, r"there is no result\.json in .*\. Give the folder that a job has written"),
        ("result.json", "{", "is damaged: it is not valid JSON"),
        (
            "result.json",
            '{"format": "tumble result 99"}',
            "has the format 'tumble result 99'; expected 'tumble result 1'",
        ),
        ("result.json", '{"format": "tumble result 1"}', "is damaged: KeyError"),
        ("arrays.npz", "PK\x03\x04", "is damaged: BadZipFile"),
        ("arrays.npz", "", "is damaged"),
        ("arrays.npz", None, "is damaged: FileNotFoundError"),
        ("atoms.extxyz", "", "holds 0 structures, 1 were written"),
        ("atoms.extxyz", "3\nH 0 0", "is damaged"),
        ("settings.json", "{", "is damaged: JSONDecodeError"),
    ],
)
def test_a_damaged_result_is_an_error(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    Found(atoms=[water(0)], told=FACTS).save(tmp_path)
    (tmp_path / name).unlink() if text is None else (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        load_result(tmp_path)


def test_settings_within_settings_change_only_what_they_name():
    class Target(Settings):
        weight: float = 1.0
        delta: float = 0.05

    class Step(Settings):
        energy: Target = Target(weight=3.0, delta=0.005)
        force: Target = Target()

    assert Step(energy={"weight": 2.0}).energy == Target(weight=2.0, delta=0.005)
    assert Step(force={"delta": 0.1}).force == Target(delta=0.1)
    assert Step(energy=Target(weight=2.0)).energy.delta == 0.05
    with pytest.raises(ValueError, match=r"energy: Target has no setting 'wieght'"):
        Step(energy={"wieght": 2.0})


def test_files_of_engines_are_saved_beside_the_result_and_replaced_with_it(tmp_path):
    folder = Found(beside={"phonopy_params.yaml": b"one", "old.hdf5": b"two"}).save(tmp_path / "run")
    assert (folder / "phonopy_params.yaml").read_bytes() == b"one"
    Found(beside={"phonopy_params.yaml": b"three"}).save(folder, overwrite=True)
    assert (folder / "phonopy_params.yaml").read_bytes() == b"three"
    assert not (folder / "old.hdf5").exists()
    assert load_result(folder).is_converged
