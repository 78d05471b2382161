"""A job over many structures: the numbers of the job itself, whatever fails, and whatever interrupts it."""

import csv
import json
import os
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import ase.io
import numpy as np
import pyarrow.parquet as pq
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from hypothesis import given
from hypothesis import strategies as st

import tumble
from tumble.cli import main
from tumble.jobs.screen import ScreenSettings, screen, table, verbs, worker
from tumble.jobs.screen.manifest import digest_of
from tumble.jobs.screen.records import Record, append, best, read
from tumble.jobs.screen.shards import deal
from tumble.models.pair import LennardJones
from tumble.potential import Gradient
from tumble.results import Settings, load_result

AUDIT = {"tasks": ["nvt"], "budget": 1e4, "remedies": ["O"]}


def argon(path, epsilon=0.0104):
    return tumble.save(Gradient(LennardJones({"Ar-Ar": epsilon}, {"Ar-Ar": 3.4}, cutoff=6.0)), path)


@pytest.fixture
def model(tmp_path):
    return argon(tmp_path / "argon.safetensors")


def crystals(n, first=0):
    """Shaken argon crystals of 1, 2 and 3 cells, with names."""
    found = []
    for seed in range(first, first + n):
        atoms = bulk("Ar", cubic=True) * (1 + seed % 3, 1, 1)
        atoms.rattle(0.1, seed=seed)
        atoms.info["name"] = f"crystal {seed}"
        found.append(atoms)
    return found


def rows(folder):
    """The table without times, as text."""
    with (folder / "table.csv").open() as file:
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def small(**settings):
    return ScreenSettings(**({"structures_per_shard": 4} | settings))


@pytest.fixture
def asked(monkeypatch):
    """Names of the formulas that the job was asked about, in the order of the calls."""
    calls, real = [], worker.ask

    def counted(job, potential, structures, *rest):
        calls.append(len(structures))
        return real(job, potential, structures, *rest)

    monkeypatch.setattr(worker, "ask", counted)
    return calls


# --------------------------------------------------------------------------------------------------------------- table


def test_a_row_says_what_predict_says(model, tmp_path):
    structures = crystals(7)
    result = screen("predict", model, structures, tmp_path / "out", small())
    answers = tumble.predict(tumble.load(model), structures)
    for row, atoms, answer in zip(result.rows(), structures, answers, strict=True):
        assert (row["structure"], row["formula"], row["n_atoms"]) == (
            atoms.info["name"],
            str(atoms.symbols),
            len(atoms),
        )
        assert (row["status"], row["digest"]) == ("done", digest_of(atoms))
        assert row["energy (eV)"] == pytest.approx(float(answer.energy), rel=1e-12)
        assert row["largest force (eV/Å)"] == pytest.approx(float(answer.forces.norm(dim=1).max()), rel=1e-9)


def test_csv_and_parquet_hold_the_same_numbers_to_the_last_digit(model, tmp_path):
    result = screen("predict", model, [*crystals(3), bulk("Cu")], tmp_path / "out", small())
    found, stored = rows(tmp_path / "out"), pq.read_table(tmp_path / "out" / "table.parquet").to_pylist()
    assert [one["energy (eV)"] for one in stored] == [row.get("energy (eV)") for row in result.rows()]
    assert [float(one["energy (eV)"] or "nan") for one in found[:3]] == [one["energy (eV)"] for one in stored[:3]]
    assert found[3]["energy (eV)"] == ""
    assert stored[3]["energy (eV)"] is None


def test_columns_of_mixed_cells_get_one_type():
    assert table.typed([1, None, 2.5]) == [1.0, None, 2.5]
    assert table.typed([1, "a"]) == ["1", "a"]
    assert table.typed([True, None]) == [True, None]


def test_verdicts_of_an_audit_are_columns_and_are_counted(model, tmp_path):
    result = screen("audit", model, crystals(2), tmp_path / "out", small(keep="folders"), job_settings=AUDIT)
    assert [row["nvt"] for row in result.rows()] == ["yes", "yes"]
    assert all(row["nvt (meV/Å)"] < 1e-6 for row in result.rows())
    counted = next(fact for fact in result.facts() if fact.title == "verdicts")
    assert counted.rows == (("nvt", 2, 0, 0, 0),)
    folders = sorted((tmp_path / "out" / "results").iterdir())
    assert [load_result(one).job for one in folders] == ["audit", "audit"]


