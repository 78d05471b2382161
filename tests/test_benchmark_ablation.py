"""The ablation: its crystals are what they are called, what is kept is seen, and costs are ratios."""

import json

import ablation
import numpy as np
import pytest
from ase.build import bulk

from tumble.crystal import group_of
from tumble.models.pair import LennardJones
from tumble.potential import Gradient

GROUPS = {
    **{"fcc": 225, "bcc": 229, "diamond": 227, "zincblende": 216, "rocksalt": 225, "cesiumchloride": 221},
    **{"hcp": 194, "wurtzite": 186, "fluorite": 225, "perovskite": 221, "L1_2": 221, "B2": 221, "L1_0": 123},
}


@pytest.mark.parametrize("made", [ablation.prototypes, ablation.metals])
def test_thirty_crystals_of_five_types_have_the_group_of_their_type(made):
    crystals = list(made())
    assert len(crystals) >= 30
    assert len({kind for kind, _ in crystals}) >= 5
    for kind, atoms in crystals:
        assert group_of(atoms, ablation.TIGHT).number == GROUPS[kind]


def test_rattling_leaves_no_symmetry_and_the_seed_decides_how():
    crystal = bulk("Cu", cubic=True)
    first = ablation.rattled(crystal, 0)
    assert group_of(first, ablation.LOOSE).number == 1
    assert np.array_equal(first.positions, ablation.rattled(crystal, 0).positions)
    assert not np.allclose(first.positions, ablation.rattled(crystal, 1).positions)


def test_an_invariant_potential_keeps_what_is_stable_and_the_group_all_of_it():
    potential = Gradient(LennardJones(0.0104, 3.4, cutoff=7.0))
    crystals = ablation.at_rest(potential, [("fcc", bulk("Ar", a=5.3, cubic=True))])
    assert len(crystals) == ablation.LEAST
    rows = ablation.run(potential, crystals[:2], "raw")["rows"]
    assert all(row["converged"] and row["kept_loose"] for row in rows)  # argon is soft: 1e-6 eV/Å are 2e-5 Å
    rows = ablation.run(potential, crystals[:2], "keep")["rows"]
    assert all(row["converged"] and row["kept_tight"] for row in rows)


def test_shares_are_percent_and_costs_those_of_a_step():
    def made(kept, steps, cpu):
        rows = [{"kept_tight": k, "kept_loose": True, "converged": True, "steps": steps} for k in kept]
        return {"rows": rows, "cpu_seconds": cpu, "seconds": cpu}

    found = {"float64/raw": made([True, False], 9, 4.0), "float64/i": made([True, True], 4, 6.0)}
    assert ablation.summary(found, "float64/raw")["kept at 1e-5"] == 50.0
    assert ablation.summary(found, "float64/i")["cost of a step"] == pytest.approx((6.0 / 10) / (4.0 / 20))
    assert ablation.table(found).count("\n") == 3


def test_the_picture_is_drawn(tmp_path):
    rows = [{"kept_tight": True, "kept_loose": True, "converged": True, "steps": 3}]
    done = {"rows": rows, "cpu_seconds": 1.0, "seconds": 1.0}
    path = tmp_path / "2026-01-01-ablation-made.json"
    path.write_text(json.dumps({"float64/raw": done, "float32/raw": done, "control/raw": done}))
    ablation.main(["picture", str(path), "--to", str(tmp_path / "made.svg")])
    assert "<svg" in (tmp_path / "made.svg").read_text()
