"""Checkpoints of every version, brought to the newest: one small function for each step that changes an answer.

The steps are those of metatrain itself; what only training needs (trainer versions, epochs, optimizers) stays as it is.
"""

import re
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

Content = dict[str, Any]
State = dict[str, Any]

NEWEST: Final = 16
"""Version of the PET checkpoints of metatrain 2026.4."""
_STATES: Final = ("model_state_dict", "best_model_state_dict")
_MOVED: Final = (
    *("gnn_layers.", "node_embedders.", "edge_embedder.", "combination_norms.", "combination_mlps."),
    *("node_heads.", "edge_heads.", "node_last_layers.", "edge_last_layers."),
    *("species_to_species_index", "system_conditioning."),
)


def upgrade(content: Content, where: str) -> Content:
    """The content of a PET checkpoint as the newest version would have written it.

    Args:
        content: what `read` gives, of any version; left as it is.
        where: what to call the checkpoint in an error.

    Raises:
        ValueError: it is newer than this code, or has no version.
    """
    version = check_version(content, NEWEST, where)
    data = content["model_data"]
    content = content | {"model_data": data | {"model_hypers": dict(data["model_hypers"])}}
    for step in range(version, NEWEST):
        if step in STEPS:
            STEPS[step](content)
    return content | {"model_ckpt_version": NEWEST}


def check_version(content: Content, newest: int, where: str) -> int:
    """Version of a checkpoint.

    Raises:
        ValueError: there is none, or it is newer than the newest known one.
    """
    version = content.get("model_ckpt_version")
    if not isinstance(version, int) or version < 1:
        raise ValueError(
            f"{where} has checkpoint version {version!r}; a number from 1 to {newest} was expected. "
            "It is older than the first numbered version, or not complete: write it again with metatrain."
        )
    if version > newest:
        raise ValueError(
            f"{where} has checkpoint version {version}; this version of tumble reads up to {newest}. "
            "Install a newer tumble."
        )
    return version


def _in_each_state(content: Content, change: Callable[[State], State]) -> None:
    for key in _STATES:
        if content.get(key):
            content[key] = change(content[key])


def _finetuning_into_the_state(content: Content) -> None:
    """2 to 3: how the weights were fine-tuned belongs to the weights."""
    finetuned = (content.get("train_hypers") or {}).get("finetune") or {}
    _in_each_state(content, lambda state: state | {"finetune_config": finetuned})


def _one_buffer_for_each_scale(content: Content) -> None:
    """6 to 7: the scales of all targets lay in one vector, in the order of the targets."""
    names = list(content["model_data"]["dataset_info"].state["targets"])

    def change(state: State) -> State:
        if "scaler.scales" not in state:
            return state
        scales = state["scaler.scales"].double()
        return state | {f"scaler.{name}_scaler_buffer": scales[k].view(1, 1) for k, name in enumerate(names)}

    _in_each_state(content, change)


def _one_architecture_of_two(content: Content) -> None:
    """7 to 8: the large models and the original ones, which were two programs, became settings of one."""
    hypers = content["model_data"]["model_hypers"]
    if "node_embedding.weight" in content["model_state_dict"]:
        width = hypers["d_pet"]
        hypers.update(
            normalization="RMSNorm", activation="SwiGLU", transformer_type="PreLN", featurizer_type="feedforward"
        )
        hypers.update(d_node=4 * width, d_feedforward=2 * width)
        content["model_state_dict"] = _renamed(content["model_state_dict"], _LARGE)
        content["best_model_state_dict"] = content["model_state_dict"]  # of these models, the last weights were kept
        return
    original = {
        "normalization": "LayerNorm", "activation": "SiLU", "d_node": hypers["d_pet"], "transformer_type": "PostLN",
        "featurizer_type": "residual",
    }  # fmt: skip
    hypers.update(original | hypers)
    _in_each_state(content, lambda state: _renamed(state, _ORIGINAL))


_LARGE: Final = (
    (r"^embedding\.", "edge_embedder.", True),
    (r"^node_embedding\.", "node_embedders.0.", True),
    (r"(\.neighbor_embedder\.)", r"\1", True),
    (r"combination_rmsnorms", "combination_norms", False),
)
_ORIGINAL: Final = (
    (r"\.mlp\.0\.", ".mlp.w_in.", False),
    (r"\.mlp\.3\.", ".mlp.w_out.", False),
    (r"^embedding\.", "edge_embedder.", True),
    (r"^gnn_layers\.(\d+)\.node_embedder\.", r"node_embedders.\1.", True),
    (r"(\.neighbor_embedder\.)", r"\1", True),
)


def _renamed(state: State, rules: tuple[tuple[str, str, bool], ...]) -> State:
    """Names by (pattern, replacement, whether the last row goes: it stood for padding)."""
    changed: State = {}
    for name, value in state.items():
        for pattern, replacement, has_padding in rules:
            name, n = re.subn(pattern, replacement, name)
            if n and has_padding and isinstance(value, Tensor):
                value = value[:-1]
        changed[name] = value
    return changed


def _default(**values: Any) -> Callable[[Content], None]:
    """Hyperparameters that did not exist before, at the values that keep the answers."""

    def step(content: Content) -> None:
        hypers = content["model_data"]["model_hypers"]
        hypers.update(values | hypers)

    return step


def _one_taper_becomes_two(content: Content) -> None:
    """13 to 14: the taper inside the adaptive neighbour count had the width of the taper of a pair."""
    hypers = content["model_data"]["model_hypers"]
    hypers.setdefault("cutoff_width_adaptive", hypers["cutoff_width"])


def _network_under_backend(content: Content) -> None:
    """15 to 16: the network moved into a module of its own."""
    _in_each_state(
        content,
        lambda state: {f"backend.{name}" if name.startswith(_MOVED) else name: v for name, v in state.items()},
    )


STEPS: Final[dict[int, Callable[[Content], None]]] = {
    # 1 to 2 renames a table of species that is not read here; 3 to 4 fills in epochs; 4 to 5 makes a list of a set of
    # elements, 5 to 6 takes the last weights where there are no best ones: both are done for every version.
    2: _finetuning_into_the_state,
    6: _one_buffer_for_each_scale,
    7: _one_architecture_of_two,
    # 8 to 9 states that a fine-tuning without a method was a full one, which leaves nothing to undo.
    9: _default(num_neighbors_adaptive=None, cutoff_function="Cosine"),
    10: _default(attention_temperature=1.0),
    11: _default(adaptive_cutoff_method="grid"),
    # 12 to 13 splits each scale into two factors and keeps their product, which is what is read here.
    13: _one_taper_becomes_two,
    14: _default(system_conditioning=False, max_charge=10, max_spin_multiplicity=10),
    15: _network_under_backend,
}
"""From each version to the next, where there is something to do."""


def newest_weights(content: Content) -> State:
    """The state dictionary that answers: the best weights, or the last ones where there are no best.

    Raises:
        ValueError: there are none.
    """
    last: State = content.get("model_state_dict") or {}
    state: State = content.get("best_model_state_dict") or last
    if not any(torch.is_tensor(value) for value in state.values()):
        raise ValueError("the checkpoint holds no weights. Copy it again, or name another.")
    return {"finetune_config": last.get("finetune_config")} | state
