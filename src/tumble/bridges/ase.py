"""ASE: a potential as a Calculator, and any Calculator as a Potential."""

import warnings
from collections.abc import Sequence
from typing import Any, Final, final

import ase.calculators.calculator as engine
import numpy as np
import torch
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from tumble.batch import Batch, Properties, collate, has_volume, split, to_atoms
from tumble.bridges import made_by
from tumble.neighbors import Verlet
from tumble.potential import Potential, constant_weights

Array = NDArray[np.float64]

ENERGY_DOUBT: Final = "energy_uncertainty"
FORCES_DOUBT: Final = "forces_uncertainty"


@final
class Calculator(engine.Calculator):  # type: ignore[misc]  # ASE has no types
    """A potential for ASE: energy and free_energy (the same), forces, and stress (Voigt, eV/Å³).

    The neighbour list outlives small moves of the atoms and of the cell; its answers are exactly those of a new one.

    A potential made of models also has energies, of each atom (eV, (N,)). One that knows its uncertainty has
    energy_uncertainty (eV) and, with an ensemble, forces_uncertainty (eV/Å, (N, 3)):
    `calculator.get_property("energy_uncertainty", atoms)`. All these are computed when they are asked for.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012  (the name ASE looks for)

    def __init__(
        self, potential: Potential, *, skin: float = 1.0, warn_above: float | None = None, **settings: Any
    ) -> None:
        """Any potential, in the dtype and on the device that it has.

        Args:
            potential: any Potential.
            skin: Å beyond the cutoff that neighbours are searched to; larger means fewer searches.
            warn_above: eV per atom; the uncertainty of the energy is then computed with every answer, and a warning
                given when it rises above this.
            settings: what every ASE calculator takes (label, directory).

        Raises:
            ValueError: a threshold for a potential that does not know its uncertainty.
        """
        super().__init__(**settings)
        if warn_above is not None and not potential.has_uncertainty:
            raise ValueError(
                f"warn_above is {warn_above} eV, but a {type(potential).__name__} does not know how uncertain it is. "
                "Leave it out, or make a potential that does with `tumble uncertainty`."
            )
        self.potential, self.warn_above = potential, warn_above
        known = {
            "energies": potential.has_energies_by_atom,
            ENERGY_DOUBT: potential.has_uncertainty,
            FORCES_DOUBT: potential.has_forces_uncertainty,
        }
        self.implemented_properties = [*type(self).implemented_properties, *(name for name in known if known[name])]
        self._search = Verlet(skin)
        self._is_above = False

    @property
    def n_searches(self) -> int:
        """How many neighbour searches have been made."""
        return self._search.n_searches

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What has changed since the last answer; charge and spin count too, which ASE does not look at."""
        changes: list[str] = super().check_state(atoms, tol)
        return changes if self.atoms is None or _told(self.atoms) == _told(atoms) else [*changes, "info"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = engine.all_changes,
    ) -> None:
        """Everything at once; ASE calls this when positions, cell, elements or periodicity have changed.

        Raises:
            ValueError: an unknown element, or a structure that `collate` refuses.
            PropertyNotImplementedError: a stress is asked for, and the structure or the potential has none.
        """
        super().calculate(atoms, properties, system_changes)
        potential = self.potential
        batch = collate(
            [self.atoms], potential.cutoff, dtype=potential.dtype, device=potential.device, search=self._search
        )
        wanted = properties or ("energy",)
        if system_changes or {*wanted} - {*self.results, "energies", ENERGY_DOUBT, FORCES_DOUBT}:
            self._answer(batch, wanted)
        if "energies" in wanted:
            with torch.no_grad(), constant_weights(True):
                self.results["energies"] = self.potential.energies_by_atom(batch).cpu().numpy()
        self._doubt(batch, wanted)

    def _answer(self, batch: Batch, properties: Sequence[str]) -> None:
        answer = split(self.potential(batch), batch)[0]
        if answer.energy is not None:
            self.results["energy"] = self.results["free_energy"] = float(answer.energy)
        if answer.forces is not None:
            self.results["forces"] = answer.forces.double().numpy()
        if answer.stress is not None:
            self.results["stress"] = full_3x3_to_voigt_6_stress(answer.stress.double().numpy())
        elif "stress" in properties:
            reason = (
                "this potential gives none" if bool(has_volume(batch)) else "nothing is periodic or no volume spanned"
            )
            raise engine.PropertyNotImplementedError(f"there is no stress: {reason}. Ask for energy and forces only.")

    def _doubt(self, batch: Batch, properties: Sequence[str]) -> None:
        has_forces = FORCES_DOUBT in properties
        if not has_forces and ENERGY_DOUBT not in properties and self.warn_above is None:
            return
        doubt = split(self.potential.uncertainties(batch, forces=has_forces), batch)[0]
        if doubt.energy is not None:
            self.results[ENERGY_DOUBT] = float(doubt.energy)
        if doubt.forces is not None:
            self.results[FORCES_DOUBT] = doubt.forces.double().numpy()
        if self.warn_above is not None:
            per_atom, was_above = self.results[ENERGY_DOUBT] / batch.n_atoms, self._is_above
            self._is_above = per_atom > self.warn_above
            if self._is_above and not was_above:
                warnings.warn(
                    f"the energy of this structure is uncertain by {per_atom:.3g} eV per atom, and warn_above is "
                    f"{self.warn_above:g}: it is unlike what the potential was trained on.",
                    stacklevel=2,
                )


