import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.units import GPa

from tumble.crystal import space_group
from tumble.jobs.elastic.equation import (
    BIRCH,
    VINET,
    Fit,
    fit_energies,
    fit_pressures,
    mean_over_intervals,
    mean_pressures_GPa,
)
from tumble.jobs.elastic.finding import state_of, waves
from tumble.jobs.elastic.tensor import (
    independent,
    moduli,
    norm,
    projected,
    stiffnesses,
    to_strain,
    to_voigt,
    turned,
)
from tumble.jobs.elastic.verdicts import in_words
from tumble.units import EV_PER_A3_TO_GPa

SILICON = (165.8, 63.9, 79.6)
"""Measured C11, C12, C44 of silicon, GPa."""


def cubic(c11: float, c12: float, c44: float) -> np.ndarray:
    constants = np.diag([c11 - c12] * 3 + [c44] * 3)
    constants[:3, :3] += c12
    return constants


def random_turn(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]


def anything(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(6, 6))


# --------------------------------------------------------------------------------------------------------------- tensor


def test_a_tensor_says_the_same_stress_of_a_turned_strain():
    constants, turn = anything(0), random_turn(1)
    strain = np.array([0.1, -0.2, 0.3, 0.05, -0.1, 0.2])
    stress = to_strain((constants @ strain) * [1, 1, 1, 2, 2, 2])
    of_strain = turn @ to_strain(strain) @ turn.T
    doubled = to_voigt(of_strain) * [1, 1, 1, 2, 2, 2]
    np.testing.assert_allclose(turned(constants, turn) @ doubled, to_voigt(turn @ stress @ turn.T), atol=1e-14)


def test_a_full_turn_about_the_fourfold_axis_permutes_a_tensor():
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    constants = np.diag([1.0, 2, 3, 4, 5, 6])
    np.testing.assert_allclose(turned(constants, quarter), np.diag([2.0, 1, 3, 5, 4, 6]), atol=1e-14)


def test_projecting_is_idempotent_shrinks_and_leaves_an_energy():
    turns = space_group(bulk("Ti", "hcp", a=2.95, c=4.68)).turns
    given = anything(2)
    once = projected(given, turns)
    np.testing.assert_allclose(projected(once, turns), once, atol=1e-13)
    np.testing.assert_allclose(once, once.T, atol=1e-13)
    assert norm(given) ** 2 == pytest.approx(norm(once) ** 2 + norm(given - once) ** 2)
    assert once[5, 5] == pytest.approx((once[0, 0] - once[0, 1]) / 2)


def test_an_isotropic_tensor_passes_every_turn():
    constants = cubic(3.0, 1.0, 1.0)
    np.testing.assert_allclose(turned(constants, random_turn(3)), constants, atol=1e-14)
    assert moduli(constants).universal == pytest.approx(0.0, abs=1e-14)


@pytest.mark.parametrize(
    ("atoms", "names"),
    [
        (bulk("Ar", "fcc", a=5.3), "C11 C12 C44"),
        (bulk("Ti", "hcp", a=2.95, c=4.68), "C11 C12 C13 C33 C44"),
        (Atoms("In", cell=[3.0, 3.0, 4.0], pbc=True), "C11 C12 C13 C33 C44 C66"),
        (Atoms("In", cell=[3.0, 3.5, 4.0], pbc=True), "C11 C12 C13 C22 C23 C33 C44 C55 C66"),
    ],
)
def test_the_independent_constants_are_those_of_the_crystal_system(atoms, names):
    assert " ".join(one.name for one in independent(space_group(atoms).turns)) == names


def test_without_symmetry_all_21_constants_are_independent():
    found = independent(np.eye(3)[None])
    assert len(found) == 21
    assert found[1].equal == ((0, 1), (1, 0))


def test_a_cubic_constant_is_held_by_three_entries():
    c11, c12, c44 = independent(space_group(bulk("Ar", "fcc", a=5.3)).turns)
    assert c11.equal == ((0, 0), (1, 1), (2, 2))
    assert len(c12.equal) == 6
    assert c44.equal == ((3, 3), (4, 4), (5, 5))


def test_moduli_of_a_cubic_crystal_are_those_of_the_textbook():
    c11, c12, c44 = SILICON
    known = moduli(cubic(*SILICON))
    assert known.bulk_voigt == pytest.approx((c11 + 2 * c12) / 3)
    assert known.bulk_reuss == pytest.approx((c11 + 2 * c12) / 3)
    assert known.shear_voigt == pytest.approx((c11 - c12 + 3 * c44) / 5)
    assert known.shear_reuss == pytest.approx(5 * (c11 - c12) * c44 / (4 * c44 + 3 * (c11 - c12)))
    assert known.shear == pytest.approx((known.shear_voigt + known.shear_reuss) / 2)
    assert known.young == pytest.approx(2 * known.shear * (1 + known.poisson))
    zener = 2 * c44 / (c11 - c12)
    assert known.universal == pytest.approx(6 / 5 * (np.sqrt(zener) - 1 / np.sqrt(zener)) ** 2)


def test_moduli_do_not_depend_on_the_axes_and_lie_between_their_bounds():
    constants = anything(4)
    constants = constants @ constants.T + np.eye(6)
    known, other = moduli(constants), moduli(turned(constants, random_turn(5)))
    np.testing.assert_allclose(known, other)
    assert known.shear_reuss < known.shear_voigt
    assert known.bulk_reuss < known.bulk_voigt


def test_a_tensor_that_cannot_be_inverted_has_no_bound_of_reuss():
    known = moduli(cubic(1.0, 0.5, 0.0))
    assert np.isnan(known.shear_reuss)
    assert known.shear_voigt == pytest.approx(0.1)


