"""What results and certificates say a potential is: in words, and by the digest of its weights."""

import hashlib

import torch

from tumble.potential import Direct, Gradient, Potential, Sum
from tumble.symmetry import Projected, Symmetrized


def subject(potential: Potential, name: str = "") -> dict[str, str]:
    """What a certificate says a potential is: its name, and the SHA-256 of its weights where it has any."""
    weights = hashlib.sha256()
    tensors = potential.state_dict()
    for key, tensor in tensors.items():
        weights.update(key.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    known = {
        "name": name or in_words(potential),
        "made_of": in_words(potential),
        "dtype": str(potential.dtype).removeprefix("torch."),
    }
    return known | ({"digest": weights.hexdigest()} if tensors else {})


def in_words(potential: Potential) -> str:
    """A potential in words: its models, how its forces come about, what it is averaged over."""
    if isinstance(potential, Symmetrized):
        return f"{in_words(potential.inner)} averaged over {potential.rotations.name}"
    if isinstance(potential, Projected):
        return f"{in_words(potential.inner)} projected on the crystal"
    if isinstance(potential, Sum):
        return " + ".join(in_words(part) for part in potential.parts)  # type: ignore[arg-type]
    if isinstance(potential, Gradient | Direct):
        direct = " with direct forces" if isinstance(potential, Direct) else ""
        return type(potential.model).__name__ + direct
    return type(getattr(potential, "calculator", potential)).__name__
