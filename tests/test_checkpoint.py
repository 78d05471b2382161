"""Potentials as files: what is written is read back, and what is broken is named."""

import gzip
import json
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from ase.build import bulk, molecule
from safetensors.torch import save_file

from tumble import checkpoint
from tumble.batch import Batch, Properties
from tumble.crystal import point_operations
from tumble.models.pair import ZBL, LennardJones, Morse
from tumble.models.pet import LLPR, PET, LongRange, PETSettings
from tumble.packs import predict
from tumble.potential import Direct, Gradient, Model, Outputs, Potential, Sum, collate_for
from tumble.rotations import Rotations
from tumble.symmetry import Projected, Symmetrized, symmetrize

COMPAT = Path(__file__).resolve().parents[2] / "shared" / "compat"
needs_compat = pytest.mark.skipif(not COMPAT.is_dir(), reason=f"the reference checkpoints are not in {COMPAT.name}")

SMALL = PETSettings(d_pet=8, d_head=8, d_node=12, d_feedforward=8, num_heads=2, direct_forces=True, edge_basis=3)


def pet(dtype: torch.dtype = torch.float32) -> PET:
    torch.manual_seed(0)
    model = PET([14, 1, 8], SMALL).to(dtype)
    model.offsets.copy_(torch.tensor([-13.123456789012, -2041.123456789012, -7878.5], dtype=torch.float64))
    return model


def uncertain() -> LLPR:
    whole = LLPR(pet(), n_members=3)
    random = torch.Generator().manual_seed(4)
    whole.members.copy_(torch.randn(whole.members.shape, generator=random, dtype=torch.float64))
    whole.cholesky.copy_(torch.eye(len(whole.cholesky)) / 3)
    return whole


POTENTIALS = {
    "uncertain": uncertain,
    "gradient": lambda: Gradient(pet()),
    "direct": lambda: Direct(pet()),
    "float64": lambda: Gradient(pet(torch.float64)),
    "sum": lambda: Sum(Gradient(pet()), Gradient(ZBL([1, 8, 14]).to(torch.float32))),
    "symmetrized": lambda: Symmetrized(Gradient(pet()), Rotations.parse("T")),
    "generic frame": lambda: Symmetrized(Gradient(pet()), Rotations.parse("T@generic"), prune=False),
    "random copies": lambda: Symmetrized(Gradient(pet()), Rotations.parse("i@random:2:3")),
    "own group": lambda: symmetrize(Gradient(pet()), "crystal"),
    "frame of the crystal": lambda: symmetrize(Gradient(pet()), "T@crystal"),
    "projected": lambda: Projected(Gradient(pet()), 1e-4),
    "projected mean": lambda: symmetrize(Gradient(pet()), "T", project="crystal"),
    "pair": lambda: Gradient(LennardJones(epsilon=0.2, sigma=2.0, cutoff=4.0)),
    "morse": lambda: Gradient(Morse()),
    "foreign": lambda: checkpoint.load("ase:ase.calculators.lj:LennardJones"),
}


@pytest.mark.parametrize("name", POTENTIALS)
def test_a_saved_potential_gives_the_same_answers(name: str, tmp_path: Path) -> None:
    potential = POTENTIALS[name]()
    path = checkpoint.save(potential, tmp_path / "p.safetensors", {"licence": "CC-BY-4.0"})
    again = checkpoint.load(path)
    assert type(again) is type(potential)
    assert again.dtype == potential.dtype
    structures = [bulk("Si", cubic=True)] if name in ("pair", "morse", "foreign") else [bulk("Si"), molecule("H2O")]
    for one, other in zip(predict(potential, structures), predict(again, structures), strict=True):
        for left, right in zip(one, other, strict=True):
            assert (left is None) == (right is None)
            assert left is None or torch.equal(left, right)
    assert checkpoint.read_header(path)["card"] == {"licence": "CC-BY-4.0"}
    assert not any(weight.requires_grad for weight in again.parameters())


