"""Curvature: force constants as a phonon run without symmetry finds them, and what frequencies they give.

`frequency_error` is of what symmetry forbids in one orientation. What it lets through is not seen, so it is a lower
bound, useful in crystals of high symmetry; `frequency_spread` over orientations sees all, at as many times the cost.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble.crystal import SpaceGroup
from tumble.crystal.ideal import ideal, translations
from tumble.jacobian import precise, rounding_of
from tumble.jacobian.vibrations import frequencies_of, modes, weighted
from tumble.packs import predict
from tumble.potential import Potential
from tumble.rotations import Rotations
from tumble.units import THZ

FINE: Final = 0.001
"""Å, displacement where forces are exact to float64: the differences are off by some 1e-5 of them."""

COARSE: Final = 0.01
"""Å, displacement for a black box, whose forces may be rounded to single precision, or not be converged."""

EXACT: Final = 1e-9
"""eV/Å. Forces that are rounded to less may be displaced by `FINE`."""

LEAST_THz: Final = 0.1
"""Slower modes have no frequency to speak of: a small force constant between large ones."""

DEGENERATE_THz: Final = 1e-4
"""Modes of the projected force constants that are closer than this are degenerate by symmetry."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Curvature(NamedTuple):
    """Force constants of one structure, Φ_ij = -∂F_j/∂x_i, with the axes of i first.

    raw:       (N, N, 3, 3) eV/Å², as differences of forces give them, with the crystal's own translations only.
    allowed:   the part of their symmetric half that the space group and the acoustic sum rule allow.
    forbidden: ‖ΔΦ‖ / ‖Φ‖, ΔΦ what the space group removes of the symmetric half.
    asymmetry: ‖Φ - Φᵀ‖ / 2 ‖Φ‖; zero if forces are the slope of an energy, 1 for a pure curl.
    sum_violation: eV/Å², the largest entry of Σ_j Φ_ij: a force from moving everything, or a net force.
    step:      Å, of the differences.
    rounding:  eV/Å, of the forces, as their digits show it.
    n_translations: atoms of each class, whose force constants carry the same error.
    """

    raw: Floats
    allowed: Floats
    forbidden: float
    asymmetry: float
    sum_violation: float
    step: float
    rounding: float
    n_translations: int


class FrequencyError(NamedTuple):
    """Change of frequencies by the part of the force constants that symmetry forbids.

    rms_THz, worst_THz: over all modes of the cell, so over all wave vectors that are commensurate with it.
    worst_at_THz:  frequency of the mode whose change is largest.
    splitting_THz: the largest width, to first order, of a set of modes that symmetry makes degenerate.
    floor_THz:     root mean square change that rounded forces alone would make.
    forbidden, asymmetry, sum_violation: as in `Curvature`.
    n_modes:       modes that this is about.
    n_imaginary:   left out, as are those slower than a least frequency.
    lowest_THz:    the lowest frequency, negative if imaginary.
    frequencies_THz: (n_modes,) of the allowed force constants, ascending.
    first_order_THz: (n_modes,) change of each to first order. It vanishes for a mode that is not degenerate.
    shifts_THz:    (n_modes,) the same or, where that is larger, the change to the mode of the same rank by full
                   diagonalisation, which counts how forbidden force constants mix the modes.
    """

    rms_THz: float
    worst_THz: float
    worst_at_THz: float
    splitting_THz: float
    floor_THz: float
    forbidden: float
    asymmetry: float
    sum_violation: float
    n_modes: int
    n_imaginary: int
    lowest_THz: float
    frequencies_THz: Floats
    first_order_THz: Floats
    shifts_THz: Floats


class FrequencySpread(NamedTuple):
    """How frequencies scatter as a structure is turned.

    rms_THz:      over orientations and modes, against the frequencies of the mean force constants.
    worst_THz:    over orientations, of the mode where it is largest.
    worst_at_THz: frequency of that mode.
    floor_THz:    what rounded forces alone would make of the first.
    frequencies_THz: (M,) of the mean force constants, ascending.
    spreads_THz:  (M,) root mean square over orientations for each.
    """

    rms_THz: float
    worst_THz: float
    worst_at_THz: float
    floor_THz: float
    frequencies_THz: Floats
    spreads_THz: Floats


def n_calls_needed(group: SpaceGroup) -> int:
    """Calls for the force constants: two along each axis for each class of translation-equivalent atoms."""
    return 6 * (int(group.classes.max()) + 1)


def usual_step(potential: Potential, rounding: float | None = None) -> float:
    """Å: `FINE` for a potential with weights, which can be asked in float64; for a black box by how exact it is.

    Args:
        potential: any Potential.
        rounding: eV/Å, of its forces; None: not known.
    """
    is_exact = next(potential.parameters(), None) is not None or (rounding is not None and rounding < EXACT)
    return FINE if is_exact else COARSE


