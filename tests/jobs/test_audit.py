import itertools
import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones as AseLennardJones
from hypothesis import given, settings
from hypothesis import strategies as st

import tumble
from analytic import Foreigner, Recorder, dimer, lopsided, polar, quartic, skewed_dimer
from tumble.batch import Batch, Properties, has_volume
from tumble.bridges.ase import Foreign
from tumble.data import Dataset
from tumble.jobs.audit import AUDIT_V1, AuditSettings, Thresholds, audit
from tumble.jobs.audit.ladder import MEASURING, measuring_rules, price
from tumble.jobs.audit.measures.floor import LEAST, floor, scatter
from tumble.jobs.audit.measures.force_gap import force_gap
from tumble.jobs.audit.measures.spread import (
    difference,
    free_energy,
    net_force,
    over_sphere,
    rms_torque,
    sizes,
    spectra,
)
from tumble.jobs.audit.measures.torque import by_differences, torque
from tumble.jobs.audit.tasks import KEYS
from tumble.jobs.audit.turned import body_axis
from tumble.models.pair import LennardJones
from tumble.models.pet import LLPR, PET, PETSettings
from tumble.orbit import Orbit
from tumble.potential import Direct, Gradient, Model, Outputs, Potential, Sum, collate_for
from tumble.results import Curve, Map, Sketch, Table, load_result
from tumble.rotations import Rotations
from tumble.symmetry import symmetrize
from tumble.units import BOLTZMANN, EV_PER_A3_TO_GPa

EPSILON = 0.3
QUICK = AuditSettings(rotations="o3:6@generic")


def orbit_of(potential: Potential, atoms: Atoms, spec: str = "o3:8@generic") -> Orbit:
    return Orbit.of(potential, collate_for(potential, [atoms]), Rotations.parse(spec))


class Softened(Model):
    """A PET-like float32 model: an anisotropic pair energy with weights."""

    cutoff, species, has_direct_forces = 3.0, None, True

    def __init__(self, tilt: float = 0.1) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(tilt, dtype=torch.float32), requires_grad=False)

    def forward(self, batch: Batch) -> Outputs:
        v, r = batch.vectors, batch.vectors.norm(dim=1)
        energies = (r - 1).square() + self.weight * v[:, 2].square()
        total = torch.zeros(batch.n_atoms, dtype=torch.float64).index_add(0, batch.center, energies.double() / 2)
        return Outputs(total, forces=torch.zeros_like(batch.positions).index_add(0, batch.center, 0.5 * v))


def lennard_jones() -> Gradient:
    return Gradient(LennardJones(sigma=1.0, epsilon=0.1, cutoff=3.0))


# The measures, one by one.


def test_spread_of_the_skewed_dimer_is_its_closed_form():
    orbit = orbit_of(skewed_dimer(EPSILON), dimer())
    found = sizes(orbit.spread(), 2, has_stress=False)
    assert found.energy_meV_per_atom == pytest.approx(1000 * math.sqrt(4 * EPSILON**2 / 45) / 2, rel=1e-10)
    assert found.stress_GPa is None
    assert sizes(orbit.parity(), 2, has_stress=False).energy_meV_per_atom < 1e-10


def test_sizes_are_per_component_and_name_the_worst_atom():
    deviation = Properties(torch.tensor([0.004]), torch.tensor([0.003, 0.009, 0.0]), torch.tensor([0.3]))
    found = sizes(deviation, 4, has_stress=True)
    assert found.energy_meV_per_atom == pytest.approx(1.0)
    assert found.force_meV_per_A == pytest.approx(math.sqrt((9 + 81) / 9))
    assert (found.worst_meV_per_A, found.worst_atom) == (pytest.approx(9.0), 1)
    assert found.stress_GPa == pytest.approx(0.1 * EV_PER_A3_TO_GPa)


