"""What other engines do wrong is a finding with a name, never a traceback."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones

import tumble
from analytic import dimer, lopsided
from tumble.batch import Batch, Properties
from tumble.bridges.ase import Foreign
from tumble.jobs.audit import AuditSettings, audit
from tumble.potential import Potential

ARGON = bulk("Ar", "fcc", 3.7, cubic=True)
CHEAP = AuditSettings(rotations="T@generic", remedies=("i",))


class Engine(LennardJones):
    """Lennard-Jones that spoils its answers from a given call on."""

    def __init__(self, spoil, after: int = 0) -> None:
        super().__init__(sigma=2.3, epsilon=0.1, rc=5.0, smooth=True)
        self.spoil, self.after, self.n = spoil, after, 0

    def calculate(self, *arguments):
        super().calculate(*arguments)
        self.n += 1
        if self.n > self.after:
            self.spoil(self.results)


def raises(results):
    raise KeyError("no licence")


def not_a_number(results):
    results["forces"] = results["forces"] * np.nan


def found_by(spoil, after=0, settings=CHEAP):
    result = audit(Foreign(Engine(spoil, after)), ARGON, settings)
    return result, result.findings[0]


def test_an_engine_that_fails_at_once_leaves_every_task_unknown(tmp_path):
    result, finding = found_by(raises)
    assert [failure.measure for failure in finding.failures] == ["the answer as it stands"]
    assert "KeyError: 'no licence'" in finding.failures[0].message
    assert {verdict.answer for verdict in result.verdicts()} == {"unknown"}
    assert all("no licence" in verdict.reason for verdict in result.verdicts())
    page = tumble.report(result, to=tmp_path / "card.html").read_text()
    assert "What went wrong" in page
    result.save(tmp_path / "out")


def test_an_engine_that_fails_later_keeps_what_was_found_before():
    result, finding = found_by(raises, after=20)
    assert finding.raw.energy is not None
    assert finding.contracts
    assert {failure.measure for failure in finding.failures} >= {"orientations", "force gap"}
    assert {verdict.answer for verdict in result.verdicts()} == {"unknown"}


def test_a_task_asked_for_by_name_is_unknown_if_the_engine_fails():
    result, _ = found_by(raises, settings=AuditSettings(tasks=("phonons", "molecule")))
    assert [(verdict.key, verdict.answer) for verdict in result.verdicts()] == [
        ("molecule", "unknown"),
        ("phonons", "unknown"),
    ]


@pytest.mark.parametrize(("after", "measure"), [(0, "the answer as it stands"), (16, "orientations")])
def test_forces_that_are_not_numbers_are_named(after, measure):
    result, finding = found_by(not_a_number, after)
    failure = next(failure for failure in finding.failures if failure.measure == measure)
    assert "forces" in failure.message
    assert "not finite" in failure.message
    assert "no" not in {verdict.answer for verdict in result.verdicts()}


def test_a_missing_stress_is_named_and_leaves_the_rest_judged():
    class Stressless(LennardJones):
        implemented_properties: ClassVar = ["energy", "forces"]

    result = audit(Foreign(Stressless(sigma=2.3, epsilon=0.1, rc=5.0, smooth=True)), ARGON, CHEAP)
    assert [failure.measure for failure in result.findings[0].failures] == ["stress"]
    answers = {verdict.key: verdict.answer for verdict in result.verdicts()}
    assert answers["cell"] == answers["elastic"] == "unknown"
    assert answers["nvt"] == answers["relax"] == "yes"


def test_an_engine_that_answers_otherwise_when_asked_again_is_named_and_not_judged():
    random = np.random.default_rng(0)

    def noisy(results):
        results["forces"] = results["forces"] + random.normal(scale=0.1, size=results["forces"].shape)
        results["energy"] += random.normal(scale=0.1)

    result, finding = found_by(noisy)
    assert not finding.is_repeatable
    table = next(fact for fact in result.facts() if fact.title == "What went wrong")
    assert any("repeatable" in row[1] for row in table.rows)
    verdicts = {verdict.key: verdict for verdict in result.verdicts()}
    assert {verdicts[key].answer for key in ("nvt", "relax", "nve")} == {"unknown"}
    assert "answers otherwise" in verdicts["relax"].reason
    assert "repeatable" in verdicts["relax"].remedy


def test_an_error_in_our_own_potentials_is_not_hidden():
    class Broken(Potential):
        """No forces where there are many structures, which no Potential of ours does."""

        cutoff, species, is_conservative = 0.0, None, True

        def forward(self, batch: Batch) -> Properties:
            raise RuntimeError("a bug")

    ours = lopsided()
    ours.model.function = lambda v, i, j: (_ for _ in ()).throw(RuntimeError("a bug of ours"))
    with pytest.raises(RuntimeError, match="a bug of ours"):
        audit(ours, molecule("H2O"), CHEAP)
    assert audit(Broken(), dimer(), CHEAP).findings[0].failures  # not one of ours: a finding


def test_weights_that_are_not_numbers_are_a_finding():
    potential = lopsided()
    potential.model.scale.data = torch.tensor(float("nan"), dtype=torch.float64)
    finding = audit(potential, dimer(), CHEAP).findings[0]
    assert "energy: 1 of 1 numbers are not finite" in finding.failures[0].message
