"""What trajectories say: closed forms first, then the numbers of other packages."""

import sys

import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from scipy.signal import lfilter

from tumble import trajectories as tj
from tumble.rotations import Rotations
from tumble.trajectories import Trajectory, checks
from tumble.units import BOLTZMANN


def moving(positions, symbols="Ar", box=0.0, spacing_ps=0.1, velocities=None) -> Trajectory:
    """A trajectory of (K, N, 3) positions in Å."""
    positions = np.asarray(positions, dtype=float)
    count, n = positions.shape[:2]
    symbols = [symbols] * n if isinstance(symbols, str) else symbols
    atoms = Atoms(symbols, positions[0], cell=[box] * 3, pbc=box > 0)
    return Trajectory(
        name="made up",
        numbers=atoms.numbers,
        masses=atoms.get_masses(),
        pbc=atoms.pbc,
        times_ps=spacing_ps * np.arange(count),
        positions=positions,
        cells=np.tile(atoms.cell.array, (count, 1, 1)),
        velocities=velocities,
    )


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def uniform(*shape, seed=0):
    """Directions that are distributed uniformly."""
    v = noise(*shape, 3, seed=seed)
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def boltzmann(a, n, seed=0):
    """Directions u with the density exp(−a·u)."""
    random, size = np.random.default_rng(seed), np.linalg.norm(a)
    along = np.log(np.exp(-size) + random.random(n) * (np.exp(size) - np.exp(-size))) / size
    aside = np.cross(uniform(n, seed=seed + 1), a)
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    return along[:, None] * -np.asarray(a) / size + np.sqrt(1 - along**2)[:, None] * aside


def langevin(a):
    return 1 / np.tanh(a) - 1 / a


# --------------------------------------------------------------------------------------------------------------- blocks


def test_the_inefficiency_of_a_first_order_process_is_that_of_its_closed_form():
    series = lfilter([1], [1, -0.9], noise(200_000))
    assert tj.inefficiency(series) == pytest.approx(19, rel=0.1)  # (1 + φ) / (1 − φ)
    assert tj.inefficiency(noise(100_000)) == pytest.approx(1, abs=0.05)


def test_the_error_of_a_mean_is_the_scatter_of_means():
    runs = lfilter([1], [1, -0.8], noise(200, 2000), axis=1)
    found = [tj.mean(run) for run in runs]
    values, errors = np.array([one.value for one in found]), np.array([one.error for one in found])
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)
    assert found[0].n_independent == pytest.approx(2000 / 9, rel=0.5)


def test_a_constant_series_is_one_of_independent_samples():
    assert tj.mean([2.0] * 10) == (2.0, 0.0, 1.0, 10.0)
    assert np.isnan(tj.mean([2.0]).error)


def test_the_correlation_time_agrees_with_pymbar():
    timeseries = pytest.importorskip("pymbar.timeseries")
    series = lfilter([1], [1, -0.7], noise(20_000))
    assert tj.inefficiency(series) == pytest.approx(timeseries.statistical_inefficiency(series), rel=0.15)


def test_what_is_no_series_is_refused():
    with pytest.raises(ValueError, match=r"one row of finite numbers was expected"):
        tj.mean([1.0, np.nan])


def test_blocks_are_equal_and_leave_out_the_start():
    assert tj.cut(11, 3) == [slice(2, 5), slice(5, 8), slice(8, 11)]
    assert len(tj.cut(2, 5)) == 2
    with pytest.raises(ValueError, match=r"was to be cut into 0 blocks; at least 1"):
        tj.cut(10, 0)


# --------------------------------------------------------------------------------------------------- distances of atoms


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_ideal_gas_is_uniform_beyond_the_box_too(smoothing):
    gas = moving(np.random.default_rng(0).random((60, 100, 3)) * 10, ["Ar"] * 60 + ["Kr"] * 40, box=10.0)
    for pair in (("Ar", "Ar"), ("Ar", "Kr"), ("Kr", "Ar")):
        found = tj.radial(gas, *pair, r_max=8.0, points=41, smoothing=smoothing)
        far = found.r > 1.5
        assert np.abs(found.g[far].mean() - 1) < 0.01
        pulls = (found.g[far] - 1) / found.error[far]
        assert np.sqrt((pulls**2).mean()) < 2.5  # Student's t of 5 blocks


