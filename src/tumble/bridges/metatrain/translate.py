"""The weights, constants and settings of metatrain's PET, as ours."""

import contextlib
import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tumble.models.pair import ZBL
from tumble.models.pet import PET, PETSettings

ENERGY: Final = "energy"
DIRECT: Final = {
    "forces": ("non_conservative_forces", "non_conservative_force"),
    "stress": ("non_conservative_stress",),
}
"""Our readouts and the targets they are called by; later versions write the force in the singular."""
_SIZES: Final = {"energy": 1, "forces": 3, "stress": 9}
_HEADS: Final = "backend.node_heads."


class Scales(NamedTuple):
    """What one unit of the file is in eV, eV/Å and eV/Å³."""

    energy: float = 1.0
    forces: float = 1.0
    stress: float = 1.0


def from_state(
    state: Mapping[str, Any],
    hypers: Mapping[str, Any],
    species: Sequence[int],
    *,
    variant: str | None = None,
    scales: Scales | None = None,
) -> PET:
    """A PET with the weights of metatrain's state dictionary.

    Args:
        state: names and tensors of the newest version, composition and scales included.
        hypers: the model hyperparameters that were used.
        species: atomic numbers.
        variant: which of several sets of heads ("energy/<variant>"); None: the plain one, or the only one.
        scales: the units of the targets; those of tumble unless given.

    Raises:
        ValueError: no such variant, no energy, or weights that do not fit the hyperparameters.
    """
    heads = heads_of(state, variant)
    state = _merged(state)
    shared = {name: hypers[name] for name in PETSettings.model_fields if name in hypers}
    settings = PETSettings(**shared, direct_forces="forces" in heads, direct_stress="stress" in heads)
    _check_sizes(state, settings, heads["energy"])
    with torch.random.fork_rng(devices=[]):  # random first weights must not use up the caller's random numbers
        model = PET(species, settings).to(state["backend.edge_embedder.weight"].dtype)
    tensors = _weights(state, heads) | _constants(state, heads, model, scales or Scales())
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        problems = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise ValueError(
            f"the weights do not fit the hyperparameters of the checkpoint: {problems}. "
            "It was changed by hand, or written by a metatrain that changed PET without a new version."
        ) from None
    return model


def _check_sizes(state: Mapping[str, Any], settings: PETSettings, target: str) -> None:
    """Refuse hyperparameters that are not those of the weights, before memory is taken for what they describe.

    Raises:
        ValueError: a width or a number of layers that the weights do not have.
    """
    layers = {key.split(".")[2] for key in state if key.startswith("backend.gnn_layers.")}
    depth = {key.split(".")[5] for key in state if key.startswith("backend.gnn_layers.0.trans.layers.")}
    stored = {
        "num_gnn_layers": len(layers),
        "num_attention_layers": len(depth),
        "d_pet": state["backend.edge_embedder.weight"].shape[1],
        "d_node": state["backend.node_embedders.0.weight"].shape[1],
        "d_head": len(state[f"{_HEADS}{target}.0.0.weight"]),
        "d_feedforward": state["backend.gnn_layers.0.trans.layers.0.mlp.w_out.weight"].shape[1],
    }
    if settings.system_conditioning:
        stored["max_charge"] = len(state["backend.system_conditioning.charge_embedding.weight"]) // 2
        stored["max_spin_multiplicity"] = len(state["backend.system_conditioning.spin_multiplicity_embedding.weight"])
    for name, value in stored.items():
        if getattr(settings, name) != value:
            raise ValueError(
                f"the hyperparameter {name} of the checkpoint is {getattr(settings, name)}, but its weights have "
                f"{value}. It was changed by hand: take the number of the weights."
            )


def zbl_of(state: Mapping[str, Any], species: Sequence[int]) -> ZBL:
    """The screened nuclear repulsion that was added in training.

    The radii come from the file, because versions of ASE differ in them and the file rounds them to float32.
    """
    places = state["additive_models.1.species_to_index"]
    return ZBL(species, [float(state["additive_models.1.covalent_radii"][int(places[z])]) for z in species])


def targets_of(state: Mapping[str, Any]) -> list[str]:
    """Names of all targets that have heads, in alphabetical order."""
    return sorted({key[len(_HEADS) :].rsplit(".", 3)[0] for key in state if key.startswith(_HEADS)})


def variants_of(state: Mapping[str, Any]) -> list[str]:
    """Names of the variants of the energy; the plain energy has none."""
    return [name.removeprefix("energy/") for name in targets_of(state) if name.startswith("energy/")]


