"""What an orbit says about a structure: each measure is a function of the orbit alone."""

from typing import NamedTuple

import torch
from torch import Tensor

from tumble.batch import Properties
from tumble.orbit import Orbit
from tumble.rotations import Rotations
from tumble.units import BOLTZMANN, MEV, EV_PER_A3_TO_GPa

RESOLVING = 6
"""Degree from which a rule gives a spectrum. A coarser one folds high channels into low ones: the 60 nodes of I show
a pure ℓ = 4 as 95 % ℓ = 2."""


class Sizes(NamedTuple):
    """How large a deviation of energy, forces and stress is, for one structure.

    energy_meV_per_atom: of the total energy, divided by the number of atoms.
    force_meV_per_A:     root mean square over components, of all atoms.
    worst_meV_per_A:     norm on the atom where it is largest.
    worst_atom:          index of that atom.
    stress_GPa:          root mean square over components; None where there is no stress.
    """

    energy_meV_per_atom: float
    force_meV_per_A: float | None
    worst_meV_per_A: float | None
    worst_atom: int | None
    stress_GPa: float | None


def sizes(deviation: Properties, n_atoms: int, *, has_stress: bool) -> Sizes:
    """The size of a deviation that is given by norms: energy (1,) eV, forces (N,) eV/Å, stress (1,) eV/Å³."""
    assert deviation.energy is not None
    force = worst = atom = stress = None
    if deviation.forces is not None:
        force = MEV * float((deviation.forces.square().mean() / 3).sqrt())
        worst, atom = MEV * float(deviation.forces.max()), int(deviation.forces.argmax())
    if deviation.stress is not None and has_stress:
        stress = EV_PER_A3_TO_GPa * float(deviation.stress[0]) / 3
    return Sizes(MEV * float(deviation.energy[0]) / n_atoms, force, worst, atom, stress)


def larger(a: Sizes, b: Sizes) -> Sizes:
    """The larger of two, number by number; the atom is that of the first."""

    def most(x: float | None, y: float | None) -> float | None:
        return y if x is None else x if y is None else max(x, y)

    return Sizes(
        max(a.energy_meV_per_atom, b.energy_meV_per_atom),
        most(a.force_meV_per_A, b.force_meV_per_A),
        most(a.worst_meV_per_A, b.worst_meV_per_A),
        a.worst_atom,
        most(a.stress_GPa, b.stress_GPa),
    )


def difference(a: Properties, b: Properties) -> Properties:
    """Norms of a - b: energy (1,) eV, forces (N,) eV/Å, stress (1,) eV/Å³; None where either is not known."""

    def norm(x: Tensor | None, y: Tensor | None) -> Tensor | None:
        if x is None or y is None:
            return None
        apart = x.double() - y.double().to(x.device)
        return apart.abs() if apart.dim() == 1 else apart.flatten(1).norm(dim=1)

    return Properties(norm(a.energy, b.energy), norm(a.forces, b.forces), norm(a.stress, b.stress))


class Spectrum(NamedTuple):
    """Where in ℓ the anisotropy of an answer is, as fractions of its variance.

    fractions: (2, l_max + 1): [0] proper channels, [1] pseudo channels; (1, l_max + 1) where the rule has no inversion
               and cannot tell them apart. ℓ = 0 proper, the mean, is left out (zero).
    rest:      what lies above l_max. About half of the true rest shows here, the other half among the fractions.
    """

    fractions: Tensor
    rest: float


def is_resolving(rule: Rotations) -> bool:
    """Whether an orbit over the rule has a spectrum."""
    return rule.degree >= RESOLVING and (rule.is_proper or rule.has_inversion)


def spectra(orbit: Orbit, power: Properties, *, has_stress: bool = False) -> dict[str, Spectrum]:
    """Spectra of the energy, of all forces together and of the stress, of an orbit of one structure.

    Args:
        orbit: over a rule that resolves, see `is_resolving`.
        power: its `Orbit.spectrum`.
        has_stress: whether the structure has a volume.
    """
    spread, found = orbit.spread(), {}
    for name, each, deviation in zip(Properties._fields, power, spread, strict=True):
        if each is None or deviation is None or (name == "stress" and not has_stress):
            continue
        found[name] = _spectrum(each.sum(-1), float(deviation.square().sum()))
    return found


