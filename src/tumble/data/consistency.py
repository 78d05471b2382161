"""Do the labels of structures belong to one another? Found before the first step, from a sample."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell

from tumble.batch import Properties
from tumble.data.dataset import Dataset
from tumble.data.mistakes import LOOSE, SHARP, USUAL, Slope, blamed, correlation, explain_energies, explain_stresses
from tumble.data.pairwise import Design, Floats, Springs
from tumble.data.views import files_of
from tumble.results import Table
from tumble.results.facts import Cell

FRAMES, ATOMS, NUMBERS = 600, 40_000, 40_000_000
"""At most so many structures, atoms, and numbers in the designs of a check."""
FILES, LOOKED_AT = 8, 20_000
"""The files with most structures are checked one by one; so many structures are looked at for absurd labels."""
PARTNERS = 150
"""Frames of one composition and cell that are compared with their neighbours."""
RIDGES = (1e-6, 1e-4)
"""Two fits: what they do not agree on, forces do not determine."""

LARGEST_FORCE, LARGEST_ENERGY, ROBUST_SIGMAS = 1000.0, 10.0, 50.0
"""eV/Å of an atom; eV per atom off what the composition says, and the same in robust standard deviations."""

BY_SIZE = (
    "energies do not grow with the number of atoms: they look like energies per atom, where totals were expected. "
    "Multiply them by the number of atoms."
)


class Sample(NamedTuple):
    """Labelled structures of one file.

    sources: S names.
    atoms:   S structures.
    labels:  S Properties.
    """

    file: str
    sources: list[str]
    atoms: list[Atoms]
    labels: list[Properties]

    @property
    def sizes(self) -> Floats:
        """(S,) atoms."""
        return np.array([float(len(one)) for one in self.atoms])

    @property
    def fractions(self) -> Floats:
        """(S, n_species) composition."""
        counts = np.array([np.bincount(one.numbers, minlength=119) for one in self.atoms])
        share: Floats = counts[:, counts.any(axis=0)] / self.sizes[:, None]
        return share


class Measured(NamedTuple):
    """A sample, and what a pair potential says about it.

    sample:  S structures, all with forces.
    designs: of each.
    forces:  (3 n,) of each.
    fits:    coefficients of two fits.
    """

    sample: Sample
    designs: list[Design]
    forces: list[Floats]
    fits: list[Floats]

    @classmethod
    def of(cls, sample: Sample) -> "Measured":
        """Fitted to the forces."""
        springs = Springs.between(sorted({int(z) for one in sample.atoms for z in one.numbers}))
        designs = [springs.design(one) for one in sample.atoms]
        forces = [np.asarray(one.forces, dtype=np.float64).reshape(-1) for one in sample.labels]
        return cls(sample, designs, forces, springs.fit(designs, forces, RIDGES))

    @property
    def guesses(self) -> list[Floats]:
        """(3 n,) forces of the better fit."""
        return [design.forces @ self.fits[0] for design in self.designs]


def check_units(dataset: Dataset) -> Table:
    """Refuse energies, forces and stresses that do not belong to one another.

    A pair potential is fitted to forces alone. Up to what it cannot describe, its energies and stresses are those of
    the labels: a factor between them is a wrong unit, a sign a wrong sign. Frames close to one another say the same
    more sharply: E(y) - E(x) = -½ (F_x + F_y)·(y - x), where the pair potential takes what is not linear. What is not
    decided is said to be undecided, and is not an error. The cost is bounded: a sample of each file is looked at.

    Args:
        dataset: structures, with whatever labels they have.

    Returns:
        What was compared, from how many frames, with which correlation, factor and answer.

    Raises:
        ValueError: labels with a wrong unit or sign, energies per atom, labels of another structure, absurd ones. It
            names files and frames.
    """
    rows: list[tuple[Cell, ...]] = []
    problems: list[str] = []
    samples = list(_samples(dataset))
    for sample in samples:
        problems += _absurd(sample)
        for row, problem in _compared(_measurable(sample, len(samples))):
            rows.append((sample.file, *row))
            problems += [f"{sample.file}: {problem}"] if problem else []
    if problems:
        raise ValueError(
            "\n".join([*problems[:10], *([f"and {len(problems) - 10} more such problems."] if problems[10:] else [])])
            + "\nRepair the labels or name others with energy_key, forces_key or stress_key; check_units: false "
            "trains on them as they are."
        )
    columns = ("file", "what", "frames", "correlation", "factor", "answer")
    return Table(
        "Do the labels belong to one another?", columns, tuple(rows), "factor 1: energies, forces and stresses agree"
    )


def _samples(dataset: Dataset) -> Iterator[Sample]:
    """The largest files, each with structures from all over it; consecutive ones by twos, because they are close."""
    files, codes = files_of(dataset.sources)
    counts = np.bincount(codes, minlength=len(files))
    largest = [code for code in np.argsort(-counts, kind="stable")[:FILES].tolist() if counts[code]]
    for code in largest:
        places, limit = np.flatnonzero(codes == code), LOOKED_AT // len(largest)
        if len(places) > limit:
            starts = np.sort(np.random.default_rng(0).choice(len(places) // 2, limit // 2, replace=False))
            places = places[np.stack([2 * starts, 2 * starts + 1], axis=1).reshape(-1)]
        part = dataset.select(places.tolist())
        yield Sample(files[code], list(part.sources), list(part.atoms), list(part.labels))


def _absurd(sample: Sample) -> list[str]:
    """Frames with labels that no structure has."""
    problems = []
    largest = np.array([0.0 if one.forces is None else float(one.forces.norm(dim=1).max()) for one in sample.labels])
    too_large = np.flatnonzero(largest > LARGEST_FORCE).tolist()
    if len(too_large) > max(5, 0.02 * len(largest)):
        problems.append(
            f"{len(too_large)} of {len(largest)} frames, the first {sample.sources[too_large[0]]}, have forces above "
            f"{LARGEST_FORCE:g} eV/Å, up to {largest.max():.3g}. Are they in another unit, meV/Å or kJ/mol/nm?"
        )
    else:
        problems += [
            f"{sample.sources[k]}: a force is {largest[k]:.3g} eV/Å; at most {LARGEST_FORCE:g} was expected. Its atoms "
            "overlap, or its calculation has failed: remove it."
            for k in too_large
        ]
    known = _pick(
        sample, [k for k, one in enumerate(sample.labels) if one.energy is not None and len(sample.atoms[k]) > 1]
    )
    if len(known.atoms) < 10:
        return problems
    off = _off_composition(known)
    sigma = 1.4826 * float(np.median(np.abs(off)))
    for source, value in zip(known.sources, off, strict=True):
        if abs(value) > max(LARGEST_ENERGY, ROBUST_SIGMAS * sigma):
            problems.append(
                f"{source}: its energy is off what its composition says by {value:.4g} eV per atom, the others by "
                f"{sigma:.2g}. Is it of another kind, or has its calculation failed? Remove it."
            )
    return problems


def _off_composition(sample: Sample) -> Floats:
    """(S,) eV: energies per atom minus the fit to their compositions that half of the frames agree with."""
    energy, fractions = _energies(sample) / sample.sizes, sample.fractions
    weight = np.ones(len(energy))
    for _ in range(8):  # least absolute deviations, by weights
        fit = np.linalg.lstsq(fractions * weight[:, None], energy * weight, rcond=1e-8)[0]
        off = energy - fractions @ fit
        weight = 1 / np.sqrt(np.abs(off) + 1e-3 * (np.abs(off).mean() + 1e-12))
    return off


def _measurable(sample: Sample, n_files: int) -> Sample:
    """Structures with forces, as many as the time allows."""
    able = [k for k, one in enumerate(sample.labels) if one.forces is not None and len(sample.atoms[k]) > 1]
    columns = Springs.between(sorted({int(z) for k in able for z in sample.atoms[k].numbers})).size
    limit = min(ATOMS, NUMBERS // (3 * columns)) // n_files
    taken: list[int] = []
    n_atoms = 0
    for start in np.random.default_rng(0).permutation((len(able) + 1) // 2):
        for k in able[2 * start : 2 * start + 2]:
            if taken and (len(taken) >= FRAMES or n_atoms + len(sample.atoms[k]) > limit):
                continue
            taken.append(k)
            n_atoms += len(sample.atoms[k])
    return _pick(sample, sorted(taken))


def _pick(sample: Sample, places: Sequence[int]) -> Sample:
    atoms, labels = [sample.atoms[k] for k in places], [sample.labels[k] for k in places]
    return Sample(sample.file, [sample.sources[k] for k in places], atoms, labels)


def _compared(sample: Sample) -> Iterator[tuple[tuple[Cell, ...], str]]:
    """Rows of the table, each with what is wrong, if anything is."""
    if not sample.atoms:
        return
    one = Measured.of(sample)
    alike = correlation(np.concatenate(one.forces), np.concatenate(one.guesses))
    yield ("forces against pairs", len(one.forces), alike, None, "measured"), ""
    yield from _by_frame(one)
    first, size = f"(from {sample.sources[0]} on) ", float(np.median(sample.sizes))
    by_size, stresses = _by_size(sample), _stress_slope(one)
    is_told, forces_are = False, False  # one mistake shows in several comparisons
    if by_size is not None:
        is_told = by_size.is_wrong
        yield by_size.row, first + BY_SIZE if is_told else ""
    for slope in (_close_slope(one), _energy_slope(one)):
        if slope is not None:
            labels, is_news = blamed(slope, stresses), slope.is_wrong and not is_told
            yield slope.row, first + explain_energies(slope, labels, size) if is_news else ""
            forces_are = forces_are or (is_news and labels == ("forces",))
            is_told = is_told or is_news
    if stresses is not None:
        volume = float(np.median([abs(np.linalg.det(atoms.cell.array)) for atoms in sample.atoms]))
        is_news = stresses.is_wrong and not forces_are
        yield stresses.row, first + explain_stresses(stresses, volume) if is_news else ""


def _energies(sample: Sample) -> Floats:
    return np.array([math.nan if one.energy is None else float(one.energy) for one in sample.labels])


def _energy_slope(one: Measured) -> Slope | None:
    """Energies per atom against those of the pair potential, both without what the composition explains."""
    sizes, fractions = one.sample.sizes, one.sample.fractions
    energy = _energies(one.sample) / sizes
    known = np.flatnonzero(np.isfinite(energy)).tolist()
    if len(known) < 10 + fractions.shape[1]:
        return None
    guesses = [np.array([one.designs[k].energy @ fit / sizes[k] for k in known]) for fit in one.fits]
    bare = [_without(fractions[known], values) for values in (energy[known], *guesses)]
    return Slope.of_sizes("energies against forces", bare[0], bare[1:], USUAL)


def _without(columns: Floats, values: Floats) -> Floats:
    rest: Floats = values - columns @ np.linalg.lstsq(columns, values, rcond=1e-8)[0]
    return rest


def _stress_slope(one: Measured) -> Slope | None:
    """Stresses against those of the pair potential, but for a pressure that all frames share."""
    known = [k for k, label in enumerate(one.sample.labels) if label.stress is not None]
    if len(known) < 10:
        return None
    labels = np.array([np.asarray(one.sample.labels[k].stress).reshape(-1) for k in known])
    volumes = np.array([[one.sample.atoms[k].get_volume()] for k in known])
    guesses = [np.array([one.designs[k].strain @ fit for k in known]) / volumes for fit in one.fits]
    bare = [(values - values[:, ::4].mean() * np.eye(3).reshape(-1)).reshape(-1) for values in (labels, *guesses)]
    return Slope.of_sizes("stresses against forces", bare[0], bare[1:], LOOSE)


def _close_slope(one: Measured) -> Slope | None:
    """Energy differences of neighbouring frames against the work of their forces."""
    energy, groups = _energies(one.sample), dict[bytes, list[int]]()
    for k, atoms in enumerate(one.sample.atoms):
        if np.isfinite(energy[k]):
            cell = np.round(atoms.cell.array, 3) + 0.0
            groups.setdefault(atoms.numbers.tobytes() + cell.tobytes() + atoms.pbc.tobytes(), []).append(k)
    rest = [force - guess for force, guess in zip(one.forces, one.guesses, strict=True)]
    known, work = [], []
    for group in groups.values():
        for x, y, step in _nearest([one.sample.atoms[k] for k in group]):
            a, b = group[x], group[y]
            known.append(energy[b] - energy[a])
            pairs = (one.designs[b].energy - one.designs[a].energy) @ one.fits[0]
            work.append(pairs - 0.5 * (rest[a] + rest[b]) @ step.reshape(-1))
    if len(known) < 10:
        return None
    return Slope.of_sizes("energies of close frames against forces", np.array(known), [np.array(work)], SHARP)


def _nearest(frames: Sequence[Atoms]) -> Iterator[tuple[int, int, Floats]]:
    """For some frames the nearest other one, and the steps (n, 3) Å of the atoms to it, without their mean."""
    if len(frames) < 2:
        return
    cell, pbc = complete_cell(frames[0].cell.array), frames[0].pbc
    inverse = np.linalg.inv(cell)
    positions = np.array([one.positions for one in frames])
    for x in range(0, len(frames), -(-len(frames) // PARTNERS)):
        fractional = (positions - positions[x]) @ inverse
        steps = (fractional - np.rint(fractional) * pbc) @ cell
        steps -= steps.mean(axis=1, keepdims=True)
        distances = np.square(steps).sum(axis=(1, 2))
        distances[x] = math.inf
        y = int(np.argmin(distances))
        yield x, y, steps[y]


def _by_frame(one: Measured) -> Iterator[tuple[tuple[Cell, ...], str]]:
    """Frames whose forces have nothing to do with the pairs in them, where those of all others have."""
    sizes = np.array([np.sqrt(np.mean(force**2)) for force in one.forces])
    alike = np.array([correlation(force, guess) for force, guess in zip(one.forces, one.guesses, strict=True)])
    tells = (sizes > 0.3 * np.median(sizes)) & np.array([len(force) >= 12 for force in one.forces])
    told = alike[tells]
    if len(told) < 20:
        return
    middle = float(np.median(told))
    sigma = 1.4826 * float(np.median(np.abs(told - middle)))
    strange = np.flatnonzero(tells & (alike < min(0.35, middle - 10 * sigma))).tolist()
    is_sure = middle > 0.8 and len(strange) <= 0.1 * len(told)
    answer = "undecided" if not is_sure else "wrong" if strange else "right"
    problem = ""
    if is_sure and strange:
        names = ", ".join(one.sample.sources[k] for k in strange[:5]) + (", ..." if len(strange) > 5 else "")
        problem = (
            f"the forces of {len(strange)} of {len(told)} frames do not belong to their structures ({names}): they "
            f"correlate with the pairs of atoms by {alike[strange].max():.2f} at most, those of all frames by "
            f"{middle:.2f}. Are labels or atoms out of order there?"
        )
    yield ("forces frame by frame", len(told), middle, None, answer), problem


def _by_size(sample: Sample) -> Slope | None:
    """Whether compositions explain energies as totals, or rather as energies per atom; needs frames of many sizes."""
    energy, sizes, fractions = _energies(sample), sample.sizes, sample.fractions
    known = np.isfinite(energy)
    if known.sum() < max(20, 3 * fractions.shape[1]) or sizes[known].std() < 0.2 * sizes[known].mean():
        return None
    total, per_atom = (
        float(np.linalg.norm(_without(fractions[known], values))) / max(float(np.linalg.norm(values)), 1e-300)
        for values in (energy[known] / sizes[known], energy[known])
    )
    is_sure = min(total, per_atom) < min(0.2, 0.3 * max(total, per_atom))
    value = 1 / float(np.median(sizes[known])) if is_sure and per_atom < total else 1.0
    return Slope("energies against sizes", value, float(is_sure), int(known.sum()), ((1.0, 1.5), (1.0, 1.5)))
