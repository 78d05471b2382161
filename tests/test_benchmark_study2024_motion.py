"""Experiments M1, M2 and B of the 2024 study: molecules that turn and point, the liquid; analyses in closed form."""

import json
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from study2024 import command, record, runs
from study2024.b import facts as liquid
from study2024.b import run as b
from study2024.b.picture import draw as draw_liquid
from study2024.b.tables import page as liquid_page
from study2024.m1 import facts as turning
from study2024.m1 import run as m1
from study2024.m1.picture import draw as draw_turning
from study2024.m1.tables import page as turning_page
from study2024.m2 import facts as pointing
from study2024.m2 import orientation
from study2024.m2 import run as m2
from study2024.m2.picture import draw as draw_pointing
from study2024.m2.tables import page as pointing_page

from analytic import lopsided, skewed_dimer
from tumble.jobs.md import MDSettings
from tumble.packs import predict
from tumble.rotations import Rotations
from tumble.trajectories import Radial, Trajectory, Vector
from tumble.units import BOLTZMANN


def say(*_: Any) -> None:
    """Where progress goes."""


# -------------------------------------------------------------------------------------------------------------- M1


def test_the_angular_momentum_of_a_precession_has_its_angle():
    t = np.linspace(0, 10, 101)
    columns = {"time_ps": t, "Lx": np.cos(0.1 * t), "Ly": np.sin(0.1 * t), "Lz": 0 * t, "conserved_eV": 3e-6 * t - 5}
    found = turning.turning(columns)
    assert found.angle[-1] == pytest.approx(np.degrees(1.0))
    assert found.drift.rate == pytest.approx(1.0, rel=1e-6)  # 3e-6 eV/ps over three atoms


def test_the_torque_of_a_skewed_bond_is_that_of_its_angle():
    # E = ε cos²θ; its derivative by θ is -ε sin 2θ, and rules of degree two leave nothing.
    bond = Atoms("HO", [[0, 0, 0], [np.sin(0.4), 0, np.cos(0.4)]])
    found = turning.torque_of_levels(skewed_dimer(0.3), [bond, bond])
    assert found["0"] == pytest.approx(300 * np.sin(0.8))
    assert found["i"] == pytest.approx(300 * np.sin(0.8))
    assert all(found[level] < 1e-9 for level in ("2", "2i", "3", "3i"))


def test_spectra_have_their_lines_where_they_oscillate():
    t = 0.002 * np.arange(5000)
    found = turning.spectra(0.01 * np.cos(2 * np.pi * 110 * t), 0.001 * np.cos(2 * np.pi * 5 * t), 0.002)
    assert found.frequencies_THz[found.potential.argmax()] == pytest.approx(110, abs=0.6)
    assert found.frequencies_THz[found.difference.argmax()] == pytest.approx(5, abs=0.6)
    low = found.below(1000)  # cm⁻¹, 30 THz
    assert low[0] < 0.01
    assert low[1] > 0.99
    assert found.potential_std == pytest.approx(10 / 2**0.5, rel=1e-3)


def test_energies_along_a_run_are_asked_once(tmp_path, monkeypatch):
    asked: list[int] = []
    plain = turning.ask
    monkeypatch.setattr(turning, "ask", lambda *given: (asked.append(len(given[1])), plain(*given))[1])
    frames = [Atoms("HO", [[0, 0, 0], [np.sin(x), 0, np.cos(x)]]) for x in np.linspace(0, 1, 5)]
    path = tmp_path / "difference.npz"
    turning._energies(skewed_dimer(0.3), frames[:3], path)
    raw, difference = turning._energies(skewed_dimer(0.3), frames, path)
    assert asked == [3, 2]
    assert np.allclose(difference + raw, 0.1, atol=1e-9)  # ε / 3, the mean


def test_the_page_of_m1_has_ours_beside_the_published(tmp_path):
    ase.io.write(tmp_path / "molecule.extxyz", water(np.eye(3)))
    plan = m1.simulations(tmp_path, time_ps=0.04)
    runs.advance(plan, skewed_dimer(), tmp_path, command.Clock(None), say)
    found = turning.Found.of(skewed_dimer(), plan, tmp_path)
    assert list(found.runs) == ["raw", "averaged"]
    assert np.allclose(found.runs["raw"].momentum[0], found.runs["averaged"].momentum[0])
    assert found.torques["0"] > 10 * found.torques["3i"]
    text = "\n".join(turning_page("head", found, "x.png"))
    assert "| 5.45 |" in text
    assert "| 3.27 |" in text
    draw_turning(found, tmp_path / "x.png")
    json.dumps(record.plain(turning.facts(found)))