def force_constants(potential: Potential, atoms: Atoms, group: SpaceGroup, step: float = COARSE) -> Floats | None:
    """Force constants of a structure, by central differences, without any symmetry but its pure translations.

        Φ_ij,ab = -[F_jb(x_ia + d) - F_jb(x_ia - d)] / 2d

    One atom of each class is displaced, the others follow by translation: what a phonon run of the cell with symmetry
    switched off would use. The answers are those of a float64 copy where there are weights in lower precision. Costs
    `n_calls_needed` calls.

    Args:
        potential: any Potential.
        atoms: one structure, at rest or near it.
        group: its space group.
        step: d in Å.

    Returns:
        (N, N, 3, 3) eV/Å²; None for a potential without forces.
    """
    found = _differences(potential, atoms, group, step)
    return None if found is None else found[0]


def curvature(
    potential: Potential, atoms: Atoms, group: SpaceGroup, *, budget: int | None = None, step: float | None = None
) -> Curvature | None:
    """Force constants as they come, beside what symmetry allows of them.

    They are those of the ideal structure: one that is symmetric within a tolerance only breaks the symmetry itself.
    Costs `n_calls_needed` calls, of the given cell.

    Args:
        potential: any Potential.
        atoms: one structure, at rest or near it.
        group: its space group.
        budget: calls at most; None: any number.
        step: Å; None: `usual_step`.

    Returns:
        None if the budget is too small, or the potential has no forces.
    """
    if budget is not None and n_calls_needed(group) > budget:
        return None
    step = usual_step(potential) if step is None else step
    found = _differences(potential, ideal(atoms, group), group, step)
    if found is None:
        return None
    raw, rounding = found
    allowed, removed = group.project_force_constants(_symmetric(raw))
    size = max(float(np.linalg.norm(raw)), 1e-300)
    return Curvature(
        raw=raw,
        allowed=_without_net_force(allowed),
        forbidden=float(np.linalg.norm(removed)) / size,
        asymmetry=float(np.linalg.norm(raw - _symmetric(raw))) / size,
        sum_violation=float(max(np.abs(raw.sum(0)).max(), np.abs(raw.sum(1)).max())),
        step=step,
        rounding=rounding,
        n_translations=len(atoms) * 6 // n_calls_needed(group),
    )


def frequency_error(
    found: Curvature, atoms: Atoms, *, rounding: float = 0.0, below_THz: float = LEAST_THz
) -> FrequencyError | None:
    """Frequency errors from δD, the difference of raw and allowed force constants; to first order

        δω = e† δD e / 2ω

    where δD chooses the e among degenerate modes, for it is diagonalised there. No call.

    Args:
        found: of this structure.
        atoms: the structure; its masses count.
        rounding: eV/Å, error of a component of the forces, where it is known to be larger than their digits show.
        below_THz: slower modes are left out.

    Returns:
        None if no mode is left: of one atom in its primitive cell all are translations.
    """
    frequencies, vectors = modes(found.allowed, atoms)
    is_stable = frequencies > below_THz
    if not is_stable.any():
        return None
    kept, vectors = frequencies[is_stable], vectors[is_stable]
    change = vectors @ weighted(_symmetric(found.raw) - found.allowed, atoms) @ vectors.T
    first, splitting = _first_order(kept, change)
    full = frequencies_of(np.linalg.eigvalsh(np.diag((kept / THZ) ** 2) + change)) - kept
    shifts = np.where(np.abs(first) >= np.abs(full), first, full)
    worst = int(np.abs(shifts).argmax())
    noise = _noise(kept, vectors, atoms, max(rounding, found.rounding) / found.step, found.n_translations)
    return FrequencyError(
        rms_THz=_rms(shifts),
        worst_THz=float(abs(shifts[worst])),
        worst_at_THz=float(kept[worst]),
        splitting_THz=splitting,
        floor_THz=_rms(noise),
        forbidden=found.forbidden,
        asymmetry=found.asymmetry,
        sum_violation=found.sum_violation,
        n_modes=len(kept),
        n_imaginary=int((frequencies < -below_THz).sum()),
        lowest_THz=float(frequencies[0]),
        frequencies_THz=kept,
        first_order_THz=first,
        shifts_THz=shifts,
    )


