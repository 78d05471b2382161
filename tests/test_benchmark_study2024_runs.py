"""Experiments of the 2024 study: plans and budgets, simulations that are cut, ice, and what was published."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from study2024 import all as everything
from study2024 import command, published, record, runs
from study2024.b import run as b
from study2024.c import compare, walks
from study2024.c import facts as crystal
from study2024.c.picture import draw as draw_ice
from study2024.c.tables import page as ice_page
from study2024.m1 import run as m1
from study2024.m2 import facts as pointing
from study2024.m2 import run as m2

from analytic import lopsided, skewed_dimer
from tumble.descent import Descent
from tumble.jobs.md import MDSettings
from tumble.rotations import Rotations
from tumble.symmetry import symmetrize

SHARED = Path(__file__).resolve().parents[2] / "shared"


def say(*_: Any) -> None:
    """Where progress goes."""


# ------------------------------------------------------------------------------------------------------------ plans


def test_a_budget_is_divided_by_what_the_rest_costs():
    assert command.shares(90, [1, 0, 2]) == [30, 0, 60]
    assert command.shares(90, [0, 0]) == [0, 0]


def test_a_clock_without_budget_never_ends_and_one_for_a_report_has_ended():
    parser = command.parser("", minutes=5)
    words = ["data", "-o", "out"]
    assert 4.9 < command.clock(parser.parse_args(words)).left <= 5
    assert command.clock(parser.parse_args([*words, "--full"])).left == np.inf
    assert command.clock(parser.parse_args([*words, "--full", "--report"])).left == 0


def test_small_experiments_get_what_they_need_and_the_liquid_the_rest():
    needs = everything.NEEDS_minutes
    assert everything.plan(240, 2) == [needs, {"b": 240}]
    [small, rest] = everything.plan(400, 1)
    assert small == needs
    assert rest == {"b": 400 - sum(needs.values())}
    [small, rest] = everything.plan(100, 1)
    assert sum(small.values()) == pytest.approx(50)
    assert small["s1"] / small["c"] == pytest.approx(needs["s1"] / needs["c"])
    assert rest == {"b": pytest.approx(50)}
    assert everything.plan(10, 1, ["c"]) == [{"c": pytest.approx(10)}]
    assert everything.plan(10, 2, ["b"]) == [{"b": 10}]


def test_every_experiment_is_a_process_with_its_own_folder(monkeypatch, tmp_path):
    asked: list[list[str]] = []

    class Ended:
        def __init__(self, words: list[str]) -> None:
            asked.append(words)
            self.returncode = int("m1" in words[1])

    monkeypatch.setattr(everything.subprocess, "run", Ended)
    monkeypatch.setattr("sys.argv", ["all.py", "data", "-o", str(tmp_path), "--only", "c", "m1", "--report"])
    with pytest.raises(SystemExit, match=r"m1 did not end well; what they said is above"):
        everything.main()
    assert [Path(words[1]).parent.name for words in asked] == ["c", "m1"]
    assert all(Path(words[1]).exists() for words in asked)
    assert [words[4] for words in asked] == [str(tmp_path / "c"), str(tmp_path / "m1")]
    assert all("--report" in words and "--full" not in words for words in asked)


def test_a_folder_answers_one_question(tmp_path):
    command.same_question(tmp_path, {"rule": "O", "levels": ("0", "i")})
    command.same_question(tmp_path, {"rule": "O", "levels": ("0", "i")})
    with pytest.raises(ValueError, match=r"holds answers for \{'rule': 'O'\}, and \{'rule': 'T'\} is asked for now"):
        command.same_question(tmp_path, {"rule": "T", "levels": ("0", "i")})


def test_published_lengths_are_those_of_full_runs(tmp_path):
    names = [one.name for one in m2.simulations([], "O", full=True)]
    assert names == ["raw", "averaged", "cold"]
    times = {one.name: one.settings.time_ps for one in m2.simulations([], "O", full=False)}
    assert (times["raw"] - pointing.WARM_UP_ps) * m2.REPLICAS == pytest.approx(1000)  # 1 ns
    assert m1.simulations(tmp_path)[0].settings.time_ps == 25
    first, *rest = b.simulations(tmp_path, tmp_path, 64, "T", 2.0)
    assert first.settings.time_ps == 2
    assert {one.settings.time_ps for one in rest} == {500}
    assert [one.cost for one in rest] == pytest.approx([1, 2.2, 1])


# ------------------------------------------------------------------------------------------------------- simulations


def simulation(name: str, time_ps: float, cost: float = 1.0) -> runs.Simulation:
    settings = MDSettings(ensemble="nve", time_ps=time_ps, log_fs=1, frame_fs=1, control="no", timestep_fs=0.5)
    return runs.Simulation(name, settings, lambda: [Atoms("OH", [[0, 0, 0], [0, 0, 1.0]])], cost)


def test_simulations_go_on_and_are_left_alone_when_they_are_done(tmp_path):
    short, longer = simulation("a", 0.004), simulation("b", 0.006)
    assert short.left(tmp_path) == 0.004
    runs.advance([short, longer], skewed_dimer(), tmp_path, command.Clock(None), say)
    assert short.is_done(tmp_path)
    assert longer.done_ps(tmp_path) == pytest.approx(0.006)
    before = (tmp_path / "a" / "series.csv").read_bytes()
    runs.advance([simulation("a", 0.004), simulation("b", 0.01)], skewed_dimer(), tmp_path, command.Clock(None), say)
    assert (tmp_path / "a" / "series.csv").read_bytes() == before
    times = runs.series(tmp_path / "b")["time_ps"]
    assert np.allclose(times, 0.001 * np.arange(11))
    whole = tmp_path / "whole"
    runs.advance([simulation("b", 0.01)], skewed_dimer(), whole, command.Clock(None), say)
    for name in ("series.csv", "trajectory.extxyz"):
        assert (whole / "b" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_time_that_one_leaves_is_for_the_others(tmp_path, monkeypatch):
    clock, done, asked = command.Clock(9.0), {"a": 0.0, "b": 0.0}, []
    monkeypatch.setattr(runs.Simulation, "done_ps", lambda self, _: done[self.name])

    def pretend(one: runs.Simulation, _potential: Any, _folder: Path, minutes: float, _tell: Any) -> None:
        asked.append((one.name, round(minutes, 3)))
        clock.minutes -= 1.0 if one.name == "b" else minutes  # the second is faster than was thought
        done[one.name] += 1.0 if one.name == "b" else 0.1

    monkeypatch.setattr(runs, "_go_on", pretend)
    runs.advance([simulation("a", 1.0, 2.0), simulation("b", 1.0)], skewed_dimer(), tmp_path, clock, say)
    assert asked[:3] == [("a", 6.0), ("b", 3.0), ("a", 2.0)]


def test_a_simulation_that_was_killed_at_once_is_begun_again(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "series.csv").write_text("step,time_ps\n")
    runs.advance([simulation("a", 0.002)], skewed_dimer(), tmp_path, command.Clock(None), say)
    assert runs.last_time_ps(tmp_path / "a") == pytest.approx(0.002)


def test_no_time_runs_nothing_and_a_share_that_is_used_up_ends_a_simulation(tmp_path):
    runs.advance([simulation("a", 1.0)], skewed_dimer(), tmp_path, command.Clock(0.0), say)
    assert not (tmp_path / "a").exists()
    one = simulation("a", 1000.0)
    runs.advance([one], skewed_dimer(), tmp_path, command.Clock(runs.SHORTEST_MINUTES * 1.01), say)
    assert 0 < one.done_ps(tmp_path) < 1000
    assert not one.is_done(tmp_path)


def test_a_simulation_that_stops_early_stops_the_experiment(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "md", lambda *_, **__: None)
    with pytest.raises(SystemExit, match=r"was interrupted, or stopped by its watch\. The same command goes on"):
        runs.advance([simulation("a", 1.0)], skewed_dimer(), tmp_path, command.Clock(5.0), say)


def test_a_series_that_was_cut_off_is_read_up_to_there(tmp_path):
    assert runs.last_time_ps(tmp_path) == 0
    assert runs.series(tmp_path) == {}
    (tmp_path / "series.csv").write_text("step,time_ps,Lx\n0,0.0,\n10,0.005,2.5\n20,0.0")
    found = runs.series(tmp_path)
    assert found["time_ps"].tolist() == [0, 0.005]
    assert np.isnan(found["Lx"][0])
    assert runs.last_time_ps(tmp_path) == 0.005


# --------------------------------------------------------------------------------------------------------------- C


def test_orders_are_compared_without_the_shift_that_they_share():
    averaged = np.array([-1.0, -1.001, -1.002])
    orders = compare.Orders.of(averaged - 0.0005 + np.array([0.0001, -0.0001, 0]), averaged)
    assert orders.shift == pytest.approx(-0.5)
    assert orders.rmse == pytest.approx(0.1 * (2 / 3) ** 0.5)
    assert orders.mae == pytest.approx(0.2 / 3)
    assert orders.std == pytest.approx((2 / 3) ** 0.5)
    assert orders.spread == pytest.approx(2)


def test_cells_in_frames_of_their_own_scatter_as_much_as_one_cell_over_frames():
    random = np.random.default_rng(0)
    frames = random.normal(scale=0.001, size=(4000, 1)) * np.ones(3)  # all cells feel a frame in the same way
    found = compare.Frames.of(frames, np.zeros(3))
    assert found.rmse_common == pytest.approx(0, abs=1e-12)
    assert found.shift_std == pytest.approx(1, rel=0.05)
    assert found.rmse_apart == pytest.approx((2 / 3) ** 0.5, rel=0.05)  # about the mean of three
    drawn = np.array([[frames[random.integers(4000), cell] for cell in range(3)] for _ in range(4000)])
    off = 1000 * (drawn - drawn.mean(1, keepdims=True))
    assert found.rmse_apart == pytest.approx(np.sqrt((off**2).mean()), rel=0.05)


def test_forces_and_geometries_are_compared_by_roots_of_means():
    pushes = compare.Pushes.of([np.full((2, 3), 0.003)], [np.zeros((2, 3))])
    assert (pushes.rmse, pushes.mae) == pytest.approx((3, 3))
    assert pushes.rmse_vector == pytest.approx(3 * 3**0.5)
    x = np.random.default_rng(1).normal(size=(5, 3))
    assert compare.apart(x + np.arange(3), x) == pytest.approx(0, abs=1e-12)


@pytest.fixture
def ice(tmp_path) -> walks.Ice:
    """Two cells of a molecule each, that a pair potential without symmetry is asked about."""
    cells = {}
    for cell in (2, 3):
        cells[cell] = Atoms("OHH", [[0, 0, 0], [1.1, 0.2 * cell, 0], [-0.4, 0.2, 1.2]], cell=[8] * 3, pbc=True)
        cells[cell].info = {"E_pet_direct_relaxed": -1.0 * cell, "E_pet_2i_relaxed": -1.01 * cell}
    raw = lopsided()
    settings = Descent(fmax=0.05, optimizer="lbfgs", steps=5)
    return walks.Ice(tmp_path, cells, raw, symmetrize(raw, "T"), settings)


def test_cells_are_complete_one_after_the_other(ice):
    plan = [task for task, _ in walks.tasks(ice.cells, 12)]
    assert [task.what for task in plan[:3]] == ["raw", "start", "averaged"]
    assert [task.cell for task in plan] == [2] * 6 + [3] * 6
    assert len({task.file for task in plan}) == len(plan)
    large = {2: ice.cells[2].repeat(2), 3: ice.cells[3]}
    assert next(walks.tasks(large, 12))[0].cell == 3


def test_a_walk_that_was_killed_is_begun_again_and_nothing_else(ice, monkeypatch):
    plain, asked = walks.descend, []

    def killed(*given: Any, **more: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return plain(*given, **more)

    monkeypatch.setattr(walks, "descend", killed)
    with pytest.raises(KeyboardInterrupt):
        ice.run(12, command.Clock(None), say)
    assert sorted(path.name for path in ice.folder.iterdir()) == ["02-raw.extxyz", "02-start.npz"]
    assert ice.complete() == []
    ice.run(12, command.Clock(None), say)
    assert ice.complete() == [2, 3]
    assert len(asked) == 2 + 7  # eight walks, of which one was kept and one killed
    ice.run(12, command.Clock(None), say)
    assert len(asked) == 9
    ice.run(12, command.Clock(0.0), say)


def test_a_cell_is_turned_with_its_lattice_and_back(ice):
    turn = Rotations.random(1, seed=3).matrices[0].numpy()
    there = walks.turned(ice.cells[2], turn)
    assert np.allclose(there.cell.array, 8 * turn.T)
    assert np.allclose(there.get_all_distances(mic=True), ice.cells[2].get_all_distances(mic=True))
    assert np.allclose(walks.turned(there, turn.T).positions, ice.cells[2].positions)


def test_the_page_of_c_has_ours_beside_the_published(ice, tmp_path):
    ice.run(12, command.Clock(None), say)
    found = crystal.Found.of(ice, [2, 3], ice.cells)
    assert found.orders["theirs"].std == pytest.approx(1000 * 1.01 / 2)
    assert found.distances["theirs from given"] == 0
    assert found.frames.shape == (walks.N_FRAMES, 2)
    text = "\n".join(ice_page("head", found, {"fmax": 0.05, "average": "T"}, "x.png"))
    assert "| 0.00666 |" in text
    assert "| 0.964 |" in text
    draw_ice(found, tmp_path / "x.png")
    json.dumps(record.plain(crystal.facts(found)))


# ----------------------------------------------------------------------------------------------------------- records


def test_numbers_carry_the_digits_that_their_errors_know():
    assert record.with_error(12.3456, 0.234) == "12.35 ± 0.23"
    assert record.with_error(1234.5, 56.7) == "1234 ± 57"
    assert record.with_error(1.5, float("nan")) == "1.5"
    assert record.short(0.0000123456) == "0.0000123"
    assert record.short(None) is None
    assert record.plain({"a": np.array([1.0, np.nan]), "b": np.int64(3)}) == {"a": [1.0, None], "b": 3}


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    path = SHARED / "reference" / "study2024.json"
    if not path.exists():
        pytest.skip("the published values are not here")
    return {row["name"]: row["value"] for row in json.loads(path.read_text())}


def test_published_numbers_of_dynamics_and_ice_are_those_of_the_collection(reference):
    for level, value in published.TORQUE_meV.items():
        assert value == reference[f"molNVE.torque_rms.{level}"]
    names = {"molecule raw": "mol_pet", "molecule averaged": "mol_2i"}
    names |= {"bulk raw": "bulk_pet", "bulk averaged": "bulk_2i", "bulk turned": "bulk_rnd"}
    for ours, theirs in names.items():
        for key, value in published.FREE_ENERGY_kT[ours].items():
            assert value == reference[f"FES.{theirs}.{'l1_amplitude' if key == 'l1' else key}"]
    for ours, theirs in (("raw", "PET"), ("averaged", "PET_MTS"), ("turned", "PET_rnd")):
        assert published.DRIFT_meV_per_H2O_per_ns[ours] == pytest.approx(1e6 * reference[f"drift.{theirs}"])
    for where, values in published.G_OO.items():
        first, kind = where.split()
        assert list(values) == reference[f"bulk.gOO.{first}_{kind[:3]}"]
    for t, value in published.C_UU.items():
        assert value == reference[f"bulk.cuu_t.t{t:g}ps"]
    for t, value in published.MSD_O_A2.items():
        assert value == reference[f"bulk.MSD_O.t{t:g}ps"]
    for name, curve in (("cuuL", published.C_LONGITUDINAL), ("cuuT", published.C_TRANSVERSE)):
        for r, value in curve.items():
            assert value == reference[f"bulk.{name}.r{r:.1f}"]
    assert list(published.L1_RUN_kT) == reference["FES.mol_pet.l1_vector"]
    assert list(published.L1_STATIC_kT) == reference["mol.Erot_l1_vector_kT300"]
    ice = {"std": "std_over_proton_orders.2i", "std_raw": "std_over_proton_orders.direct"}
    ice |= {"spread": "range_over_proton_orders.2i", "rmse": "relative_energy.RMSE", "mae": "relative_energy.MAE"}
    ice |= {"shift": "absolute_shift.mean", "pearson": "correlation_direct_2i"}
    assert {key: reference[f"ice.{name}"] for key, name in ice.items()} == published.ICE
