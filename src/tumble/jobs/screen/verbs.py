"""The jobs that can be screened: how each is called, and what of its answer stands in a row of the table."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from ase import Atoms

from tumble.batch import Properties
from tumble.packs import predict
from tumble.potential import Potential
from tumble.results import Cell, Result, Settings
from tumble.units import EV_PER_A3_TO_GPa


class Verb(NamedTuple):
    """How a job is run over many structures.

    is_packed:  whether it takes many structures at once, and so a whole shard; else one after the other.
    structures: in a shard, unless the settings say otherwise.
    moves:      whether its result holds the structures at other places than it was given them.
    """

    is_packed: bool
    structures: int
    moves: bool = False


PREDICT: Final = "predict"

VERBS: Final = {
    PREDICT: Verb(is_packed=True, structures=500),
    "relax": Verb(is_packed=True, structures=64, moves=True),
    "elastic": Verb(is_packed=False, structures=4),
    "phonons": Verb(is_packed=False, structures=4),
    "conductivity": Verb(is_packed=False, structures=1),
    "audit": Verb(is_packed=False, structures=4),
}

COLUMNS: Final = {
    "relax": {
        "is_converged": "is_converged",
        "energy": "energy (eV)",
        "volume": "volume (Å³)",
        "force": "largest force (eV/Å)",
        "floor": "noise floor (eV/Å)",
        "gain": "E(symmetric) - E(free) (eV)",
        "noise": "noise of it (eV)",
    }
}
"""Of results about many structures: arrays with one number for each, and what they are called in the table."""


class Answer(NamedTuple):
    """What a job has said about one structure.

    row:          name of a column → cell; a unit stands in the name.
    is_converged: whether the job itself says that it is done.
    atoms:        the structure where the job has left it; None if it does not move atoms.
    """

    row: dict[str, Cell]
    is_converged: bool
    atoms: Atoms | None = None


def verb_of(job: str) -> Verb:
    """How the job of this name is run.

    Raises:
        ValueError: no job of this name can be screened.
    """
    if job not in VERBS:
        near = get_close_matches(job, VERBS, 1)
        hint = f"Did you mean {near[0]!r}?" if near else "Name one of them."
        raise ValueError(f"{job!r} is no job that can be screened; there are {', '.join(VERBS)}. {hint}")
    return VERBS[job]


def settings_of(job: str, given: Settings | Mapping[str, Any] | str | Path | None) -> Settings | None:
    """The settings of a job: as they are, from a mapping, from a YAML file, or its defaults; None for predict.

    Raises:
        ValueError: settings of another job, settings that the job refuses, or any for predict.
    """
    if job == PREDICT:
        if given is not None:
            raise ValueError("predict has no settings of its own, and some were given. Leave them out.")
        return None
    kind: type[Settings] = getattr(import_module(f"tumble.jobs.{job}"), f"{job.capitalize()}Settings")
    if isinstance(given, str | Path):
        return kind.from_yaml(given)
    if isinstance(given, Settings):
        if not isinstance(given, kind):
            raise ValueError(f"{type(given).__name__} are not the settings of {job}; {kind.__name__} were expected.")
        return given
    return kind(**(given or {}))


def ask(
    job: str, potential: Potential, structures: Sequence[Atoms], settings: Settings | None, folder: Path | None
) -> list[Answer]:
    """Run the job: one answer per structure, whose result is saved into a folder if there is one.

    Args:
        structures: one, if the job takes one at a time.
    """
    if job == PREDICT:
        answers = predict(potential, list(structures))
        return [Answer(_predicted(*pair), True) for pair in zip(structures, answers, strict=True)]
    verb = VERBS[job]
    run = getattr(import_module(f"tumble.jobs.{job}"), job)
    result: Result = run(potential, list(structures) if verb.is_packed else structures[0], settings)
    if folder is not None:
        result.save(folder, overwrite=True)
    rows = rows_of(result, len(structures))
    final = list(result.atoms) if verb.moves else [None] * len(structures)
    return [
        Answer(row, bool(row.pop("is_converged", getattr(result, "is_converged", True))), atoms)
        for row, atoms in zip(rows, final, strict=True)
    ]


def rows_of(result: Result, n_structures: int) -> list[dict[str, Cell]]:
    """One row per structure: what the result itself offers as `rows()` or `row()`, else its verdicts and numbers.

    Raises:
        RuntimeError: the result has no rows of its own, and is about several structures.
    """
    if callable(rows := getattr(result, "rows", None)):
        return [dict(row) for row in rows()]
    if callable(row := getattr(result, "row", None)):
        return [dict(row())]
    if result.job in COLUMNS:
        columns = COLUMNS[result.job]
        found = [result.arrays[name].tolist() for name in columns]
        found.append([one.symmetry for one in getattr(result, "findings", ())])
        names = (*columns.values(), "symmetry")
        return [dict(zip(names, cells, strict=True)) for cells in zip(*found, strict=True)]
    if n_structures != 1:
        raise RuntimeError(f"a result of {result.job} is about {n_structures} structures, and offers no rows.")
    cells: dict[str, Cell] = {}
    for verdict in result.verdicts():
        cells[verdict.name] = verdict.answer
        cells[f"{verdict.name} ({verdict.unit})"] = verdict.value
    for name, array in result.arrays.items():
        values = np.asarray(array)
        if values.shape == () and values.dtype.kind in "fiub":
            cells[name] = values.item()
    return [cells]


def _predicted(atoms: Atoms, answer: Properties) -> dict[str, Cell]:
    energy = None if answer.energy is None else float(answer.energy)
    return {
        "energy (eV)": energy,
        "energy per atom (eV)": None if energy is None else energy / len(atoms),
        "largest force (eV/Å)": None if answer.forces is None else float(answer.forces.double().norm(dim=1).max()),
        "pressure (GPa)": None if answer.stress is None else -float(answer.stress.trace()) / 3 * EV_PER_A3_TO_GPa,
    }
