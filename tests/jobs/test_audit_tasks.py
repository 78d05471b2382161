import math

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones as AseLennardJones

from analytic import Recorder, dimer, lopsided, quartic
from tumble.bridges.ase import Foreign
from tumble.jobs.audit import AUDIT_V1, AuditSettings, Thresholds, audit
from tumble.jobs.audit.criteria import CRITERIA
from tumble.jobs.audit.tasks import KEYS, MEASURES, TASKS, needed, parse
from tumble.orbit import Orbit
from tumble.potential import collate_for
from tumble.rotations import Rotations
from tumble.symmetry import symmetrize

ROCKSALT = bulk("NaCl", "rocksalt", 5.2, cubic=True)


def verdicts_of(result):
    return {verdict.key: verdict for verdict in result.verdicts()}


# Which tasks there are, and what each of them needs.


def test_every_task_has_criteria_from_the_measures_it_needs():
    assert set(CRITERIA) == set(KEYS)
    for task in TASKS:
        assert task.needs <= set(MEASURES)
        assert {criterion.measure for criterion in CRITERIA[task.key]} <= task.needs


def test_tasks_are_named_in_any_order_and_with_commas():
    assert parse(["nvt,phonons", "molecule"]) == ("molecule", "nvt", "phonons")
    assert AuditSettings(tasks="nve,relax").tasks == ("nve", "relax")
    assert AuditSettings(tasks=("relax", "nve")).digest == AuditSettings(tasks="nve,relax").digest


def test_an_unknown_task_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"no task 'phonon'; there are molecule, .* Did you mean 'phonons'"):
        parse(["phonon"])
    with pytest.raises(ValueError, match="Did you mean 'nvt'"):
        AuditSettings(tasks=("nwt",))


def test_nothing_asked_for_is_everything():
    assert needed(()) == frozenset(MEASURES)
    assert needed(("nve",)) == {"dynamics"}


def test_only_what_the_tasks_need_is_asked():
    calls = {}
    for key in ("nve", "nvt", "elastic"):
        potential = Recorder(lopsided(cutoff=4.0))
        result = audit(potential, ROCKSALT, AuditSettings(tasks=(key,), rotations="Ih@generic", remedies=()))
        calls[key] = sum(n for n, _, _ in potential.calls)
        assert set(verdicts_of(result)) == {key}
    assert calls["elastic"] < calls["nvt"]
    finding = audit(lopsided(cutoff=4.0), ROCKSALT, AuditSettings(tasks=("nve",))).findings[0]
    assert (finding.turned, finding.frequencies, finding.rest) == (None, None, None)
    finding = audit(lopsided(cutoff=4.0), ROCKSALT, AuditSettings(tasks=("elastic",))).findings[0]
    assert (finding.turned, finding.dynamics.jacobian) == (None, None)
    assert finding.rest.elasticity.forbidden > 0.01


def test_a_task_that_the_structures_say_nothing_about_is_unknown_if_asked_for_and_silent_if_not():
    liquid = molecule("CH3CH2OH")
    liquid.rattle(0.1, seed=1)
    asked = audit(lopsided(), liquid, AuditSettings(tasks=("phonons", "cell"), rotations="Th@generic"))
    verdicts = verdicts_of(asked)
    assert verdicts["phonons"].answer == verdicts["cell"].answer == "unknown"
    assert "no symmetry that could forbid anything" in verdicts["phonons"].reason
    silent = audit(lopsided(), liquid, AuditSettings(rotations="Th@generic"))
    assert {"phonons", "cell"}.isdisjoint(verdicts_of(silent))


def test_force_constants_beyond_the_budget_are_left_out_with_the_reason():
    result = audit(lopsided(cutoff=4.0), ROCKSALT, AuditSettings(tasks=("phonons",), budget=100))
    verdict = verdicts_of(result)["phonons"]
    assert verdict.answer == "unknown"
    assert "take 12 calls, more than the budget" in verdict.reason


# What decides.


def test_an_invariant_potential_is_fine_for_everything():
    result = audit(Foreign(AseLennardJones(sigma=2.3, epsilon=0.1, rc=5.0, smooth=True)), bulk("Ar", "fcc", 3.7))
    assert {verdict.answer for verdict in result.verdicts()} == {"yes"}
    assert {verdict.floor is not None for verdict in result.verdicts()} == {True}


def test_phonons_of_a_crooked_crystal_need_a_projection_and_an_average():
    settings = AuditSettings(tasks=("phonons", "relax"), rotations="o3:6@generic")
    verdicts = verdicts_of(audit(lopsided(cutoff=4.0), ROCKSALT, settings))
    phonons = verdicts["phonons"]
    assert phonons.answer == "remedy"
    assert "project the force constants" in phonons.remedy
    assert "symmetrize with" in phonons.remedy
    assert phonons.value > phonons.threshold
    projected = symmetrize(lopsided(cutoff=4.0), "none", project="crystal")
    rest = audit(projected, ROCKSALT, settings).findings[0].rest
    assert rest.worst_meV_per_A < 1e-9