# -------------------------------------------------------------------------------------------------------------- M2


def water(turn: np.ndarray) -> Atoms:
    """A molecule of 0.97 Å bonds, in an orientation."""
    return Atoms("OHH", np.array([[0, 0, 0], [0.76, 0, 0.6], [-0.76, 0, 0.6]]) @ turn.T)


def test_a_molecule_points_from_oxygen_to_between_its_hydrogens():
    assert np.allclose(orientation.directions(water(np.eye(3)).positions), [0, 0, 1])


def test_a_torque_is_about_the_centre_of_mass():
    atoms = water(np.eye(3))
    push = np.tile([1.0, 0, 0], (3, 1)) * atoms.get_masses()[:, None]  # moves it and does not turn it
    assert np.allclose(orientation.torques(atoms.positions, push, atoms.get_masses()), 0, atol=1e-12)


def test_counting_torques_energies_and_the_orbit_agree_for_a_boltzmann_distribution():
    # Molecules at random, kept as often as their energy says.
    potential, kT = lopsided(), 0.5
    turns = Rotations.random(1200, seed=1).matrices.numpy()
    molecules = [water(turn) for turn in turns]
    energies = np.array([float(one.energy) for one in predict(potential, molecules)])
    chance = np.exp(-(energies - energies.min()) / kT)
    kept = [one for one, c, x in zip(molecules, chance, np.random.default_rng(2).random(1200), strict=True) if x < c]
    assert len(kept) > 200
    replicas = [kept[k::25] for k in range(25)]
    temperature = kT / BOLTZMANN
    found = orientation.moved(potential, "none", "o3:5", replicas, temperature)
    predicted = orientation.static(potential, kept[:2], temperature)
    assert predicted.vector.amplitude > 0.2
    for vector in (found.counted, found.torques, found.energies):
        apart = np.abs(vector.value - predicted.vector.value)
        assert np.all(apart < 4 * vector.error + 1e-3), vector


