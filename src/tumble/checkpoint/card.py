"""What a potential is, in words and numbers; and any potential made of our parts as one file with its card."""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from tumble.checkpoint import hub
from tumble.checkpoint.files import load, read_header, save
from tumble.checkpoint.names import packaged, resolve
from tumble.models.pet import LLPR, PETSettings
from tumble.potential import Model, Potential, Sum
from tumble.symmetry import Projected, Symmetrized


def describe(name_or_path: str | Path) -> dict[str, Any]:
    """Species, cutoff, interaction range, size and origin of a potential, and what its file says of itself.

    Nothing is downloaded: of a published model that is not in the cache, only what is known without its file is told.

    Args:
        name_or_path: what `load` takes.

    Returns:
        Plain values by name. A .safetensors file adds its card, a .ckpt its versions, hyperparameters, targets and
        variants, a .pt its outputs.

    Raises:
        ValueError: not a file that `load` reads, or a published name that is not known.
        FileNotFoundError: no such name or file.
        ImportError: a .pt file, and metatomic-torch is not installed.
    """
    name = str(name_or_path)
    if name.startswith(("ase:", "torchsim:")):
        return {"file": name, **_facts(load(name))}
    if name not in packaged() and not Path(name).is_file() and hub.parse(name):
        return _published(name)
    path = resolve(name)
    size = {"file": str(path), "size_MB": round(path.stat().st_size / 1e6, 2)}
    if path.suffix == ".ckpt":
        from tumble.bridges import metatrain

        return {**size, **_completed(metatrain.describe(path))}
    if path.suffix == ".pt":
        from tumble.bridges import metatomic

        return {**size, **metatomic.describe(path)}
    header = read_header(path)
    return {**size, **_facts(load(path)), "written": header["written"], "card": header["card"]}


def convert(name_or_path: str | Path, path: str | Path, *, variant: str | None = None, overwrite: bool = False) -> Path:
    """Write any potential made of our parts as .safetensors, with its card also as .json beside it.

    The new file gives the same numbers, bit for bit. Its card says what it was made from, and what that file said.

    Args:
        name_or_path: what `load` takes, but for .pt and "ase:", which hold no weights of ours.
        path: ends in .safetensors.
        variant: see `load`; a new file holds one set of heads.
        overwrite: replace what is there.

    Raises:
        ValueError: files are there already, or a potential that cannot be written; and what `load` raises.
    """
    path = Path(path)
    sidecar = path.with_suffix(".json")
    if present := [str(one) for one in (path, sidecar) if one.exists() and not overwrite]:
        raise ValueError(
            f"{' and '.join(present)} would be written over; a new file was expected. Give another name, or overwrite."
        )
    source = None if str(name_or_path).startswith(("ase:", "torchsim:")) else resolve(name_or_path)
    if source is None or source.suffix == ".pt":
        raise ValueError(
            f"{name_or_path} holds no weights of ours, so it cannot be written as .safetensors. "
            "Convert the .ckpt that it was made from, or use it as it is."
        )
    potential, said = load(source, variant=variant), describe(source)
    card = {**said.pop("card", {}), "converted": {"from": source.name, "sha256": _digest(source), "variant": variant}}
    card["converted"]["source"] = {key: value for key, value in said.items() if key != "file"}
    save(potential, path, card)
    sidecar.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    return path


def _published(name: str) -> dict[str, Any]:
    model, version = hub.parse(name) or ("", None)
    here = sorted((number for one, number in hub.cached() if one == model), key=hub.order)
    if here and version in (None, *here):
        return {"name": f"{model}@{version or here[-1]}", **describe(hub.cached()[model, version or here[-1]])}
    known = hub.KNOWN.get(model, ())
    if not known or version not in (None, *known):
        raise ValueError(
            f"{name!r} is neither in the cache nor among the models known on {hub.KNOWN_ON} "
            f"({', '.join(known) or 'no version'}).{hub.nearest(model, hub.KNOWN)} tumble models --online asks the Hub."
        )
    return {
        "name": model,
        "published_at": f"{hub.REPOSITORY} on the Hugging Face Hub",
        "versions": list(known),
        "in_cache": here,
        **hub.family(model)._asdict(),
        "file": f"not on this machine; tumble.load({name!r}) downloads it",
    }


def _completed(said: dict[str, Any]) -> dict[str, Any]:
    """What a .ckpt says of itself, with symbols for atomic numbers, and how far its network sees."""
    shape = {name: said["hypers"][name] for name in PETSettings.model_fields if name in said["hypers"]}
    seen = PETSettings(**shape).interaction_range
    return {**said, "species": _symbols(said["species"]), "interaction_range_A": _reach(seen)}


def _reach(distance: float) -> float | str:
    """In a word where it has no end: JSON has no infinity."""
    return distance if math.isfinite(distance) else "unlimited"


def _symbols(species: Iterable[int] | None) -> str:
    return "any" if species is None else " ".join(chemical_symbols[z] for z in species)


def _facts(potential: Potential) -> dict[str, Any]:
    models = [one for one in potential.modules() if isinstance(one, Model)]
    ranges = [getattr(getattr(one, "settings", None), "interaction_range", one.cutoff) for one in models]
    return {
        "kind": _kind(potential),
        "species": _symbols(potential.species),
        "cutoff_A": potential.cutoff,
        "interaction_range_A": _reach(max(ranges)) if ranges else None,
        "n_parameters": sum(one.numel() for one in potential.parameters()),
        "dtype": str(potential.dtype).removeprefix("torch."),
        "conservative": potential.is_conservative,
        "direct_forces": any(one.has_direct_forces for one in models),
        "ensemble": [len(one.members) for one in potential.modules() if isinstance(one, LLPR)],
    }


def _kind(potential: Potential) -> str:
    """What it is made of, for instance "Symmetrized Oh of Gradient of PET"."""
    kind = type(potential).__name__
    if isinstance(potential, Symmetrized):
        return f"{kind} {potential.rotations.name} of {_kind(potential.inner)}"
    if isinstance(potential, Projected):
        return f"{kind} of {_kind(potential.inner)}"
    if isinstance(potential, Sum):
        return f"{kind} of {' and '.join(_kind(part) for part in potential.parts)}"  # type: ignore[arg-type]
    model = getattr(potential, "model", None)
    return kind if model is None else f"{kind} of {type(model).__name__}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