def test_wrappers_are_rebuilt_as_they_were(tmp_path: Path) -> None:
    def again(potential: Potential, **how: bool) -> Potential:
        return checkpoint.load(checkpoint.save(potential, tmp_path / "p.safetensors"), **how)

    whole = again(symmetrize(Gradient(pet()), "T@crystal", project="crystal"))
    assert isinstance(whole, Projected)
    assert isinstance(whole.inner, Symmetrized)
    assert (whole.tolerance, whole.inner.rotations.name) == (1e-3, "T@crystal")
    exact = again(Projected(Symmetrized(Gradient(pet()), Rotations.parse("i"), prune=False), 1e-5), direct=True)
    assert isinstance(exact, Projected)
    assert isinstance(exact.inner, Symmetrized)
    assert (exact.tolerance, exact.inner.prune, exact.is_conservative) == (1e-5, False, False)


def test_a_file_from_before_there_was_pruning_is_read(tmp_path: Path) -> None:
    path = checkpoint.save(Symmetrized(Gradient(Morse()), Rotations.parse("T")), tmp_path / "p.safetensors")
    header = checkpoint.read_header(path)
    inner = {"kind": "Gradient", "model": "Morse", "config": Morse().config()}
    assert header["recipe"] == {"kind": "Symmetrized", "inner": inner, "rotations": "T"}
    assert header["format"] == 1
    averaged = checkpoint.load(path)
    assert isinstance(averaged, Symmetrized)
    assert averaged.prune


def test_a_rule_that_its_name_does_not_make_again_is_not_saved(tmp_path: Path) -> None:
    for rule in (Rotations.parse("T").offset(torch.eye(3)), point_operations(bulk("Si")).rule()):
        with pytest.raises(ValueError, match=r"the rule \S+ of \d+ rotations cannot be saved: a file names its rule"):
            checkpoint.save(Symmetrized(Gradient(Morse()), rule), tmp_path / "p.safetensors")


def test_uncertainties_survive_a_file_exactly(tmp_path: Path) -> None:
    potential = uncertain()
    again = checkpoint.load(checkpoint.save(potential, tmp_path / "p.safetensors"))
    assert isinstance(again, LLPR)
    batch = collate_for(potential, [molecule("H2O"), bulk("Si")])
    assert torch.equal(again.uncertainty(batch), potential.uncertainty(batch))
    assert torch.equal(again.ensemble(batch), potential.ensemble(batch))
    assert checkpoint.describe(tmp_path / "p.safetensors")["ensemble"] == [3]


def test_direct_heads_answer_where_there_are_some(tmp_path: Path) -> None:
    models = Gradient(pet()), uncertain(), Sum(Gradient(pet()), Gradient(ZBL([1, 8, 14]).to(torch.float32)))
    for potential in (*models, Symmetrized(models[0], Rotations.parse("i"))):
        path = checkpoint.save(potential, tmp_path / "p.safetensors")
        direct = checkpoint.load(path, direct=True)
        assert not direct.is_conservative
        assert type(direct) is (Direct if isinstance(potential, Gradient | LLPR) else type(potential))
        [one], [other] = predict(direct, molecule("H2O")), predict(checkpoint.load(path), molecule("H2O"))
        torch.testing.assert_close(one.energy, other.energy)
        assert not torch.allclose(one.forces, other.forces)  # type: ignore[arg-type]
    again = checkpoint.load(checkpoint.save(direct, tmp_path / "d.safetensors"), direct=True)
    assert not again.is_conservative
    blind = PET([1, 8], SMALL.model_copy(update={"direct_forces": False}))
    with pytest.raises(ValueError, match="has no direct force head"):
        checkpoint.load(checkpoint.save(Gradient(blind), tmp_path / "b.safetensors"), direct=True)
    with pytest.raises(ValueError, match=r"a Foreign has no direct heads\. Load it with direct=False"):
        checkpoint.load("ase:ase.calculators.lj:LennardJones", direct=True)


def test_a_variant_of_a_file_with_one_set_of_heads_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(Gradient(pet()), tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match=r"variant 'pbe' was asked for, and .*p\.safetensors holds one set of heads"):
        checkpoint.load(path, variant="pbe")
    with pytest.raises(ValueError, match=r"variant 'pbe' was asked for, and ase:.* holds one set of heads"):
        checkpoint.load("ase:ase.calculators.lj:LennardJones", variant="pbe")