def test_difference_is_a_norm_and_none_where_either_is_unknown():
    a = Properties(torch.tensor([1.0]), torch.tensor([[3.0, 0.0, 0.0]]), None)
    b = Properties(torch.tensor([3.0]), torch.tensor([[0.0, 4.0, 0.0]]), torch.zeros(1, 3, 3))
    energy, forces, stress = difference(a, b)
    assert (energy.tolist(), forces.tolist(), stress) == ([2.0], [5.0], None)


def test_the_spectrum_of_the_skewed_dimer_is_all_in_two():
    orbit = orbit_of(skewed_dimer(EPSILON), dimer())
    found = spectra(orbit, orbit.spectrum())
    energy, forces = found["energy"], found["forces"]
    assert energy.fractions.shape == (2, 5)
    assert float(energy.fractions[0, 2]) == pytest.approx(1, abs=1e-10)
    assert energy.rest == pytest.approx(0, abs=1e-10)
    assert float(forces.fractions.sum()) + forces.rest == pytest.approx(1, abs=1e-12)


def test_the_part_of_the_spectrum_above_the_highest_channel_is_said():
    orbit = orbit_of(quartic(EPSILON), dimer(), "o3:6@generic")
    energy = spectra(orbit, orbit.spectrum())["energy"]
    assert energy.fractions.shape == (2, 4)
    assert 0.3 < energy.rest < 1


def test_the_net_force_of_pair_forces_is_zero_and_of_a_uniform_field_its_size():
    assert net_force(orbit_of(lopsided(), molecule("H2O"))) < 1e-12
    orbit = orbit_of(lopsided(), molecule("H2O"), "Oh@generic")
    pushed = Orbit(orbit.rotations, orbit.properties._replace(forces=torch.ones(48, 3, 3, dtype=torch.float64)))
    assert net_force(pushed) == pytest.approx(math.sqrt(27) / math.sqrt(3))


def test_torque_of_the_skewed_dimer_is_its_closed_form():
    potential, atoms = skewed_dimer(EPSILON), dimer()
    n = (atoms.positions[1] - atoms.positions[0]) / 1.2
    expected = 2 * EPSILON * n[2] * np.cross(n, [0, 0, 1])
    assert torque(potential, collate_for(potential, [atoms]))[0].numpy() == pytest.approx(expected, abs=1e-12)


def test_rms_torque_of_the_skewed_dimer_is_its_closed_form():
    power = orbit_of(skewed_dimer(EPSILON), dimer()).spectrum().energy
    assert rms_torque(power) == pytest.approx(math.sqrt(8 / 15) * EPSILON, rel=1e-10)


@pytest.mark.parametrize("build", [lambda p: p, lambda p: Sum(p, skewed_dimer()), lambda p: symmetrize(p, "Th")])
def test_torque_by_one_backward_pass_is_that_of_small_turns(build):
    potential = build(lopsided(cutoff=4.0))
    atoms = bulk("NaCl", "rocksalt", 5.2) * (1, 1, 2)
    atoms.rattle(0.1, seed=1)
    batch = collate_for(potential, [atoms, molecule("H2O")])
    exact = torque(potential, batch)
    assert exact.abs().max() > 1e-3
    torch.testing.assert_close(exact, by_differences(potential, batch), rtol=1e-5, atol=1e-6)


def test_torque_of_a_black_box_is_that_of_small_turns():
    potential, atoms = Foreigner(), dimer()
    z, along = 1.2 * 0.8, 1.2 * np.array([0.36, 0.48, 0.8])
    expected = 0.5 * z * np.cross(along, [0, 0, 1])  # E = z² / 4
    assert torque(potential, collate_for(potential, [atoms]))[0].numpy() == pytest.approx(expected, abs=1e-6)


def test_the_free_energy_of_a_polar_dimer_is_all_in_one_vector():
    kT = BOLTZMANN * 300
    found = free_energy(orbit_of(polar(EPSILON), dimer("HF")), 300)
    assert found.std == pytest.approx(EPSILON / math.sqrt(3) / kT, rel=1e-10)
    assert found.share == pytest.approx(1, abs=1e-10)
    assert found.vector == pytest.approx((0, 0, EPSILON / kT), abs=1e-8)
    assert -EPSILON / kT <= found.lowest < 0 < found.highest <= EPSILON / kT


