"""predict(): structures in packs, as many as one call takes; searched ahead, and split where memory ends."""

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from functools import partial
from queue import SimpleQueue
from threading import Event, Semaphore, Thread
from time import monotonic
from typing import Final, NamedTuple, TypeVar

import numpy as np
import torch
from ase import Atoms

from tumble import neighbors
from tumble.batch import Batch, Properties, assemble, check, split
from tumble.potential import Potential, check_species
from tumble.results import Progress

PAIRS_ON_CPU: Final = 10_000
PAIRS_ON_GPU: Final = 200_000
"""Pairs in one call of a potential, unless the caller says otherwise: enough to keep the device busy, and not more."""

PAIRS_OF_AN_ATOM: Final = 10
"""An atom counts at least this many pairs: it costs something also where it has no neighbour."""

T = TypeVar("T")


class Pack(NamedTuple):
    """Some consecutive structures and their batch.

    atoms: S structures.
    names: what errors call each, such as "structure 3".
    batch: of them, on the CPU.
    """

    atoms: list[Atoms]
    names: list[str]
    batch: Batch


def predict(
    potential: Potential,
    atoms: Atoms | Iterable[Atoms],
    *,
    pairs_per_batch: int | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> list[Properties]:
    """Energy, forces and stress of each structure.

    Args:
        potential: any Potential.
        atoms: one structure or many, also an iterator.
        pairs_per_batch: pairs in one batch; None: what suits the device. A structure with more stands alone.
        tell: called as the work goes on, with the number of structures.

    Returns:
        One Properties per structure, CPU tensors: energy () eV, forces (n, 3) eV/Å, stress (3, 3) eV/Å³ or None.

    Raises:
        ValueError: an unknown element, or a structure that `collate` refuses.
        RuntimeError: a structure that does not fit into memory, alone in a batch.
    """
    structures = [atoms] if isinstance(atoms, Atoms) else atoms
    return [answer for _, answer in stream(potential, structures, pairs_per_batch=pairs_per_batch, tell=tell)]


def stream(
    potential: Potential,
    atoms: Iterable[Atoms],
    *,
    pairs_per_batch: int | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
    name: Callable[[int], str] = "structure {}".format,
) -> Iterator[tuple[Atoms, Properties]]:
    """As `predict`, for any number of structures: they are taken as they are needed and answered as they come.

    While one batch is computed, a thread reads and searches the next; so few batches are in memory, however many
    structures there are. A batch that does not fit into memory is split in two, and those after it too.

    Args:
        potential: any Potential.
        atoms: structures; an iterator runs in the thread.
        pairs_per_batch: as in `predict`.
        tell: called after each batch, with the number of structures; their total is 0 where it is not known.
        name: what errors call the structure of this index.

    Yields:
        Each structure (a copy if `atoms` is no list) with its Properties, in the order given. All structures before
        one that is refused are answered before its error is raised.
    """
    total, done, remark, start = len(atoms) if isinstance(atoms, Sized) else 0, 0, "", monotonic()

    def report(message: str) -> None:
        nonlocal remark
        remark = message
        speed = f"{done} structures, {done / max(monotonic() - start, 1e-9):.3g} per second"
        tell(Progress(done, total, f"{speed}; {remark}" if remark else speed))

    refuse = partial(check_species, potential.species)
    limit = usual_limit(potential) if pairs_per_batch is None else pairs_per_batch
    packs = packed(atoms, potential.cutoff, dtype=potential.dtype, limit=limit, name=name, refuse=refuse)
    # One structure leaves nothing to overlap with.
    with closing(packs if total == 1 else ahead(packs)) as coming:
        for structures, answers in answered(potential, coming, potential.device, report):
            yield from zip(structures, answers, strict=True)
            done += len(structures)
            report(remark)


class _Member(NamedTuple):
    """One structure with the candidates of its pairs."""

    atoms: Atoms
    name: str
    found: neighbors.Candidates

    @property
    def weight(self) -> int:
        return max(len(self.found.shift), PAIRS_OF_AN_ATOM * len(self.atoms))


def packed(
    atoms: Iterable[Atoms],
    cutoff: float,
    *,
    dtype: torch.dtype,
    limit: int = PAIRS_ON_CPU,
    name: Callable[[int], str] = "structure {}".format,
    refuse: Callable[[Batch, Sequence[str]], None] = lambda batch, names: None,
) -> Generator[Pack, None, None]:
    """Structures in packs, searched as they come and in their order.

    A pack holds as many pairs as the limit allows, and one structure with more stands alone. Where something is wrong
    with a structure, the packs before it are given first, so that what can be answered is.

    Args:
        atoms: any number of structures; no more of them are taken than a pack needs.
        cutoff: Å.
        dtype: of positions, cells and vectors.
        limit: pairs in one pack; an atom counts as `PAIRS_OF_AN_ATOM` at least.
        name: what errors call the structure of this index.
        refuse: raises a ValueError if a batch holds what the potential does not know.

    Raises:
        ValueError: the limit is below 1, or a structure that `collate` or `refuse` refuses.
    """
    if limit < 1:
        raise ValueError(f"{limit} pairs in a batch were asked for; at least 1 was expected. {PAIRS_ON_CPU} is usual.")

    def pack(members: Sequence[_Member]) -> Pack:
        structures, names = [one.atoms for one in members], [one.name for one in members]
        positions, cells = [one.positions for one in structures], [one.cell.array for one in structures]
        pairs, vectors = neighbors.settle([one.found for one in members], positions, cells, cutoff)
        batch = assemble(structures, pairs, vectors, dtype=dtype, names=names)
        refuse(batch, names)
        return Pack(structures, names, batch)

    failure: Exception | None = None
    members, waiting, weight = _searched(atoms, cutoff, name), list[_Member](), 0
    while True:
        try:
            member = next(members, None)
        except Exception as error:  # of a structure, or of whatever reads the structures
            member, failure = None, error
        if waiting and (member is None or weight + member.weight > limit):
            yield from _good_ones(pack, waiting)
            waiting, weight = [], 0
        if member is None:
            break
        waiting.append(member)
        weight += member.weight
    if failure is not None:
        raise failure


def _searched(atoms: Iterable[Atoms], cutoff: float, name: Callable[[int], str]) -> Iterator[_Member]:
    # An iterator may give one object again and again, changed in between; a list holds still.
    moves = not isinstance(atoms, Sequence)
    for index, one in enumerate(atoms):
        check(one, name(index))
        found = neighbors.candidates(one.positions, one.cell.array, one.pbc, cutoff)
        yield _Member(one.copy() if moves else one, name(index), found)


def _good_ones(pack: Callable[[Sequence[_Member]], Pack], members: Sequence[_Member]) -> Iterator[Pack]:
    """One pack of all; or, if one of them is refused, a pack of each one before it, and its error."""
    try:
        whole = pack(members)
    except ValueError:
        yield from (pack([one]) for one in members)
    else:
        yield whole


def ahead(items: Generator[T, None, None], depth: int = 2) -> Generator[T, None, None]:
    """The same items in the same order, made in a thread while the caller works on an earlier one.

    The thread ends with the items, with their error, which is raised here, or when the caller closes this generator.

    Args:
        items: they run in the thread from first to last, for what they open may work in one thread only.
        depth: how many there are at a time: in the caller's hands, ready, and in the making.
    """
    ready: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
    slots, stop = Semaphore(depth), Event()

    def work() -> None:
        try:
            with closing(items):
                while slots.acquire() and not stop.is_set():
                    ready.put((next(items),))
        except StopIteration:
            ready.put(None)
        except BaseException as error:  # whatever it is, the caller must learn of it
            ready.put(error)

    thread = Thread(target=work, name="tumble-ahead", daemon=True)
    thread.start()
    try:
        while (entry := ready.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
            slots.release()
    finally:
        stop.set()
        slots.release()
        thread.join()


def answered(
    ask: Callable[[Batch], Properties],
    packs: Iterable[Pack],
    device: torch.device,
    notice: Callable[[str], None] = lambda message: None,
) -> Iterator[tuple[list[Atoms], list[Properties]]]:
    """Structures and answers, pack by pack; a pack that does not fit into memory is split in two, and so on.

    Args:
        ask: what answers about a batch.
        packs: what to ask about.
        device: where the batches must be.
        notice: told when memory has run out, and what is done.

    Raises:
        RuntimeError: one structure alone does not fit.
    """
    limit = sys.maxsize
    for pack in packs:
        todo = [pack]
        while todo:
            one = todo.pop()
            if len(one.atoms) > 1 and weight(one.batch) > limit:
                todo += reversed(halves(one))
                continue
            answers = _try(ask, one.batch, device)
            if answers is not None:
                yield one.atoms, answers
                continue
            if len(one.atoms) == 1:
                raise RuntimeError(_too_large(one, device))
            limit = weight(one.batch) // 2
            notice(f"out of memory with {weight(one.batch)} pairs in a batch, going on with {limit}")
            todo.append(one)


def usual_limit(potential: Potential) -> int:
    """Pairs in one call of this potential, where it is."""
    if not potential.is_batched:
        return 1  # each answer is wanted as soon as it is known
    return PAIRS_ON_CPU if potential.device.type == "cpu" else PAIRS_ON_GPU


def weight(batch: Batch) -> int:
    """What a batch counts against the limit of a pack: its pairs, or its atoms if they are many and far apart."""
    return max(batch.n_pairs, PAIRS_OF_AN_ATOM * batch.n_atoms)


def halves(pack: Pack) -> tuple[Pack, Pack]:
    """Two packs of about the same number of pairs, at least one structure in each."""
    batch = pack.batch
    atoms = torch.bincount(batch.structure, minlength=batch.n_structures)
    pairs = torch.bincount(batch.structure[batch.center], minlength=batch.n_structures)
    heavy = torch.cumsum(torch.maximum(pairs, PAIRS_OF_AN_ATOM * atoms), 0)
    middle = int((heavy - heavy[-1] / 2).abs()[:-1].argmin()) + 1
    return tuple(  # type: ignore[return-value]
        Pack(pack.atoms[of], pack.names[of], part(batch, of))
        for of in (slice(0, middle), slice(middle, batch.n_structures))
    )


def part(batch: Batch, structures: slice) -> Batch:
    """The batch of consecutive structures of a batch, nothing searched again.

    Args:
        structures: a slice with start and stop.
    """
    ends = np.searchsorted(batch.structure.numpy(), [structures.start, structures.stop])
    atoms = slice(*ends.tolist())
    pairs = slice(*np.searchsorted(batch.center.numpy(), ends).tolist())
    starts = {"structure": structures.start, "center": atoms.start, "neighbor": atoms.start, "reverse": pairs.start}
    spans = dict.fromkeys(("positions", "numbers", "structure"), atoms)
    spans |= dict.fromkeys(("center", "neighbor", "shift", "reverse", "vectors"), pairs)
    cut = {name: field[spans.get(name, structures)] for name, field in batch._asdict().items()}
    return Batch(**{name: field - starts[name] if name in starts else field for name, field in cut.items()})


def _try(ask: Callable[[Batch], Properties], batch: Batch, device: torch.device) -> list[Properties] | None:
    """Answers about each structure, or None if there is not enough memory."""
    try:
        there = Batch(*(field.to(device) for field in batch))
        return split(ask(there), there)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, on any device."""
    words = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)


def _too_large(pack: Pack, device: torch.device) -> str:
    batch = pack.batch
    return (
        f"{pack.names[0]}, {batch.n_atoms} atoms with {batch.n_pairs} pairs in {batch.vectors.dtype}, was asked about "
        f"alone and does not fit into the memory of {device}. Use float32, a device with more memory, or a potential "
        "with a smaller cutoff or fewer weights."
    )
