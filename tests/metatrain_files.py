"""Checkpoints that metatrain writes of random PETs, what it says about them, and how older versions wrote them."""

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from pet_reference import SMALL, SPECIES, system_of

Content = dict[str, Any]


KINDS: dict[str, tuple[str, str, Any, bool]] = {
    "energy": ("energy", "eV", "scalar", False),
    "non_conservative_forces": ("force", "eV/Angstrom", {"cartesian": {"rank": 1}}, True),
    "non_conservative_force": ("force", "eV/Angstrom", {"cartesian": {"rank": 1}}, True),
    "non_conservative_stress": ("pressure", "eV/Angstrom^3", {"cartesian": {"rank": 2}}, False),
    "mtt::dipole": ("dipole", "", {"cartesian": {"rank": 1}}, False),
    "mtt::charges": ("charge", "", "scalar", True),
    "mtt::shielding": (
        "",
        "",
        {"spherical": {"irreps": [{"o3_lambda": 0, "o3_sigma": 1}, {"o3_lambda": 2, "o3_sigma": 1}]}},
        True,
    ),
}
"""Quantity, unit, type, and whether there is one for each atom, by the name before the variant."""


def model_of(targets: list[str], units: dict[str, str] | None = None, **changes: Any) -> Any:
    """A random PET of metatrain in float64, with composition energies and scales other than 0 and 1."""
    pytest.importorskip("metatrain", reason="metatrain is not installed; pip install 'tumble[test]'")
    from metatrain.pet import PET as THEIRS
    from metatrain.utils.architectures import get_default_hypers
    from metatrain.utils.data import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info, get_generic_target_info

    infos = {}
    for name in targets:
        quantity, unit, kind, per_atom = KINDS[name.partition("/")[0]]
        given = {
            "quantity": quantity, "unit": (units or {}).get(name, unit), "type": kind, "per_atom": per_atom,
            "num_subtargets": 1, "sample_kind": "atom" if per_atom else "system", "description": f"the {name}",
        }  # fmt: skip
        make = get_energy_target_info if quantity == "energy" else get_generic_target_info
        infos[name] = make(name, given)
    length = (units or {}).get("length", "angstrom")
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hypers = get_default_hypers("pet")["model"] | SMALL | changes
        model = THEIRS(hypers, DatasetInfo(length, SPECIES, infos)).to(torch.float64).eval()
        _set_constants(model)
    if hypers["system_conditioning"]:
        for parameter in model.backend.system_conditioning.project.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def _set_constants(model: Any) -> None:
    """Other composition energies and scales for every element and target; the forms of the files are kept."""
    import metatensor.torch as mts

    def changed(stored: Any, low: float, high: float) -> Any:
        tensors = mts.load_buffer(stored)
        for block in tensors.blocks():
            block.values[:] = low + (high - low) * torch.rand(block.values.shape, dtype=torch.float64)
        return mts.save_buffer(tensors)

    composition = (model.additive_models[0], "_composition_buffer", -9, 9)
    for part, ending, low, high in (composition, (model.scaler, "_scaler_buffer", 0.5, 3)):
        for name, stored in list(part.named_buffers()):
            if name.endswith(ending) and "per_" not in name:
                setattr(part, name, changed(stored, low, high))
        part.sync_tensor_maps()


def written(model: Any, path: Path, **changes: Any) -> Path:
    """The file that metatrain would write of a model."""
    torch.save(model.get_checkpoint() | changes, path)
    return path


def loaded(path: Path) -> Any:
    """What metatrain loads from a file, in float64."""
    from metatrain.utils.io import load_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_model(path).eval().to(torch.float64)


