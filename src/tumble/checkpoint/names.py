"""The one place where the name of a potential becomes a file."""

from importlib.resources import files
from pathlib import Path

from tumble.checkpoint import hub


def packaged() -> dict[str, Path]:
    """Potentials that come with the package: name and file."""
    folder = Path(str(files("tumble"))) / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def resolve(name: str | Path) -> Path:
    """The file that a name stands for: a packaged one, a file, or a published model, in this order.

    Args:
        name: "water", "x.ckpt", "pet-mad-s" (the newest) or "pet-oam-xl@1.0.0".

    Raises:
        FileNotFoundError: none of these.
        ImportError: a published model, and huggingface_hub is not installed.
        ValueError: no such published model or version.
        RuntimeError: the Hub cannot be reached, and its cache does not have the file.
    """
    text = str(name)
    if text in packaged():
        return packaged()[text]
    path = Path(text)
    if path.is_file():
        return path
    if hub.parse(text):
        return hub.fetch(text)
    known = ", ".join(packaged()) or "none"
    raise FileNotFoundError(
        f"there is no potential {text!r}: neither a packaged name ({known}) nor a file nor a published model."
        f"{hub.nearest(text, [*packaged(), *hub.KNOWN])} "
        "Give a .safetensors, .ckpt or .pt file, a name that tumble models lists, or "
        '"ase:package.module:factory" or "torchsim:package.module:factory" for a calculator of ASE or TorchSim.'
    )
