"""The PET checkpoints published on the Hugging Face Hub: their names, the newest of them, and what is cached here.

Source: huggingface.co/lab-cosmo/upet, whose folder models/ holds pet-{family}-{size}-v{X.Y.Z}.ckpt; the documentation
of github.com/lab-cosmo/upet.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY, FOLDER = "lab-cosmo/upet", "models"

SIZES = ("xs", "s", "m", "l", "xl")

KNOWN_ON = "2026-11-21"
"""When `KNOWN` was compiled. Names are resolved by what the Hub lists; this list serves where the Hub is not asked."""

KNOWN: dict[str, tuple[str, ...]] = {
    "pet-mad-xs": ("1.5.0", "1.6.0"),
    "pet-mad-s": ("1.0.2", "1.1.0", "1.5.0", "1.6.0"),
    "pet-mad-m": ("1.6.0",),
    "pet-oam-l": ("0.1.0",),
    "pet-oam-xl": ("1.0.0",),
    "pet-omat-xs": ("1.0.0",),
    "pet-omat-s": ("1.0.0",),
    "pet-omat-m": ("1.0.0",),
    "pet-omat-l": ("1.0.0",),
    "pet-omat-xl": ("1.0.0",),
    "pet-omatpes-l": ("0.1.0",),
    "pet-omad-xs": ("1.0.0",),
    "pet-omad-s": ("1.0.0",),
    "pet-omad-l": ("0.1.0",),
    "pet-omol-s": ("1.0.0",),
    "pet-omol-m": ("1.0.0",),
    "pet-omol-l": ("1.0.0",),
    "pet-spice-s": ("0.2.0",),
    "pet-spice-l": ("0.2.0",),
    "pet-mols-s": ("1.0.0", "1.1.0"),
}
"""Published models and their versions, oldest first."""


class Family(NamedTuple):
    """What the models of one name were trained on, and for."""

    level: str
    use: str


FAMILIES = {
    "mad": Family("r2SCAN; PBEsol before 1.5", "materials, surfaces and molecules, 102 elements; 85 before 1.5"),
    "oam": Family("PBE as in the Materials Project", "materials, 89 elements: hulls, relaxation, phonons"),
    "omat": Family("PBE", "materials, 89 elements"),
    "omatpes": Family("r2SCAN", "materials, 89 elements"),
    "omad": Family("PBEsol", "materials and molecules, 85 elements"),
    "omol": Family("ωB97M-V", "molecules, metal complexes and electrolytes, 83 elements"),
    "spice": Family("ωB97M-D3", "molecules and biomolecules, 17 elements"),
    "mols": Family("PBE0+MBD", "organic molecular crystals, 12 elements"),
}

_NAME = re.compile(rf"(pet-\w+-(?:{'|'.join(SIZES)}))(?:(?:@|-)v?(\d+\.\d+\.\d+))?")
_FILE = re.compile(rf"(?:{FOLDER}/)?(pet-\w+-(?:{'|'.join(SIZES)}))-v(\d+\.\d+\.\d+)\.ckpt")

Versions = Mapping[str, tuple[str, ...]]


def parse(name: str) -> tuple[str, str | None] | None:
    """Model and version that a name stands for, such as "pet-oam-xl@1.0.0"; None if it is not such a name."""
    found = _NAME.fullmatch(name)
    return None if found is None else (found[1], found[2])


def family(model: str) -> Family:
    """What a model is for; blank for a family that is not known here."""
    return FAMILIES.get(model.split("-")[1], Family("", ""))


def published() -> Versions:
    """Every model and its versions that the Hub lists now, oldest first.

    Raises:
        ImportError: huggingface_hub is not installed.
        RuntimeError: the Hub cannot be reached.
    """
    try:
        files = _client().list_repo_files(REPOSITORY)
    except ImportError:
        raise
    except Exception as error:  # of requests or of httpx, whichever this huggingface_hub is built on
        raise RuntimeError(
            f"the Hugging Face Hub cannot be asked what {REPOSITORY} holds: {_reason(error)}. "
            f"{_way_out()}, or name a file or a cached model (tumble models lists them)."
        ) from error
    return _by_model(files)


def cached() -> dict[tuple[str, str], Path]:
    """Files in the cache of huggingface_hub: model and version → path. Empty where it is not installed."""
    try:
        client = _client()
    except ImportError:
        return {}
    folder = Path(client.constants.HF_HUB_CACHE) / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots"
    paths = sorted(folder.glob(f"*/{FOLDER}/*.ckpt"), key=lambda path: path.stat().st_mtime)
    return {(found[1], found[2]): path for path in paths if (found := _FILE.fullmatch(path.name))}


def fetch(name: str) -> Path:
    """The file of a published model: downloaded, or from the cache. The newest version if the name has none.

    Args:
        name: "pet-mad-s" or "pet-mad-s@1.6.0".

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: no such model or version.
        RuntimeError: the Hub cannot be reached, and the cache does not have it.
    """
    parsed = parse(name)
    assert parsed is not None, name
    model, version = parsed
    _client()
    if version is not None:
        return _download(model, version)
    try:
        there = published()
    except RuntimeError as error:
        return _newest_cached(model, error)
    _check(model, None, there)
    return _download(model, there[model][-1])


def nearest(name: str, names: Iterable[str]) -> str:
    """A sentence with the names that are most like this one; empty if none is."""
    near = get_close_matches(name, list(names), 3, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _download(model: str, version: str) -> Path:
    try:
        return Path(_client().hf_hub_download(REPOSITORY, f"{model}-v{version}.ckpt", subfolder=FOLDER))
    except Exception as error:
        if (path := cached().get((model, version))) is not None:
            return path  # in an older snapshot than the one that the client looks at when it is offline
        if type(error).__name__ in ("EntryNotFoundError", "RemoteEntryNotFoundError"):
            _check(model, version, published())
        here = ", ".join(f"{one}@{number}" for one, number in cached()) or "none"
        raise RuntimeError(
            f"{model}-v{version}.ckpt cannot be downloaded from {REPOSITORY}: {_reason(error)}. "
            f"{_way_out()}, or name a file or a cached model ({here}).{'' if model in KNOWN else nearest(model, KNOWN)}"
        ) from error


def _newest_cached(model: str, error: RuntimeError) -> Path:
    here = cached()
    versions = sorted((version for one, version in here if one == model), key=order)
    if versions:
        logging.getLogger("tumble").warning(
            "using %s@%s from the cache; there may be a newer one, but %s",
            model,
            versions[-1],
            "HF_HUB_OFFLINE is set" if _is_offline() else "the Hugging Face Hub does not answer",
        )
        return here[model, versions[-1]]
    if model not in KNOWN:
        raise ValueError(
            f"{model!r} is neither in the cache nor among the {len(KNOWN)} models known on {KNOWN_ON}, and the Hub "
            f"could not be asked.{nearest(model, KNOWN)} tumble models lists them."
        ) from error
    raise RuntimeError(f"{model!r} is not in the cache, and {error}") from error


def _check(model: str, version: str | None, there: Versions) -> None:
    if model not in there:
        raise ValueError(
            f"{REPOSITORY} has no model {model!r}; it has {', '.join(there)}.{nearest(model, there)} Name one of them."
        )
    if version is not None and version not in there[model]:
        raise ValueError(
            f"there is no version {version} of {model}; there are {', '.join(there[model])}. "
            f"Name one of them, for instance {model}@{there[model][-1]}."
        )


def _by_model(files: Iterable[str]) -> Versions:
    found: dict[str, list[str]] = {}
    for file in files:
        if parts := _FILE.fullmatch(file):
            found.setdefault(parts[1], []).append(parts[2])
    return {model: tuple(sorted(found[model], key=order)) for model in sorted(found)}


def order(version: str) -> tuple[int, ...]:
    """By which versions are sorted."""
    return tuple(int(number) for number in version.split("."))


def _is_offline() -> bool:
    return bool(_client().constants.HF_HUB_OFFLINE)


def _way_out() -> str:
    return "Unset HF_HUB_OFFLINE and connect to the network" if _is_offline() else "Connect to the network"


def _reason(error: BaseException) -> str:
    if _is_offline():
        return "HF_HUB_OFFLINE is set"
    cause = error.__cause__ or error  # the client says at length that it found nothing, and gives the reason as cause
    first = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    return first.rstrip(".")


def _client() -> Any:
    try:
        import huggingface_hub.constants
    except ImportError as error:
        raise ImportError(
            f"models are published on the Hugging Face Hub, and its client is not installed ({error}). "
            "Run pip install 'tumble[hub]', or download the .ckpt and name the file."
        ) from None
    return huggingface_hub
