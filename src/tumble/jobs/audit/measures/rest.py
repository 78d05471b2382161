"""Rest: the forces and the stress that symmetry forbids, and where a structure goes that is relaxed under them."""

from typing import Final, NamedTuple

import numpy as np
from ase import Atoms

from tumble.crystal import SpaceGroup
from tumble.crystal.ideal import ideal
from tumble.jacobian import precise, rounding_of
from tumble.jacobian.vibrations import modes
from tumble.jobs.audit.measures.curvature import Curvature, Floats, LEAST_THz, usual_step
from tumble.packs import predict
from tumble.potential import Potential
from tumble.units import MEV, THZ, EV_PER_A3_TO_GPa

STRAIN_PER_STEP: Final = 0.2
"""Strain of the differences that give elastic constants, for each Å that atoms are displaced for force constants."""

SOFT: Final = 1e-3
"""A strain with less than this share of the largest stiffness is left out: the cell is not stable against it."""


class Shift(NamedTuple):
    """Where a relaxation goes that does not keep the symmetry, to first order.

    displacement_A: of the atom that moves farthest, beyond what the cell carries along.
    strain:         largest change of a length by its length; None where the cell is kept.
    lattice_A:      how far the end of a lattice vector moves at most; None where the cell is kept.
    symprec_A:      how far atoms and lattice points then are from where the operations put them. With a symprec below
                    some one to two times this, spglib no longer finds the symmetry.
    lowest_THz:     the lowest mode, negative if imaginary; None of a structure without vibrations.
    n_left_out:     modes slower than the least frequency, and strains without stiffness: there is no way back.
    share_left_out: of the squares of the forbidden forces and of the forbidden stress what acts on those; the larger.
    noise_A:        displacement of an atom or a lattice point that rounding alone would make; the larger.
    displacements, strains: (N, 3) Å and (3, 3), of all atoms and of the cell; the latter zero where it is kept.
    """

    displacement_A: float
    strain: float | None
    lattice_A: float | None
    symprec_A: float
    lowest_THz: float | None
    n_left_out: int
    share_left_out: float
    noise_A: float
    displacements: Floats
    strains: Floats


class Elasticity(NamedTuple):
    """Elastic constants of clamped ions.

    constants_GPa: (K, K) as differences of the stress give them, symmetric.
    basis:         (K, 3, 3) the strains they refer to, symmetric and orthonormal, of the directions that repeat.
    forbidden:     ‖ΔC‖ / ‖C‖, ΔC what the point group removes.
    noise:         the same from rounded stresses alone.
    """

    constants_GPa: Floats
    basis: Floats
    forbidden: float
    noise: float


class Rest(NamedTuple):
    """What symmetry forbids of the forces and the stress of a structure at rest or near it.

    force_meV_per_A: forbidden, root mean square over components.
    worst_meV_per_A: forbidden, norm on the atom where it is largest.
    worst_atom:      index of that atom.
    stress_GPa:      forbidden, root mean square over components; None where there is no stress.
    allowed_meV_per_A: the largest norm of an allowed force: how far from rest the structure is.
    allowed_GPa:     the largest component of the allowed stress; None where there is no stress.
    elasticity:      None where there is no stress, or the cell is kept.
    shift:           None without force constants.
    n_calls:         of the potential, without those for the force constants.
    """

    force_meV_per_A: float
    worst_meV_per_A: float
    worst_atom: int
    stress_GPa: float | None
    allowed_meV_per_A: float
    allowed_GPa: float | None
    elasticity: Elasticity | None
    shift: Shift | None
    n_calls: int


class _Strained(NamedTuple):
    """How a structure answers to strains along a basis (K, 3, 3), orthonormal.

    stiffness: (K, K) eV, volume times the elastic constants of clamped ions.
    coupling:  (3N, K) eV/Å, forces under a strain.
    push:      (K,) eV, minus the volume times the forbidden stress.
    rounding:  eV, of an entry of the push.
    """

    basis: Floats
    stiffness: Floats
    coupling: Floats
    push: Floats
    rounding: float


