"""The rule that is chosen by its error: on closed forms it must be the known one."""

import re
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes

import tumble
from analytic import Foreigner, Handed, PairFunction, Recorder, dimer, lopsided, polar, quartic, skewed_dimer
from tumble import checkpoint
from tumble.bridges.ase import Foreign
from tumble.cli import main
from tumble.models.pair import LennardJones
from tumble.orbit import Orbit
from tumble.packs import predict
from tumble.potential import Gradient, collate_for
from tumble.rotations import Rotations
from tumble.symmetry import Choice, Projected, Symmetrized, Tolerance, choice, choose, symmetrize

TWO = [dimer(), Atoms("HF", [(0, 0, 0), (0.3, -0.7, 0.9)])]


@pytest.mark.parametrize(
    ("potential", "expected"),
    [
        (polar(), "i"),  # ℓ = 1, of odd parity: the inversion is enough
        (skewed_dimer(), "T"),  # ℓ = 2
        (quartic(), "I"),  # ℓ = 4, symmetric under T and O in the lab frame: they leave all of it
        (Gradient(LennardJones(0.01, 1.0, cutoff=3.0)), "none"),
    ],
    ids=["polar", "skewed", "quartic", "invariant"],
)
@pytest.mark.parametrize("tolerance", ["1e-6 meV/Å", "1e-6 meV/atom"])
def test_the_rule_of_a_closed_form_is_found(potential, expected, tolerance):
    found = choose(potential, TWO, tolerance)
    assert found.rule.name == expected
    assert found.chosen.left < 1e-6
    assert found.chosen.verified < 1e-6
    for left in (one.left for one in found.candidates[:-1]):
        assert left > 1e-3


def test_what_was_predicted_is_the_closed_form():
    found = choose(skewed_dimer(0.3), dimer(), "1e-3 meV")
    left = {one.rule.name: one.left for one in found.candidates}
    assert found.before == pytest.approx(1000 * (4 * 0.3**2 / 45) ** 0.5, rel=1e-9)
    assert left["none"] == left["i"] == pytest.approx(found.before, rel=1e-9)
    assert (found.measured, found.verifying) == ("o3:8@generic", "o3:10@generic")


def test_of_a_quartic_form_the_cubic_rules_leave_all_and_say_so():
    found = choose(quartic(), dimer(), "1e-3 meV")
    left = {one.rule.name: one.left for one in found.candidates}
    assert left["O"] == pytest.approx(found.before, rel=1e-6)
    assert left["T"] == pytest.approx(found.before, rel=1e-6)
    turned = choose(quartic(), dimer(), f"{0.5 * found.before} meV")
    assert turned.rule.name == "I"


def test_a_larger_tolerance_takes_a_cheaper_rule():
    def rule(tolerance: float) -> str:
        return choose(lopsided(), molecule("H2O"), f"{tolerance} eV/Å").rule.name

    assert rule(1e3) == "none"
    names = ["none", "i", "T", "Th", "O", "Oh", "I", "Ih", "so3:6", "o3:6", "so3:7", "o3:7", "so3:8", "o3:8"]
    costs = [len(Rotations.parse(rule(tolerance))) for tolerance in (1e3, 1e-1, 1e-2, 1e-5)]
    assert costs == sorted(costs)
    assert costs[-1] > costs[0]
    assert set(names) == set(choice.CANDIDATES)


def test_the_worst_structure_decides():
    far = Atoms("HF", [(0, 0, 0), (0, 0, 8.0)])
    assert choose(skewed_dimer(), far, "1 meV").rule.name == "none"
    assert choose(skewed_dimer(), [far, dimer()], "1 meV").rule.name == "T"


def test_what_remains_is_below_the_tolerance_in_other_orientations_too():
    atoms = molecule("CH3OH")
    for limit in (30.0, 1.0):
        symmetric = symmetrize(lopsided(), "auto", tolerance=f"{limit} meV/Å", on=atoms)
        spread = Orbit.of(symmetric, collate_for(symmetric, [atoms]), Rotations.random(30, seed=5)).spread()
        assert 1000 * float(spread.forces.max()) < 1.5 * limit