def test_a_crystal_has_its_shells_and_their_neighbours():
    crystal = bulk("Cu", a=4.0, cubic=True) * 3
    found = tj.radial(
        moving([crystal.positions], "Cu", box=12.0), "Cu", r_max=5.5, points=1101, smoothing=0.02, n_blocks=1
    )
    shells = 4 * np.pi * found.r**2 * found.g * (len(crystal) - 1) / 12.0**3 * 0.005
    for neighbours, distance in ((12, 4 / 2**0.5), (6, 4.0), (24, 4 * 1.5**0.5)):
        is_near = np.abs(found.r - distance) < 0.2
        assert shells[is_near].sum() == pytest.approx(neighbours, rel=1e-3)
        assert found.r[is_near][found.g[is_near].argmax()] == pytest.approx(distance, abs=0.006)
    assert np.isnan(found.error).all()


def test_the_distribution_agrees_with_mdanalysis():
    mda, rdf = pytest.importorskip("MDAnalysis"), pytest.importorskip("MDAnalysis.analysis.rdf")
    x = np.random.default_rng(1).random((5, 60, 3)) * 12
    universe = mda.Universe.empty(60, trajectory=True)
    universe.load_new(x.astype(np.float32), dimensions=np.array([12, 12, 12, 90, 90, 90.0]))
    first, second = universe.atoms[:20], universe.atoms[20:]
    theirs = rdf.InterRDF(first, second, nbins=20, range=(0.0, 5.0)).run().results
    ours = tj.radial(moving(x, ["O"] * 20 + ["H"] * 40, box=12.0), "O", "H", r_max=5.0, points=20, smoothing=0)
    np.testing.assert_allclose(ours.g, theirs.rdf, rtol=1e-4)


def test_distributions_without_meaning_are_refused():
    gas = moving(noise(2, 3, 3), ["O", "H", "H"], box=9.0)
    with pytest.raises(ValueError, match=r"there is one O in made up; pairs were expected"):
        tj.radial(gas, "O")
    with pytest.raises(ValueError, match=r"made up has no atom of the element C, only of O, H"):
        tj.radial(gas, "C")
    with pytest.raises(ValueError, match=r"r_max above 0, at least 2 points"):
        tj.radial(gas, "H", r_max=0)
    with pytest.raises(ValueError, match=r"repeats in 0 directions; 3 were expected"):
        tj.radial(moving(noise(2, 3, 3)), "Ar")


# --------------------------------------------------------------------------------------------------- atoms that diffuse


@pytest.mark.parametrize("origins", ["all", "first"])
def test_brownian_motion_has_the_diffusion_coefficient_of_its_steps(origins):
    steps = noise(4000, 50, 3) * 0.1
    walk = moving(np.cumsum(steps, axis=0), spacing_ps=0.5)
    found = tj.diffusion(tj.displacements(walk, block_frames=200, origins=origins, is_drift_removed=False))
    exact = 0.1**2 / (2 * 0.5)  # ⟨step²⟩ = 3 σ² = 6 D dt
    assert found.value == pytest.approx(exact, rel=0.06)
    assert abs(found.value - exact) < 4 * found.error < 0.3 * exact


def test_a_drift_of_the_whole_is_taken_out():
    walk = noise(200, 20, 3).cumsum(0)
    calm, swept = (moving(walk + speed * np.arange(200)[:, None, None]) for speed in (0, 5))
    np.testing.assert_allclose(tj.displacements(calm).values, tj.displacements(swept).values, rtol=1e-9, atol=1e-9)


def test_displacements_agree_with_mdanalysis():
    mda, msd = pytest.importorskip("MDAnalysis"), pytest.importorskip("MDAnalysis.analysis.msd")
    walk = noise(60, 8, 3).cumsum(0)
    universe = mda.Universe.empty(8, trajectory=True)
    universe.load_new(walk.astype(np.float32))
    theirs = msd.EinsteinMSD(universe, fft=False).run().results.timeseries
    ours = tj.displacements(moving(walk), block_frames=60, is_drift_removed=False)
    np.testing.assert_allclose(ours.values, theirs[: len(ours.values)], rtol=1e-4, atol=1e-5)