def forbidden_at_rest(
    potential: Potential,
    atoms: Atoms,
    group: SpaceGroup,
    found: Curvature | None = None,
    *,
    with_cell: bool = True,
    below_THz: float = LEAST_THz,
) -> Rest | None:
    """Forbidden forces and stress, and the displacement and the strain that they cause.

        u = H⁺ (δF + L ε),  (V C - Lᵀ H⁺ L) ε = Lᵀ H⁺ δF - V δS

    with the projected force constants H, inverted where they are stable and without motions of the whole, the elastic
    constants C of clamped ions, and the forces L under a strain. The answers are those of a float64 copy where there
    are weights in lower precision. Costs 1 call, and where the cell relaxes 2 for each strain more: 12 in a crystal.

    They are those of the ideal structure: one that is symmetric within a tolerance only feels forces back to it.

    Args:
        potential: any Potential.
        atoms: one structure.
        group: its space group.
        found: its force constants; None: how far it would move is not said.
        with_cell: whether the cell relaxes too; it cannot where there is no stress.
        below_THz: slower modes are left out.

    Returns:
        None for a potential without forces.
    """
    exact, atoms = precise(potential), ideal(atoms, group)
    answer = predict(exact, atoms)[0]
    if answer.forces is None:
        return None
    allowed, removed = group.project_forces(answer.forces.double().numpy())
    stress = None if answer.stress is None else group.project_stress(answer.stress.double().numpy())
    strained = elasticity = shift = None
    if with_cell and stress is not None:
        step = STRAIN_PER_STEP * usual_step(potential)
        strained = _answer_to_strains(exact, atoms, stress[1], step)
        elasticity = _elasticity(strained, group, atoms.cell.volume, step)
    if found is not None:
        shift = _shift(atoms, group, found, removed, strained, below_THz)
    sizes = np.linalg.norm(removed, axis=1)
    return Rest(
        force_meV_per_A=MEV * float(np.sqrt(np.mean(removed**2))),
        worst_meV_per_A=MEV * float(sizes.max()),
        worst_atom=int(sizes.argmax()),
        stress_GPa=None if stress is None else EV_PER_A3_TO_GPa * float(np.sqrt(np.mean(stress[1] ** 2))),
        allowed_meV_per_A=MEV * float(np.linalg.norm(allowed, axis=1).max()),
        allowed_GPa=None if stress is None else EV_PER_A3_TO_GPa * float(np.abs(stress[0]).max()),
        elasticity=elasticity,
        shift=shift,
        n_calls=1 + (0 if strained is None else 2 * len(strained.basis)),
    )


def _shift(
    atoms: Atoms,
    group: SpaceGroup,
    found: Curvature,
    removed: Floats,
    strained: _Strained | None,
    below_THz: float,
) -> Shift:
    frequencies, vectors = modes(found.allowed, atoms)
    is_stable = frequencies > below_THz
    patterns = vectors / np.repeat(np.sqrt(atoms.get_masses()), 3)
    stable = patterns[is_stable]
    inverse = (stable / (frequencies[is_stable, None] / THZ) ** 2).T @ stable
    share = _share((patterns @ removed.ravel()) ** 2, ~is_stable)
    noise = found.rounding * float(np.sqrt((inverse**2).reshape(len(atoms), -1).sum(1).max()))
    forces, strains, n_loose, lattice = removed.ravel(), np.zeros((3, 3)), 0, 0.0
    if strained is not None:
        cell = atoms.cell.array[atoms.pbc]
        components, n_loose, loose, error = _components(strained, inverse, forces)
        strains = np.einsum("k,kab->ab", components, strained.basis)
        forces = forces + strained.coupling @ components
        lattice = float(np.linalg.norm(cell @ strains, axis=1).max())
        share, noise = max(share, loose), max(noise, error * float(np.linalg.norm(cell, axis=1).max()))
    displacements = (inverse @ forces).reshape(-1, 3)
    return Shift(
        displacement_A=float(np.linalg.norm(displacements, axis=1).max()),
        strain=None if strained is None else float(np.abs(np.linalg.eigvalsh(strains)).max()),
        lattice_A=None if strained is None else lattice,
        symprec_A=_symprec(atoms, group, displacements, strains),
        lowest_THz=float(frequencies[0]) if len(frequencies) else None,
        n_left_out=int((~is_stable).sum()) + n_loose,
        share_left_out=share,
        noise_A=noise,
        displacements=displacements,
        strains=strains,
    )