def test_calls_are_counted_with_what_the_structure_itself_saves():
    found = choose(lopsided(), bulk("Cu", cubic=True), "100 eV/Å")
    assert found.chosen.n_calls == (1,)
    calls = {one.rule.name: one.n_calls for one in choose(lopsided(), [bulk("Cu"), dimer()], "1e-1 meV/Å").candidates}
    assert calls["I"][0] == 5
    assert calls["I"][1] >= 30


def test_a_prediction_that_is_too_good_is_found_out(monkeypatch):
    def nothing(orbit: Orbit, rule: Rotations) -> tumble.batch.Properties:
        return orbit.spread()._replace(energy=0 * orbit.spread().energy)

    told: list[str] = []
    monkeypatch.setattr(choice, "residual", nothing)
    found = choose(skewed_dimer(), dimer(), "1 meV", tell=told.append)
    assert found.rule.name == "T"
    assert [one.verified > 1 for one in found.candidates] == [True, True, False]
    assert any(re.fullmatch(r"none was predicted to leave 0 meV and leaves \d+", text) for text in told)


def test_a_tolerance_out_of_reach_is_an_error_with_the_best_there_is():
    def needles(v: torch.Tensor, _i: torch.Tensor, _j: torch.Tensor) -> torch.Tensor:
        return 0.1 * (v[:, 2] / v.norm(dim=1)) ** 60

    with pytest.raises(
        RuntimeError, match=r"no rule leaves less than 0\.001 meV/Å: of .* the best, \w+.* with .* calls"
    ):
        choose(Gradient(PairFunction(needles)), dimer(), "1e-3 meV/Å")


def test_measuring_costs_less_where_the_budget_is_short(monkeypatch):
    inner = Recorder(skewed_dimer())
    monkeypatch.setattr(choice, "BUDGET", 1.0)
    found = choose(inner, dimer(), "1 meV")
    assert (found.rule.name, found.measured, found.verifying) == ("T", "o3:6@generic", "o3:8@generic")


@pytest.mark.parametrize(
    ("text", "limit", "unit", "size"),
    [
        ("1 meV/Å", 1.0, "meV/Å", 3000.0),
        ("1 meV/A", 1.0, "meV/Å", 3000.0),
        ("1meV/Ang", 1.0, "meV/Å", 3000.0),
        (" 2.5e-3 eV/A\u030a ", 2.5e-3, "eV/Å", 3.0),
        ("0.2 meV/atom", 0.2, "meV/atom", 2000.0),
        ("10 meV", 10.0, "meV", 4000.0),
        ("1 eV", 1.0, "eV", 4.0),
        ("0.05 GPa", 0.05, "GPa", 6 * 160.21766208 / 3),
        ("1 kbar", 1.0, "kbar", 60 * 160.21766208 / 3),
    ],
)
def test_a_tolerance_is_a_number_and_a_unit(text, limit, unit, size):
    tolerance = Tolerance.parse(text)
    assert tolerance == (limit, unit)
    assert str(tolerance) == f"{limit:g} {unit}"
    deviation = tumble.batch.Properties(torch.tensor([4.0]), torch.tensor([3.0, 1.0]), torch.tensor([6.0]))
    assert tolerance.size(deviation, 2) == pytest.approx(size)


@pytest.mark.parametrize("text", ["1", "meV/Å", "1 meV/Å/atom", "one meV", "1 mev/Å", "", "-1 meV"])
def test_what_is_not_a_tolerance_is_refused(text):
    with pytest.raises(ValueError, match=r"was given; a number and one of the units meV/Å, .* such as .1 \w+"):
        Tolerance.parse(text)


@pytest.mark.parametrize("text", ["0 meV", "1.2.3 meV/Å"])
def test_a_tolerance_that_is_not_a_positive_number_is_refused(text):
    with pytest.raises(ValueError, match="is not a positive number of meV"):
        Tolerance.parse(text)


def test_a_tolerance_of_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"a tolerance of 1 GPa is about the stress, which this potential does not"):
        choose(lopsided(), molecule("H2O"), "1 GPa")
    with pytest.raises(ValueError, match=r"a tolerance of 1 meV/Å is about the force, which this potential does not"):
        choose(Handed(), Atoms("CHFO", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]), "1 meV/Å")
    with pytest.raises(ValueError, match="a rule is chosen on structures, and 0 were given"):
        choose(lopsided(), [], "1 meV/Å")


