"""screen(): a job over thousands of structures, from the manifest to the table."""

import fcntl
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, final

from ase import Atoms

from tumble.jobs.screen import manifest as manifests
from tumble.jobs.screen import table
from tumble.jobs.screen.manifest import Given, Manifest, Structure
from tumble.jobs.screen.pools import config_of
from tumble.jobs.screen.records import RECORDS, append, read, read_all, unfinished
from tumble.jobs.screen.result import ScreenResult
from tumble.jobs.screen.settings import ScreenSettings
from tumble.jobs.screen.shards import deal
from tumble.jobs.screen.spread import spread
from tumble.jobs.screen.verbs import PREDICT, settings_of, verb_of
from tumble.jobs.screen.worker import Entry, Source, Task, failure, held, release, work
from tumble.results import Progress, Settings

LOCK: Final = ".lock"


def screen(
    job: str,
    model: str | Path,
    files_or_structures: Given,
    folder: str | Path,
    settings: ScreenSettings | None = None,
    *,
    job_settings: Settings | Mapping[str, Any] | str | Path | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> ScreenResult:
    """Run a job over many structures; called again with the same arguments after whatever has stopped it, it goes on.

    Structures are dealt into shards, and a shard is what a worker is given: it is asked about in packed batches where
    the job takes many structures at once, else structure by structure. Each answer is on the disk before the next is
    asked for. What fails, or costs a worker its life, is recorded with its reason, and the rest goes on. In the end the
    folder has manifest.json, records/, table.csv and table.parquet.

    Args:
        job: predict, relax, elastic, phonons, conductivity or audit.
        model: what `tumble.load` takes, for every worker loads it for itself.
        files_or_structures: files, patterns and folders, or structures. More of them than in an earlier run are added.
        folder: for the manifest, records, and tables; made if there is none.
        settings: None: `ScreenSettings()`.
        job_settings: settings of the job, a mapping of them, or a YAML file; None: its defaults.
        tell: called with the number of structures that have a record.

    Raises:
        ValueError: no such job, wrong settings, no structure, two of one name, a folder that holds another screen, or
            a configuration of parsl that is none.
        RuntimeError: another process works on the folder, or a shard failed as a whole; what was finished is kept.
        ImportError: parsl or pyarrow is needed and not installed.
    """
    settings, folder = settings or ScreenSettings(), Path(folder)
    verb, chosen = verb_of(job), settings_of(job, job_settings)
    _check(job, model, folder, settings)
    config = config_of(settings)
    names, structures = manifests.structures_of(files_or_structures, settings.names)
    source = _source(str(model), settings, is_here=config is None or settings.pool == "threads")
    release()  # an earlier call may have loaded what the file does not hold any more
    described = manifests.model_of(str(model), held(source), settings)
    sizes = [len(one) for one in structures]
    shards = deal(sizes, settings.structures_per_shard or verb.structures, settings.atoms_per_shard)
    listed = [
        Structure(name, manifests.digest_of(one), one.get_chemical_formula(), len(one), shard)
        for name, one, shard in zip(names, structures, shards, strict=True)
    ]
    plain = None if chosen is None else chosen.model_dump(mode="json")
    manifest = manifests.of(job, described, plain, settings.keep, listed)
    with _locked(folder):
        earlier = manifests.load(folder)
        if earlier is not None:
            manifest = manifest.continued(earlier, folder)
        manifest.write(folder)
        source = source._replace(digest=described.get("digest", ""))
        run = _Run(folder, manifest, settings, source, dict(zip(names, structures, strict=True)), tell)
        run.finish(config)
        records = read_all(folder)
        result = ScreenResult.of(manifest, records, settings, str(model))
        table.write(result.rows(), folder, parquet=settings.parquet)
    release()
    return result


def _check(job: str, model: object, folder: Path, settings: ScreenSettings) -> None:
    if not isinstance(model, str | Path):
        raise ValueError(
            f"a screen loads its potential in every worker, and a {type(model).__name__} was given; a name or a file "
            "was expected. Write it with tumble.save and give the file."
        )
    if job == PREDICT and settings.keep == "folders":
        raise ValueError("predict has no result that could be kept in folders. Use keep: table, or tumble predict -o.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a folder was expected, which is made if there is none.")
    if settings.parquet:
        table.check_installed()


def _source(model: str, settings: ScreenSettings, *, is_here: bool) -> Source:
    """The potential as any process finds it; where this one only starts others, it looks at it on the CPU."""
    path = Path(model)
    name = str(path.resolve()) if path.is_file() else model
    return Source(name, settings.device if is_here else None, settings.dtype, settings.variant, settings.direct)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Within, no other process works on the folder; the lock ends with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"another process is working on {folder}. Wait until it is done, end it, or give another folder."
            ) from None
        yield