def answers(model: Any, atoms: Atoms, target: str, direct: dict[str, bool] | None = None) -> dict[str, np.ndarray]:
    """What metatrain says: energy, forces, and the direct targets asked for (name: whether for each atom)."""
    from metatomic.torch import ModelOutput

    positions = torch.tensor(atoms.positions, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        system = system_of(model, atoms, positions, torch.tensor(atoms.cell.array * atoms.pbc[:, None]))
        asked = {target: False} | (direct or {})
        outputs = {name: ModelOutput(sample_kind="atom" if one else "system") for name, one in asked.items()}
        said = {name: value.block().values for name, value in model([system], outputs).items()}
    total = said.pop(target).sum()
    (slope,) = torch.autograd.grad(total, positions)
    heads = {name: value.detach()[..., 0].numpy() for name, value in said.items()}
    return {"energy": total.detach().numpy(), "forces": -slope.numpy()} | heads


ORIGINAL: dict[str, Any] = {
    "featurizer_type": "residual", "transformer_type": "PostLN", "normalization": "LayerNorm", "activation": "SiLU",
    "cutoff_function": "Cosine", "d_node": SMALL["d_pet"], "cutoff_width_adaptive": 0.5,
    "adaptive_cutoff_method": "grid",
}  # fmt: skip
"""The PET of the versions up to 7, whose hyperparameters did not say so."""
LARGE: dict[str, Any] = ORIGINAL | {
    "featurizer_type": "feedforward", "transformer_type": "PreLN", "normalization": "RMSNorm", "activation": "SwiGLU",
    "d_node": 4 * SMALL["d_pet"], "d_feedforward": 2 * SMALL["d_pet"],
}  # fmt: skip
"""The first large models, of the same versions."""
_UNSAID = {
    14: ("system_conditioning", "max_charge", "max_spin_multiplicity"), 13: ("cutoff_width_adaptive",),
    11: ("adaptive_cutoff_method",), 10: ("attention_temperature",), 9: ("num_neighbors_adaptive", "cutoff_function"),
    7: ("normalization", "activation", "d_node", "transformer_type", "featurizer_type"),
}  # fmt: skip
"""Hyperparameters that files up to a version do not have."""


def older(content: Content, version: int) -> Content:
    """A checkpoint of version 16 as an older version would have written it: the upgrades, read backwards."""
    is_large = content["model_data"]["model_hypers"]["featurizer_type"] == "feedforward"
    hypers = dict(content["model_data"]["model_hypers"])
    for last, names in _UNSAID.items():
        for name in names if version <= last else ():
            del hypers[name]
    content = content | {"model_ckpt_version": version}
    content["model_data"] = content["model_data"] | {"model_hypers": hypers}
    for key in ("model_state_dict", "best_model_state_dict"):
        content[key] = _older_state(content[key], version, is_large)
    if version <= 2:
        content["train_hypers"] = {"finetune": content["model_state_dict"].pop("finetune_config")}
        content["best_model_state_dict"].pop("finetune_config", None)
    return content


def _older_state(state: dict[str, Any], version: int, is_large: bool) -> dict[str, Any]:
    rules = [(r"^backend\.", "")]
    if version <= 7:
        common = [(r"^edge_embedder\.", "embedding.")]
        large = [(r"^node_embedders\.0\.", "node_embedding."), ("combination_norms", "combination_rmsnorms")]
        original = [(r"^node_embedders\.(\d+)", r"gnn_layers.\1.node_embedder")]
        original += [(r"mlp\.w_in", "mlp.0"), (r"mlp\.w_out", "mlp.3")]
        rules += common + (large if is_large else original)
    if version == 1:
        rules += [(r"additive_models\.0\.model\.type_to_index", "additive_models.0.type_to_index")]
    changed: dict[str, Any] = {}
    scales = []
    for name, value in state.items():
        if "_per_target_" in name or "_per_property_" in name:
            if version <= 12:
                continue
        elif version <= 6 and name.startswith("scaler."):
            if name.endswith("_scaler_buffer"):
                scales.append(_first_value(value))
            continue
        for pattern, replacement in rules if version <= 15 else ():
            name = re.sub(pattern, replacement, name)
        has_padding = re.search(r"^embedding\.|^node_embedding\.|node_embedder\.|neighbor_embedder\.", name)
        if version <= 7 and has_padding:
            value = torch.cat([value, torch.full_like(value[:1], torch.nan)])
        changed[name] = value
    return changed | ({"scaler.scales": torch.tensor(scales, dtype=torch.float64)} if scales else {})


def _first_value(packed: Any) -> float:
    import metatensor.torch as mts

    return float(mts.load_buffer(packed).block(0).values[0, 0])
