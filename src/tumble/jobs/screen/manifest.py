"""The manifest of a screen: which job of which potential over which structures, by digests of their contents."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from ase import Atoms
from ase.io.jsonio import encode

from tumble import data
from tumble.checkpoint import read_header, resolve
from tumble.checkpoint.subject import subject
from tumble.data import Dataset
from tumble.jobs.screen.records import RECORDS, replace
from tumble.jobs.screen.settings import ScreenSettings
from tumble.potential import Potential

MANIFEST: Final = "manifest.json"
FORMAT: Final = "tumble screen 1"

KEYS: Final = ("name", "material_id")
"""Of the info of a structure, in the order in which they are looked for."""

Given: TypeAlias = str | Path | Atoms | Dataset | Sequence[str | Path] | Sequence[Atoms]


class Structure(NamedTuple):
    """One structure of the manifest."""

    name: str
    digest: str
    formula: str
    n_atoms: int
    shard: int


@dataclass(frozen=True)
class Manifest:
    """What a folder is a screen of.

    model:    what the potential is: name, parts, precision, digests of its weights and of its recipe or file.
    settings: of the job, as plain JSON; None for predict.
    keep:     what is kept of each result.
    """

    job: str
    model: dict[str, str]
    settings: dict[str, Any] | None
    keep: str
    structures: tuple[Structure, ...]

    def write(self, folder: Path) -> None:
        """Put it into the folder; what was there is replaced as a whole."""
        head = {"format": FORMAT, "job": self.job, "model": self.model, "settings": self.settings, "keep": self.keep}
        lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
        listed = ",\n".join(json.dumps(one, ensure_ascii=False) for one in self.structures)
        replace(folder / MANIFEST, ("{\n" + ",\n".join(lines) + f',\n"structures": [\n{listed}\n]\n}}\n').encode())

    def continued(self, earlier: "Manifest", folder: Path) -> "Manifest":
        """This manifest behind an earlier one: its structures first, in their shards, then those that are new.

        Raises:
            ValueError: the earlier one is of another job, potential, settings, or of other structures.
        """
        if differences := list(self._differences(earlier)):
            raise ValueError(
                f"{folder} holds another screen: {'; '.join(differences)}. Give what was given before, or another "
                "folder."
            )
        known = {one.name for one in earlier.structures}
        n_shards = 1 + max(one.shard for one in earlier.structures)
        new = [one._replace(shard=one.shard + n_shards) for one in self.structures if one.name not in known]
        return Manifest(self.job, self.model, self.settings, self.keep, (*earlier.structures, *new))

    def _differences(self, earlier: "Manifest") -> Iterator[str]:
        if self.job != earlier.job:
            yield f"the job is {earlier.job} there and {self.job} now"
            return
        named = {"model": (earlier.model, self.model), "settings": (earlier.settings or {}, self.settings or {})}
        for title, (there, now) in named.items():
            for key in dict.fromkeys((*there, *now)):
                if there.get(key) != now.get(key) and (title, key) != ("model", "name"):
                    yield f"{key} of the {title} is {_shown(there.get(key))} there and {_shown(now.get(key))} now"
        if self.keep != earlier.keep:
            yield f"keep is {earlier.keep} there and {self.keep} now"
        given = {one.name: one.digest for one in self.structures}
        changed = [one.name for one in earlier.structures if given.get(one.name, one.digest) != one.digest]
        missing = [one.name for one in earlier.structures if one.name not in given]
        for names, what in ((changed, "have other contents now"), (missing, "are not among those given now")):
            if names:
                yield f"{len(names)} of {len(earlier.structures)} structures {what}, the first is {names[0]}"


def _shown(value: object) -> str:
    """A value in a message; of a long digest its beginning."""
    return repr(value[:12] if isinstance(value, str) and len(value) == 64 else value)


def load(folder: Path) -> Manifest | None:
    """The manifest in a folder; None if there is no screen in it.

    Raises:
        ValueError: there are records without a manifest, or a manifest that cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / RECORDS).exists():
            raise ValueError(
                f"{folder} has {RECORDS} of a screen but no {MANIFEST}: it cannot go on. Give another folder."
            )
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        structures = tuple(Structure(*one) for one in stored.pop("structures"))
        return Manifest(**stored, structures=structures)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is not the manifest of a screen ({error}): it cannot go on. Give another folder."
        ) from None


