"""What a page says of trajectories that were made up, so that the answers are known."""

import json
import sys
from dataclasses import replace

import ase.io
import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

import tumble
from tumble.cli import BAD_INPUT, DONE, NOT_TRUSTED, main
from tumble.jobs.observe import ObserveResult, ObserveSettings, observe
from tumble.jobs.observe.tables import peak
from tumble.results import Curve, Map, Table, load_result
from tumble.rotations import Rotations
from tumble.trajectories import Radial, Trajectory
from tumble.units import BOLTZMANN

BOX = 11.0


def liquid(n_frames=160, n_molecules=8, temperature_K=300.0, hotter=1.0, spacing_fs=4.0, seed=0) -> list[Atoms]:
    """Water molecules that diffuse and turn at random, with velocities of a temperature, of hydrogen hotter."""
    random, one = np.random.default_rng(seed), molecule("H2O")
    centres = 5.5 * np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)[:n_molecules]
    frames = []
    for k in range(n_frames):
        centres = centres + 0.05 * random.normal(size=centres.shape)
        turns = Rotations.random(n_molecules, seed=1000 * seed + k // 2).matrices.numpy()  # each is kept for two frames
        x = centres[:, None] + np.einsum("ax,mzx->maz", one.positions, turns)
        atoms = Atoms("OHH" * n_molecules, x.reshape(-1, 3), cell=[BOX] * 3, pbc=True)
        atoms.set_momenta(at_rest(atoms, heat(atoms, temperature_K, hotter, random)))
        atoms.wrap()
        potential = float(random.normal())
        atoms.info = {"step": 8 * k, "time_ps": 1e-3 * spacing_fs * k, "potential_eV": potential}
        frames.append(atoms)
    return frames


def heat(atoms, temperature_K, hotter, random):
    of_atoms = BOLTZMANN * temperature_K * np.where(atoms.numbers == 1, hotter, 1.0)
    return random.normal(size=(len(atoms), 3)) * (of_atoms * atoms.get_masses())[:, None] ** 0.5


def at_rest(atoms, momenta):
    return momenta - atoms.get_masses()[:, None] / atoms.get_masses().sum() * momenta.sum(0)


def folder(path, frames, **settings):
    """As a simulation leaves it."""
    path.mkdir()
    ase.io.write(path / "trajectory.extxyz", frames)
    said = {"ensemble": "nvt", "temperature_K": 300.0} | settings
    (path / "settings.json").write_text(json.dumps(said))
    return path


def verdict(result: ObserveResult, key: str):
    return next(one for one in result.verdicts() if one.key == key)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("observe") / "run", liquid())


@pytest.fixture(scope="module")
def said(run) -> ObserveResult:
    pytest.importorskip("physical_validation")
    return observe(run, ObserveSettings(viscosity_mPas=1.0, charges="O:-0.8,H:0.4", pairs="O-O,O-H"))


def test_the_folder_of_a_run_is_all_that_is_needed(said):
    (one,) = said.findings
    assert said.title == "What run says"
    assert set(one.left_out) == {"correlation time"}  # turns at random leave none
    assert one.span[:3] == (160, 0.0, pytest.approx(0.636))
    assert set(one.radials) == {"O-O", "O-H"}
    assert set(one.moved) == set(one.spectra) == {"O", "H"}
    assert one.dipole is not None
    assert one.turned.formula == "H2O"
    assert one.turned.n_molecules == 8
    assert one.warmth.target_K == 300
    assert one.warmth.n_freedoms == 3 * 24 - 3


def test_temperatures_are_those_of_the_thermostat(said):
    warm = said.findings[0].warmth
    assert abs(warm.mean.value - 300) < 4 * warm.mean.error
    for mean in warm.of_species.values():
        assert abs(mean.value - 300) < 4 * mean.error < 40
    assert verdict(said, "kinetic").answer == "yes"
    assert verdict(said, "species").answer == "yes"
    assert max(max(pair) for pair in warm.motions.values()) < 4


