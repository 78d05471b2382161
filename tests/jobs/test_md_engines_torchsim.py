"""Many structures side by side: closed forms, the same steps as alone and as with ASE, restarts, refusals."""

import re
import sys
import types
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.units import fs

import tumble
from analytic import lopsided
from tumble.bridges.torchsim.engine import imported
from tumble.jobs.md import choice
from tumble.jobs.md.desk import Desk, read_series
from tumble.jobs.md.engines.torchsim import Moment, Replicas, run
from tumble.jobs.md.motion import Motion, start
from tumble.jobs.md.settings import MDSettings
from tumble.models.pair import LennardJones, Morse
from tumble.models.pet import LLPR, PET
from tumble.potential import Gradient, collate_for
from tumble.symmetry import symmetrize
from tumble.units import BOLTZMANN

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"`(torch\.jit\.\w+|vesin\.torch)` is deprecated")
    pytest.importorskip("torch_sim", reason="needs torch-sim: pip install 'tumble[torchsim]'")

pytestmark = pytest.mark.engine

ARGON = Gradient(LennardJones(0.0104, 3.4, cutoff=7.0, onset=5.0))


def asked(**changes) -> MDSettings:
    usual = {
        "engine": "torchsim",
        "ensemble": "nve",
        "thermostat": "langevin",
        "temperature_K": 40.0,
        "timestep_fs": 4.0,
    }
    return MDSettings(**usual | changes)


def crystals(n: int = 2) -> list[Atoms]:
    """Crystals of argon, every other one with a vacancy, each with its own velocities."""
    found = []
    for k in range(n):
        atoms = bulk("Ar", "fcc", a=5.3, cubic=True).repeat(2)
        found.append(start(atoms[k % 2 :], asked(seed=k)))
    return found


def dimers() -> list[Atoms]:
    """Two dimers of different masses, stretched a little, at rest."""
    return [Atoms(pair, [[0, 0, 0], [1.2 + stretch, 0, 0]]) for pair, stretch in (("OO", 1e-4), ("HO", 2e-4))]


def together(potential, structures, settings, n: int, steps: tuple[int, ...] = ()) -> Replicas:
    replicas = Replicas(potential, structures, settings, steps)
    for _ in range(n):
        replicas.advance()
    return replicas


# --------------------------------------------------------------------------------------------------------- closed forms


def test_dimers_vibrate_with_the_frequency_of_verlets_scheme():
    depth, steepness = 2.0, 1.5
    settings, pairs = asked(timestep_fs=0.5), dimers()
    replicas = Replicas(Gradient(Morse(depth, 1.2, 1.2 * steepness, cutoff=6.0)), pairs, settings)
    lengths = []
    for _ in range(60):
        replicas.advance()
        lengths.append([one.get_distance(0, 1) - 1.2 for one in replicas.frames()])
    for k, (atoms, amplitude) in enumerate(zip(pairs, (1e-4, 2e-4), strict=True)):
        reduced = 1 / (1 / atoms.get_masses()).sum()
        half = np.sqrt(2 * depth * steepness**2 / reduced) * 0.5 * fs / 2
        expected = amplitude * np.cos(2 * np.arcsin(half) * np.arange(1, 61))
        np.testing.assert_allclose(np.array(lengths)[:, k], expected, atol=amplitude * 2e-2)


def test_energy_errs_with_the_square_of_the_time_step():
    errors = []
    for timestep in (8.0, 4.0):
        settings, found = asked(timestep_fs=timestep), []
        replicas = Replicas(ARGON, crystals(), settings)
        for _ in range(int(320 / timestep)):
            replicas.advance()
            now = Moment.of(replicas, settings)
            found.append(now.potential_eV + now.kinetic_eV)
        errors.append(np.ptp(found, axis=0))
    assert (errors[1] < 1e-4).all()
    np.testing.assert_allclose(errors[0] / errors[1], 4.0, rtol=0.25)


def test_free_atoms_are_given_just_the_heat_that_they_have():
    settings = asked(ensemble="nvt", thermostat_fs=50.0, temperature_K=300.0)
    atoms = [Atoms("Ar", positions=[[0.0, 0.0, k]], momenta=[[1.0, 0.0, 0.0]]) for k in range(400)]
    replicas = together(ARGON, atoms, settings, 100)
    now = Moment.of(replicas, settings)
    np.testing.assert_allclose(now.kinetic_eV - now.heat_eV, 0.5 / atoms[0].get_masses()[0], atol=1e-12)
    assert now.mean().temperature_K == pytest.approx(300.0, abs=3.5 * 300 * np.sqrt(2 / 1200))
    assert now.mean().conserved_eV == pytest.approx(0.5 / atoms[0].get_masses()[0], abs=1e-12)