def test_the_result_is_saved_and_reported(model, tmp_path):
    result = screen("predict", model, [*crystals(5), bulk("Cu")], tmp_path / "out", small())
    result.save(tmp_path / "out")
    assert "Cu" in tumble.report(load_result(tmp_path / "out"), to=tmp_path / "out" / "card.html").read_text()
    assert [fact.title for fact in result.facts()][-3:] == ["structures", "extremes", "failures"]
    assert result.verdicts()[0].reason == "5 of 6 structures are done, 1 failed"


def test_nothing_is_written_into_the_working_directory(model, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    screen("predict", model, crystals(5), tmp_path / "out", small(workers=2, pool="threads"))
    assert list((tmp_path / "here").iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- any job


class FakeSettings(Settings):
    factor: float = 1.0


@dataclass
class FakeResult:
    """What a job of many structures may give back: rows of its own, and structures that have moved."""

    atoms: list[Atoms]
    cells: list[dict] = field(default_factory=list)

    def rows(self):
        return self.cells


def double(potential, structures, settings=None):
    """Twice as large; argon alone does not get there."""
    grown = []
    for one in structures:
        two = one.copy()
        two.set_cell(one.cell * 2 * settings.factor, scale_atoms=True)
        grown.append(two)
    return FakeResult(grown, [{"volume (Å³)": one.get_volume(), "is_converged": len(one) > 4} for one in grown])


@pytest.fixture
def fake(monkeypatch):
    """A job of another package, in the place of one of ours."""
    monkeypatch.setitem(sys.modules, "tumble.jobs.relax", SimpleNamespace(relax=double, RelaxSettings=FakeSettings))


def test_a_job_that_moves_atoms_leaves_its_structures_and_says_which_have_not_converged(fake, model, tmp_path):
    structures = crystals(3)
    result = screen("relax", model, structures, tmp_path / "out", small(), job_settings={"factor": 1.5})
    assert [one.status for one in result.records] == ["not converged", "done", "done"]
    assert not result.is_converged
    for before, after in zip(structures, result.atoms, strict=True):
        np.testing.assert_allclose(after.positions, 3 * before.positions, rtol=1e-12)
        assert after.info["name"] == before.info["name"]
    assert [row["volume (Å³)"] for row in result.rows()] == [one.get_volume() for one in result.atoms]


def test_a_relaxation_comes_to_rest_and_its_numbers_are_those_of_relax(model, tmp_path):
    relax = pytest.importorskip("tumble.jobs.relax")
    settings = relax.RelaxSettings(symmetry="free")
    structures = crystals(2)
    result = screen("relax", model, structures, tmp_path / "out", small(), job_settings=settings)
    alone = relax.relax(tumble.load(model), structures, settings)
    np.testing.assert_array_equal(result.arrays["energy (eV)"], alone.arrays["energy"])
    np.testing.assert_array_equal(result.atoms[1].positions, alone.atoms[1].positions)
    assert [row["status"] for row in result.rows()] == ["done", "done"]


def test_numbers_and_verdicts_stand_for_a_result_without_rows():
    verdict = SimpleNamespace(name="phonons", answer="no", unit="THz", value=0.2)
    arrays = {"kappa_W_per_mK": np.array(109.0), "frequencies": np.zeros(3)}
    result = SimpleNamespace(job="phonons", verdicts=lambda: (verdict,), arrays=arrays)
    assert verbs.rows_of(result, 1) == [{"phonons": "no", "phonons (THz)": 0.2, "kappa_W_per_mK": 109.0}]
    assert verbs.rows_of(SimpleNamespace(row=lambda: {"a": 1}), 1) == [{"a": 1}]
    with pytest.raises(RuntimeError, match="a result of phonons is about 2 structures, and offers no rows"):
        verbs.rows_of(result, 2)


# ------------------------------------------------------------------------------------------------- failures and resume


def test_a_failure_is_recorded_with_its_reason_and_spoils_nothing_else(model, tmp_path):
    good, bad = crystals(6), bulk("Cu")
    bad.info["name"] = "copper"
    screen("predict", model, good, tmp_path / "good", small())
    result = screen("predict", model, [*good[:2], bad, *good[2:]], tmp_path / "out", small(atoms_per_shard=1000))
    assert [one.name for one in result.failures] == ["copper"]
    assert result.failures[0].reason.startswith("ValueError: element 29 (Cu)")
    found = {row["structure"]: row for row in rows(tmp_path / "out")}
    for row in rows(tmp_path / "good"):
        assert float(found[row["structure"]]["energy (eV)"]) == pytest.approx(float(row["energy (eV)"]), rel=1e-12)


def test_what_is_finished_is_not_asked_about_again(model, tmp_path, asked):
    screen("predict", model, crystals(10), tmp_path / "out", small())
    first = rows(tmp_path / "out")
    assert sum(asked) == 10
    told = []
    screen("predict", model, crystals(10), tmp_path / "out", small(), tell=told.append)
    assert sum(asked) == 10
    assert (told[-1].done, told[-1].total, told[-1].message) == (10, 10, "10 were there")
    screen("predict", model, crystals(13)[::-1], tmp_path / "out", small())
    assert sum(asked) == 13
    assert rows(tmp_path / "out")[:10] == first
    assert {row["structure"] for row in rows(tmp_path / "out")[10:]} == {f"crystal {n}" for n in (10, 11, 12)}


def test_an_interrupt_keeps_what_is_done(model, tmp_path, monkeypatch, asked):
    counted, shards = worker.ask, []

    def interrupted(*rest):
        shards.append(1)
        if len(shards) == 3:
            raise KeyboardInterrupt
        return counted(*rest)

    monkeypatch.setattr(worker, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        screen("predict", model, crystals(14), tmp_path / "out", small())
    screen("predict", model, crystals(14), tmp_path / "out", small())
    screen("predict", model, crystals(14), tmp_path / "whole", small())
    assert sum(asked) == 28
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


def test_failures_are_tried_again_when_asked(model, tmp_path, monkeypatch):
    real = worker.ask

    def weak(*rest):
        raise RuntimeError("no memory today")

    monkeypatch.setattr(worker, "ask", weak)
    screen("predict", model, crystals(3), tmp_path / "out", small())
    assert {row["reason"] for row in rows(tmp_path / "out")} == {"RuntimeError: no memory today"}
    monkeypatch.setattr(worker, "ask", real)
    assert len(screen("predict", model, crystals(3), tmp_path / "out", small()).failures) == 3
    assert screen("predict", model, crystals(3), tmp_path / "out", small(retry_failed=True)).is_converged
    assert screen("predict", model, crystals(3), tmp_path / "out", small()).is_converged


def test_a_line_that_was_cut_off_is_no_record(tmp_path):
    one = Record("a", "0", 0, "done", "", 1.0, {"x": 0.1})
    append(tmp_path / "r.jsonl", [one, one])
    append(tmp_path / "r.jsonl", [one])
    whole = (tmp_path / "r.jsonl").read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(len(whole) + 1):
        (tmp_path / "r.jsonl").write_bytes(whole[:end])
        assert len(read(tmp_path / "r.jsonl")) == (3 if end == len(whole) else 2 if end >= first else 0)
    (tmp_path / "r.jsonl").write_bytes(b"[{" + whole)
    with pytest.raises(ValueError, match=r"line 1 of .*r.jsonl is damaged .* Remove this file"):
        read(tmp_path / "r.jsonl")


def test_an_answer_counts_more_than_a_failure_and_a_later_attempt_more_than_an_earlier():
    def record(attempt, status):
        return Record("a", "0", attempt, status, "", 0.0, {})

    answer, late = record(1, "done"), record(2, "failed")
    assert best([record(0, "failed"), answer, late])["a"] is answer
    assert best([record(0, "failed"), late])["a"] is late


@given(st.lists(st.integers(1, 500), min_size=1, max_size=80), st.integers(1, 20), st.none() | st.integers(1, 2000))
def test_shards_are_full_but_not_too_full(sizes, structures, atoms):
    shards = deal(sizes, structures, atoms)
    counts, weights = np.bincount(shards), np.bincount(shards, weights=sizes)
    assert counts.max() <= structures
    assert counts.min() >= 1
    if structures >= len(sizes):  # nothing but atoms decides: the longest-first rule
        assert weights.max() - weights.min() <= max(sizes)


# ----------------------------------------------------------------------------------------------------------- bad input


def test_a_folder_of_another_screen_is_refused_with_what_differs(model, tmp_path):
    out, structures = tmp_path / "out", crystals(4)
    screen("audit", model, structures, out, small(), job_settings=AUDIT)

    def again(job="audit", name=model, given=structures, settings=None, **options):
        settings = None if job == "predict" else AUDIT | (settings or {})
        return screen(job, name, given, out, small(**options), job_settings=settings)

    other = argon(tmp_path / "other.safetensors", epsilon=0.0105)
    with pytest.raises(ValueError, match=r"out holds another screen: digest of the model is '\w+' there and '\w+' now"):
        again(name=other)
    with pytest.raises(ValueError, match="holds another screen: the job is audit there and predict now"):
        again(job="predict")
    with pytest.raises(ValueError, match=r"budget of the settings is 10000\.0 there and 20000\.0 now"):
        again(settings={"budget": 2e4})
    with pytest.raises(ValueError, match="keep is table there and folders now"):
        again(keep="folders")
    with pytest.raises(ValueError, match="1 of 4 structures are not among those given now, the first is crystal 0"):
        again(given=structures[1:])
    structures[2].positions[0, 0] += 1e-12
    with pytest.raises(ValueError, match="1 of 4 structures have other contents now, the first is crystal 2"):
        again()


def test_a_copied_model_of_the_same_content_goes_on(model, tmp_path, asked):
    screen("predict", model, crystals(3), tmp_path / "out", small())
    screen("predict", argon(tmp_path / "copy.safetensors"), crystals(3), tmp_path / "out", small())
    assert sum(asked) == 3


def test_a_manifest_that_is_none_is_refused(model, tmp_path):
    screen("predict", model, crystals(3), tmp_path / "out", small())
    (tmp_path / "out" / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match=r"is not the manifest of a screen \(its format is not 'tumble screen 1'\)"):
        screen("predict", model, crystals(3), tmp_path / "out", small())
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"has records of a screen but no manifest.json: it cannot go on"):
        screen("predict", model, crystals(3), tmp_path / "out", small())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"job": "predct"}, "'predct' is no job that can be screened.* Did you mean 'predict'"),
        ({"job": "train"}, "'train' is no job that can be screened"),
        ({"files_or_structures": []}, "nothing to screen: 0 structures were given"),
        ({"job_settings": {"fmax": 1}}, "predict has no settings of its own, and some were given"),
        (
            {"job": "audit", "job_settings": ScreenSettings()},
            "ScreenSettings are not the settings of audit; AuditSettings",
        ),
        ({"job": "audit", "job_settings": {"bugdet": 1}}, "no setting 'bugdet'.*Did you mean 'budget'"),
        ({"model": Gradient(LennardJones())}, "loads its potential in every worker, and a Gradient was given"),
        ({"settings": ScreenSettings(keep="folders")}, "predict has no result that could be kept in folders"),
        ({"settings": ScreenSettings(names="id")}, r"0 has no 'id' in its info \(name\), by which"),
        ({"files_or_structures": [*crystals(1), *crystals(1)]}, "0 and 1 are both called 'crystal 0'; every structure"),
    ],
)
def test_bad_input_is_refused_before_anything_is_asked(model, tmp_path, change, message):
    arguments = {"job": "predict", "model": model, "files_or_structures": crystals(2), "folder": tmp_path / "out"}
    with pytest.raises(ValueError, match=message):
        screen(**(arguments | change))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_file_is_no_folder(model, tmp_path):
    with pytest.raises(ValueError, match="safetensors is a file; a folder was expected, which is made"):
        screen("predict", model, crystals(2), model)