def test_a_verdict_names_the_criterion_that_is_exceeded_most():
    strict = Thresholds(relax_meV_per_A=1e-3, symprec_A=10.0)
    settings = AuditSettings(tasks=("relax",), rotations="o3:6@generic", thresholds=strict)
    verdict = audit(lopsided(), molecule("H2O"), settings).verdicts()[0]
    assert verdict.unit == "meV/Å"
    loose = settings.model_copy(update={"thresholds": Thresholds(relax_meV_per_A=1e9, symprec_A=1e-6)})
    verdict = audit(lopsided(), molecule("H2O"), loose).verdicts()[0]
    assert (verdict.unit, verdict.answer) == ("Å", "remedy")
    assert 'project="crystal"' in verdict.remedy


def test_an_average_that_sees_one_orientation_of_a_crystal_is_recommended_in_the_generic_frame():
    simple_cubic = bulk("Po", "sc", 2.0)
    result = audit(quartic(), simple_cubic, AuditSettings(tasks=("energies",), remedies=("O", "I")))
    found = {remedy.spec: remedy for remedy in result.findings[0].turned.remedies}
    assert (found["O"].rule, found["O"].n_calls) == ("O@generic", 24)
    assert (found["I"].rule, found["I"].n_calls) == ("I", 5)
    verdict = result.verdicts()[0]
    assert verdict.answer == "remedy"
    assert verdict.remedy.startswith("symmetrize with I:")
    assert verdict.cost.startswith("5 calls")


# The blind spot.


def test_the_default_rule_finds_the_spread_of_an_aligned_diamond_and_says_what_a_lab_rule_would_have_missed():
    diamond = bulk("C", "diamond", 3.57, cubic=True)
    epsilon = 0.3
    result = audit(quartic(epsilon, cutoff=1.8), diamond, AuditSettings(tasks=("energies",)))
    finding = result.findings[0]
    # Every atom has four bonds along <111>, and half of each is its own.
    bonds = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / math.sqrt(3)
    rule = Rotations.parse("o3:8@generic")
    values = np.sum((bonds @ rule.matrices.numpy().transpose(0, 2, 1)) ** 4, axis=(1, 2)) / 4
    mean = rule.weights.numpy() @ values
    expected = 2 * epsilon * math.sqrt(rule.weights.numpy() @ (values - mean) ** 2)
    assert finding.turned.spread.energy_meV_per_atom == pytest.approx(1000 * expected, rel=1e-9)
    spot = finding.turned.blind_spot
    assert (spot.rule, spot.n_rotations, spot.resolution.n_distinct) == ("O", 24, 1)
    assert spot.spread.energy_meV_per_atom < 1e-9
    table = next(fact for fact in result.facts() if fact.title == "What a rule in the lab frame would have missed")
    assert table.rows[0][:4] == (finding.name, "O", 24, 1)


def test_the_measuring_rule_asks_once_for_each_distinct_orientation():
    potential = Recorder(lopsided(cutoff=4.0))
    settings = AuditSettings(tasks=("nvt",), rotations="o3:8@generic", remedies=())
    turned = audit(potential, ROCKSALT, settings).findings[0].turned
    asked = sum(n for n, _, _ in potential.calls if n > 4)  # fewer are batches that contracts are held to
    assert asked == turned.resolution.n_distinct == len(turned.orbit.rotations) / 2  # the inversion is free
    whole = Orbit.of(potential, collate_for(potential, [ROCKSALT]), turned.orbit.rotations)
    for followed, asked_for in zip(turned.orbit.properties, whole.properties, strict=True):
        torch.testing.assert_close(followed, asked_for, rtol=0, atol=1e-12)


def test_where_a_lab_rule_sees_enough_there_is_no_blind_spot():
    assert audit(lopsided(), dimer(), AuditSettings(tasks=("energies",))).findings[0].turned.blind_spot is None


def test_the_protocol_is_named_only_if_its_settings_are_used():
    named, own = (audit(lopsided(), dimer(), one) for one in (AUDIT_V1, AuditSettings(tasks=("nve",))))
    assert (named.protocol, own.protocol) == ("AUDIT_V1", "")


def test_a_certificate_names_the_potential_and_its_weights():
    settings = AuditSettings(tasks=("nve",))
    potential = lopsided()
    first = audit(potential, dimer(), settings, name="mine").subject
    assert (first["name"], first["made_of"], first["dtype"]) == ("mine", "PairFunction", "float64")
    assert len(first["digest"]) == 64
    potential.model.scale.data += 1e-12
    assert audit(potential, dimer(), settings).subject["digest"] != first["digest"]