def test_diffusion_is_that_of_the_steps_and_larger_without_images(said):
    moved = said.findings[0].moved["O"]
    assert moved.decay.values[1] > 0
    in_si = 2.837297 * 1.380649e-23 * 300 / (6 * np.pi * 1e-3 * BOX * 1e-10)
    assert moved.unbounded.value - moved.rate.value == pytest.approx(in_si * 1e8, rel=1e-4)


def test_turns_at_random_have_no_free_energy_and_are_counted_once(said):
    turned = said.findings[0].turned
    assert np.abs(turned.vector.value / turned.vector.error).max() < 4
    assert turned.vector.n_independent < 160 / 1.5  # frames come in twins
    assert turned.memory.values[1] == pytest.approx(0.5, abs=0.1)
    assert "direction of H2O, x" in said.findings[0].slowest


def test_freedoms_of_the_spectra_add_up(said):
    spectra = said.findings[0].spectra
    assert sum(one.integral for one in spectra.values()) == pytest.approx(3, rel=0.05)


def test_a_result_is_saved_with_its_page(said, tmp_path):
    facts = said.facts()
    assert {type(one) for one in facts} == {Table, Curve, Map}
    assert [one.title for one in facts if isinstance(one, Map)] == ["Orientational free energy: run"]
    said.save(tmp_path / "out")
    loaded = load_result(tmp_path / "out")
    assert loaded.arrays["0_g_O-O"].shape == loaded.arrays["0_r_O-O"].shape
    assert {"0_msd_O", "0_c_uu", "0_free_energy", "0_vector", "0_dos_H", "0_longitudinal"} <= set(loaded.arrays)
    page = tumble.report(loaded, to=tmp_path / "card.html").read_text()
    assert "Radial distribution of O-O" in page
    assert "Merz" in page


def test_several_trajectories_share_axes_and_have_names_of_their_own(run, tmp_path):
    other = folder(tmp_path / "run", liquid(seed=3), temperature_K=310.0)
    result = observe([run, other, Trajectory.of(liquid(40), name="third")], ObserveSettings(what="rdf,msd"))
    names = [one.name for one in result.findings]
    assert names[2] == "third"
    assert len(set(names)) == 3
    assert all(name.endswith("/run") for name in names[:2])
    assert [one.name for one in observe([run, run], ObserveSettings(what="rdf")).findings] == ["run (0)", "run (1)"]
    curve = next(one for one in result.facts() if one.title == "Radial distribution of O-O")
    assert [series.name for series in curve.series] == names
    assert verdict(result, "sampling").answer != "unknown"


def test_a_thermostat_that_does_not_keep_its_temperature_is_found(tmp_path):
    pytest.importorskip("physical_validation")
    run = folder(tmp_path / "run", liquid(), temperature_K=330.0)
    found = verdict(observe(run, ObserveSettings(what="checks")), "kinetic")
    assert found.answer == "remedy"
    assert found.value > 3
    assert "of the thermostat's 330 K: heat flows" in found.reason
    calm = liquid()
    for one in calm:  # the same mean, and no fluctuations
        one.set_momenta(one.get_momenta() * (69 / 2 * BOLTZMANN * 300 / one.get_kinetic_energy()) ** 0.5)
    shifts = 1 + 1e-3 * np.random.default_rng(0).normal(size=len(calm))
    for one, shift in zip(calm, shifts, strict=True):
        one.set_momenta(one.get_momenta() * shift)
    flat = verdict(observe(Trajectory.of(calm), ObserveSettings(what="checks", temperature_K=300)), "kinetic")
    assert flat.answer == "remedy"
    assert "fluctuations are not canonical" in flat.reason