def _components(strained: _Strained, inverse: Floats, forces: Floats) -> tuple[Floats, int, float, float]:
    """Strain along the basis (K,) with ions that follow; strains without stiffness, the share on them; the noise."""
    relaxing = inverse @ strained.coupling
    values, axes = np.linalg.eigh(strained.stiffness - strained.coupling.T @ relaxing)
    is_stable = values > SOFT * np.abs(values).max()
    along = axes.T @ (relaxing.T @ forces + strained.push)
    components = axes[:, is_stable] @ (along[is_stable] / values[is_stable])
    noise = strained.rounding * float(np.sqrt(np.sum(values[is_stable] ** -2.0)))
    return components, int((~is_stable).sum()), _share(along**2, ~is_stable), noise


def _share(parts: Floats, is_out: np.ndarray) -> float:
    total = float(parts.sum())
    return float(parts[is_out].sum()) / total if total > 0 else 0.0


def _answer_to_strains(potential: Potential, atoms: Atoms, removed: Floats, step: float) -> _Strained:
    basis, volume = _basis(atoms), atoms.cell.volume
    answers = predict(potential, [_deformed(atoms, sign * step * one) for one in basis for sign in (1, -1)])
    forces = np.stack([answer.forces.double().numpy().ravel() for answer in answers if answer.forces is not None])
    stress = np.stack([answer.stress.double().numpy() for answer in answers if answer.stress is not None])
    stiffness = volume * np.einsum("kab,lab->kl", basis, (stress[::2] - stress[1::2]) / (2 * step))
    return _Strained(
        basis=basis,
        stiffness=(stiffness + stiffness.T) / 2,
        coupling=(forces[::2] - forces[1::2]).T / (2 * step),
        push=-volume * np.einsum("kab,ab->k", basis, removed),
        rounding=volume * rounding_of(stress),
    )


def _elasticity(strained: _Strained, group: SpaceGroup, volume: float, step: float) -> Elasticity:
    turned = group.turns.transpose(0, 2, 1)[:, None] @ strained.basis @ group.turns[:, None]
    representation = np.einsum("kab,hlab->hkl", strained.basis, turned)
    allowed = np.mean(representation @ strained.stiffness @ representation.transpose(0, 2, 1), axis=0)
    size = max(float(np.linalg.norm(strained.stiffness)), 1e-300)
    return Elasticity(
        constants_GPa=EV_PER_A3_TO_GPa * strained.stiffness / volume,
        basis=strained.basis,
        forbidden=float(np.linalg.norm(strained.stiffness - allowed)) / size,
        noise=len(strained.basis) * strained.rounding / (2**0.5 * step) / size,
    )


def _basis(atoms: Atoms) -> Floats:
    """Symmetric strains (K, 3, 3) of the directions that repeat, orthonormal: 6, 3 or 1."""
    periodic = np.linalg.qr(atoms.cell.array[atoms.pbc].T)[0].T
    rows = []
    for i, first in enumerate(periodic):
        for second in periodic[i:]:
            outer = np.outer(first, second) + np.outer(second, first)
            rows.append(outer / np.linalg.norm(outer))
    return np.stack(rows)


def _deformed(atoms: Atoms, strain: Floats) -> Atoms:
    moved = atoms.copy()
    deform = np.eye(3) + strain
    moved.set_cell(atoms.cell.array @ deform)
    moved.positions = atoms.positions @ deform
    return moved


def _symprec(atoms: Atoms, group: SpaceGroup, displacements: Floats, strains: Floats) -> float:
    """Å, how far the worst atom or lattice point is from where an operation puts it that fits one atom exactly."""
    worst = 0.0
    for turn, image in zip(group.turns, group.images, strict=True):
        misses = displacements @ turn.T - displacements[image]
        atomic = np.linalg.norm(misses[:, None] - misses, axis=-1).max(0).min()
        bent = np.linalg.norm(atoms.cell.array[atoms.pbc] @ (strains - turn.T @ strains @ turn), axis=1)
        worst = max(worst, float(atomic), float(bent.max(initial=0.0)))
    return worst
