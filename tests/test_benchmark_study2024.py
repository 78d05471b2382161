"""Experiment S1 of the 2024 study: the bookkeeping of shared orientations, errors in closed form, runs that are cut."""

import json
import lzma
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from study2024 import published
from study2024.s1 import answers, nodes, tables
from study2024.s1 import run as s1

from analytic import lopsided, skewed_dimer
from tumble.orbit import Orbit
from tumble.potential import collate_for
from tumble.rotations import Rotations

SHARED = Path(__file__).resolve().parents[2] / "shared"
ANGLES = (0.0, 0.4, 1.1)


def dimer(angle: float) -> Atoms:
    """One bond of 1 Å, at an angle to z, with energies as a study could have published them."""
    atoms = Atoms("HO", [[0, 0, 0], [np.sin(angle), 0, np.cos(angle)]])
    atoms.info |= {f"E_pet_{level}": 0.005 - 0.0005 * k for k, level in enumerate(published.LEVELS)}
    return atoms


@pytest.fixture
def command(tmp_path, monkeypatch) -> Any:
    """Run the script on three dimers and the skewed potential; what it was given and where it writes."""
    for name in s1.FILES.values():
        ase.io.write(tmp_path / name, [dimer(angle) for angle in ANGLES], format="extxyz")
    monkeypatch.setattr(s1, "tumble", SimpleNamespace(load=lambda *_, **__: skewed_dimer(0.3), __version__="0"))

    def run(*flags: str) -> dict[str, Any]:
        asked = ["s1.py", str(tmp_path), "-o", str(tmp_path / "out"), "--results", str(tmp_path / "results"), *flags]
        monkeypatch.setattr(sys, "argv", asked)
        s1.main()
        return json.loads(next((tmp_path / "results").glob("*-study2024-s1.json")).read_text())

    return run


def report(folder: Path) -> str:
    return next((folder / "results").glob("*-study2024-s1.md")).read_text()


# ---------------------------------------------------------------------------------------------------- orientations


def test_groups_share_their_elements():
    # Th has 24 elements; Oh and Ih add 24 and 96.
    assert len(nodes.Nodes.of(("T", "O", "I", "Th", "Oh", "Ih"))) == 144
    assert len(nodes.Nodes.of(("none", "i", "Th"))) == 24


def test_an_euler_grid_is_in_the_one_with_inversions():
    levels = nodes.Nodes.of(tuple(published.LEVELS.values()))
    assert len(levels) == 2 + 36 + 150
    assert torch.equal((levels.weights > 0).sum(1), torch.tensor([1, 2, 18, 36, 75, 150]))
    # Beside those of `none` and `i`, grids and groups share a quarter turn about x, of euler:3, and its opposite.
    assert len(nodes.Nodes.of(s1.TIERS["lab"])) == 188 + 144 - 2 - 2


