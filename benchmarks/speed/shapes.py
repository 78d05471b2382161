"""The PET models that are measured, with random weights that metatrain writes and both read."""

import warnings
from pathlib import Path
from typing import Any, Final

SPECIES: Final = (1, 8, 14)

XS: Final = {"d_pet": 128, "num_gnn_layers": 2, "num_attention_layers": 1, "cutoff": 7.5, "num_neighbors_adaptive": 8.0}
S: Final = {"d_pet": 256, "num_gnn_layers": 3, "num_attention_layers": 1, "cutoff": 8.0, "num_neighbors_adaptive": 16.0}
SHAPES: Final[dict[str, dict[str, Any]]] = {"default": {}, "XS": XS, "S": S}
"""The published sizes; the widths of nodes, heads and feedforward networks follow from d_pet."""


def hypers(name: str) -> dict[str, Any]:
    """All hyperparameters of a model: metatrain's defaults, overridden by its shape."""
    from metatrain.utils.architectures import get_default_hypers

    shape = dict(SHAPES[name])
    if "d_pet" in shape:
        width = shape["d_pet"]
        shape |= {"d_node": 4 * width, "d_feedforward": 2 * width, "d_head": width, "num_heads": 8}
    found: dict[str, Any] = get_default_hypers("pet")["model"] | shape
    return found


def write(name: str, folder: Path) -> Path:
    """Random weights in both forms: NAME.ckpt, which tumble reads, and NAME.pt, which metatomic runs.

    Returns:
        The path without its suffix.
    """
    import torch
    from metatrain.pet import PET
    from metatrain.utils.data import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info
    from metatrain.utils.io import load_model

    stem = folder / name
    target = get_energy_target_info("energy", {"quantity": "energy", "unit": "eV"}, add_position_gradients=True)
    info = DatasetInfo(length_unit="angstrom", atomic_types=list(SPECIES), targets={"energy": target})
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and says so
        torch.manual_seed(0)
        torch.save(PET(hypers(name), info).get_checkpoint(), stem.with_suffix(".ckpt"))
        load_model(stem.with_suffix(".ckpt")).export().save(stem.with_suffix(".pt"))
    return stem
