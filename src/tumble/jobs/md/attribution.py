"""Attribution: how much of a drift is the model's, how much the time step's, how much that of rounding."""

from collections.abc import Callable
from math import prod
from typing import Final, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tumble.jacobian import in_float64
from tumble.jobs.md.motion import Motion
from tumble.jobs.md.settings import NONE, MDSettings
from tumble.jobs.md.trend import Trend
from tumble.potential import Potential
from tumble.results import Progress, Table
from tumble.units import MEV

Array = NDArray[np.float64]

MOST_STEPS: Final = 400
FEWEST_STEPS: Final = 100
"""Of a control simulation."""

FEWEST_INSTANTS: Final = 12
"""Of a control simulation with multiple time steps: so many slow ones at least."""

SHARE: Final = 0.2
"""Of the simulation itself: what control simulations may cost, unless they are asked for."""

IN_FLOAT64: Final = 2.0
"""Raw calls that a call in float64 is counted as, where the potential is in float32."""


class Attribution(NamedTuple):
    """The drift of the conserved quantity at constant energy, and its parts, which add up to it.

    Each is a rate and its error in meV/atom/ns, with a scatter about the line in meV/atom.

    time_ps:    length of the control simulations.
    total:      as the simulation is.
    model:      what stays in float64 as the time step goes to zero: forces that are no gradient, energies that jump;
                and what random turns add.
    integrator: what a finite time step adds; it goes with its square.
    dtype:      what rounding to less than float64 adds; None where the potential is in float64.
    """

    time_ps: float
    total: Trend
    model: Trend
    integrator: Trend
    dtype: Trend | None

    def table(self) -> Table:
        """All of it."""
        parts = {"total": self.total, "model": self.model, "integrator": self.integrator, "rounding": self.dtype}
        rows = [(name, *part) for name, part in parts.items() if part is not None]
        columns = ("part", "drift, meV/atom/ns", "± meV/atom/ns", "scatter, meV/atom")
        note = (
            f"Of the conserved quantity in {self.time_ps:g} ps at constant energy: as it is, in float64, and there "
            "with half the time step. So short a simulation knows drifts no better than the errors say."
        )
        return Table("Where the drift comes from", columns, rows, note)


def attribute(
    potential: Potential,
    atoms: Atoms,
    settings: MDSettings,
    steps: tuple[int, ...] = (),
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Attribution | None:
    """Short simulations at constant energy from one state: as it is, without turns, in float64, with half the step.

    With E_h(t) the conserved quantity in float64 with the step h: Verlet's error goes with h², so that
    4/3 (E_h - E_h/2) is the integrator's part, and (4 E_h/2 - E_h)/3, which is without it, the model's. Rounding is the
    difference between the dtype as it is and float64. Such simulations stay together for some hundred steps, so that
    their differences are known far better than the drift of any of them.

    Args:
        potential: of the slowest forces.
        atoms: with momenta.
        settings: of the simulation; control says whether it is done at all.
        steps: fast steps to a slow one, as for `Motion.of`; halved steps keep them.
        tell: called as it goes on.

    Returns:
        None where it is not wanted, or where it would take more than `SHARE` of the simulation.
    """
    exact = in_float64(potential)
    n_instants = _length(settings, steps, is_single=exact is not None)
    if n_instants is None:
        return None
    plain = settings.model_copy(update={"ensemble": "nve", "mts": NONE, "average": NONE})
    unturned = plain.model_copy(update={"turns": NONE})
    halved = unturned.model_copy(update={"timestep_fs": settings.timestep_fs / 2})

    def run(name: str, one: Potential, chosen: MDSettings, every: int = 1) -> Array:
        tell(Progress(0, 0, f"control: {name}"))
        return _energies(Motion.of(one, atoms, chosen, steps), n_instants, every) * MEV / len(atoms)

    as_it_is = run("as it is", potential, plain)
    without = as_it_is if settings.turns == NONE else run("without turns", potential, unturned)
    full = without if exact is None else run("float64", exact, unturned)
    half = run("half the time step", exact or potential, halved, 2)
    time_ps = settings.timestep_fs * prod(steps) / 1000
    times_ns = np.arange(n_instants + 1) * time_ps / 1000
    parts = (as_it_is, as_it_is - without + (4 * half - full) / 3, 4 / 3 * (full - half))
    total, model, integrator = (Trend.of(times_ns, part) for part in parts)
    rounding = None if exact is None else Trend.of(times_ns, without - full)
    return Attribution(n_instants * time_ps, total, model, integrator, rounding)


def _length(settings: MDSettings, steps: tuple[int, ...], *, is_single: bool) -> int | None:
    """Slow steps of a control simulation."""
    if settings.control == "no":
        return None
    calls = 1 + (settings.turns != NONE) + (3 * IN_FLOAT64 if is_single else 2)
    affordable = min(SHARE * 1000 * settings.time_ps / settings.timestep_fs / calls, MOST_STEPS)
    fewest = max(FEWEST_STEPS, FEWEST_INSTANTS * prod(steps))
    if settings.control == "auto" and affordable < fewest:
        return None
    return round(max(affordable, fewest) / prod(steps))


def _energies(motion: Motion, n_instants: int, every: int) -> Array:
    """(n + 1,) eV, the conserved quantity at so many instants, each after so many slow steps."""
    energies = [motion.now().conserved_eV]
    for _ in range(n_instants):
        for _ in range(every):
            motion.advance()
        energies.append(motion.now().conserved_eV)
    return np.array(energies)
