"""Files of every version: each step of the upgrades, and metatrain's own files of all versions."""

import copy
import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metatrain_files import LARGE, ORIGINAL, answers, loaded, model_of, older, written
from pet_reference import crystal, molecule, system_of, triclinic
from tumble.bridges import metatrain
from tumble.bridges.metatrain import llpr
from tumble.bridges.metatrain.upgrades import NEWEST, upgrade
from tumble.models.pet import LLPR
from tumble.packs import predict
from tumble.potential import collate_for

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore")]
needs_metatrain = pytest.mark.skipif(find_spec("metatrain") is None, reason="metatrain is not installed")


def shipped(architecture: str) -> list[Any]:
    """The checkpoints of metatrain's own tests."""
    spec = find_spec("metatrain")
    places = spec.submodule_search_locations or [] if spec else []
    return [path for place in places for path in sorted(Path(place).glob(f"{architecture}/tests/checkpoints/*.gz"))]


def unpacked(path: Path, folder: Path) -> Path:
    target = folder / "model.ckpt"
    target.write_bytes(gzip.decompress(path.read_bytes()))
    return target


def close(ours: Any, theirs: Any, tolerance: float = 1e-9) -> bool:
    return bool(
        np.abs(np.asarray(ours) - np.asarray(theirs)).max() <= tolerance * np.abs(np.asarray(theirs)).max() + 1e-13
    )


@pytest.mark.parametrize("path", shipped("pet"), ids=lambda path: path.name.partition(".")[0])
def test_a_checkpoint_of_every_version_gives_the_numbers_of_metatrain(path: Path, tmp_path: Path) -> None:
    path = unpacked(path, tmp_path)
    potential, theirs = metatrain.load(path).double(), loaded(path)
    for atoms in (molecule(), triclinic()):
        ours, said = predict(potential, atoms)[0], answers(theirs, atoms, "energy")
        assert close(ours.energy, said["energy"])
        assert close(ours.forces, said["forces"])


@pytest.mark.parametrize("path", shipped("llpr"), ids=lambda path: path.name.partition(".")[0])
def test_an_uncertainty_of_every_version_gives_the_numbers_of_metatrain(path: Path, tmp_path: Path) -> None:
    from metatomic.torch import ModelOutput

    path = unpacked(path, tmp_path)
    potential, theirs = metatrain.load(path).double(), loaded(path)
    assert isinstance(potential, LLPR)
    atoms = crystal()
    outputs = {name: ModelOutput(sample_kind="system") for name in ("energy", "energy_uncertainty", "energy_ensemble")}
    system = system_of(theirs, atoms, torch.tensor(atoms.positions), torch.tensor(atoms.cell.array))
    said = {name: value.block().values.detach().numpy() for name, value in theirs([system], outputs).items()}
    batch = collate_for(potential, [atoms])
    assert close(potential(batch).energy, said["energy"][:, 0])
    assert close(potential.uncertainty(batch), said["energy_uncertainty"][:, 0])
    assert close(potential.ensemble(batch), said["energy_ensemble"])
    assert metatrain.describe(path)["members"] == {"energy": len(said["energy_ensemble"][0])}


@needs_metatrain
@pytest.mark.parametrize("shape", ["original", "large"])
def test_a_new_file_rewritten_as_any_older_version_gives_the_same_weights(shape: str, tmp_path: Path) -> None:
    model = model_of(["energy", "non_conservative_forces"], **(ORIGINAL if shape == "original" else LARGE))
    newest = model.get_checkpoint()
    torch.save(newest, tmp_path / "16.ckpt")
    expected = metatrain.load(tmp_path / "16.ckpt")
    for version in range(1, NEWEST):
        torch.save(older(newest, version), tmp_path / f"{version}.ckpt")
        potential = metatrain.load(tmp_path / f"{version}.ckpt")
        assert metatrain.describe(tmp_path / f"{version}.ckpt")["version"] == version
        assert potential.model.config() == expected.model.config()  # type: ignore[union-attr, operator]
        state, wanted = potential.state_dict(), expected.state_dict()
        assert state.keys() == wanted.keys()
        for name, value in state.items():
            if version <= 6 and name == "model.force_scale":  # one scale for all elements, in those versions
                value, wanted[name] = value[:1], wanted[name][:1]
            assert torch.equal(value, wanted[name]), (version, name)


