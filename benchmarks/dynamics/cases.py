"""What is simulated: a molecule, a box of liquid and a crystal, with forces of several kinds."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ase.io
from ase import Atoms
from ase.build import bulk, molecule

import tumble
from tumble.cli.demo import liquid
from tumble.jacobian import precise
from tumble.jobs.md.motion import Motion, start
from tumble.jobs.md.settings import MDSettings
from tumble.potential import Potential

TEMPERATURE_K = 300.0
COLD_K = 100.0
"""Of the velocities of the crystal, half of it by equipartition: `silicon` has seen displacements of 0.03 Å."""

STIRRING_STEPS = 600
AUTO = -1
"""Steps that the choice is to find."""


class Case(NamedTuple):
    """One simulation.

    system:    molecule, liquid or crystal.
    name:      what its row is called.
    potential: raw, averaged, direct, or averaged in float64.
    steps:     fast steps to a slow one; 1: one level of forces; AUTO: those chosen.
    ensemble:  nve or nvt.
    turned:    at random at every step.
    step_fs:   time step.
    weight:    its share of the budget.
    """

    system: str
    name: str
    potential: str
    steps: int = 1
    ensemble: str = "nve"
    turned: bool = False
    step_fs: float = 0.5
    weight: float = 1.0

    @property
    def key(self) -> str:
        """Name of its file."""
        return f"{self.system}-{self.ensemble}-{self.name}".replace(",", "").replace(" ", "-")

    def settings(self) -> MDSettings:
        """For `Motion`."""
        turns = "random" if self.turned else "none"
        return MDSettings(ensemble=self.ensemble, turns=turns, timestep_fs=self.step_fs, temperature_K=TEMPERATURE_K)


CASES = (
    Case("molecule", "raw", "raw"),
    Case("molecule", "averaged", "averaged"),
    Case("molecule", "MTS auto", "averaged", AUTO),
    Case("molecule", "MTS 10", "averaged", 10),
    Case("molecule", "random turns", "raw", turned=True),
    Case("molecule", "averaged, float64, 0.25 fs", "float64", step_fs=0.25, weight=4.0),
    Case("liquid", "raw", "raw"),
    Case("liquid", "averaged", "averaged", weight=3.0),
    Case("liquid", "MTS auto", "averaged", AUTO, weight=2.0),
    Case("liquid", "MTS 10", "averaged", 10),
    Case("liquid", "MTS 40", "averaged", 40, weight=2.0),
    Case("liquid", "random turns", "raw", turned=True),
    Case("liquid", "direct", "direct"),
    Case("liquid", "direct, derivative every 10", "raw", 10),
    Case("crystal", "raw", "raw", step_fs=2.0),
    Case("crystal", "averaged", "averaged", step_fs=2.0, weight=3.0),
    Case("crystal", "MTS auto", "averaged", AUTO, step_fs=2.0),
    Case("liquid", "raw", "raw", ensemble="nvt"),
    Case("liquid", "MTS auto", "averaged", AUTO, ensemble="nvt"),
    Case("liquid", "random turns", "raw", ensemble="nvt", turned=True),
)


class Laboratory:
    """Potentials and structures at their start, made once and kept in a folder.

    water: raw, averaged, float64 (averaged), direct.
    silicon: raw, averaged.
    """

    def __init__(self, folder: Path, model: str, rule: str, n_side: int) -> None:
        """Load and make what is missing.

        Args:
            folder: where structures are kept.
            model: of water.
            rule: that is averaged over.
            n_side: the liquid has n_side³ molecules.
        """
        raw, silicon = tumble.load(model), tumble.load("silicon")
        averaged = tumble.symmetrize(raw, rule)
        self.silicon: dict[str, Potential] = {"raw": silicon, "averaged": tumble.symmetrize(silicon, rule)}
        self.water: dict[str, Potential] = {
            "raw": raw,
            "averaged": averaged,
            "float64": precise(averaged),
            "direct": tumble.load(model, direct=True),
        }
        self.folder, self._n_side = folder, n_side
        crystal = bulk("Si", a=5.4335, cubic=True) * (2, 2, 2)
        crystal.rattle(0.005, seed=0)
        cold = MDSettings(temperature_K=COLD_K)
        self.structures = {
            "molecule": self._kept("molecule", lambda: molecule("H2O")),
            "liquid": self._kept("liquid", lambda: self._stirred(n_side)),
            "crystal": self._kept("crystal", lambda: start(crystal, cold)),
        }

    def potential(self, system: str, kind: str) -> Potential:
        """That of a system."""
        return (self.silicon if system == "crystal" else self.water)[kind]

    def motion(self, case: Case, steps: int) -> Motion:
        """A case at its start."""
        atoms = self.structures[case.system]
        potential = self.potential(case.system, case.potential)
        return Motion.of(potential, atoms, case.settings(), () if steps == 1 else (steps,))

    def box(self, n_side: int) -> Atoms:
        """A box of liquid with velocities, hardly stirred: good for timing."""
        return self._kept(f"box{n_side}", lambda: self._stirred(n_side))

    def _kept(self, name: str, make: Callable[[], Atoms]) -> Atoms:
        path = self.folder / f"{name}.extxyz"
        if not path.is_file():
            ase.io.write(path, start(make(), Case("", "", "raw").settings()))
        return ase.io.read(path)

    def _stirred(self, n_side: int) -> Atoms:
        """At 300 K and the density of water; the box of the simulations for longer."""
        raw, plain = self.water["raw"], Case("", "", "raw").settings()
        atoms = start(liquid(raw, n_side, n_steps=40), plain)
        if n_side == self._n_side:
            bath = {"ensemble": "nvt", "thermostat": "langevin", "thermostat_fs": 50.0}
            motion = Motion.of(raw, atoms, plain.model_copy(update=bath))
            for _ in range(STIRRING_STEPS):
                motion.advance()
            atoms = motion.atoms.copy()
        return atoms