def checkpoint_of_metatrain(path: Path) -> Path:
    """A random PET with a repulsion, two energies and their force heads, as metatrain writes it."""
    pet_of_metatrain = pytest.importorskip("metatrain.pet").PET
    from metatrain.utils.architectures import get_default_hypers
    from metatrain.utils.data.dataset import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info, get_generic_target_info

    head = {"quantity": "force", "unit": "eV/A", "sample_kind": "atom", "num_subtargets": 1}
    targets = {}
    for variant in ("pbe", "r2scan"):
        energy, force = f"energy/{variant}", f"non_conservative_force/{variant}"
        targets[energy] = get_energy_target_info(energy, {"quantity": "energy", "unit": "eV"})
        targets[force] = get_generic_target_info(force, head | {"type": {"cartesian": {"rank": 1}}})
    small = {"d_pet": 8, "d_head": 8, "d_node": 12, "d_feedforward": 8, "num_heads": 2, "zbl": True}
    torch.manual_seed(0)
    model = pet_of_metatrain(get_default_hypers("pet")["model"] | small, DatasetInfo("angstrom", [1, 8], targets))
    torch.save(model.get_checkpoint(), path)
    return path


@pytest.mark.engine
@pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated")
def test_a_converted_checkpoint_gives_the_same_numbers(tmp_path: Path) -> None:
    source, target = checkpoint_of_metatrain(tmp_path / "x.ckpt"), tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match=r"pbe.*r2scan"):
        checkpoint.convert(source, target)
    assert not target.exists()
    assert checkpoint.convert(source, target, variant="pbe") == target
    one, other = checkpoint.load(source, variant="pbe"), checkpoint.load(target)
    assert isinstance(other, Sum)
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    for mine, theirs in zip(predict(one, molecule("H2O")), predict(other, molecule("H2O")), strict=True):
        assert torch.equal(mine.energy, theirs.energy)  # type: ignore[arg-type]
        assert torch.equal(mine.forces, theirs.forces)  # type: ignore[arg-type]
    card = checkpoint.read_header(target)["card"]
    assert card == json.loads((tmp_path / "x.json").read_text())
    assert card["converted"]["variant"] == "pbe"
    assert card["converted"]["sha256"] == sha256(source.read_bytes()).hexdigest()
    said = checkpoint.describe(source)
    assert said.items() >= card["converted"]["source"].items()
    assert said["species"] == "H O"
    assert said["variants"] == ["pbe", "r2scan"]
    assert said["interaction_range_A"] == checkpoint.describe(target)["interaction_range_A"] == 3 * 4.5


@needs_compat
def test_files_of_every_version_convert_without_a_change(tmp_path: Path) -> None:
    packed = sorted((COMPAT / "fixtures").glob("*.ckpt.gz"))
    assert len(packed) >= 20
    for one in packed:
        source = tmp_path / one.stem
        source.write_bytes(gzip.decompress(one.read_bytes()))
        target = checkpoint.convert(source, tmp_path / "x.safetensors", overwrite=True)
        before, after = checkpoint.load(source), checkpoint.load(target)
        assert type(before) is type(after)
        assert before.state_dict().keys() == after.state_dict().keys()
        assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items()), one


def test_a_converted_potential_keeps_its_card_and_existing_files(tmp_path: Path) -> None:
    source = checkpoint.save(Gradient(pet()), tmp_path / "p.safetensors", {"licence": "CC-BY-4.0"})
    target = checkpoint.convert(source, tmp_path / "new" / "q.safetensors")
    card = checkpoint.read_header(target)["card"]
    assert card["licence"] == "CC-BY-4.0"
    assert card["converted"]["from"] == "p.safetensors"
    with pytest.raises(
        ValueError, match=r"q\.safetensors and .*q\.json would be written over; a new file was expected"
    ):
        checkpoint.convert(source, target)
    checkpoint.convert(source, target, overwrite=True)
    with pytest.raises(ValueError, match=r"ase:.* holds no weights of ours, so it cannot be written"):
        checkpoint.convert("ase:ase.calculators.lj:LennardJones", tmp_path / "r.safetensors")
    assert not (tmp_path / "r.json").exists()


