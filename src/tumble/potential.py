"""Model: weights that turn a Batch into per-atom energies. Potential: physics, from a Batch to Properties."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple, final

import torch
from ase import Atoms
from ase.data import chemical_symbols
from torch import Tensor, nn

from tumble.batch import Batch, Properties, collate, has_volume, split, volume


class Outputs(NamedTuple):
    """What a model says about a batch.

    energies: (N,) eV per atom, float64.
    forces:   (N, 3) eV/Å of a direct head, or None.
    stress:   (S, 3, 3) eV/Å³ of a direct head, or None.
    """

    energies: Tensor
    forces: Tensor | None = None
    stress: Tensor | None = None


class Model(nn.Module, ABC):
    """Weights: Batch → per-atom energies and optional direct heads.

    A model sees positions only through `batch.vectors`, so it is exactly invariant under translations, and so one
    derivative with respect to them gives forces and stress. Subclasses are final and set:

    cutoff:  Å, the radius within which it needs pairs.
    species: atomic numbers it knows, ascending; None for any.
    """

    cutoff: float
    species: tuple[int, ...] | None

    @abstractmethod
    def forward(self, batch: Batch) -> Outputs:
        """Per-atom energies and direct heads of a batch whose vectors may require a gradient."""

    @property
    def has_direct_forces(self) -> bool:
        """Whether `forward` gives direct forces."""
        return False

    def config(self) -> dict[str, object]:
        """What rebuilds the model without its weights: `type(model)(**model.config())`."""
        raise NotImplementedError


class Potential(nn.Module, ABC):
    """Physics: Batch → Properties. Subclasses are final: `Gradient`, `Direct`, `Sum`, `Symmetrized`, `Foreign`.

    cutoff:          Å, the radius within which pairs must be in the batch.
    species:         atomic numbers it knows, ascending; None for any.
    is_conservative: whether forces are the negative gradient of the energy.
    """

    cutoff: float
    species: tuple[int, ...] | None
    is_conservative: bool

    def __init__(self) -> None:
        """A potential answers; only training puts it into training mode, where answers carry a graph."""
        super().__init__()
        self.training = False

    @abstractmethod
    def forward(self, batch: Batch) -> Properties:
        """Energy (S,) eV, forces (N, 3) eV/Å and stress (S, 3, 3) eV/Å³ of the batch, in its own frame."""

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type that batches must have; float64 for a potential without weights."""
        return next((p.dtype for p in self._floats()), torch.float64)

    @property
    def device(self) -> torch.device:
        """Where batches must be."""
        return next((p.device for p in self._floats()), torch.device("cpu"))

    def _floats(self) -> Iterable[Tensor]:
        return (p for p in self.parameters() if p.is_floating_point())


@final
class Gradient(Potential):
    """Energy of a model, with forces and stress as its exact derivatives."""

    is_conservative = True

    def __init__(self, model: Model) -> None:
        """Args:
        model: any Model; its direct heads are not used.
        """
        super().__init__()
        self.model = model
        self.cutoff, self.species = model.cutoff, model.species

    def forward(self, batch: Batch) -> Properties:
        """Energy, forces -dE/dx and stress (1/V) dE/dε. In training mode they can be differentiated again."""
        return self.both(batch)[0]

    def both(self, batch: Batch) -> tuple[Properties, Properties]:
        """Conservative answers and, from the same pass, the answers of the model's direct heads."""
        check_species(self.species, batch)
        with torch.enable_grad():
            vectors = batch.vectors.detach().requires_grad_()
            outputs = self.model(batch._replace(vectors=vectors))
            # An isolated atom has no pair, hence an energy without a gradient; zero is then the exact answer.
            (slope,) = torch.autograd.grad(
                outputs.energies.sum() + 0.0 * vectors.sum(), vectors, create_graph=self.training
            )
        forces = torch.zeros_like(batch.positions)
        forces = forces.index_add(0, batch.center, slope).index_add(0, batch.neighbor, -slope)
        energy = _per_structure(outputs.energies, batch)
        virial = torch.zeros_like(batch.cell).index_add(
            0, batch.structure[batch.center], vectors.unsqueeze(2) * slope.unsqueeze(1)
        )
        if not self.training:
            energy, outputs, virial = energy.detach(), _detached(outputs), virial.detach()
        conservative = Properties(energy, forces, _stress((virial + virial.mT) / 2, batch))
        return conservative, Properties(energy, outputs.forces, outputs.stress)