def test_means_over_shared_orientations_are_those_of_the_rules():
    potential = lopsided()
    batch = collate_for(potential, [Atoms("OHH", [[0, 0, 0], [1.1, 0.3, 0], [-0.4, 0.2, 1.2]]), dimer(0.3)])
    union = nodes.Nodes.of(("none", "euler:2", "Th", "I", "o3:6@generic"))
    everything = Orbit.of(potential, batch, union.rotations()).properties
    for k, spec in enumerate(union.specs):
        mean = Orbit.of(potential, batch, Rotations.parse(spec)).mean()
        assert torch.allclose(union.means(everything.energy)[k], mean.energy, rtol=0, atol=1e-12)
        assert torch.allclose(union.means(everything.forces)[k], mean.forces, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------- errors


def answered(energy: list[float], forces: list[float]) -> answers.Answers:
    """A rule `a` that is off by so many meV, and by so many meV/Å in every component, from a rule `b`."""
    off = np.array(energy) / 1000
    pushed = np.tile(np.array(forces)[:, None, None] / 1000, (1, 2, 3))
    base = -30000.0 + np.arange(len(off))
    return answers.Answers(np.arange(len(off)), {"a": base + off, "b": base}, {"a": pushed, "b": np.zeros_like(pushed)})


def test_errors_are_means_over_structures_and_components():
    error = answers.Error.of(answered([3, -4, 5], [1, -2, 6]), "a", "b")
    assert error.energy_mae == pytest.approx(4, abs=1e-7)
    assert error.energy_max == pytest.approx(5, abs=1e-7)
    assert error.energy_standard_error == pytest.approx(1 / 3**0.5, abs=1e-7)
    assert error.forces_mae == pytest.approx(3)
    assert error.n_structures == 3


def test_rms_is_the_root_of_the_mean_and_not_of_the_sum():
    error = answers.Error.of(answered([3, -4, 5], [1, -2, 6]), "a", "b")
    assert error.energy_rms == pytest.approx((50 / 3) ** 0.5, abs=1e-7)
    assert error.forces_rms == pytest.approx((41 / 3) ** 0.5)
    same = answers.Error.of(answered([2] * 9, [2] * 9), "a", "b")
    assert [same.energy_rms, same.forces_rms] == pytest.approx([2, 2], abs=1e-7)  # 6 is the root of the sum


def test_the_error_of_one_structure_has_no_standard_error():
    assert np.isnan(answers.Error.of(answered([3], [1]), "a", "b").energy_standard_error)


def test_rules_are_compared_on_structures_that_have_both():
    some = answered([1, 2, 3], [0, 0, 0])
    others = answers.Answers(np.array([1, 2, 5]), {"c": np.array([7.0, 8, 9])}, {"c": np.zeros((3, 2, 3))})
    both = some | others
    assert both.indices.tolist() == [1, 2]
    assert both.energy["c"].tolist() == [7, 8]
    assert both.energy["b"].tolist() == [-29999, -29998]


def test_what_rounding_changes_is_a_difference_of_differences():
    single, double = answered([3, 4], [1, 1]), answered([2.5, 5], [1, 2])
    found = tables.Found("test", 2, single, None, double, None, {})
    energy, forces = tables.rounding(found)
    assert energy == pytest.approx(1, abs=1e-6)
    assert forces == pytest.approx(0.5)
    assert tables.rounding(tables.Found("test", 2, single, None, None, None, {})) is None


def test_the_first_channel_left_is_that_of_theory():
    # A group leaves one of the 2ℓ + 1 components of its first invariant.
    assert tables.left("T") == f"3 ({100 / 7:.2g} %)"
    assert tables.left("Oh") == f"4 ({100 / 9:.2g} %)"
    assert tables.left("Ih") == f"6 ({100 / 13:.2g} %)"
    assert tables.left("none") == "1 (100 %)"
    assert tables.left("euler:3i").startswith("6 ")


def test_numbers_have_three_digits_and_no_exponent():
    assert [tables._n(x) for x in (0.0000123456, 12.3456, 1234.5, 0.0)] == ["0.0000123", "12.3", "1230", "0"]


# ------------------------------------------------------------------------------------------------------------ runs


def test_every_structure_is_asked_once_and_few_are_spread_over_all():
    asked = list(s1.pieces("test", 190))
    lab = [index for piece in asked if piece.tier == "lab" for index in piece.indices]
    assert sorted(lab) == list(range(190))
    assert lab[:19] == list(range(0, 190, 10))
    assert sum(len(piece.indices) for piece in asked if piece.tier == "generic") == 10
    assert len({piece.name for piece in asked}) == len(asked)
    monomers = list(s1.pieces("monomer", 1000))
    for tier, n in (("lab", 1000), ("generic", 1000), ("double", 50), ("finer", 50)):
        assert sum(len(piece.indices) for piece in monomers if piece.tier == tier) == n


@pytest.mark.parametrize("n", [1, 19, 20, 60])
def test_fewer_structures_are_the_first_of_more(n):
    for name in s1.FILES:
        whole = {piece.name: piece.indices for piece in s1.pieces(name, 190)}
        for piece in s1.pieces(name, 190, n):
            assert whole[piece.name][: len(piece.indices)] == piece.indices


def test_a_skewed_dimer_is_cured_by_every_rule_of_degree_two(command, tmp_path):
    found = command()["sets"]["test"]
    # E - Ē = ε (cos² - 1/3); inversion changes nothing, everything above removes it.
    raw = np.mean([300 * abs(np.cos(angle) ** 2 - 1 / 3) for angle in ANGLES])
    assert found["n_structures"] == 3
    assert found["against_3i"]["none"]["energy_mae"] == pytest.approx(raw)
    assert found["against_3i"]["i"]["energy_mae"] == pytest.approx(raw)
    # A torque ε sin 2θ on a bond of 1 Å, across the bond: components along x and z of two atoms.
    push = [300 * abs(np.sin(2 * a)) * (abs(np.cos(a)) + abs(np.sin(a))) * 2 / 6 for a in ANGLES]
    assert found["against_3i"]["none"]["forces_mae"] == pytest.approx(np.mean(push))
    for rules in (found["against_3i"], found["against_reference"]):
        for spec in set(rules) - {"none", "i"}:
            assert rules[spec]["energy_max"] < 1e-9, spec
            assert rules[spec]["forces_rms"] < 1e-9, spec
    assert found["published_energy_mae_meV"]["0"] == pytest.approx(2.5)
    text = report(tmp_path)
    assert "These are" not in text
    assert f"| 0 | `none` | 1 | 0 | {tables._n(raw)} " in text
    assert f"| 2.5 | {tables._n(raw / 2.5)} | 1 | 1 |" in text
    assert f"| 2 | {tables._n(raw / 2)} | 1 | 1.25 |" in text
    assert "Every tenth molecule" in text
    assert next((tmp_path / "results").glob("*.png")).stat().st_size > 10_000


def test_a_run_that_was_killed_goes_on_where_it_was(command, tmp_path, monkeypatch):
    monkeypatch.setattr(s1, "draw", lambda *_: None)
    once = command()
    for path in (tmp_path / "out").iterdir():
        path.unlink()

    asked: list[int] = []
    plain = s1.ask

    def killed(*given: Any) -> dict[str, np.ndarray]:
        asked.append(1)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return plain(*given)

    monkeypatch.setattr(s1, "ask", killed)
    with pytest.raises(KeyboardInterrupt):
        command()
    (tmp_path / "out" / "test-lab-0000.partial").write_bytes(b"cut")
    n_before = len(list((tmp_path / "out").glob("*.npz")))
    assert n_before == 3
    again = command()
    n_pieces = len(list((tmp_path / "out").glob("*.npz")))
    assert len(asked) == 4 + n_pieces - n_before
    assert again == once


def test_more_structures_are_added_to_those_that_are_there(command, tmp_path, monkeypatch):
    monkeypatch.setattr(s1, "draw", lambda *_: None)
    assert command("--frames", "1")["sets"]["monomer"]["n_structures"] == 1
    assert "These are 1 of 3 structures; over all of them, published energies are 0: 5.09" in report(tmp_path)
    assert command("--frames", "2")["sets"]["monomer"]["n_structures"] == 2
    assert command("--frames", "1")["sets"]["monomer"]["n_structures"] == 2
    assert list(command("--report", "--sets", "test")["sets"]) == ["test"]


def test_answers_of_another_potential_are_refused(command, monkeypatch):
    command("--frames", "1", "--sets", "test")
    monkeypatch.setattr(s1.tumble, "load", lambda *_, **__: lopsided().double())
    monkeypatch.setattr(s1, "digest", lambda _: "other")
    with pytest.raises(SystemExit, match=r"holds answers for \{'weights'.*Name another folder with -o"):
        command("--frames", "1", "--sets", "test")


def test_what_is_missing_is_said(command, tmp_path):
    with pytest.raises(SystemExit, match=r"holds no answers about test yet\. Run it without --report"):
        command("--report", "--sets", "test")
    (tmp_path / s1.FILES["test"]).unlink()
    with pytest.raises(SystemExit, match=r"water_test_190_unlabelled.*is missing"):
        command("--sets", "test")


def test_weights_tell_potentials_apart():
    assert s1.digest(skewed_dimer()) == s1.digest(skewed_dimer())
    other = skewed_dimer()
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    assert s1.digest(other) != s1.digest(skewed_dimer())


# ------------------------------------------------------------------------------------------------- what is published


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    path = SHARED / "reference" / "study2024.json"
    if not path.exists():
        pytest.skip("the published values are not here")
    return {row["name"]: row["value"] for row in json.loads(path.read_text())}


@pytest.mark.parametrize(("name", "theirs"), [("test", "test"), ("monomer", "mol"), ("bulk", "nvt")])
def test_published_numbers_are_those_of_the_collection(reference, name, theirs):
    for level, value in published.ENERGY_meV[name].items():
        assert value == reference[f"{theirs}.Erot.{level}_vs_3i.MAE"]
    for level, value in published.FORCES_meV_per_A[name].items():
        suffix = "" if level == "0" else "(fig)"
        assert value == reference[f"{theirs}.Frot.{level}_vs_3i.MAE{suffix}"]


@pytest.mark.parametrize("name", list(s1.FILES))
def test_archived_energies_give_the_published_errors(name):
    path = SHARED / "data" / "study2024" / s1.FILES[name]
    if not path.exists():
        pytest.skip("the structures of the study are not here")
    with lzma.open(path, "rt") as file:
        headers = [line for line in file if "E_pet_0" in line]
    infos = [{key: float(value) for key, value in re.findall(r"(E_pet_\w+)=(\S+)", line)} for line in headers]
    found = tables.Found.of(name, [Atoms(info=info) for info in infos], dict.fromkeys(s1.TIERS))
    for level, value in published.ENERGY_meV[name].items():
        ours = 1000 * np.abs(found.theirs[level] - found.theirs["3i"]).mean()
        assert ours == pytest.approx(value, rel=1e-6), level