def test_the_free_energy_of_the_skewed_dimer_has_no_vector():
    found = free_energy(orbit_of(skewed_dimer(EPSILON), dimer()), 300)
    assert found.share < 1e-12
    assert found.std == pytest.approx(math.sqrt(4 * EPSILON**2 / 45) / (BOLTZMANN * 300), rel=1e-10)


@settings(max_examples=20)
@given(st.floats(0, math.pi), st.floats(-math.pi, math.pi))
def test_energy_over_the_sphere_is_the_energy_itself_for_a_dimer(theta, phi):
    atoms = dimer()
    axis = torch.as_tensor((atoms.positions[1] - atoms.positions[0]) / 1.2)
    x, y, z = math.sin(theta) * math.cos(phi), math.sin(theta) * math.sin(phi), math.cos(theta)
    n = torch.tensor([[x, y, z]], dtype=torch.float64)
    for potential, value in (
        (skewed_dimer(EPSILON), EPSILON * (n[0, 2] ** 2 - 1 / 3)),
        (polar(EPSILON), EPSILON * n[0, 2]),
        (quartic(EPSILON), EPSILON * ((n**4).sum() - 3 / 5)),
    ):
        assert float(over_sphere(orbit_of(potential, atoms), axis, n)[0]) == pytest.approx(float(value), abs=1e-9)


# Precision.


@pytest.mark.parametrize("atoms", [molecule("CH3CH2OH"), bulk("Ar", "fcc", 1.6, cubic=True), bulk("Ar", "fcc", 1.7)])
@pytest.mark.parametrize("make", [lennard_jones, lambda: Foreign(AseLennardJones(sigma=1.0, epsilon=0.1, rc=2.9))])
def test_the_spread_of_lennard_jones_is_at_the_floor(make, atoms):
    result = audit(make(), atoms, AuditSettings(rotations="Oh@generic"))
    finding = result.findings[0]
    for spread, noise in zip(finding.turned.spread, finding.turned.floor, strict=True):
        if isinstance(spread, float):
            assert spread <= AUDIT_V1.floor_factor * noise
    assert finding.turned.spread.energy_meV_per_atom < 1e-9
    assert {verdict.answer for verdict in result.verdicts()} == {"yes"}


def test_the_floor_of_float32_is_its_rounding_and_below_a_true_spread():
    potential, atoms = Gradient(Softened()), molecule("H2O")
    orbit = orbit_of(potential, atoms, "Oh@generic")
    noise, how = floor(potential, atoms, orbit)
    assert "float32 against float64" in how
    assert 1e-10 < float(noise.energy[0]) < 1e-5
    assert float(noise.energy[0]) < 1e-3 * float(orbit.spread().energy[0])
    assert potential.dtype == torch.float32


def test_the_spread_of_an_isotropic_float32_model_is_at_its_floor():
    result = audit(Gradient(Softened(tilt=0.0)), molecule("CH3CH2OH"), AuditSettings(rotations="Ih@generic"))
    spread, noise = result.findings[0].turned.spread, result.findings[0].turned.floor
    assert spread.energy_meV_per_atom <= 3 * noise.energy_meV_per_atom
    assert spread.force_meV_per_A <= 3 * noise.force_meV_per_A


def test_the_scatter_of_relabelled_copies_puts_forces_back_in_place():
    found = scatter(lopsided(), molecule("CH3CH2OH"))
    assert float(found.energy.max()) < 1e-12
    assert float(found.forces.max()) < 1e-12


def test_a_floor_above_the_limit_is_no_verdict():
    strict = AuditSettings(rotations="Oh@generic", thresholds=Thresholds(energy_meV_per_atom=1e-7))
    verdicts = audit(Gradient(Softened(tilt=0.0)), molecule("CH3CH2OH"), strict).verdicts()
    verdict = next(v for v in verdicts if v.task == "energies")
    assert verdict.answer == "unknown"
    assert "float64" in verdict.remedy