def test_a_finite_box_is_corrected_by_its_length():
    rate = tj.Rate(0.2571, 0.01, 1.0, 2.0)
    found = tj.unbounded(rate, length_A=24.861, temperature_K=300, viscosity_mPas=0.85)
    in_si = 2.837297 * 1.380649e-23 * 300 / (6 * np.pi * 0.85e-3 * 24.861e-10)  # m²/s
    assert found.value - rate.value == pytest.approx(in_si * 1e8, rel=1e-6)
    with pytest.raises(ValueError, match=r"for the correction of diffusion; all were expected"):
        tj.unbounded(rate, length_A=0, temperature_K=300, viscosity_mPas=1)


def test_rotational_diffusion_has_its_correlation_time():
    u = np.empty((6000, 60, 3))
    u[0] = uniform(60)
    for k, kick in enumerate(noise(5999, 60, 3, seed=3) * 0.1):
        u[k + 1] = u[k] + kick
        u[k + 1] /= np.linalg.norm(u[k + 1], axis=-1, keepdims=True)
    turned = tj.reorientation(moving(np.zeros((6000, 1, 3)), spacing_ps=0.2), u)
    assert turned.values[0] == pytest.approx(1)
    found = tj.correlation_time(turned, 0, 20)
    exact = 0.2 / 0.1**2  # D_r = σ²/2dt, τ = 1 / 2 D_r
    assert abs(found.value - exact) < max(4 * found.error, 0.05 * exact)
    assert found.error < 0.15 * exact


def test_blocks_and_fits_that_cannot_be_are_refused():
    walk = moving(noise(20, 2, 3))
    with pytest.raises(ValueError, match=r"blocks of 30 frames were asked for of 20 frames"):
        tj.displacements(walk, block_frames=30)
    with pytest.raises(ValueError, match=r"at least 2 were expected for a straight line"):
        tj.diffusion(tj.displacements(walk), 0.15, 0.16)
    falling = tj.Decay(np.arange(4.0), np.array([1, 0.5, 0.0, -0.1]), np.zeros(4), np.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"a positive one was expected, for its logarithm"):
        tj.correlation_time(falling)


# -------------------------------------------------------------------------------------------------------------- spectra


def oscillator(frequency_THz=30.0, temperature_K=300.0, with_velocities=True) -> Trajectory:
    """Many hydrogen atoms on springs, with the energies of a temperature, every 1 fs."""
    n, times = 400, np.arange(2000)[:, None, None] * 1.0
    omega = 2 * np.pi * frequency_THz * 1e-3
    speed = (BOLTZMANN * temperature_K / 1.008) ** 0.5 * float(ase.units.fs)  # Å/fs, rms of a component
    random = np.random.default_rng(0)
    energy, phase = random.exponential(size=(1, n, 3)) ** 0.5 * 2**0.5 * speed, random.random((1, n, 3)) * 2 * np.pi
    x, v = energy / omega * np.sin(omega * times + phase), energy * np.cos(omega * times + phase)
    return moving(x, "H", spacing_ps=1e-3, velocities=v if with_velocities else None)


def test_an_oscillator_has_one_line_and_all_its_degrees_of_freedom():
    found = tj.velocity_spectrum(oscillator(), "H", temperature_K=300.0)
    assert found.integral == pytest.approx(3 * 400, rel=0.05)
    assert found.frequencies_THz[found.density.argmax()] == pytest.approx(30, abs=2.5)
    near = np.abs(found.frequencies_THz - 30) < 8
    assert found.density[near].sum() > 0.99 * found.density.sum()
    assert tj.velocity_spectrum(oscillator()).integral == pytest.approx(3 * 400, rel=0.01)
    assert found.wavenumbers[1] == pytest.approx(found.frequencies_THz[1] * 33.356, rel=1e-4)


def test_differences_of_positions_stand_in_for_velocities():
    found = tj.velocity_spectrum(oscillator(with_velocities=False), temperature_K=300.0)
    seen = np.sin(2 * np.pi * 0.03) / (2 * np.pi * 0.03)
    assert found.integral == pytest.approx(3 * 400 * seen**2, rel=0.05)