def test_one_folder_has_one_screen_at_a_time(model, tmp_path):
    def meddle(progress):
        if progress.done == 0:
            with pytest.raises(RuntimeError, match=r"another process is working on .*out\. Wait until it is done"):
                screen("predict", model, crystals(2), tmp_path / "out")

    screen("predict", model, crystals(2), tmp_path / "out", tell=meddle)


def test_a_worker_refuses_other_weights_than_the_screen_was_started_with(model):
    with pytest.raises(RuntimeError, match=r"has weights of digest \w+ where a worker has loaded it, and abc"):
        worker.held(worker.Source(str(model), None, None, None, False, "abc"))
    worker.release()


def test_parquet_without_pyarrow_names_the_extra(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"table.parquet needs the module pyarrow: pip install 'tumble\[screen\]'"):
        screen("predict", model, crystals(2), tmp_path / "out")
    screen("predict", model, crystals(2), tmp_path / "out", small(parquet=False))
    assert not (tmp_path / "out" / "table.parquet").exists()


# --------------------------------------------------------------------------------------------------------------- names


def test_structures_are_called_by_their_info_or_their_place(model, tmp_path):
    first, second, third = crystals(3)
    first.info, second.info, third.info = {"material_id": "mp-1"}, {}, {"tag": 7}
    ase.io.write(tmp_path / "a.extxyz", [first, second, third])
    found = screen("predict", model, tmp_path / "a.extxyz", tmp_path / "out")
    assert [one.name for one in found.structures] == ["mp-1", f"{tmp_path}/a.extxyz:1", f"{tmp_path}/a.extxyz:2"]
    found = screen("predict", model, [str(tmp_path / "a.extxyz")], tmp_path / "files", small(names="file"))
    assert [one.name for one in found.structures] == [f"{tmp_path}/a.extxyz:{n}" for n in range(3)]