def test_the_floor_is_never_below_what_is_left_when_terms_cancel():
    atoms = bulk("Po", "sc", 2.0)
    noise, _ = floor(lopsided(), atoms, orbit_of(lopsided(), atoms, "T@generic"))
    assert float(noise.forces.min()) >= LEAST


# Conservation.


class Curled(Potential):
    """E = k/2 Σ x², forces with a curl: F = -k x + κ ẑ × x."""

    cutoff, species, is_conservative = 0.0, None, False

    def __init__(self, kappa: float) -> None:
        super().__init__()
        self.kappa = kappa

    def forward(self, batch: Batch) -> Properties:
        x = batch.positions
        energy = torch.zeros(batch.n_structures, dtype=torch.float64).index_add(0, batch.structure, x.square().sum(1))
        turned = torch.stack([-x[:, 1], x[:, 0], torch.zeros_like(x[:, 0])], 1)
        return Properties(energy, -2 * x + self.kappa * turned)


def test_the_force_gap_of_gradients_is_zero_by_construction_and_of_others_measured():
    assert force_gap(symmetrize(Sum(lopsided(), lopsided()), "T"), dimer()).gap == 0
    assert "construction" in force_gap(lopsided(), dimer()).how
    honest = force_gap(Foreign(AseLennardJones(sigma=1.0, epsilon=0.1)), molecule("CH3CH2OH"))
    assert 0 < honest.gap < 1e-5
    assert force_gap(Curled(0.0), dimer()).gap < 1e-8
    assert 0.05 < force_gap(Curled(1.0), dimer()).gap < 5
    assert force_gap(Curled(2.0), dimer()).gap == pytest.approx(2 * force_gap(Curled(1.0), dimer()).gap, rel=1e-6)


def test_a_force_gap_of_rounding_is_no_verdict_on_constant_energy():
    class Coarse(AseLennardJones):
        def calculate(self, atoms=None, *arguments):
            coarse = atoms.copy()
            coarse.positions = coarse.positions.astype(np.float16)
            super().calculate(coarse, *arguments)

    result = audit(Foreign(Coarse(sigma=1.0, epsilon=0.1)), molecule("C6H6"), AuditSettings(rotations="Th@generic"))
    verdict = next(v for v in result.verdicts() if v.task == "dynamics at constant energy")
    assert result.findings[0].dynamics.force_gap.gap > 1e-3
    assert verdict.answer == "unknown"


def test_direct_forces_fail_the_verdict_on_constant_energy():
    verdicts = audit(Direct(Softened()), molecule("H2O"), AuditSettings(rotations="Th@generic")).verdicts()
    assert next(v for v in verdicts if v.task == "dynamics at constant energy").answer == "no"


# The rule, the budget, the blind spot.


def test_the_measuring_rules_are_the_finest_that_the_budget_allows():
    for spec in MEASURING:
        budget = AuditSettings(budget=10 * len(Rotations.parse(spec)))
        assert [rule.name for rule in measuring_rules(budget, [10])] == [f"{spec}@generic"]
    assert [rule.name for rule in measuring_rules(AuditSettings(budget=1), [10])] == [f"{MEASURING[-1]}@generic"]
    assert [rule.name for rule in measuring_rules(AuditSettings(rotations="I"), [1, 10])] == ["I", "I"]


def test_what_a_cheap_structure_leaves_of_the_budget_goes_to_the_others():
    rules = measuring_rules(AuditSettings(budget=100_000), [100, 1])
    assert [rule.name for rule in rules] == ["o3:8@generic", "o3:10@generic"]
    assert sum(len(rule) * each for rule, each in zip(rules, [100, 1], strict=True)) <= 100_000


