"""The compiled engine of PET against its definition in torch, on every path that leads to it."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from tumble import native
from tumble.batch import Batch, Properties, collate
from tumble.models.pet import PET, PETSettings, engine, memory
from tumble.orbit import Orbit
from tumble.potential import Direct, Gradient, collate_for
from tumble.rotations import Rotations

pytestmark = pytest.mark.skipif(not engine.is_available(), reason=f"no engine: {native.reason(engine.SOURCE)}")

SMALL = {"d_pet": 32, "d_head": 16, "d_node": 48, "d_feedforward": 16, "num_heads": 8, "cutoff": 4.0}
SHAPES: dict[str, dict[str, Any]] = {
    "published shape": {},
    "one attention layer, three exchanges": {"num_attention_layers": 1, "num_gnn_layers": 3},
    "nodes as wide as pairs": {"d_node": 32},
    "four heads": {"num_heads": 4},
    "one head": {"num_heads": 1},
    "one exchange": {"num_gnn_layers": 1},
    "wide panels": {"d_pet": 112, "d_feedforward": 80},
    "cosine taper": {"cutoff_function": "Cosine"},
    "adaptive cutoff": {"num_neighbors_adaptive": 5.0, "cutoff": 5.5},
    "adaptive cutoff that reaches its limit": {"num_neighbors_adaptive": 60.0},
    "adaptive cutoff from a grid": {
        "num_neighbors_adaptive": 6.0,
        "adaptive_cutoff_method": "grid",
        "cutoff": 5.0,
        "cutoff_width_adaptive": 0.8,
    },
    "radial functions": {"edge_basis": 3},
    "temperature": {"attention_temperature": 2.0},
    "charge and spin": {"system_conditioning": True},
}


def network(seed: int = 0, dtype: torch.dtype = torch.float64, **shape: Any) -> PET:
    """A PET with weights far from their initial symmetry: norms with gains, heads with offsets."""
    torch.manual_seed(seed)
    model = PET([1, 8, 14], PETSettings(**{**SMALL, **shape})).to(torch.float64)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model.to(dtype)


def structures() -> list[Atoms]:
    """Periodic and not, dense and sparse, with an isolated atom and a pair alone."""
    generator = np.random.default_rng(0)
    crystal = bulk("Si", cubic=True)
    water = molecule("H2O")
    lone = Atoms("H", cell=[9, 9, 9], pbc=True)
    pair = Atoms("HO", [[0, 0, 0], [0, 0, 1.0]])
    dense = Atoms("Si2", [[0, 0, 0], [1.1, 1.2, 0.9]], cell=[2.3, 2.5, 2.6], pbc=True)
    for one in (crystal, water, dense):
        one.positions += 0.05 * generator.normal(size=one.positions.shape)
    water.info["charge"], water.info["spin"] = 1, 2
    return [crystal, lone, water, pair, dense]


def without_engine(monkeypatch: pytest.MonkeyPatch, potential: Any, batch: Batch) -> Any:
    with monkeypatch.context() as patch:
        patch.setenv(native.OFF, "1")
        return potential(batch)


def difference(left: Properties, right: Properties) -> float:
    """Largest deviation of forces and stress relative to the largest force, and of the energies in eV."""
    assert left.forces is not None
    assert right.forces is not None
    assert left.stress is not None
    assert right.stress is not None
    assert left.energy is not None
    assert right.energy is not None
    scale = float(right.forces.abs().max())
    pairs = [(left.forces, right.forces), (left.stress, right.stress)]
    worst = max(float((a.double() - b.double()).abs().max()) for a, b in pairs) / scale
    return max(worst, float((left.energy - right.energy).abs().max()))


@pytest.mark.parametrize("name", SHAPES)
def test_engine_and_torch_agree_to_rounding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    potential = Gradient(network(**SHAPES[name]))
    batch = collate_for(potential, structures())
    calls: list[str] = []
    inner = engine._call
    monkeypatch.setattr(engine, "_call", lambda name, *rest: calls.append(name) or inner(name, *rest))
    fast = potential(batch)
    assert calls == ["forward", "backward"]
    assert difference(fast, without_engine(monkeypatch, potential, batch)) < 1e-11
    assert calls == ["forward", "backward"]


@pytest.mark.parametrize("name", ["published shape", "adaptive cutoff", "wide panels"])
def test_float32_is_as_good_as_float32_can_be(name: str) -> None:
    model = network(**SHAPES[name])
    exact = Gradient(model)
    quick = Gradient(copy.deepcopy(model).float())
    answer, truth = (p(collate_for(p, structures())) for p in (quick, exact))
    assert answer.forces is not None
    assert truth.forces is not None
    assert float((answer.forces - truth.forces).abs().max()) < 1e-5 * float(truth.forces.abs().max())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_number_of_threads_changes_nothing(threads: int) -> None:
    potential = Gradient(network())
    batch = collate_for(potential, structures())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = potential(batch)
        torch.set_num_threads(threads)
        many = potential(batch)
    finally:
        torch.set_num_threads(before)
    assert difference(one, many) < 1e-12


def test_structures_do_not_see_each_other_in_a_batch() -> None:
    potential = Gradient(network(num_neighbors_adaptive=5.0))
    together = potential(collate_for(potential, structures()))
    start = 0
    for index, one in enumerate(structures()):
        alone = potential(collate_for(potential, [one]))
        assert together.forces is not None
        assert alone.forces is not None
        assert torch.allclose(together.forces[start : start + len(one)], alone.forces, atol=1e-12)
        assert torch.allclose(together.energy[index], alone.energy[0], atol=1e-11)  # type: ignore[index]
        start += len(one)


def test_pairs_beyond_the_cutoff_change_nothing() -> None:
    potential = Gradient(network(num_neighbors_adaptive=5.0))
    near = collate_for(potential, structures())
    far = collate(structures(), potential.cutoff + 1.5, dtype=torch.float64)
    assert far.n_pairs > near.n_pairs
    assert difference(potential(far), potential(near)) < 1e-12


def test_direct_heads_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(direct_forces=True, direct_stress=True)
    for potential in (Direct(model), Gradient(model)):
        batch = collate_for(potential, structures())
        assert difference(potential(batch), without_engine(monkeypatch, potential, batch)) < 1e-11
    conservative, direct = Gradient(model).both(batch)
    assert difference(conservative, Gradient(model)(batch)) < 1e-12
    assert difference(direct, Direct(model)(batch)) < 1e-12


def test_last_layer_features_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    batch = collate_for(Gradient(model), structures())
    with torch.no_grad():
        fast = model.last_layer_features(batch)
        monkeypatch.setenv(native.OFF, "1")
        assert torch.allclose(fast, model.last_layer_features(batch), atol=1e-12)


def test_orbit_is_made_of_single_answers() -> None:
    potential = Gradient(network())
    batch = collate_for(potential, structures())
    rule = Rotations.parse("T@generic")
    together, apart = (Orbit.of(potential, batch, rule, chunk=chunk).properties for chunk in (7, 1))
    assert together.forces is not None
    assert apart.forces is not None
    assert torch.allclose(together.forces, apart.forces, atol=1e-12)


def test_a_changed_weight_is_noticed() -> None:
    model = network()
    potential = Gradient(model)
    batch = collate_for(potential, structures())
    before = potential(batch).energy
    with torch.no_grad():
        model.gnn_layers[0].layers[0].mlp.w_in.weight.mul_(1.1)  # type: ignore[union-attr, index]
    after = potential(batch).energy
    assert not torch.allclose(before, after)  # type: ignore[arg-type]
    fresh = Gradient(copy.deepcopy(model))
    assert torch.equal(fresh(batch).energy, after)  # type: ignore[arg-type]


def test_energies_are_slopes_of_one_another() -> None:
    """Central differences, without torch's path."""
    potential = Gradient(network(num_neighbors_adaptive=5.0))
    atoms = structures()[0]
    forces = potential(collate_for(potential, [atoms])).forces
    step = 1e-4
    for atom, axis in ((0, 0), (3, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(float(potential(collate_for(potential, [moved])).energy))  # type: ignore[arg-type]
        assert forces is not None
        assert -(energies[0] - energies[1]) / (2 * step) == pytest.approx(float(forces[atom, axis]), abs=2e-6)


def test_the_same_derivative_is_not_given_twice() -> None:
    model = network()
    batch = collate_for(Gradient(model), structures())
    vectors = batch.vectors.clone().requires_grad_()
    from tumble.potential import constant_weights

    with constant_weights(True):
        energy = model(batch._replace(vectors=vectors)).energies.sum()
    torch.autograd.grad(energy, vectors, retain_graph=True)
    with pytest.raises(RuntimeError, match="asked for the same derivative twice"):
        torch.autograd.grad(energy, vectors)


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_computed_twice_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    potential = Gradient(network(**SHAPES[name]))
    batch = collate_for(potential, structures())
    kept = potential(batch)
    monkeypatch.setattr(engine, "plenty", lambda: 0)
    again = potential(batch)
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


def test_a_container_may_have_less_memory_than_its_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "CONTAINER", tmp_path / "memory.max")
    found = []
    for limit in ("4096\n", "max\n", None):
        (tmp_path / "memory.max").unlink(missing_ok=True)
        if limit is not None:
            (tmp_path / "memory.max").write_text(limit)
        found.append(memory.plenty.__wrapped__())
    assert found[0] == 1024
    assert found[1] == found[2] > 1024


def test_two_calls_at_once_do_not_share_their_memory() -> None:
    model = network()
    potential = Gradient(model)
    left, right = (collate_for(potential, structures()[k:]) for k in (0, 2))
    from tumble.potential import constant_weights

    slopes = []
    with constant_weights(True):
        leaves = [one.vectors.clone().requires_grad_() for one in (left, right)]
        totals = [
            model(one._replace(vectors=leaf)).energies.sum() for one, leaf in zip((left, right), leaves, strict=True)
        ]
        slopes = [torch.autograd.grad(total, leaf)[0] for total, leaf in zip(totals, leaves, strict=True)]
    alone = potential(right)
    forces = torch.zeros_like(right.positions).index_add(0, right.center, slopes[1])
    forces = forces.index_add(0, right.neighbor, -slopes[1])
    assert torch.allclose(forces, alone.forces, atol=1e-12)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 9),
    seed=st.integers(0, 10_000),
    side=st.floats(2.5, 9.0),
    periodic=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_any_structure(n: int, seed: int, side: float, periodic: tuple[bool, bool, bool]) -> None:
    generator = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)[:n] / 3
    cell = side * (np.eye(3) + 0.1 * generator.normal(size=(3, 3)))
    positions = (places + 0.05 * generator.normal(size=(n, 3))) @ cell
    atoms = Atoms(generator.choice([1, 8, 14], n), positions, cell=cell, pbc=periodic)
    potential = Gradient(network(num_neighbors_adaptive=6.0, cutoff=5.0, num_gnn_layers=1))
    batch = collate_for(potential, [atoms])
    with pytest.MonkeyPatch.context() as patch:
        slow = without_engine(patch, potential, batch)
    fast = potential(batch)
    assert fast.forces is not None
    assert torch.allclose(fast.forces, slow.forces, atol=1e-10)
    assert torch.allclose(fast.energy, slow.energy, atol=1e-10)  # type: ignore[arg-type]
