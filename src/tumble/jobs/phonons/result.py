"""What a phonon run found."""

from dataclasses import dataclass
from typing import Self, final

import numpy as np
from ase import Atoms

from tumble.descent.rest import Rest
from tumble.jobs.phonons.constants import BOTH, PROJECTED
from tumble.jobs.phonons.crystal import Crystal
from tumble.jobs.phonons.examined import Scanned
from tumble.jobs.phonons.figures import figures
from tumble.jobs.phonons.molecule import Molecule
from tumble.jobs.phonons.settings import PhononsSettings
from tumble.jobs.phonons.tables import tables
from tumble.jobs.phonons.verdicts import verdicts_of
from tumble.results import Fact, Result, Verdict

Found = Crystal | Molecule

CITATIONS = (
    "A. Togo, L. Chaput, T. Tadano, I. Tanaka, Implementation strategies in phonopy and phono3py, J. Phys.: Condens. "
    "Matter 35, 353001 (2023), doi:10.1088/1361-648X/acd831.",
    "Y. Hinuma, G. Pizzi, Y. Kumagai, F. Oba, I. Tanaka, Band structure diagram paths based on crystallography, Comp. "
    "Mat. Sci. 128, 140 (2017), doi:10.1016/j.commatsci.2016.10.015.",
)
ENGINE_FILE = "phonopy_params.yaml"


@final
@dataclass(frozen=True, eq=False)
class PhononsResult(Result):
    """Phonons of a crystal or vibrations of a molecule, raw and repaired.

    found:   every number, a `Crystal` or a `Molecule`.
    scanned: other displacements, and what imaginary modes are.
    rest:    how far the structure was from rest.
    arrays:  force constants and frequencies; keys of the four ways end in _raw, _both, _projected, _averaged.
    atoms:   the symmetric structure; of a crystal then its supercell, whose atoms the force constants are of.
    """

    title: str
    settings: PhononsSettings
    found: Found
    scanned: Scanned
    rest: Rest
    arrays: dict[str, np.ndarray]
    atoms: list[Atoms]
    subject: dict[str, str]
    job: str = "phonons"
    citations: tuple[str, ...] = CITATIONS

    @classmethod
    def of(
        cls,
        settings: PhononsSettings,
        subject: dict[str, str],
        found: Found,
        scanned: Scanned,
        rest: Rest,
    ) -> Self:
        """Put together what was found."""
        if isinstance(found, Crystal):
            atoms, arrays = [found.cells.atoms, found.cells.supercell], _of_crystal(found)
        else:
            atoms, arrays = [found.atoms], _of_molecule(found)
        citations = CITATIONS if isinstance(found, Crystal) else ()
        title = f"{subject['name']} on {atoms[0].get_chemical_formula()}"
        return cls(title, settings, found, scanned, rest, arrays, atoms, subject, citations=citations)

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether frequencies are good enough, degenerate modes are, and whether the structure is stable."""
        return verdicts_of(self.found, self.scanned, self.settings)

    def facts(self) -> tuple[Fact, ...]:
        """Figures, then tables."""
        return (*figures(self.found, self.scanned), *tables(self.found, self.scanned, self.settings, self.rest))

    def files(self) -> dict[str, bytes]:
        """Of a crystal phonopy_params.yaml with the projected force constants, which `phonopy.load` opens."""
        if not isinstance(self.found, Crystal):
            return {}
        engine = self.found.cells.engine.replicate()
        engine.force_constants = self.found.constants[PROJECTED]
        if self.found.charges is not None:
            engine.nac_params = self.found.charges.engine
        stored = engine.to_phonopy_yaml(settings={"force_sets": False, "displacements": False, "force_constants": True})
        return {ENGINE_FILE: str(stored).encode()}


def _name(key: str) -> str:
    """The key of a way to make force constants, as the name of an array has it."""
    return "both" if key == BOTH else key


def _of_crystal(found: Crystal) -> dict[str, np.ndarray]:
    arrays = {
        "primitive_atoms": found.cells.chosen,
        "path_q": np.concatenate([one.q for one in found.segments]),
        "path_x": np.concatenate([one.x for one in found.segments]),
        "path_errors_THz": found.bands.errors_THz,
        "path_first_order_THz": found.bands.first_THz,
        "mesh_q": found.mesh.q,
        "mesh_weights": found.mesh.weights,
        "mesh_errors_THz": found.modes.errors_THz,
        "states_THz": found.states.grid_THz,
        "states_error": found.states.error,
        "temperatures_K": found.thermal[PROJECTED].temperatures_K,
    }
    for key, constants in found.constants.items():
        arrays |= {
            f"force_constants_{_name(key)}": constants,
            f"path_THz_{_name(key)}": found.bands.frequencies_THz[key],
            f"mesh_THz_{_name(key)}": found.modes.frequencies_THz[key],
            f"states_{_name(key)}": found.states.densities[key],
            f"free_energy_meV_per_atom_{_name(key)}": found.thermal[key].free_energy,
            f"entropy_kB_per_atom_{_name(key)}": found.thermal[key].entropy,
            f"heat_capacity_kB_per_atom_{_name(key)}": found.thermal[key].heat_capacity,
        }
    if found.charges is not None:
        arrays |= {"born": found.charges.engine["born"], "dielectric": found.charges.engine["dielectric"]}
    return arrays


def _of_molecule(found: Molecule) -> dict[str, np.ndarray]:
    arrays = {"errors_THz": found.errors_THz, "vectors": found.vectors}
    for key, constants in found.constants.items():
        arrays |= {
            f"force_constants_{_name(key)}": constants,
            f"frequencies_THz_{_name(key)}": found.frequencies_THz[key],
            f"rigid_THz_{_name(key)}": found.rigid_THz[key],
        }
    return arrays
