"""What the answers say: errors of every rule, beside the published ones."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, final

import numpy as np
from ase import Atoms
from speed.numbers import table

from study2024.published import FORCE_STRUCTURES, LEVELS, ENERGY_meV, FORCES_meV_per_A
from study2024.published import REFERENCE as PUBLISHED_REFERENCE
from study2024.s1.answers import Answers, Error
from tumble.rotations import Rotations

REFERENCE: Final = "o3:8@generic"
"""The best mean that is still affordable: exact to degree 8, in a frame that no grid or group shares."""

GRID: Final = LEVELS[PUBLISHED_REFERENCE]
"""What the study compares with: exact to degree 4."""

FINER: Final = "o3:11@generic"
"""What the reference is compared with, on a few structures."""

HELD_OUT: Final = 10
"""`benchmarks/monomers.py` trains on all molecules but one in so many."""

TITLES: Final = {"test": "Liquid water", "monomer": "Single molecules"}


@final
@dataclass(frozen=True, eq=False)
class Found:
    """What is known about one set.

    lab:     levels and groups as a user calls them, on all structures; None if nothing is known.
    deep:    the same, the groups in a generic frame and the reference, on structures that have all of them.
    double:  levels in float64.
    finer:   as deep, with a rule beyond the reference.
    theirs:  level → (S,) eV, published energies of all structures of the set.
    """

    name: str
    n_atoms: int
    lab: Answers | None
    deep: Answers | None
    double: Answers | None
    finer: Answers | None
    theirs: dict[str, np.ndarray]

    @classmethod
    def of(cls, name: str, structures: Sequence[Atoms], answers: dict[str, Answers | None]) -> "Found":
        """Of the structures of a set, and what is known of each group of rules."""
        lab, generic = answers["lab"], answers["generic"]
        deep = _both(lab, generic)
        theirs = {level: np.array([atoms.info[f"E_pet_{level}"] for atoms in structures]) for level in LEVELS}
        return cls(name, len(structures[0]), lab, deep, answers["double"], _both(deep, answers["finer"]), theirs)

    def theirs_meV(self, level: str) -> float:
        """Published mean absolute error in energy, on the structures at hand."""
        indices = self._lab.indices
        return float(1000 * np.abs(self.theirs[level] - self.theirs[PUBLISHED_REFERENCE])[indices].mean())

    def ours(self, spec: str) -> Error:
        """Of a rule against 3i."""
        return Error.of(self._lab, spec, GRID)

    def our_forces(self, spec: str) -> float:
        """Mean absolute error against 3i in meV/Å, on those of the structures of which forces were published."""
        published = FORCE_STRUCTURES.get(self.name)
        some = self._lab.only(published) if published else self._lab
        return Error.of(some if len(some) else self._lab, spec, GRID).forces_mae

    def deeper(self, spec: str, reference: str = REFERENCE) -> Error:
        """Of a rule against the reference, or another rule, where all of them are known."""
        assert self.deep is not None
        return Error.of(self.deep, spec, reference)

    @property
    def _lab(self) -> Answers:
        assert self.lab is not None
        return self.lab


def rounding(found: Found) -> tuple[float, float] | None:
    """What float64 changes in differences between rules: energies at most in meV, forces on average in meV/Å."""
    if _both(found.lab, found.double) is None:
        return None
    single, double = found.lab.only(found.double.indices), found.double.only(found.lab.indices)
    *others, last = double.energy
    energy = [single.energy[s] - single.energy[last] - double.energy[s] + double.energy[last] for s in others]
    forces = [single.forces[s] - single.forces[last] - double.forces[s] + double.forces[last] for s in others]
    return float(1000 * np.abs(energy).max()), float(1000 * np.abs(forces).mean())


def facts(found: Found) -> dict[str, Any]:
    """Every number of the tables and more, for reading by programs."""
    assert found.lab is not None
    known: dict[str, Any] = {
        "n_structures": len(found.lab),
        "against_3i": {spec: asdict(found.ours(spec)) for spec in found.lab.energy if spec != GRID},
        "published_energy_mae_meV": {level: found.theirs_meV(level) for level in LEVELS},
        "published_forces_mae_meV_per_A": FORCES_meV_per_A[found.name],
    }
    if found.deep is not None:
        known["against_reference"] = {
            spec: asdict(found.deeper(spec)) for spec in found.deep.energy if spec != REFERENCE
        }
        known["reference"] = REFERENCE
    if found.finer is not None:
        known["reference_against_finer"] = asdict(Error.of(found.finer, REFERENCE, FINER))
        known["finer"] = FINER
    if worst := rounding(found):
        known["rounding"] = {"energy_max_meV": worst[0], "forces_mean_meV_per_A": worst[1]}
    return known


def page(head: str, sets: Sequence[Found], picture: str) -> list[str]:
    """The report in Markdown."""
    lines = [
        "# S1: what an averaging grid leaves of the rotational error",
        "",
        head,
        "",
        "Mean absolute differences from the mean over 3i, per structure and per force component. `theirs` is the PET "
        "of Langer, Pozdnyakov, Ceriotti, Mach. Learn.: Sci. Technol. 5, 04LT01 (2024): energies from its archive, of "
        "the same structures; forces from its notebook (level 0) and figure. `raw / ours` is the factor by which a "
        "rule lowers the error; standard errors in brackets are over structures. Written by "
        "`benchmarks/study2024/s1/run.py`; what it means is in the README there.",
        "",
        f"![errors against evaluations]({picture})",
    ]
    for found in sets:
        lines += ["", *section(found)]
    return [*lines, "", *bulk()]


def section(found: Found) -> list[str]:
    """Of one set."""
    assert found.lab is not None
    lines = [
        f"## {TITLES[found.name]}: {len(found.lab)} structures of {found.n_atoms} atoms",
        "",
        "Energies, meV per structure:",
        "",
        *_energies(found),
        *_partly(found),
        "",
        f"Forces, meV/Å per component{_which(found)}:",
        "",
        *_forces(found),
    ]
    if found.name == "monomer" and (unseen := _unseen(found)):
        lines += ["", unseen]
    if found.deep is not None:
        lines += ["", *deep(found)]
    if worst := rounding(found):
        lines += [
            "",
            "The same in float64 changes no energy difference of none, i or euler:2 from euler:2i by more than "
            f"{_n(worst[0])} meV, and those of forces by {_n(worst[1])} meV/Å on average.",
        ]
    return lines


def deep(found: Found) -> list[str]:
    """Against the reference, and how far 3i is from it."""
    assert found.deep is not None
    n = len(found.deep)
    own, raw = found.deeper(GRID), found.deeper("none")
    rules = sorted((spec for spec in found.deep.energy if spec != REFERENCE), key=_calls)
    rows = []
    for spec in rules:
        grid, best = found.deeper(spec, GRID), found.deeper(spec)
        rows.append(
            [
                f"`{spec}`",
                *_cost(spec),
                left(spec),
                *(None if spec == GRID else _n(value) for value in (grid.energy_mae, grid.forces_mae)),
                f"{_n(best.energy_mae)} ({_n(best.energy_standard_error, 2)})",
                f"{_n(best.forces_mae)} ({_n(best.forces_standard_error, 2)})",
                f"{_n(100 * best.forces_mae / raw.forces_mae, 2)} %",
            ]
        )
    head = [
        "rule",
        "calls",
        "exact to ℓ",
        "first ℓ left",
        "E to 3i",
        "F to 3i",
        f"E to {REFERENCE}",
        f"F to {REFERENCE}",
        "of raw F",
    ]
    lines = [
        f"3i is exact to degree 4 only. On {n} structures with a mean over `{REFERENCE}` ({_calls(REFERENCE)} calls) "
        f"it is itself {_n(own.energy_mae)} meV and {_n(own.forces_mae)} meV/Å from that mean: smaller differences "
        "from 3i say nothing about a rule. `first ℓ left` is the lowest channel of parity (-1)^ℓ that a rule does not "
        "average to zero, with the share of its power that is left in the square of the mean, over random frames.",
        "",
        *table(head, rows),
    ]
    if found.finer is not None:
        last = Error.of(found.finer, REFERENCE, FINER)
        lines += [
            "",
            f"The reference in turn is {_n(last.energy_mae)} meV and {_n(last.forces_mae)} meV/Å from `{FINER}` "
            f"({_calls(FINER)} calls; structures: {last.n_structures}).",
        ]
    return lines


def left(spec: str) -> str:
    """The lowest ℓ of which the mean of a rule keeps something, and the share of its power, in percent."""
    residuals = Rotations.parse(spec).residuals(12)[0]
    first = next(ell for ell in range(1, 13) if residuals[ell] > 1e-9)
    return f"{first} ({_n(100 * float(residuals[first]) / (2 * first + 1), 2)} %)"


def bulk() -> list[str]:
    """What cannot be repeated."""
    levels = [level for level in LEVELS if level != PUBLISHED_REFERENCE]
    rows = [[level, ENERGY_meV["bulk"][level], FORCES_meV_per_A["bulk"][level]] for level in levels]
    return [
        "## Bulk",
        "",
        "The study's third set, 101 frames of 512 molecules from its own dynamics, is not in the mirror of its "
        "archive, which has their energies only. Published:",
        "",
        *table(["level", "E, meV", "F, meV/Å"], rows),
    ]


def _energies(found: Found) -> list[str]:
    raw, their_raw = found.ours("none").energy_mae, found.theirs_meV("0")
    rows = []
    for level, spec in _rows(found):
        error = found.ours(spec)
        theirs = found.theirs_meV(level) if level else None
        ours = f"{_n(error.energy_mae)} ({_n(error.energy_standard_error, 2)})"
        rows.append([level, f"`{spec}`", *_cost(spec), ours, *_beside(error.energy_mae, raw, theirs, their_raw)])
    return table(_HEAD, rows)


def _partly(found: Found) -> list[str]:
    """The published numbers over the whole set, where only a part of it was asked."""
    n_all, n = len(found.theirs["0"]), len(found._lab)
    published = ", ".join(f"{level}: {_n(value)}" for level, value in ENERGY_meV[found.name].items())
    text = (
        f"These are {n} of {n_all} structures; over all of them, published energies are {published}. Forces are "
        "published over all of them only."
    )
    return ["", text] * (n < n_all)


def _forces(found: Found) -> list[str]:
    published = FORCES_meV_per_A[found.name]
    raw, rows = found.our_forces("none"), []
    for level, spec in _rows(found):
        ours, theirs = found.our_forces(spec), published.get(level) if level else None
        beside = _beside(ours, raw, theirs, published["0"])
        rows.append([level, f"`{spec}`", *_cost(spec), _n(ours), *beside])
    return table(_HEAD, rows)


_HEAD: Final = [
    *("level", "rule", "calls", "exact to ℓ", "ours", "theirs", "ours / theirs", "raw / ours", "raw / theirs"),
]


def _rows(found: Found) -> list[tuple[str | None, str]]:
    """Levels of the study, then the other rules, without 3i."""
    assert found.lab is not None
    names = {spec: level for level, spec in LEVELS.items()}
    return [(names.get(spec), spec) for spec in found.lab.energy if spec != GRID]


def _beside(ours: float, raw: float, theirs: float | None, their_raw: float) -> list[str | None]:
    """Published, and three quotients; None where something is not known or was zero."""
    pairs = ((ours, theirs), (raw, ours), (their_raw, theirs))
    return [theirs and _n(theirs), *(_n(above / below) if below else None for above, below in pairs)]


def _both(some: Answers | None, others: Answers | None) -> Answers | None:
    """Both groups of rules on the structures that have both; None if there are none."""
    if some is None or others is None or not len(both := some | others):
        return None
    return both


def _unseen(found: Found) -> str:
    """Whether molecules of the training set are special; empty as long as there are none of either kind."""
    assert found.lab is not None
    kept = [index for index in found.lab.indices if index % HELD_OUT == 0]
    parts = [found.lab.only(kept), found.lab.only(set(found.lab.indices) - set(kept))]
    if not all(map(len, parts)):
        return ""
    unseen, seen = (Error.of(part, "none", GRID) for part in parts)
    return (
        f"Every tenth molecule, which `benchmarks/monomers.py` keeps out of the training of `water`: "
        f"{_n(unseen.energy_mae)} ({_n(unseen.energy_standard_error, 2)}) meV and {_n(unseen.forces_mae)} "
        f"({_n(unseen.forces_standard_error, 2)}) meV/Å at level 0; the others {_n(seen.energy_mae)} and "
        f"{_n(seen.forces_mae)}."
    )


def _which(found: Found) -> str:
    some = FORCE_STRUCTURES.get(found.name)
    return f", of the structures {some[0]} to {some[-1]} as published" if some else ""


def _calls(spec: str) -> int:
    return len(Rotations.parse(spec))


def _cost(spec: str) -> list[int]:
    rule = Rotations.parse(spec)
    return [len(rule), rule.degree]


def _n(value: float, digits: int = 3) -> str:
    """So many digits, without an exponent."""
    return f"{float(f'{value:.{digits}g}'):.12f}".rstrip("0").rstrip(".")
