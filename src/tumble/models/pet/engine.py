"""The fast path of PET on a CPU: pairs, trunk and energies with their derivatives as compiled C++.

It computes what `edges_of`, `PET.features` and the readout of the energy compute, in float32 or float64, for the shape
that all published models share (PreLN, RMSNorm, SwiGLU, feedforward featurizer). What it saves is not arithmetic but
everything around it: a thread takes a few atoms at a time through a layer while their numbers stay in its cache; there
is no padding, no temporary tensor, no call overhead. Two products are cheaper than written: species and edge embeddings
are folded into the first linear map, and the two directions of a pair share the products after their layer norm.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from tumble import native
from tumble.batch import Batch
from tumble.models.pet.edges import Edges, Graph
from tumble.models.pet.memory import Workspace, addresses, plenty
from tumble.models.pet.settings import PETSettings

SOURCE = Path(__file__).parent / "native" / "engine.cpp"
LANES = {torch.float32: 16, torch.float64: 8}
"""Numbers in one register of the engine; the heads must fit into it evenly."""
SUFFIX = {torch.float32: "32", torch.float64: "64"}


class Weights(NamedTuple):
    """Weights of a trunk and of the head of its energy, as `packing` puts them in order, with memory to work in."""

    tensors: tuple[Tensor, ...]
    shape: dict[str, int]
    eps: float
    workspace: Workspace
    addresses: Any
    has_head: bool = False


def fits(settings: PETSettings, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the engine knows this model and runs here; it is built at the first such question."""
    lanes = LANES.get(dtype)
    return (
        device.type == "cpu"
        and lanes is not None
        and (settings.transformer_type, settings.normalization, settings.activation, settings.featurizer_type)
        == ("PreLN", "RMSNorm", "SwiGLU", "feedforward")
        and all(width % 16 == 0 for width in (settings.d_pet, settings.d_node, settings.d_feedforward, settings.d_head))
        and lanes % settings.num_heads == 0
        and is_available()
    )


def is_available() -> bool:
    """Whether the engine runs on this machine, which needs a C++ compiler once."""
    return native.library(SOURCE) is not None