def structures_of(given: Given, names: str) -> tuple[list[str], list[Atoms]]:
    """Names and structures.

    Args:
        given: files, patterns and folders as `data.frames` takes them, or structures.
        names: as in `ScreenSettings`.

    Raises:
        ValueError: files that cannot be read, no structure, one without the key that names it, or two of one name.
    """
    sources, structures = _read(given)
    if not structures:
        raise ValueError("there is nothing to screen: 0 structures were given, at least 1 was expected.")
    called = [_name(one, source, names) for one, source in zip(structures, sources, strict=True)]
    first: dict[str, str] = {}
    for name, source in zip(called, sources, strict=True):
        if name in first:
            raise ValueError(
                f"{first[name]} and {source} are both called {name!r}; every structure needs a name of its own. Change "
                "their info, or call them by their places with names: file (--names file)."
            )
        first[name] = source
    return called, structures


def _read(given: Given) -> tuple[list[str], list[Atoms]]:
    if isinstance(given, Dataset):
        return list(given.sources), list(given.atoms)
    if isinstance(given, Atoms):
        return ["0"], [given]
    if not isinstance(given, str | Path) and (len(given) == 0 or isinstance(given[0], Atoms)):
        return [str(index) for index in range(len(given))], list(given)
    pairs = list(data.frames(given))
    return [source for source, _ in pairs], [atoms for _, atoms in pairs]


def _name(atoms: Atoms, source: str, names: str) -> str:
    if names == "file":
        return source
    found = next((atoms.info[key] for key in (KEYS if names == "auto" else (names,)) if key in atoms.info), None)
    if found is None and names != "auto":
        raise ValueError(
            f"{source} has no {names!r} in its info ({', '.join(map(str, atoms.info)) or 'which is empty'}), by which "
            "structures are to be called. Use another key, or names: auto."
        )
    return source if found is None else str(found)


def digest_of(atoms: Atoms) -> str:
    """Sixteen hexadecimal digits of what a job sees: elements, places, cell, periodicity, charge, spin, constraints."""
    known = hashlib.sha256(np.ascontiguousarray(atoms.numbers, dtype="<i8").tobytes())
    for array in (atoms.positions, atoms.cell.array):
        known.update(np.ascontiguousarray(array + 0.0, dtype="<f8").tobytes())  # no negative zero
    known.update(atoms.pbc.tobytes())
    known.update(repr([atoms.info.get(key) for key in ("charge", "spin_multiplicity", "spin")]).encode())
    if atoms.constraints:
        known.update(encode([one.todict() for one in atoms.constraints]).encode())
    return known.hexdigest()[:16]


def model_of(name: str, potential: Potential, settings: ScreenSettings) -> dict[str, str]:
    """What tells one potential from another: its weights, what they are made into, its precision and heads."""
    found = subject(potential, name) | {"variant": settings.variant or "", "direct": str(settings.direct)}
    if not name.startswith(("ase:", "torchsim:")):
        path = resolve(name)
        # The header of our own files has a date, so the recipe in it is what counts.
        is_ours = path.suffix == ".safetensors"
        content = json.dumps(read_header(path)["recipe"], sort_keys=True).encode() if is_ours else path.read_bytes()
        found["recipe"] = hashlib.sha256(content).hexdigest()
    return found


def of(
    job: str,
    model: Mapping[str, str],
    settings: Mapping[str, Any] | None,
    keep: str,
    structures: Sequence[Structure],
) -> Manifest:
    """A manifest of plain values, as it is after having been written and read."""
    plain_settings = None if settings is None else json.loads(json.dumps(settings))
    return Manifest(job, dict(model), plain_settings, keep, tuple(structures))
