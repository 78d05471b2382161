"""Checkpoints of metatrain: read without it, to the same numbers, and without running what they contain."""

import json
import lzma
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

import tumble
from tumble.bridges import metatrain
from tumble.models.pet import PET
from tumble.potential import Direct, Gradient, Potential, Sum, predict

COMPAT = Path(__file__).resolve().parents[3] / "shared" / "compat"
needs_compat = pytest.mark.skipif(not COMPAT.is_dir(), reason=f"the reference checkpoints are not in {COMPAT.name}")


def unpacked(name: str, folder: Path) -> Path:
    path = folder / f"{name}.ckpt"
    with lzma.open(COMPAT / f"{name}.ckpt.xz") as packed:
        path.write_bytes(packed.read())
    return path


def network(potential: Potential) -> PET:
    first = potential.parts[0] if isinstance(potential, Sum) else potential
    assert isinstance(first, Gradient)
    assert isinstance(first.model, PET)
    return first.model


@needs_compat
@pytest.mark.parametrize("name", ["eth", "si"])
def test_trained_checkpoints_give_the_numbers_of_metatrain(name: str, tmp_path: Path) -> None:
    expected = json.loads((COMPAT / "trained_expected.json").read_text())[name]["structures"]
    potential = tumble.load(unpacked(name, tmp_path), dtype="float64")
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
            known = (
                np.array(theirs)
                if np.ndim(theirs[0]) == 0 or len(theirs) != 3
                else (np.array(theirs) + np.array(theirs).T) / 2
            )
            assert np.abs(ours.numpy() - known).max() < tolerance * np.abs(known).max() + 1e-12


class _Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_a_malicious_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"architecture_name": "pet", "x": _Malicious(f"touch {tmp_path}/ran")}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"asks to load (posix|nt)\.system.*Nothing was executed"):
        metatrain.load(tmp_path / "bad.ckpt")
    assert not (tmp_path / "ran").exists()


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("no checkpoint at all")
    with pytest.raises(ValueError, match=r"text\.ckpt"):
        metatrain.load(tmp_path / "text.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match=r"pickle\.ckpt"):
        metatrain.load(tmp_path / "pickle.ckpt")
    torch.save({"architecture_name": "soap"}, tmp_path / "soap.ckpt")
    with pytest.raises(ValueError, match="holds 'soap'; a checkpoint with architecture_name 'pet'"):
        metatrain.load(tmp_path / "soap.ckpt")
    torch.save({"architecture_name": "pet", "model_ckpt_version": 9}, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match="has checkpoint format 9; format 16 was expected"):
        metatrain.load(tmp_path / "old.ckpt")


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    torch.save({"architecture_name": "pet", "weights": torch.zeros(1000)}, tmp_path / "cut.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "cut.ckpt").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cannot be read as a checkpoint.*cut off"):
        metatrain.load(tmp_path / "cut.ckpt")


def test_parts_that_are_not_supported_are_named(tmp_path: Path) -> None:
    content = {"architecture_name": "pet", "model_ckpt_version": 16}
    hypers = {"long_range": {"enable": True}}
    torch.save(content | {"model_data": {"model_hypers": hypers}}, tmp_path / "long.ckpt")
    with pytest.raises(ValueError, match="uses a long-range featurizer"):
        metatrain.load(tmp_path / "long.ckpt")
    with pytest.raises(ValueError, match="no target named 'energy'"):
        metatrain.from_state({"backend.node_heads.dipole.0.0.weight": torch.zeros(1)}, {}, [1])
    state = {"backend.node_heads.energy.0.0.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="adaptive_cutoff_method is 'grid'; 'solver'"):
        metatrain.from_state(state, {"num_neighbors_adaptive": 8.0, "adaptive_cutoff_method": "grid"}, [1])
