"""What trajectories say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from ase import Atoms

from tumble.jobs.observe.figures import figures
from tumble.jobs.observe.finding import Finding
from tumble.jobs.observe.settings import ObserveSettings
from tumble.jobs.observe.tables import tables
from tumble.jobs.observe.verdicts import judge
from tumble.results import Fact, Result, Verdict

STUDY = (
    "M. F. Langer, S. N. Pozdnyakov, M. Ceriotti, Probing the effects of broken symmetries in machine learning, Mach. "
    "Learn.: Sci. Technol. 5, 04LT01 (2024), doi:10.1088/2632-2153/ad86a0."
)
VALIDATION = "P. T. Merz, M. R. Shirts, PLoS ONE 13, e0202764 (2018), doi:10.1371/journal.pone.0202764."
BOXES = "I.-C. Yeh, G. Hummer, J. Phys. Chem. B 108, 15873 (2004), doi:10.1021/jp0477147."


@final
@dataclass(frozen=True, eq=False)
class ObserveResult(Result):
    """What trajectories say, side by side.

    findings: one per trajectory.
    arrays:   of trajectory k, with k_ in front: r and g of a pair, t, msd and c_uu, nu and dos of an element, cosines,
              azimuths and free_energy, vector; and their errors, with _error behind; in the units of the functions of
              `tumble.trajectories`.
    atoms:    the first frames.
    """

    title: str
    settings: ObserveSettings
    findings: tuple[Finding, ...]
    arrays: dict[str, np.ndarray]
    atoms: list[Atoms]
    citations: tuple[str, ...] = (STUDY,)
    job: str = "observe"

    @classmethod
    def of(cls, settings: ObserveSettings, findings: Sequence[Finding]) -> Self:
        """Put findings together."""
        names = [one.name for one in findings]
        title = f"What {', '.join(names)} {'says' if len(names) == 1 else 'say'}"
        arrays: dict[str, np.ndarray] = {}
        for index, one in enumerate(findings):
            arrays |= {f"{index}_{name}": np.asarray(array) for name, array in _arrays(one).items()}
        cited = [STUDY]
        if any(one.warmth is not None and one.warmth.kinetic is not None for one in findings):
            cited.append(VALIDATION)
        if settings.viscosity_mPas is not None:
            cited.append(BOXES)
        return cls(title, settings, tuple(findings), arrays, [one.first for one in findings], tuple(cited))

    def verdicts(self) -> tuple[Verdict, ...]:
        """Whether trajectories are long enough, and as warm as they should be."""
        return judge(self.findings, self.settings)

    def facts(self) -> tuple[Fact, ...]:
        """Tables, then figures, then how far both may be trusted."""
        made = tables(self.findings)
        return (*made[:3], *figures(self.findings), *made[3:])


def _arrays(one: Finding) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for pair, radial in one.radials.items():
        arrays |= {f"r_{pair}": radial.r, f"g_{pair}": radial.g, f"g_{pair}_error": radial.error}
    for symbol, moved in one.moved.items():
        decay = moved.decay
        arrays |= {f"t_{symbol}": decay.times_ps, f"msd_{symbol}": decay.values, f"msd_{symbol}_error": decay.error}
    spectra = one.spectra | ({} if one.dipole is None else {"dipole": one.dipole})
    for name, found in spectra.items():
        arrays |= {f"nu_{name}": found.frequencies_THz, f"dos_{name}": found.density, f"dos_{name}_error": found.error}
    if (turned := one.turned) is not None:
        shown, memory, pairs = turned.map, turned.memory, turned.correlations
        if shown is not None:
            arrays |= {"cosines": shown.cosines, "azimuths": shown.azimuths, "free_energy": shown.values}
        arrays |= {"vector": turned.vector.value, "vector_error": turned.vector.error}
        if memory is not None:
            arrays |= {"t_uu": memory.times_ps, "c_uu": memory.values, "c_uu_error": memory.error}
        if pairs is not None:
            arrays |= {"r_uu": pairs.r, "longitudinal": pairs.longitudinal, "transverse": pairs.transverse}
            arrays |= {"longitudinal_error": pairs.longitudinal_error, "transverse_error": pairs.transverse_error}
    return arrays