def test_a_digest_sees_what_a_job_sees_and_nothing_else():
    one = crystals(1)[0]
    same, moved, charged, fixed, negative = (one.copy() for _ in range(5))
    same.info["name"] = "another"
    moved.positions[0, 0] += 1e-13
    charged.info["charge"] = 1
    fixed.set_constraint(FixAtoms([0]))
    negative.positions[0] *= 0
    zero = negative.copy()
    negative.positions[0] *= -1.0
    assert digest_of(same) == digest_of(one)
    assert digest_of(negative) == digest_of(zero)
    assert len({digest_of(atoms) for atoms in (one, moved, charged, fixed, zero)}) == 5


# --------------------------------------------------------------------------------------------------------------- shell


def test_the_command_writes_a_table_and_a_card_and_goes_on(model, tmp_path, capsys):
    ase.io.write(tmp_path / "in.extxyz", crystals(3))
    words = ["screen", "predict", str(model), str(tmp_path / "in.extxyz"), "-o", str(tmp_path / "out")]
    assert main([*words, "--structures-per-shard", "2"]) == 0
    assert {"table.csv", "table.parquet", "card.html", "result.json", "manifest.json"} <= set(
        os.listdir(tmp_path / "out")
    )
    assert main(words) == 2
    assert "holds a screen already. --resume goes on with it" in capsys.readouterr().err
    ase.io.write(tmp_path / "in.extxyz", [*crystals(3), bulk("Cu")])
    assert main([*words, "--resume"]) == 0
    assert main([*words, "--resume", "--strict"]) == 5
    assert "element 29" in capsys.readouterr().out


def test_the_command_takes_settings_of_the_job_and_fails_where_nothing_is_done(model, tmp_path):
    ase.io.write(tmp_path / "in.extxyz", bulk("Cu"))
    (tmp_path / "audit.yaml").write_text(json.dumps(AUDIT))
    words = ["screen", "audit", str(model), str(tmp_path / "in.extxyz"), "-o", str(tmp_path / "out")]
    assert main([*words, "--settings", str(tmp_path / "audit.yaml")]) == 5
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]["tasks"] == ["nvt"]


def test_ctrl_c_says_how_to_go_on(model, tmp_path, capsys, monkeypatch):
    def interrupted(*rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "ask", interrupted)
    ase.io.write(tmp_path / "in.extxyz", crystals(1))
    words = ["screen", "predict", str(model), str(tmp_path / "in.extxyz"), "-o", str(tmp_path / "out")]
    assert main(words) == 130
    assert "interrupted; what is done is kept in" in capsys.readouterr().err
