"""Changing a trained PET: low-rank changes of its matrices, more elements, more or fewer direct heads."""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tumble.models.pet.heads import Readout
from tumble.models.pet.layers import MessagePassing
from tumble.models.pet.model import PET
from tumble.models.pet.packing import Packing

INNER = ("compress", "attention", "mlp", "center_")
"""Parts of the names of the matrices that map features to features, those behind the features excepted."""


class LowRank(nn.Module):
    """A change of a matrix that is the product of two thin ones: W + (alpha / rank) B A.

    lora_down: (rank, n_in) A, random at the start.
    lora_up:   (n_out, rank) B, zero at the start, so that nothing changes before it is trained.

    Source: Hu et al., LoRA, arXiv:2106.09685.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        """Args:
        weight: (n_out, n_in) the matrix.
        rank: of the change.
        alpha: the change is multiplied by alpha / rank.
        """
        super().__init__()
        n_out, n_in = weight.shape
        self.scale = alpha / rank
        self.lora_down, self.lora_up = (
            nn.Parameter(weight.new_empty(rank, n_in)),
            nn.Parameter(weight.new_zeros(n_out, rank)),
        )
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed matrix, (n_out, n_in)."""
        return weight + self.scale * (self.lora_up @ self.lora_down)


def add_lora(model: PET, rank: int, alpha: float) -> None:
    """Freeze the inner matrices of a PET and let each learn a change of low rank; answers stay what they are.

    Only `requires_grad` of the matrices themselves is cleared. Whatever else shall stay is for the caller to freeze.

    Args:
        model: changed in place; before other levels of theory share its modules (`Levels`).
        rank: of the changes.
        alpha: their size; each change is multiplied by alpha / rank.

    Raises:
        ValueError: a rank of 0, or one that is no saving; or changes are there already.
    """
    if has_lora(model):
        raise ValueError("this PET has low-rank changes already; a plain one was expected. Merge them first (merged).")
    matrices = [one for name, one in model.named_modules() if isinstance(one, nn.Linear) and _is_inner(name)]
    smallest = min(min(one.weight.shape) for one in matrices)
    if not 0 < rank < smallest:
        raise ValueError(
            f"the rank of low-rank changes is {rank}; 1 to {smallest - 1} was expected, for the smallest inner matrix "
            f"has rank {smallest}. Choose 4 to 16, or train all weights."
        )
    for one in matrices:
        parametrize.register_parametrization(one, "weight", LowRank(one.weight, rank, alpha))
        cast(nn.Parameter, one.parametrizations.weight.original).requires_grad_(False)  # type: ignore[union-attr]
    model._packing = Packing()  # it remembers which weights there are


def has_lora(model: nn.Module) -> bool:
    """Whether there are low-rank changes in it."""
    return any(isinstance(one, LowRank) for one in model.modules())


def merged(model: PET) -> PET:
    """A copy whose low-rank changes are part of its matrices: the same answers, to rounding, from a plain PET."""
    plain = _copy(model)
    for name, one in list(plain.named_modules()):
        if isinstance(one, nn.Linear) and parametrize.is_parametrized(one, "weight"):
            # Removing a parametrization would change the class of the module, which the original shares.
            weight = one.weight.detach()
            linear = nn.utils.skip_init(nn.Linear, *weight.shape[::-1], dtype=weight.dtype, device=weight.device)
            linear.load_state_dict({"weight": weight, "bias": one.bias})
            plain.set_submodule(name, linear)
    return plain.requires_grad_(True)


def with_species(model: PET, species: Iterable[int]) -> PET:
    """A copy that also knows these elements; what it says of the others stays as it is, to rounding.

    All weights stay, bit for bit, but products of longer tables are rounded otherwise. The rows of a new element in the
    tables are random: normal, about the mean of the known rows, with their spread. So the layers behind a table meet a
    vector like those they were trained on, and no two new elements are the same one. Its offset is 0 and its force
    scale 1.

    Args:
        model: any PET.
        species: atomic numbers, among them perhaps some that it knows.
    """
    grown = _copy(model)
    every = tuple(sorted({*model.species, *map(int, species)}))
    places = torch.tensor([every.index(z) for z in model.species], device=model.offsets.device)
    grown.species = every
    lookup = torch.full((max(every) + 1,), -1, device=places.device)
    lookup[list(every)] = torch.arange(len(every), device=places.device)
    grown.lookup = lookup
    for name, filling in (("offsets", 0.0), ("force_scale", 1.0)):
        values = getattr(grown, name)
        setattr(grown, name, values.new_full((len(every),), filling).index_copy(0, places, values))
    for table in _tables(grown):
        known = table.weight.detach()
        center = known.mean(0) if len(known) > 1 else torch.zeros_like(known[0])
        rows = center + (known - center).square().mean().sqrt() * torch.randn(len(every), known.shape[1]).to(known)
        table.weight = nn.Parameter(rows.index_copy(0, places, known), requires_grad=table.weight.requires_grad)
        table.num_embeddings = len(every)
    return grown


def with_direct(model: PET, *, stress: bool) -> PET:
    """A copy with a direct head of the forces, and of the stress if wanted; heads that it lacks are new and random.

    Args:
        model: any PET.
        stress: whether it shall have a direct head of the stress too.
    """
    grown = _copy(model)
    wanted = {"forces": 3, "stress": 9} if stress else {"forces": 3}
    for name, size in wanted.items():
        if name not in grown.readouts:
            like = next(iter(model.parameters()))
            grown.readouts[name] = Readout(model.settings, size).to(dtype=like.dtype, device=like.device)
    return _described(grown)


def without_direct(model: PET) -> PET:
    """A copy without the direct heads of forces and stress."""
    lean = _copy(model)
    for name in [name for name in lean.readouts if name != "energy"]:
        del lean.readouts[name]
    return _described(lean)


def _copy(model: PET) -> PET:
    """A copy without what long-range features remember of the last batch, which may hang on a graph."""
    features = model.long_range_featurizer
    return copy.deepcopy(model, {} if features is None else {id(features._calculators): {}})


def _described(model: PET) -> PET:
    """The same PET, with settings that tell which direct heads it has."""
    heads = {f"direct_{name}": name in model.readouts for name in ("forces", "stress")}
    model.settings = model.settings.model_copy(update=heads)
    return model


def _is_inner(name: str) -> bool:
    return any(part in name for part in INNER) and "readouts" not in name


def _tables(model: PET) -> Sequence[nn.Embedding]:
    """The tables with a row for each element."""
    layers = cast(Iterable[MessagePassing], model.gnn_layers)
    inner = [layer.neighbor_embedder for layer in layers if layer.neighbor_embedder is not None]
    return [*cast(Iterable[nn.Embedding], model.node_embedders), model.edge_embedder, *inner]