def test_friction_alone_slows_down_exponentially():
    settings = asked(ensemble="nvt", thermostat_fs=50.0, temperature_K=1e-15)
    replicas = together(ARGON, [Atoms("Ar", momenta=[[1.0, 2.0, -3.0]])], settings, 10)
    np.testing.assert_allclose(replicas.momenta, [np.exp(-40 / 50) * np.array([1.0, 2.0, -3.0])], atol=1e-6)


def test_langevin_keeps_the_temperature_of_a_crystal_and_accounts_for_its_heat():
    settings = asked(ensemble="nvt", thermostat_fs=200.0, timestep_fs=8.0)
    replicas, found = Replicas(ARGON, crystals(6), settings), []
    for step in range(260):
        replicas.advance()
        if step >= 60 and step % 4 == 0:
            found.append(Moment.of(replicas, settings).mean())
    temperatures = np.array([one.temperature_K for one in found])
    assert temperatures.mean() == pytest.approx(40.0, abs=2.5)
    assert np.ptp([one.heat_eV for one in found]) > 20 * np.ptp([one.conserved_eV for one in found])


# ---------------------------------------------------------------------------------------------------------------- steps


def test_a_structure_moves_alone_as_it_moves_in_company():
    company, settings = crystals(3), asked()
    alone = together(ARGON, company[1:2], settings, 30)
    among = together(ARGON, company, settings, 30)
    chosen = among.structure == 1
    np.testing.assert_allclose(alone.positions, among.positions[chosen], rtol=0, atol=1e-12)
    np.testing.assert_allclose(alone.momenta, among.momenta[chosen], rtol=0, atol=1e-12)


def test_it_moves_as_with_ase_in_one_two_or_three_directions_and_never_wraps():
    slab = fcc111("Ar", (2, 2, 2), a=5.3, vacuum=6.0)
    slab.positions += [0.0, 0.0, 7.0]  # beyond the cell
    triclinic = bulk("Ar", "hcp", a=3.7)
    both, settings = [start(one, asked(seed=3)) for one in (slab, triclinic)], asked()
    replicas = together(ARGON, both, settings, 20)
    now = Moment.of(replicas, settings)
    for k, one in enumerate(both):
        motion = Motion.of(ARGON, one, asked(engine="ase"))
        for _ in range(20):
            motion.advance()
        moved, then, other = replicas.frames()[k], motion.now(), now.at(k)
        np.testing.assert_allclose(moved.positions, motion.atoms.positions, rtol=0, atol=1e-10)
        np.testing.assert_allclose(moved.get_momenta(), motion.atoms.get_momenta(), rtol=0, atol=1e-10)
        for name in then._fields:
            expected = getattr(then, name)
            assert getattr(other, name) == (expected if expected is None else pytest.approx(expected, abs=1e-8)), name


def test_levels_that_agree_change_nothing():
    settings, structures = asked(), crystals()
    plain = together(ARGON, structures, settings, 24)
    split = together(symmetrize(ARGON, "T"), structures, settings, 6, (4,))
    assert (split.n_steps, split.stride) == (24, 4)
    np.testing.assert_allclose(split.positions, plain.positions, rtol=0, atol=1e-11)
    np.testing.assert_allclose(split.momenta, plain.momenta, rtol=0, atol=1e-11)


def test_several_time_steps_are_those_of_ase():
    atoms = start(molecule("H2O"), asked(temperature_K=300.0))
    averaged, settings = symmetrize(lopsided(), "T"), asked(timestep_fs=0.25)
    replicas = together(averaged, [atoms, atoms], settings, 8, (5,))
    motion = Motion.of(averaged, atoms, asked(engine="ase", timestep_fs=0.25), (5,))
    for _ in range(8):
        motion.advance()
    now = Moment.of(replicas, settings)
    for k in (0, 1):
        np.testing.assert_allclose(replicas.frames()[k].positions, motion.atoms.positions, rtol=0, atol=1e-10)
        assert now.at(k).conserved_eV == pytest.approx(motion.now().conserved_eV, abs=1e-10)
    assert abs(float((replicas.answer.energy - Replicas(lopsided(), [atoms, atoms], settings).answer.energy)[0])) > 1e-3