@final
class Foreign(Potential):
    """Any ASE calculator as a Potential. Of the info of the user's Atoms, charge and spin multiplicity reach it.

    A calculator searches its own neighbours (cutoff 0 here) and works in its own precision (float64 outside).
    Nothing tells whether its forces are the gradient of its energy: `conservative` states it, and an audit measures it.
    """

    def __init__(self, calculator: Any, *, conservative: bool = True, spec: str | None = None) -> None:
        """A calculator with energy and forces.

        Args:
            calculator: an ASE calculator; its stress is used if it implements one.
            conservative: whether its forces are the negative gradient of its energy.
            spec: "package.module:factory" that makes it again, by which a file can name it.

        Raises:
            ValueError: it is not an ASE calculator, or has no energy or no forces.
        """
        super().__init__()
        kind = type(calculator).__name__
        has = getattr(calculator, "implemented_properties", None)
        if has is None or not hasattr(calculator, "get_property"):
            raise ValueError(f"{kind} is not an ASE calculator. Give an object such as ase.calculators.emt.EMT().")
        if lacking := [name for name in ("energy", "forces") if name not in has]:
            raise ValueError(
                f"the calculator {kind} gives {', '.join(has) or 'nothing'}, but not {' and '.join(lacking)}; "
                "a potential needs energy and forces. Use another calculator."
            )
        self.calculator, self.spec = calculator, spec
        self.is_batched = False
        self.cutoff, self.species, self.is_conservative = 0.0, None, conservative
        self._has_stress = "stress" in has
        self._info: dict[str, object] = {}

    def forward(self, batch: Batch) -> Properties:
        """Energy, forces and, where the calculator has one, stress, structure by structure."""
        answers = [
            self._ask(one, spans) for one, spans in zip(to_atoms(batch), has_volume(batch).tolist(), strict=True)
        ]
        energies, forces, stresses = zip(*answers, strict=True)
        like = batch.positions
        return Properties(
            torch.tensor(energies, dtype=torch.float64, device=like.device),
            torch.as_tensor(np.concatenate(forces)).to(like),
            None if any(s is None for s in stresses) else torch.as_tensor(np.stack(stresses)).to(like),
        )

    def _ask(self, atoms: Atoms, spans: bool) -> tuple[float, Array, Array | None]:
        """Energy, forces and stress of one structure; a stress of zero where there is no volume."""
        if atoms.info != self._info and hasattr(self.calculator, "reset"):
            self.calculator.reset()  # ASE takes a structure for the same whatever its charge
        self._info = atoms.info
        ask = self.calculator.get_property
        stress: Array | None = np.zeros((3, 3)) if self._has_stress and not spans else None
        if self._has_stress and spans:  # the stress first: it takes most, and the rest is then known already
            try:
                stress = voigt_6_to_full_3x3_stress(np.asarray(ask("stress", atoms)))
            except engine.PropertyNotImplementedError:
                stress = None
        forces = np.asarray(ask("forces", atoms), dtype=np.float64)
        if forces.shape != (len(atoms), 3):
            raise RuntimeError(
                f"the calculator {type(self.calculator).__name__} returned forces of shape {forces.shape} for "
                f"{len(atoms)} atoms; ({len(atoms)}, 3) was expected. It cannot be used as a potential."
            )
        return float(ask("energy", atoms)), forces, stress


def _told(atoms: Atoms) -> str:
    """What `collate` reads from the info of a structure."""
    return str([atoms.info.get(name) for name in ("charge", "spin_multiplicity", "spin")])


def from_spec(spec: str, *, conservative: bool = True) -> Foreign:
    """The potential around the ASE calculator that a factory makes, for instance "ase.calculators.emt:EMT".

    Args:
        spec: "package.module:name", also with "ase:" in front; the name is called without arguments.
        conservative: whether its forces are the negative gradient of its energy.

    Raises:
        ValueError: not of that form, no such name in the module, or what the factory makes is not a calculator.
        ImportError: the module cannot be imported.
        RuntimeError: the factory fails.
    """
    spec = spec.removeprefix("ase:")
    return Foreign(made_by(spec, "calculator"), conservative=conservative, spec=spec)