def test_the_dipole_of_equal_charges_that_move_together_is_their_sum():
    one = oscillator()
    alone = tj.dipole_spectrum(one, {"H": 1.0})
    assert alone.frequencies_THz[alone.density.argmax()] == pytest.approx(30, abs=2.5)
    np.testing.assert_allclose(tj.dipole_spectrum(one, {"H": -2.0}).density, 4 * alone.density)
    current = one.velocities.sum(1)
    assert alone.integral == pytest.approx((current**2).sum(-1).mean(), rel=0.1)


def test_spectra_that_cannot_be_are_refused():
    short = moving(noise(20, 2, 3))
    with pytest.raises(ValueError, match=r"4 in each of 5 segments of a spectrum"):
        tj.velocity_spectrum(short, temperature_K=300)
    with pytest.raises(ValueError, match=r"the temperature of a spectrum is 0 K"):
        tj.velocity_spectrum(moving(np.zeros((20, 2, 3))))
    with pytest.raises(ValueError, match=r"there is no charge of Ar; one for each of Ar was expected"):
        tj.dipole_spectrum(short, {"H": 1.0})


# --------------------------------------------------------------------------------------------------------- orientations


def water(n=1, box=0.0, turns=None) -> Atoms:
    """Water molecules on a line, 4 Å apart, wrapped into the box."""
    one, found = molecule("H2O"), Atoms(cell=[box] * 3, pbc=box > 0)
    for k in range(n):
        turned = one.positions @ (turns[k].T if turns is not None else np.eye(3))
        found += Atoms(one.numbers, turned - turned[0] + [4.0 * k, 0, 0])
    if box:
        found.wrap()
    return found


def test_molecules_are_found_through_the_boundary_and_point_along_their_bisector():
    turns = Rotations.random(3).matrices.numpy()
    atoms = water(3, box=12.0, turns=turns)
    shown = Trajectory.of([atoms], spacing_fs=1.0)
    found = tj.molecules(shown)
    assert [one.formula for one in found] == ["H2O"] * 3
    assert [one.members.tolist() for one in found] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    axes = tj.axes(found, shown)
    assert axes.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    np.testing.assert_allclose(tj.directions(shown, axes)[0], turns @ [0, 0, -1], atol=1e-12)


def test_a_bond_points_from_the_lighter_to_the_heavier():
    shown = Trajectory.of([Atoms("OC", [[0, 0, 0], [0, 0, 1.13]])], spacing_fs=1.0)
    axes = tj.axes(tj.molecules(shown), shown, "CO")
    assert axes.tolist() == [[1, 0]]
    np.testing.assert_allclose(tj.directions(shown, axes), [[[0, 0, -1]]])


def test_axes_that_cannot_be_are_refused():
    shown = Trajectory.of([molecule("CH4")], spacing_fs=1.0)
    with pytest.raises(ValueError, match=r"there is no molecule of two or three atoms in trajectory, only CH4"):
        tj.axes(tj.molecules(shown), shown)
    with pytest.raises(ValueError, match=r"CH4 has 5 atoms and 4 bonds; an axis was expected"):
        tj.axes(tj.molecules(shown), shown, "CH4")
    with pytest.raises(ValueError, match=r"atoms of axes have the shape \(1, 4\)"):
        tj.directions(shown, [[0, 1, 2, 3]])


def test_uniform_directions_have_no_free_energy():
    u = uniform(20_000, 1)
    found = tj.vector(u)
    assert np.abs(found.value / found.error).max() < 3.5
    np.testing.assert_allclose(found.error, 1 / 20_000**0.5, rtol=0.1)  # √3 std(u_x) = 1
    for n in (20_000, 500_000):
        assert tj.free_energy(uniform(n)).std == pytest.approx(tj.noise(n), rel=0.15)


@pytest.mark.parametrize("size", [0.2, 1.5])
def test_a_vector_of_a_known_distribution_is_the_langevin_function(size):
    a = size * np.array([0.36, -0.48, 0.8])
    u = boltzmann(a, 300_000)
    found = tj.vector(u[:, None])
    exact = 3**0.5 * langevin(size) * a / size
    assert np.abs((found.value - exact) / found.error).max() < 4
    shown = tj.free_energy(u)
    np.testing.assert_allclose(shown.vector, a / 3**0.5, atol=0.015)  # F = a·u, whatever the size
    assert shown.std == pytest.approx(size / 3**0.5, abs=0.02)
    assert shown.shares[0] > 0.9
    assert shown.values[:, 0][np.argmax(shown.cosines)] == pytest.approx(0.8 * size, abs=0.15)


