import math
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from torch import Tensor

from analytic import PairFunction, Recorder
from tumble.crystal import space_group
from tumble.jobs.phonons import PhononsResult, PhononsSettings, phonons
from tumble.jobs.phonons.cells import cells_of
from tumble.jobs.phonons.constants import measured, projected
from tumble.jobs.phonons.crystal import Crystal
from tumble.jobs.phonons.path import segments_of, ticks_of
from tumble.jobs.phonons.thermal import states_of, thermal_of
from tumble.models.pair import LennardJones
from tumble.potential import Gradient, Potential
from tumble.results import Curve, Table
from tumble.symmetry import symmetrize
from tumble.units import THZ

pytestmark = pytest.mark.engine
pytest.importorskip("phonopy")
pytest.importorskip("seekpath")

A = 3.0
"""Å, distance of nearest neighbours."""

QUICK = {"average": "none", "points": 24, "mesh_A": 10.0, "force": True}


def springs(k: float = 2.0, epsilon: float = 0.0, quartic: float = 0.0) -> Gradient:
    """Springs between nearest neighbours, and two ways to depend on directions: ε x² and ε' (x⁴ + y⁴ + z⁴)."""

    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        around = (v**4).sum(1) / v.square().sum(1)
        return k / 2 * (v.norm(dim=1) - A) ** 2 + epsilon * v[:, 0] ** 2 + quartic * around

    return Gradient(PairFunction(energy, cutoff=1.2 * A))


def argon() -> Potential:
    return Gradient(LennardJones(0.0103, 3.4, cutoff=4.7, onset=4.6))


def fcc(a: float = A * math.sqrt(2)) -> Atoms:
    return bulk("Ar", "fcc", a=a)


def rocksalt() -> Atoms:
    return bulk("NaCl", "rocksalt", a=2 * A)


def found(result: PhononsResult) -> Crystal:
    assert isinstance(result.found, Crystal)
    return result.found


def at(result: PhononsResult, label: str, key: str = "projected") -> np.ndarray:
    """Frequencies at a corner of the path."""
    start = 0
    for one in found(result).segments:
        for name, row in zip(one.labels, (start, start + len(one.x) - 1), strict=True):
            if name == label:
                return found(result).bands.frequencies_THz[key][row]
        start += len(one.x)
    raise AssertionError(label)


def test_an_fcc_crystal_of_springs_has_its_closed_form_at_the_corners_of_the_zone():
    k, mass = 2.0, fcc().get_masses()[0]
    result = phonons(springs(k), fcc(), PhononsSettings(supercell=(2, 2, 2), **QUICK))
    assert at(result, "Γ") == pytest.approx(np.zeros(3), abs=1e-5)
    assert at(result, "X") == pytest.approx(THZ * np.sqrt(np.array([4, 4, 8]) * k / mass), rel=1e-5)
    assert at(result, "L") == pytest.approx(THZ * np.sqrt(np.array([2, 2, 8]) * k / mass), rel=1e-5)


def test_lennard_jones_frequencies_are_those_of_its_lattice_sum_at_any_wave_vector():
    a, sigma, epsilon = 5.4, 3.4, 0.0103
    result = phonons(argon(), fcc(a), PhononsSettings(supercell=(3, 3, 3), displacement_A=0.001, **QUICK))
    steps = np.indices((3, 3, 3)).reshape(3, -1).T - 1
    vectors = steps @ fcc(a).cell.array
    vectors = vectors[np.abs(np.linalg.norm(vectors, axis=1) - a / math.sqrt(2)) < 1e-6]
    assert len(vectors) == 12
    r = a / math.sqrt(2)
    first = 4 * epsilon * (-12 * sigma**12 / r**13 + 6 * sigma**6 / r**7)
    second = 4 * epsilon * (156 * sigma**12 / r**14 - 42 * sigma**6 / r**8)
    along = np.einsum("ki,kj->kij", vectors, vectors) / r**2
    springs_of = (second - first / r) * along + first / r * np.eye(3)
    one = found(result)
    for q, frequencies in zip(one.mesh.q, one.modes.frequencies_THz["projected"], strict=True):
        phases = 1 - np.cos(vectors @ (2 * np.pi * np.linalg.inv(fcc(a).cell.array) @ q))
        dynamical = np.einsum("k,kij->ij", phases, springs_of) / fcc().get_masses()[0]
        values = np.linalg.eigvalsh(dynamical)
        assert frequencies == pytest.approx(THZ * np.sign(values) * np.sqrt(np.abs(values)), abs=2e-4)
    assert len(one.mesh.q) > 10