def test_the_price_of_a_call_counts_the_calls_within():
    potential = lopsided()
    crystal = bulk("NaCl", "rocksalt", 5.2, cubic=True)
    aligned = collate_for(potential, [crystal])
    assert price(symmetrize(potential, "Oh"), aligned) == price(potential, aligned)  # one orientation is all there is
    crystal.rattle(0.1, seed=1)
    batch = collate_for(potential, [crystal])
    assert price(symmetrize(potential, "Oh"), batch) == 48 * price(potential, batch) >= 48 * batch.n_pairs
    assert price(Foreigner(), collate_for(Foreigner(), [dimer()])) > 0


def test_a_measuring_rule_that_sees_one_orientation_of_a_crystal_is_refused():
    crystal = bulk("Po", "sc", 2.0)
    with pytest.raises(ValueError, match="sees only 1 distinct orientations"):
        audit(quartic(EPSILON), crystal, AuditSettings(rotations="O"))
    result = audit(quartic(EPSILON), crystal, AuditSettings(rotations="O@generic"))
    assert result.findings[0].turned.spread.energy_meV_per_atom > 1
    assert (result.findings[0].turned.resolution.lowest, result.findings[0].n_operations) == (4, 48)


def test_a_structure_is_asked_about_in_every_orientation_only_once():
    potential = Recorder(lopsided())
    chosen = AuditSettings(tasks=("nvt",), rotations="Oh@generic", remedies=())
    audit(potential, molecule("H2O"), chosen)
    turned = sum(n for n, _, _ in potential.calls if n > 4)  # fewer are batches that contracts are held to
    assert turned == 48


# The result.


@pytest.fixture(scope="module")
def result():
    crystal = bulk("NaCl", "rocksalt", 5.2, cubic=True)
    return audit(lopsided(cutoff=4.0), [molecule("H2O"), crystal], AuditSettings(rotations="o3:10@generic"))


def test_every_task_has_a_verdict_with_a_remedy_that_is_enough(result):
    verdicts = {verdict.task: verdict for verdict in result.verdicts()}
    assert set(verdicts) == {
        "orientation of molecules",
        "energies",
        "dynamics with a thermostat",
        "relaxation of atoms",
        "relaxation of the cell",
        "dynamics at constant energy",
        "elasticity",
        "phonons",
        "thermal conductivity",
    }
    assert {verdict.key for verdict in verdicts.values()} == set(KEYS)
    for verdict in verdicts.values():
        if verdict.answer != "yes":
            assert verdict.value > verdict.threshold
    energies = verdicts["energies"]
    assert energies.answer == "remedy"
    assert "symmetrize with I:" in energies.remedy
    assert energies.cost.startswith("30 calls")  # water has a two-fold axis that I has too
    again = audit(symmetrize(lopsided(cutoff=4.0), "I"), result.atoms, AuditSettings(rotations="Th@generic"))
    assert next(v for v in again.verdicts() if v.task == "energies").answer == "yes"


def test_a_task_without_a_remedy_that_is_enough_is_refused():
    few = AuditSettings(rotations="o3:8@generic", remedies=("T", "i"))
    verdict = next(v for v in audit(quartic(1.0), dimer(), few).verdicts() if v.task == "energies")
    assert verdict.answer == "no"
    assert "averaging over i, T leaves" in verdict.reason


def test_a_potential_without_stress_leaves_the_cell_unknown():
    crystal = bulk("Po", "sc", 2.0)
    verdicts = audit(Foreigner(), crystal, AuditSettings(rotations="Oh@generic", remedies=())).verdicts()
    assert next(v for v in verdicts if v.task == "relaxation of the cell").answer == "unknown"


def test_the_facts_show_figures_first_and_name_the_worst_structure(result):
    facts = result.facts()
    kinds = [type(fact) for fact in facts]
    assert kinds[: kinds.index(Table)].count(Table) == 0
    assert set(kinds[kinds.index(Table) :]) == {Table}
    assert {Curve, Map, Sketch} <= set(kinds)
    sketch = next(fact for fact in facts if isinstance(fact, Sketch))
    assert result.findings[0].name in sketch.title
    assert sketch.values == pytest.approx(result.arrays["force_spread_meV_per_A_0"])
    over = next(fact for fact in facts if isinstance(fact, Map))
    weights = np.cos(np.radians(over.latitude))[:, None] * np.ones(len(over.longitude) - 1)
    assert np.average(np.array(over.values)[:, :-1], weights=weights) == pytest.approx(
        0, abs=0.05 * np.std(over.values)
    )