@needs_metatrain
@pytest.mark.parametrize("version", [1, 7, 15])
def test_the_rewritten_files_are_what_metatrain_reads_as_well(version: int) -> None:
    from metatrain.pet import PET as THEIRS

    for changes in (ORIGINAL, LARGE):
        model = model_of(["energy"], **changes)
        content = copy.deepcopy(older(model.get_checkpoint(), version))
        state = THEIRS.upgrade_checkpoint(content)["best_model_state_dict"]
        for name, value in model.state_dict().items():
            if name.startswith("backend."):
                assert torch.equal(state[name], value), name
        assert content["model_data"]["model_hypers"] == dict(model.hypers)


@needs_metatrain
def test_an_upgrade_leaves_what_was_read_as_it_was(tmp_path: Path) -> None:
    torch.save(older(model_of(["energy"], **LARGE).get_checkpoint(), 3), tmp_path / "x.ckpt")
    content = metatrain.read(tmp_path / "x.ckpt")
    names, hypers = list(content["model_state_dict"]), dict(content["model_data"]["model_hypers"])
    upgraded = upgrade(content, "x.ckpt")
    assert upgraded["model_ckpt_version"] == NEWEST
    assert "backend.edge_embedder.weight" in upgraded["best_model_state_dict"]
    assert (content["model_ckpt_version"], list(content["model_state_dict"])) == (3, names)
    assert content["model_data"]["model_hypers"] == hypers


@needs_metatrain
def test_a_version_that_is_newer_or_none_is_named(tmp_path: Path) -> None:
    model = model_of(["energy"])
    newer = written(model, tmp_path / "newer.ckpt", model_ckpt_version=NEWEST + 1)
    with pytest.raises(
        ValueError, match=r"newer\.ckpt has checkpoint version 17; this version of tumble reads up to 16"
    ):
        metatrain.load(newer)
    for version in (None, 0, "16"):
        path = written(model, tmp_path / "none.ckpt", model_ckpt_version=version)
        with pytest.raises(
            ValueError, match=rf"has checkpoint version {version!r}; a number from 1 to 16 was expected"
        ):
            metatrain.load(path)
    outer = {"architecture_name": "llpr", "model_ckpt_version": 4, "model_state_dict": {"a": torch.ones(1)}}
    wrapped = model.get_checkpoint() | {"model_ckpt_version": 18}
    torch.save(outer | {"wrapped_model_checkpoint": wrapped}, tmp_path / "inner.ckpt")
    with pytest.raises(ValueError, match=r"the PET in .*inner\.ckpt has checkpoint version 18"):
        metatrain.load(tmp_path / "inner.ckpt")
    torch.save(outer | {"model_ckpt_version": 5, "wrapped_model_checkpoint": wrapped}, tmp_path / "outer.ckpt")
    with pytest.raises(ValueError, match=r"outer\.ckpt has checkpoint version 5; this version of tumble reads up to 4"):
        metatrain.load(tmp_path / "outer.ckpt")


def test_the_first_uncertainties_held_inverse_covariances_and_no_layers() -> None:
    covariance = torch.tensor([[4.0, 2.0], [2.0, 5.0]])
    state = {"covariance_energy_uncertainty": covariance, "inv_covariance_energy_uncertainty": covariance.inverse()}
    state |= {
        "multiplier_energy_uncertainty": torch.tensor([3.0]),
        "energy_ensemble_weights": torch.arange(6.0).view(2, 3),
    }
    for version in (1, 2):
        spread = llpr.spread_of(llpr.upgrade({"model_ckpt_version": version, "state_dict": state}, "x"), "energy")
        assert spread is not None
        assert torch.allclose(spread.cholesky @ spread.cholesky.T, covariance)
        assert spread.multiplier == 3
        assert torch.equal(spread.members, torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
    assert llpr.spread_of({"model_state_dict": state}, "energy/pbe") is None


def test_a_covariance_without_a_factor_is_named_and_a_singular_one_gets_a_ridge() -> None:
    def upgraded(covariance: torch.Tensor) -> torch.Tensor:
        state = {"covariance_a_uncertainty": covariance, "inv_covariance_a_uncertainty": covariance}
        content = llpr.upgrade({"model_ckpt_version": 3, "model_state_dict": state}, "x")
        return content["model_state_dict"]["cholesky_a_uncertainty"]  # type: ignore[no-any-return]

    factor = upgraded(torch.ones(2, 2, dtype=torch.float64))
    ridge = float((factor @ factor.T)[1, 1]) - 1
    assert 0 < ridge < 1e-12
    with pytest.raises(ValueError, match="a covariance in the LLPR checkpoint has no triangular factor"):
        upgraded(torch.full((2, 2), torch.nan))