def test_nothing_is_forbidden_of_an_invariant_potential():
    turned = make_supercell(fcc(), [[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    turned.rotate(20, (1, 2, 3), rotate_cell=True)
    result = phonons(springs(), turned, PhononsSettings(supercell=(2, 2, 2), displacement_A=0.001, **QUICK))
    one = found(result)
    assert one.sizes is not None
    assert one.sizes.forbidden < 1e-5
    assert one.modes.errors_THz.max() < 1e-4
    assert [verdict.answer for verdict in result.verdicts()] == ["yes", "yes", "yes"]
    assert [verdict.key for verdict in result.verdicts()] == ["phonons", "stability", "degeneracy"]


def test_a_degenerate_optical_mode_splits_by_its_closed_form_and_not_at_all_when_projected():
    epsilon, k = 1e-3, 2.0
    settings = PhononsSettings(supercell=(2, 2, 2), displacement_A=0.001, **QUICK)
    result = phonons(springs(k, epsilon), rocksalt(), settings)
    reduced = 1 / np.sum(1 / rocksalt().get_masses())
    middle = THZ * math.sqrt((2 * k + 4 * epsilon) / reduced)
    assert at(result, "Γ")[3:] == pytest.approx(np.full(3, middle), rel=1e-6)
    shifts = THZ**2 * 12 * epsilon / reduced / (2 * middle) * np.array([-1 / 3, -1 / 3, 2 / 3])
    one = found(result)
    assert one.bands.first_THz[0, 3:] == pytest.approx(shifts, rel=1e-3)
    assert one.bands.errors_THz[0, 3:] == pytest.approx(np.abs(shifts), rel=3e-3)
    assert one.splittings["±"][0] == pytest.approx(shifts[2] - shifts[0], rel=3e-3)
    assert one.splitting_THz("projected") < 1e-6
    verdicts = {verdict.key: verdict for verdict in result.verdicts()}
    assert verdicts["phonons"].value == pytest.approx(one.rms(one.modes.errors_THz))
    assert verdicts["degeneracy"].value == pytest.approx(one.splitting_THz("±"))


def test_what_depends_on_directions_splits_modes_until_it_is_projected_or_averaged():
    turned = rocksalt()
    turned.rotate(20, (1, 2, 3), rotate_cell=True)
    settings = PhononsSettings(
        supercell=(2, 2, 2), **QUICK | {"average": "I"}, displacement_A=0.001, threshold_THz=0.002
    )
    result = phonons(springs(quartic=0.01), turned, settings)
    one = found(result)
    assert one.splitting_THz("±") > 0.01
    assert one.splitting_THz("averaged") < 1e-4
    assert one.splitting_THz("projected") < 1e-6
    verdicts = {verdict.key: verdict for verdict in result.verdicts()}
    assert verdicts["phonons"].answer == verdicts["degeneracy"].answer == "remedy"
    assert "project" in verdicts["degeneracy"].remedy
    # The projected ones differ from one orientation to another, which only an average repairs.
    assert "average over I" in verdicts["phonons"].remedy
    assert "× the time" in verdicts["phonons"].cost


def test_a_potential_that_is_averaged_already_is_not_averaged_again():
    averaged = symmetrize(springs(), "T")
    result = phonons(averaged, rocksalt(), PhononsSettings(supercell=(1, 1, 1), points=8, mesh_A=3.0, force=True))
    assert set(found(result).constants) == {"raw", "±", "projected"}


def test_an_average_that_repeats_the_symmetry_of_the_crystal_is_said_to_be_blind():
    usual = {"supercell": (1, 1, 1), "points": 8, "mesh_A": 3.0, "force": True}
    blind = phonons(springs(quartic=0.01), rocksalt(), PhononsSettings(average="O", **usual))
    seeing = phonons(springs(quartic=0.01), rocksalt(), PhononsSettings(average="O@generic", **usual))
    assert "repeats the symmetry of the structure" in blind.verdicts()[0].reason
    assert "repeats" not in seeing.verdicts()[0].reason
    assert found(blind).rms(found(blind).difference("averaged")) < 1e-6
    assert found(seeing).rms(found(seeing).difference("averaged")) > 1e-3


def test_raw_force_constants_hold_the_force_at_rest_and_those_forth_and_back_do_not():
    cells = cells_of(bulk("NaCl", "rocksalt", a=2 * A) * (1, 1, 2), 3.6, PhononsSettings(supercell=(1, 1, 1), **QUICK))
    one = measured(PushedAside(springs()), cells, 0.01, reduced=False, tell=lambda progress: None)
    # A force of 1 meV/Å on every atom, divided by the step.
    assert (one.raw - one.both)[..., 0].mean() == pytest.approx(-0.1, rel=1e-3)
    assert one.both.sum(1) == pytest.approx(0, abs=1e-8)


class PushedAside(Potential):
    """A constant force on every atom beside those of another potential."""

    is_conservative = False

    def __init__(self, inner: Potential) -> None:
        super().__init__()
        self.inner = inner
        self.cutoff, self.species = inner.cutoff, None

    def forward(self, batch):
        answer = self.inner(batch)
        push = answer.forces.new_tensor([1e-3, 0.0, 0.0])
        return answer._replace(forces=answer.forces + push)


@pytest.mark.parametrize("atoms", [fcc(), bulk("Mg", "hcp", a=A)], ids=["fcc", "hcp"])
def test_our_projection_is_that_of_symfc(atoms):
    pytest.importorskip("symfc")
    from phonopy.interface.symfc import symmetrize_by_projector

    cells = cells_of(atoms, 3.6, PhononsSettings(supercell=(2, 2, 2), **QUICK))
    given = np.random.default_rng(0).normal(size=(len(cells.chosen), len(cells.supercell), 3, 3))
    ours, sizes = projected(given, cells)
    theirs = symmetrize_by_projector(cells.engine.supercell, given, 2, primitive=cells.engine.primitive)
    assert ours == pytest.approx(theirs, abs=1e-8)
    again, nothing = projected(ours, cells)
    assert again == pytest.approx(ours, abs=1e-12)
    assert sizes.forbidden > 1 > 1e-10 > nothing.forbidden


def test_frequencies_are_those_of_phonopy_by_its_own_route():
    import phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    from tumble.packs import predict

    atoms = fcc(5.3)
    result = phonons(argon(), atoms, PhononsSettings(supercell=(3, 3, 3), displacement_A=0.001, **QUICK))
    unit = PhonopyAtoms(numbers=atoms.numbers, cell=atoms.cell.array, scaled_positions=atoms.get_scaled_positions())
    theirs = phonopy.Phonopy(unit, np.diag([3, 3, 3]), primitive_matrix=np.eye(3))
    theirs.generate_displacements(distance=0.001)
    copies = [
        Atoms(one.numbers, cell=one.cell, scaled_positions=one.scaled_positions, pbc=True)
        for one in theirs.supercells_with_displacements
    ]
    theirs.forces = np.stack([answer.forces.numpy() for answer in predict(argon(), copies)])
    theirs.produce_force_constants()
    theirs.symmetrize_force_constants()
    one = found(result)
    theirs.run_qpoints(one.mesh.q)
    expected = theirs.qpoints.frequencies
    assert one.modes.frequencies_THz["projected"] == pytest.approx(expected, abs=2e-4)
    theirs.run_mesh(one.mesh.counts, is_gamma_center=True)
    theirs.run_thermal_properties(temperatures=[300.0], cutoff_frequency=0.01)
    thermal = theirs.thermal_properties
    asked = list(one.rows["projected"].temperatures_K).index(300.0)
    per_mol = 96.485332 / 1000
    assert one.rows["projected"].free_energy[asked] * per_mol == pytest.approx(thermal.free_energy[0], rel=1e-4)
    assert one.rows["projected"].entropy[asked] * 8.314462 == pytest.approx(thermal.entropy[0], rel=1e-4)
    assert one.rows["projected"].heat_capacity[asked] * 8.314462 == pytest.approx(thermal.heat_capacity[0], rel=1e-4)


def test_reduced_displacements_give_the_same_frequencies_and_say_what_they_hide():
    all_of_them = phonons(springs(), fcc(), PhononsSettings(supercell=(2, 2, 2), displacement_A=0.001, **QUICK))
    watched = Recorder(springs())
    settings = PhononsSettings(supercell=(2, 2, 2), displacement_A=0.001, displacements="reduced", **QUICK)
    result = phonons(watched, fcc(), settings)
    ours, theirs = found(all_of_them).modes.frequencies_THz, found(result).modes.frequencies_THz
    assert theirs["projected"] == pytest.approx(ours["projected"], abs=1e-4)
    assert found(result).measured["±"].n_calls == 2 < found(all_of_them).measured["±"].n_calls == 6
    assert found(result).sizes is None
    verdicts = {verdict.key: verdict for verdict in result.verdicts()}
    assert verdicts["phonons"].answer == verdicts["degeneracy"].answer == "unknown"
    assert "reduced displacements hide" in verdicts["phonons"].reason
    assert all(one.error is None for fact in result.facts() if isinstance(fact, Curve) for one in fact.series)
    by_budget = phonons(springs(), fcc(), PhononsSettings(supercell=(1, 1, 1), budget=5, **QUICK))
    assert found(by_budget).sizes is None


def test_all_displaced_supercells_are_asked_about_together():
    watched = Recorder(springs())
    phonons(watched, rocksalt(), PhononsSettings(supercell=(1, 1, 1), **QUICK))
    assert (12, 24) in {(n_structures, n_atoms) for n_structures, n_atoms, _ in watched.calls}


def test_other_displacements_are_compared_with_the_first():
    settings = PhononsSettings(supercell=(2, 2, 2), scan_A=(0.02, 0.04), **QUICK)
    result = phonons(argon(), fcc(5.3), settings)
    small, large = result.scanned.scans
    # What differences miss goes as the square of the displacement.
    assert large.rms_THz / small.rms_THz == pytest.approx((16 - 1) / (4 - 1), rel=0.02)
    assert large.lowest_THz > -1e-4
    table = next(fact for fact in result.facts() if fact.title == "Other displacements")
    assert [row[0] for row in table.rows] == [0.02, 0.04]


def test_thermodynamics_of_one_oscillator_are_their_closed_form():
    h_nu, kT = 4.135667696e-3 * 6.0, 8.617333262e-5 * 300
    x = h_nu / kT
    found = thermal_of(np.array([[6.0, -2.0, 1e-9]]), np.ones(1), np.array([0.0, 300.0, 1e5]), n_atoms=1)
    assert found.free_energy[:2] == pytest.approx(
        [500 * h_nu, 1000 * (h_nu / 2 + kT * math.log(1 - math.exp(-x)))], rel=1e-7
    )
    assert found.heat_capacity[1] == pytest.approx(x**2 * math.exp(x) / (math.exp(x) - 1) ** 2, rel=1e-7)
    assert found.heat_capacity[2] == pytest.approx(1, rel=1e-4)
    assert found.entropy[1] == pytest.approx(x / (math.exp(x) - 1) - math.log(1 - math.exp(-x)), rel=1e-7)
    assert found.entropy[0] == found.heat_capacity[0] == 0


def test_a_density_of_states_counts_all_modes_where_they_are():
    grid = np.linspace(0, 10, 201)
    density = states_of(np.array([[2.0, 7.0], [2.0, 8.0]]), np.array([0.25, 0.75]), grid, 0.2)
    assert density.sum() * 0.05 == pytest.approx(2, rel=1e-6)
    assert density[40] == pytest.approx(1 / (0.2 * math.sqrt(2 * math.pi)), rel=1e-3)
    assert density[160] / density[140] == pytest.approx(3, rel=1e-3)


def test_phonopy_opens_the_file_and_finds_the_same_frequencies(tmp_path):
    import phonopy

    result = phonons(springs(epsilon=1e-3), rocksalt() * (1, 1, 1), PhononsSettings(supercell=(2, 2, 2), **QUICK))
    path = tmp_path / "phonopy_params.yaml"
    path.write_bytes(result.files()["phonopy_params.yaml"])
    theirs = phonopy.load(path, log_level=0)
    theirs.run_qpoints(found(result).mesh.q)
    expected = theirs.qpoints.frequencies
    optical = np.s_[:, 3:]
    assert found(result).modes.frequencies_THz["projected"][optical] == pytest.approx(expected[optical], rel=1e-5)


def test_a_conventional_cell_has_the_bands_of_its_primitive_one():
    small = phonons(springs(), fcc(), PhononsSettings(supercell=(2, 2, 2), **QUICK))
    large = phonons(springs(), bulk("Ar", "fcc", a=A * math.sqrt(2), cubic=True), PhononsSettings(**QUICK))
    assert len(found(large).cells.chosen) == 1
    for label in ("X", "L"):
        assert at(large, label) == pytest.approx(at(small, label), abs=1e-4)


def test_the_path_is_that_of_seekpath_or_what_was_asked_for():
    cells = cells_of(fcc(), 3.6, PhononsSettings(supercell=(1, 1, 1), **QUICK))
    usual = segments_of(cells, (), 60)
    assert [name for _, name in ticks_of(usual)] == ["Γ", "X", "U|K", "Γ", "L", "W", "X"]
    assert 55 <= sum(len(one.x) for one in usual) <= 65
    own = segments_of(cells, ("GAMMA", "X", "|", "L", "M 1/2 0 0"), 20)
    assert [one.labels for one in own] == [("Γ", "X"), ("L", "M")]
    assert [one.run for one in own] == [0, 1]
    assert own[1].q[-1] == pytest.approx([0.5, 0, 0])
    assert own[0].x[-1] == own[1].x[0] == pytest.approx(1 / (A * math.sqrt(2)))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("Γ", "Q"), "the corner 'Q' of the path cannot be read; a label among Γ, X, L"),
        (("Γ", "X 0 1"), "the corner 'X 0 1' of the path cannot be read"),
        (("Γ", "X 0 1 a"), "the corner 'X 0 1 a' of the path cannot be read"),
        (("Γ", "X", "|", "L"), r"the path 'Γ X \| L' has a part with 1 corners; at least 2 were expected"),
    ],
)
def test_a_path_that_cannot_be_read_is_refused(path, message):
    with pytest.raises(ValueError, match=message):
        phonons(springs(), fcc(), PhononsSettings(path=path, supercell=(1, 1, 1), **QUICK))