def test_convergence_falls_to_nothing_at_a_rule_that_removes_all(result):
    curve = next(fact for fact in result.facts() if isinstance(fact, Curve) and "Convergence" in fact.title)
    measured = dict(zip(curve.series[0].x, curve.series[0].y, strict=True))
    first, last = measured[min(measured)], measured[30]
    assert last < 1e-6 * first


def test_labels_turn_thresholds_into_shares_of_the_error_and_give_parity_plots():
    potential, atoms = skewed_dimer(EPSILON), dimer()
    label = Properties(torch.tensor(5.0, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64), None)
    dataset = Dataset([atoms], [label], ["file.xyz:0"])
    result = audit(potential, dataset, QUICK)
    raw = (0.2**2 + EPSILON * 0.8**2 - 5) / 2
    assert result.findings[0].turned.raw_error.energy_meV_per_atom == pytest.approx(abs(1000 * raw), rel=1e-9)
    mean = (0.2**2 + EPSILON / 3 - 5) / 2
    assert result.findings[0].turned.mean_error.energy_meV_per_atom == pytest.approx(abs(1000 * mean), rel=1e-9)
    energies = next(v for v in result.verdicts() if v.task == "energies")
    assert energies.answer == "yes"
    assert energies.threshold == pytest.approx(abs(1000 * raw) / 3, rel=1e-9)
    titles = [fact.title for fact in result.facts()]
    assert {"Parity: energy", "Parity: forces", "Symmetry errors against the model's own error"} <= set(titles)
    assert "file.xyz:0" in result.title


def test_a_label_without_an_energy_still_compares_forces():
    label = Properties(None, torch.zeros(2, 3, dtype=torch.float64), None)
    finding = audit(skewed_dimer(), dimer(), QUICK, labels=[label]).findings[0]
    assert math.isnan(finding.turned.raw_error.energy_meV_per_atom)
    assert finding.turned.raw_error.force_meV_per_A > 0


def test_a_spread_is_compared_with_the_uncertainty_that_a_potential_predicts_of_itself():
    shape = {"cutoff": 3.0, "d_pet": 8, "d_node": 8, "d_head": 8, "d_feedforward": 8, "num_heads": 2}
    torch.manual_seed(0)
    unsure, plain = LLPR(PET([1, 8], shape)), Gradient(PET([1, 8], shape))
    atoms, settings = molecule("H2O"), AuditSettings(tasks=("nvt",), rotations="T@generic", remedies=())
    batch = collate_for(unsure, [atoms])
    assert audit(unsure, atoms, settings).findings[0].turned.predicted is None  # nothing is fitted
    unsure.fit([batch])
    unsure.draw(4)
    found = audit(unsure, atoms, settings)
    predicted = found.findings[0].turned.predicted
    assert predicted.energy_meV_per_atom == pytest.approx(1000 * float(unsure.uncertainty(batch)) / 3, rel=1e-6)
    assert predicted.force_meV_per_A > 0
    table = next(fact for fact in found.facts() if fact.title == "Symmetry errors against the model's own error")
    assert [row[1] for row in table.rows] == ["predicted uncertainty", "spread / uncertainty"]
    assert table.rows[1][3] == pytest.approx(
        found.findings[0].turned.spread.force_meV_per_A / predicted.force_meV_per_A
    )
    assert audit(plain, atoms, settings).findings[0].turned.predicted is None


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 labels were given for 1 structures"):
        audit(skewed_dimer(), dimer(), labels=[None, None])
    with pytest.raises(ValueError, match=r"structure 0 has forces of shape \(3, 3\)"):
        audit(skewed_dimer(), dimer(), labels=[Properties(None, torch.zeros(3, 3), None)])