def test_the_page_of_m2_has_ours_beside_the_published(tmp_path, monkeypatch):
    monkeypatch.setattr(pointing, "GEOMETRIES", 3)
    turns = Rotations.random(12, seed=4).matrices.numpy()
    frames = [water(turn) for turn in turns]
    for k, frame in enumerate(frames):
        frame.info = {"time_ps": 0.3 + 0.05 * (k // 3), "structure": k % 3}
    (tmp_path / "raw").mkdir()
    ase.io.write(tmp_path / "raw" / "trajectory.extxyz", frames)
    assert [len(replica) for replica in pointing.frames(tmp_path / "raw")] == [3, 3, 3]  # the first is warm-up
    assert pointing.frames(tmp_path / "averaged") == []
    plan = m2.simulations([], "T", full=False, replicas=3)
    found = pointing.Found.of(lopsided(), frames[:2], plan, tmp_path)
    assert list(found.runs) == ["raw"]
    assert found.runs["raw"].ns == pytest.approx(9 * 50e-6)
    text = "\n".join(pointing_page("head", found, {"replicas": 3, "average": "T"}, "x.png"))
    assert "| static prediction | +0.108 | -0.003 | +0.046 | 0.1174 |  |" in text
    draw_pointing(found, tmp_path / "x.png")
    json.dumps(record.plain(pointing.facts(found)))


def test_a_distance_is_a_share_of_the_prediction():
    some = Vector(np.array([1.0, 0.3, 0]), np.array([0.03, 0, 0.04]), 9)
    other = Vector(np.array([1.0, 0, 0]), np.zeros(3), 9)
    assert orientation.distance(some, other) == pytest.approx((0.3, 0.05))


def test_replicas_begin_in_orientations_of_their_own():
    begun = m2.begin([molecule("H2O"), molecule("H2O")], 8)
    u = orientation.directions(np.array([one.positions for one in begun]))
    assert np.linalg.matrix_rank(u - u[0]) == 3
    assert not begun[0].pbc.any()
    assert np.allclose(begun[3].get_center_of_mass(), 0, atol=1e-9)


# --------------------------------------------------------------------------------------------------------------- B


def test_a_box_keeps_its_molecules_whole_and_moves_their_centres():
    atoms = Atoms("OHH" * 2, cell=[10] * 3, pbc=True)
    one = np.array([[0, 0, 0], [0.76, 0, 0.6], [-0.76, 0, 0.6]])
    atoms.positions = np.concatenate([one, one + np.array([5, 5, 9.9])])
    split = atoms.copy()
    split.wrap()
    found = b.box(split, 11.0)
    assert np.allclose(found.cell.lengths(), 11)
    assert np.allclose(found.positions[4:] - found.positions[3], one[1:])
    assert np.allclose(found.positions[3] - found.positions[0], [5.5, 5.5, 10.89])


def test_what_turning_heats_follows_from_the_scatter_of_forces():
    # E = ε cos²θ about a bond of 1 Å: the force across it has the mean square 4 ε² ⟨cos² sin²⟩ = 8 ε²/15 on each atom.
    bond = Trajectory(
        name="bond",
        numbers=np.array([8, 8]),
        masses=np.array([16.0, 16.0]),
        pbc=np.array([False] * 3),
        times_ps=np.array([0.0]),
        positions=np.array([[[0, 0, 0], [0, 0, 1.0]]]),
        cells=np.zeros((1, 3, 3)),
    )
    found = liquid.heating(skewed_dimer(0.3), bond, 0.5)
    assert found.forces == pytest.approx(1000 * np.sqrt(8 * 0.09 / 15 / 3), rel=0.3)  # over 24 orientations
    # One eV/Å on one amu for one fs: 0.00965 Å/fs... as energy (F Δt)²/2m, per molecule of one oxygen.
    force = found.forces * 3**0.5 / 1000
    per_step = (force * 0.5 * 0.0096485332) ** 2 / (2 * 16) / 0.0096485332  # amu Å²/fs² → eV
    assert found.rate == pytest.approx(1000 * per_step / 0.5 * 1e6, rel=1e-4)


def test_the_drift_of_a_random_walk_has_the_error_of_the_walk():
    random, t = np.random.default_rng(5), 0.005 * np.arange(2000)
    walks = [liquid.walked(t, 2.0 * t + np.cumsum(random.normal(size=2000))) for _ in range(200)]
    rates, errors = np.array([(one.rate, one.error) for one in walks]).T
    assert rates.mean() == pytest.approx(2.0, abs=4 * rates.std() / 200**0.5)
    assert np.sqrt((errors**2).mean()) == pytest.approx(rates.std(), rel=0.2)


def test_extremes_of_a_curve_are_named_in_their_order():
    r = np.linspace(0, 8, 201)
    pairs = Radial(r, 1 + np.cos(2 * np.pi * (r - 2.8) / 1.6), np.full(201, 0.01))
    found = liquid.extremes(pairs)
    assert found["first maximum"].r == pytest.approx(2.8, abs=0.03)
    assert found["first minimum"].r == pytest.approx(3.6, abs=0.03)
    assert found["second maximum"].g == pytest.approx(2, abs=0.01)


def test_a_curve_has_no_value_beyond_its_end():
    x, y = np.array([0.0, 1.0]), np.array([0.0, 2.0])
    assert liquid.at(0.5, x, y, y / 2) == (1.0, 0.5)
    assert liquid.at(1.5, x, y, y) is None


def test_the_report_of_the_liquid_says_what_there_is(tmp_path):
    atoms = b.box(Atoms("OHH" * 8, positions=_lattice(), cell=[6.2] * 3, pbc=True), 6.2)
    random = np.random.default_rng(0)
    folder = tmp_path / "raw"
    folder.mkdir()
    frames, lines = [], ["step,time_ps,conserved_eV,temperature_K"]
    for k in range(60):
        frame = atoms.copy()
        frame.positions += random.normal(scale=0.02, size=(24, 3)) + 0.001 * k
        frame.info = {"time_ps": 0.05 * k, "step": 100 * k}
        frames.append(frame)
        lines.append(f"{100 * k},{0.05 * k!r},{1 + 8e-6 * 0.05 * k!r},300.0")
    ase.io.write(folder / "trajectory.extxyz", frames)
    (folder / "series.csv").write_text("\n".join(lines) + "\n")
    one = runs.Simulation("raw", MDSettings(time_ps=500.0), list, 1.0)
    found = liquid.Found.of(lopsided(), [one], tmp_path)
    assert found.n_molecules == 8
    assert found.runs["raw"].drift.rate == pytest.approx(1.0, rel=1e-6)  # 8e-6 eV/ps over eight molecules
    text = "\n".join(liquid_page("head", found, {"average": "T"}, "x.png"))
    assert "| 1.99 |" in text
    draw_liquid(found, tmp_path / "x.png")
    json.dumps(record.plain(liquid.facts(found)))


def _lattice() -> np.ndarray:
    one = np.array([[0, 0, 0], [0.76, 0, 0.6], [-0.76, 0, 0.6]])
    return np.concatenate([one + 3.1 * np.array(k) for k in np.ndindex(2, 2, 2)])