def test_three_levels_share_one_set_of_weights():
    torch.manual_seed(0)
    width = {"d_pet": 8, "d_head": 8, "d_node": 8, "d_feedforward": 8, "num_heads": 2, "num_attention_layers": 1}
    model = PET((1, 8), width | {"cutoff": 3.5, "direct_forces": True}).double()
    averaged, settings = symmetrize(Gradient(model), "i"), asked(timestep_fs=0.25)
    atoms = start(molecule("H2O"), asked(temperature_K=300.0))
    replicas = together(averaged, [atoms], settings, 3, (2, 3))
    motion = Motion.of(averaged, atoms, asked(engine="ase", timestep_fs=0.25), (2, 3))
    for _ in range(3):
        motion.advance()
    assert [type(one).__name__ for one in replicas.potentials] == ["Direct", "Gradient", "Symmetrized"]
    assert replicas.n_steps == 18
    assert not replicas.potentials[-1].prune  # a search for symmetry at every step would cost more than it saves
    np.testing.assert_allclose(replicas.positions, motion.atoms.positions, rtol=0, atol=1e-11)


def test_positions_and_momenta_are_in_double_precision_with_a_potential_in_single():
    water, settings = tumble.load("water"), asked(timestep_fs=0.25)
    atoms = start(molecule("H2O"), asked(temperature_K=300.0))
    replicas = together(water, [atoms, atoms], settings, 20)
    assert water.dtype == torch.float32
    assert replicas.positions.dtype == replicas.momenta.dtype == np.float64
    now = Moment.of(replicas, settings)
    assert np.abs(now.momentum).max() < 1e-5
    first = Moment.of(Replicas(water, [atoms, atoms], settings), settings).mean().conserved_eV
    assert abs(now.mean().conserved_eV - first) < 1e-3
    moved = replicas.positions - np.tile(atoms.positions, (2, 1))
    assert np.abs(moved - moved.astype(np.float32)).max() > 0


def test_later_integrators_are_called_as_they_want(monkeypatch):
    engine = imported()
    own = engine.integrators
    later = types.SimpleNamespace(
        MDState=own.MDState,
        nve_step=lambda *, model, state, dt: own.nve(model, dt=dt, kT=dt)[1](state),
        nvt_langevin_step=lambda *, model, state, dt, kT, gamma: own.nvt_langevin(model, dt=dt, kT=kT, gamma=gamma)[1](
            state
        ),
    )
    for ensemble in ("nve", "nvt"):
        now = together(ARGON, crystals(), asked(ensemble=ensemble), 3)
        with monkeypatch.context() as patch:
            patch.setattr(engine, "integrators", later)
            then = together(ARGON, crystals(), asked(ensemble=ensemble), 3)
        np.testing.assert_array_equal(now.positions, then.positions)


# -------------------------------------------------------------------------------------------------------------- moments


def test_averages_are_over_the_structures_that_have_something_to_average():
    mixed = [start(molecule("H2O"), asked()), start(bulk("Ar", "fcc", a=5.3, cubic=True), asked())]
    potential = Gradient(LennardJones(0.01, 2.0, cutoff=5.0))
    now = Moment.of(Replicas(potential, mixed, asked()), asked())
    mean, water, argon = now.mean(), now.at(0), now.at(1)
    assert set(water.temperatures_K) == {"H", "O"}
    assert set(mean.temperatures_K) == {"H", "O", "Ar"}
    assert mean.temperatures_K["H"] == water.temperatures_K["H"]
    assert mean.kinetic_eV == pytest.approx((water.kinetic_eV + argon.kinetic_eV) / 2)
    assert (water.volume_A3, mean.volume_A3, mean.pressure_GPa) == (None, None, None)
    assert argon.volume_A3 == pytest.approx(5.3**3)
    ideal = 2 * argon.kinetic_eV / 3 / argon.volume_A3
    assert argon.pressure_GPa is not None
    assert argon.temperature_K == pytest.approx(2 * argon.kinetic_eV / (9 * BOLTZMANN))
    assert ideal > 0


# -------------------------------------------------------------------------------------------------------------- on disk