def packed_sizes(weight: Tensor) -> tuple[int, int]:
    """Numbers in a weight matrix (out, in) as `pack` writes it, forwards and backwards."""
    lanes = LANES[weight.dtype]
    n_out, n_in = weight.shape
    return n_in * -(-n_out // lanes) * lanes, n_out * -(-n_in // lanes) * lanes


def pack(weight: Tensor, forth: Tensor, back: Tensor) -> None:
    """Write a weight matrix (out, in) as the engine multiplies by it, forwards and backwards."""
    n_out, n_in = weight.shape
    weight = weight.contiguous()
    function = getattr(_library(), f"pack{SUFFIX[weight.dtype]}")
    for depth, width, by_row, by_column, out in ((n_in, n_out, 1, n_in, forth), (n_out, n_in, n_in, 1, back)):
        numbers = map(ctypes.c_int64, (depth, width, len(out) // depth, by_row, by_column))
        function(*numbers, ctypes.c_void_p(weight.data_ptr()), ctypes.c_void_p(out.data_ptr()))


def finds_edges(settings: PETSettings) -> bool:
    """Whether the engine finds the interacting pairs itself; all but the older of the two adaptive cutoffs."""
    return settings.num_neighbors_adaptive is None or settings.adaptive_cutoff_method == "solver"


def graph_of(batch: Batch, species: Tensor) -> Graph:
    """The graph of pairs that were found otherwise.

    Args:
        batch: with the interacting pairs only.
        species: (N,) species index of each atom.
    """
    return Graph(_starts(batch), species[batch.neighbor], batch.reverse)


def edges_of(batch: Batch, species: Tensor, settings: PETSettings) -> Edges:
    """The interacting pairs and their weights, as `edges.edges_of`; once differentiable with respect to the vectors.

    Args:
        batch: with the pairs within the cutoff; more do no harm.
        species: (N,) species index of each atom.
    """
    kept, starts, neighbor_species, reverse, inputs, factor = _Edges.apply(batch.vectors, batch, species, settings)
    batch = batch._replace(
        center=batch.center[kept],
        neighbor=batch.neighbor[kept],
        shift=batch.shift[kept],
        reverse=reverse,
        vectors=inputs[:, :3],
    )
    return Edges(batch, inputs[:, 3], factor, Graph(starts, neighbor_species, reverse))


def trunk(
    inputs: Tensor, factor: Tensor, node: Tensor, condition: Tensor | None, graph: Graph, weights: Weights
) -> tuple[Tensor, Tensor]:
    """Features of atoms (N, d_node) and of pairs (P, d_pet) after the last layer; once differentiable.

    Args:
        inputs: (P, n_inputs) what an edge sees.
        factor: (P,) weight of each pair.
        node: (N, d_node) embedding of every atom; a constant.
        condition: (N, d_node) added to every atom after each layer, or None; a constant.
    """
    node_features, pair_features = _answer(inputs, factor, node, condition, graph, weights)
    return node_features, pair_features


def energies(
    inputs: Tensor, factor: Tensor, node: Tensor, condition: Tensor | None, graph: Graph, weights: Weights
) -> Tensor:
    """What the head of the energy makes of the features, (N,), before scale and offset; arguments as for `trunk`."""
    return _answer(inputs, factor, node, condition, graph, weights._replace(has_head=True))[0]


def slopes(
    batch: Batch, species: Tensor, settings: PETSettings, node: Tensor, condition: Tensor | None, weights: Weights
) -> tuple[Tensor, Tensor]:
    """`energies`, and the derivative of their sum by the vectors of the batch (P, 3): nothing of it leaves the engine.

    For settings whose edges the engine finds, and which see nothing of an edge but its vector and length.

    Args:
        batch: as for `edges_of`.
        species: (N,) species index of each atom.
        node: (N, d_node) embedding of every atom.
        condition: as for `trunk`.
    """
    found = _find(batch.vectors, batch, species, settings)
    run, (answer,) = _run(found.inputs, found.factor, node, condition, found.graph, weights._replace(has_head=True))
    return answer, _find_back(found, *_run_back(run, [torch.ones_like(answer)]))


class _Shape(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in [
                "n_atoms",
                "n_pairs",
                "width",
                "d_node",
                "d_feedforward",
                "n_heads",
                "n_inputs",
                "n_layers",
                "n_attention",
                "is_wide",
                "d_head",
                "is_lean",
                "n_threads",
            ]
        ),
        ("eps", ctypes.c_double),
    ]


class _Where(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in Graph._fields]


class _Pairs(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_atoms", "n_pairs", "n_threads")),
        *((name, ctypes.c_void_p) for name in ("starts", "center", "neighbor", "reverse", "species")),
    ]


class _Cut(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_double) for name in ("cutoff", "width", "adaptive_width", "wanted")),
        *((name, ctypes.c_int64) for name in ("is_adaptive", "is_cosine")),
    ]


class _Found(NamedTuple):
    """The interacting pairs as the engine found them, and what it needs to go back to the vectors."""

    kept: Tensor
    graph: Graph
    inputs: Tensor
    factor: Tensor
    pairs: _Pairs
    cut: _Cut
    saved: tuple[Tensor, ...]
    alive: tuple[Tensor, ...]


