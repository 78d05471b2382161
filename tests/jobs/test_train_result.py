"""What a training says of itself: curves from its metrics, and its best potential on structures kept apart."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from tumble import checkpoint, load_result, predict, report
from tumble.batch import Properties
from tumble.data import Dataset
from tumble.jobs.train import judged as judging
from tumble.jobs.train.extras import DataSet
from tumble.jobs.train.figures import curves, with_epochs
from tumble.jobs.train.judged import (
    POINTS,
    Judged,
    by_element,
    by_group,
    closest,
    error_by_force,
    histograms,
    judge,
    parities,
    worst,
)
from tumble.jobs.train.result import LABELS, TrainResult, errors, titled
from tumble.jobs.train.settings import TrainSettings
from tumble.jobs.train.sources import Source
from tumble.models.pair import LennardJones
from tumble.models.pet import PET
from tumble.page.plots import DENSE_FROM, plot
from tumble.potential import Gradient
from tumble.results import Curve, Series, Table

TEACHER = Gradient(LennardJones(0.3, 3.0, cutoff=4.5))
WIDTH = {"d_pet": 8, "d_node": 16, "d_head": 8, "d_feedforward": 8, "num_heads": 2, "num_attention_layers": 1}


def argon(n: int, seed: int = 0) -> Dataset:
    """Rattled crystals of eight atoms, labelled by the teacher, every other one called hot."""
    draw = np.random.default_rng(seed)
    frames = [bulk("Ar", a=4.9 + 0.3 * draw.random()).repeat(2) for _ in range(n)]
    for k, atoms in enumerate(frames):
        atoms.positions += 0.2 * draw.normal(size=atoms.positions.shape)
        atoms.info["config_type"] = "hot" if k % 2 else "cold"
    answers = predict(TEACHER, frames)
    labels = [Properties(one.energy, one.forces, one.stress) for one in answers]
    return Dataset(frames, labels, [f"folder/argon.xyz:{k}" for k in range(n)])


def off(one: Judged, factor: float) -> Judged:
    """Predictions that miss each force by a fraction of it along z, and each energy by 1, 2, 3 … meV per atom."""
    forces = one.label["forces"].copy()
    forces[:, 2] += factor * np.linalg.norm(forces, axis=1)
    energy = one.label["energy"] + 1e-3 * np.arange(1, len(one.atoms) + 1)
    return one._replace(predicted={"energy": energy, "forces": forces, "stress": one.label["stress"]})


@pytest.fixture(scope="module")
def right() -> Judged:
    """The teacher, judged by its own labels."""
    return judge(TEACHER, Source(DataSet(name="", data=("x",)), argon(2), argon(12, 1)), "")


def cells(table: Table | Curve) -> dict[str, list[Any]]:
    assert isinstance(table, Table)
    return {name: [row[k] for row in table.rows] for k, name in enumerate(table.columns)}


# ---------------------------------------------------------------------------------------------------- kept apart


def test_a_potential_has_no_error_on_its_own_labels(right: Judged) -> None:
    assert right.residuals.summary() == pytest.approx(
        {f"{kind}_{how}": 0 for kind in ("energy", "forces", "stress") for how in ("mae", "rmse")}, abs=1e-9
    )
    assert right.arrays["forces_label"].shape == (12 * 8, 3)
    assert right.arrays["structure"].tolist() == np.repeat(np.arange(12), 8).tolist()
    assert worst([right._replace(predicted=right.label)]) == ((), [])


def test_what_has_no_label_is_unknown_and_not_kept() -> None:
    data = argon(3)
    labels = [Properties(data.labels[0].energy), Properties(), Properties(data.labels[2].energy)]
    source = Source(DataSet(name="", data=("x",)), data, Dataset(data.atoms, labels, data.sources))
    found = judge(TEACHER, source, "")
    assert np.isnan(found.label["energy"]).tolist() == [False, True, False]
    assert np.isnan(found.label["forces"]).all()
    assert "forces_label" not in found.arrays
    assert "energy_label" in found.arrays
    assert error_by_force([found]) == by_element([found]) == ()
    assert list(histograms([found])) == []
    assert [curve.title for curve in parities([found])] == ["Parity: energy"]
    ((table,), atoms) = worst([off(found, 0.0)])
    assert cells(table)["energy error (meV/atom)"] == pytest.approx([3, 1])
    assert cells(table)["worst atom, from 0"] == [None, None]
    assert len(atoms) == 2


def test_of_a_large_set_some_structures_are_judged_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "MOST", 3)
    found = judge(TEACHER, Source(DataSet(name="", data=("x",)), argon(2), argon(9)), "")
    assert found.members.tolist() == [0, 4, 8]
    assert (len(found.atoms), found.n_all) == (3, 9)
    ((table,), _) = worst([off(found, 0.1)])
    assert "3 of 9 structures were looked at" in table.note


def test_tables_by_element_and_by_config_type_are_those_of_the_residuals(right: Judged) -> None:
    one = off(right, 0.1)
    one.numbers[:48] = 10
    [table] = by_element([one])
    expected = one.residuals.by_element()
    assert cells(table)["element"] == ["Ne", "Ar"]
    assert cells(table)["MAE (meV/Å)"] == pytest.approx([expected["forces_mae_Ne"], expected["forces_mae_Ar"]])
    assert cells(table)["RMSE / rms force (%)"] == pytest.approx([10, 10])
    one.numbers[:48] = 18
    [table] = by_group([one])
    expected = one.residuals.by_group(one.groups)
    assert cells(table)["config_type"] == ["cold", "hot"]
    assert cells(table)["energy MAE (meV/atom)"] == pytest.approx([6, 7])
    assert cells(table)["force MAE (meV/Å)"] == pytest.approx([expected["forces_mae@cold"], expected["forces_mae@hot"]])
    assert by_group([one._replace(groups=[""] * 12)]) == ()


def test_the_worst_structures_are_ranked_by_force_error_and_described(right: Judged) -> None:
    one = off(right, 0.1)
    one.predicted["forces"][5 * 8 + 3] += [0.0, 2.0, 0.0]
    ((table,), atoms) = worst([one])
    found = cells(table)
    assert len(table.rows) == len(atoms) == 10
    assert found["source"][0] == "folder/argon.xyz:5"
    assert atoms[0].info == {"source": "folder/argon.xyz:5"}
    assert np.array_equal(atoms[0].positions, one.atoms[5].positions)
    assert found["worst atom, from 0"][0] == "Ar 3"
    assert found["energy error (meV/atom)"][0] == pytest.approx(6)
    assert found["force RMSE (meV/Å)"] == sorted(found["force RMSE (meV/Å)"], reverse=True)
    assert found["largest force (eV/Å)"][0] == pytest.approx(np.linalg.norm(one.label["forces"][40:48], axis=1).max())
    assert found["config_type"][0] == "hot"
    assert "config_type" not in worst([one._replace(groups=[""] * 12)])[0][0].columns


def test_the_smallest_distance_counts_images() -> None:
    assert closest(Atoms("H2", [[0, 0, 0], [0, 0, 0.7]]), 3.0) == pytest.approx(0.7)
    assert closest(Atoms("H", cell=[2.0, 5, 5], pbc=True), 3.0) == pytest.approx(2.0)
    assert closest(Atoms("H"), 3.0) is None


def test_errors_in_proportion_to_the_force_show_as_such(right: Judged) -> None:
    curve, table = error_by_force([off(right, 0.1)])
    found = cells(table)
    assert sum(found["atoms"]) == 96
    assert isinstance(curve, Curve)
    assert [one.name for one in curve.series] == ["median", "mean", "90 % are below"]
    size, mean = np.asarray(curve.series[1].x), np.asarray(curve.series[1].y)
    np.testing.assert_allclose(mean, 100 * size)
    low, high = np.array(found["from (eV/Å)"]), np.array(found["to (eV/Å)"])
    assert (low <= size).all()
    assert (size <= high).all()
    assert (high[:-1] <= low[1:]).all()


def test_every_error_is_in_the_histogram_or_counted_beyond_it() -> None:
    many = judge(TEACHER, Source(DataSet(name="", data=("x",)), argon(2), argon(60)), "")
    draw = np.random.default_rng(0)
    noisy = many.label["forces"] + 0.01 * draw.standard_normal(many.label["forces"].shape)
    one = off(many, 0.0)
    one.predicted["forces"] = noisy
    by_title = {curve.title: curve for curve in histograms([one])}
    few, forces = by_title["Errors: energy"], by_title["Errors: forces"]
    assert np.sum(few.series[0].y) == 60
    assert (few.log_y, few.note) == (False, "")
    beyond = int(forces.note.split()[0])
    assert np.sum(forces.series[0].y) + beyond == 60 * 24
    assert 0 < beyond < 20
    assert forces.log_y


def test_sets_share_a_parity_plot_only_while_they_can_be_told_apart(right: Judged) -> None:
    two = [right._replace(name="a"), right._replace(name="b")]
    titles = [curve.title for curve in parities(two)]
    assert titles == ["Parity: energy", "Parity: forces", "Parity: stress"]
    copies = 50
    large = right._replace(
        label={kind: np.concatenate([values] * copies) for kind, values in right.label.items()},
        predicted={kind: np.concatenate([values] * copies) for kind, values in right.predicted.items()},
    )
    found = list(parities([large._replace(name="a"), large._replace(name="b")]))
    assert [one.title for one in found][:3] == ["Parity: energy", "Parity: forces, a", "Parity: forces, b"]
    assert np.size(found[1].series[0].x) == POINTS
    assert found[1].note == "10\u202f000 of 14\u202f400 points, evenly chosen"


@pytest.mark.parametrize("log", [False, True])
def test_many_points_of_a_parity_plot_are_drawn_as_their_density(log: bool) -> None:
    x = np.exp(np.random.default_rng(0).normal(size=DENSE_FROM + 1))
    picture = plot(Curve("c", "x", "y", (Series("s", x, 1.1 * x),), "parity", log_x=log, log_y=log), "")
    assert "<image" not in picture.svg
    assert "var(--q11)" in picture.svg
    assert len(picture.svg) < 100_000
    assert f"{DENSE_FROM + 1} points, more where it is darker" in picture.numbers


# ------------------------------------------------------------------------------------------------------ the metrics


def rows(*places: tuple[int, int], **numbers: Any) -> list[dict[str, Any]]:
    """Metrics of validations at these phases and epochs, each number falling as one over the step."""
    found = []
    for k, (phase, epoch) in enumerate(places, 1):
        place = {"phase": phase, "epoch": epoch, "step": 10 * k, "minutes": 0.5 * k, "valid_loss": 1 / k}
        found.append(place | {name: value / k for name, value in numbers.items()})
    return found


def drawn(found: Sequence[Curve]) -> dict[str, Curve]:
    assert len({one.title for one in found}) == len(found)
    return {one.title: one for one in found}


def test_epochs_go_on_from_phase_to_phase() -> None:
    found = with_epochs(rows((0, 0), (0, 2), (0, 3), (1, 0), (1, 2), (2, 1)))
    assert [row["epochs"] for row in found] == [0, 2, 3, 3, 5, 6]
    assert with_epochs([]) == []


def test_learning_curves_show_averaged_raw_and_direct_errors_and_where_phases_begin() -> None:
    metrics = rows((0, 1), (0, 2), (1, 1), forces_mae=100.0, raw_forces_mae=120.0, direct_forces_mae=200.0)
    found = drawn(curves(metrics, ()))
    time, steps = found["Force error against time"], found["Force error against steps"]
    assert [one.name for one in time.series] == ["averaged weights", "raw weights", "direct heads"]
    assert time.series[0].x == (0.5, 1.0, 1.5)
    assert steps.series[1].y == (120.0, 60.0, 40.0)
    assert "a new phase begins after 1 minutes" in time.note
    assert "Stress error against time" not in found
    assert found["Loss"].note == "a new phase begins after 2 epochs"


def test_symmetry_is_shown_beside_the_error_and_as_its_part() -> None:
    numbers = {"forces_spread": 10.0, "forces_rmse": 50.0, "spread_over_error": 0.2, "curl": 0.1, "force_gap": 0.3}
    found = drawn(curves(rows((0, 1), (0, 2), **numbers, energy_rmse=3.0), ()))
    assert [one.name for one in found["Rotational spread of forces"].series] == [
        "rotational spread", "RMSE, all of the validation set",
    ]  # fmt: skip
    assert found["Rotational spread, as a part of the error"].series[0].y == pytest.approx((20.0, 10.0))
    assert len(found["Conservation of the direct forces"].series) == 2
    assert "Rotational spread of the energy" not in found


def test_what_is_forgotten_stands_beside_what_is_learned() -> None:
    found = drawn(curves(rows((0, 1), (0, 2), forces_mae=50.0, remember_forces_mae=10.0, waiting=0.04, rate=1.0), ()))
    assert [one.name for one in found["Force error, old and new"].series] == ["to be remembered", "what is learned"]
    assert found["Time spent waiting for data"].series[0].y == pytest.approx((4.0, 2.0))
    assert "Learning rate" in found


def test_a_mixture_has_a_line_for_each_set() -> None:
    names = [f"s{k}" for k in range(8)]
    numbers = {f"{one}/{name}": 10.0 for one in names for name in ("forces_mae", "forces_spread", "curl", "force_gap")}
    found = drawn(curves(rows((0, 1), (0, 2), **numbers), names))
    assert [one.name for one in found["Force error against time"].series] == names[:6]
    assert found["Force error against time"].note == "6 of 8 sets"
    assert [one.name for one in found["Rotational spread of forces"].series] == names[:6]
    assert len([title for title in found if title.startswith("Conservation of the direct forces: ")]) == 2
    [table] = errors(rows((0, 1), (0, 2), **numbers), names[:2], is_complete=True)
    assert cells(table)["set"] == ["s0", "s1"]
    assert cells(table)[LABELS["forces_mae"]] == [5.0, 5.0]


def test_errors_are_listed_at_the_end_of_each_phase_and_before_the_first_step() -> None:
    [table] = errors(rows((0, 0), (0, 5), (0, 6), (1, 3), energy_mae=12.0), (), is_complete=False)
    assert cells(table)["epoch"] == [0, 6, 3]
    assert cells(table)[LABELS["energy_mae"]] == pytest.approx([12, 4, 3])
    assert "epoch 0 is before its first step" in table.note
    assert table.note.endswith("not finished, resume it")
    assert errors([], (), is_complete=True) == ()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"data": ("a/x.xyz",)}, "PET trained on x.xyz: energy MAE 2 meV/atom, force MAE 50 meV/Å"),
        ({"data": ("x", "y", "z")}, "PET trained on x, y and z: energy"),
        ({"data": ("x", "y", "z", "u")}, "PET trained on x, y and 2 more: energy"),
        ({"data": ("x",), "start": "runs/water.safetensors"}, "water trained further on x: energy"),
    ],
)
def test_the_title_says_what_was_trained_on_what(given: dict[str, Any], expected: str) -> None:
    found = titled(TrainSettings(**given), rows((0, 1), energy_mae=2.0, forces_mae=50.0), is_complete=True)
    assert found.startswith(expected)


def test_the_title_of_a_mixture_names_its_sets_and_their_errors() -> None:
    sets = tuple(DataSet(name=name, data=("x",)) for name in ("liquid", "gas"))
    metrics = rows((0, 1), **{"liquid/forces_mae": 50.0, "gas/forces_mae": 20.0, "forces_mae": 50.0})
    assert titled(TrainSettings(sets=sets), metrics, is_complete=False) == (
        "PET trained on liquid and gas: force MAE 50 | 20 meV/Å, not finished"
    )
    assert titled(TrainSettings(sets=sets), [], is_complete=True) == "PET trained on liquid and gas"


# --------------------------------------------------------------------------------------------------------- all of it


def pet(seed: int) -> Gradient:
    torch.manual_seed(seed)
    return Gradient(PET((18,), WIDTH | {"cutoff": 4.5}))


def test_a_result_of_one_set_is_saved_read_back_and_drawn(tmp_path: Path) -> None:
    checkpoint.save(pet(0), tmp_path / "best.safetensors")
    metrics = rows((0, 1), (0, 2), energy_mae=2.0, forces_mae=50.0, forces_spread=10.0)
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)) + "\n")
    settings = TrainSettings(data=("argon.xyz",))
    sigma = {"uncertainty_energy_sigma": np.full(30, 0.01), "uncertainty_energy_error": np.linspace(-0.02, 0.02, 30)}
    source = Source(settings.mixture[0], argon(3), argon(24, 1))
    result = TrainResult.of(settings, tmp_path, [source], is_complete=True, extra=sigma)
    assert result.potential == tmp_path / "best.safetensors"
    assert result.arrays["energy_predicted"].shape == (24,)
    [answer] = predict(checkpoint.load(result.potential), [source.valid.atoms[5]])
    assert result.arrays["energy_predicted"][5] == pytest.approx(float(answer.energy) / 8, rel=1e-6)
    titles = [fact.title for fact in result.facts()]
    for title in (
        "Errors on the validation set", "Force error against steps", "Parity: forces", "Force error against force",
        "Errors: forces", "The 10 worst structures", "Force errors by element", "Errors by config_type",
        "Training set. Label coverage of 3 structures", "Validation set. Label coverage of 24 structures",
    ):  # fmt: skip
        assert title in titles
    assert any("uncertaint" in title.lower() for title in titles)
    assert len(titles) == len(set(titles))
    assert result.verdicts() == ()
    again = load_result(result.save(tmp_path / "result"))
    assert [fact.title for fact in again.facts()] == titles
    assert len(again.atoms) == 10
    page = report(result, to=tmp_path / "card.html").read_text()
    assert "argon.xyz:" in page
    assert "none of these structures is in the training set" in page.lower()


def test_a_result_of_a_mixture_asks_the_head_of_each_set(tmp_path: Path) -> None:
    for seed, name in ((0, "best"), (1, "best-cc")):
        checkpoint.save(pet(seed), tmp_path / f"{name}.safetensors")
    sets = (DataSet(name="dft", data=("x",)), DataSet(name="ccsd", data=("y",), head="cc"))
    settings = TrainSettings(sets=sets, leaks="warn")
    data = argon(4, 1)
    found = [Source(one, argon(4, 1), data) for one in sets]
    result = TrainResult.of(settings, tmp_path, found, is_complete=False)
    one, other = result.arrays["dft_energy_predicted"], result.arrays["ccsd_energy_predicted"]
    assert not np.allclose(one, other)
    [answer] = predict(checkpoint.load(tmp_path / "best-cc.safetensors"), [data.atoms[2]])
    assert other[2] == pytest.approx(float(answer.energy) / 8, rel=1e-6)
    assert result.potential == tmp_path / "best.safetensors"
    titles = [fact.title for fact in result.facts()]
    assert "Set ccsd: validation set. Label coverage of 4 structures" in titles
    leaked = [fact for fact in result.tables if fact.title.startswith("Set dft: structures that are in the training")]
    assert [len(fact.rows) for fact in leaked] == [4]


def test_molecules_of_different_sizes_are_judged_together() -> None:
    atoms = [molecule("H2O"), molecule("CH4"), molecule("H2")]
    labels = [Properties(torch.tensor(float(k)), torch.zeros(len(one), 3)) for k, one in enumerate(atoms)]
    data = Dataset(atoms, labels, [f"m:{k}" for k in range(3)])
    found = judge(Gradient(LennardJones(0.1, 1.0, cutoff=3.0)), Source(DataSet(name="", data=("x",)), data, data), "")
    assert found.label["energy"].tolist() == [0, 1 / 5, 2 / 2]
    assert np.isnan(found.residuals.stress).all()
    assert [row[0] for row in cells(by_element([found])[0])["element"]] == ["H", "C", "O"]