def test_hydrogen_that_is_hotter_than_oxygen_is_found():
    pytest.importorskip("physical_validation")
    found = verdict(observe(Trajectory.of(liquid(hotter=1.3)), ObserveSettings(what="checks")), "species")
    assert found.answer == "remedy"
    assert "hides: forces do work that they should not" in found.reason
    assert found.value == pytest.approx(48, abs=25)  # O: 300 of 353 K, H: 390 of 360


def test_without_a_thermostat_nothing_is_compared(tmp_path):
    run = folder(tmp_path / "run", liquid(60), ensemble="nve")
    result = observe(run, ObserveSettings(what="checks"))
    assert verdict(result, "kinetic").answer == "unknown"
    assert verdict(result, "kinetic").reason.startswith("no thermostat is known")
    assert result.findings[0].warmth.kinetic is None
    short = observe(Trajectory.of(liquid(21)[:19]), ObserveSettings(what="checks", temperature_K=300))
    assert verdict(short, "kinetic").reason == "there are fewer than 20 independent samples of the temperature"
    bare = observe(run / "trajectory.extxyz", ObserveSettings(what="checks", temperature_K=300))
    assert bare.findings[0].warmth.target_K == 300


def test_what_is_too_short_says_how_long_to_run():
    frames = liquid(100)
    for k, one in enumerate(frames):
        one.info["potential_eV"] = k / 10
    found = verdict(observe(Trajectory.of(frames), ObserveSettings(what="msd")), "sampling")
    assert found.answer == "remedy"
    assert "independent samples of the potential energy" in found.reason
    assert found.remedy.startswith("run about")
    enough = observe(Trajectory.of(liquid(100)), ObserveSettings(what="msd", enough=10))
    assert verdict(enough, "sampling").answer == "yes"
    for one in frames:
        del one.info["potential_eV"]
    assert verdict(observe(Trajectory.of(frames), ObserveSettings(what="msd")), "sampling").answer == "unknown"


def test_a_molecule_at_rest_has_fewer_freedoms():
    pytest.importorskip("physical_validation")
    random, frames = np.random.default_rng(0), []
    for k in range(40):
        atoms = molecule("H2O")
        atoms.set_momenta(at_rest(atoms, heat(atoms, 300, 1, random)))
        atoms.info["time_ps"] = 0.1 * k
        frames.append(atoms)
    settings = ObserveSettings(what="checks", temperature_K=300)
    assert observe(Trajectory.of(frames), settings).findings[0].warmth.n_freedoms == 6
    for one in frames:  # without turns
        x = one.positions - one.get_center_of_mass()
        inertia = one.get_moments_of_inertia(vectors=True)
        turning = np.cross(x, one.get_momenta()).sum(0)
        rate = inertia[1].T @ ((inertia[1] @ turning) / inertia[0])
        one.set_momenta(one.get_momenta() - one.get_masses()[:, None] * np.cross(rate, x))
    found = observe(Trajectory.of(frames), settings).findings[0].warmth
    assert found.n_freedoms == 3
    assert abs(found.mean.value - 300) < 4 * found.mean.error


def test_auto_leaves_out_what_cannot_be_and_says_why():
    vapour = [Atoms("CH4", molecule("CH4").positions, info={"time_ps": 0.1 * k}) for k in range(30)]
    result = observe(Trajectory.of(vapour))
    why = result.findings[0].left_out
    assert set(why) == {"rdf", "msd", "spectra", "orientations", "checks"}
    assert "3 were expected, for without a volume" in why["rdf"]
    assert "has no velocities, so its temperature is not known" in why["checks"]
    table = next(one for one in result.facts() if one.title == "Left out")
    assert len(table.rows) == 5


def test_a_free_energy_of_few_directions_is_left_out():
    finding = observe(Trajectory.of(liquid(20, n_molecules=2)), ObserveSettings(what="orientations")).findings[0]
    assert finding.turned.map is None
    assert (
        "independent directions, by which the free energy is known to"
        in finding.left_out["free energy of orientations"]
    )