def _find(vectors: Tensor, batch: Batch, species: Tensor, settings: PETSettings) -> _Found:
    vectors = vectors.contiguous()
    n_atoms, n_pairs = batch.n_atoms, batch.n_pairs
    indices = (_starts(batch), batch.center, batch.neighbor, batch.reverse, species)
    pairs = _Pairs(n_atoms, n_pairs, torch.get_num_threads(), *(one.data_ptr() for one in indices))
    wanted = settings.num_neighbors_adaptive
    is_cosine = settings.cutoff_function == "Cosine"
    cut = _Cut(
        settings.cutoff, settings.cutoff_width, settings.cutoff_width_adaptive, wanted or 0, bool(wanted), is_cosine
    )
    kept, kind, reverse = torch.empty(3, n_pairs, dtype=torch.int64).unbind()
    first = torch.empty(n_atoms + 1, dtype=torch.int64)
    radius, of_radius = vectors.new_empty(n_atoms), vectors.new_empty(n_pairs)
    inputs, (factor, of_distance, of_reach) = vectors.new_empty(n_pairs, 4), vectors.new_empty(3, n_pairs).unbind()
    out = (radius, of_radius, kept, first, kind, reverse, inputs, factor, of_distance, of_reach)
    find = getattr(_library(), f"edges{SUFFIX[vectors.dtype]}")
    n = find(ctypes.byref(pairs), ctypes.byref(cut), ctypes.c_void_p(vectors.data_ptr()), addresses(out))
    saved = (vectors, of_radius, kept, of_distance, of_reach)
    return _Found(kept[:n], Graph(first, kind[:n], reverse[:n]), inputs[:n], factor[:n], pairs, cut, saved, indices)


def _find_back(found: _Found, of_inputs: Tensor, of_factor: Tensor) -> Tensor:
    """The slope of the vectors, (P, 3)."""
    vectors = found.saved[0]
    back = getattr(_library(), f"edges_back{SUFFIX[vectors.dtype]}")
    slope = torch.empty_like(vectors)
    data = addresses([*found.saved, of_inputs.contiguous(), of_factor.contiguous()])
    pairs, cut = ctypes.byref(found.pairs), ctypes.byref(found.cut)
    back(pairs, cut, len(found.factor), data, ctypes.c_void_p(slope.data_ptr()))
    return slope


class _Edges(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, batch: Batch, species: Tensor, settings: PETSettings) -> tuple[Tensor, ...]:
        found = _find(vectors, batch, species, settings)
        # An answer that is kept here would keep itself: it knows this function.
        ctx.found = found._replace(inputs=found.inputs.detach(), factor=found.factor.detach())
        answer = (found.kept, *found.graph, found.inputs, found.factor)
        ctx.mark_non_differentiable(*answer[:4])
        return answer

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        return _find_back(ctx.found, slopes[4], slopes[5]), None, None, None


class Call(NamedTuple):
    """What every call of a compiled function is about."""

    shape: Any
    graph: Graph
    weights: Weights
    workspace: Tensor


class _Run(NamedTuple):
    """A call forward, as the way back must know it."""

    call: Call
    inputs: Tensor
    factor: Tensor


def _run(
    inputs: Tensor,
    factor: Tensor,
    node: Tensor,
    condition: Tensor | None,
    graph: Graph,
    weights: Weights,
    *,
    goes_back: bool = True,
) -> tuple[_Run, tuple[Tensor, ...]]:
    """The features of atoms and pairs; with a head, what it makes of them instead."""
    inputs, factor = inputs.contiguous(), factor.contiguous()
    shape = _shape(graph, weights)
    shape.is_lean = not goes_back or _size(shape) * inputs.itemsize > plenty()
    workspace = weights.workspace.take(_size(shape) + sum(_extra(shape)), inputs)
    features, answer = _features(shape, workspace)[:2], None
    if weights.has_head:
        answer = inputs.new_empty(shape.n_atoms)
    else:
        features = [torch.empty_like(one) for one in features]
    condition = None if condition is None else condition.contiguous()
    data = [inputs, factor, node.contiguous(), condition]
    this = Call(shape, graph, weights, workspace)
    _call("forward", this, data, [*features, answer])
    return _Run(this, inputs, factor), tuple(features) if answer is None else (answer,)


