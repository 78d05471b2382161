"""The arithmetic of the benchmarks: counts of operations, ratios, structures, and what they read from others."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from speed import floor, memory, orbits, steps, systems, training
from speed.engines import PEERS
from speed.numbers import Ratio, milliseconds, table
from speed.processes import start

from tumble.models.pet import PET, PETSettings
from tumble.neighbors import search
from tumble.potential import Gradient, collate_for

TINY = {"d_pet": 16, "d_node": 32, "d_feedforward": 24, "d_head": 8, "num_heads": 2}


@pytest.mark.parametrize(
    "shape",
    [
        {"num_gnn_layers": 2, "num_attention_layers": 2, "cutoff": 4.0},
        {"num_gnn_layers": 1, "num_attention_layers": 1, "cutoff": 4.0, "activation": "SiLU"},
        {"num_gnn_layers": 3, "num_attention_layers": 1, "cutoff": 5.5, "num_neighbors_adaptive": 8.0},
    ],
)
def test_the_closed_form_counts_what_is_done(shape: dict[str, Any]) -> None:
    settings = PETSettings(**TINY, **shape)
    atoms = systems.structure("si64")
    potential = Gradient(PET([14], settings))
    batch = collate_for(potential, [atoms])
    potential.train()  # the path on which all products are those of torch
    done = floor.counted(lambda: potential(batch))
    least = floor.flops(floor.needed(settings.model_dump(), *floor.sizes(atoms, settings.model_dump())))
    # Attention may be padded, and embeddings cost a little; nothing is left out.
    assert 0.999 <= done / least < 1.25


def test_products_double_from_energy_to_forces() -> None:
    hypers = PETSettings(**TINY).model_dump()
    products = floor.needed(hypers, 10, 100, 11)
    linear = floor.flops([one for one in products if one.batch == 1])
    attention = floor.flops([one for one in products if one.batch > 1])
    n_layers = hypers["num_gnn_layers"] * hypers["num_attention_layers"]
    # Two products forward and four backward, each 2 L² d per atom.
    assert attention == n_layers * 6 * 10 * 2 * 11**2 * hypers["d_pet"]
    twice = {**hypers, "num_attention_layers": 2 * hypers["num_attention_layers"]}
    assert floor.flops(floor.needed(twice, 10, 100, 11)) < 2 * (linear + attention)
    shared = floor.flops(floor.needed(hypers, 10, 100, 11, is_shared=True))
    saved = 2 * hypers["num_gnn_layers"] * 2 * 100 * 2 * hypers["d_pet"] * hypers["d_pet"]
    assert shared == linear + attention - saved
    assert floor.Product(2, 3, 4, batch=5, count=6).flops == 2 * 2 * 3 * 4 * 5 * 6


def test_the_adaptive_radius_counts_the_wanted_number_of_neighbours() -> None:
    hypers = {"num_neighbors_adaptive": 8.0, "cutoff": 6.0, "cutoff_width_adaptive": 1.0}
    atoms = systems.structure("si64")
    pairs = search(atoms.positions, atoms.cell.array, atoms.pbc, 6.0)
    distance = atoms.get_all_distances(mic=True)[pairs.center, pairs.neighbor]
    distance = np.where(pairs.shift.any(axis=1), np.inf, distance)  # any distances will do
    radius = floor.adaptive_radii(pairs.center, distance, len(atoms), hypers)
    s = np.clip(distance - radius[pairs.center] + 1, 1e-6, 1 - 1e-6)
    counted = np.bincount(pairs.center, 0.5 * (1 + np.tanh(1 / np.tan(np.pi * s)))) + 8 * (radius / 6) ** 3
    assert counted == pytest.approx(8)


def test_products_are_timed_in_two_parts() -> None:
    products = floor.Products([floor.Product(8, 4, 2, count=3), floor.Product(2, 2, 2, batch=5)], "cpu")
    total = sum(products.step() for _ in range(2))
    assert total == pytest.approx(products.parts["linear"] + products.parts["batched"])
    assert min(products.parts.values()) > 0


def test_the_floor_is_all_operations_at_the_rate_of_the_linear_maps() -> None:
    case = {"product_parts": {"linear": 3.0, "batched": 1.0}, "flops": 12.0, "linear_flops": 10.0}
    # Of 8 s, linear maps took 6 s; with a fifth more operations at that rate it is 7.2 s.
    assert steps.floor_seconds(case | {"seconds": {"products": [8.0]}}) == pytest.approx([7.2])


def test_a_ratio_is_the_median_over_rounds() -> None:
    ratio = Ratio.of([2.0, 30.0, 8.0, 5.0, 100.0], [1.0, 10.0, 2.0, 1.0, 10.0])
    assert ratio == Ratio(4.0, 3.0, 5.0)
    assert str(ratio) == "unsteady 4.00 (3.00–5.00)"
    assert str(Ratio(4.0, 3.9, 4.2)) == "4.00 (3.90–4.20)"
    assert Ratio.of([6.0], [2.0]) == Ratio(3.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="a ratio of 2 rounds to 1 rounds"):
        Ratio.of([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="a ratio of 0 rounds to 0 rounds"):
        Ratio.of([], [])


def test_tables_are_markdown() -> None:
    assert table(["a", "b"], [[1, None]]) == ["| a | b |", "|---|---|", "| 1 | – |"]
    assert [milliseconds(0.1234), milliseconds([0.001, 0.002, 0.009])] == ["123", "2"]


def test_water_has_the_density_and_the_pairs_of_the_liquid() -> None:
    box = systems.structure("water192")
    assert len(box) == 192
    grams = box.get_masses().sum() * 1.66054e-24
    assert grams / (box.get_volume() * 1e-24) == pytest.approx(1.0, abs=0.01)
    pairs = search(box.positions, box.cell.array, box.pbc, 4.5)
    assert len(pairs.center) / 192 == pytest.approx(4 / 3 * np.pi * 4.5**3 * 192 / box.get_volume(), rel=0.1)
    distances = box.get_all_distances(mic=True)
    apart = np.arange(192)[:, None] // 3 != np.arange(192) // 3
    assert distances[apart].min() > 0.5


def test_engines_in_other_processes_see_the_same_positions() -> None:
    first, second = systems.structure("si8"), systems.structure("si8")
    for atoms in (first, second):
        move = systems.Moves(atoms)
        move()
        move()
    assert np.array_equal(first.positions, second.positions)
    assert not np.allclose(first.positions, systems.structure("si8").positions)


def test_structures_that_fill_no_cube_are_refused() -> None:
    with pytest.raises(ValueError, match="no cube of water has 190 atoms"):
        systems.structure("water190")
    with pytest.raises(ValueError, match="'iron8' is not a structure"):
        systems.structure("iron8")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_the_peak_is_of_the_time_since_it_was_forgotten() -> None:
    np.ones(16_000_000).sum()  # 128 MB, gone again
    rest = memory.forget()
    np.ones(8_000_000).sum()
    assert 60e6 < memory.peak() - rest < 100e6
    assert memory.forget() - rest < 30e6  # what is freed may stay with malloc until it is handed back
    assert memory.available() > 1e6


def test_epochs_are_timed_by_the_log_of_metatrain() -> None:
    log = "\n".join(
        f"[2026-01-01 23:59:{second}][INFO] - Epoch: {k:4} | learning rate: 1e-4 | training loss: 1.0"
        for k, second in enumerate((10, 25, 55))
    )
    assert training.epoch_seconds(f"[2026-01-01 23:59:01][INFO] - Starting training\n{log}") == [15.0, 30.0]
    with pytest.raises(ValueError, match="has 0 epochs; at least 2"):
        training.epoch_seconds("nothing")


def test_the_raw_call_is_taken_from_its_best_batch() -> None:
    seconds = {"tumble O": [9.0, 9.0], "raw, 1 in a batch": [3.0, 3.0], "raw, 4 in a batch": [1.0, 2.0]}
    assert orbits.raw_seconds({"seconds": seconds}) == [1.0, 2.0]


class Known:
    """A process that answers with given forces."""

    def __init__(self, forces: list[list[float]]) -> None:
        self.forces = forces

    def ask(self, do: str) -> dict[str, Any]:
        return {"forces": self.forces}


def test_engines_must_agree_about_the_forces() -> None:
    exact: Any = Known([[1.0, 0.0, -2.0]])
    near: Any = Known([[1.0, 0.0, -2.00001]])
    assert steps._difference({"tumble": near}, exact) == {"tumble": pytest.approx(5e-6)}
    far: Any = Known([[1.0, 0.1, -2.0]])
    with pytest.raises(RuntimeError, match=r"the forces of metatomic differ from those in float64 by 5\.0e-02"):
        steps._difference({"tumble": near, "metatomic": far}, exact)


def test_a_worker_answers_fails_and_dies_with_a_message(tmp_path: Path) -> None:
    with start("tumble", 1) as process:
        assert len(process.ask("products", products=[[4, 4, 4, 1, 1]])["warm_up"]) == 1
        assert len(process.ask("steps", n=3)["seconds"]) == 3
        with pytest.raises(RuntimeError, match=r"load .*nothing.* failed: "):
            process.ask("load", engine="tumble", stem=str(tmp_path / "nothing"), system="si8")
        process._process.kill()
        with pytest.raises(RuntimeError, match="the process ended: exit code -9"):
            process.ask("steps", n=1)


@pytest.mark.parametrize("peer", PEERS)
def test_an_absent_peer_says_how_to_install_it(peer: str) -> None:
    if importlib.util.find_spec({"mace": "mace", "orb": "orb_models"}[peer]):
        pytest.skip(f"{peer} is installed here")
    with start(peer, 1) as process:
        assert "pip install" in process.ask("load", engine=peer, stem="", system="si8")["missing"]
