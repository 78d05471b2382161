"""Files of trajectories: the same atoms, times and velocities, whoever has written them."""

import sys

import ase.io
import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

from tumble import trajectories as tj
from tumble.trajectories import Trajectory


def flying(n=12, box=6.0) -> list[Atoms]:
    """Two molecules that cross the box, wrapped into it, with momenta, as our own frames."""
    start = molecule("H2O") + molecule("H2O")
    start.positions[3:] += [4, 0, 0]
    start.set_cell([box, 12, 12])
    start.pbc = True
    frames = []
    for k in range(n):
        atoms = start.copy()
        atoms.positions += [1.7 * k, 0, 0]
        atoms.wrap()
        atoms.set_velocities(np.tile([1.7 / (100 * float(ase.units.fs)), 0, 0], (6, 1)))
        atoms.info = {
            "step": 200 * k,
            "time_ps": 0.1 * k,
            "potential_eV": -1.0 - k,
            "kinetic_eV": 0.5,
            "conserved_eV": 3.0,
        }
        frames.append(atoms)
    return frames


def check_flight(read: Trajectory, has_velocities=True):
    np.testing.assert_allclose(read.positions[-1] - read.positions[0], np.tile([1.7 * 11, 0, 0], (6, 1)), atol=1e-5)
    np.testing.assert_allclose(read.times_ps, 0.1 * np.arange(12), atol=1e-6)
    assert read.numbers.tolist() == [8, 1, 1, 8, 1, 1]
    assert read.pbc.all()
    if has_velocities:
        np.testing.assert_allclose(read.velocities, np.tile([0.017, 0, 0], (12, 6, 1)), atol=1e-7)


def test_our_frames_are_read_unwrapped_with_times_velocities_and_energies(tmp_path):
    (tmp_path / "run").mkdir()
    ase.io.write(tmp_path / "run" / "trajectory.extxyz", flying())
    found = tj.read(tmp_path / "run")
    check_flight(found)
    assert found.name == "run"
    assert found.symbols == ("O", "H")
    assert found.spacing_ps == pytest.approx(0.1)
    assert found.series["potential_eV"][-1] == -12
    assert set(found.series) == {
        "potential_eV",
        "kinetic_eV",
        "conserved_eV",
    }
    np.testing.assert_allclose(
        found.kinetic_eV(), [0.5 * 2 * 18.015 * (0.017 / float(ase.units.fs)) ** 2] * 12, rtol=1e-4
    )
    later = tj.read(tmp_path / "run" / "trajectory.extxyz", start_ps=0.3, stride=4)
    np.testing.assert_allclose(later.times_ps, [0.3, 0.7, 1.1])
    np.testing.assert_allclose(later.positions[-1] - later.positions[0], np.tile([1.7 * 8, 0, 0], (6, 1)), atol=1e-6)


def test_other_files_are_read_when_the_time_between_frames_is_given(tmp_path):
    frames = flying()
    for one in frames:
        one.info = {}
    for name in ("foreign.traj", "foreign.xyz"):
        ase.io.write(tmp_path / name, frames)
        check_flight(tj.read(tmp_path / name, spacing_fs=100))
    with pytest.raises(ValueError, match=r"frame 0 of foreign does not say its time \(time_ps\)"):
        tj.read(tmp_path / "foreign.traj")


def test_energies_of_calculators_are_kept():
    frames = flying(3)
    for one in frames:
        one.info, one.calc = {}, SinglePointCalculator(one, energy=-7.0)
    assert Trajectory.of(frames, spacing_fs=1.0).series["potential_eV"].tolist() == [-7.0] * 3


def test_a_cell_that_moves_is_followed_in_fractional_coordinates():
    frames = flying(6)
    for k, one in enumerate(frames):
        one.set_cell(one.cell.array * (1 + 0.02 * k), scale_atoms=True)
    found = Trajectory.of(frames)
    scaled = found.positions @ np.linalg.inv(found.cells)
    np.testing.assert_allclose(np.diff(scaled, axis=0), np.tile([1.7 / 6, 0, 0], (5, 6, 1)), atol=1e-9)


def write_h5md(path, frames, names=("atoms",), velocity_unit="Angstrom fs-1"):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        meta = file.create_group("h5md")
        meta.attrs["version"] = [1, 1]
        meta.create_group("author").attrs["name"] = "nobody"
        creator = meta.create_group("creator")
        creator.attrs["name"], creator.attrs["version"] = "test", "1"
        for name in names:
            group = file.create_group(f"particles/{name}")
            group["species"], group["mass"] = frames[0].numbers, frames[0].get_masses()
            box = group.create_group("box")
            box.attrs["dimension"], box.attrs["boundary"] = 3, ["periodic"] * 3
            times, steps = [one.info["time_ps"] for one in frames], [one.info["step"] for one in frames]
            values = {
                "position": ([one.positions for one in frames], "Angstrom"),
                "velocity": ([one.get_velocities() * float(ase.units.fs) for one in frames], velocity_unit),
                "box/edges": ([one.cell.array for one in frames], "Angstrom"),
            }
            for key, (value, unit) in values.items():
                part = group.create_group(key)
                part["value"], part["step"], part["time"] = np.array(value), steps, times
                part["value"].attrs["unit"], part["time"].attrs["unit"] = unit, "ps"
        energy = file.create_group("observables/potential_energy")
        energy["value"] = [one.info["potential_eV"] for one in frames]
        energy["value"].attrs["unit"] = "eV"


