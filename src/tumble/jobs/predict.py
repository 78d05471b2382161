"""Predictions for files of structures: written as they come, and continued where an earlier run was stopped."""

import hashlib
import io
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, final

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from tumble import data
from tumble.batch import Batch, Properties, split
from tumble.packs import stream
from tumble.potential import Model, Potential
from tumble.results import Cell, Progress, Table, number
from tumble.units import EV_PER_A3_TO_GPa

MARK: Final = "tumble"
"""Key of the mark in the second line of a frame: which structure and which potential the answer belongs to."""

UNKNOWN: Final = Properties()

ROWS: Final = 10
"""Answers that the table at the end shows."""

COLUMNS: Final = ("structure", "formula", "energy (eV)", "per atom (eV)", "largest force (eV/Å)", "pressure (GPa)")
DOUBTS: Final = ("± per atom (eV)", "± forces (eV/Å)")
"""Columns of a potential that knows its uncertainty; of forces the root mean square over components."""


def predict_files(
    potential: Potential,
    files: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    resume: bool = False,
    pairs_per_batch: int | None = None,
    uncertainty: bool = True,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Table:
    """Energy, forces and stress of every structure in some files, written to another file as they come.

    Few batches are in memory, however many structures there are. Frames are written whole, so an interrupted run leaves
    a file that reads well, and each carries a mark by which `resume` knows it. A potential that knows its uncertainty
    gives energy_uncertainty (eV, in the second line) and forces_uncertainty (eV/Å, one for each component) too.

    Args:
        potential: any Potential.
        files: anything that ASE reads, patterns, and folders; see `data.frames`.
        output: an extended XYZ file; None writes nothing. A file of that name is replaced once there is a first answer.
        resume: keep the frames of the output, if they are answers of this potential about these structures, and go on
            behind the last that is complete.
        pairs_per_batch: as in `tumble.predict`.
        uncertainty: False leaves uncertainties out; those of forces take longer than the answers.
        tell: called after each batch, with the number of structures; their total is not known.

    Returns:
        The first answers, with a note about all.

    Raises:
        ValueError: files that `data.frames` refuses, a structure that the potential refuses, an output that is one of
            the files or, with `resume`, holds something else.
        RuntimeError: a structure that does not fit into memory, alone in a batch; or a full disk.
    """
    target = None if output is None else Path(output)
    paths = data.expand([str(file) for file in files], folders=True)
    if target is not None:
        _check_apart(target, paths, files)
    doubting = _Doubting(potential) if uncertainty and potential.has_uncertainty else None
    marked = "" if target is None else digest(potential) + ("" if doubting is None else " and its uncertainty")
    feed = _Feed(paths, marked, target if resume else None)
    asked = potential if doubting is None else doubting
    answers = stream(asked, feed, pairs_per_batch=pairs_per_batch, tell=tell, name=lambda index: feed.newest)
    summary, out = _Summary(has_doubts=doubting is not None), _Output(target, keep=resume)
    try:
        for atoms, answer in answers:
            source, mark = feed.given.popleft()
            doubt = UNKNOWN if doubting is None else doubting.found.popleft()
            out.add(labelled(atoms, answer, mark, doubt))
            summary.add(source, atoms, answer, doubt)
    finally:
        out.close()
    return summary.table(feed.n_kept, target)


@final
class _Doubting(Potential):
    """A potential that puts aside what each of its answers may be off by.

    found: of each structure that was answered about, in their order.
    """

    def __init__(self, inner: Potential) -> None:
        super().__init__()
        self.inner, self.cutoff, self.species = inner, inner.cutoff, inner.species
        self.is_conservative, self.is_batched = inner.is_conservative, inner.is_batched
        self.found: deque[Properties] = deque()

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def forward(self, batch: Batch) -> Properties:
        answer: Properties = self.inner(batch)
        doubts = split(self.inner.uncertainties(batch, forces=self.inner.has_forces_uncertainty), batch)
        self.found.extend(doubts)  # the last step: what runs out of memory before it is asked about again
        return answer


def digest(potential: Potential) -> str:
    """Hexadecimal digits that are the same for the same weights, precision, settings and rules, whatever the file."""
    known = hashlib.blake2b(digest_size=16)
    for name, module in potential.named_modules():
        known.update(repr((name, type(module).__name__, getattr(module, "spec", None))).encode())
        known.update(module.extra_repr().encode())
        if isinstance(module, Model):
            known.update(_settings(module).encode())
    for name, tensor in potential.state_dict().items():
        known.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        known.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return known.hexdigest()


def _settings(model: Model) -> str:
    try:
        return repr(model.config())
    except NotImplementedError:  # a model that cannot be saved has its weights alone
        return ""


def mark_of(model: str, atoms: Atoms) -> str:
    """What a frame carries to say that it is the answer of this potential about this structure.

    Args:
        model: its `digest`.
        atoms: the structure as it was read.
    """
    known = hashlib.blake2b(model.encode(), digest_size=8)
    for array in (atoms.numbers.astype(np.int64), atoms.positions, atoms.cell.array, atoms.pbc):
        known.update(array.tobytes())
    known.update(repr([atoms.info.get(key) for key in ("charge", "spin_multiplicity", "spin")]).encode())
    return f"id_{known.hexdigest()}"  # letters first, or ASE would read some of them as numbers


class Frame(NamedTuple):
    """A complete frame of a file of answers.

    mark: what `mark_of` gave, or "" if there is none.
    end:  where it ends in the file, bytes.
    """

    mark: str
    end: int


def complete_frames(path: Path) -> Iterator[Frame]:
    """The frames of an extended XYZ file up to the end, or to the first one that was cut off.

    Raises:
        ValueError: what follows a frame is no frame.
    """
    end, n_frames = 0, 0
    with path.open("rb") as file:
        while (head := file.readline()).endswith(b"\n"):
            if not head.strip().isdigit():
                raise ValueError(
                    f"{path} has {head[:40]!r} after {n_frames} frames, where the number of atoms of the next was "
                    "expected; it is no file that `tumble predict` can go on with. Use another output, or --overwrite."
                )
            rest = list(islice(file, 1 + int(head)))
            if len(rest) < 1 + int(head) or not rest[-1].endswith(b"\n"):
                return
            found = re.search(rf"(?:^|\s){MARK}=\"?(\w+)", rest[0].decode(errors="replace"))
            end, n_frames = end + len(head) + sum(map(len, rest)), n_frames + 1
            yield Frame(found.group(1) if found else "", end)


def labelled(atoms: Atoms, answer: Properties, mark: str = "", doubt: Properties = UNKNOWN) -> Atoms:
    """A copy of the structure that carries its answer as ASE calculators do, its mark, and what is known of errors."""
    copy = atoms.copy()
    copy.info.pop("energy_uncertainty", None)  # of another answer
    copy.arrays.pop("forces_uncertainty", None)
    # A line break would end the second line of a frame early.
    copy.info = {key: " ".join(one.split("\n")) if isinstance(one, str) else one for key, one in copy.info.items()}
    if mark:
        copy.info[MARK] = mark
    if doubt.energy is not None:
        copy.info["energy_uncertainty"] = float(doubt.energy)
    if doubt.forces is not None:
        copy.arrays["forces_uncertainty"] = doubt.forces.double().numpy()
    known: dict[str, Any] = {}
    if answer.energy is not None:
        known["energy"] = float(answer.energy)
    if answer.forces is not None:
        known["forces"] = answer.forces.double().numpy()
    if answer.stress is not None:
        known["stress"] = full_3x3_to_voigt_6_stress(answer.stress.double().numpy())
    copy.calc = SinglePointCalculator(copy, **known)
    return copy


@final
class _Feed:
    """Structures that are still to be answered. It runs in the thread of `stream`, ahead of the answers.

    given:  source and mark of each structure that was given and not yet answered.
    newest: source of the structure read last.
    n_kept: structures that an earlier run has answered.
    """

    def __init__(self, paths: Sequence[Path], model: str, earlier: Path | None) -> None:
        self.given: deque[tuple[str, str]] = deque()
        self.newest, self.n_kept = "", 0
        self._paths, self._model = paths, model
        self._earlier = earlier if earlier is not None and earlier.exists() else None

    def __iter__(self) -> Iterator[Atoms]:
        written = iter(()) if self._earlier is None else complete_frames(self._earlier)
        end, is_new = 0, False
        for source, atoms in data.frames(self._paths):
            self.newest, mark = source, mark_of(self._model, atoms) if self._model else ""
            if not is_new and (frame := next(written, None)) is not None:
                self._check_same(frame.mark, mark)
                self.n_kept, end = self.n_kept + 1, frame.end
                continue
            if not is_new:
                self._cut(end)
                is_new = True
            self.given.append((source, mark))
            yield atoms
        if not is_new:
            self._check_all(written)
            self._cut(end)

    def _check_same(self, found: str, expected: str) -> None:
        if found != expected:
            raise ValueError(
                f"frame {self.n_kept} of {self._earlier} has the mark {found or 'of nothing'}, but {expected} was "
                f"expected for {self.newest}: structures, order, potential, precision or heads are not those of the "
                "earlier run. Give the same ones, another output, or --overwrite."
            )

    def _check_all(self, written: Iterator[Frame]) -> None:
        if (surplus := sum(1 for _ in written)) > 0:
            raise ValueError(
                f"{self._earlier} has {self.n_kept + surplus} frames, but there are only {self.n_kept} structures. "
                "Give the same files as in the earlier run, another output, or --overwrite."
            )

    def _cut(self, end: int) -> None:
        """Drop what an earlier run left behind its last complete frame."""
        if self._earlier is not None and self._earlier.stat().st_size > end:
            with self._earlier.open("r+b") as file:
                file.truncate(end)


@final
class _Output:
    """A file that is a whole number of frames after whatever happens; made at the first answer."""

    def __init__(self, path: Path | None, *, keep: bool) -> None:
        self._path, self._keep = path, keep
        self._file: BinaryIO | None = None

    def add(self, atoms: Atoms) -> None:
        if self._path is None:
            return
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer, so that a frame is in the file as soon as it is written, and as a whole.
            self._file = open(self._path, "ab" if self._keep else "wb", buffering=0)  # noqa: SIM115
        text = io.StringIO()
        ase.io.write(text, atoms, format="extxyz")
        frame, start = text.getvalue().encode(), self._file.seek(0, io.SEEK_END)
        n_bytes = 0
        try:
            n_bytes = self._file.write(frame)
        finally:
            if n_bytes != len(frame):
                self._file.truncate(start)
        if n_bytes != len(frame):
            raise RuntimeError(
                f"{n_bytes} of the {len(frame)} bytes of a frame fitted into {self._path}; all of them were expected. "
                "Make room on the disk, then go on with --resume."
            )

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


@final
class _Summary:
    """The first answers, and a few numbers of all."""

    def __init__(self, *, has_doubts: bool) -> None:
        self._rows: list[tuple[Cell, ...]] = []
        self._columns = COLUMNS + DOUBTS * has_doubts
        self._least_sure: tuple[float, str] = (-1.0, "")
        self._start = time.monotonic()
        self._n = self._n_atoms = 0
        self._worst: tuple[float, str] = (-1.0, "")

    def add(self, source: str, atoms: Atoms, answer: Properties, doubt: Properties) -> None:
        name = Path(source).name
        force = None if answer.forces is None else float(answer.forces.norm(dim=1).max())
        self._n, self._n_atoms = self._n + 1, self._n_atoms + len(atoms)
        self._worst = max(self._worst, (-1.0 if force is None else force, name))
        doubts = (
            None if doubt.energy is None else float(doubt.energy) / len(atoms),
            None if doubt.forces is None else float(doubt.forces.square().mean().sqrt()),
        )
        self._least_sure = max(self._least_sure, (-1.0 if doubts[0] is None else doubts[0], name))
        if len(self._rows) == ROWS:
            return
        energy = float("nan") if answer.energy is None else float(answer.energy)
        pressure = None if answer.stress is None else -float(answer.stress.trace()) / 3 * EV_PER_A3_TO_GPa
        per_atom = f"{energy / len(atoms):.6f}"
        row = (name, atoms.get_chemical_formula(), f"{energy:.6f}", per_atom, force, pressure, *doubts)
        self._rows.append(row[: len(self._columns)])

    def table(self, n_kept: int, output: Path | None) -> Table:
        seconds = time.monotonic() - self._start
        notes = [f"{self._n} structures with {self._n_atoms} atoms in {seconds:.1f} s"]
        if self._n > len(self._rows):
            notes.append(f"the first {len(self._rows)} are shown")
            if self._worst[0] >= 0:
                notes.append(f"the largest force of all, {number(self._worst[0])} eV/Å, is in {self._worst[1]}")
            if self._least_sure[0] >= 0:
                notes.append(
                    f"the least certain of all, ± {number(self._least_sure[0])} eV, is in {self._least_sure[1]}"
                )
        if n_kept:
            notes.append(f"{n_kept} more were in {output} already")
        return Table("predictions", self._columns, self._rows, "; ".join(notes))


def _check_apart(output: Path, paths: Sequence[Path], files: Sequence[str | Path]) -> None:
    """Refuse an output that is read, or would be at the next start."""
    target = output.resolve()
    folders = [Path(file).resolve() for file in files if Path(file).is_dir()]
    if target in [path.resolve() for path in paths] or target.parent in folders:
        raise ValueError(
            f"the output {output} is one of the {len(paths)} files to read, or lies in a folder that is read; "
            "it must be apart from them. Give a name elsewhere."
        )
