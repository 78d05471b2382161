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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tumble import native
from tumble.batch import Batch
from tumble.models.pet.edges import Edges, Graph
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
    workspace: "Workspace"
    has_head: bool = False


class Workspace:
    """Memory that calls hand on to each other: fresh pages cost a fifth of a call."""

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self._kept: list[Tensor] = []

    def take(self, size: int, like: Tensor) -> Tensor:
        """At least this many numbers of that type, whatever they are, for nobody else until they are given back."""
        kept = self._kept.pop() if self._kept else None
        if kept is not None and kept.dtype == like.dtype and size <= len(kept) <= 2 * size + 2**20:
            return kept
        del kept  # before the new one is made
        return like.new_empty(size + size // 16)

    def give(self, buffer: Tensor) -> None:
        """Give it back; only one is kept."""
        self._kept[:] = [buffer]


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


def pack(weight: Tensor) -> list[Tensor]:
    """A weight matrix (out, in) as the engine multiplies by it, forwards and backwards."""
    n_out, n_in = weight.shape
    weight = weight.contiguous()
    lanes = LANES[weight.dtype]
    ways = ((n_in, n_out, 1, n_in), (n_out, n_in, n_in, 1))
    packed = []
    for depth, width, by_row, by_column in ways:
        padded = -(-width // lanes) * lanes
        out = weight.new_empty(depth * padded)
        numbers = map(ctypes.c_int64, (depth, width, padded, by_row, by_column))
        function = getattr(_library(), f"pack{SUFFIX[weight.dtype]}")
        function(*numbers, ctypes.c_void_p(weight.data_ptr()), ctypes.c_void_p(out.data_ptr()))
        packed.append(out)
    return packed


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
    answer: tuple[Tensor, Tensor] = _Trunk.apply(inputs, factor, node, condition, graph, weights)
    return answer


def energies(
    inputs: Tensor, factor: Tensor, node: Tensor, condition: Tensor | None, graph: Graph, weights: Weights
) -> Tensor:
    """What the head of the energy makes of the features, (N,), before scale and offset; arguments as for `trunk`."""
    answer: tuple[Tensor] = _Trunk.apply(inputs, factor, node, condition, graph, weights._replace(has_head=True))
    return answer[0]


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


class _Edges(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, batch: Batch, species: Tensor, settings: PETSettings) -> tuple[Tensor, ...]:
        vectors = vectors.contiguous()
        n_atoms, n_pairs = batch.n_atoms, batch.n_pairs
        indices = (_starts(batch), batch.center, batch.neighbor, batch.reverse, species)
        pairs = _Pairs(n_atoms, n_pairs, torch.get_num_threads(), *(one.data_ptr() for one in indices))
        wanted = settings.num_neighbors_adaptive
        is_cosine = settings.cutoff_function == "Cosine"
        cut = _Cut(
            settings.cutoff, settings.cutoff_width, settings.cutoff_width_adaptive, wanted or 0, bool(wanted), is_cosine
        )
        kept, kind, reverse = (torch.empty(n_pairs, dtype=torch.int64) for _ in range(3))
        first = torch.empty(n_atoms + 1, dtype=torch.int64)
        radius, of_radius = vectors.new_empty(n_atoms), vectors.new_empty(n_pairs)
        inputs, (factor, of_distance, of_reach) = vectors.new_empty(n_pairs, 4), vectors.new_empty(3, n_pairs)
        out = (radius, of_radius, kept, first, kind, reverse, inputs, factor, of_distance, of_reach)
        find = getattr(_library(), f"edges{SUFFIX[vectors.dtype]}")
        n = find(ctypes.byref(pairs), ctypes.byref(cut), ctypes.c_void_p(vectors.data_ptr()), _addresses(out))
        ctx.kept = (pairs, cut, indices, n, (vectors, of_radius, kept, of_distance, of_reach))
        answer = (kept[:n], first, kind[:n], reverse[:n], inputs[:n], factor[:n])
        ctx.mark_non_differentiable(*answer[:4])
        return answer

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        pairs, cut, _, n, saved = ctx.kept
        vectors = saved[0]
        back = getattr(_library(), f"edges_back{SUFFIX[vectors.dtype]}")
        slope = torch.empty_like(vectors)
        data = _addresses([*saved, slopes[4].contiguous(), slopes[5].contiguous()])
        back(ctypes.byref(pairs), ctypes.byref(cut), n, data, ctypes.c_void_p(slope.data_ptr()))
        return slope, None, None, None


class _Trunk(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        factor: Tensor,
        node: Tensor,
        condition: Tensor | None,
        graph: Graph,
        weights: Weights,
    ) -> tuple[Tensor, ...]:
        inputs, factor = inputs.contiguous(), factor.contiguous()
        shape = _shape(graph, weights)
        workspace = weights.workspace.take(_library().workspace(ctypes.byref(shape)), inputs)
        features = torch.empty_like(node), inputs.new_empty((shape.n_pairs, shape.width))
        numbers = inputs.new_empty(shape.n_atoms) if weights.has_head else None
        condition = None if condition is None else condition.contiguous()
        data = [inputs, factor, node.contiguous(), condition]
        _call("forward", shape, graph, weights, workspace, data, [*features, numbers])
        ctx.kept = (inputs, factor, graph, weights, workspace)
        return features if numbers is None else (numbers,)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        if ctx.kept is None:
            raise RuntimeError(
                "the engine was asked for the same derivative twice, or for a second one; it gives one, once. "
                "Put the potential into training mode, where every derivative exists."
            )
        inputs, factor, graph, weights, workspace = ctx.kept
        ctx.kept = None
        shape = _shape(graph, weights)
        atoms, pairs, width = shape.n_atoms, shape.n_pairs, shape.width
        of_inputs, of_factor = torch.zeros_like(inputs), torch.zeros_like(factor)
        seeds, features = None, [slope.clone(memory_format=torch.contiguous_format) for slope in slopes]
        if weights.has_head:
            seeds, features = (
                slopes[0].contiguous(),
                [inputs.new_empty(atoms, shape.d_node), inputs.new_empty(pairs, width)],
            )
        out = (*features, of_inputs, of_factor, inputs.new_empty(pairs * width + atoms * 4 * width))
        _call("backward", shape, graph, weights, workspace, [inputs, factor, seeds], out)
        weights.workspace.give(workspace)
        return of_inputs, of_factor, None, None, None, None


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


def _call(
    name: str,
    shape: _Shape,
    graph: Graph,
    weights: Weights,
    workspace: Tensor,
    data: Sequence[Tensor | None],
    out: Sequence[Tensor | None],
) -> None:
    where = _Where(*(part.data_ptr() for part in graph))
    failed = getattr(_library(), name + SUFFIX[workspace.dtype])(
        ctypes.byref(shape),
        ctypes.byref(where),
        _addresses(weights.tensors),
        ctypes.c_void_p(workspace.data_ptr()),
        _addresses(data),
        _addresses(out),
    )
    assert not failed, f"the engine does not know {shape.n_heads} heads"


def _addresses(tensors: Sequence[Tensor | None]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(None if one is None else one.data_ptr() for one in tensors))
