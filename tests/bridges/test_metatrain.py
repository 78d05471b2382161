"""Checkpoints of metatrain: read without it, to the same numbers, whatever heads, scales and fine-tuning they have."""

import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms

import tumble
from metatrain_files import answers, loaded, model_of, written
from pet_reference import crystal, molecule, slab, system_of, triclinic
from tumble.bridges import metatrain
from tumble.models.pet import LLPR, PET
from tumble.packs import predict
from tumble.potential import Direct, Gradient, Potential, Sum, collate_for

COMPAT = Path(__file__).resolve().parents[3] / "shared" / "compat"
needs_compat = pytest.mark.skipif(not COMPAT.is_dir(), reason=f"the reference checkpoints are not in {COMPAT.name}")
engine = pytest.mark.engine
quiet = pytest.mark.filterwarnings("ignore")
FORCES, STRESS = "non_conservative_forces", "non_conservative_stress"


def network(potential: Potential) -> PET:
    first = potential.parts[0] if isinstance(potential, Sum) else potential
    assert isinstance(first, Gradient | LLPR)
    assert isinstance(first.model, PET)
    return first.model


def worst(ours: Any, theirs: Any) -> float:
    """Largest difference over the largest number."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    return float(np.abs(ours - theirs.reshape(ours.shape)).max() / np.abs(theirs).max())


# ------------------------------------------------------------------------------------- against numbers of metatrain


@needs_compat
@pytest.mark.parametrize("name", ["eth", "si"])
def test_trained_checkpoints_give_the_numbers_of_metatrain(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(lzma.decompress((COMPAT / f"{name}.ckpt.xz").read_bytes()))
    expected = json.loads((COMPAT / "trained_expected.json").read_text())[name]["structures"]
    potential = tumble.load(tmp_path / "x.ckpt", dtype="float64")
    direct = Direct(network(potential))
    # metatrain forms the screening length of ZBL in float32, also in a float64 model; everything else is exact.
    tolerance = 1e-7 if isinstance(potential, Sum) else 1e-9
    for one in expected:
        atoms = Atoms(one["numbers"], one["positions"], cell=one["cell"], pbc=one["pbc"])
        answer, heads = predict(potential, atoms)[0], predict(direct, atoms)[0]
        assert float(answer.energy) == pytest.approx(one["energy"], rel=tolerance)  # type: ignore[arg-type]
        pairs = [(answer.forces, one["forces"]), (heads.forces, one["non_conservative_force"])]
        if "stress" in one:
            pairs += [(answer.stress, one["stress"]), (heads.stress, one["non_conservative_stress"])]
        for ours, theirs in pairs:
            assert ours is not None
            # Their virial keeps the antisymmetric part that comes from broken invariance; a stress has none.
            known = np.array(theirs)
            known = (known + known.T) / 2 if known.shape == (3, 3) and ours is not answer.forces else known
            assert np.abs(ours.numpy() - known).max() < tolerance * np.abs(known).max() + 1e-12


@needs_compat
@pytest.mark.parametrize("path", sorted(COMPAT.glob("fixtures/*.gz")), ids=lambda path: path.name.partition(".")[0])
def test_small_checkpoints_of_many_versions_give_the_numbers_of_metatrain(path: Path, tmp_path: Path) -> None:
    name = path.name.removesuffix(".ckpt.gz")
    expected = json.loads((COMPAT / "fixtures_expected.json").read_text())[name]
    (tmp_path / "x.ckpt").write_bytes(gzip.decompress(path.read_bytes()))
    potential = tumble.load(tmp_path / "x.ckpt")
    assert str(potential.dtype) == f"torch.{expected['dtype']}"
    assert isinstance(potential, LLPR) == ("energy_uncertainty" in expected["outputs"])
    assert metatrain.describe(tmp_path / "x.ckpt")["species"] == expected["atomic_types"]
    for structure in ("molecule", "crystal", "triclinic"):
        answer = predict(potential, ase.io.read(COMPAT / f"{structure}.extxyz"))[0]
        known = expected[structure]
        assert float(answer.energy) == pytest.approx(known["energy"], rel=1e-6)  # type: ignore[arg-type]
        assert np.allclose(answer.forces, known["forces"], rtol=0, atol=1e-5 * (np.abs(known["forces"]).max() + 0.01))  # type: ignore[arg-type]


LONG_RANGE = {"enable": True, "use_ewald": False, "smearing": 1.4, "kspace_resolution": 1.33, "interpolation_nodes": 5}
SHAPES: dict[str, dict[str, Any]] = {
    "published defaults": {},
    "repulsion": {"zbl": True},
    "cutoffs by a solver": {"num_neighbors_adaptive": 6.0, "cutoff": 5.5},
    "cutoffs by a grid": {"num_neighbors_adaptive": 6.0, "cutoff": 5.5, "adaptive_cutoff_method": "grid"},
    "charge and spin": {"system_conditioning": True, "max_charge": 4},
    "long range": {"long_range": LONG_RANGE},
}


@engine
@quiet
@pytest.mark.parametrize("shape", SHAPES)
def test_a_checkpoint_of_every_shape_gives_the_numbers_of_metatrain(shape: str, tmp_path: Path) -> None:
    path = written(model_of(["energy", FORCES, STRESS], **SHAPES[shape]), tmp_path / "x.ckpt")
    potential, theirs = tumble.load(path), loaded(path)
    ion = molecule()
    ion.info.update(charge=-1, spin_multiplicity=2)
    slabs = [] if shape == "long range" else [slab()]  # metatrain fails there: it inverts a cell with a row of zeros
    for atoms in (molecule(), crystal(), triclinic(), ion, *slabs):
        said = answers(theirs, atoms, "energy", {FORCES: True, STRESS: False})
        ours, direct = predict(potential, atoms)[0], predict(Direct(network(potential)), atoms)[0]
        assert worst(ours.energy, said["energy"]) < 1e-10
        assert worst(ours.forces, said["forces"]) < (1e-6 if shape == "repulsion" else 1e-10)
        assert worst(direct.forces, said[FORCES]) < 1e-10
        if atoms.pbc.all():
            assert worst(direct.stress, said[STRESS]) < 1e-10


# -------------------------------------------------------------------------------------------------- targets and units


@engine
@quiet
def test_variants_are_chosen_with_their_own_heads_composition_and_scales(tmp_path: Path) -> None:
    others = ["mtt::dipole", "mtt::charges", "mtt::shielding"]
    names = ["energy", FORCES, "energy/pbe", "non_conservative_force/pbe", "energy/r2scan", f"{STRESS}/r2scan", *others]
    path = written(model_of(names), tmp_path / "x.ckpt")
    theirs, atoms = loaded(path), crystal()
    for variant, head in ((None, FORCES), ("pbe", "non_conservative_force/pbe"), ("r2scan", None)):
        potential = metatrain.load(path, variant=variant)
        target = f"energy/{variant}" if variant else "energy"
        said = answers(theirs, atoms, target, {head: True} if head else {})
        ours = predict(potential, atoms)[0]
        assert worst(ours.energy, said["energy"]) < 1e-10
        assert worst(ours.forces, said["forces"]) < 1e-10
        assert network(potential).has_direct_forces == bool(head)
        assert not network(potential).settings.direct_stress
        if head:
            assert worst(predict(Direct(network(potential)), atoms)[0].forces, said[head]) < 1e-10
    with pytest.raises(ValueError, match=r"no variant 'hse' of the energy; it has pbe, r2scan\. Choose one of these"):
        metatrain.load(path, variant="hse")
    described = metatrain.describe(path)
    roles = {name: target["used_as"] for name, target in described["targets"].items()}
    assert described["variants"] == ["pbe", "r2scan"]
    assert [roles[name] for name in names] == ["energy", "forces", "energy", "forces", "energy", None, *[None] * 3]


@engine
@quiet
def test_without_a_plain_energy_the_only_variant_is_taken_and_several_are_listed(tmp_path: Path) -> None:
    one = written(model_of(["energy/pbe", "non_conservative_force/pbe"]), tmp_path / "one.ckpt")
    assert network(metatrain.load(one)).has_direct_forces
    two = written(model_of(["energy/pbe", "energy/r2scan"]), tmp_path / "two.ckpt")
    with pytest.raises(ValueError, match=r"has 2 variants of the energy: pbe, r2scan\. Choose one with variant="):
        metatrain.load(two)
    none = written(model_of(["mtt::dipole", "mtt::charges"]), tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match=r"no target named 'energy' \(its targets: mtt::charges, mtt::dipole\)"):
        metatrain.load(none)
    assert metatrain.describe(none)["targets"]["mtt::dipole"]["used_as"] is None


@engine
@quiet
def test_units_become_ours_or_are_named(tmp_path: Path) -> None:
    names, units = ["energy", FORCES, STRESS], {"energy": "kcal/mol", FORCES: "kcal/mol/A", STRESS: "GPa"}
    path = written(model_of(names, units), tmp_path / "x.ckpt")
    potential, atoms, factor = metatrain.load(path), crystal(), 0.0433641042418
    said = answers(loaded(path), atoms, "energy", {FORCES: True, STRESS: False})
    ours, direct = predict(potential, atoms)[0], predict(Direct(network(potential)), atoms)[0]
    assert worst(ours.energy, said["energy"] * factor) < 1e-10
    assert worst(ours.forces, said["forces"] * factor) < 1e-10
    assert worst(direct.forces, said[FORCES] * factor) < 1e-10
    assert worst(direct.stress, said[STRESS] / 160.21766208) < 1e-8
    with pytest.raises(ValueError, match="the target 'energy' is in 'J'; one of 'ev', 'mev'"):
        metatrain.load(written(model_of(["energy"], {"energy": "J"}), tmp_path / "j.ckpt"))
    with pytest.raises(ValueError, match="measures lengths in 'nm'; Å was expected"):
        metatrain.load(written(model_of(["energy"], {"length": "nm"}), tmp_path / "nm.ckpt"))


# ------------------------------------------------------------------------------------------- fine-tuning, best and last


@engine
@quiet
@pytest.mark.parametrize("method", ["lora", "heads", "full"])
def test_fine_tuned_checkpoints_give_the_numbers_of_metatrain(method: str, tmp_path: Path) -> None:
    model = model_of(["energy", FORCES])
    from metatrain.pet.modules.finetuning import apply_finetuning_strategy

    config: dict[str, Any] = {
        "lora": {"target_modules": ["input_linear", "output_linear", "w_in"], "rank": 3, "alpha": 5.0},
        "heads": {"head_modules": ["node_heads"], "last_layer_modules": ["node_last_layers"]},
        "full": {},
    }
    model = apply_finetuning_strategy(
        model, {"read_from": None, "method": method, "config": config[method], "inherit_heads": {}}
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    # The best weights of an unfinished run do not say how they were fine-tuned; the last ones do.
    path = written(model, tmp_path / "x.ckpt")
    for atoms in (molecule(), crystal()):
        said, ours = answers(model, atoms, "energy"), predict(metatrain.load(path), atoms)[0]
        assert worst(ours.energy, said["energy"]) < 1e-10
        assert worst(ours.forces, said["forces"]) < 1e-10
    assert metatrain.describe(path)["finetuning"] == method
    if method == "lora":
        state = {
            name: value for name, value in model.get_checkpoint()["model_state_dict"].items() if "config" not in name
        }
        torch.save(model.get_checkpoint() | {"model_state_dict": state}, path)
        with pytest.raises(
            ValueError, match=r"low-rank weights of a fine-tuning \(backend.* does not say with which alpha"
        ):
            metatrain.load(path)


@engine
@quiet
def test_the_best_weights_are_taken_and_the_last_where_there_are_none(tmp_path: Path) -> None:
    model = model_of(["energy"])
    best, last = model.state_dict(), {name: value.clone() for name, value in model.state_dict().items()}
    last["backend.edge_embedder.weight"] += 1.0
    for stored, expected in ((best, best), (None, last), ({}, last)):
        written(model, tmp_path / "x.ckpt", best_model_state_dict=stored, model_state_dict=last)
        weights = network(metatrain.load(tmp_path / "x.ckpt")).edge_embedder.weight
        assert torch.equal(weights, expected["backend.edge_embedder.weight"])
    with pytest.raises(ValueError, match="the checkpoint holds no weights"):
        metatrain.load(written(model, tmp_path / "x.ckpt", best_model_state_dict=None, model_state_dict=None))


# ------------------------------------------------------------------------------------------------------- uncertainties


@engine
@quiet
def test_uncertainties_of_a_variant_give_the_numbers_of_metatrain(tmp_path: Path) -> None:
    model = model_of(["energy", "energy/pbe"], zbl=True)
    from metatomic.torch import ModelOutput
    from metatrain.llpr import LLPRUncertaintyModel

    theirs = LLPRUncertaintyModel({"num_ensemble_members": {"energy/pbe": 5}}, model.dataset_info)
    theirs.set_wrapped_model(model)
    theirs = theirs.to(torch.float64).eval()
    square = torch.randn(24, 24, dtype=torch.float64)
    theirs._get_cholesky("mtt::aux::energy/pbe_uncertainty")[:] = torch.linalg.cholesky(square @ square.T)
    theirs._get_multiplier("mtt::aux::energy/pbe_uncertainty")[:] = 1.7
    path = written(theirs, tmp_path / "x.ckpt")
    potential, atoms = metatrain.load(path, variant="pbe"), triclinic()
    assert isinstance(potential, Sum)
    unsure = potential.parts[0]
    assert isinstance(unsure, LLPR)
    names = ("energy/pbe", "mtt::aux::energy/pbe_uncertainty", "mtt::aux::energy/pbe_ensemble")
    system = system_of(theirs, atoms, torch.tensor(atoms.positions), torch.tensor(atoms.cell.array))
    said = theirs([system], {name: ModelOutput(sample_kind="system") for name in names})
    energy, uncertainty, ensemble = (said[name].block().values.detach() for name in names)
    batch = collate_for(potential, [atoms])
    repulsion = potential.parts[1](batch).energy
    assert worst(potential(batch).energy, energy) < 1e-10
    assert worst(unsure.uncertainty(batch), uncertainty) < 1e-10
    assert worst(unsure.ensemble(batch) + repulsion[:, None], ensemble) < 1e-10
    assert isinstance(network(metatrain.load(path)), PET)
    assert not any(isinstance(part, LLPR) for part in metatrain.load(path).modules())  # the plain one is not calibrated
    described = metatrain.describe(path)
    assert (described["architecture"], described["version"], described["wrapped_version"]) == ("llpr", 4, 16)
    assert described["members"] == {"energy/pbe": 5}


@engine
@quiet
def test_an_uncertainty_in_other_units_or_of_another_model_is_refused(tmp_path: Path) -> None:
    content = model_of(["energy"], {"energy": "meV"}).get_checkpoint()
    state = {"cholesky_energy_uncertainty": torch.eye(24), "multiplier_energy_uncertainty": torch.ones(1)}
    outer = {"architecture_name": "llpr", "model_ckpt_version": 4, "wrapped_model_checkpoint": content}
    torch.save(outer | {"model_state_dict": state, "best_model_state_dict": None}, tmp_path / "x.ckpt")
    small = state | {"cholesky_energy_uncertainty": torch.eye(4)}
    wrapped = {"wrapped_model_checkpoint": model_of(["energy"]).get_checkpoint()}
    torch.save(outer | wrapped | {"model_state_dict": small}, tmp_path / "small.ckpt")
    with pytest.raises(
        ValueError, match=r"the cholesky of the uncertainty of 'energy' has shape \(4, 4\); \(24, 24\) was"
    ):
        metatrain.load(tmp_path / "small.ckpt")
    with pytest.raises(ValueError, match=r"the uncertainty of 'energy' is not in eV but in units of 0\.001 eV"):
        metatrain.load(tmp_path / "x.ckpt")


# -------------------------------------------------------------------------------------------------- describe and errors


@engine
@quiet
def test_describe_says_what_the_file_says(tmp_path: Path) -> None:
    model = model_of(["energy", STRESS], zbl=True)
    model.metadata.name = "a name"
    path = written(model, tmp_path / "x.ckpt", trainer_ckpt_version=15, best_epoch=7)
    said = metatrain.describe(path)
    assert json.loads(json.dumps(said)) == said
    assert (said["architecture"], said["version"], said["trainer_version"], said["epoch"]) == ("pet", 16, 15, 7)
    assert (said["species"], said["dtype"], said["length_unit"]) == ([1, 6, 8], "float64", "angstrom")
    assert said["n_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert said["hypers"]["zbl"] is True
    assert said["hypers"]["d_pet"] == 16
    known = {"quantity": "pressure", "unit": "eV/Angstrom^3", "description": f"the {STRESS}", "used_as": "stress"}
    assert said["targets"][STRESS] == known
    assert said["name"] == "a name"
    assert said["references"] == {"architecture": ["https://arxiv.org/abs/2305.19302v3"]}


@engine
@quiet
def test_a_file_that_lacks_something_is_named(tmp_path: Path) -> None:
    content = model_of(["energy"]).get_checkpoint()
    torch.save({"architecture_name": "pet", "model_ckpt_version": 9}, tmp_path / "bare.ckpt")
    for ask in (metatrain.load, metatrain.describe):
        with pytest.raises(ValueError, match=r"bare\.ckpt is not complete: KeyError 'model_data'"):
            ask(tmp_path / "bare.ckpt")
    torch.save(content | {"best_model_state_dict": {"backend.species_to_species_index": torch.ones(1)}}, tmp_path / "x")
    with pytest.raises(ValueError, match="the checkpoint has no target named 'energy'"):
        metatrain.load(tmp_path / "x")


@engine
@quiet
def test_hyperparameters_that_are_not_those_of_the_weights_cost_no_memory(tmp_path: Path) -> None:
    content = model_of(["energy"], system_conditioning=True).get_checkpoint()
    data = content["model_data"]
    for name in ("d_pet", "d_node", "d_head", "d_feedforward", "num_gnn_layers", "num_attention_layers", "max_charge"):
        hypers = data["model_hypers"] | {name: 10**12}
        torch.save(content | {"model_data": data | {"model_hypers": hypers}}, tmp_path / "x.ckpt")
        with pytest.raises(ValueError, match=f"the hyperparameter {name} of the checkpoint is 1000000000000, but"):
            metatrain.load(tmp_path / "x.ckpt")
    data["dataset_info"]._atomic_types = [1, 10**12]
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="the checkpoint has species from 1 to 1000000000000; atomic numbers from 1"):
        metatrain.load(tmp_path / "x.ckpt")


SCALE, LAST = "scaler.energy_scaler_buffer", "backend.node_last_layers.energy.0.energy___0.weight"


def _squeezed(packed: torch.Tensor) -> torch.Tensor:
    """The same packed array, compressed."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(packed.numpy().tobytes())) as old,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


@engine
@quiet
@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("backend.edge_embedder.weight", lambda value: value[:2], "the weights do not fit the hyperparameters"),
        (LAST, lambda value: torch.zeros(2, 12), "the target 'energy' is not one number for an atom"),
        (SCALE, lambda value: torch.tensor([[1.0], [2.0]]), "the target 'energy' is scaled by 2 different numbers"),
        (SCALE, lambda value: value[:-40], "composition energies or scales cannot be unpacked"),
        (SCALE, _squeezed, r"scales cannot be unpacked \(blocks/0/samples\.npy is compressed\)"),
    ],
)
def test_weights_that_cannot_be_right_are_named(
    name: str, change: Callable[[torch.Tensor], torch.Tensor], problem: str, tmp_path: Path
) -> None:
    content = model_of(["energy"]).get_checkpoint()
    state = content["model_state_dict"]
    torch.save(content | {"best_model_state_dict": state | {name: change(state[name])}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=problem):
        metatrain.load(tmp_path / "x.ckpt")