def test_symmetrize_needs_tolerance_and_structures_for_auto_and_only_for_auto():
    with pytest.raises(
        ValueError, match=r'the rule "auto" is chosen by its error .* tolerance=None and some structures'
    ):
        symmetrize(lopsided(), "auto", on=dimer())
    with pytest.raises(ValueError, match=r"tolerance='1 meV/Å' and no structures were given"):
        symmetrize(lopsided(), "auto", tolerance="1 meV/Å")
    with pytest.raises(ValueError, match=r"given tolerance='1 meV' with the rule Ih; they are for the rule .auto."):
        symmetrize(lopsided(), tolerance="1 meV")
    with pytest.raises(ValueError, match=r"given tolerance=None and structures with the rule T;"):
        symmetrize(lopsided(), Rotations.parse("T"), on=dimer())


def test_symmetrize_tells_what_it_has_chosen():
    told: list[str] = []
    symmetric = symmetrize(skewed_dimer(), "auto", tolerance="1 meV/Å", on=TWO, tell=told.append)
    assert isinstance(symmetric, Symmetrized)
    assert symmetric.rotations.name == "T"
    assert told[:3] == [
        "measuring structure 1 of 2: 684 calls (o3:8@generic)",
        "measuring structure 2 of 2: 684 calls (o3:8@generic)",
        "verifying: 2200 calls (o3:10@generic)",
    ]
    form = r"T: [\d to]+ calls instead of 684, leaves \S+ meV/Å of \S+ \(tolerance 1 meV/Å\), verified .+"
    assert re.fullmatch(form, told[-1])


def test_a_choice_says_it_in_one_line():
    found: Choice = choose(skewed_dimer(), dimer(), "1000 meV")
    assert str(found).startswith("none: 1 call instead of 684, leaves 89 meV of 89 (tolerance 1000 meV), verified ")


def test_a_chosen_rule_can_be_projected_too():
    atoms = bulk("GaAs", "zincblende", a=4.2)
    potential = symmetrize(lopsided(), "auto", project="crystal", tolerance="1 eV/Å", on=[atoms])
    assert isinstance(potential, Projected)
    assert float(predict(potential, atoms)[0].forces.abs().max()) < 1e-12


def test_any_potential_can_be_asked():
    assert choose(Foreigner(), molecule("H2O"), "1e-3 meV").rule.name == "T"


class Skewed(Calculator):
    """The skewed dimer as an ASE calculator: E = (r - 1)² + 0.3 (z / r)²."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        x, y, z = v = self.atoms.positions[1] - self.atoms.positions[0]
        r = np.linalg.norm(v)
        slope = 2 * (r - 1) * v / r + 0.6 * z / r**4 * np.array([-x * z, -y * z, x**2 + y**2])
        self.results = {"energy": (r - 1) ** 2 + 0.3 * (z / r) ** 2, "forces": np.stack([slope, -slope])}


def test_the_calculator_of_the_command_is_the_skewed_dimer():
    own, theirs = predict(skewed_dimer(), dimer())[0], predict(Foreign(Skewed()), dimer())[0]
    torch.testing.assert_close(own.energy, theirs.energy)
    torch.testing.assert_close(own.forces, theirs.forces)


def test_the_command_prints_the_choice_and_writes_the_potential(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(choice, "BUDGET", 1.0)
    one, two, out = tmp_path / "one.xyz", tmp_path / "two.xyz", tmp_path / "sym.safetensors"
    ase.io.write(one, TWO[0])
    ase.io.write(two, TWO[1])
    words = ["symmetrize", "ase:test_symmetry_auto:Skewed", "--rotations", "auto", "--tolerance", "1 meV/A"]
    assert main([*words, "--on", str(one), str(two), "--project", "crystal", "-o", str(out)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"T: [\d to]+ calls instead of 364, leaves", printed)
    assert "wrote" in printed
    again = checkpoint.load(out)
    assert isinstance(again, Projected)
    assert again.inner.rotations.name == "T"
    assert "T: " in checkpoint.read_header(out)["card"]["choice"]
    assert main([*words, "-o", str(tmp_path / "x.safetensors")]) == 2
    assert "no structures were given" in capsys.readouterr().err


def test_the_help_of_the_command_teaches_the_grammar(capsys):
    assert main(["symmetrize", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for word in ("so3:L", "euler:Li", "RULE@FRAME", "generic", "crystal", "random:n", "auto", "meV/A", "--project"):
        assert word in text, word