def test_silicon_as_measured_has_its_debye_temperature():
    found = waves(bulk("Si", a=5.431), moduli(cubic(*SILICON)))
    assert found.density_g_per_cm3 == pytest.approx(2.329, abs=2e-3)
    assert found.debye_K == pytest.approx(645, abs=5)  # from sound speeds, as tabulated
    assert found.longitudinal_m_per_s > found.transverse_m_per_s > 5000


def test_stiffnesses_of_a_cubic_crystal_are_its_three_kinds_of_strain():
    values, strains = stiffnesses(cubic(*SILICON))
    np.testing.assert_allclose(values, [101.9, 101.9, 159.2, 159.2, 159.2, 293.6])
    assert in_words(strains[-1]) == "a change of volume"
    np.testing.assert_allclose(np.einsum("sij,tij->st", strains, strains), np.eye(6), atol=1e-14)


def test_a_crystal_with_c44_below_zero_is_soft_against_shear():
    constants = cubic(3.0, 1.0, 1.0)
    constants[4, 4] = -0.5
    values, strains = stiffnesses(constants)
    assert values[0] == pytest.approx(-1.0)
    assert in_words(strains[0]) == "+0.71 xz"


# ---------------------------------------------------------------------------------------------------- equation of state

VOLUMES = np.linspace(37.0, 43.0, 9)


def known_fit(name: str) -> Fit:
    return Fit(name, 40.3, 95.0, 4.3, -10.8, 0.0, (0.0, 0.0, 0.0))


@pytest.mark.parametrize("name", [BIRCH, VINET])
def test_an_equation_of_state_finds_its_own_parameters(name):
    known = known_fit(name)
    found = fit_energies(name, VOLUMES, known.energies(VOLUMES))
    assert found is not None
    np.testing.assert_allclose(found[1:5], known[1:5], rtol=1e-8)
    assert found.residual < 1e-12
    assert max(found.errors) < 1e-8


@pytest.mark.parametrize("name", [BIRCH, VINET])
def test_pressure_is_minus_the_slope_of_the_energy(name):
    known, step = known_fit(name), 1e-4
    slope = (known.energies(VOLUMES + step) - known.energies(VOLUMES - step)) / (2 * step)
    np.testing.assert_allclose(known.pressures_GPa(VOLUMES), -EV_PER_A3_TO_GPa * slope, atol=1e-6)
    assert known.pressures_GPa(np.array([40.3]))[0] == pytest.approx(0.0, abs=1e-12)
    assert known.bulk_at_GPa(40.3) == pytest.approx(95.0, rel=1e-6)


@pytest.mark.parametrize("name", [BIRCH, VINET])
def test_an_equation_fitted_to_pressures_finds_the_same_parameters(name):
    known = known_fit(name)
    start = fit_energies(name, VOLUMES, known.energies(VOLUMES) + 1e-3 * np.cos(VOLUMES))
    assert start is not None
    found = fit_pressures(name, VOLUMES, known.pressures_GPa(VOLUMES), start)
    assert found is not None
    np.testing.assert_allclose(found[1:4], known[1:4], rtol=1e-8)


@pytest.mark.parametrize(("name", "theirs"), [(BIRCH, "birchmurnaghan"), (VINET, "vinet")])
def test_a_fit_is_that_of_ase(name, theirs):
    from ase.eos import EquationOfState

    energies = known_fit(BIRCH).energies(VOLUMES) + 1e-4 * np.random.default_rng(0).normal(size=9)
    volume, energy, bulk = EquationOfState(VOLUMES, energies, eos=theirs).fit(warn=False)
    found = fit_energies(name, VOLUMES, energies)
    assert found is not None
    np.testing.assert_allclose([found.volume, found.energy, found.bulk_GPa], [volume, energy, bulk / GPa], rtol=2e-4)


def test_standard_errors_are_the_scatter_of_repeated_fits():
    random, clean = np.random.default_rng(0), known_fit(BIRCH).energies(VOLUMES)
    fits = [fit_energies(BIRCH, VOLUMES, clean + 1e-4 * random.normal(size=9)) for _ in range(200)]
    bulks = [fit.bulk_GPa for fit in fits if fit is not None]
    said = np.sqrt(np.mean([fit.errors[1] ** 2 for fit in fits if fit is not None]))
    assert said == pytest.approx(np.std(bulks), rel=0.15)


@pytest.mark.parametrize("energies", [-((VOLUMES - 40.0) ** 2), VOLUMES, 1e-4 * (VOLUMES - 90.0) ** 2])
def test_energies_without_a_minimum_in_sight_have_no_fit(energies):
    assert fit_energies(BIRCH, VOLUMES, energies) is None


def test_mean_pressures_of_energy_and_spline_agree():
    known = known_fit(VINET)
    from_energy = mean_pressures_GPa(VOLUMES, known.energies(VOLUMES))
    from_stress = mean_over_intervals(VOLUMES, known.pressures_GPa(VOLUMES))
    np.testing.assert_allclose(from_energy, from_stress, atol=2e-4)


def test_a_pressure_that_is_off_by_a_constant_is_seen_as_such():
    known = known_fit(BIRCH)
    state = state_of(VOLUMES, known.energies(VOLUMES), known.pressures_GPa(VOLUMES) + 0.7)
    np.testing.assert_allclose(state.gaps_GPa, 0.7, atol=1e-3)
    assert state.of_pressures is not None
    assert state.of_pressures.volume > known.volume
    honest = state_of(VOLUMES, known.energies(VOLUMES), known.pressures_GPa(VOLUMES))
    assert honest.pressure_share < 1e-4 < state.pressure_share
    assert honest.best.name == BIRCH