def test_a_description_says_what_a_potential_is(tmp_path: Path) -> None:
    whole = Symmetrized(Sum(Direct(pet()), Gradient(ZBL([1, 8, 14]).to(torch.float32))), Rotations.parse("Oh"))
    said = checkpoint.describe(checkpoint.save(whole, tmp_path / "p.safetensors", {"doi": "10/x"}))
    assert said["kind"] == "Symmetrized Oh of Sum of Direct of PET and Gradient of ZBL"
    assert (said["species"], said["dtype"], said["card"]) == ("H O Si", "float32", {"doi": "10/x"})
    assert (said["conservative"], said["direct_forces"]) == (False, True)
    assert said["interaction_range_A"] == SMALL.interaction_range
    assert said["n_parameters"] == sum(one.numel() for one in pet().parameters())
    pytest.importorskip("torchpme")
    far = Gradient(PET([1, 8], SMALL.model_copy(update={"long_range": LongRange(enable=True)})))
    path = checkpoint.convert(checkpoint.save(far, tmp_path / "far.safetensors"), tmp_path / "l.safetensors")
    assert checkpoint.describe(path)["interaction_range_A"] == "unlimited"
    assert "Infinity" not in (tmp_path / "l.json").read_text()


def test_a_foreign_potential_is_described_as_far_as_it_is_known() -> None:
    foreign = checkpoint.describe("ase:ase.calculators.lj:LennardJones")
    assert (foreign["kind"], foreign["species"], foreign["interaction_range_A"]) == ("Foreign", "any", None)


def test_loading_can_choose_the_precision_and_keeps_exact_offsets(tmp_path: Path) -> None:
    path = checkpoint.save(Gradient(pet()), tmp_path / "p.safetensors")
    double = checkpoint.load(path, dtype="float64")
    assert double.dtype == torch.float64
    single = checkpoint.load(path, dtype=torch.float32)
    assert isinstance(single, Gradient)
    assert torch.equal(single.model.offsets, pet().offsets)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"dtype is 'half'; one of float32, float64"):
        checkpoint.load(path, dtype="half")


def test_loading_uses_up_no_random_numbers(tmp_path: Path) -> None:
    path = checkpoint.save(Gradient(pet()), tmp_path / "p.safetensors")
    before = torch.random.get_rng_state()
    checkpoint.load(path)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = checkpoint.save(Gradient(pet()), tmp_path / "p.safetensors")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"p\.safetensors cannot be read as a potential.*cut off"):
        checkpoint.load(path)


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="no recipe of a potential"):
        checkpoint.load(tmp_path / "x.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read as a potential"):
        checkpoint.load(tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match=r"is saved as a \.safetensors file"):
        checkpoint.save(Gradient(pet()), tmp_path / "p.pt")


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(FileNotFoundError, match=r"no potential 'watr'.*packaged name"):
        checkpoint.load("watr")


def test_a_file_from_a_newer_version_says_so(tmp_path: Path) -> None:
    def written(header: dict[str, object]) -> Path:
        save_file({"x": torch.zeros(1)}, tmp_path / "new.safetensors", metadata={"tumble": json.dumps(header)})
        return tmp_path / "new.safetensors"

    with pytest.raises(ValueError, match=r"has format 99.*newer tumble"):
        checkpoint.load(written({"format": 99}))
    with pytest.raises(ValueError, match=r"describes a 'Oracle'.*newer tumble"):
        checkpoint.load(written({"format": 1, "recipe": {"kind": "Oracle"}}))


def test_what_cannot_be_rebuilt_is_not_saved(tmp_path: Path) -> None:
    class Own(Model):
        cutoff, species = 3.0, None

        def forward(self, batch: Batch) -> Outputs:
            return Outputs(batch.positions[:, 0].double())

    class Ours(Potential):
        cutoff, species, is_conservative = 3.0, None, True

        def forward(self, batch: Batch) -> Properties:
            return Properties()

    with pytest.raises(ValueError, match="a Own cannot be saved: only PET"):
        checkpoint.save(Gradient(Own()), tmp_path / "p.safetensors")
    with pytest.raises(ValueError, match="a Ours cannot be saved: nothing says how to rebuild it"):
        checkpoint.save(Ours(), tmp_path / "p.safetensors")


def test_packaged_potentials_load_by_name() -> None:
    names = checkpoint.packaged()
    assert "water" in names
    water = checkpoint.load("water")
    assert water.species == (1, 8)
    card = checkpoint.read_header(names["water"])["card"]
    assert {"data", "licence", "doi", "command", "errors", "hardware"} <= set(card)
    assert names["water"].stat().st_size < 8e6