def test_the_supercell_is_as_wide_as_the_cutoff_asks_for_and_as_small_as_allowed():
    settings = PhononsSettings()
    assert cells_of(fcc(), 3.6, settings).multiples == (5, 5, 5)
    assert cells_of(fcc(), 6.0, settings).multiples == (5, 5, 5)
    assert cells_of(fcc(), 3.6, PhononsSettings(width_A=12.3)).multiples == (6, 6, 6)
    narrowed = cells_of(fcc(), 3.6, PhononsSettings(max_atoms=100))
    assert narrowed.multiples == (4, 4, 4)
    assert "less than 10 Å for at most 100 atoms" in narrowed.how
    with pytest.raises(ValueError, match=r"a supercell 12 Å wide takes 5x5x5 copies, 125 atoms; at most max_atoms"):
        cells_of(fcc(), 6.0, PhononsSettings(max_atoms=100))
    with pytest.raises(ValueError, match=r"the supercell 3x3x3 is 7\.\d+ Å wide, and the cutoff .* is 6 Å"):
        cells_of(fcc(), 6.0, PhononsSettings(width_A=6.0))
    with pytest.raises(ValueError, match=r"the supercell 2x2x2 is 4\.\d+ Å wide, and the cutoff of the potential is 3"):
        phonons(springs(), fcc(), PhononsSettings(supercell=(2, 2, 2)))