def _run_back(run: _Run, slopes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The slopes of the inputs and of the factor; the run is used up."""
    of_inputs, of_factor = torch.zeros_like(run.inputs), torch.zeros_like(run.factor)
    *features, scratch = _features(run.call.shape, run.call.workspace)
    has_head = run.call.weights.has_head
    if not has_head:
        for here, slope in zip(features, slopes, strict=True):
            here.copy_(slope)
    seeds = slopes[0].contiguous() if has_head else None
    _call("backward", run.call, [run.inputs, run.factor, seeds], (*features, of_inputs, of_factor, scratch))
    run.call.weights.workspace.give(run.call.workspace)
    return of_inputs, of_factor


def _size(shape: _Shape) -> int:
    """Numbers that the way back needs of the way forward."""
    return int(_library().workspace(ctypes.byref(shape)))


def _extra(shape: _Shape) -> tuple[int, int, int]:
    """Numbers in the features of atoms and pairs, which their slopes overwrite, and in the scratch of the way back."""
    atoms, pairs, width = shape.n_atoms, shape.n_pairs, shape.width
    return atoms * shape.d_node, pairs * width, pairs * width + atoms * 4 * width


def _features(shape: _Shape, workspace: Tensor) -> list[Tensor]:
    """Where in the workspace they are: features of atoms (N, d_node), of pairs (P, d_pet), and the scratch."""
    size, extra = _size(shape), _extra(shape)
    atoms, pairs, scratch = workspace[size : size + sum(extra)].split(extra)
    return [atoms.view(-1, shape.d_node), pairs.view(-1, shape.width), scratch]


def _answer(*arguments: Any) -> tuple[Tensor, ...]:
    """What `_run` answers, with or without a way back."""
    if torch.is_grad_enabled():
        return cast(tuple[Tensor, ...], _Trunk.apply(*arguments))
    run, answer = _run(*arguments, goes_back=False)
    run.call.weights.workspace.give(run.call.workspace)
    return answer


class _Trunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        ctx.run, answer = _run(*arguments)
        return answer

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        if ctx.run is None:
            raise RuntimeError(
                "the engine was asked for the same derivative twice, or for a second one; it gives one, once. "
                "Put the potential into training mode, where every derivative exists."
            )
        run, ctx.run = ctx.run, None
        return *_run_back(run, slopes), None, None, None, None


def _starts(batch: Batch) -> Tensor:
    return torch.searchsorted(batch.center, torch.arange(batch.n_atoms + 1))


def _library() -> Any:
    library = native.library(SOURCE)
    assert library is not None
    library.workspace.restype = library.edges32.restype = library.edges64.restype = ctypes.c_int64
    return library


def _shape(graph: Graph, weights: Weights) -> _Shape:
    numbers = weights.shape | {"d_head": weights.shape["d_head"] if weights.has_head else 0}
    return _Shape(
        n_atoms=len(graph.starts) - 1,
        n_pairs=len(graph.reverse),
        n_threads=torch.get_num_threads(),
        eps=weights.eps,
        **numbers,
    )


def _call(name: str, run: Call, data: Sequence[Tensor | None], out: Sequence[Tensor | None]) -> None:
    call(getattr(_library(), name + SUFFIX[run.workspace.dtype]), run, data, out)


def call(function: Any, run: Call, data: Sequence[Tensor | None], out: Sequence[Tensor | None], *between: Any) -> None:
    """Call a compiled function: the shape, the graph, the weights, what else it takes, memory, data and results."""
    where = _Where(*(part.data_ptr() for part in run.graph))
    pointers = (ctypes.c_void_p(run.workspace.data_ptr()), addresses(data), addresses(out))
    failed = function(ctypes.byref(run.shape), ctypes.byref(where), run.weights.addresses, *between, *pointers)
    assert not failed, f"the engine does not know {run.shape.n_heads} heads"
