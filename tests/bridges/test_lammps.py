"""Inputs of LAMMPS, run by LAMMPS, and LAMMPS with forces from here."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet
from ase.units import bar, fs

from analytic import lopsided
from tumble.bridges import lammps
from tumble.bridges.ase import Calculator
from tumble.bridges.lammps import INPUT, Session, library, turn_of, write_data, write_input
from tumble.jobs.md.engines.asked import Asked
from tumble.jobs.md.motion import start
from tumble.jobs.md.settings import MDSettings
from tumble.models.pair import LennardJones
from tumble.potential import Gradient

PRESSURES = ("pxx", "pyy", "pzz", "pxy", "pxz", "pyz")
PLACES = ((0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2))


@pytest.fixture(scope="module")
def engine():
    try:
        library().close()
    except ImportError as error:
        pytest.skip(str(error))


def settings(**changes):
    return MDSettings(**{"ensemble": "nve", "seed": 3, "timestep_fs": 0.25} | changes)


def tilted(symbols="ArNe2Ar"):
    """A cell that is neither triangular nor right-handed, and tilted by more than LAMMPS likes."""
    cell = np.array([[0.3, 4.1, 0.2], [3.9, 4.5, 1.7], [0.4, -0.8, 5.0]])
    fractions = np.array([[0.1, 0.1, 0.1], [0.6, 0.1, 0.2], [0.2, 1.6, 0.6], [0.7, 0.6, -0.5]])
    return start(Atoms(symbols, fractions @ cell, cell=cell, pbc=True), MDSettings(seed=1))


def soft():
    return Gradient(LennardJones(0.05, 1.8, cutoff=3.5, onset=2.5)).double()


def session(atoms, chosen, potential=None):
    asked = Asked(potential or lopsided(), atoms, turn_of(atoms))
    return Session(atoms, chosen, [asked])


@pytest.mark.parametrize("atoms", [tilted(), start(molecule("H2O"), MDSettings())], ids=["triclinic", "molecule"])
def test_energy_forces_and_pressure_are_those_of_the_potential(engine, atoms):
    potential, turn = lopsided(), turn_of(atoms)
    own = atoms.copy()
    own.calc = Calculator(potential)
    with session(atoms, settings()) as running:
        now = running.now()
        np.testing.assert_allclose(now.positions @ turn.T, atoms.positions, atol=1e-12)
        np.testing.assert_allclose(now.velocities @ turn.T, atoms.get_velocities(), atol=1e-12)
        assert running.thermo("pe") == pytest.approx(own.get_potential_energy(), abs=1e-6)
        assert running.thermo("ke") == pytest.approx(own.get_kinetic_energy(), abs=1e-6)
        order = np.argsort(running._lammps.numpy.extract_atom("id").ravel()[: len(atoms)])
        forces = running._lammps.numpy.extract_atom("f")[: len(atoms)][order]
        np.testing.assert_allclose(forces @ turn.T, own.get_forces(), atol=1e-6)
        if atoms.pbc.all():
            moving = np.einsum("na,nb->ab", atoms.get_momenta(), atoms.get_velocities()) / atoms.get_volume()
            expected = turn.T @ (moving - own.get_stress(voigt=False)) @ turn / bar
            measured = np.array([running.thermo(name) for name in PRESSURES])
            np.testing.assert_allclose(measured * bar, expected[PLACES] * bar, atol=1e-6)


def test_the_frame_of_the_user_is_the_one_that_is_asked_about(engine):
    atoms, potential = tilted(), lopsided()
    turn = turn_of(atoms)
    assert np.linalg.det(turn) < 0  # a mirror image, even
    turned = Atoms(atoms.symbols, atoms.positions @ turn, cell=atoms.cell.array @ turn, pbc=True)
    energies = []
    for one in (atoms.copy(), turned):
        one.calc = Calculator(potential)
        energies.append(one.get_potential_energy())
    assert abs(energies[0] - energies[1]) > 1e-3  # the potential knows the difference
    with session(atoms, settings()) as running:
        assert running.energies_eV == pytest.approx(energies[:1], abs=1e-6)


def test_constant_energy_is_that_of_ase(engine):
    atoms = tilted()
    turn = turn_of(atoms)
    with session(atoms, settings()) as running:
        running.run(7)
        running.run(13)
        now = running.now()
    atoms.calc = Calculator(lopsided())
    VelocityVerlet(atoms, 0.25 * fs).run(20)
    np.testing.assert_allclose(now.positions @ turn.T, atoms.positions, atol=1e-8)
    np.testing.assert_allclose(now.velocities @ turn.T, atoms.get_velocities(), atol=1e-8)


BATHS = [
    {"ensemble": "nvt", "thermostat": "svr"},
    {"ensemble": "nvt", "thermostat": "langevin"},
    {"ensemble": "nvt", "thermostat": "nhc"},
    {"ensemble": "npt", "thermostat": "nhc", "barostat": "anisotropic"},
    {"ensemble": "npt", "thermostat": "svr"},
    {"ensemble": "npt", "thermostat": "langevin"},
]


@pytest.mark.parametrize("bath", BATHS, ids=lambda bath: "-".join(bath.values()))
def test_energy_and_the_heat_of_baths_are_conserved_together(engine, bath):
    chosen = settings(**bath, thermostat_fs=10.0, barostat_fs=50.0, timestep_fs=0.1)
    # A cell that is kept triangular turns as it shears: only a symmetric potential does not notice.
    potential = soft() if "barostat" in bath else lopsided()
    with session(tilted(), chosen, potential) as running:
        totals, heats, cell = [], [], running.now().cell
        for _ in range(20):
            totals.append(running.energies_eV[-1] + running.thermo("ke") - running.heat_eV)
            heats.append(running.heat_eV)
            running.run(5)
        after = running.now().cell
    assert np.ptp(heats) > 50 * np.ptp(totals)
    assert np.allclose(cell, after, atol=1e-9) == (chosen.ensemble == "nvt")
    shear = np.abs(np.linalg.solve(cell, after) - np.diag(np.linalg.solve(cell, after).diagonal())).max()
    assert (shear > 1e-6) == ("barostat" in bath)


def test_what_a_potential_raises_passes_through_lammps(engine):
    calls = []

    def ask(positions, cell):
        calls.append(1)
        if len(calls) > 3:
            raise ValueError("two atoms are at the same place")
        return 0.0, np.zeros_like(positions), np.zeros((3, 3))

    with Session(tilted(), settings(), [ask]) as running:
        running.run(2)
        with pytest.raises(ValueError, match=r"two atoms are at the same place"):
            running.run(4)
    assert len(calls) == 4  # it was not asked again


def test_a_simulation_that_blows_up_is_told_of(engine):
    def ask(positions, cell):
        return 0.0, np.full_like(positions, np.inf), np.zeros((3, 3))

    with (
        Session(tilted(), settings(), [ask]) as running,
        pytest.raises(RuntimeError, match=r"LAMMPS has failed at 'run 4 .*blown up: shorten its time step"),
    ):
        running.run(4)


def test_several_time_steps_are_taken_at_constant_volume_only():
    with pytest.raises(ValueError, match=r"constant pressure was asked for together with multiple time steps"):
        Session(tilted(), settings(ensemble="npt"), [None, None], (4,))


def test_lammps_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lammps", None)
    with pytest.raises(ImportError, match=r"pip install 'tumble\[lammps\]'"):
        library()


def test_lammps_without_mpi_says_what_to_install(monkeypatch):
    def broken(cmdargs):
        raise OSError("libmpi.so.12: cannot open shared object file")

    monkeypatch.setitem(sys.modules, "lammps", SimpleNamespace(lammps=broken))
    with pytest.raises(ImportError, match=r"libmpi\.so\.12.*Run: pip install 'lammps\[mpi\]'"):
        library()


def run_with_other_pairs(folder, replaced):
    """Everything of an input is executed, but the pair styles of metatomic, which are replaced by ones there are."""
    text = (folder / INPUT).read_text()
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    assert "metatomic" not in text
    running = library(("-screen", "none", "-log", str(folder / "log"), "-nocite"))
    try:
        for row in text.splitlines():
            row = row.replace("structure.data", f'"{folder / "structure.data"}"')
            running.command(row.replace("trajectory.dump", f'"{folder / "trajectory.dump"}"'))
        return {name: running.get_thermo(name) for name in ("step", "time", "econserve", "temp")}
    finally:
        running.close()


@pytest.mark.parametrize("bath", [{}, *BATHS], ids=lambda bath: "-".join(bath.values()) if bath else "nve")
def test_what_is_written_runs(engine, tmp_path, bath):
    atoms = start(bulk("Ar", a=5.3, cubic=True).repeat(2), MDSettings(temperature_K=20))
    chosen = settings(**bath, temperature_K=20.0, timestep_fs=2.0, log_fs=10.0, frame_fs=20.0)
    turn = write_input(tmp_path, atoms, chosen, ["argon.pt"], (), 10)
    np.testing.assert_allclose(turn, np.eye(3), atol=1e-12)
    text = (tmp_path / INPUT).read_text()
    assert "pair_style metatomic argon.pt\npair_coeff * * 18\n" in text
    found = run_with_other_pairs(
        tmp_path, {"metatomic argon.pt": "lj/cut 6.0", "pair_coeff * * 18": "pair_coeff * * 0.0104 3.4"}
    )
    assert found["step"] == 10
    assert found["time"] == pytest.approx(0.02)
    assert (tmp_path / "trajectory.dump").read_text().count("ITEM: TIMESTEP") == 2


def test_respa_of_two_files_is_what_one_of_their_sum_does(engine, tmp_path):
    atoms = start(bulk("Ar", a=5.0, cubic=True), MDSettings(temperature_K=100))
    chosen = settings(timestep_fs=1.0, log_fs=4.0, frame_fs=4.0)
    write_input(tmp_path, atoms, chosen, ["raw.pt", "slow.pt device cpu"], (4,), 25)
    text = (tmp_path / INPUT).read_text()
    assert "pair_style hybrid/overlay metatomic_1 raw.pt metatomic_2 slow.pt device cpu\n" in text
    assert "run_style respa 2 4 hybrid 1 2\n" in text
    fast, slow = {"metatomic_1 raw.pt": "lj/cut 4.0"}, {"metatomic_2 slow.pt device cpu": "morse 4.0"}
    respa = run_with_other_pairs(
        tmp_path, fast | slow | {"metatomic_1 18": "lj/cut 0.0104 3.4", "metatomic_2 18": "morse 0.001 1.0 3.4"}
    )
    # The fast one is also the slow one: the same trajectory as of one potential, with nothing at the outer level.
    write_input(tmp_path, atoms, chosen, ["raw.pt"], (), 100)
    single = run_with_other_pairs(
        tmp_path,
        {
            "metatomic raw.pt": "hybrid/overlay lj/cut 4.0 morse 4.0",
            "pair_coeff * * 18": "pair_coeff * * lj/cut 0.0104 3.4\npair_coeff * * morse 0.001 1.0 3.4",
        },
    )
    assert respa["time"] == pytest.approx(single["time"])
    assert respa["econserve"] == pytest.approx(single["econserve"], abs=1e-5)
    assert respa["temp"] == pytest.approx(single["temp"], abs=0.1)


def test_differences_are_taken_by_lammps_where_files_are_whole(tmp_path):
    atoms = tilted("ArNe2Ar")
    write_input(
        tmp_path, atoms, settings(), ["a.pt non_conservative on", "a.pt", "b.pt"], (4, 5), 1, are_differences=False
    )
    text = (tmp_path / INPUT).read_text()
    assert "metatomic_1 a.pt non_conservative on metatomic_2 a.pt metatomic_3 a.pt non_conservative on scale -1" in text
    assert "metatomic_4 b.pt metatomic_5 a.pt scale -1\n" in text
    assert "run_style respa 3 4 5 hybrid 1 2 2 3 3\n" in text
    assert text.count("pair_coeff * * metatomic_") == 5
    assert "pair_coeff * * metatomic_5 18 10\n" in text
    assert "timestep 0.005\n" in text  # the outermost, ps


def test_velocities_are_drawn_where_there_are_none(engine, tmp_path):
    atoms = bulk("Ar", a=5.3, cubic=True).repeat(2)
    write_input(tmp_path, atoms, settings(temperature_K=50), ["argon.pt"], (), 1)
    found = run_with_other_pairs(
        tmp_path, {"metatomic argon.pt": "lj/cut 6.0", "pair_coeff * * 18": "pair_coeff * * 0.0104 3.4"}
    )
    assert found["temp"] == pytest.approx(50, rel=1e-2)


def test_what_lammps_cannot_do_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"1 levels of forces were given, with 2 numbers of steps"):
        write_input(tmp_path, tilted(), settings(), ["a.pt"], (4, 5), 1)
    with pytest.raises(ValueError, match=r"constant pressure was asked for, and H2O does not repeat"):
        lammps.ensemble(molecule("H2O"), settings(ensemble="npt"))
    heavy = molecule("H2O")
    heavy.set_masses([16, 1, 2])
    with pytest.raises(ValueError, match=r"atoms of H have the masses 1, 2, and LAMMPS knows one"):
        write_data(heavy)