def test_the_smoothing_of_a_map_is_a_kernel_on_the_sphere():
    cosines, azimuths = np.array([-0.5, 0.3, 0.9]), np.array([0.0, 1.0, 4.0])
    u = tj.sphere([0.3], [1.0])[0]
    shown = tj.free_energy(u, bandwidth=0.3, cosines=cosines, azimuths=azimuths)
    exact = -(tj.sphere(cosines, azimuths) @ u[0]) / 0.3**2
    np.testing.assert_allclose(shown.values, exact - exact.mean(), atol=0.15)  # the width of a cell


def test_correlated_directions_have_larger_errors():
    u = np.repeat(uniform(2000, 4), 10, axis=0)
    often, once = tj.vector(u), tj.vector(u[::10])
    np.testing.assert_allclose(often.error, once.error, rtol=0.2)
    assert often.n_independent < 1.2 * len(u) / 10


def test_energies_of_all_orientations_predict_the_boltzmann_distribution():
    a, rule = np.array([0.5, -0.3, 1.1]), Rotations.parse("so3:15")
    b = np.array([0.0, 0.6, 0.8])
    energies = BOLTZMANN * 300 * (rule.matrices.numpy() @ b) @ a + 7.0
    shown, found = tj.predicted(energies, rule, b, 300.0)
    size = np.linalg.norm(a)
    np.testing.assert_allclose(found.value, 3**0.5 * langevin(size) * a / size, rtol=1e-6)
    np.testing.assert_allclose(shown.vector, a / 3**0.5, rtol=2e-3)
    np.testing.assert_allclose(shown.values, tj.sphere(shown.cosines, shown.azimuths) @ a, atol=0.01)


def test_geometries_are_averaged_with_an_error():
    rule = Rotations.parse("so3:6")
    axes = uniform(3)
    along = np.einsum("rxy,gy->grx", rule.matrices.numpy(), axes)[..., 2] * BOLTZMANN * 300
    sizes = np.array([0.01, 0.02, 0.03])
    _, found = tj.predicted(sizes[:, None] * along + [[1.0], [2.0], [3.0]], rule, axes, 300.0)
    np.testing.assert_allclose(found.value, [0, 0, 0.02 / 3**0.5], atol=1e-6)
    assert found.error[2] == pytest.approx(0.01 / 3**0.5 / 3**0.5, rel=1e-3)


def test_predictions_and_maps_without_meaning_are_refused():
    rule = Rotations.parse("so3:6")
    with pytest.raises(ValueError, match=r"energies of shape \(1, 3\) and axes of shape"):
        tj.predicted(np.zeros(3), rule, [0, 0, 1], 300)
    with pytest.raises(ValueError, match=r"i at 300 K cannot say where an axis will point"):
        tj.predicted(np.zeros(2), Rotations.parse("i"), [0, 0, 1], 300)
    with pytest.raises(ValueError, match=r"a density of 1 directions with a bandwidth of 0.001 rad"):
        tj.free_energy([[0, 0, 1]], bandwidth=0.001)


def test_molecules_that_follow_each_other_are_correlated_along_and_across():
    u = uniform(500, 8)
    x = np.random.default_rng(5).random((500, 8, 3)) * 30
    x[:, 1::2] = x[:, ::2] + 3 * u[:, ::2]  # the second of each pair lies where the first points, and points there too
    u[:, 1::2] = u[:, ::2]
    pairs = tj.correlations(moving(x, box=30.0), np.arange(8)[:, None], u, r_max=6.0, points=61, n_blocks=5)
    near = np.argmin(np.abs(pairs.r - 3.0))
    assert pairs.longitudinal[near] == pytest.approx(1, abs=0.05)
    assert pairs.transverse[near] == pytest.approx(0, abs=0.05)
    far = np.abs(pairs.r - 5.0) < 0.5
    assert abs(pairs.longitudinal[far].mean()) < 0.1
    assert abs(pairs.transverse[far].mean()) < 0.2
    assert pairs.longitudinal_error[near] < 0.05