def test_correlations_that_cannot_be_fitted_are_left_out_alone():
    result = observe(Trajectory.of(liquid(60)), ObserveSettings(what="orientations"))
    assert result.findings[0].turned.time is None
    assert "its logarithm is fitted" in result.findings[0].left_out["correlation time"]


@pytest.mark.parametrize(
    ("what", "frames", "match"),
    [
        ("spectra", 20, r"4 in each of 5 segments of a spectrum"),
        ("msd", 10, r"has 10 frames; 20 were expected for motion"),
    ],
)
def test_what_is_asked_for_by_name_must_be_there(what, frames, match):
    with pytest.raises(ValueError, match=match):
        observe(Trajectory.of(liquid(frames)), ObserveSettings(what=what))


def test_observables_without_meaning_are_refused():
    gas = [Atoms("Ar2", [[0, 0, 0], [0, 0, 4]], info={"time_ps": 0.1 * k}) for k in range(30)]
    with pytest.raises(ValueError, match=r"what diffuses was expected to be in a box"):
        observe(Trajectory.of(gas), ObserveSettings(what="msd"))
    with pytest.raises(ValueError, match=r"has no velocities, so its temperature is not known"):
        observe(Trajectory.of(gas), ObserveSettings(what="checks"))
    slow = Trajectory.of(liquid(30, spacing_fs=50))
    assert "at most 5 fs were expected for a spectrum" in observe(slow).findings[0].left_out["spectra"]
    cube = Trajectory.of(liquid(30))
    long = replace(cube, cells=cube.cells * [1, 1, 2])
    with pytest.raises(ValueError, match=r"is not a cube, for which diffusion can be corrected"):
        observe(long, ObserveSettings(what="msd", viscosity_mPas=1))
    with pytest.raises(ValueError, match=r"there is no trajectory to observe; at least one"):
        observe([])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"what": "rdf,colour"}, r"colour cannot be observed; rdf, msd, spectra"),
        ({"pairs": "O-Q"}, r"'O-Q' is no pair of elements; such as O-H"),
        ({"charges": "O=1"}, r"'O=1' is no charge of an element; such as O:-0.8"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given, match):
    with pytest.raises(ValueError, match=match):
        ObserveSettings(**given)


def test_without_the_package_checks_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "physical_validation", None)
    settings = {"temperature_K": 300}
    auto = observe(Trajectory.of(liquid(30)), ObserveSettings(**settings))
    assert "pip install 'tumble[analysis]'" in auto.findings[0].left_out["checks"]
    with pytest.raises(ImportError, match=r"checking a simulation needs physical_validation, which is not installed"):
        observe(Trajectory.of(liquid(30)), ObserveSettings(what="checks", **settings))


def test_the_first_peak_is_the_first_maximum_above_one():
    r = np.linspace(0, 8, 81)
    g = np.exp(-((r - 2.8) ** 2)) * 2 + 0.1 * np.exp(-((r - 1) ** 2) / 0.01)
    top, low = peak(Radial(r, g, g))
    assert r[top] == pytest.approx(2.8)
    assert low is None
    assert peak(Radial(r, 0 * r, r)) is None


def test_the_command_writes_a_folder_and_exits_as_required(run, tmp_path, capsys):
    words = ["observe", str(run), "-o", str(tmp_path / "out"), "--what", "rdf,msd", "--start-ps", "0.1"]
    assert main(words) == DONE
    assert (tmp_path / "out" / "card.html").is_file()
    assert "Trajectories" in capsys.readouterr().out
    assert main(words) == BAD_INPUT
    assert "exists already" in capsys.readouterr().err
    strict = [*words, "--overwrite", "--enough", "1e9", "--require", "sampling=yes"]
    assert main(strict) == NOT_TRUSTED
    assert main(["observe", str(tmp_path)]) == BAD_INPUT
    assert "there is no trajectory in" in capsys.readouterr().err
