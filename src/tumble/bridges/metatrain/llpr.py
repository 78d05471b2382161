"""Checkpoints of metatrain's last-layer uncertainty (LLPR), which hold those of a PET."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from tumble.bridges.metatrain.upgrades import Content, State, check_version

NEWEST: Final = 4
"""Version of the LLPR checkpoints of metatrain 2026.4."""


class Spread(NamedTuple):
    """What is known about the weights of one target's last layer, F of them.

    cholesky:   (F, F) lower triangle of their inverse covariance.
    multiplier: () calibration of the uncertainty.
    members:    (M, F) weights of an ensemble; M may be 0.
    """

    cholesky: Tensor
    multiplier: Tensor
    members: Tensor


def upgrade(content: Content, where: str) -> Content:
    """The content of an LLPR checkpoint as the newest version would have written it; the PET in it is left as it is.

    Args:
        content: what `read` gives, of any version; left as it is.
        where: what to call the checkpoint in an error.

    Raises:
        ValueError: it is newer than this code, or has no version.
    """
    version = check_version(content, NEWEST, where)
    content = dict(content)
    if version < 3:  # 1 to 2 describes what is in the file; 2 to 3 renames it
        content["model_state_dict"] = _layers_of_ensembles(content["state_dict"])
    if version < 4:
        for key in ("model_state_dict", "best_model_state_dict"):
            if content.get(key):
                content[key] = _factors_of_covariances(content[key])
    return content | {"model_ckpt_version": NEWEST}


def spread_of(content: Content, target: str) -> Spread | None:
    """Uncertainty of a target in an upgraded checkpoint, or None where it was never calibrated."""
    state: State = content.get("best_model_state_dict") or content["model_state_dict"]
    name = "energy_uncertainty" if target == "energy" else f"mtt::aux::{target.removeprefix('mtt::')}_uncertainty"
    cholesky, multiplier = state.get(f"cholesky_{name}"), state.get(f"multiplier_{name}")
    if cholesky is None or multiplier is None or not bool(cholesky.any()):
        return None
    members = state.get(f"llpr_ensemble_layers.{target}.weight")
    return Spread(
        cholesky, multiplier.reshape(()), cholesky.new_zeros(0, len(cholesky)) if members is None else members
    )


def ensembles_of(content: Content) -> dict[str, int]:
    """Targets with an uncertainty and the number of members of their ensembles, from an upgraded checkpoint."""
    targets = content["wrapped_model_checkpoint"]["model_data"]["dataset_info"].state["targets"]
    spreads = {name: spread_of(content, name) for name in targets}
    return {name: len(spread.members) for name, spread in spreads.items() if spread is not None}


def _layers_of_ensembles(state: Mapping[str, Any]) -> State:
    """2 to 3: the members of an ensemble became the rows of a linear layer."""
    suffix = "_ensemble_weights"
    renamed = {
        f"llpr_ensemble_layers.{name.removesuffix(suffix)}.weight": value.T
        for name, value in state.items()
        if name.endswith(suffix)
    }
    return {name: value for name, value in state.items() if not name.endswith(suffix)} | renamed


def _factors_of_covariances(state: Mapping[str, Any]) -> State:
    """3 to 4: the triangular factor of each covariance instead of its inverse."""
    changed: State = {}
    for name, value in state.items():
        if name.startswith("inv_covariance_"):
            covariance = state[name.replace("inv_covariance_", "covariance_")]
            changed[name.replace("inv_covariance_", "cholesky_")] = _factor(covariance)
        else:
            changed[name] = value
    return changed


def _factor(covariance: Tensor) -> Tensor:
    """Triangular factor of a covariance plus the smallest power of ten, from 1e-20, that makes it positive.

    Raises:
        ValueError: even 1e15 does not.
    """
    symmetric = (covariance + covariance.T).double() / 2
    one = torch.eye(len(covariance), dtype=torch.float64)
    for power in range(-20, 16):
        factor, failed = torch.linalg.cholesky_ex(symmetric + 10.0**power * one)
        if not int(failed):
            return factor.to(covariance.dtype)
    raise ValueError(
        "a covariance in the LLPR checkpoint has no triangular factor, also not with 1e15 on its diagonal; "
        "it must hold numbers that are not finite. Calibrate the uncertainty again with metatrain."
    )
