"""The best potential of a training, judged on structures that were kept apart: predictions beside labels."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tumble.batch import Properties, collate
from tumble.jobs.train.probe import Residuals
from tumble.jobs.train.sources import Source
from tumble.packs import predict
from tumble.potential import Potential
from tumble.results import Cell, Curve, Series, Table, number
from tumble.units import MEV

Floats = NDArray[np.float64]

MOST: Final = 1000
"""Structures of a validation set that are judged one by one: of a larger set as many, evenly spaced."""

POINTS: Final = 10_000
"""Points of a parity plot."""

FEWEST: Final = 20
"""Errors of which quantiles and histograms say something."""

TOGETHER: Final = 2000
"""Points of all sets that still can be told apart in one parity plot."""

WORST: Final = 10
"""Structures that are listed."""

QUANTILES: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Bounds of the bins of atoms by the norm of the force on them."""

UNITS: Final = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³"}
TITLES: Final = {"energy": "energy", "forces": "force component", "stress": "stress component"}


class Judged(NamedTuple):
    """Labels and predictions of S structures with N atoms in all; NaN where one of them is not known.

    name:      of the set, empty for the only one.
    n_all:     structures of the validation set, of which these are all or some.
    atoms:     S structures.
    sources:   S names "file:frame".
    groups:    S names, which may be empty.
    label:     energy (S,) eV per atom, forces (N, 3) eV/Å, stress (S, 3, 3) eV/Å³.
    predicted: the same.
    numbers:   (N,) atomic numbers.
    structure: (N,) which of the S each atom belongs to.
    members:   (S,) positions in the validation set.
    cutoff:    Å, of the potential.
    """

    name: str
    n_all: int
    atoms: list[Atoms]
    sources: list[str]
    groups: list[str]
    label: dict[str, Floats]
    predicted: dict[str, Floats]
    numbers: NDArray[np.int64]
    structure: NDArray[np.int64]
    members: NDArray[np.int64]
    cutoff: float

    @property
    def residuals(self) -> Residuals:
        """Predictions minus labels."""
        energy, forces, stress = (self.predicted[name] - self.label[name] for name in UNITS)
        return Residuals(energy, forces, stress, self.numbers, self.structure, self.members)

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What is kept: labels and predictions of each kind that has any label, and whose they are."""
        prefix = f"{self.name}_" if self.name else ""
        found: dict[str, NDArray[np.generic]] = {
            f"{prefix}{kind}_{what}": values[kind]
            for kind in UNITS
            if not np.isnan(self.predicted[kind] - self.label[kind]).all()
            for what, values in (("label", self.label), ("predicted", self.predicted))
        }
        return found | {f"{prefix}{what}": getattr(self, what) for what in ("numbers", "structure", "members")}


def judge(potential: Potential, source: Source, name: str) -> Judged:
    """Let a potential predict the validation set, or `MOST` structures of it."""
    valid = source.valid
    members = np.unique(np.linspace(0, len(valid) - 1, min(len(valid), MOST)).round().astype(np.int64))
    few = valid.select(members.tolist())
    atoms, labels = list(few.atoms), list(few.labels)
    answers = predict(potential, atoms)
    return Judged(
        name,
        len(valid),
        atoms,
        list(few.sources),
        list(few.groups),
        _columns(atoms, labels),
        _columns(atoms, answers),
        np.concatenate([one.numbers for one in atoms]).astype(np.int64),
        np.repeat(np.arange(len(atoms)), [len(one) for one in atoms]),
        members,
        potential.cutoff,
    )


def _columns(atoms: Sequence[Atoms], known: Sequence[Properties]) -> dict[str, Floats]:
    """Energies per atom, forces and stresses, NaN where there is none."""
    rows: dict[str, list[Floats]] = {"energy": [], "forces": [], "stress": []}
    for one, said in zip(atoms, known, strict=True):
        shapes = {"energy": (), "forces": (len(one), 3), "stress": (3, 3)}
        for name, shape in shapes.items():
            value = getattr(said, name)
            rows[name].append(np.full(shape, np.nan) if value is None else value.double().numpy().reshape(shape))
    sizes = [len(one) for one in atoms]
    return {
        "energy": np.array(rows["energy"]) / sizes,
        "forces": np.concatenate(rows["forces"]),
        "stress": np.stack(rows["stress"]),
    }


# ------------------------------------------------------------------------------------------------------------ figures


def parities(judged: Sequence[Judged]) -> Iterator[Curve]:
    """Predictions against labels, of every kind that has labels; together, or of each set where there are many."""
    for kind in UNITS:
        found = [(one.name, len(pairs), _few(pairs)) for one in judged if len(pairs := _pairs(one, kind))]
        together = sum(n for _, n, _ in found) <= TOGETHER
        for some in [found] if together else [[one] for one in found]:
            if some:
                yield _parity(kind, some, "" if together else some[0][0])


def _parity(kind: str, found: Sequence[tuple[str, int, Floats]], name: str) -> Curve:
    """From names of sets, counts of all their points, and some of these points."""
    there_are, shown = sum(n for _, n, _ in found), sum(len(pairs) for _, _, pairs in found)
    label = f"{TITLES[kind]}, {UNITS[kind]}"
    return Curve(
        f"Parity: {kind}" + (f", {name}" if name else ""),
        f"reference {label}",
        f"predicted {label}",
        tuple(Series(one or "validation set", *pairs.T) for one, _, pairs in found),
        kind="parity",
        note=f"{number(shown)} of {number(there_are)} points, evenly chosen" if shown < there_are else "",
    )


def _pairs(one: Judged, kind: str) -> Floats:
    """(n, 2) labels and predictions where both are known."""
    pairs = np.stack([one.label[kind].ravel(), one.predicted[kind].ravel()], axis=1)
    return pairs[~np.isnan(pairs).any(axis=1)]


def _few(pairs: Floats) -> Floats:
    return pairs[np.linspace(0, len(pairs) - 1, min(len(pairs), POINTS)).astype(int)]


def histograms(judged: Sequence[Judged]) -> Iterator[Curve]:
    """How errors are distributed, of every kind that has labels."""
    for kind, unit in UNITS.items():
        errors = [(one.name or "validation set", getattr(one.residuals, kind)) for one in judged]
        known = {name: MEV * error[~np.isnan(error)] for name, error in errors if not np.isnan(error).all()}
        if not known or (fewest := min(map(len, known.values()))) < FEWEST:
            continue
        many = fewest >= 1000
        reach = max(float(np.quantile(np.abs(error), 0.995 if many else 1.0)) for error in known.values()) or 1.0
        edges = np.linspace(-reach, reach, 42 if many else 12)
        beyond = sum(int((np.abs(error) > reach).sum()) for error in known.values())
        yield Curve(
            f"Errors: {kind}",
            f"predicted − reference {TITLES[kind]}, m{unit}",
            "count",
            tuple(Series(name, edges, np.histogram(error, edges)[0]) for name, error in known.items()),
            kind="histogram",
            log_y=many,
            note=f"{beyond} of {sum(map(len, known.values()))} errors are larger than the axis" if beyond else "",
        )


def error_by_force(judged: Sequence[Judged]) -> tuple[Curve | Table, ...]:
    """Norm of the force error against the norm of the labelled force: quantiles, and how many atoms they are of."""
    series, rows = [], []
    for one in judged:
        bins = _bins(one)
        if not len(bins):
            continue
        prefix = f"{one.name}: " if one.name else ""
        middle, median, most = bins[:, 3], bins[:, 4], bins[:, 6]
        series.append(Series(f"{prefix}median", middle, median))
        if len(judged) == 1:
            series += [Series("mean", middle, bins[:, 5]), Series("90 % are below", middle, most)]
        rows += [(one.name, low, high, int(n), *found) for low, high, n, _, *found in bins.tolist()]
    if not series:
        return ()
    curve = Curve(
        "Force error against force",
        "norm of the reference force, eV/Å",
        "norm of the error, meV/Å",
        series,
        log_x=True,
        log_y=True,
        note=f"{number(sum(int(row[3]) for row in rows))} atoms; the bins, and atoms in each, are in the table",
    )
    columns = ("set", "from (eV/Å)", "to (eV/Å)", "atoms", "median (meV/Å)", "mean (meV/Å)", "90 % below (meV/Å)")
    first = 0 if len(judged) > 1 else 1
    return curve, Table("Norm of the force error, by norm of the force", columns[first:], [row[first:] for row in rows])


def _bins(one: Judged) -> Floats:
    """(B, 7): bounds eV/Å, atoms, mean norm of the force eV/Å, median, mean and 0.9 quantile of the error meV/Å."""
    size = np.linalg.norm(one.label["forces"], axis=1)
    error = MEV * np.linalg.norm(one.residuals.forces, axis=1)
    there = ~np.isnan(size + error)
    size, error = size[there], error[there]
    if len(size) < FEWEST:
        return np.zeros((0, 7))
    edges = np.unique(np.quantile(size, QUANTILES))
    place = np.clip(np.searchsorted(edges, size, side="right") - 1, 0, max(len(edges) - 2, 0))
    rows = []
    for k in np.unique(place):
        here, off = size[place == k], error[place == k]
        middle = [here.min(), here.max(), len(here), here.mean()]
        rows.append([*middle, np.median(off), off.mean(), np.quantile(off, 0.9)])
    return np.array(rows)


# ------------------------------------------------------------------------------------------------------------- tables


def by_element(judged: Sequence[Judged]) -> tuple[Table, ...]:
    """Force errors on the atoms of each element."""
    rows: list[tuple[Cell, ...]] = []
    for one in judged:
        forces, errors = one.label["forces"], one.residuals.forces
        for z in np.unique(one.numbers):
            here = (one.numbers == z) & ~np.isnan(errors).any(axis=1)
            if here.any():
                rms, found = MEV * _rms(forces[here]), MEV * errors[here]
                mae, rmse = float(np.abs(found).mean()), _rms(found)
                share = 100 * rmse / rms if rms else None
                rows.append((one.name, chemical_symbols[z], int(here.sum()), mae, rmse, rms, share))
    columns = ("set", "element", "atoms", "MAE (meV/Å)", "RMSE (meV/Å)", "rms force (meV/Å)", "RMSE / rms force (%)")
    first = 0 if len(judged) > 1 else 1
    return (Table("Force errors by element", columns[first:], [row[first:] for row in rows]),) if rows else ()


def by_group(judged: Sequence[Judged]) -> tuple[Table, ...]:
    """Errors of the structures of each config_type, where any has one."""
    rows: list[tuple[Cell, ...]] = []
    for one in judged:
        names, residuals = np.array([name or "other" for name in one.groups]), one.residuals
        if not any(one.groups):
            continue
        for name in np.unique(names):
            energy, forces = residuals.energy[names == name], residuals.forces[(names == name)[one.structure]]
            found = [_mae(energy), _mae(forces), _mae(residuals.stress[names == name])]
            rows.append((one.name, str(name), len(energy), len(forces), *found))
    columns = (
        "set",
        "config_type",
        "structures",
        "atoms",
        "energy MAE (meV/atom)",
        "force MAE (meV/Å)",
        "stress MAE (meV/Å³)",
    )
    first = 0 if len(judged) > 1 else 1
    return (Table("Errors by config_type", columns[first:], [row[first:] for row in rows]),) if rows else ()


class Case(NamedTuple):
    """One structure and how badly it was predicted.

    one:     of these, the structure `s`.
    energy:  error, meV per atom, None if not known.
    forces:  root mean square error, meV/Å, None if not known.
    by_atom: (n,) mean square errors of the forces, (eV/Å)², NaN where not known.
    """

    one: Judged
    s: int
    energy: float | None
    forces: float | None
    by_atom: Floats

    @property
    def badness(self) -> tuple[float, float]:
        """By which cases are ranked."""
        return self.forces or 0.0, abs(self.energy or 0.0)


def worst(judged: Sequence[Judged]) -> tuple[tuple[Table, ...], list[Atoms]]:
    """The structures with the largest force errors (energy errors, where no forces are known), and what they are."""
    ranked = sorted((case for one in judged for case in _cases(one)), key=lambda case: case.badness, reverse=True)
    chosen = [case for case in ranked[:WORST] if any(case.badness)]
    if not chosen:
        return (), []
    columns = (
        "config_type",
        "source",
        "formula",
        "energy error (meV/atom)",
        "force RMSE (meV/Å)",
        "worst atom, from 0",
        "largest force (eV/Å)",
        "smallest distance (Å)",
    )
    rows = [_row(case) for case in chosen]
    note = "largest force errors first; forces are the labelled ones, distances end at the cutoff"
    if any(one.n_all > len(one.atoms) for one in judged):
        note += "; " + " and ".join(f"{len(one.atoms)} of {one.n_all} structures were looked at" for one in judged)
    first = 0 if any(row[0] for row in rows) else 1
    table = Table(f"The {len(rows)} worst structures", columns[first:], [row[first:] for row in rows], note)
    return (table,), [_bare(case) for case in chosen]


def _cases(one: Judged) -> Iterator[Case]:
    ends = np.cumsum([len(atoms) for atoms in one.atoms])[:-1]
    by_atom = np.split(np.square(one.residuals.forces).mean(axis=1), ends)
    for s, (error, squares) in enumerate(zip(one.residuals.energy, by_atom, strict=True)):
        known = squares[~np.isnan(squares)]
        forces = MEV * float(np.sqrt(known.mean())) if len(known) else None
        yield Case(one, s, None if np.isnan(error) else MEV * float(error), forces, squares)


def _row(case: Case) -> tuple[Cell, ...]:
    one, atoms = case.one, case.one.atoms[case.s]
    symbol, largest = None, None
    if case.forces is not None:
        atom = int(np.nanargmax(case.by_atom))
        symbol = f"{chemical_symbols[atoms.numbers[atom]]} {atom}"
        largest = float(np.nanmax(np.linalg.norm(one.label["forces"][one.structure == case.s], axis=1)))
    about = (one.groups[case.s] or None, _shortest(one.sources[case.s]), atoms.get_chemical_formula())
    return (*about, case.energy, case.forces, symbol, largest, closest(atoms, one.cutoff))


def _bare(case: Case) -> Atoms:
    atoms = case.one.atoms[case.s]
    info = {"source": case.one.sources[case.s]}
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)


def closest(atoms: Atoms, cutoff: float) -> float | None:
    """Å between the two nearest atoms, images included; None if none are within the cutoff."""
    lengths = collate([atoms], cutoff).vectors.norm(dim=1)
    return float(lengths.min()) if len(lengths) else None


def _shortest(source: str) -> str:
    """The file with the last folder that it is in, and the frame."""
    return "/".join(source.split("/")[-2:])


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.square(values).mean()))


def _mae(error: Floats) -> float | None:
    known = error[~np.isnan(error)]
    return MEV * float(np.abs(known).mean()) if len(known) else None