@final
@dataclass
class _Run:
    """One run of a screen: what is left to do, and how far it is."""

    folder: Path
    manifest: Manifest
    settings: ScreenSettings
    source: Source
    structures: dict[str, Atoms]
    tell: Callable[[Progress], None]
    n_kept: int = 0
    n_done: int = 0
    n_failed: int = 0

    def __post_init__(self) -> None:
        self.name, self.start = uuid.uuid4().hex[:12], monotonic()

    def finish(self, config: Any) -> None:
        """Do what is left to do; here if there is no configuration of parsl, else by its workers."""
        known = read_all(self.folder)
        todo = set(unfinished(list(self.structures), known, retry_failed=self.settings.retry_failed))
        self.n_kept = len(self.structures) - len(todo)
        self._notice(0, 0)
        entries: dict[int, list[Entry]] = {}
        for one in self.manifest.structures:
            if one.name in todo:
                attempt = known[one.name].attempt + 1 if one.name in known else 0
                entry = Entry(one.name, one.digest, self.structures[one.name], attempt)
                entries.setdefault(one.shard, []).append(entry)
        tasks = [self._task(shard, some) for shard, some in entries.items()]
        tasks.sort(key=lambda task: -sum(len(one.atoms) for one in task.entries))  # the longest do not end last
        if config is None:
            for task in tasks:
                work(task, self._notice)
        elif tasks:
            spread(tasks, config, self.folder / "parsl", self._notice, self._orphans)
            if self.settings.parsl is None:
                shutil.rmtree(self.folder / "parsl", ignore_errors=True)

    def _task(self, shard: int, entries: Sequence[Entry]) -> Task:
        path = self.folder.resolve() / RECORDS / f"{shard:06d}-{uuid.uuid4().hex[:12]}.jsonl"
        results = str(self.folder.resolve() / "results") if self.settings.keep == "folders" else ""
        source = self.source._replace(device=self.settings.device)
        job, settings = self.manifest.job, self.manifest.settings
        return Task(self.name, shard, str(path), source, job, settings, tuple(entries), results)

    def _orphans(self, task: Task, reason: str) -> list[Task]:
        """The structures that a dead worker has left, each as a task of its own; a single one has failed."""
        path = Path(task.path)
        written = {record.name: record for record in read(path)} if path.exists() else {}
        self._notice(len(written), sum(record.status == "failed" for record in written.values()))
        left = [entry for entry in task.entries if entry.name not in written]
        if len(task.entries) > 1:
            return [self._task(task.shard, [entry]) for entry in left]
        alone = self._task(task.shard, left)
        for entry in left:
            append(Path(alone.path), [failure(entry, reason, 0.0)])
            self._notice(1, 1)
        return []

    def _notice(self, n: int, n_failed: int) -> None:
        self.n_done, self.n_failed = self.n_done + n, self.n_failed + n_failed
        done, total = self.n_kept + self.n_done, len(self.structures)
        said = [f"{self.n_kept} were there" if self.n_kept else "", f"{self.n_failed} failed" if self.n_failed else ""]
        if self.n_done:
            rate = self.n_done / max(monotonic() - self.start, 1e-9)
            said = [f"{rate:.3g} structures/s, {_duration((total - done) / rate)} left", *said]
        self.tell(Progress(done, total, "; ".join(filter(None, said))))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
