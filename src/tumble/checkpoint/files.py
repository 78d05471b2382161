"""Potentials as files: safetensors with a JSON card, no pickle."""

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from tumble.checkpoint.names import resolve
from tumble.crystal import Aligned, parse_rule
from tumble.models.pair import ZBL, LennardJones, Morse
from tumble.models.pet import LLPR, PET
from tumble.potential import Direct, Gradient, Model, Potential, Sum
from tumble.rotations import Rotations
from tumble.symmetry import Projected, Symmetrized, directly

FORMAT = 1
"""Version of the file format; a change gets a dated entry in `UPGRADES`."""

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""From each older format to the next."""

MODELS: dict[str, type[Model]] = {kind.__name__: kind for kind in (PET, LennardJones, Morse, ZBL)}


def save(potential: Potential, path: str | Path, card: Mapping[str, Any] | None = None) -> Path:
    """Write weights and the recipe of their wrappers to one file, atomically.

    Args:
        potential: any potential made of our own parts; a `Foreign` or `TorchSim` one needs its spec.
        path: ends in .safetensors.
        card: facts about it: data, licence, errors, command. Must be JSON.

    Returns:
        The path.

    Raises:
        ValueError: a part that cannot be rebuilt from a file.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"a potential is saved as a .safetensors file; {path.name!r} was given. Change the ending.")
    header = {
        "format": FORMAT,
        "recipe": _recipe(potential),
        "card": dict(card or {}),
        "written": {"tumble": version("tumble"), "date": datetime.now(UTC).isoformat(timespec="seconds")},
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in potential.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(to_bytes(tensors, metadata={"tumble": json.dumps(header)}))
        file.flush()
        os.fsync(file.fileno())  # a file with this name shall be whole, even after a power cut
    partial.replace(path)
    return path


def load(
    name_or_path: str | Path,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    variant: str | None = None,
    direct: bool = False,
) -> Potential:
    """A potential from its name or file.

    Args:
        name_or_path: a packaged name; a published PET, "pet-mad-s" or "pet-oam-xl@1.0.0"; a .safetensors file; a PET
            .ckpt of metatrain; an exported .pt of metatomic; "ase:package.module:factory" for any ASE calculator; or
            "torchsim:package.module:factory" for any TorchSim model. These two keep their own device and dtype.
        device: "cpu", "cuda", …; None: cpu.
        dtype: torch.float32, "float64", …; None: what the file holds.
        variant: of a file with several sets of heads, "pbe" for "energy/pbe"; None: the plain one, else the only one.
        direct: forces and stress of the direct heads instead of the derivatives of the energy.

    Raises:
        ValueError: the file is cut off, of another kind, or from a newer version; no such variant; no direct head.
        FileNotFoundError: no such name or file.
        ImportError: what the name or file needs is an extra that is not installed.
        RuntimeError: a published model that is not in the cache, and no connection to the Hub.
    """
    name = str(name_or_path)
    if name.startswith("ase:"):
        from tumble.bridges.ase import from_spec

        _refuse_variant(name, variant)
        potential: Potential = from_spec(name.removeprefix("ase:"))
    elif name.startswith("torchsim:"):
        from tumble.bridges import torchsim

        _refuse_variant(name, variant)
        potential = torchsim.from_spec(name)
    else:
        potential = _read(resolve(name), variant, direct)
    if direct:
        potential = directly(potential)
    potential.requires_grad_(False)
    return potential.to(device=device or "cpu", dtype=_dtype(dtype) or potential.dtype)


def read_header(path: str | Path) -> dict[str, Any]:
    """Format, recipe, card and origin of a saved potential, brought to the present format.

    Raises:
        ValueError: not such a file, cut off, or written by a newer version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("tumble")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as a potential ({error}); it may be cut off or of another kind. "
            "Copy it again, or name a .safetensors file that tumble wrote."
        ) from None
    if text is None:
        raise ValueError(f"{path} holds tensors but no recipe of a potential; it was not written by tumble.")
    header: dict[str, Any] = json.loads(text)
    if header["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {header['format']}; this version reads up to {FORMAT}. Install a newer tumble."
        )
    while header["format"] < FORMAT:
        header = UPGRADES[header["format"]](header)
    return header


def _read(path: Path, variant: str | None, direct: bool) -> Potential:
    """The potential of a file; `direct` is seen to here only where the file itself must know of it."""
    if path.suffix == ".ckpt":
        from tumble.bridges import metatrain

        return metatrain.load(path, variant=variant)
    if path.suffix == ".pt":
        from tumble.bridges import metatomic

        return metatomic.Metatomic(path, variant=variant, direct=direct)
    _refuse_variant(str(path), variant)
    header = read_header(path)
    with torch.random.fork_rng(devices=[]):  # random first weights must not use up the caller's random numbers
        potential = _rebuild(header["recipe"])
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    if tensors:
        potential.to(next((t.dtype for t in tensors.values() if t.dtype == torch.float32), torch.float64))
    potential.load_state_dict(tensors)
    return potential


def _refuse_variant(name: str, variant: str | None) -> None:
    if variant is not None:
        raise ValueError(
            f"the variant {variant!r} was asked for, and {name} holds one set of heads; only .ckpt and .pt files may "
            "hold several. Leave the variant out."
        )


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    known = {"float32": torch.float32, "float64": torch.float64}
    if dtype not in known:
        raise ValueError(f"dtype is {dtype!r}; one of {', '.join(known)} was expected.")
    return known[dtype]


def _recipe(potential: Potential) -> dict[str, Any]:
    kind = type(potential).__name__
    if isinstance(potential, Gradient | Direct):
        model = type(potential.model).__name__
        if model not in MODELS:
            raise ValueError(f"a {model} cannot be saved: only {', '.join(MODELS)} can be rebuilt from a file.")
        return {"kind": kind, "model": model, "config": potential.model.config()}
    if isinstance(potential, LLPR):
        made_of = {"model": "PET", "config": potential.model.config(), "n_members": len(potential.members)}
        return {"kind": kind, **made_of}
    if isinstance(potential, Sum):
        return {"kind": kind, "parts": [_recipe(part) for part in potential.parts]}  # type: ignore[arg-type]
    if isinstance(potential, Symmetrized):
        averaged = {"kind": kind, "inner": _recipe(potential.inner), "rotations": _name(potential.rotations)}
        return averaged if potential.prune else {**averaged, "prune": False}
    if isinstance(potential, Projected):
        return {"kind": kind, "inner": _recipe(potential.inner), "tolerance": potential.tolerance}
    if spec := getattr(potential, "spec", None):
        return {"kind": kind, "spec": spec, "conservative": potential.is_conservative}
    if reference := getattr(potential, "reference", None):
        return {"kind": "Metatomic", **reference}
    raise ValueError(
        f"a {kind} cannot be saved: nothing says how to rebuild it. "
        'Load it by an "ase:package.module:factory" name, then symmetrize and save that.'
    )


def _name(rule: Rotations | Aligned) -> str:
    """The spec of a rule, which a file holds instead of its nodes."""
    if isinstance(rule, Aligned):
        return rule.name
    try:
        again = parse_rule(rule.name)
    except ValueError:
        again = None
    if not isinstance(again, Rotations) or not torch.equal(again.matrices, rule.matrices):
        raise ValueError(
            f"the rule {rule.name} of {len(rule)} rotations cannot be saved: a file names its rule, and this name does "
            'not make these rotations again. Name a rule by a spec, such as "Ih", "o3:7@generic" or "crystal".'
        )
    return rule.name


def _rebuild(recipe: Mapping[str, Any]) -> Potential:
    match recipe["kind"]:
        case "Gradient":
            return Gradient(MODELS[recipe["model"]](**recipe["config"]))
        case "Direct":
            return Direct(MODELS[recipe["model"]](**recipe["config"]))
        case "LLPR":
            return LLPR(PET(**recipe["config"]), recipe["n_members"])
        case "Sum":
            return Sum(*(_rebuild(part) for part in recipe["parts"]))
        case "Symmetrized":
            rule = parse_rule(recipe["rotations"])
            return Symmetrized(_rebuild(recipe["inner"]), rule, prune=recipe.get("prune", True))
        case "Projected":
            return Projected(_rebuild(recipe["inner"]), recipe["tolerance"])
        case "Foreign":
            from tumble.bridges.ase import from_spec

            return from_spec(recipe["spec"], conservative=recipe.get("conservative", True))
        case "TorchSim":
            from tumble.bridges import torchsim

            return torchsim.from_spec(recipe["spec"], conservative=recipe.get("conservative", True))
        case "Metatomic":
            from tumble.bridges.metatomic import from_reference

            return from_reference(recipe)
        case other:
            raise ValueError(
                f"the file describes a {other!r}, which this version does not know. Install a newer tumble."
            )