def test_parallel_molecules_are_correlated_a_third_along_and_two_thirds_across():
    x = np.random.default_rng(5).random((300, 20, 3)) * 12
    pairs = tj.correlations(moving(x, box=12.0), np.arange(20)[:, None], np.tile([0, 0, 1.0], (300, 20, 1)), r_max=5)
    far = pairs.r > 2
    assert pairs.longitudinal[far].mean() == pytest.approx(1 / 3, abs=0.02)
    np.testing.assert_allclose(pairs.longitudinal[far] + pairs.transverse[far], 1)


# --------------------------------------------------------------------------------------------------------------- checks


def test_kinetic_energies_of_a_thermostat_are_told_from_those_of_another():
    pytest.importorskip("physical_validation")
    energies = np.random.default_rng(0).gamma(30, BOLTZMANN * 300, size=2000)
    right, wrong = checks.kinetic(energies, 60, 300.0), checks.kinetic(energies, 60, 310.0)
    assert max(right.mean_sigmas, right.width_sigmas) < 3
    assert right.p_value > 0.01
    assert right.mean_K == pytest.approx(300, rel=0.02)
    assert wrong.mean_sigmas > 5
    assert wrong.p_value < 1e-3
    flat = checks.kinetic(energies.mean() + 0.5 * (energies - energies.mean()), 60, 300.0)
    assert flat.mean_sigmas < 3 < 10 < flat.width_sigmas


def warm(hotter=1.0) -> Trajectory:
    """Water molecules with velocities of 300 K, of hydrogen hotter by a factor, the centre of mass at rest."""
    atoms = water(6, box=24.0)
    scale = (BOLTZMANN * 300 / atoms.get_masses()) ** 0.5 * float(ase.units.fs)
    v = noise(120, 18, 3) * scale[:, None] * np.where(atoms.numbers == 1, hotter**0.5, 1)[:, None]
    v -= np.einsum("n,knx->kx", atoms.get_masses() / atoms.get_masses().sum(), v)[:, None]
    return moving(np.tile(atoms.positions, (120, 1, 1)), atoms.symbols, box=24.0, velocities=v)


def test_motions_of_molecules_are_equally_hot_or_not():
    pytest.importorskip("physical_validation")
    even, uneven = (checks.equipartition(one, tj.molecules(one), 300.0) for one in (warm(), warm(hotter=1.5)))
    assert max(max(pair) for pair in even.values()) < 4
    assert uneven["rotation"][0] > 8 > uneven["translation"][0]
    assert set(even) == {"all", "translation", "rotation and vibration", "rotation", "vibration"}


def test_two_temperatures_tell_whether_the_ensemble_is_canonical():
    pytest.importorskip("physical_validation")
    random = np.random.default_rng(1)
    cold, hot = (random.gamma(30, BOLTZMANN * t, size=1500) for t in (300, 330))
    assert checks.ensembles({300.0: cold, 330.0: hot}) < 3
    assert checks.ensembles({300.0: cold, 360.0: hot}) > 5


def test_the_scatter_of_what_is_conserved_falls_with_the_square_of_the_time_step():
    pytest.importorskip("physical_validation")
    scatter = noise(1000)
    assert checks.convergence({1.0: scatter, 0.5: scatter / 4, 0.25: scatter / 16}) < 0.01
    assert checks.convergence({1.0: scatter, 0.5: scatter / 2}) == pytest.approx(0.5, abs=0.01)


def test_checks_of_too_little_are_refused():
    pytest.importorskip("physical_validation")
    with pytest.raises(ValueError, match=r"there are 5 kinetic energies; at least 20 were expected"):
        checks.kinetic(np.ones(5), 3, 300)
    with pytest.raises(ValueError, match=r"1 temperatures were given; the ensemble was expected"):
        checks.ensembles({300.0: np.ones(30)})
    with pytest.raises(ValueError, match=r"1 run was given; convergence with the time step"):
        checks.convergence({1.0: np.ones(30)})
    with pytest.raises(ValueError, match=r"made up has no velocities; equipartition is about them"):
        checks.equipartition(moving(noise(30, 2, 3)), (), 300.0)


def test_checks_without_their_package_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "physical_validation", None)
    with pytest.raises(
        ImportError, match=r"needs physical_validation, which is not installed. Run: pip install 'tumble\[ana"
    ):
        checks.kinetic(np.ones(30), 3, 300)
