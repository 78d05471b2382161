"""The matrix-product floor: the products that energy and forces of a PET need, and how fast this machine does them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, final

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from speed.clock import CLOCK
from tumble.neighbors import search, vectors

BISECTIONS = 50


@final
@dataclass(frozen=True)
class Product:
    """`count` times `batch` products of (rows, inner) with (inner, columns)."""

    rows: int
    inner: int
    columns: int
    batch: int = 1
    count: int = 1

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.count * self.batch * self.rows * self.inner * self.columns


def sizes(atoms: Atoms, hypers: Mapping[str, Any]) -> tuple[int, int, int]:
    """What decides the arithmetic: atoms, interacting directed pairs, and tokens of a sequence.

    The last is the root mean square over atoms, because attention costs the square.
    """
    pairs = search(atoms.positions, atoms.cell.array, atoms.pbc, hypers["cutoff"])
    distance = np.linalg.norm(vectors(pairs, atoms.positions, atoms.cell.array), axis=1)
    reach: Any = hypers["cutoff"]
    if hypers["num_neighbors_adaptive"] is not None:
        radius = adaptive_radii(pairs.center, distance, len(atoms), hypers)
        reach = (radius[pairs.center] + radius[pairs.neighbor]) / 2
    counts = np.bincount(pairs.center[distance <= reach], minlength=len(atoms))
    return len(atoms), int(counts.sum()), round(math.sqrt(np.square(counts + 1.0).mean()))


def adaptive_radii(
    center: NDArray[np.int64], distance: NDArray[np.float64], n_atoms: int, hypers: Mapping[str, Any]
) -> NDArray[np.float64]:
    """Radius at which an atom counts the wanted number of neighbours, (N,) Å, by bisection."""
    wanted, largest, width = hypers["num_neighbors_adaptive"], hypers["cutoff"], hypers["cutoff_width_adaptive"]
    low, high = np.zeros(n_atoms), np.full(n_atoms, float(largest))
    for _ in range(BISECTIONS):
        radius = (low + high) / 2
        s = np.clip((distance - radius[center] + width) / width, 1e-6, 1 - 1e-6)
        taper = 0.5 * (1 + np.tanh(1 / np.tan(np.pi * s)))
        few = np.bincount(center, taper, n_atoms) + wanted * (radius / largest) ** 3 <= wanted
        low, high = np.where(few, radius, low), np.where(few, high, radius)
    return np.clip((low + high) / 2, largest / 16, largest)


def needed(
    hypers: Mapping[str, Any], n_atoms: int, n_pairs: int, length: int, *, is_shared: bool = False
) -> list[Product]:
    """The products of one evaluation of energy and forces, in closed form.

    Embeddings are folded into the first linear map of a layer, attention is not padded, weights need no gradient. For
    the published kind of PET: feedforward featurizer, PreLN, nodes wider than edges.

    Args:
        is_shared: a map of [t_ij, t_ji] and of [t_ji, t_ij] is one of their sum and one of their difference: half.
    """
    width, node, hidden, head = (hypers[name] for name in ("d_pet", "d_node", "d_feedforward", "d_head"))
    gate = 2 if hypers["activation"] == "SwiGLU" else 1
    tokens, heads = n_atoms + n_pairs, hypers["num_heads"]
    maps: list[tuple[int, int, int]] = []
    fixed: list[tuple[int, int, int]] = []
    attention: list[Product] = []
    for layer in range(hypers["num_gnn_layers"]):
        maps += [(n_pairs, 4, width), (n_pairs, width, width)] + [(n_pairs, width, width)] * (layer > 0)
        for sublayer in range(hypers["num_attention_layers"]):
            # The first atoms do not know where they are, so nothing is differentiated through them.
            (maps if layer or sublayer else fixed).append((n_atoms, node, width))
            maps += [(tokens, width, 3 * width), (tokens, width, width)]
            maps += [(n_atoms, width, node), (n_atoms, node, 2 * gate * node), (n_atoms, 2 * node, node)]
            maps += [(n_pairs, width, gate * hidden), (n_pairs, hidden, width)]
            each = width // heads
            # Logits and the slopes of the weights; then answers and the slopes of queries, keys and values.
            attention += [Product(length, each, length, n_atoms * heads, 2)]
            attention += [Product(length, length, each, n_atoms * heads, 4)]
        maps += [(n_pairs, width if is_shared else 2 * width, 2 * width), (n_pairs, 2 * width, width)]
    for rows, size in ((n_atoms, node), (n_pairs, width)):
        maps += [(rows, size, head), (rows, head, head), (rows, head, 1)]
    forward = [Product(*shape) for shape in maps + fixed]
    backward = [Product(rows, columns, inner) for rows, inner, columns in maps]
    return _merged(forward + backward + attention)


def _merged(products: list[Product]) -> list[Product]:
    counts: dict[tuple[int, ...], int] = {}
    for one in products:
        *shape, count = astuple(one)
        counts[tuple(shape)] = counts.get(tuple(shape), 0) + count
    return [Product(*shape, count=count) for shape, count in counts.items()]


def flops(products: list[Product]) -> float:
    """Of all of them."""
    return sum(one.flops for one in products)


def counted(call: Callable[[], Any]) -> float:
    """The operations in matrix products that a call really does, on the way forward and back."""
    counter = _Counter()
    with counter:
        call()
    return counter.total


class _Counter(TorchDispatchMode):
    """What `torch.utils.flop_counter` counts, without its hooks on modules, which `autograd.grad` does not allow."""

    total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


@final
class Products:
    """All products of a list, one after the other, as a stand-in for an engine that does nothing else."""

    def __init__(self, products: list[Product], device: str) -> None:
        """Each with its second factor stored by rows or by columns, whichever is faster here."""
        self.device = torch.device(device)
        self.cases = [
            (one, *min((self._case(one, flip) for flip in (False, True)), key=self._once)) for one in products
        ]
        self.parts = {"linear": 0.0, "batched": 0.0, "best_flops": 0.0}

    def step(self) -> float:
        """Seconds of all products; `parts` adds up linear maps and batched products, and keeps the best rate."""
        total = 0.0
        for one, *factors in self.cases:
            taken = self._seconds(factors, one.count)
            total += taken
            self.parts["batched" if one.batch > 1 else "linear"] += taken
            self.parts["best_flops"] = max(self.parts["best_flops"], one.flops / max(taken, 1e-9))
        return total

    def _case(self, one: Product, flip: bool) -> list[Tensor]:
        lead = (one.batch,) if one.batch > 1 else ()
        right = torch.randn(*lead, one.columns, one.inner).mT if flip else torch.randn(*lead, one.inner, one.columns)
        sides = torch.randn(*lead, one.rows, one.inner), right, torch.empty(*lead, one.rows, one.columns)
        return [side.to(self.device) for side in sides]

    def _once(self, factors: list[Tensor]) -> float:
        return min(self._seconds(factors, 1) for _ in range(3))

    def _seconds(self, factors: list[Tensor], count: int) -> float:
        left, right, out = factors
        self._wait()
        started = CLOCK()
        for _ in range(count):
            torch.matmul(left, right, out=out)
        self._wait()
        return CLOCK() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