@final
class Direct(Potential):
    """Energy of a model with the forces and the stress of its direct heads: fast, and not conservative."""

    is_conservative = False

    def __init__(self, model: Model) -> None:
        """Args:
        model: a Model with a direct force head.

        Raises:
            ValueError: the model has none.
        """
        super().__init__()
        if not model.has_direct_forces:
            raise ValueError(
                "this model has no direct force head, so Direct has no forces to give. "
                "Use Gradient(model), or train with direct forces."
            )
        self.model = model
        self.cutoff, self.species = model.cutoff, model.species

    def forward(self, batch: Batch) -> Properties:
        """Energy, direct forces and, where the model has such a head, direct stress."""
        check_species(self.species, batch)
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            outputs = self.model(batch)
        return Properties(_per_structure(outputs.energies, batch), outputs.forces, outputs.stress)


@final
class Sum(Potential):
    """The sum of several potentials, for instance a learned one and a short-range repulsion."""

    def __init__(self, *parts: Potential) -> None:
        """Args:
        parts: at least one potential; a field that any of them lacks is None in the sum.
        """
        super().__init__()
        if not parts:
            raise ValueError("a Sum of 0 potentials has no answer. Give at least one.")
        self.parts = nn.ModuleList(parts)
        self.cutoff = max(part.cutoff for part in parts)
        known = [set(part.species) for part in parts if part.species is not None]
        self.species = tuple(sorted(set.intersection(*known))) if known else None
        self.is_conservative = all(part.is_conservative for part in parts)

    def forward(self, batch: Batch) -> Properties:
        """Sum of the parts' answers."""
        answers = [part(batch) for part in self.parts]
        columns = zip(*answers, strict=True)
        return Properties(*(None if any(f is None for f in column) else sum(column) for column in columns))


def predict(potential: Potential, atoms: Atoms | Sequence[Atoms], *, atoms_per_batch: int = 1024) -> list[Properties]:
    """Energy, forces and stress of each structure.

    Args:
        potential: any Potential.
        atoms: one structure or many.
        atoms_per_batch: structures are packed into batches of about this many atoms.

    Returns:
        One Properties per structure, CPU tensors: energy () eV, forces (n, 3) eV/Å, stress (3, 3) eV/Å³ or None.

    Raises:
        ValueError: an unknown element, or a structure that `collate` refuses.
    """
    structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)
    answers: list[Properties] = []
    for start, stop in packs([len(one) for one in structures], atoms_per_batch):
        batch = collate_for(potential, structures[start:stop])
        answers.extend(split(potential(batch), batch))
    return answers


def collate_for(potential: Potential, atoms: Sequence[Atoms]) -> Batch:
    """The batch of these structures as the potential wants it: its cutoff, dtype and device."""
    return collate(atoms, potential.cutoff, dtype=potential.dtype, device=potential.device)


def packs(sizes: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Consecutive ranges whose sizes add up to at most the limit; one that is larger stands alone."""
    ranges: list[tuple[int, int]] = []
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > limit:
            ranges.append((start, index))
            start, total = index, 0
        total += size
    return [*ranges, (start, len(sizes))] if sizes else []


def check_species(species: Sequence[int] | None, batch: Batch) -> None:
    """Refuse a batch with an element that is not among the known ones.

    Raises:
        ValueError: names the element, the structure, and what is known.
    """
    if species is None:
        return
    unknown = ~torch.isin(batch.numbers, torch.tensor(species, device=batch.numbers.device))
    if bool(unknown.any()):
        atom = int(unknown.nonzero()[0, 0])
        number, structure = int(batch.numbers[atom]), int(batch.structure[atom])
        names = ", ".join(chemical_symbols[z] for z in species)
        symbol = chemical_symbols[number] if number < len(chemical_symbols) else "?"
        raise ValueError(
            f"element {number} ({symbol}) in structure {structure} is unknown to this model ({names}). "
            f"Remove the structure or train with {symbol}."
        )


def _per_structure(energies: Tensor, batch: Batch) -> Tensor:
    total = torch.zeros(batch.n_structures, dtype=torch.float64, device=energies.device)
    return total.index_add(0, batch.structure, energies.double())


def _stress(virial: Tensor, batch: Batch) -> Tensor:
    size = torch.where(has_volume(batch), volume(batch), torch.inf).to(virial.dtype)
    return virial / size[:, None, None]


def _detached(outputs: Outputs) -> Outputs:
    forces = None if outputs.forces is None else outputs.forces.detach()
    stress = None if outputs.stress is None else outputs.stress.detach()
    return Outputs(outputs.energies.detach(), forces, stress)