def frequency_spread(
    potential: Potential,
    atoms: Atoms,
    group: SpaceGroup,
    rotations: Rotations,
    *,
    step: float | None = None,
    below_THz: float = LEAST_THz,
) -> FrequencySpread | None:
    """The scatter of frequencies over orientations: force constants of every turned copy, diagonalised each by itself.

    Costs `n_calls_needed` calls for each rotation, and misses nothing that the rule resolves.

    Args:
        potential: any Potential.
        atoms: one structure, at rest or near it; its masses count.
        group: its space group, of which the pure translations are used.
        rotations: what to turn by; one in a generic frame.
        step: Å; None: `usual_step`.
        below_THz: slower modes of the mean are left out.

    Returns:
        None for a potential without forces, or if no mode is left.
    """
    step = usual_step(potential) if step is None else step
    mean, each, rounding = np.zeros((len(atoms), len(atoms), 3, 3)), [], 0.0
    for turn, weight in zip(rotations.matrices.numpy(), rotations.weights.tolist(), strict=True):
        turned = atoms.copy()
        turned.set_cell(atoms.cell.array @ turn.T)
        turned.positions = atoms.positions @ turn.T
        found = _differences(potential, turned, group, step)
        if found is None:
            return None
        back = _symmetric(turn.T @ found[0] @ turn)
        mean += weight * back
        each.append(modes(back, atoms).frequencies_THz)
        rounding = max(rounding, found[1])
    frequencies, vectors = modes(mean, atoms)
    is_stable = frequencies > below_THz
    if not is_stable.any():
        return None
    kept, n_translations = frequencies[is_stable], len(atoms) * 6 // n_calls_needed(group)
    spreads = np.sqrt(rotations.weights.numpy() @ (np.stack(each) - frequencies) ** 2)[is_stable]
    worst = int(spreads.argmax())
    noise = _noise(kept, vectors[is_stable], atoms, rounding / step, n_translations)
    return FrequencySpread(_rms(spreads), float(spreads[worst]), float(kept[worst]), _rms(noise), kept, spreads)


def _differences(potential: Potential, atoms: Atoms, group: SpaceGroup, step: float) -> tuple[Floats, float] | None:
    """Force constants (N, N, 3, 3) eV/Å², and the rounding error of the forces eV/Å."""
    chosen = np.unique(group.classes, return_index=True)[1]
    answers = predict(precise(potential), list(_displaced(atoms, chosen, step)))
    forces = [answer.forces.double().numpy() for answer in answers if answer.forces is not None]
    if len(forces) < len(answers):
        return None
    plus, minus = np.stack(forces).reshape(len(chosen), 3, 2, len(atoms), 3).transpose(2, 0, 3, 1, 4)
    images = translations(atoms, group)
    constants = np.empty((len(atoms), len(atoms), 3, 3))
    constants[images[:, chosen, None], images[:, None, :]] = -(plus - minus) / (2 * step)
    return constants, rounding_of(np.stack(forces))


def _displaced(atoms: Atoms, chosen: Integers, step: float) -> Iterator[Atoms]:
    """Each chosen atom moved along x, y, z; forth, then back."""
    for atom in chosen:
        for axis in range(3):
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[atom, axis] += sign * step
                yield moved


def _symmetric(constants: Floats) -> Floats:
    return np.asarray((constants + constants.transpose(1, 0, 3, 2)) / 2)


def _without_net_force(constants: Floats) -> Floats:
    """The nearest force constants that fulfil the acoustic sum rule on both sides."""
    constants = constants - constants.mean(0, keepdims=True)
    return np.asarray(constants - constants.mean(1, keepdims=True))


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _noise(frequencies: Floats, vectors: Floats, atoms: Atoms, error: float, n_translations: int) -> Floats:
    """Change of each frequency, THz, if every force is off by chance.

    Args:
        error: eV/Å², of a force by the step.
        n_translations: T force constants with the same error, which a mode adds up: √T times what independent ones do.
    """
    softness = vectors**2 @ np.repeat(1 / atoms.get_masses(), 3)
    return np.asarray(THZ**2 / (2 * frequencies) * softness * error * np.sqrt(n_translations / 2))


def _first_order(frequencies: Floats, change: Floats) -> tuple[Floats, float]:
    """Change of each frequency (M,), and the largest width that a degenerate set gets, THz.

    Args:
        frequencies: (M,) THz, ascending.
        change: (M, M) eV/(Å² amu), of the dynamical matrix between the modes.
    """
    shifts, splitting = np.empty(len(frequencies)), 0.0
    ends = np.flatnonzero(np.diff(frequencies) > DEGENERATE_THz) + 1
    for members in np.split(np.arange(len(frequencies)), ends):
        before = (frequencies[members] / THZ) ** 2
        after = np.linalg.eigvalsh(np.diag(before) + change[np.ix_(members, members)])
        shifts[members] = THZ**2 * (after - before) / (2 * frequencies[members])
        splitting = max(splitting, float(np.ptp(shifts[members])))
    return shifts, splitting
