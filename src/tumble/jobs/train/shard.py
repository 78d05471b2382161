"""Sharding: weights, averages and optimizers cut among the processes, and whole for as long as a step needs them.

Forces that are derivatives need two backward passes, between which no weight may change its place. So a step does not
gather layer by layer: it has the whole weights and their whole gradient, as without sharding, and everything that rests
between steps is cut. The numbers are those of the unsharded training.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from tumble.jobs.train.ranks import Ranks
from tumble.jobs.train.rates import optimizers_of
from tumble.jobs.train.settings import Phase, TrainSettings
from tumble.jobs.train.state import State

if TYPE_CHECKING:  # these take as long to import as everything else, and change the filters of warnings
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

BLANK = "_blank"
"""Where a sharded model keeps its likeness without numbers, for sharded ones cannot be copied."""

Module = TypeVar("Module", bound=nn.Module)


def check_shard(settings: TrainSettings) -> None:
    """Refuse what does not work on sharded weights.

    Raises:
        ValueError: a setting that excludes shard.
    """
    if not settings.shard:
        return
    for n, phase in enumerate(settings.phases):
        reasons = {
            "its optimizer is muon, which needs whole matrices. Set optimizer to adamw": phase.optimizer == "muon",
            "it drops the direct heads. Drop them in a training of its own": phase.drop_direct,
            "it trains low-rank changes, whose optimizer is small. Set layers to all": phase.layers == "lora",
        }
        for reason in (reason for reason, is_there in reasons.items() if is_there):
            raise ValueError(f"shard is true, and phase {n} does not allow it: {reason}, or shard to false.")
    if settings.compile:
        raise ValueError("shard and compile are both true; one of them was expected. Set the other to false.")


def shard_state(state: State, phase: Phase, ranks: Ranks) -> None:
    """Cut weights, averages and optimizers of a training among the processes, fresh or restored.

    Args:
        state: whole; changed in place.
        phase: the present one.
        ranks: with one process everything stays as it is.
    """
    if ranks.size == 1:
        return
    saved = [optimizer.state_dict() for optimizer in state.optimizers]
    shard(state.model, ranks)
    shard(state.averages, ranks)
    state.optimizers = optimizers_of(state.model, phase)
    for optimizer, one in zip(state.optimizers, saved, strict=True):
        restore_optimizer(optimizer, one)


def shard(model: nn.Module, ranks: Ranks) -> None:
    """Cut the weights of a model among the processes, in place; with one process they stay as they are.

    Its optimizers must be made afterwards, and its weights be changed by optimizers only.
    """
    if ranks.size == 1 or is_sharded(model):
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    blank = copy.deepcopy(model)
    for part in blank.modules():
        for name, weight in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(weight.to("meta"), weight.requires_grad))
    fully_shard(model, mesh=init_device_mesh(ranks.device.type, (ranks.size,)), reshard_after_forward=False)
    model.__dict__[BLANK] = blank  # not as a module: its weights are none of the model's


def is_sharded(model: nn.Module) -> bool:
    """Whether its weights are cut."""
    return BLANK in model.__dict__


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, the model has whole weights; their gradients at the end become those of the shards.

    Gradients must have been summed over the processes by then. Nothing happens to a model that is not sharded.
    """
    if not is_sharded(model):
        yield
        return
    sharded = cast("FSDPModule", model)
    sharded.unshard()
    weights = list(model.parameters())
    try:
        yield
    finally:
        sharded.reshard()
    for weight, part in zip(weights, model.parameters(), strict=True):
        part.grad, weight.grad = None if weight.grad is None else _cut(weight.grad, part), None


def complete(model: Module) -> Module:
    """The model itself or, if it is sharded, a plain one with the whole weights; called by all processes."""
    blank: Module | None = model.__dict__.get(BLANK)
    if blank is None:
        return model
    plain = copy.deepcopy(blank).train(model.training)
    weights = {name: _joined(value) for name, value in model.state_dict().items()}
    plain.load_state_dict(weights, assign=True)
    return plain


def whole(content: Any, *, keep: bool = True) -> Any:
    """Dictionaries, lists and tensors with every sharded tensor put together on the CPU; called by all processes.

    Args:
        content: what is to be saved.
        keep: False: this process only takes part, and gets None for every sharded tensor.
    """
    if _is_cut(content):
        joined = _joined(content)
        return joined.cpu() if keep else None
    if isinstance(content, Mapping):
        return {key: whole(value, keep=keep) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(whole(value, keep=keep) for value in content)
    return content


def restore_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Give an optimizer a saved state, which is whole, cut like its weights.

    Args:
        optimizer: of sharded weights, or of plain ones.
        saved: what `whole(optimizer.state_dict())` gave for any number of processes.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = {
        key: {name: _cut(value, weights[key]) for name, value in entry.items()} for key, entry in saved["state"].items()
    }
    optimizer.load_state_dict({**saved, "state": state})


def _is_cut(value: object) -> bool:
    return hasattr(value, "full_tensor")


def _joined(value: Tensor) -> Tensor:
    return cast("DTensor", value).full_tensor() if _is_cut(value) else value


def _cut(value: Any, weight: Tensor) -> Any:
    """This process's part of a whole tensor of the shape of a weight; anything else as it is."""
    if not (_is_cut(weight) and isinstance(value, Tensor) and value.shape == weight.shape):
        return value
    from torch.distributed.tensor import distribute_tensor

    like = cast("DTensor", weight)
    return distribute_tensor(value.to(weight.device), like.device_mesh, like.placements, src_data_rank=None)