SUBJECT = {"name": "argon", "made_of": "Lennard-Jones"}


def on_desk(folder: Path, structures, settings, potential=ARGON, *, resume=False, tell=lambda progress: None):
    with Desk(folder, structures, settings, SUBJECT, resume=resume) as desk:
        return run(potential, structures, settings, desk, tell), desk


def bare(n: int = 3) -> list[Atoms]:
    return [bulk("Ar", "fcc", a=5.3, cubic=True) for _ in range(n)]


def test_a_run_leaves_averages_and_frames_of_every_structure(tmp_path):
    settings, told = asked(ensemble="nvt", time_ps=0.08, log_fs=16, frame_fs=40, seed=7), []
    ended, desk = on_desk(tmp_path / "a", bare(), settings, tell=told.append)
    assert (ended.ended, ended.reason, ended.effort.steps, ended.effort.calls) == ("arrived", "", 20, [20])
    series = read_series(desk.series_path)
    np.testing.assert_allclose(series["time_ps"], [0.0, 0.016, 0.032, 0.048, 0.064, 0.08])
    np.testing.assert_allclose(series["conserved_eV"], series["conserved_eV"][0], atol=2e-4)
    frames = ase.io.read(tmp_path / "a" / "trajectory.extxyz", ":")
    assert [one.info["structure"] for one in frames] == [0, 1, 2] * 3
    last = frames[-3:]
    assert np.mean([one.get_kinetic_energy() for one in last]) == pytest.approx(series["kinetic_eV"][-1], abs=1e-7)
    assert np.mean([one.info["potential_eV"] for one in last]) == pytest.approx(series["potential_eV"][-1], abs=1e-7)
    assert not np.allclose(last[0].get_momenta(), last[1].get_momenta())
    assert told[-1].done == told[-1].total == 20
    assert "ns/day of 3 structures together" in told[-1].message
    first = start(bare()[0], settings.model_copy(update={"seed": 8}))
    np.testing.assert_allclose(frames[1].get_momenta(), first.get_momenta(), atol=1e-7)