def test_nothing_to_audit_and_an_unknown_element_are_refused():
    with pytest.raises(ValueError, match="no structure"):
        audit(lopsided(), [])
    model = PET([1, 8], PETSettings(cutoff=3.0, d_pet=8, d_node=8, d_head=8, d_feedforward=8, num_heads=2))
    with pytest.raises(ValueError, match=r"92 \(U\) in structure 1"):
        audit(Gradient(model), [molecule("H2O"), Atoms("U")])


def test_a_result_survives_its_folder(result, tmp_path):
    result.save(tmp_path / "out")
    back = load_result(tmp_path / "out")
    assert back.verdicts() == result.verdicts()
    assert back.facts() == result.facts()
    assert back.title == result.title
    for name, array in result.arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array)
    assert back.settings.digest == result.settings.digest


def test_the_page_takes_an_audit(result, tmp_path):
    page = tumble.report(result, to=tmp_path / "card.html").read_text().lower()
    assert all(verdict.task in page for verdict in result.verdicts())


def test_progress_never_exceeds_its_total_and_ends_there():
    seen = []
    audit(lopsided(), [molecule("H2O"), dimer()], QUICK, tell=seen.append)
    assert all(before.done <= after.done for before, after in itertools.pairwise(seen))
    assert all(one.done <= one.total for one in seen)
    assert seen[-1].done == seen[-1].total


def test_an_audit_is_deterministic():
    first, second = (audit(lopsided(), molecule("H2O"), QUICK) for _ in range(2))
    assert first.findings[0].turned.spread == second.findings[0].turned.spread
    assert first.findings[0].turned.floor == second.findings[0].turned.floor


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms("Ar"),
        Atoms("Ar", cell=[4, 4, 4], pbc=True),
        dimer(),
        Atoms("H2", [[0, 0, 0], [0, 0, 0.7]], cell=[0, 0, 3], pbc=[False, False, True]),
    ],
)
def test_any_periodicity_and_an_isolated_atom_can_be_audited(atoms):
    result = audit(lopsided(), atoms, AuditSettings(rotations="Ih@generic"))
    assert all(fact.title for fact in result.facts())
    assert result.verdicts()
    assert all(one.stress_GPa is None for one in (result.findings[0].turned.spread,)) == (
        not bool(has_volume(collate_for(lopsided(), [atoms]))[0])
    )


def test_a_rule_of_proper_rotations_has_no_parity_but_a_spectrum():
    result = audit(lopsided(), molecule("H2O"), AuditSettings(rotations="so3:6"))
    assert result.findings[0].turned.parity is None
    assert result.findings[0].turned.spectra["energy"].fractions.shape == (1, 4)
    assert all(fact.title for fact in result.facts())


def test_a_rule_without_a_degree_still_measures_the_spread():
    result = audit(lopsided(), molecule("H2O"), AuditSettings(rotations="random:20"))
    assert result.findings[0].turned.spread.force_meV_per_A > 0
    assert result.findings[0].turned.spectra == {}
    assert all(fact.title for fact in result.facts())


def test_settings_refuse_a_rule_that_does_not_exist():
    with pytest.raises(ValueError, match='Did you mean "Ih"'):
        AuditSettings(rotations="ih")
    with pytest.raises(ValueError, match="not in the grammar"):
        AuditSettings(remedies=("T", "Q"))


def test_the_named_protocol_has_a_fixed_digest():
    # Numbers have been published with it: other defaults get another name, AUDIT_V2.
    assert AuditSettings().digest == AUDIT_V1.digest == "4d5568adbbd3"
    assert AuditSettings(temperature_K=310).digest != AUDIT_V1.digest


def test_the_axis_of_water_is_that_of_its_dipole_and_of_benzene_its_normal():
    axis, _ = body_axis(molecule("H2O"))
    assert abs(axis[2]) == pytest.approx(1)
    axis, _ = body_axis(molecule("C6H6"))
    assert abs(axis[2]) == pytest.approx(1)
    assert body_axis(bulk("NaCl", "rocksalt", 5.2, cubic=True))[1] == "lattice vector c"
