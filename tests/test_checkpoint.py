"""Potentials as files: what is written is read back, and what is broken is named."""

import json
from pathlib import Path

import pytest
import torch
from ase.build import bulk, molecule
from safetensors.torch import save_file

from tumble import checkpoint
from tumble.batch import Batch, Properties
from tumble.models.pair import ZBL, LennardJones, Morse
from tumble.models.pet import PET, PETSettings
from tumble.potential import Direct, Gradient, Model, Outputs, Potential, Sum, predict
from tumble.rotations import Rotations
from tumble.symmetry import Symmetrized

SMALL = PETSettings(d_pet=8, d_head=8, d_node=12, d_feedforward=8, num_heads=2, direct_forces=True, edge_basis=3)


def pet(dtype: torch.dtype = torch.float32) -> PET:
    torch.manual_seed(0)
    model = PET([14, 1, 8], SMALL).to(dtype)
    model.offsets.copy_(torch.tensor([-13.123456789012, -2041.123456789012, -7878.5], dtype=torch.float64))
    return model


POTENTIALS = {
    "gradient": lambda: Gradient(pet()),
    "direct": lambda: Direct(pet()),
    "float64": lambda: Gradient(pet(torch.float64)),
    "sum": lambda: Sum(Gradient(pet()), Gradient(ZBL([1, 8, 14]).to(torch.float32))),
    "symmetrized": lambda: Symmetrized(Gradient(pet()), Rotations.parse("T")),
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
