"""A checkpoint of metatrain as a file: what is in it, and the potential that it describes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ase.data import chemical_symbols

from tumble.bridges.metatrain import llpr
from tumble.bridges.metatrain.archive import content_of
from tumble.bridges.metatrain.pickles import Inert
from tumble.bridges.metatrain.translate import Scales, from_state, heads_of, roles_of, variants_of, zbl_of
from tumble.bridges.metatrain.upgrades import Content, newest_weights, upgrade
from tumble.models.pet import LLPR, PET
from tumble.potential import Gradient, Potential, Sum
from tumble.units import EV_PER_A3_TO_GPa

ENERGY_UNITS: Final = {
    "": 1.0, "ev": 1.0, "mev": 1e-3, "hartree": 27.211386245988, "ry": 13.605693122994, "rydberg": 13.605693122994,
    "kcal/mol": 0.0433641042418, "kj/mol": 0.0103642696562,
}  # fmt: skip
"""One of each in eV. Source: CODATA 2018."""
_LENGTHS: Final = ("", "a", "å", "angstrom", "angstroms", "ångström", "ångstrom")
_SHOWN: Final = (
    *("cutoff", "num_neighbors_adaptive", "adaptive_cutoff_method", "cutoff_function", "cutoff_width"),
    "cutoff_width_adaptive",
    *("d_pet", "d_node", "d_head", "d_feedforward", "num_heads", "num_attention_layers", "num_gnn_layers"),
    *("normalization", "activation", "transformer_type", "featurizer_type", "attention_temperature"),
    *("zbl", "system_conditioning", "long_range"),
)
_METADATA: Final = ("name", "description", "authors", "references", "extra")


def read(path: str | Path) -> Content:
    """The content of a checkpoint as it was written: tensors, numbers and texts, everything else inert.

    Tensors lie in the file until they are used: reading costs neither the time nor the memory of what is not asked for.

    Raises:
        ValueError: the file is not a checkpoint of a PET, is cut off, or asks for code to be run.
    """
    content = content_of(Path(path))
    kind = content.get("architecture_name") if isinstance(content, dict) else type(content).__name__
    if kind == "llpr":
        inner = content.get("wrapped_model_checkpoint")
        kind = inner.get("architecture_name") if isinstance(inner, dict) else type(inner).__name__
    if kind != "pet":
        raise ValueError(
            f"{path} holds {kind!r}; a checkpoint with architecture_name 'pet', alone or within one of 'llpr', "
            "was expected. Name such a file."
        )
    return content


def load(path: str | Path, *, variant: str | None = None) -> Potential:
    """A potential from a checkpoint of metatrain: the best weights, in the precision they were written in.

    Args:
        path: a .ckpt file of any version of metatrain's PET, alone or with its last-layer uncertainty.
        variant: which of several energies ("energy/<variant>"); None: the plain one, or the only one.

    Returns:
        Gradient(PET), or LLPR where the file holds a calibrated uncertainty of that energy; with a repulsion ZBL added
        where the model was trained with one.

    Raises:
        ValueError: it cannot be read, is newer than this code, has no such variant, or has units that are not known.
    """
    with _complete(path):
        content, outer = _newest(read(path), str(path))
        state, species = newest_weights(content), _species(content)
        heads = heads_of(state, variant)
        scales = _scales(content, heads)
        hypers = content["model_data"]["model_hypers"]
        model = from_state(state, hypers, species, variant=variant, scales=scales)
        potential = _with_uncertainty(model, outer, heads["energy"], scales)
        return Sum(potential, Gradient(zbl_of(state, species))) if _has_zbl(content, heads["energy"]) else potential


def describe(path: str | Path) -> dict[str, Any]:
    """What a checkpoint says about itself; plain numbers, texts, lists and dictionaries.

    Returns:
        architecture, version, that of the PET within an LLPR, and its trainer's; name, description, authors, references
        and extra of its metadata; epoch; species; dtype; n_parameters of the network with all heads; hypers;
        length_unit; targets, each with quantity, unit, description and what it is used as (energy, forces, stress or
        None); variants to choose from; finetuning, its method or None; members of the ensemble for each target that
        has an uncertainty.
    """
    with _complete(path):
        written = read(path)
        content, outer = _newest(written, str(path))
        return _head(written) | _body(content) | {"members": llpr.ensembles_of(outer) if outer else {}}


@contextmanager
def _complete(path: str | Path) -> Iterator[None]:
    """What is missing in a file is an error of the file."""
    try:
        yield
    except (LookupError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} is not complete: {type(error).__name__} {error}. Copy it again, or write it again with metatrain."
        ) from error


def _head(written: Content) -> dict[str, Any]:
    """What a checkpoint says about itself, PET or not."""
    inner = written.get("wrapped_model_checkpoint", {})
    said, said_inside = _metadata(written), _metadata(inner)
    return {
        "architecture": written["architecture_name"],
        "version": written["model_ckpt_version"],
        "wrapped_version": inner.get("model_ckpt_version"),
        "trainer_version": written.get("trainer_ckpt_version"),
        **{key: said_inside.get(key) or said.get(key) for key in _METADATA},
    }


def _metadata(content: Content) -> dict[str, Any]:
    """What its authors say about a model, stored as JSON inside of an object of metatomic."""
    stored = content.get("metadata")
    text = stored.state[0] if isinstance(stored, Inert) and isinstance(stored.state, tuple) else "{}"
    return dict(json.loads(text)) if isinstance(text, str) else {}


def _body(content: Content) -> dict[str, Any]:
    """What the checkpoint of a PET of the newest version says about the model."""
    state = newest_weights(content)
    info, hypers = content["model_data"]["dataset_info"].state, content["model_data"]["model_hypers"]
    roles = roles_of(state)
    network = [state[name] for name in state if name.startswith(("backend.", "long_range_featurizer."))]
    floats = [value for value in network if value.is_floating_point() and value.dim() > 0]
    targets = {}
    for name, one in info["targets"].items():
        stated = {key: one.state.get(key) for key in ("quantity", "unit", "description")}
        targets[name] = stated | {"used_as": roles.get(name)}
    return {
        "epoch": content.get("epoch") if content.get("best_epoch") is None else content["best_epoch"],
        "species": _species(content),
        "dtype": str(floats[0].dtype).removeprefix("torch."),
        "n_parameters": sum(value.numel() for value in floats),
        "hypers": {name: hypers[name] for name in _SHOWN if name in hypers},
        "length_unit": info["length_unit"],
        "targets": targets,
        "variants": variants_of(state),
        "finetuning": (state.get("finetune_config") or {}).get("method"),
    }


def _newest(content: Content, where: str) -> tuple[Content, Content | None]:
    """The PET in a checkpoint and what surrounds it, both brought to their newest versions."""
    if content["architecture_name"] == "pet":
        return upgrade(content, where), None
    outer = llpr.upgrade(content, where)
    return upgrade(outer["wrapped_model_checkpoint"], f"the PET in {where}"), outer


def _with_uncertainty(model: PET, outer: Content | None, target: str, scales: Scales) -> Potential:
    spread = llpr.spread_of(outer, target) if outer else None
    if spread is None:
        return Gradient(model)
    if scales.energy != 1.0:
        raise ValueError(
            f"the uncertainty of {target!r} is not in eV but in units of {scales.energy} eV, which is not supported. "
            "Load the checkpoint of the PET itself."
        )
    potential = LLPR(model, len(spread.members))
    for name, value in spread._asdict().items():
        own = getattr(potential, name)
        if value.shape != own.shape:
            raise ValueError(
                f"the {name} of the uncertainty of {target!r} has shape {tuple(value.shape)}; {tuple(own.shape)} was "
                "expected for this PET. Calibrate the uncertainty again with metatrain."
            )
        own.copy_(value)
    return potential


def _has_zbl(content: Content, target: str) -> bool:
    """Whether a repulsion belongs to the energy: metatrain adds it to energies in eV only."""
    info = content["model_data"]["dataset_info"].state["targets"][target].state
    return bool(content["model_data"]["model_hypers"].get("zbl")) and (info["quantity"], info["unit"]) == (
        "energy",
        "eV",
    )


def _species(content: Content) -> list[int]:
    """Atomic numbers, ascending.

    Raises:
        ValueError: one that is no element.
    """
    species = sorted(int(z) for z in content["model_data"]["dataset_info"].state["_atomic_types"])
    if species and not 0 < species[0] <= species[-1] < len(chemical_symbols):
        raise ValueError(
            f"the checkpoint has species from {species[0]} to {species[-1]}; atomic numbers from 1 to "
            f"{len(chemical_symbols) - 1} were expected. Use a checkpoint that was trained on atoms."
        )
    return species


def _scales(content: Content, heads: dict[str, str]) -> Scales:
    """The units of the targets that are used.

    Raises:
        ValueError: a length that is not in Å, or a unit that is not known.
    """
    info = content["model_data"]["dataset_info"].state
    if info["length_unit"].lower() not in _LENGTHS:
        raise ValueError(
            f"the checkpoint measures lengths in {info['length_unit']!r}; Å was expected. Train on data in Å."
        )
    factors = {}
    for ours, theirs in heads.items():
        unit = str(info["targets"][theirs].state.get("unit") or "")
        energy, _, length = unit.lower().replace(" ", "").rpartition("/")
        if unit.lower() == "gpa" and ours == "stress":
            factors[ours] = 1 / EV_PER_A3_TO_GPa
        elif unit.lower() in ENERGY_UNITS:
            factors[ours] = ENERGY_UNITS[unit.lower()]
        elif ours != "energy" and energy in ENERGY_UNITS and length.strip("()^3") in _LENGTHS:
            factors[ours] = ENERGY_UNITS[energy]
        else:
            known = ", ".join(repr(one) for one in ENERGY_UNITS if one)
            raise ValueError(f"the target {theirs!r} is in {unit!r}; one of {known} was expected, per Å for forces.")
    return Scales(**factors)
