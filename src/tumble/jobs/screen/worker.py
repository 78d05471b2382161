"""What one worker does with one shard: load the potential once, ask, and write down each answer as it comes."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import local
from typing import Any, Final, NamedTuple

from ase import Atoms

from tumble.checkpoint import load
from tumble.checkpoint.subject import subject
from tumble.jobs.screen.records import Record, Status, append, plain
from tumble.jobs.screen.verbs import VERBS, Answer, ask, settings_of
from tumble.potential import Potential
from tumble.results import Settings

STOPPED: Final[set[str]] = set()
"""Runs of this process whose threads are to stop."""

LONGEST_REASON: Final = 2000

_held = local()


class Source(NamedTuple):
    """The potential that a worker loads, and the digest of the weights that it must find; empty: any."""

    name: str
    device: str | None
    dtype: str | None
    variant: str | None
    direct: bool
    digest: str = ""


class Entry(NamedTuple):
    """One structure of a shard."""

    name: str
    digest: str
    atoms: Atoms
    attempt: int


class Task(NamedTuple):
    """One shard, as it is sent to a worker.

    run:      name of the run that sends it.
    shard:    its number.
    path:     file of its records, which nothing else writes.
    settings: of the job, as plain JSON.
    results:  folder for the folders of results; empty: none are kept.
    """

    run: str
    shard: int
    path: str
    source: Source
    job: str
    settings: dict[str, Any] | None
    entries: tuple[Entry, ...]
    results: str


def work(task: Task, notice: Callable[[int, int], None] = lambda n, n_failed: None) -> tuple[int, int]:
    """Ask about the structures of a shard: all at once where the job takes many, else one after the other.

    Args:
        notice: called whenever answers have been written, with their number and that of failures among them.

    Returns:
        Number of answers, and of failures among them.

    Raises:
        RuntimeError: the potential here has other weights.
        Exception: whatever comes of loading the potential; of asking it, nothing but an interrupt.
    """
    potential, settings = held(task.source), settings_of(task.job, task.settings)
    n_done = n_failed = 0
    for part in [task.entries] if VERBS[task.job].is_packed else [(one,) for one in task.entries]:
        if task.run in STOPPED:
            break
        records = list(_asked(task, potential, settings, part))
        append(Path(task.path), records)
        failures = sum(record.status == "failed" for record in records)
        n_done, n_failed = n_done + len(records), n_failed + failures
        notice(len(records), failures)
    return n_done, n_failed


def held(source: Source) -> Potential:
    """The potential of a source, which each thread of each process loads once.

    Raises:
        RuntimeError: its weights are not those that are expected.
    """
    wanted = source._replace(digest="")
    if getattr(_held, "source", None) != wanted:
        name, device, dtype, variant, direct, _ = source
        _held.potential = load(name, device=device, dtype=dtype, variant=variant, direct=direct)
        _held.source, _held.digest = wanted, subject(_held.potential).get("digest", "")
    if source.digest and _held.digest != source.digest:
        raise RuntimeError(
            f"the potential {source.name!r} has weights of digest {_held.digest[:12]} where a worker has loaded it, "
            f"and {source.digest[:12]} where the screen was started. Give all of them the same file."
        )
    potential: Potential = _held.potential
    return potential


def release() -> None:
    """Forget the potential that this thread holds."""
    _held.__dict__.clear()


def _asked(task: Task, potential: Potential, settings: Settings | None, part: tuple[Entry, ...]) -> Iterator[Record]:
    """One record for each structure of a part; where the job fails on them together, they are asked about alone."""
    start = time.monotonic()
    folder = None
    if task.results:
        one = part[0]
        name = f"shard-{task.shard:06d}" if len(part) > 1 else f"{re.sub(r'[^A-Za-z0-9.+-]+', '_', one.name)[-60:]}"
        folder = Path(task.results) / (name if len(part) > 1 else f"{name}-{one.digest[:8]}")
    try:
        answers = ask(task.job, potential, [one.atoms for one in part], settings, folder)
    except Exception as error:  # any job may fail in any way on any structure: that is what a screen finds out
        if len(part) > 1:
            for entry in part:
                yield from _asked(task, potential, settings, (entry,))
            return
        yield failure(part[0], f"{type(error).__name__}: {error}", time.monotonic() - start)
        return
    seconds = (time.monotonic() - start) / len(part)
    for entry, answer in zip(part, answers, strict=True):
        yield _record(entry, answer, seconds)


def _record(entry: Entry, answer: Answer, seconds: float) -> Record:
    status: Status = "done" if answer.is_converged else "not converged"
    atoms = None if answer.atoms is None else plain(answer.atoms)
    return Record(entry.name, entry.digest, entry.attempt, status, "", seconds, answer.row, atoms)


def failure(entry: Entry, reason: str, seconds: float) -> Record:
    """The record of a structure about which there is no answer."""
    return Record(
        entry.name, entry.digest, entry.attempt, "failed", " ".join(reason.split())[:LONGEST_REASON], seconds, {}
    )
