"""TorchSim: any of its models as a Potential, many structures in one call.

Source: `ModelInterface` and `SimState` of torch-sim 0.3 and later (github.com/TorchSim/torch-sim).
"""

from typing import Any, final

import torch
from ase.data import atomic_masses
from torch import Tensor

from tumble.batch import Batch, Properties, has_volume
from tumble.bridges import made_by
from tumble.bridges.torchsim.engine import imported
from tumble.potential import Potential


@final
class TorchSim(Potential):
    """Any model of TorchSim as a Potential; structures that repeat in the same directions are asked about at once.

    A model searches its own neighbours (cutoff 0 here), and keeps the dtype and the device that it was made with. Of a
    structure it learns positions, cell, periodicity and elements: charge and spin multiplicity do not reach it. Nothing
    tells whether its forces are the gradient of its energy: `conservative` states it, and an audit measures it.
    """

    def __init__(self, model: Any, *, conservative: bool = True, spec: str | None = None) -> None:
        """A model with energy and forces.

        Args:
            model: a `torch_sim.models.interface.ModelInterface`; its stress is used if it computes one.
            conservative: whether its forces are the negative gradient of its energy.
            spec: "package.module:factory" that makes it again, by which a file can name it.

        Raises:
            ImportError: torch-sim is not installed.
            ValueError: it is not a model of TorchSim, or computes no forces.
        """
        super().__init__()
        kind = type(model).__name__
        if not isinstance(model, imported().models.interface.ModelInterface):
            raise ValueError(
                f"{kind} is not a TorchSim model. Give a torch_sim.models.interface.ModelInterface, such as a "
                "torch_sim.models.lennard_jones.LennardJonesModel."
            )
        if not model.compute_forces:
            raise ValueError(
                f"the TorchSim model {kind} computes no forces; a potential needs energy and forces. "
                "Make it with compute_forces=True."
            )
        # Kept out of the modules: it cannot be moved after it was made, and its weights belong to its own files.
        self._model = (model.eval(),)
        self.spec = spec
        self.cutoff, self.species, self.is_conservative = 0.0, None, conservative

    @property
    def model(self) -> Any:
        """The model."""
        return self._model[0]

    @property
    def dtype(self) -> torch.dtype:
        """That of the model."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """That of the model."""
        return torch.device(self.model.device)

    def forward(self, batch: Batch) -> Properties:
        """Energy, forces and, where the model computes one, stress: one call for each kind of periodicity."""
        energy = torch.zeros(batch.n_structures, dtype=torch.float64, device=batch.positions.device)
        forces, stress = torch.zeros_like(batch.positions), torch.zeros_like(batch.cell)
        kinds, kind = torch.unique(batch.pbc, dim=0, return_inverse=True)
        for index in range(len(kinds)):
            chosen = kind == index
            found = self._ask(batch, chosen)
            energy[chosen] = found["energy"].to(energy)
            forces[chosen[batch.structure]] = found["forces"].to(forces)
            if self.model.compute_stress:
                stress[chosen] = found["stress"].to(stress)
        if not self.model.compute_stress:
            return Properties(energy, forces, None)
        # Without a volume, models divide by zero.
        spans = has_volume(batch)[:, None, None]
        return Properties(energy, forces, torch.where(spans, (stress + stress.mT) / 2, torch.zeros_like(stress)))

    def extra_repr(self) -> str:
        """The model, and the factory that made it."""
        return type(self.model).__name__ + (f" of {self.spec}" if self.spec else "")

    def _ask(self, batch: Batch, chosen: Tensor) -> dict[str, Tensor]:
        """Energy (S,), forces (N, 3) and, if computed, stress (S, 3, 3) of the chosen structures."""
        state = _state(batch, chosen, self.dtype, self.device)
        with torch.enable_grad():  # models differentiate on their own
            found = self.model(state)
        n_structures, n_atoms = state.cell.shape[0], state.positions.shape[0]
        shapes = {"energy": (n_structures,), "forces": (n_atoms, 3)}
        if self.model.compute_stress:
            shapes["stress"] = (n_structures, 3, 3)
        for name, shape in shapes.items():
            given = tuple(found[name].shape) if name in found else None
            if given != shape:
                raise RuntimeError(
                    f"the TorchSim model {type(self.model).__name__} returned {name} of shape {given} for "
                    f"{n_structures} structures with {n_atoms} atoms; {shape} was expected. It cannot be used as a "
                    "potential."
                )
        return {name: found[name].detach() for name in shapes}


def from_spec(spec: str, *, conservative: bool = True) -> TorchSim:
    """The potential around the TorchSim model that a factory makes.

    Args:
        spec: "package.module:name", also with "torchsim:" in front; the name is called without arguments.
        conservative: whether its forces are the negative gradient of its energy.

    Raises:
        ValueError: not of that form, no such name in the module, or what the factory makes is not such a model.
        ImportError: torch-sim is not installed, or the module cannot be imported.
        RuntimeError: the factory fails.
    """
    imported()  # first, and quietly: the module of the factory imports it too
    spec = spec.removeprefix("torchsim:")
    return TorchSim(made_by(spec, "TorchSim model"), conservative=conservative, spec=spec)


def _state(batch: Batch, chosen: Tensor, dtype: torch.dtype, device: torch.device) -> Any:
    """The chosen structures, which all repeat in the same directions, as the engine wants them.

    Raises:
        ValueError: they repeat in some directions only, and the engine knows but all or none.
    """
    engine = imported()
    atoms = chosen[batch.structure]
    numbers, pbc = batch.numbers[atoms], batch.pbc[chosen][0].tolist()
    masses = torch.as_tensor(atomic_masses, dtype=dtype, device=numbers.device)[numbers]
    # A box around a molecule means nothing, and some models refuse it.
    cell = batch.cell[chosen].detach() if any(pbc) else torch.zeros_like(batch.cell[chosen])
    fields = {
        "positions": batch.positions[atoms].detach().to(device, dtype),
        "masses": masses.to(device),
        "cell": cell.mT.to(device, dtype),  # its lattice vectors are columns
        "atomic_numbers": numbers.to(device, torch.int32),
        "system_idx": (torch.cumsum(chosen, 0) - 1)[batch.structure[atoms]].to(device),
    }
    state = engine.SimState(**fields, pbc=all(pbc))
    if len(set(pbc)) == 1:
        return state
    if isinstance(state.pbc, bool):  # later versions have one for each direction
        axes = " and ".join(axis for axis, repeats in zip("abc", pbc, strict=True) if repeats)
        raise ValueError(
            f"structure {int(chosen.nonzero()[0])} repeats along {axes} only, and the torch-sim that is installed "
            "knows but all directions or none. Set pbc to True with vacuum in the others, or install a newer torch-sim."
        )
    return engine.SimState(**fields, pbc=pbc)
