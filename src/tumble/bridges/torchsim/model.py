"""A Potential as a model of TorchSim: one call answers about all systems of a state."""

from typing import Any, final

import torch
from torch import Tensor, nn

from tumble.batch import Batch, Properties
from tumble.bridges.torchsim.engine import imported
from tumble.bridges.torchsim.verlet import Verlets
from tumble.potential import Potential, check_species


@final
class Model(nn.Module):
    """Any potential for TorchSim: energy (S,) eV, forces (N, 3) eV/Å and stress (S, 3, 3) eV/Å³ of a state.

    Answers have the dtype and the device of the state, whatever those of the potential: positions and momenta are best
    kept in float64 where energy must be conserved, also with a potential in float32. Neighbours are searched here, on
    the CPU, and outlive small moves. Of a system it learns positions, cell, periodicity and elements.
    """

    def __init__(
        self, potential: Potential, *, dtype: torch.dtype = torch.float64, stress: bool = True, skin: float = 1.0
    ) -> None:
        """Any potential, in the dtype and on the device that it has.

        Args:
            potential: any Potential.
            dtype: in which TorchSim makes states for it.
            stress: whether it gives stress; zero for systems that do not repeat.
            skin: Å beyond the cutoff that neighbours are searched to; larger means fewer searches.

        Raises:
            ImportError: torch-sim is not installed.
        """
        super().__init__()
        # A subclass in name: the package is there only when a model is made.
        imported().models.interface.ModelInterface.register(Model)
        self.potential, self.dtype, self.skin = potential, dtype, skin
        self.compute_forces, self.compute_stress = True, stress
        self.memory_scales_with = "n_atoms_x_density"
        self._lists: tuple[tuple[Tensor, ...], Verlets] | None = None
        self._n_searches = 0

    @property
    def device(self) -> torch.device:
        """That of the potential."""
        return self.potential.device

    @property
    def n_searches(self) -> int:
        """How many times a system has been searched for neighbours."""
        return self._n_searches + (self._lists[1].n_searches if self._lists else 0)

    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Energy, forces and, unless it was made without, stress.

        Args:
            state: a `torch_sim.SimState`, or a dictionary of what makes one.

        Raises:
            ValueError: an unknown element, NaN or infinite positions, overlapping atoms, or a stress that it has not.
        """
        if isinstance(state, dict):
            state = imported().SimState(**{"masses": torch.ones_like(state["positions"][:, 0]), **state})
        positions, cells = (
            one.detach().to("cpu", torch.float64, copy=True).numpy() for one in (state.positions, state.cell.mT)
        )
        answer = self.potential(self._verlets(state)(positions, cells))
        if self.compute_stress and answer.stress is None:
            raise ValueError(
                f"a {type(self.potential).__name__} without a stress was asked for one. Give Model stress=False, or "
                "use a potential that has it."
            )
        return as_told(answer, state.positions, stress=self.compute_stress)

    def extra_repr(self) -> str:
        """The dtype of states, and whether there is a stress."""
        return f"{self.dtype}, stress={self.compute_stress}"

    def _verlets(self, state: Any) -> Verlets:
        """The lists of these systems: those of the last call, or new ones where the systems have changed."""
        told = (state.atomic_numbers, state.system_idx, torch.as_tensor(state.pbc))
        if self._lists is None or not all(map(_is_same, self._lists[0], told)):
            self._n_searches = self.n_searches
            like = _pairless(state, self.potential)
            check_species(self.potential.species, like)
            self._lists = tuple(one.clone() for one in told), Verlets(like, self.potential.cutoff, self.skin)
        return self._lists[1]


def as_told(answer: Properties, like: Tensor, *, stress: bool) -> dict[str, Tensor]:
    """An answer as the engine wants it, in the dtype and on the device of a tensor."""
    fields = {"energy": answer.energy, "forces": answer.forces, "stress": answer.stress if stress else None}
    return {name: field.detach().to(like) for name, field in fields.items() if field is not None}


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.device == other.device and torch.equal(one, other)


def _pairless(state: Any, potential: Potential) -> Batch:
    """The systems of a state as structures whose pairs are not known yet."""
    n_systems, device = state.cell.shape[0], potential.device
    positions, cell = (one.detach().to(device, potential.dtype) for one in (state.positions, state.cell.mT))
    numbers, structure = (one.to(device, torch.int64) for one in (state.atomic_numbers, state.system_idx))
    nobody, nothing = structure[:0], positions[:0]
    return Batch(
        positions=positions,
        cell=cell,
        pbc=torch.as_tensor(state.pbc, device=device).expand(n_systems, 3).clone(),
        numbers=numbers,
        structure=structure,
        center=nobody,
        neighbor=nobody,
        shift=nothing,
        reverse=nobody,
        vectors=nothing,
        charge=structure.new_zeros(n_systems),
        multiplicity=structure.new_ones(n_systems),
    )
