"""What a thermal conductivity job found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self, final

import numpy as np
from ase import Atoms

from tumble.jobs.conductivity.figures import figures
from tumble.jobs.conductivity.finding import Crystal, Finding
from tumble.jobs.conductivity.metrics import SOURCE
from tumble.jobs.conductivity.reference import Comparison
from tumble.jobs.conductivity.settings import PHONONDB_V1, ConductivitySettings, Kind
from tumble.jobs.conductivity.tables import tables
from tumble.jobs.conductivity.transport import in_hdf5
from tumble.jobs.conductivity.verdicts import verdict_of
from tumble.results import Fact, Result, Verdict

CITATIONS: Final = (
    "A. Togo, L. Chaput, I. Tanaka, Distributions of phonon lifetimes in Brillouin zones, Phys. Rev. B 91, 094306 "
    "(2015), doi:10.1103/PhysRevB.91.094306.",
    "A. Togo, L. Chaput, T. Tadano, I. Tanaka, Implementation strategies in phonopy and phono3py, J. Phys.: Condens. "
    "Matter 35, 353001 (2023), doi:10.1088/1361-648X/acd831.",
)
SYMFC: Final = (
    "A. Seko, A. Togo, Projector-based efficient estimation of force constants, Phys. Rev. B 110, 214302 (2024), "
    "doi:10.1103/PhysRevB.110.214302."
)
WIGNER: Final = (
    "M. Simoncelli, N. Marzari, F. Mauri, Unified theory of thermal transport in crystals and glasses, Nat. Phys. 15, "
    "809 (2019), doi:10.1038/s41567-019-0520-x."
)
DIRECT: Final = (
    "L. Chaput, Direct solution to the linearized phonon Boltzmann equation, Phys. Rev. Lett. 110, 265506 (2013), "
    "doi:10.1103/PhysRevLett.110.265506."
)
FREE: Final = {"reference", "mesh", "mesh_A", "supercell", "supercell_fc2", "nac"}
"""Settings that a protocol leaves to the crystal and to what it is compared with."""


@final
@dataclass(frozen=True, eq=False)
class ConductivityResult(Result):
    """The thermal conductivity of a crystal, with each repair.

    crystal:  the symmetric cell, and phono3py of it with forces and force constants of the result.
    found:    every conductivity.
    compared: how far each repair is from the reference, by its name; empty without one.
    arrays:   kappa_NAME (T, 3, 3) W/(m K) for each repair, and modes, force constants of the result.
    """

    title: str
    settings: ConductivitySettings
    crystal: Crystal
    found: Finding
    compared: Mapping[str, Comparison]
    arrays: dict[str, np.ndarray]
    atoms: list[Atoms]
    citations: tuple[str, ...]
    subject: dict[str, str]
    job: str = "conductivity"

    @classmethod
    def of(
        cls,
        settings: ConductivitySettings,
        subject: dict[str, str],
        crystal: Crystal,
        found: Finding,
        compared: Mapping[str, Comparison],
    ) -> Self:
        """Put together what was found."""
        title = f"{subject['name']} on {crystal.atoms.get_chemical_formula()}"
        atoms = crystal.atoms.copy()
        own: dict[Kind, tuple[str, ...]] = {"rta": (), "wigner": (WIGNER,), "direct": (DIRECT,)}
        is_projected = bool({"projected", "averaged"} & {*settings.repairs})
        citations = (*CITATIONS, *[SYMFC] * is_projected, *own[settings.kind], *[SOURCE] * bool(compared))
        return cls(title, settings, crystal, found, compared, _arrays(found), [atoms], citations, subject)

    @property
    def protocol(self) -> str:  # type: ignore[override]
        """PHONONDB_V1 for its settings, whatever supercells and mesh; nothing for others."""
        own, named = (one.model_dump(exclude=FREE) for one in (self.settings, PHONONDB_V1))
        return "PHONONDB_V1" if own == named else ""

    @property
    def kappa(self) -> np.ndarray:
        """(T, 3, 3) W/(m K) of the last repair; NaN where it was refused."""
        return self.found.result.transport.kappa

    @property
    def temperatures_K(self) -> np.ndarray:
        """(T,)."""
        return self.found.result.transport.temperatures_K

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether broken symmetry changes the conductivity, and whether there is one."""
        return (verdict_of(self.found, self.settings),)

    def facts(self) -> tuple[Fact, ...]:
        """Figures, then tables."""
        tabled = tables(self.crystal, self.found, self.compared, self.settings)
        return (*figures(self.found, self.compared, self.settings), *tabled)

    def files(self) -> dict[str, bytes]:
        """phono3py_params.yaml with displacements and forces, which phono3py loads, and its kappa-m….hdf5."""
        with_forces = {"force_sets": True, "displacements": True, "force_constants": False}
        stored = {"phono3py_params.yaml": str(self.crystal.engine.to_phono3py_yaml(settings=with_forces)).encode()}
        transport = self.found.result.transport
        if not transport.is_refused:
            stored[f"kappa-m{''.join(map(str, transport.mesh))}.hdf5"] = in_hdf5(transport)
        return stored


def _arrays(found: Finding) -> dict[str, np.ndarray]:
    last = found.result.transport
    words = {"±": "plusminus"}
    arrays = {f"kappa_{words.get(one.name, one.name)}": one.transport.kappa for one in found.routes}
    for name, others in found.turned.items():
        arrays |= {f"kappa_{words.get(name, name)}_turned_{i}": one.kappa for i, one in enumerate(others, 1)}
    if found.half is not None:
        arrays["kappa_half_mesh"] = found.half.kappa
    return arrays | {
        "temperatures_K": last.temperatures_K,
        "kappa": last.kappa,
        "kappa_coherence": last.kappa_coherence,
        "mode_kappa_tot_avg": last.by_mode,
        "mode_weights": last.weights,
        "q_points": last.qpoints,
        "frequencies_THz": last.frequencies_THz,
        "group_velocities_A_THz": last.velocities,
        "gamma_THz": last.gamma_THz,
        "gamma_isotope_THz": last.gamma_isotope_THz,
        "fc2": found.result.constants.second,
        "fc3": found.result.constants.third,
    }