def test_a_structure_that_is_nearly_symmetric_is_made_exactly_so():
    atoms = bulk("NaCl", "rocksalt", a=2 * A, cubic=True)
    atoms.rattle(1e-5, seed=0)
    result = phonons(springs(), atoms, PhononsSettings(supercell=(1, 1, 1), **QUICK))
    assert space_group(result.atoms[0], 1e-8).n_operations == 48
    assert len(found(result).cells.chosen) == 2


def test_a_structure_that_is_not_at_rest_is_refused_with_the_force_and_the_command():
    atoms = bulk("NaCl", "rocksalt", a=2 * A, cubic=True)
    atoms.positions[0] += [0.1, 0, 0]
    message = r"the force on atom 0 is 400 meV/Å, and phonons expects at most 1\. Run `tumble relax mine"
    with pytest.raises(ValueError, match=message):
        phonons(springs(), atoms, PhononsSettings(**QUICK), name="mine")


def test_forces_that_symmetry_forbids_are_reported_and_not_refused():
    result = phonons(PushedAside(springs()), rocksalt(), PhononsSettings(supercell=(1, 1, 1), fmax=1e-4, **QUICK))
    assert result.rest.force < 1e-12
    assert result.rest.forbidden == pytest.approx(1e-3, rel=1e-6)
    table = next(fact for fact in result.facts() if fact.title == "How it was computed")
    assert dict(table.rows)["largest force that symmetry forbids (meV/Å)"] == pytest.approx(1)