def _spectrum(power: Tensor, variance: float) -> Spectrum:
    power = power.detach().cpu().clamp(min=0).clone()
    power[0, 0] = 0
    # Rounding alone can put a little more than everything into the resolved channels.
    fractions = power / max(variance, float(power.sum()), 1e-300)
    return Spectrum(fractions, max(0.0, 1 - float(fractions.sum())) if variance > 0 else 0.0)


def net_force(orbit: Orbit) -> float | None:
    """Root mean square over orientations of |Σ F| / √N, eV/Å, of one structure; zero by Newton's third law."""
    forces = orbit.properties.forces
    if forces is None:
        return None
    sums = forces.sum(1).square().sum(1).cpu()
    return float((orbit.rotations.weights @ sums / forces.shape[1]).sqrt())


def rms_torque(power: Tensor) -> float:
    """Root mean square over orientations of |dE/dθ|, eV/rad, in the resolved channels.

        ⟨|dE/dθ|²⟩ = Σ_ℓ ℓ(ℓ+1) B_ℓ

    Args:
        power: (1 or 2, l_max + 1, 1) eV², the spectrum of the energy.
    """
    degrees = torch.arange(power.shape[1], device=power.device)
    return float((degrees * (degrees + 1) * power.clamp(min=0).sum(0)[:, 0]).sum().sqrt())


class FreeEnergy(NamedTuple):
    """Orientational free energy of a molecule, E(Q) - Ē in units of k_B T: isotropic space would make it zero.

    std:    standard deviation over orientations.
    lowest, highest: over the nodes of the rule.
    vector: (3,) the ℓ = 1 part as a vector a in the lab: E = a·(Q b), b the axis of the molecule that shows it most.
    share:  of the variance that is in ℓ = 1.
    """

    std: float
    lowest: float
    highest: float
    vector: tuple[float, float, float]
    share: float


def free_energy(orbit: Orbit, temperature_K: float) -> FreeEnergy:
    """Orientational free energy from the orbit of one molecule.

    To first order in E / k_B T it is minus the logarithm of the density of orientations that a simulation shows.
    """
    matrices, energy, weights = _proper(orbit)
    energy = energy / (BOLTZMANN * temperature_K)
    energy = energy - weights @ energy
    # ⟨Q_ab Q_cd⟩ = δ_ac δ_bd / 3 over rotations, so 3 ⟨E Q⟩ is the matrix A of E = A : Q.
    linear = 3 * torch.einsum("r,r,rab->ab", weights, energy, matrices)
    left, size, _ = torch.linalg.svd(linear)
    variance = float(weights @ energy.square())
    vector = left[:, 0] * size[0]
    vector = vector * torch.sign(vector[vector.abs().argmax()])
    x, y, z = vector.tolist()
    share = min(1.0, float(linear.square().sum()) / 3 / variance) if variance > 0 else 0.0
    return FreeEnergy(variance**0.5, float(energy.min()), float(energy.max()), (x, y, z), share)


def over_sphere(orbit: Orbit, axis: Tensor, directions: Tensor) -> Tensor:
    """Energy, less its mean, as a function of where an axis of the structure points, averaged over turns about it.

        E(n) = Σ_ℓ (2ℓ+1) Σ_r w_r E(Q_r) P_ℓ(Q_r b · n),  ℓ from 1 to the highest that the rule resolves

    Args:
        orbit: of one structure.
        axis: (3,) unit vector b, in the frame of the structure.
        directions: (M, 3) unit vectors n, in the lab.

    Returns:
        (M,) eV.
    """
    matrices, energy, weights = _proper(orbit)
    energy = weights * (energy - weights @ energy)
    cosine = directions @ (matrices @ axis).T
    before, now = torch.ones_like(cosine), cosine
    total = torch.zeros(len(directions), dtype=torch.float64)
    for ell in range(1, orbit.rotations.degree // 2 + 1):
        total += (2 * ell + 1) * (now @ energy)
        before, now = now, ((2 * ell + 1) * cosine * now - ell * before) / (ell + 1)
    return total


def _proper(orbit: Orbit) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices, energies and weights of the nodes that do not invert: the orientations that a molecule can take."""
    assert orbit.properties.energy is not None
    is_proper = orbit.rotations.determinants > 0
    weights = orbit.rotations.weights[is_proper]
    energy = orbit.properties.energy[:, 0].cpu()[is_proper]
    return orbit.rotations.matrices[is_proper], energy, weights / weights.sum()
