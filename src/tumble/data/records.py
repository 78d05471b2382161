"""Records of JSON collections (MPtrj, MatPES), read one at a time from files that do not fit into memory.

MPtrj is one object of objects of records, {"mp-1": {"frame": {...}}}; MatPES one list of records, or one in each line.
A record has a pymatgen `structure` with labels beside it. Stresses are in kbar with the sign of VASP, which is opposite
to ours: positive where a crystal is compressed.

Sources: MPtrj, B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023), doi:10.1038/s42256-023-00716-3 and
doi:10.6084/m9.figshare.23713842; MatPES, A. D. Kaplan et al., arXiv:2503.04070, https://matpes.ai.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from ase.stress import voigt_6_to_full_3x3_stress

from tumble.data.extxyz import Unread
from tumble.units import EV_PER_A3_TO_GPa

CHUNK: Final = 1 << 20
"""Characters that are read at a time."""

KBAR: Final = -0.1 / EV_PER_A3_TO_GPa
"""One kbar with the sign of VASP in eV/Å³ with that of ASE."""

NAMES: Final = {
    "energy": ("energy", "uncorrected_total_energy"),
    "forces": ("forces", "force"),
    "stress": ("stress",),
}
"""What a record calls a label. Of the two energies of MPtrj the one that the forces belong to is the label."""

ISOTOPES: Final = {"D": 1, "T": 1}


def is_collection(head: str) -> bool:
    """Whether the beginning of a JSON file speaks of pymatgen structures."""
    return '"structure"' in head and '"lattice"' in head


def frames(file: IO[str], start: int = 0, *, is_lines: bool = False) -> Iterator[Unread]:
    """The records of a collection, each made a structure when it is asked for.

    Args:
        file: open for reading.
        start: records before this one are passed over.
        is_lines: every line is a record.

    Raises:
        ValueError: no JSON, or the file ends too early; in its turn.
    """
    records = map(json.loads, filter(str.strip, file)) if is_lines else _records(_Scanner(file))
    for frame, record in enumerate(records):
        if frame >= start:
            yield frame, _parser(record)


class _Scanner:
    """A place in a JSON text of which a part is in memory."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self.text, self.place = file, "", 0
        self.decoder = json.JSONDecoder()

    def next(self) -> str:
        """The next character that is no space, which stays where it is; "" at the end."""
        while True:
            while self.place < len(self.text) and self.text[self.place].isspace():
                self.place += 1
            if self.place < len(self.text):
                return self.text[self.place]
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        """Go past a character."""
        if (found := self.next()) != expected:
            raise ValueError(f"{expected!r} was expected in the JSON, and there is {found or 'the end of the file'!r}")
        self.place += 1

    def value(self) -> Any:
        """Go past a string, list or object."""
        self.next()
        while True:
            try:
                value, self.place = self.decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError:
                if not self._more():
                    raise
            else:
                return value

    def items(self, brackets: str) -> Iterator[None]:
        """Stop before every value of a list or object; who asks takes it."""
        self.take(brackets[0])
        is_first = True
        while self.next() != brackets[1]:
            if not is_first:
                self.take(",")
            if brackets == "{}":
                self.value()
                self.take(":")
            is_first = False
            yield
        self.take(brackets[1])

    def _more(self) -> bool:
        """Forget what lies behind, and read on; twice as much each time that one value does not fit."""
        read = self.file.read(max(CHUNK, len(self.text) - self.place))
        self.text, self.place = self.text[self.place :] + read, 0
        return bool(read)


def _records(scanner: _Scanner) -> Iterator[Any]:
    if scanner.next() == "[":
        yield from (scanner.value() for _ in scanner.items("[]"))
    else:
        yield from (scanner.value() for _ in scanner.items("{}") for _ in scanner.items("{}"))
    if scanner.next():
        raise ValueError("there is something behind the end of the JSON")


def _parser(record: Any) -> Callable[[], Atoms]:
    def parse() -> Atoms:
        if not isinstance(record, Mapping) or not isinstance(record.get("structure"), Mapping):
            raise ValueError("it is no record with a structure")
        return _atoms(record)

    return parse


def _atoms(record: Mapping[str, Any]) -> Atoms:
    structure = record["structure"]
    lattice = structure["lattice"]
    cell = np.array(lattice["matrix"], dtype=np.float64)
    sites = structure["sites"]
    info = {name: value for name, value in record.items() if isinstance(value, str | int | float)}
    if structure.get("charge"):
        info["charge"] = structure["charge"]
    atoms = Atoms(
        [_element(site, index) for index, site in enumerate(sites)],
        [site["xyz"] if "xyz" in site else np.array(site["abc"]) @ cell for site in sites],
        cell=cell,
        pbc=lattice.get("pbc", [True] * 3),
        info=info,
    )
    results = {label: _first(record, names) for label, names in NAMES.items()}
    if results["stress"] is not None:
        stress = KBAR * np.array(results["stress"], dtype=np.float64)
        results["stress"] = voigt_6_to_full_3x3_stress(stress) if stress.shape == (6,) else stress
    known = {label: np.array(value) for label, value in results.items() if value is not None}
    atoms.calc = SinglePointCalculator(atoms, **known)
    return atoms


def _element(site: Mapping[str, Any], index: int) -> int:
    species = site["species"]
    if len(species) != 1 or species[0].get("occu", 1) != 1:
        raise ValueError(f"site {index} is not occupied by one element alone")
    name = species[0]["element"]
    return ISOTOPES.get(name) or int(atomic_numbers[name])


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)