def test_h5md_is_read_as_mdanalysis_reads_it(tmp_path):
    mda = pytest.importorskip("MDAnalysis")
    write_h5md(tmp_path / "trajectory.h5md", flying(), velocity_unit="Angstrom ps-1")
    slow = tj.read(tmp_path / "trajectory.h5md")
    check_flight(slow, has_velocities=False)
    np.testing.assert_allclose(slow.velocities[0, 0], [0.017e-3, 0, 0])
    assert slow.series["potential_eV"][-1] == -12
    universe = mda.Universe.empty(6, trajectory=True)
    universe.load_new(str(tmp_path / "trajectory.h5md"))
    assert [round(frame.time, 6) for frame in universe.trajectory] == pytest.approx(slow.times_ps)


def test_one_of_several_structures_is_chosen(tmp_path):
    frames = flying()
    for one in frames:
        one.info["structure"] = 0
    others = [one.copy() for one in frames]
    for one in others:
        one.info["structure"] = 1
        one.positions += 1.0
    ase.io.write(tmp_path / "two.extxyz", [one for pair in zip(frames, others, strict=True) for one in pair])
    check_flight(tj.read(tmp_path / "two.extxyz", structure=1))
    with pytest.raises(ValueError, match=r"holds several structures that moved side by side, 0 and 1 among them"):
        tj.read(tmp_path / "two.extxyz")
    with pytest.raises(ValueError, match=r"there is no structure 2 in .*two.extxyz"):
        tj.read(tmp_path / "two.extxyz", structure=2)
    write_h5md(tmp_path / "two.h5md", flying(), names=("a", "b"), velocity_unit="Angstrom fs-1")
    check_flight(tj.read(tmp_path / "two.h5md", structure=1))
    with pytest.raises(ValueError, match=r"holds 2 groups of particles; one was expected"):
        tj.read(tmp_path / "two.h5md")
    with pytest.raises(ValueError, match=r"there is no structure 5 in .*two.h5md"):
        tj.read(tmp_path / "two.h5md", structure=5)


def test_what_i_pi_writes_is_read(tmp_path):
    pytest.importorskip("ipi")
    lines = []
    for k, one in enumerate(flying()):
        lines += [
            "6",
            f"# CELL(abcABC): 6.0 12.0 12.0 90 90 90 Step: {k} Bead: 0 positions{{angstrom}} cell{{angstrom}}",
        ]
        lines += [f"{s} {x:.8f} {y:.8f} {z:.8f}" for s, (x, y, z) in zip(one.symbols, one.positions, strict=True)]
    (tmp_path / "simulation.pos_0.xyz").write_text("\n".join(lines) + "\n")
    check_flight(tj.read(tmp_path / "simulation.pos_0.xyz", spacing_fs=100), has_velocities=False)


def test_what_lammps_dumps_is_read(tmp_path):
    lines = []
    for k, one in enumerate(flying()):
        lines += ["ITEM: TIMESTEP", str(k), "ITEM: NUMBER OF ATOMS", "6", "ITEM: BOX BOUNDS pp pp pp", "0.0 6.0"]
        lines += ["0.0 12.0", "0.0 12.0", "ITEM: ATOMS id element x y z"]
        lines += [f"{i + 1} {a.symbol} {a.x:.8f} {a.y:.8f} {a.z:.8f}" for i, a in enumerate(one)]
    (tmp_path / "simulation.lammpstrj").write_text("\n".join(lines) + "\n")
    check_flight(tj.read(tmp_path / "simulation.lammpstrj", spacing_fs=100), has_velocities=False)


def test_files_that_are_no_trajectories_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"there is no trajectory in .*; trajectory.extxyz"):
        tj.read(tmp_path)
    with pytest.raises(ValueError, match=r"there is no trajectory .*nothing.xyz. Give a file"):
        tj.read(tmp_path / "nothing.xyz")
    (tmp_path / "words.extxyz").write_text("many words\nand no atoms\n")
    with pytest.raises(ValueError, match=r"words.extxyz cannot be read as a trajectory"):
        tj.read(tmp_path / "words.extxyz")
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(ValueError, match=r"has no positions of particles; an H5MD file was expected"):
        tj.read(tmp_path / "empty.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"reading empty.h5 needs h5py, which is not installed"):
        tj.read(tmp_path / "empty.h5")


def test_frames_that_do_not_belong_together_are_refused():
    frames = flying()
    with pytest.raises(ValueError, match=r"frame 1 of trajectory is CO2?, the first one is H4O2"):
        Trajectory.of([frames[0], Atoms("CO", [[0, 0, 0], [0, 0, 1]])])
    with pytest.raises(
        ValueError, match=r"moves by 0.57 of the box from frame|moves by 0.[45]\d of the box from frame"
    ):
        Trajectory.of(flying(box=3.5))
    with pytest.raises(ValueError, match=r"has no frame at or after 50 ps"):
        Trajectory.of(frames, start_ps=50)
    with pytest.raises(ValueError, match=r"a stride of 0 frames was asked for"):
        Trajectory.of(frames, stride=0)
    with pytest.raises(ValueError, match=r"times that increase were expected"):
        Trajectory.of([frames[1], frames[1]])
    with pytest.raises(ValueError, match=r"has 1 frame; at least 2 were expected for anything in time"):
        Trajectory.of(frames[:1]).spacing_ps  # noqa: B018
    with pytest.raises(ValueError, match=r"the same distance was expected for anything in time"):
        Trajectory.of([frames[0], frames[1], frames[3]]).spacing_ps  # noqa: B018
    with pytest.raises(ValueError, match=r"made up has no frame left"):
        Trajectory.of(frames, name="made up").frames(slice(3, 3))