def heads_of(state: Mapping[str, Any], variant: str | None = None) -> dict[str, str]:
    """Which targets are our readouts: "energy", and "forces" and "stress" of the same variant where there are any.

    A direct stress of a variant is left out: metatrain 2026.4 does not divide it by the volume, so it is none.

    Raises:
        ValueError: no such variant, several to choose from, or no energy.
    """
    targets, variants = targets_of(state), variants_of(state)
    listed = ", ".join(variants) or "none"
    if variant is not None and variant not in variants:
        raise ValueError(
            f"the checkpoint has no variant {variant!r} of the energy; it has {listed}. Choose one of these, "
            "or none for the plain energy."
        )
    if variant is None and ENERGY not in targets:
        if len(variants) > 1:
            raise ValueError(
                f"the checkpoint has {len(variants)} variants of the energy: {listed}. Choose one with variant=…"
            )
        if not variants:
            raise ValueError(
                f"the checkpoint has no target named 'energy' (its targets: {', '.join(targets) or 'none'}); one was "
                "expected. Use a checkpoint that was trained on energies."
            )
        variant = variants[0]
    suffix = "" if variant is None else f"/{variant}"
    if not _has_size(state, ENERGY + suffix, _SIZES["energy"]):
        raise ValueError(f"the target {ENERGY + suffix!r} is not one number for an atom, as an energy is.")
    heads = {"energy": ENERGY + suffix}
    for ours, names in DIRECT.items():
        found = [name + suffix for name in names if _has_size(state, name + suffix, _SIZES[ours])]
        if found and not (ours == "stress" and suffix):
            heads[ours] = found[0]
    return heads


def roles_of(state: Mapping[str, Any]) -> dict[str, str]:
    """What each target is to us, "energy", "forces" or "stress", for those that can be chosen."""
    roles: dict[str, str] = {}
    for variant in (None, *variants_of(state)):
        with contextlib.suppress(ValueError):  # no such energy
            heads = heads_of(state, variant)
            roles |= {theirs: ours for ours, theirs in heads.items()}
    return roles


def _has_size(state: Mapping[str, Any], target: str, size: int) -> bool:
    prefix = f"backend.node_last_layers.{target}.0."
    blocks = [value for key, value in state.items() if key.startswith(prefix) and key.endswith(".weight")]
    return len(blocks) == 1 and len(blocks[0]) == size


def _merged(state: Mapping[str, Any]) -> dict[str, Any]:
    """Low-rank corrections of a fine-tuning, W + α/r B A, added to the matrices that they correct."""
    merged = dict(state)
    for key in [key for key in state if key.endswith(".lora_A.weight")]:
        layer = key.removesuffix(".lora_A.weight")
        finetuned = state.get("finetune_config") or {}
        if finetuned.get("method") != "lora":
            raise ValueError(
                f"the checkpoint has low-rank weights of a fine-tuning ({layer}) but does not say with which alpha "
                "(finetune_config). Write it again with the metatrain that trained it."
            )
        down, up = merged.pop(key).double(), merged.pop(f"{layer}.lora_B.weight").double()
        alpha = float((finetuned.get("config") or {}).get("alpha", 8))
        weight = merged.pop(f"{layer}.linear.weight")
        merged[f"{layer}.weight"] = (weight.double() + alpha / len(down) * up @ down).to(weight.dtype)
        if f"{layer}.linear.bias" in merged:
            merged[f"{layer}.bias"] = merged.pop(f"{layer}.linear.bias")
    return merged


def _weights(state: Mapping[str, Any], heads: Mapping[str, str]) -> dict[str, Tensor]:
    """Our names for their tensors; the heads of other targets are left out."""
    ours_of = {theirs: ours for ours, theirs in heads.items()}
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith("long_range_featurizer.") and "calculator." not in key:
            renamed[key] = value
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


def _constants(state: Mapping[str, Any], heads: Mapping[str, str], model: PET, scales: Scales) -> dict[str, Tensor]:
    """Composition energies and scales, which are stored as packed arrays, in our units."""
    offsets = torch.zeros(len(model.species), dtype=torch.float64)
    if (packed := state.get(f"additive_models.0.{heads['energy']}_composition_buffer")) is not None:
        samples, values = _block(packed)
        offsets = torch.as_tensor(values[[int(np.flatnonzero(samples == z)[0]) for z in model.species], 0])
    constants = {"offsets": offsets.double() * scales.energy}
    for ours, name in (("energy", "energy_scale"), ("forces", "force_scale"), ("stress", "stress_scale")):
        like = getattr(model, name)
        values = np.ones((1, 1))
        if ours in heads and (packed := state.get(f"scaler.{heads[ours]}_scaler_buffer")) is not None:
            values = _block(packed)[1]
        if like.dim() == 0 and np.ptp(values) > 0:
            raise ValueError(
                f"the target {heads[ours]!r} is scaled by {len(values)} different numbers, one for each element; "
                "one for the whole structure was expected. Use a checkpoint that was trained on structures."
            )
        scale = torch.as_tensor(values[:, 0], dtype=torch.float64) * getattr(scales, ours)
        constants[name] = scale[0] if like.dim() == 0 else scale.expand(len(like)).clone()
    return constants


def _block(packed: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and values (n, m) of a packed tensor map's first block; a plain tensor is its own values.

    Raises:
        ValueError: it is packed in an unknown way.
    """
    if packed.dtype != torch.uint8:
        return np.arange(len(packed)), packed.numpy()
    try:
        with zipfile.ZipFile(io.BytesIO(packed.numpy().tobytes())) as archive:
            labels, values = (
                np.load(io.BytesIO(_stored(archive, f"blocks/0/{name}.npy")), allow_pickle=False)
                for name in ("samples", "values")
            )
        return labels[labels.dtype.names[0]], values.reshape(len(values), -1)
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"an array of composition energies or scales cannot be unpacked ({error}). Copy the checkpoint again."
        ) from None


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.read(name)
