"""Read the PET checkpoints that metatrain writes, without metatrain and without executing anything in them.

Source: github.com/metatensor/metatrain (BSD-3-Clause), checkpoint format 16 of its PET.
"""

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tumble.models.pair import ZBL
from tumble.models.pet import PET, PETSettings
from tumble.potential import Gradient, Potential, Sum

FORMAT = 16
HEADS = {"energy": "energy", "forces": "non_conservative_forces", "stress": "non_conservative_stress"}
NOT_YET = {"system_conditioning": "charge and spin conditioning", "long_range": "a long-range featurizer"}

_ALLOWED = {
    ("collections", "OrderedDict"),
    ("builtins", "set"),
    ("__builtin__", "set"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
}
_ALLOWED |= {
    ("torch", f"{kind}Storage")
    for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
}
_ALLOWED |= {
    ("torch", kind) for kind in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
}
_INERT = {
    ("torch", "ScriptObject"),
    ("metatrain.utils.data.dataset", "DatasetInfo"),
    ("metatrain.utils.data.target_info", "TargetInfo"),
}


class _Inert:
    """Stands for an object of metatrain: it keeps the state that was stored and does nothing."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _INERT:
            return _Inert
        if (module, name) in _ALLOWED:
            return super().find_class("builtins" if module == "__builtin__" else module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def read(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint: tensors, numbers and texts, everything else inert.

    Raises:
        ValueError: the file is not a checkpoint of a PET, is cut off, or asks for code to be run.
    """
    loader = SimpleNamespace(__name__="tumble", Unpickler=_Restricted, load=lambda file, **_: _Restricted(file).load())
    try:
        content = torch.load(path, map_location="cpu", pickle_module=loader, weights_only=False)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} asks to load {error}, which no PET checkpoint needs; a file of tensors and numbers was expected. "
            "Nothing was executed. Do not trust this file."
        ) from None
    except (RuntimeError, EOFError, OSError, KeyError, AttributeError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{path} cannot be read as a checkpoint ({str(error).splitlines()[0]}); it may be cut off or of another "
            "kind. Copy it again, or name the file that metatrain wrote."
        ) from None
    if not isinstance(content, dict) or content.get("architecture_name") != "pet":
        kind = content.get("architecture_name") if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{path} holds {kind!r}; a checkpoint with architecture_name 'pet' was expected. Name such a file."
        )
    return content


def load(path: str | Path) -> Potential:
    """A potential from a checkpoint of metatrain: the best weights, in the precision they were written in.

    Raises:
        ValueError: another format version, or a part of PET that is not supported; names it.
    """
    content = read(path)
    version = content.get("model_ckpt_version")
    if version != FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {version}; format {FORMAT} was expected. "
            "Rewrite it with a current metatrain: load it there and save it again."
        )
    hypers = content["model_data"]["model_hypers"]
    for key, meaning in NOT_YET.items():
        value = hypers.get(key)
        if value.get("enable") if isinstance(value, Mapping) else value:
            raise ValueError(f"{path} uses {meaning} ({key}), which is not supported. Use a checkpoint without it.")
    species = content["model_data"]["dataset_info"].state["_atomic_types"]
    state = content["best_model_state_dict"] or content["model_state_dict"]
    potential: Potential = Gradient(from_state(state, hypers, species))
    if not hypers.get("zbl"):
        return potential
    # The radii come from the file, because versions of ASE differ in them and the file rounds them to float32.
    places = state["additive_models.1.species_to_index"]
    radii = [float(state["additive_models.1.covalent_radii"][int(places[z])]) for z in species]
    return Sum(potential, Gradient(ZBL(species, radii)))


def from_state(state: Mapping[str, Any], hypers: Mapping[str, Any], species: list[int]) -> PET:
    """A PET with the weights of metatrain's state dictionary.

    Args:
        state: names and tensors, composition and scales included.
        hypers: the model hyperparameters that were used.
        species: atomic numbers.
    """
    heads = {ours: theirs for ours, theirs in HEADS.items() if f"backend.node_heads.{theirs}.0.0.weight" in state}
    if "energy" not in heads:
        raise ValueError(
            f"the checkpoint has no target named 'energy' (its heads: {_targets(state)});one was expected. "
            "Use a checkpoint that was trained on energies."
        )
    shared = {name: hypers[name] for name in PETSettings.model_fields if name in hypers}
    if shared.get("num_neighbors_adaptive") is not None and hypers.get("adaptive_cutoff_method") != "solver":
        raise ValueError(
            f"adaptive_cutoff_method is {hypers.get('adaptive_cutoff_method')!r}; 'solver' was expected. "
            "Use a checkpoint that adapts its cutoff by the solver, or not at all."
        )
    settings = PETSettings(**shared, direct_forces="forces" in heads, direct_stress="stress" in heads)
    dtype = state["backend.edge_embedder.weight"].dtype
    model = PET(species, settings).to(dtype)
    model.load_state_dict(_weights(state, heads, settings) | _constants(state, heads, model))
    return model


def _weights(state: Mapping[str, Any], heads: Mapping[str, str], settings: PETSettings) -> dict[str, Tensor]:
    """Our names for their tensors."""
    ours_of = {theirs: ours for ours, theirs in heads.items()}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if not key.startswith("backend.") or key == "backend.species_to_species_index":
            continue
        name = key.removeprefix("backend.").replace(".trans.layers.", ".layers.")
        if match := re.fullmatch(r"(node|edge)_heads\.(.+)\.(\d+)\.(\d)\.(weight|bias)", name):
            side, target, layer, place, kind = match.groups()
            name = f"{side}_heads.{layer}.0.{place}.{kind}"
        elif match := re.fullmatch(r"(node|edge)_last_layers\.(.+)\.(\d+)\.[^.]+\.(weight|bias)", name):
            side, target, layer, kind = match.groups()
            name = f"{side}_last.{layer}.{kind}"
        else:
            renamed[name] = value
            continue
        if target in ours_of:
            renamed[f"readouts.{ours_of[target]}.{name}"] = value
    return renamed


def _constants(state: Mapping[str, Any], heads: Mapping[str, str], model: PET) -> dict[str, Tensor]:
    """Composition energies and scales, which are stored as packed arrays."""
    samples, values = _block(state["additive_models.0.energy_composition_buffer"])
    order = [int(np.flatnonzero(samples == z)[0]) for z in model.species]
    constants = {
        "offsets": torch.as_tensor(values[order, 0], dtype=torch.float64),
        "energy_scale": model.energy_scale,
        "force_scale": model.force_scale,
        "stress_scale": model.stress_scale,
    }
    for ours, name in (("energy", "energy_scale"), ("forces", "force_scale"), ("stress", "stress_scale")):
        if ours in heads:
            _, scale = _block(state[f"scaler.{heads[ours]}_scaler_buffer"])
            like = constants[name]
            constants[name] = torch.as_tensor(scale[:, 0] if like.dim() else scale[0, 0], dtype=like.dtype)
    return constants


def _block(packed: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """First block of a packed tensor map: the first column of its samples, and its values."""
    with zipfile.ZipFile(io.BytesIO(packed.numpy().tobytes())) as archive:
        samples = np.load(io.BytesIO(archive.read("blocks/0/samples.npy")))
        values = np.load(io.BytesIO(archive.read("blocks/0/values.npy")))
    return samples[samples.dtype.names[0]], values.reshape(len(values), -1)


def _targets(state: Mapping[str, Any]) -> list[str]:
    prefix = "backend.node_heads."
    return sorted({key.removeprefix(prefix).rsplit(".", 3)[0] for key in state if key.startswith(prefix)})