@pytest.mark.parametrize("mts", ["none", "2"])
def test_stopped_and_resumed_the_files_have_the_same_bytes(tmp_path, mts):
    potential = symmetrize(ARGON, "i") if mts != "none" else ARGON
    settings = asked(ensemble="nvt", time_ps=0.08, log_fs=8, frame_fs=24, mts=mts)
    on_desk(tmp_path / "whole", bare(), settings, potential)
    hurried = settings.model_copy(update={"max_minutes": 1e-9})
    ended, _ = on_desk(tmp_path / "parts", bare(), settings.model_copy(update={"time_ps": 0.04}), potential)
    assert ended.ended == "arrived"
    ended, _ = on_desk(tmp_path / "parts", bare(), hurried, potential, resume=True)
    assert ended.ended == "out of time"
    ended, _ = on_desk(tmp_path / "parts", bare(), settings, potential, resume=True)
    assert ended.ended == "arrived"
    for name in ("series.csv", "trajectory.extxyz"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_a_restart_forgets_nothing_even_of_the_noise():
    settings = asked(ensemble="nvt")
    whole = together(ARGON, crystals(), settings, 20)
    half = together(ARGON, crystals(), settings, 10)
    again = Replicas(ARGON, crystals(), settings)
    torch.manual_seed(1)
    outside = torch.get_rng_state()
    again.restore(half.state())
    for _ in range(10):
        again.advance()
    assert torch.equal(torch.get_rng_state(), outside)
    for name, value in whole.state().items():
        np.testing.assert_array_equal(value, again.state()[name], err_msg=name)


def test_auto_asks_once_about_the_first_structure_and_remembers(tmp_path, monkeypatch):
    calls = []

    def choose(potential, atoms, settings, tell):
        calls.append(len(atoms))
        return types.SimpleNamespace(steps=(2,))

    monkeypatch.setattr(choice, "choose", choose)
    settings, averaged = asked(time_ps=0.016, mts="auto"), symmetrize(ARGON, "i")
    ended, _ = on_desk(tmp_path / "a", bare(2), settings, averaged)
    assert ended.effort.steps == 2
    ended, desk = on_desk(
        tmp_path / "a", bare(2), settings.model_copy(update={"time_ps": 0.032}), averaged, resume=True
    )
    assert (calls, desk.record["steps"], ended.effort.calls) == ([4], [2], [8, 4])


def test_one_that_is_too_hot_stops_all(tmp_path):
    settings = asked(time_ps=0.08, max_temperature_K=100.0, log_fs=4)
    structures = bare(2)
    structures[1] = start(structures[1], asked(temperature_K=500.0, seed=1))
    ended, _ = on_desk(tmp_path / "a", structures, settings)
    assert ended.ended == "watch"
    assert ended.reason.startswith("structure 1: runaway: ")
    assert "reason" in ase.io.read(tmp_path / "a" / "stopped.extxyz").info


def test_atoms_that_collide_are_found_in_any_structure(tmp_path):
    structures = bare(2)
    structures[1].positions[2] = structures[1].positions[0] + [0.0, 0.0, 0.9]
    ended, _ = on_desk(tmp_path / "a", structures, asked(max_temperature_K=1e9, min_distance=0.5))
    assert ended.ended == "watch"
    assert ended.reason.startswith("structure 1: collision after 0 ps")


def test_what_flies_apart_within_a_step_ends_in_good_order(tmp_path):
    structures = bare(2)
    structures[1] = Atoms("Ar2", [[0, 0, 0], [0, 0, 6.9]])
    structures[1].set_velocities([[0, 0, 6.9 / (4 * fs)], [0, 0, 0]])
    ended, _ = on_desk(tmp_path / "a", structures, asked(max_temperature_K=1e15))
    assert (ended.ended, ended.effort.steps) == ("watch", 0)
    assert re.search(
        r"runaway: the potential refused a structure after 0 ps: atoms [01] and [01] of structure 1", ended.reason
    )
    assert len(ase.io.read(tmp_path / "a" / "stopped.extxyz")) == 2


def test_uncertainties_are_written_and_watched(tmp_path):
    torch.manual_seed(0)
    width = {"d_pet": 8, "d_head": 8, "d_node": 8, "d_feedforward": 8, "num_heads": 2, "cutoff": 3.5}
    potential = LLPR(PET([1, 8], width).double())
    waters = [molecule("H2O"), molecule("H2O")]
    waters[1].positions *= 1.05
    potential.fit([collate_for(potential, waters)])
    doubts = Replicas(potential, waters, asked()).uncertainties()
    limit = float(doubts.max())
    settings = asked(time_ps=0.001, timestep_fs=0.5, log_fs=0.5)
    ended, desk = on_desk(
        tmp_path / "a", waters, settings.model_copy(update={"max_uncertainty": 0.9 * limit}), potential
    )
    assert ended.reason.startswith(f"structure {doubts.argmax()}: extrapolation: ")
    assert read_series(desk.series_path)["uncertainty_eV_per_atom"][0] == pytest.approx(doubts.mean())


# ------------------------------------------------------------------------------------------------------------- refusals


def test_what_the_engine_lacks_is_refused_by_name():
    with pytest.raises(ValueError, match=r"constant pressure was asked for with the engine torchsim, whose barostat"):
        Replicas(ARGON, crystals(), asked(ensemble="npt"))
    for name in ("svr", "nhc"):
        with pytest.raises(
            ValueError, match=rf"the thermostat {name} was asked for with the engine torchsim, which has"
        ):
            Replicas(ARGON, crystals(), asked(ensemble="nvt", thermostat=name))
    with pytest.raises(ValueError, match=r"turns are random and the engine is torchsim, which turns nothing"):
        Replicas(ARGON, crystals(), asked(turns="random"))


def test_other_structures_than_those_of_the_restart_are_refused():
    state = Replicas(ARGON, crystals(), asked()).state()
    with pytest.raises(
        ValueError, match=r"the restart file differs from this simulation in numbers and structure: it is"
    ):
        Replicas(ARGON, crystals(3), asked()).restore(state)


def test_unknown_elements_and_missing_levels_are_refused():
    with pytest.raises(ValueError, match=r"element 18 \(Ar\) in structure 0 is unknown to this model"):
        Replicas(tumble.load("water"), crystals(), asked())
    with pytest.raises(ValueError, match=r"2 levels of forces were asked for"):
        Replicas(ARGON, crystals(), asked(), (4,))


def test_without_torch_sim_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    with pytest.raises(ImportError, match=r"--engine torchsim needs torch-sim .*pip install 'tumble\[torchsim\]'"):
        Replicas(ARGON, crystals(), asked())
