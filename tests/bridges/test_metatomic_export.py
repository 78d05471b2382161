"""Exported potentials: the numbers of the potential through metatomic, the range that an atom feels, clear refusals."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

import tumble
from tumble import checkpoint
from tumble.batch import Properties
from tumble.bridges import metatomic as bridge
from tumble.bridges.metatomic import Metatomic
from tumble.bridges.metatomic.potential import quiet
from tumble.bridges.metatomic.program import combined
from tumble.bridges.metatomic.program.network import Conditions
from tumble.bridges.metatomic.program.seen import Seen
from tumble.cli import main
from tumble.jobs.export import export, tried
from tumble.models.pair import ZBL, LennardJones, Morse
from tumble.models.pet import LLPR, PET, PETSettings
from tumble.models.pet.conditioning import Conditioning
from tumble.packs import predict
from tumble.potential import Direct, Gradient, Model, Outputs, Potential, Sum, collate_for
from tumble.testing import check_bridge, structures

with quiet():
    engine = pytest.importorskip("metatomic.torch")
    metatensor = pytest.importorskip("metatensor.torch")
    metatomic_ase = pytest.importorskip("metatomic_ase")
    from tumble.bridges.metatomic.program import model as program

pytestmark = pytest.mark.engine

SMALL = {"cutoff": 3.5, "d_pet": 8, "d_head": 8, "d_node": 12, "d_feedforward": 8, "num_heads": 2}
SMALL |= {"num_attention_layers": 1, "num_gnn_layers": 1}


@pytest.fixture(autouse=True)
def without_optimization() -> Iterator[None]:
    """TorchScript rewrites a program in its first runs, which takes longer than all these runs together."""
    with torch.jit.optimized_execution(False):
        yield


def pet(**settings: Any) -> PET:
    """A random PET in float64 whose every weight and scale matters."""
    torch.manual_seed(1)
    model = PET([1, 8], PETSettings(**{**SMALL, **settings})).double()
    for weight in model.parameters():
        if weight.dim() == 1:
            torch.nn.init.normal_(weight, std=0.3)
        elif settings.get("system_conditioning"):
            torch.nn.init.normal_(weight, std=0.2)
    model.offsets = torch.tensor([-13.1, -430.7], dtype=torch.float64)
    model.energy_scale = torch.tensor(0.7, dtype=torch.float64)
    model.force_scale = torch.tensor([0.5, 2.0], dtype=torch.float64)
    return model.requires_grad_(False)


def both(**settings: Any) -> PET:
    return pet(direct_forces=True, direct_stress=True, **settings)


POTENTIALS = {
    "two transformers": lambda: Gradient(pet(num_attention_layers=2)),
    "residual": lambda: Gradient(
        pet(
            num_gnn_layers=2,
            featurizer_type="residual",
            transformer_type="PostLN",
            normalization="LayerNorm",
            activation="SiLU",
        )
    ),
    "narrow node": lambda: Gradient(pet(d_node=8, attention_temperature=1.7)),
    "adaptive": lambda: Gradient(pet(num_gnn_layers=2, num_neighbors_adaptive=4.0, edge_basis=3)),
    "grid": lambda: Gradient(pet(num_neighbors_adaptive=4.0, adaptive_cutoff_method="grid", cutoff_function="Cosine")),
    "conditioned": lambda: Gradient(pet(system_conditioning=True)),
    "with heads": lambda: Gradient(both()),
    "direct": lambda: Direct(both()),
    "averaged": lambda: tumble.symmetrize(Gradient(pet()), "T"),
    "averaged direct": lambda: tumble.symmetrize(Direct(both()), "i@random:1"),
    "Lennard-Jones": lambda: Gradient(LennardJones(0.01, 1.5, cutoff=4.0)),
    "two sigmas": lambda: Gradient(
        LennardJones({"H-H": 0.01, "H-O": 0.02, "O-O": 0.03}, {"H-H": 1.4, "H-O": 1.2, "O-O": 1.0})
    ),
    "sum": lambda: Sum(Gradient(both()), Gradient(ZBL([1, 8])), Gradient(Morse(0.1, 1.5, 3.0, cutoff=3.0))),
    "direct sum": lambda: Sum(Direct(pet(direct_forces=True)), Gradient(ZBL([1, 8]))),
}


def through_ase(path: Path, **options: Any) -> Any:
    """Answers of the calculator of metatomic, which checks what the program gives it."""
    with quiet():
        calculator = metatomic_ase.MetatomicCalculator(str(path), device="cpu", check_consistency=True, **options)

    def ask(atoms: Atoms) -> Properties:
        atoms.calc = calculator
        with np.errstate(invalid="ignore", divide="ignore"), quiet():
            energy, forces = torch.tensor(atoms.get_potential_energy()), torch.tensor(atoms.get_forces())
            stress = torch.as_tensor(atoms.get_stress(voigt=False)) if abs(atoms.cell.volume) > 1e-3 else None
        return Properties(energy, forces, stress)

    return ask


def asked(path: Path, atoms: list[Atoms], name: str = "energy", kind: str = "system", selected: Any = None) -> Any:
    """One output of a file about structures whose positions require a gradient: the block, and the positions."""
    file = Metatomic(path)
    batch = collate_for(file, atoms)
    positions = batch.positions.clone().requires_grad_()
    systems = list(file._systems(batch, positions, batch.cell))
    outputs = {name: engine.ModelOutput(sample_kind=kind)}
    options = engine.ModelEvaluationOptions(length_unit="angstrom", outputs=outputs, selected_atoms=selected)
    return file._engine[0](systems, options, check_consistency=True)[name].block(), positions


@pytest.mark.parametrize("name", POTENTIALS)
def test_every_potential_gives_its_numbers_through_metatomic(name: str, tmp_path: Path) -> None:
    potential = POTENTIALS[name]()
    path = bridge.write(potential, tmp_path / "x.pt")
    loaded = tumble.load(path, direct=not potential.is_conservative)
    assert loaded.cutoff == pytest.approx(potential.cutoff)
    shapes = structures([1, 8])
    if potential.is_conservative:
        assert check_bridge(through_ase(path), potential, atoms=shapes[5:6], tolerance=1e-11) < 1e-11
    for atoms, one, other in zip(shapes, predict(loaded, shapes), predict(potential, shapes), strict=True):
        torch.testing.assert_close(one.energy, other.energy, rtol=1e-12, atol=1e-11)
        torch.testing.assert_close(one.forces, other.forces, rtol=1e-9, atol=1e-11)
        if one.stress is not None and (potential.is_conservative or atoms.pbc.all()):
            torch.testing.assert_close(one.stress, other.stress, rtol=1e-9, atol=1e-11)


def test_the_file_in_float32_gives_the_numbers_of_float32(tmp_path: Path) -> None:
    potential = Gradient(pet()).float()
    path = export(potential, tmp_path / "x.pt")
    loaded, [cluster, crystal] = tumble.load(path), structures([1, 8])[2:6:3]
    assert loaded.dtype == torch.float32
    assert check_bridge(lambda atoms: predict(loaded, atoms)[0], potential, atoms=[crystal], tolerance=1e-5) < 1e-5
    # Offsets are large: they stay float64 when whoever loads the file moves it to another precision.
    expected = float(predict(potential.double(), cluster)[0].energy)  # type: ignore[arg-type]
    assert float(predict(loaded.double(), cluster)[0].energy) == pytest.approx(expected, abs=2e-6)  # type: ignore[arg-type]
    double = tumble.load(bridge.write(potential.float(), tmp_path / "double.pt", dtype=torch.float64))
    assert float(predict(double, cluster)[0].energy) == pytest.approx(expected, abs=1e-10)  # type: ignore[arg-type]


def test_direct_heads_are_outputs_beside_the_energy(tmp_path: Path) -> None:
    potential = Gradient(both())
    path = export(potential, tmp_path / "x.pt")
    assert set(bridge.describe(path)["outputs"]) >= {"energy", "non_conservative_force", "non_conservative_stress"}
    loaded = tumble.load(path, direct=True)
    crystal = structures([1, 8])[5]
    [one], [other] = predict(loaded, crystal), predict(Direct(potential.model), crystal)
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)
    found = through_ase(path, non_conservative=True)(crystal.copy())
    torch.testing.assert_close(found.forces, other.forces - other.forces.mean(0), rtol=1e-10, atol=1e-11)


def test_a_difference_is_the_slow_level_of_time_steps(tmp_path: Path) -> None:
    raw = Gradient(both())
    averaged, shapes = tumble.symmetrize(raw, "i@random:1"), structures([1, 8])[2:6]
    file = tumble.load(export(averaged, tmp_path / "slow.pt", minus=raw))
    for one, a, b in zip(predict(file, shapes), predict(averaged, shapes), predict(raw, shapes), strict=True):
        assert float(one.energy) == pytest.approx(float(a.energy - b.energy), abs=1e-10)  # type: ignore[operator]
        torch.testing.assert_close(one.forces, a.forces - b.forces, rtol=1e-8, atol=1e-11)  # type: ignore[operator]
    fast = Direct(raw.model)
    file = tumble.load(bridge.write(raw, tmp_path / "middle.pt", minus=fast), direct=True)
    for one, a, b in zip(predict(file, shapes), predict(raw, shapes), predict(fast, shapes), strict=True):
        torch.testing.assert_close(one.forces, a.forces - b.forces, rtol=1e-8, atol=1e-11)  # type: ignore[operator]
    assert bridge.interaction_range(raw, fast) == 2 * bridge.interaction_range(raw)


def test_an_average_is_the_same_in_one_pass_and_in_many_and_by_atoms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    potential = tumble.symmetrize(Gradient(pet()), "T")
    atoms = structures([1, 8])[5]
    slopes = []
    for n_pairs, kind in ((combined.PAIRS_PER_PASS, "system"), (1, "system"), (combined.PAIRS_PER_PASS, "atom")):
        monkeypatch.setattr(combined, "PAIRS_PER_PASS", n_pairs)
        values, positions = asked(bridge.write(potential, tmp_path / "x.pt"), [atoms], kind=kind)
        slopes.append(torch.autograd.grad(values.values.sum(), positions)[0])
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(slopes[0], slopes[2], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(slopes[0], -predict(potential, atoms)[0].forces, rtol=1e-10, atol=1e-12)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("settings", "hops", "theirs"),
    [
        ({}, 2, 1),
        ({"num_gnn_layers": 2}, 3, 2),
        ({"num_gnn_layers": 2, "featurizer_type": "residual"}, 2, 2),
        ({"num_gnn_layers": 2, "num_neighbors_adaptive": 4.0}, 4, 2),
        ({"num_neighbors_adaptive": 4.0, "adaptive_cutoff_method": "grid"}, 3, 1),
    ],
)
def test_an_atom_feels_what_is_within_the_declared_range_and_nothing_beyond(
    settings: dict[str, Any], hops: int, theirs: int, tmp_path: Path
) -> None:
    """On a chain each edge is one hop. What metatrain declares for these weights, layers x cutoff, is too little."""
    potential = Gradient(pet(**settings))
    path = bridge.write(potential, tmp_path / "x.pt")
    reach = bridge.describe(path)["interaction_range_A"]
    assert reach == pytest.approx(hops * potential.cutoff)
    spacing = 3.0
    chain = Atoms("HO" * 4, [[k * spacing, 0.3 * (k % 2), 0.2 * (k % 3)] for k in range(8)])
    block, positions = asked(path, [chain], kind="atom")
    slope = torch.autograd.grad(block.values[0, 0], positions)[0].norm(dim=1)
    felt = slope > 1e-13 * slope.max()
    assert felt.tolist() == [k <= hops for k in range(8)]
    distance = torch.as_tensor(chain.get_distances(0, range(8)))
    assert bool((distance[felt] < reach).all())
    assert bool((slope[distance > reach] == 0).all())
    if hops > theirs:
        assert bool(felt[distance > theirs * potential.cutoff].any())


@pytest.mark.parametrize("settings", [{"num_gnn_layers": 2}, {"num_neighbors_adaptive": 4.0}])
def test_a_domain_with_its_ghosts_gives_the_energies_and_slopes_of_the_whole(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """As LAMMPS does it: local atoms are selected, and the slopes of ghosts are sent home."""
    potential = Gradient(pet(**settings))
    path = bridge.write(potential, tmp_path / "x.pt")
    reach = bridge.interaction_range(potential)
    places = np.random.default_rng(0).uniform(-0.5, 0.5, (28, 3)) + np.arange(28)[:, None] * [0.0, 0.0, 1.5]
    whole = Atoms("HO" * 14, places)
    expected = predict(potential, whole)[0]
    forces, energies = torch.zeros(28, 3, dtype=torch.float64), []
    for is_upper in (False, True):
        local = np.flatnonzero((whole.positions[:, 2] > 21.0) == is_upper)
        near = whole.get_all_distances()[local].min(axis=0) <= reach
        members = np.flatnonzero(near)
        assert len(members) < 28
        chosen = torch.tensor([[0, int(np.flatnonzero(members == k)[0])] for k in local], dtype=torch.int32)
        selected = metatensor.Labels(["system", "atom"], chosen)
        block, positions = asked(path, [whole[members]], selected=selected)
        energies.append(float(block.values.detach()))
        forces.index_add_(0, torch.tensor(members), -torch.autograd.grad(block.values.sum(), positions)[0])
        by_atom, _ = asked(path, [whole[members]], kind="atom", selected=selected)
        assert float(by_atom.values.detach().sum()) == pytest.approx(energies[-1], abs=1e-9)
    assert sum(energies) == pytest.approx(float(expected.energy), abs=1e-9)  # type: ignore[arg-type]
    torch.testing.assert_close(forces, expected.forces, rtol=1e-9, atol=1e-11)


def test_a_ball_of_the_range_holds_the_energy_of_its_center_and_one_of_twice_that_the_force(tmp_path: Path) -> None:
    potential = Gradient(pet())
    path, reach = bridge.write(potential, tmp_path / "x.pt"), bridge.interaction_range(potential)
    grid = np.stack(np.meshgrid(range(2), range(2), range(11), indexing="ij"), -1).reshape(-1, 3) * 1.6
    rod = Atoms("HO" * 22, grid + np.random.default_rng(1).uniform(-0.3, 0.3, grid.shape))
    center = int(np.abs(rod.positions[:, 2] - 0.5).argmin())
    whole, positions = asked(path, [rod], kind="atom")
    force = torch.autograd.grad(whole.values.sum(), positions)[0][center]
    off = {}
    for radius in (potential.cutoff, reach, 2 * reach):
        members = np.flatnonzero(rod.get_distances(center, range(len(rod))) <= radius)
        place = int(np.flatnonzero(members == center)[0])
        block, within = asked(path, [rod[members]], kind="atom")
        energy = float((block.values[place] - whole.values[center]).detach().abs())
        off[radius] = (energy, float((torch.autograd.grad(block.values.sum(), within)[0][place] - force).abs().max()))
    energies, forces = zip(*off.values(), strict=True)
    assert energies[0] > 1e-6
    assert max(energies[1:]) < 1e-11
    assert forces[1] > 1e-8
    assert forces[2] < 1e-11


def test_uncertainties_are_an_output(tmp_path: Path) -> None:
    for n_members, rule in ((0, None), (4, "T")):
        known = LLPR(pet())
        shaken = [structures([1, 8])[k] for k in (2, 4, 5)]
        known.fit([collate_for(known, shaken)])
        known.multiplier = torch.tensor(0.3, dtype=torch.float64)
        if n_members:
            known.draw(n_members)
            known.are_trained = torch.ones_like(known.are_trained)
        potential = known if rule is None else tumble.symmetrize(known, rule)
        path = bridge.write(potential, tmp_path / "x.pt")
        batch = collate_for(potential, shaken)
        found, _ = asked(path, shaken, name="energy_uncertainty")
        torch.testing.assert_close(found.values[:, 0], potential.uncertainties(batch).energy)
        if rule is None:
            found, _ = asked(path, shaken, name="energy_uncertainty", kind="atom")
            torch.testing.assert_close(found.values[:, 0], known.uncertainty(batch, per_atom=True))


def test_charge_and_spin_reach_the_program(tmp_path: Path) -> None:
    potential = Gradient(pet(system_conditioning=True))
    path = bridge.write(potential, tmp_path / "x.pt")
    ion = structures([1, 8])[2]
    ion.info |= {"charge": 2, "spin_multiplicity": 3}
    assert bridge.describe(path)["inputs"] == ["charge", "spin_multiplicity"]
    energies = [float(predict(tumble.load(path), one)[0].energy) for one in (ion, structures([1, 8])[2])]  # type: ignore[arg-type]
    assert abs(energies[0] - energies[1]) > 1e-6
    assert energies[0] == pytest.approx(float(predict(potential, ion)[0].energy), abs=1e-10)  # type: ignore[arg-type]
    assert float(through_ase(path)(ion).energy) == pytest.approx(energies[0], abs=1e-10)
    ion.info["charge"] = 11
    with pytest.raises(torch.jit.Error, match="the charge of a structure is none that this model knows"):
        tumble.load(path)(collate_for(potential, [ion]))


def test_a_program_refuses_what_it_was_not_told() -> None:
    none = torch.zeros(0)
    told = Seen(*[none] * 7, torch.tensor([0]), torch.tensor([0]), none, True)  # type: ignore[arg-type]
    conditions = Conditions(Conditioning(PETSettings(**SMALL, system_conditioning=True)))
    with pytest.raises(ValueError, match="the spin multiplicity of a structure is none that this model knows"):
        conditions(told)
    with pytest.raises(ValueError, match="the charge of a structure is none that this model knows"):
        conditions(told._replace(charge=torch.tensor([11])))
    half = program.Program(torch.nn.Identity(), torch.nn.Identity(), 3.5, {"charge": "e"})
    system = engine.System(torch.tensor([1]), torch.zeros(1, 3), torch.zeros(3, 3), torch.zeros(3, dtype=torch.bool))
    zero = metatensor.Labels(["_"], torch.zeros((1, 1), dtype=torch.int32))
    block = metatensor.TensorBlock(torch.tensor([[0.5]]), zero, [], zero)
    system.add_data("charge", metatensor.TensorMap(zero, [block]))
    with pytest.raises(ValueError, match="the charge and the spin multiplicity of a structure must be whole numbers"):
        half.told([system], "charge", 0)


def test_a_pair_that_is_listed_in_one_direction_gets_the_other() -> None:
    """LAMMPS lists some pairs between images of ghosts once."""
    ends = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 2, 0, -1, 0], [0, 0, 1, 0, 0], [0, 0, -1, 0, 0]])
    vectors = torch.arange(15.0).reshape(5, 3)
    vectors[0], vectors[4] = -vectors[1], -vectors[3]
    found, apart, reverse = program.ordered(ends, vectors, 3)
    assert found[:, 0].tolist() == [0, 0, 0, 0, 1, 2]
    assert found[-1].tolist() == [2, 0, 0, 1, 0]
    torch.testing.assert_close(apart[reverse], -apart)
    assert torch.equal(reverse[reverse], torch.arange(6))
    assert [len(one) for one in program.ordered(ends[:0], vectors[:0], 3)] == [0, 0, 0]


class Unknown(Model):
    """A model of someone else."""

    cutoff, species = 1.0, None

    def forward(self, batch: Any) -> Outputs:
        return Outputs(torch.zeros(batch.n_atoms, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: tumble.symmetrize(p, "I@crystal"), r"takes its rotations from each structure, which a file cannot"),
        (lambda p: tumble.symmetrize(p, "none", project="crystal"), r"searches the space group of every structure"),
        (
            lambda p: tumble.Foreign(object(), species=(1, 8)),
            r"a Foreign runs in an engine of its own, so there are no",
        ),
        (lambda p: Gradient(pet(long_range={"enable": True})), r"this PET has long-range features, whose range is unl"),
        (lambda p: Gradient(Unknown()), r"export does not know the model Unknown; PET, LennardJones, Morse or ZBL"),
    ],
)
def test_what_cannot_be_a_program_is_refused(make: Any, message: str, tmp_path: Path) -> None:
    try:
        potential: Potential = make(Gradient(pet()))
    except TypeError:
        from ase.calculators.lj import LennardJones as Theirs

        potential = tumble.Foreign(Theirs())
    with pytest.raises(ValueError, match=message):
        export(potential, tmp_path / "x.pt")
    assert list(tmp_path.iterdir()) == []


def test_bad_words_are_refused(tmp_path: Path) -> None:
    potential = Gradient(LennardJones(0.01, 1.5))
    with pytest.raises(ValueError, match=r"export to 'onnx' is not known; 'metatomic' was expected"):
        export(potential, tmp_path / "x.pt", "onnx")
    with pytest.raises(ValueError, match=r"an exported model is a \.pt file; 'x\.bin' was given"):
        export(potential, tmp_path / "x.bin")
    with pytest.raises(ValueError, match=r"the dtype of an exported file is 'float16'; one of float32, float64"):
        export(potential, tmp_path / "x.pt", dtype="float16")
    argon, neon = (Gradient(ZBL([z])) for z in (18, 10))
    with pytest.raises(ValueError, match=r"the two potentials have no element in common, so their difference has"):
        export(argon, tmp_path / "x.pt", minus=neon)
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_other_numbers_is_not_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    potential = Gradient(LennardJones(0.01, 1.5))
    kept = export(potential, tmp_path / "x.pt").read_bytes()
    written = bridge.write

    def wrong(_: Potential, path: Path, **options: Any) -> Path:
        return written(Gradient(LennardJones(0.0101, 1.5)), path, **options)

    monkeypatch.setattr(bridge, "write", wrong)
    with pytest.raises(RuntimeError, match=r"the exported file deviates by [\d.e-]+ \(relative\), and at most 1e-09"):
        export(potential, tmp_path / "x.pt")
    assert [one.name for one in tmp_path.iterdir()] == ["x.pt"]
    assert (tmp_path / "x.pt").read_bytes() == kept


def test_without_metatomic_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metatomic.torch", None)
    with pytest.raises(ImportError, match=r"export needs metatomic, which is not installed.*tumble\[metatomic\]"):
        export(Gradient(LennardJones(0.01, 1.5)), tmp_path / "x.pt")


def test_the_command_averages_and_tells_what_the_card_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = checkpoint.save(
        Gradient(pet(d_node=8)),
        tmp_path / "ours.safetensors",
        {"doi": "10.1/x", "authors": "A. Nyone"},
    )
    path = tmp_path / "ours.pt"
    assert main(["export", str(source), "-o", str(path), "--rotations", "i", "--dtype", "float32"]) == 0
    assert "an atom feels what is within 7 Å" in capsys.readouterr().out
    said = bridge.describe(path)
    assert (said["name"], said["authors"], said["dtype"]) == ("ours", ["A. Nyone"], "float32")
    assert said["references"]["model"] == ["https://doi.org/10.1/x"]
    assert "PET averaged over i" in said["description"]
    assert main(["export", str(source), "-o", str(path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["export", str(source), "-o", str(path), "--overwrite", "--minus", str(source)]) == 0
    assert float(predict(tumble.load(path), molecule("H2O"))[0].energy) == pytest.approx(0.0, abs=1e-9)  # type: ignore[arg-type]


def test_a_potential_for_any_element_is_one_for_all(tmp_path: Path) -> None:
    loaded = tumble.load(export(Gradient(LennardJones(0.01, 1.5)), tmp_path / "x.pt"))
    assert loaded.species == tuple(range(1, 119))
    assert [len(one) for one in tried((1, 8))] == [1, 3, 2, 2]
