"""Means of many rules about many structures, in a folder that a killed run leaves complete and a next one continues."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from ase import Atoms

from study2024.command import same_question
from study2024.s1.nodes import Nodes
from tumble.orbit import Orbit
from tumble.potential import Potential, collate_for

PAIRS_PER_CALL: Final = 5000
"""Beyond a few thousand pairs a batch leaves the processor's cache, and a turned copy takes longer than alone."""


@final
@dataclass(frozen=True)
class Piece:
    """Structures of a set that are asked together, and the group of rules they are asked with."""

    set: str
    tier: str
    indices: tuple[int, ...]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.set}-{self.tier}-{self.indices[0]:04}.npz"


@final
@dataclass(frozen=True, eq=False)
class Answers:
    """What rules answer about S structures of n atoms.

    indices:  (S,) which structures of their set, ascending.
    energy:   spec → (S,) eV.
    forces:   spec → (S, n, 3) eV/Å.
    """

    indices: np.ndarray
    energy: dict[str, np.ndarray]
    forces: dict[str, np.ndarray]

    def __len__(self) -> int:
        """S."""
        return len(self.indices)

    def only(self, indices: Iterable[int]) -> "Answers":
        """Of those of the structures that are among the indices."""
        kept = np.isin(self.indices, list(indices))
        energy = {spec: values[kept] for spec, values in self.energy.items()}
        forces = {spec: values[kept] for spec, values in self.forces.items()}
        return Answers(self.indices[kept], energy, forces)

    def __or__(self, other: "Answers") -> "Answers":
        """Both groups of rules, for the structures that have both."""
        mine, theirs = self.only(other.indices), other.only(self.indices)
        return Answers(mine.indices, mine.energy | theirs.energy, mine.forces | theirs.forces)


@final
@dataclass(frozen=True)
class Error:
    """How far one rule is from another, over structures and force components.

    All in meV and meV/Å; rms is the root of the mean of squares. (The study's post-processing prints the root of their
    sum under this name; that is √n times larger and not used here.)
    """

    energy_mae: float
    energy_rms: float
    energy_max: float
    energy_standard_error: float
    forces_mae: float
    forces_rms: float
    forces_standard_error: float
    n_structures: int

    @classmethod
    def of(cls, answers: Answers, spec: str, reference: str) -> "Error":
        """Of a rule against a reference.

        The standard errors are those of the two mean absolute errors, from the scatter between structures.
        """
        energy = 1000 * (answers.energy[spec] - answers.energy[reference])
        forces = 1000 * (answers.forces[spec] - answers.forces[reference])
        n = len(energy)
        return cls(
            energy_mae=float(np.abs(energy).mean()),
            energy_rms=float(np.sqrt(np.square(energy).mean())),
            energy_max=float(np.abs(energy).max()),
            energy_standard_error=_standard_error(np.abs(energy)),
            forces_mae=float(np.abs(forces).mean()),
            forces_rms=float(np.sqrt(np.square(forces).mean())),
            forces_standard_error=_standard_error(np.abs(forces).mean(axis=(1, 2))),
            n_structures=n,
        )


def ask(potential: Potential, structures: Sequence[Atoms], nodes: Nodes) -> dict[str, np.ndarray]:
    """Every node once.

    Returns:
        energy (K, S) eV and forces (K, S, n, 3) eV/Å, means of the rules; every_energy (U, S) eV of the single
        nodes.
    """
    batch = collate_for(potential, list(structures))
    orbit = Orbit.of(potential, batch, nodes.rotations(), chunk=max(1, PAIRS_PER_CALL // max(batch.n_pairs, 1)))
    energy, forces = orbit.properties.energy.cpu(), orbit.properties.forces.cpu()
    means = nodes.means(forces).reshape(len(nodes.specs), len(structures), -1, 3)
    return {"energy": nodes.means(energy).numpy(), "forces": means.numpy(), "every_energy": energy.numpy()}


@final
class Store:
    """A folder with one file a piece; a file is there complete or not at all."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Start or continue.

        Raises:
            ValueError: the folder holds answers to another question.
        """
        same_question(folder, settings)
        self.folder = folder

    def has(self, piece: Piece) -> bool:
        """Whether the piece is there, with these structures or more."""
        path = self.folder / piece.name
        if not path.exists():
            return False
        with np.load(path) as found:
            return set(piece.indices) <= set(found["indices"].tolist())

    def put(self, piece: Piece, specs: Sequence[str], arrays: dict[str, np.ndarray]) -> None:
        """Keep what was answered."""
        path = self.folder / piece.name
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, indices=np.array(piece.indices), specs=np.array(specs), **arrays)
        partial.replace(path)

    def answers(self, name: str, tier: str) -> Answers | None:
        """Everything there is about one set and one group of rules; None if there is nothing."""
        pieces = list(self._pieces(f"{name}-{tier}-*.npz"))
        if not pieces:
            return None
        indices = np.concatenate([piece["indices"] for piece in pieces])
        order = np.argsort(indices)
        energy = np.concatenate([piece["energy"] for piece in pieces], axis=1)[:, order]
        forces = np.concatenate([piece["forces"] for piece in pieces], axis=1)[:, order]
        specs = [str(spec) for spec in pieces[0]["specs"]]
        return Answers(indices[order], dict(zip(specs, energy, strict=True)), dict(zip(specs, forces, strict=True)))

    def _pieces(self, pattern: str) -> Iterator[dict[str, np.ndarray]]:
        for path in sorted(self.folder.glob(pattern)):
            with np.load(path) as found:
                yield dict(found)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
