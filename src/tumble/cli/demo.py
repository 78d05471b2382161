"""The demonstration: what a trained water potential gets wrong when its structures are turned, and what repairs it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from ase import Atoms, units
from ase.build import make_supercell, molecule
from ase.md.langevin import Langevin
from ase.neighborlist import neighbor_list
from cyclopts import Parameter
from scipy.spatial.transform import Rotation

import tumble
from tumble.batch import Properties
from tumble.cli import DONE
from tumble.cli.console import progress_bar, show_verdicts
from tumble.data import Dataset
from tumble.jobs.audit import AuditSettings
from tumble.units import BOLTZMANN

if TYPE_CHECKING:
    from tumble.potential import Potential

VOLUME_PER_MOLECULE = 29.9
"""Å³ in liquid water at 300 K and 1 bar."""

BOND = 0.97
"""Å from O to H."""

SETTINGS = AuditSettings(budget=6e5)
"""Less than the published protocol, so that two cores need about a minute."""


def monomer() -> Atoms:
    """One water molecule in empty space."""
    return molecule("H2O")


def ice() -> Atoms:
    """Eight molecules of ice Ih in an orthorhombic cell, with an order of the protons that cancels their dipole.

    Source: oxygen sites of Bernal and Fowler, J. Chem. Phys. 1, 515 (1933); lattice constants at 250 K.
    """
    a, c, z = 4.51, 7.35, 0.0625
    sites = [(1 / 3, 2 / 3, z), (2 / 3, 1 / 3, z + 0.5), (2 / 3, 1 / 3, 1 - z), (1 / 3, 2 / 3, 0.5 - z)]
    hexagonal = Atoms("O4", scaled_positions=sites, cell=[a, a, c, 90, 90, 120], pbc=True)
    oxygen = make_supercell(hexagonal, [[1, 0, 0], [1, 2, 0], [0, 0, 1]])
    i, j, vectors = neighbor_list("ijD", oxygen, 3.0)
    once = i < j
    i, j, vectors = i[once], j[once], vectors[once] / np.linalg.norm(vectors[once], axis=1, keepdims=True)
    # Every bond carries one proton, near i or near j: 2^16 choices, of which the ice rules allow a few hundred.
    near_i = (np.arange(2 ** len(i))[:, None] >> np.arange(len(i))) & 1 == 1
    ends = np.eye(len(oxygen))
    allowed = near_i[(near_i @ ends[i] + ~near_i @ ends[j] == 2).all(axis=1)]
    dipole = np.linalg.norm(np.where(allowed[:, :, None], vectors, -vectors).sum(axis=1), axis=1)
    first = allowed[dipole.argmin()]
    positions = oxygen.positions
    protons = np.where(first[:, None], positions[i] + BOND * vectors, positions[j] - BOND * vectors)
    return oxygen + Atoms(f"H{len(protons)}", protons)


def liquid(potential: "Potential", n_side: int = 3, *, n_steps: int = 100, seed: int = 0) -> Atoms:
    """A box of n_side³ molecules at the density of water, packed without contacts, then stirred at 300 K.

    Args:
        potential: moves the molecules.
        n_side: molecules along each edge of the cube.
        n_steps: steps of 0.5 fs of strongly damped Langevin dynamics.
        seed: of orientations, velocities and noise.
    """
    random = np.random.default_rng(seed)
    atoms = _packed(n_side, random)
    atoms.calc = tumble.Calculator(potential)
    thermal = np.sqrt(atoms.get_masses() * BOLTZMANN * 300)
    atoms.set_momenta(random.normal(size=(len(atoms), 3)) * thermal[:, None])
    bath = {"temperature_K": 300, "friction": 0.1 / units.fs, "fixcm": False, "rng": random}
    with Langevin(atoms, 0.5 * units.fs, **bath) as dynamics:
        dynamics.run(n_steps)
    stirred = atoms.copy()
    stirred.set_momenta(None)
    return stirred


def _packed(n_side: int, random: np.random.Generator) -> Atoms:
    """Molecules on a cubic grid, each in the one of 50 random orientations that keeps it farthest from the others."""
    spacing = VOLUME_PER_MOLECULE ** (1 / 3)
    box, water = Atoms(cell=[n_side * spacing] * 3, pbc=True), molecule("H2O")
    shape = water.positions - water.positions.mean(axis=0)
    for place in np.ndindex(n_side, n_side, n_side):
        turns = Rotation.random(50, rng=random).as_matrix()
        trials = shape @ turns.transpose(0, 2, 1) + spacing * np.array(place)
        apart = trials[:, :, None] - box.positions
        apart -= np.rint(apart / box.cell.lengths()) * box.cell.lengths()
        nearest = np.linalg.norm(apart, axis=-1).min(axis=(1, 2), initial=np.inf)
        box += Atoms(water.numbers, trials[nearest.argmax()])
    return box


def demo(
    *,
    to: Annotated[Path, Parameter(help="The page to write; the results go into folders beside it.")] = Path(
        "demo/card.html"
    ),
    model: Annotated[str, Parameter(help="A potential for H and O.")] = "water",
    rotations: Annotated[str, Parameter(help="The rule to average over.")] = "Oh",
) -> int:
    """Audit the packaged water potential, raw and symmetrized, on a molecule, a liquid and ice."""
    raw = tumble.load(model)
    print("building a molecule, a liquid box and an ice cell")
    structures = Dataset([monomer(), liquid(raw), ice()], [Properties()] * 3, ["molecule", "liquid", "ice"])
    results = []
    for name, potential in (("raw", raw), (rotations, tumble.symmetrize(raw, rotations))):
        with progress_bar(f"auditing {model}, {name}") as tell:
            result = tumble.audit(potential, structures, SETTINGS, tell=lambda one: tell(*one))
        result.save(to.parent / name, overwrite=True)
        results.append(result)
    for result in results:
        show_verdicts(result)
    print(f"wrote {tumble.report(*results, to=to).resolve()}")
    return DONE
