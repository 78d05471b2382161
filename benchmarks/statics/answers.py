"""Force constants of DFT and of a potential for one crystal, raw and repaired, computed once and kept."""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from ase import Atoms

import tumble
from statics import constants
from statics.compare import Array, Conductivity
from statics.constants import Forces, Kept, MissingError
from statics.crystals import CRYSTALS
from tumble.potential import Potential

if TYPE_CHECKING:
    from phono3py import Phono3py

REFERENCE: Final = "DFT"
VARIANTS: Final = ("same", "raw", "±", "projected", "averaged")
"""`same`: the displacements that DFT was asked for, and what is done with them there."""


class Answer(NamedTuple):
    """What one source says about a crystal: second-order force constants, and κ where it was asked for."""

    constants: Array
    kappa: Conductivity | None


def digest(potential: Potential) -> str:
    """A name for these weights."""
    found = hashlib.sha256()
    for name, value in sorted(potential.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().numpy().tobytes())
    return found.hexdigest()[:12]


def forces_of(potential: Potential, kept: Kept, stem: str, tell: Callable[[str], None]) -> Forces:
    """Forces of structures, eV/Å; those that were asked before are remembered."""

    def forces(structures: Sequence[Atoms]) -> Array:
        asked = hashlib.sha256(b"".join(np.round(atoms.positions, 7).tobytes() for atoms in structures))

        def compute() -> list[Array]:
            tell(f"{len(structures)} supercells of {len(structures[0])} atoms")
            answers = tumble.predict(potential, list(structures))
            return [np.array([answer.forces.double().numpy() for answer in answers])]

        return kept(f"{stem}-forces-{asked.hexdigest()[:12]}", compute)[0]

    return forces


class Subject:
    """One crystal, its DFT data, and a potential that is asked about it."""

    def __init__(self, name: str, data: Path, potential: Potential, kept: Kept, average: str) -> None:
        self.name, self.crystal, self.data = name, CRYSTALS[name], data
        self.kept, self.weights, self.average = kept, digest(potential), average
        averaged = tumble.symmetrize(potential, average) if average != "none" else potential
        self._raw = forces_of(potential, self.kept, f"{name}-{self.weights}", self.tell)
        self._averaged = forces_of(averaged, self.kept, f"{name}-{self.weights}-{average}", self.tell)

    def tell(self, text: str) -> None:
        """One line of progress."""
        print(f"{self.name}: {text}", flush=True)

    @cached_property
    def engine(self) -> "Phono3py":
        """DFT's displacements and forces; nothing is done with it but reading."""
        return self.crystal.read(self.data)

    def answers(self, variants: Sequence[str], size: int, kappa: Sequence[str]) -> dict[str, Answer]:
        """DFT first, then the variants one after the other, κ of those that are named.

        What is missing is left out, and everything where DFT is.
        """
        found: dict[str, Answer] = {}
        for variant in (REFERENCE, *variants):
            has_kappa = variant in kappa or (variant == REFERENCE and bool(kappa))
            for is_kappa in (True, False) if has_kappa else (False,):
                with contextlib.suppress(MissingError):
                    found[variant] = self.answer(variant, size, is_kappa)
                    break
            if not found:
                break
        return found

    def answer(self, variant: str, size: int, is_kappa: bool) -> Answer:
        """One of them."""
        self.tell(f"{variant}, {size} atoms")
        stem = self._stem(variant)
        [second] = self.kept(f"{stem}-{size}", lambda: [self._second(variant, size)])
        if not is_kappa:
            return Answer(second, None)

        def conductivity() -> list[Array]:
            self.tell(f"{variant}, third order")
            [third] = self.kept(f"{stem}-third", lambda: [self._third(variant)])
            self.tell(f"{variant}, κ")
            found = constants.conductivity(self.engine, size, second, third)
            return [np.array(found.kappa), found.modes]

        kappa, modes = self.kept(f"{stem}-{size}-kappa", conductivity)
        return Answer(second, Conductivity(float(kappa), modes))

    def _stem(self, variant: str) -> str:
        """Of the names of files: answers of other weights or averages must not be mixed."""
        if variant == REFERENCE:
            return f"{self.name}-{variant}"
        return f"{self.name}-{self.weights}-{variant}" + (f"-{self.average}" if variant == "averaged" else "")

    def _second(self, variant: str, size: int) -> Array:
        engine = self.engine
        if variant in (REFERENCE, "same"):
            forces = self._raw if variant == "same" else None
            return constants.second_as_published(self.crystal, engine, size, forces)
        if variant == "projected":
            return constants.second_projected(engine, size, self.answer("±", size, False).constants)
        forces = self._averaged if variant == "averaged" else self._raw
        return constants.second(engine, size, forces, both=variant != "raw")

    def _third(self, variant: str) -> Array:
        engine = self.engine
        if variant in (REFERENCE, "same"):
            return constants.third_as_published(self.crystal, engine, self._raw if variant == "same" else None)
        if variant == "projected":
            [raw] = self.kept(f"{self._stem('±')}-third", lambda: [self._third("±")])
            return constants.third_projected(engine, raw)
        return constants.third(engine, self._averaged if variant == "averaged" else self._raw, both=variant == "±")
