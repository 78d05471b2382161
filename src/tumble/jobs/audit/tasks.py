"""Tasks: what one does with a potential, by a short key, and what must be measured to judge it."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final, NamedTuple


class Task(NamedTuple):
    """Something that one does with a potential.

    key:   what `--for` and `--require` call it.
    name:  what the card calls it.
    needs: names of measures, see `MEASURES`.
    """

    key: str
    name: str
    needs: frozenset[str]


MEASURES: Final = {
    "orbit": "answers in every orientation: spread, spectrum, remedies",
    "dynamics": "force gap, antisymmetric part of the Jacobian, work around loops, smoothness at the cutoff",
    "rest": "forbidden forces and stress of a crystal, and where they would take it",
    "curvature": "force constants: their forbidden part, and frequencies over orientations",
}
"""What can be measured of a structure; contracts and the precision floor are always looked at."""

TASKS: Final = (
    Task("molecule", "orientation of molecules", frozenset({"orbit"})),
    Task("energies", "energies", frozenset({"orbit"})),
    Task("nvt", "dynamics with a thermostat", frozenset({"orbit"})),
    Task("nve", "dynamics at constant energy", frozenset({"dynamics"})),
    Task("relax", "relaxation of atoms", frozenset({"orbit", "rest"})),
    Task("cell", "relaxation of the cell", frozenset({"orbit", "rest"})),
    Task("elastic", "elasticity", frozenset({"rest"})),
    Task("phonons", "phonons", frozenset({"curvature", "orbit"})),
    Task("conductivity", "thermal conductivity", frozenset({"curvature", "orbit"})),
)

KEYS: Final = tuple(task.key for task in TASKS)


def chosen(keys: Sequence[str]) -> tuple[Task, ...]:
    """The tasks of these keys, in the order of `TASKS`; all of them for none."""
    return tuple(task for task in TASKS if not keys or task.key in keys)


def needed(keys: Sequence[str]) -> frozenset[str]:
    """The measures that these tasks need; all of them for none."""
    return frozenset().union(*(task.needs for task in chosen(keys)))


def parse(keys: Sequence[str]) -> tuple[str, ...]:
    """Keys as a user writes them, also several in one word with commas between, in the order of `TASKS`.

    Raises:
        ValueError: a key that is none, with the nearest that is one.
    """
    words = [word.strip() for entry in keys for word in entry.split(",") if word.strip()]
    for word in words:
        if word not in KEYS:
            near = get_close_matches(word.lower(), KEYS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is no task {word!r}; there are {', '.join(KEYS)}.{hint}")
    return tuple(key for key in KEYS if key in words)
