"""Potentials as files: safetensors with a JSON card, no pickle. And the one place where names are resolved."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from tumble.models.pair import ZBL, LennardJones, Morse
from tumble.models.pet import PET
from tumble.potential import Direct, Gradient, Model, Potential, Sum
from tumble.rotations import Rotations
from tumble.symmetry import Symmetrized

FORMAT = 1
"""Version of the file format; a change gets a dated entry in `UPGRADES`."""

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""From each older format to the next."""

MODELS: dict[str, type[Model]] = {kind.__name__: kind for kind in (PET, LennardJones, Morse, ZBL)}


def save(potential: Potential, path: str | Path, card: Mapping[str, Any] | None = None) -> Path:
    """Write weights and the recipe of their wrappers to one file, atomically.

    Args:
        potential: any potential made of our own parts; a `Foreign` one must come from an "ase:" name.
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
    partial.write_bytes(to_bytes(tensors, metadata={"tumble": json.dumps(header)}))
    partial.replace(path)
    return path


def load(
    name_or_path: str | Path, *, device: torch.device | str | None = None, dtype: torch.dtype | str | None = None
) -> Potential:
    """A potential from its name or file.

    Args:
        name_or_path: a packaged name (`packaged()` lists them), a .safetensors file, a PET .ckpt of metatrain, or
            "ase:package.module:factory" for any ASE calculator.
        device: "cpu", "cuda", …; None: cpu.
        dtype: torch.float32, "float64", …; None: what the file holds.

    Raises:
        ValueError: the file is cut off, of another kind, or from a newer version.
        FileNotFoundError: no such name or file.
    """
    name = str(name_or_path)
    if name.startswith("ase:"):
        from tumble.bridges.ase import from_spec

        return from_spec(name.removeprefix("ase:"))
    path = _path_of(name)
    if path.suffix == ".ckpt":
        from tumble.bridges import metatrain

        potential = metatrain.load(path)
    else:
        header = read_header(path)
        with torch.random.fork_rng(devices=[]):  # random first weights must not use up the caller's random numbers
            potential = _rebuild(header["recipe"])
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
        potential.to(next((t.dtype for t in tensors.values() if t.dtype == torch.float32), torch.float64))
        potential.load_state_dict(tensors)
    potential.requires_grad_(False)
    return potential.to(device=device or "cpu", dtype=_dtype(dtype) or potential.dtype)


def packaged() -> dict[str, Path]:
    """Potentials that come with the package: name and file."""
    folder = Path(str(files("tumble"))) / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


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


def _path_of(name: str) -> Path:
    if name in packaged():
        return packaged()[name]
    path = Path(name)
    if not path.is_file():
        known = ", ".join(packaged()) or "none"
        raise FileNotFoundError(
            f"there is no potential {name!r}: neither a packaged name ({known}) nor a file. "
            'Give a .safetensors or .ckpt file, a packaged name, or "ase:package.module:factory".'
        )
    return path


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
    if isinstance(potential, Sum):
        return {"kind": kind, "parts": [_recipe(part) for part in potential.parts]}  # type: ignore[arg-type]
    if isinstance(potential, Symmetrized):
        return {"kind": kind, "inner": _recipe(potential.inner), "rotations": potential.rotations.name}
    if spec := getattr(potential, "spec", None):
        return {"kind": "Foreign", "spec": spec}
    raise ValueError(
        f"a {kind} cannot be saved: nothing says how to rebuild it. "
        'Load it by an "ase:package.module:factory" name, then symmetrize and save that.'
    )


def _rebuild(recipe: Mapping[str, Any]) -> Potential:
    match recipe["kind"]:
        case "Gradient":
            return Gradient(MODELS[recipe["model"]](**recipe["config"]))
        case "Direct":
            return Direct(MODELS[recipe["model"]](**recipe["config"]))
        case "Sum":
            return Sum(*(_rebuild(part) for part in recipe["parts"]))
        case "Symmetrized":
            return Symmetrized(_rebuild(recipe["inner"]), Rotations.parse(recipe["rotations"]))
        case "Foreign":
            from tumble.bridges.ase import from_spec

            return from_spec(recipe["spec"])
        case other:
            raise ValueError(
                f"the file describes a {other!r}, which this version does not know. Install a newer tumble."
            )