def test_several_structures_and_partial_periodicity_are_refused():
    with pytest.raises(ValueError, match=r"phonons was given 2 structures; one was expected"):
        phonons(springs(), [fcc(), fcc()])
    layer = fcc()
    layer.pbc = (True, True, False)
    with pytest.raises(ValueError, match=r"pbc is \[True, True, False\]; phonons of crystals that repeat"):
        phonons(springs(), layer)


def test_a_missing_engine_is_an_import_error_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "phonopy", None)
    with pytest.raises(
        ImportError, match=r"need phonopy, which is not installed. Run: pip install 'tumble\[phonons\]'"
    ):
        phonons(springs(), fcc(), PhononsSettings(**QUICK))


def test_forces_that_are_not_finite_are_an_error():
    with pytest.raises(RuntimeError, match=r"the forces of 12 of 12 displaced structures are not finite"):
        phonons(Broken(springs()), rocksalt(), PhononsSettings(supercell=(1, 1, 1), **QUICK))


class Broken(Potential):
    """Right for a crystal, and not a number once an atom is displaced."""

    is_conservative = True

    def __init__(self, inner: Potential) -> None:
        super().__init__()
        self.inner = inner
        self.cutoff, self.species = inner.cutoff, None

    def forward(self, batch):
        answer = self.inner(batch)
        return answer if float(answer.forces.abs().max()) < 1e-9 else answer._replace(forces=answer.forces * math.nan)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"supercell": (1, 0, 1)}, r"a supercell of \(1, 0, 1\) copies was asked for"),
        ({"temperatures_K": (-1.0,)}, r"the temperatures are \(-1.0,\) K; at least one, none below 0, was expected"),
        ({"scan_A": (0.01, 0.0)}, r"the displacements to scan are \(0.01, 0.0\) Å; lengths above 0 were expected"),
        ({"average": "Q"}, "Q"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PhononsSettings(**settings)


def test_a_result_states_figures_and_tables_and_is_saved(tmp_path):
    from tumble.results import load_result

    result = phonons(springs(epsilon=1e-3), rocksalt(), PhononsSettings(supercell=(2, 2, 2), **QUICK), name="springs")
    facts = {fact.title: fact for fact in result.facts()}
    bands = facts["Phonon bands"]
    assert isinstance(bands, Curve)
    assert {one.group for one in bands.series} == {"projected", "raw", "±"}
    ribbons = [one for one in bands.series if one.error is not None]
    # One for each of 6 branches on each of 2 parts of the path.
    assert len(ribbons) == 12
    assert max(max(one.error) for one in ribbons) == pytest.approx(found(result).bands.errors_THz.max())
    assert bands.ticks[0] == (0.0, "Γ")
    corners = facts["Frequencies at corners of the path"]
    assert isinstance(corners, Table)
    assert len(corners.rows) == 6 * 6
    assert dict(facts["How it was computed"].rows)["space group"] == "Fm-3m (225)"
    result.save(tmp_path / "out")
    again = load_result(tmp_path / "out")
    assert again.title == "springs on ClNa"
    assert [verdict.key for verdict in again.verdicts()] == ["phonons", "stability", "degeneracy"]
    constants = again.arrays["force_constants_both"]
    assert constants.shape == (2, 16, 3, 3)
    assert [len(one) for one in again.atoms] == [2, 16]
